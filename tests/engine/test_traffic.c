/* test_traffic.c - the scheduler under random traffic, against fake_device.h.
 *
 * Requests come, are cancelled and end in any order, with one or two steps
 * under way. Whatever happens, each gets the ids it would get alone, its last
 * event once, and gives back every slot and block. */
#include "engine/engine.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"

enum { CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE, EOS = 7, ROUNDS = 12 };

enum { REQUESTS = 400 };

struct expected {
    int32_t prompt[CONTEXT], answer[CONTEXT];
    uint32_t n_prompt, max_tokens, got;
    bool ignore_eos, added, cancelled, done;
};

struct run {
    struct engine *engine;
    struct fake_device device;
    struct plan *plan;
    struct expected *requests; /* [REQUESTS], number id - 1 */
    uint32_t n_added, n_done;
    uint64_t seed;
    const char *wrong;
};

static void wrong(struct run *r, const char *what)
{
    if (r->wrong == NULL)
        r->wrong = what;
}

static bool ends(const struct expected *x, int32_t id)
{
    return !x->ignore_eos && (id == EOS || id == EOS + 1);
}

static void check_end(struct run *r, const struct expected *x, const struct engine_event *e)
{
    switch (e->finish) {
    case ENGINE_STOP:
        if (!ends(x, x->answer[x->got]) || e->output_tokens != x->got + 1)
            wrong(r, "stopped where there is no end token");
        break;
    case ENGINE_LENGTH:
        if (x->got != x->max_tokens || e->output_tokens != x->got)
            wrong(r, "ended before its length");
        break;
    case ENGINE_CANCELLED:
        if (!x->cancelled || e->output_tokens != x->got)
            wrong(r, "cancelled by nobody");
        break;
    case ENGINE_BROKEN: wrong(r, "broken, with an id"); break;
    }
}

static void check_event(void *context, const struct engine_event *e)
{
    struct run *r = context;
    struct expected *x = &r->requests[e->id - 1];

    if (x->done || !x->added) {
        wrong(r, "an event after the last");
        return;
    }
    if (e->done) {
        check_end(r, x, e);
        x->done = true;
        r->n_done++;
        return;
    }
    if (x->got >= x->max_tokens || e->token != x->answer[x->got] || ends(x, e->token))
        wrong(r, "another id than alone");
    x->got++;
}

static uint32_t pick(struct run *r, uint32_t n)
{
    return (uint32_t)(test_random(&r->seed) % n);
}

static void add_one(struct run *r)
{
    struct expected *x = &r->requests[r->n_added];
    uint64_t id = r->n_added + 1;
    uint32_t wanted;

    if (r->n_added == REQUESTS)
        return;
    x->n_prompt = 1 + (pick(r, 8) == 0 ? pick(r, CONTEXT - 1) : pick(r, 16));
    wanted = 1 + pick(r, 24);
    x->max_tokens = wanted < CONTEXT - x->n_prompt ? wanted : CONTEXT - x->n_prompt;
    x->ignore_eos = pick(r, 3) == 0;
    for (uint32_t i = 0; i < x->n_prompt; i++)
        x->prompt[i] = (int32_t)pick(r, FAKE_VOCAB);
    fake_answer(x->prompt, x->n_prompt, x->answer, x->max_tokens);
    x->added = true;
    r->n_added++;
    if (engine_add(r->engine, &(struct engine_request){.id = id, .ids = x->prompt,
            .n_ids = x->n_prompt, .max_tokens = wanted, .ignore_eos = x->ignore_eos,
            .sampling = {.seed = id, .top_p = 1}}) != STATUS_OK)
        wrong(r, "a request that fits was refused");
}

static void cancel_one(struct run *r)
{
    uint32_t i;

    if (r->n_added == 0)
        return;
    i = r->n_added - 1 - pick(r, r->n_added < 12 ? r->n_added : 12);
    r->requests[i].cancelled = true;
    engine_cancel(r->engine, i + 1, check_event, r);
}

/* False when the engine had nothing, or the device no room. */
static bool plan_one(struct run *r)
{
    enum status s;

    if (!fake_has_room(&r->device))
        return false;
    s = engine_plan(r->engine, r->plan);
    if (s == STATUS_OK)
        fake_submit(&r->device, r->plan);
    return s == STATUS_OK;
}

static bool finish_one(struct run *r)
{
    const struct fake_step *step;

    if (r->device.submitted == r->device.finished)
        return false;
    step = fake_finish(&r->device);
    engine_done(r->engine, step->number, step->ids, check_event, r);
    return true;
}

static void act(struct run *r)
{
    switch (pick(r, 20)) {
    case 0: case 1: case 2: add_one(r); break;
    case 3: if (pick(r, 3) == 0) cancel_one(r); break;
    case 4: case 5: case 6: case 7: case 8: case 9: case 10: case 11: plan_one(r); break;
    default: finish_one(r); break;
    }
}

static void check_start_order(struct run *r)
{
    for (size_t i = 1; i < r->device.n_started; i++)
        if (r->device.started[i] <= r->device.started[i - 1])
            wrong(r, "an earlier request started later");
}

/* Every block is free, once: a sequence that needs them all gets each. */
static void check_all_returned(struct run *r)
{
    int32_t ids[CONTEXT] = {0};
    bool seen[FAKE_BLOCKS] = {false};

    assert_int_equal(engine_add(r->engine, &(struct engine_request){.id = 1, .ids = ids,
        .n_ids = CONTEXT - 1, .max_tokens = 1, .sampling = {.top_p = 1}}), STATUS_OK);
    assert_int_equal(engine_plan(r->engine, r->plan), STATUS_OK);
    assert_int_equal(r->plan->n_changes, FAKE_BLOCKS);
    for (uint32_t i = 0; i < FAKE_BLOCKS; i++) {
        assert_false(seen[plan_changes(r->plan)[i].block]);
        seen[plan_changes(r->plan)[i].block] = true;
    }
}

static void run_to_the_end(struct run *r)
{
    while (r->wrong == NULL && r->device.wrong == NULL && r->n_added < REQUESTS)
        act(r);
    while (r->wrong == NULL && r->device.wrong == NULL && (plan_one(r) || finish_one(r)))
        ;
    check_start_order(r);
    if (r->device.wrong != NULL)
        wrong(r, r->device.wrong);
    if (r->wrong != NULL)
        fail_msg("request %u of %d: %s", r->n_done, REQUESTS, r->wrong);
    assert_int_equal(r->n_done, REQUESTS);
    assert_true(engine_idle(r->engine));
    check_all_returned(r);
}

static void any_traffic_gives_the_answers_of_each_alone(void **state)
{
    static const int32_t eos[] = {EOS, EOS + 1};
    struct engine_options o = {
        .limits = fake_limits, .generation = 1, .max_model_len = CONTEXT, .eos = eos, .n_eos = 2};
    uint64_t seed = test_seed();

    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        struct run *r = calloc(1, sizeof(*r));

        r->seed = test_random(&seed);
        r->requests = calloc(REQUESTS, sizeof(*r->requests));
        r->plan = malloc(plan_max_bytes(&fake_limits));
        assert_int_equal(engine_open(&o, &r->engine), STATUS_OK);
        run_to_the_end(r);
        engine_close(r->engine);
        free(r->plan);
        free(r->requests);
        free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_traffic_gives_the_answers_of_each_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
