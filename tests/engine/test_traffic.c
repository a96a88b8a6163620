/* test_traffic.c - the scheduler under random traffic, against fake_device.h.
 *
 * Requests come, are cancelled and end in any order, with one or two steps
 * under way; many begin alike; all together want several times the blocks that
 * there are. Some speculate, some want several answers or how likely their
 * prompt is. Whatever happens, each choice gets the ids it would get alone, its
 * last event once, and gives back every slot and block. */
#include "engine/engine.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"

enum { CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE, EOS = 7, ROUNDS = 700 }; /* a million steps */

enum { REQUESTS = 400, FAMILIES = 3, CHOICES = 3 };

struct expected {
    int32_t prompt[CONTEXT], answer[CHOICES][CONTEXT];
    uint32_t n_prompt, max_tokens, got[CHOICES], choices, n_done, score_from, scored;
    int32_t priority, stop; /* an id that ends it */
    enum engine_task task;
    uint32_t last, valued; /* of ENGINE_LOGITS; the index whose values come next */
    bool ignore_eos, added, cancelled, done[CHOICES];
};

struct run {
    struct engine *engine;
    struct fake_device device;
    struct plan *plan;
    const struct fake_step *step; /* that is reported */
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
    return (!x->ignore_eos && (id == EOS || id == EOS + 1)) || id == x->stop;
}

static void check_end(struct run *r, const struct expected *x, const struct engine_event *e)
{
    uint32_t got = x->got[e->choice];

    switch (e->finish) {
    case ENGINE_STOP:
        if (x->task != ENGINE_ANSWER) {
            if (x->valued != x->n_prompt || e->output_tokens != 0)
                wrong(r, "ended before its values");
            break;
        }
        if (!ends(x, x->answer[e->choice][got]) || e->output_tokens != got + 1 ||
            e->token != x->answer[e->choice][got] ||
            e->is_eos != (!x->ignore_eos && (e->token == EOS || e->token == EOS + 1)))
            wrong(r, "stopped where there is no end token");
        break;
    case ENGINE_LENGTH:
        if (got != x->max_tokens || e->output_tokens != got)
            wrong(r, "ended before its length");
        break;
    case ENGINE_CANCELLED:
        if (!x->cancelled || e->output_tokens != got)
            wrong(r, "cancelled by nobody");
        break;
    case ENGINE_BROKEN: wrong(r, "broken, with an id"); break;
    }
}

/* Each index of the prompt once, in order, before the first id. */
static void check_score(struct run *r, struct expected *x, const struct engine_event *e)
{
    uint32_t hash = 1;

    for (uint32_t i = 0; i < e->position; i++)
        hash = fake_mix(hash, x->prompt[i]);
    if (e->position != x->scored++ || e->position >= x->n_prompt || x->got[e->choice] > 0 ||
        e->logprobs->id != x->prompt[e->position] ||
        e->logprobs->logprob != fake_logprob(hash, x->prompt[e->position]))
        wrong(r, "another score than alone");
}

static void check_values(struct run *r, struct expected *x, const struct engine_event *e)
{
    uint32_t hash = 1;

    for (uint32_t i = 0; i <= e->position; i++)
        hash = fake_mix(hash, x->prompt[i]);
    if (x->task == ENGINE_ANSWER || e->position != x->valued++ || e->position >= x->n_prompt ||
        r->step->values[e->output] !=
            hash + (x->task == ENGINE_POOL ? OUTPUT_POOLED : OUTPUT_LOGITS))
        wrong(r, "other values than alone");
}

