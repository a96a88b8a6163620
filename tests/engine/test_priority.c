/* test_priority.c - who goes first, and who gives way. Random ones: test_traffic.c. */
#include "engine/engine.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"

enum { CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE, MOST = 256 };

struct bench {
    struct engine *engine;
    struct fake_device device;
    struct plan *plan;
    uint64_t ended[MOST]; /* in order */
    size_t n_ended;
};

static void note_end(void *context, const struct engine_event *e)
{
    struct bench *b = context;

    if (e->kind == ENGINE_DONE)
        b->ended[b->n_ended++] = e->id;
}

static int open_bench(void **state)
{
    struct engine_options o = {.limits = fake_limits, .generation = 1, .max_model_len = CONTEXT,
        .max_chunk = 12};
    struct bench *b = calloc(1, sizeof(*b));

    *state = b;
    b->plan = malloc(plan_max_bytes(&fake_limits));
    return engine_open(&o, &b->engine) == STATUS_OK ? 0 : -1;
}

static int close_bench(void **state)
{
    struct bench *b = *state;

    engine_close(b->engine);
    free(b->plan);
    free(b);
    return 0;
}

/* Prompts of the same `first` begin alike. */
static void add(struct bench *b, uint64_t id, int32_t priority, int32_t first, uint32_t n,
    uint32_t max_tokens)
{
    int32_t ids[CONTEXT];

    for (uint32_t i = 0; i < n; i++)
        ids[i] = (first + (int32_t)i) % FAKE_VOCAB;
    assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = id, .ids = ids, .n_ids = n,
        .max_tokens = max_tokens, .ignore_eos = true, .priority = priority,
        .sampling = {.seed = id, .top_p = 1}}), STATUS_OK);
}

static bool step(struct bench *b)
{
    const struct fake_step *f;

    if (engine_plan(b->engine, b->plan) != STATUS_OK)
        return false;
    fake_submit(&b->device, b->plan);
    if (b->device.wrong != NULL)
        fail_msg("%s", b->device.wrong);
    f = fake_finish(&b->device);
    engine_done(b->engine, f->number, f->ids, NULL, note_end, b);
    return true;
}

static void an_urgent_request_overtakes_a_hundred_that_wait(void **state)
{
    struct bench *b = *state;
    uint64_t id = 1;

    for (; id <= 108; id++)
        add(b, id, 0, (int32_t)id, 3, 5);
    while (b->device.n_started < FAKE_SLOTS)
        step(b);
    add(b, 200, -1, 30, 3, 5);
    add(b, 201, -2, 30, 3, 5);
    while (b->device.n_started < FAKE_SLOTS + 2)
        assert_true(step(b));
    assert_int_equal(b->device.started[FAKE_SLOTS], 201);
    assert_int_equal(b->device.started[FAKE_SLOTS + 1], 200);
    while (step(b))
        ;
    assert_int_equal(b->n_ended, 110);
    for (size_t i = FAKE_SLOTS + 2; i < 110; i++)
        assert_int_equal(b->device.started[i], i - 1); /* the others as they came */
}

/* 40 + 30 positions each, of 96. */
static void the_least_urgent_gives_way_though_it_came_first(void **state)
{
    struct bench *b = *state;

    add(b, 1, 5, 0, 40, 30);
    add(b, 2, 0, 20, 40, 30);
    while (step(b))
        ;
    assert_int_equal(engine_counts(b->engine).preemptions, 1);
    assert_int_equal(b->device.n_started, 3);
    assert_int_equal(b->device.started[2], 1);
    assert_int_equal(b->ended[0], 2);
    assert_int_equal(b->ended[1], 1);
}

static void one_that_gave_way_goes_before_new_ones_of_its_own_priority_alone(void **state)
{
    struct bench *b = *state;

    add(b, 1, 0, 0, 40, 30);
    add(b, 2, 5, 20, 40, 30);
    while (engine_counts(b->engine).preemptions == 0)
        assert_true(step(b));
    add(b, 3, 5, 7, 40, 2);
    add(b, 4, 4, 9, 40, 2);
    while (step(b))
        ;
    assert_int_equal(b->device.started[2], 4);
    assert_int_equal(b->device.started[b->device.n_started - 2], 2);
    assert_int_equal(b->device.started[b->device.n_started - 1], 3);
}

/* 2 waits for what 1 computes; there are slots, but they are no use to 3 before that. */
static void who_waits_for_a_prefix_is_not_passed_by_the_less_urgent(void **state)
{
    struct bench *b = *state;

    add(b, 1, 0, 0, 30, 2);
    step(b);
    add(b, 2, 0, 0, 30, 2);
    add(b, 3, 1, 35, 3, 2);
    add(b, 4, 0, 36, 3, 2);
    while (step(b))
        ;
    assert_int_equal(b->device.n_started, 4);
    assert_int_equal(b->device.started[1], 4);
    assert_int_equal(b->device.started[2], 2);
    assert_int_equal(b->device.started[3], 3);
    assert_true(engine_counts(b->engine).prefix_hit >= 28);
}

int main(void)
{
#define ENGINE_TEST(test) cmocka_unit_test_setup_teardown(test, open_bench, close_bench)
    const struct CMUnitTest tests[] = {
        ENGINE_TEST(an_urgent_request_overtakes_a_hundred_that_wait),
        ENGINE_TEST(the_least_urgent_gives_way_though_it_came_first),
        ENGINE_TEST(one_that_gave_way_goes_before_new_ones_of_its_own_priority_alone),
        ENGINE_TEST(who_waits_for_a_prefix_is_not_passed_by_the_less_urgent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