static void check_event(void *context, const struct engine_event *e)
{
    struct run *r = context;
    struct expected *x = &r->requests[e->id - 1];
    uint32_t *got = &x->got[e->choice];

    if (e->choice >= x->choices || x->done[e->choice] || !x->added) {
        wrong(r, "an event after the last");
        return;
    }
    switch (e->kind) {
    case ENGINE_SCORED: check_score(r, x, e); break;
    case ENGINE_VALUES: check_values(r, x, e); break;
    case ENGINE_ID:
        if (*got >= x->max_tokens || e->token != x->answer[e->choice][*got] || ends(x, e->token))
            wrong(r, "another id than alone");
        if (x->score_from < x->n_prompt && x->scored != x->n_prompt && e->choice == 0)
            wrong(r, "an id before all of the prompt is scored");
        ++*got;
        break;
    case ENGINE_DONE:
        check_end(r, x, e);
        x->done[e->choice] = true;
        x->n_done++;
        r->n_done += x->n_done == x->choices;
        break;
    }
}

static uint32_t pick(struct run *r, uint32_t n)
{
    return (uint32_t)(test_random(&r->seed) % n);
}

/* As its family does, or as an earlier request's prompt and answer, up to some id. */
static void begin_alike(struct run *r, struct expected *x)
{
    const struct expected *other = &r->requests[r->n_added > 0 ? pick(r, r->n_added) : 0];
    uint32_t family = pick(r, FAMILIES), n = 1 + pick(r, x->n_prompt);

    for (uint32_t i = 0; i < n; i++)
        if (family == 0 && r->n_added > 0 && i < other->n_prompt + other->max_tokens)
            x->prompt[i] = i < other->n_prompt ? other->prompt[i]
                                               : other->answer[0][i - other->n_prompt];
        else
            x->prompt[i] = (int32_t)((family + i) % FAKE_VOCAB);
}

static void add_choices(struct run *r, const struct expected *x, uint64_t id, uint32_t max_tokens)
{
    struct engine_request e = {.id = id, .ids = x->prompt, .n_ids = x->n_prompt,
        .n_prompt = x->n_prompt, .max_tokens = max_tokens, .ignore_eos = x->ignore_eos,
        .priority = x->priority,
        .stops = &x->stop, .n_stops = x->stop >= 0, .guesses = pick(r, 3) == 0 ? 1 + pick(r, 5) : 0,
        .sampling = {.seed = id, .top_p = 1}};

    e.task = x->task;
    e.last = x->last;
    for (uint32_t c = 0; c < x->choices; c++) {
        e.sampling.choice = c;
        e.score = c == 0 && x->score_from < x->n_prompt;
        e.score_from = x->score_from;
        if (engine_add(r->engine, &e) != STATUS_OK)
            wrong(r, "a request that fits was refused");
    }
}

static void add_one(struct run *r)
{
    struct expected *x = &r->requests[r->n_added];
    uint32_t wanted;

    if (r->n_added == REQUESTS)
        return;
    x->n_prompt = 1 + (pick(r, 8) == 0 ? pick(r, CONTEXT - 1) : pick(r, 16));
    wanted = 1 + pick(r, 24);
    x->max_tokens = wanted < CONTEXT - x->n_prompt ? wanted : CONTEXT - x->n_prompt;
    x->ignore_eos = pick(r, 3) == 0;
    x->priority = pick(r, 3) == 0 ? (int32_t)pick(r, 3) - 1 : 0;
    for (uint32_t i = 0; i < x->n_prompt; i++)
        x->prompt[i] = (int32_t)pick(r, FAKE_VOCAB);
    if (pick(r, 3) > 0)
        begin_alike(r, x);
    x->choices = pick(r, 6) == 0 ? 1 + pick(r, CHOICES) : 1;
    x->stop = pick(r, 3) == 0 ? (int32_t)pick(r, FAKE_VOCAB) : -1;
    x->score_from = pick(r, 5) == 0 ? 1 + pick(r, x->n_prompt) : x->n_prompt;
    x->scored = x->score_from;
    if (pick(r, 8) == 0) {
        x->task = pick(r, 2) == 0 ? ENGINE_POOL : ENGINE_LOGITS;
        x->choices = 1;
        x->last = x->task == ENGINE_POOL ? 1 : 1 + pick(r, x->n_prompt);
        x->valued = x->n_prompt - x->last;
        x->scored = x->score_from = x->n_prompt;
    }
    for (uint32_t c = 0; c < x->choices; c++)
        fake_answer(x->prompt, x->n_prompt, c, x->answer[c], x->max_tokens);
    x->added = true;
    r->n_added++;
    add_choices(r, x, r->n_added, wanted);
}

static void cancel_one(struct run *r)
{
    uint32_t i;

    if (r->n_added == 0)
        return;
    i = r->n_added - 1 - pick(r, r->n_added < 12 ? r->n_added : 12);
    r->requests[i].cancelled = true;
    engine_cancel(r->engine, i + 1, ENGINE_ALL_CHOICES, check_event, r);
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
    if (r->device.submitted == r->device.finished)
        return false;
    r->step = fake_finish(&r->device);
    engine_done(r->engine, r->step->number, r->step->ids, r->step->logprobs[0], check_event, r);
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

/* Nothing is used, and one that needs every block gets them all, though they are kept for others. */
static void check_all_returned(struct run *r)
{
    static struct expected x;
    struct engine_counts c = engine_counts(r->engine);

    assert_int_equal(c.running + c.waiting + c.blocks_used, 0);
    x = (struct expected){.n_prompt = CONTEXT - 1, .max_tokens = 1, .ignore_eos = true,
        .added = true, .choices = 1, .stop = -1, .score_from = CONTEXT};
    for (uint32_t i = 0; i < x.n_prompt; i++)
        x.prompt[i] = (int32_t)pick(r, FAKE_VOCAB);
    fake_answer(x.prompt, x.n_prompt, 0, x.answer[0], 1);
    r->requests[0] = x;
    assert_int_equal(engine_add(r->engine, &(struct engine_request){.id = 1, .ids = x.prompt,
        .n_ids = x.n_prompt, .max_tokens = 1, .ignore_eos = true, .sampling = {.top_p = 1}}),
        STATUS_OK);
    while (r->wrong == NULL && (plan_one(r) || finish_one(r)))
        ;
    assert_true(r->requests[0].done[0] && r->requests[0].got[0] == 1);
}

static void run_to_the_end(struct run *r)
{
    while (r->wrong == NULL && r->device.wrong == NULL && r->n_added < REQUESTS)
        act(r);
    while (r->wrong == NULL && r->device.wrong == NULL && (plan_one(r) || finish_one(r)))
        ;
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
    struct engine_options o = {.limits = fake_limits, .generation = 1, .max_model_len = CONTEXT,
        .max_chunk = 5, .eos = eos, .n_eos = 2};
    struct engine_counts sum = {0};
    uint64_t seed = test_seed(), steps = 0;

    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        struct run *r = calloc(1, sizeof(*r));

        r->seed = test_random(&seed);
        r->requests = calloc(REQUESTS, sizeof(*r->requests));
        r->plan = malloc(plan_max_bytes(&fake_limits));
        assert_int_equal(engine_open(&o, &r->engine), STATUS_OK);
        run_to_the_end(r);
        steps += r->device.submitted;
        sum.preemptions += engine_counts(r->engine).preemptions;
        sum.prefix_hit += engine_counts(r->engine).prefix_hit;
        sum.guessed += engine_counts(r->engine).guessed;
        sum.guessed_right += engine_counts(r->engine).guessed_right;
        engine_close(r->engine);
        free(r->plan);
        free(r->requests);
        free(r);
    }
    print_message("# %llu steps, %llu preemptions, %llu ids found again, %llu of %llu guesses right\n",
        (unsigned long long)steps, (unsigned long long)sum.preemptions,
        (unsigned long long)sum.prefix_hit, (unsigned long long)sum.guessed_right,
        (unsigned long long)sum.guessed);
    assert_true(sum.preemptions > ROUNDS && sum.prefix_hit > 100 * ROUNDS &&
                sum.guessed_right > ROUNDS); /* it was such traffic */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_traffic_gives_the_answers_of_each_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
