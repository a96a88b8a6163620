/* test_chunks.c - how much of prompts a step holds, when the caller says how much it may be. */
#include "engine/engine.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"

enum { CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE };

struct bench {
    struct engine *engine;
    struct fake_device device;
    struct plan *plan;
    uint32_t limit;
    uint32_t asked_for, prompts; /* in the last question; asked_for UINT32_MAX: none yet */
};

static uint32_t say(void *context, uint32_t answers, uint32_t prompts)
{
    struct bench *b = context;

    b->asked_for = answers;
    b->prompts = prompts;
    return b->limit;
}

static void ignore(void *context, const struct engine_event *e)
{
    (void)context;
    (void)e;
}

static int open_with(void **state, const struct plan_limits *limits)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct engine_options o = {.limits = *limits, .generation = 1, .max_model_len = CONTEXT,
        .max_chunk = 10, .pace = say, .pacer = b};

    *state = b;
    b->asked_for = UINT32_MAX;
    b->plan = malloc(plan_max_bytes(&fake_limits));
    return engine_open(&o, &b->engine) == STATUS_OK ? 0 : -1;
}

static int open_bench(void **state)
{
    return open_with(state, &fake_limits);
}

static int open_narrow(void **state)
{
    struct plan_limits narrow = fake_limits;

    narrow.max_tokens = 1;
    return open_with(state, &narrow);
}

static int close_bench(void **state)
{
    struct bench *b = *state;

    engine_close(b->engine);
    free(b->plan);
    free(b);
    return 0;
}

static void add(struct bench *b, uint64_t id, uint32_t n, uint32_t max_tokens)
{
    int32_t ids[CONTEXT];

    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)((id * 7 + i) % FAKE_VOCAB);
    assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = id, .ids = ids, .n_ids = n,
        .max_tokens = max_tokens, .ignore_eos = true, .sampling = {.seed = id, .top_p = 1}}),
        STATUS_OK);
}

/* Tokens of prompts in the next step, which is done. */
static uint32_t step(struct bench *b)
{
    const struct fake_step *f;
    const struct plan_row *row;
    uint32_t prompts = 0;

    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_OK);
    row = plan_rows(b->plan);
    for (uint32_t i = 0; i < b->plan->n_rows; i++)
        prompts += row[i].kind == ROW_PREFILL ? row[i].n_tokens : 0;
    fake_submit(&b->device, b->plan);
    if (b->device.wrong != NULL)
        fail_msg("%s", b->device.wrong);
    f = fake_finish(&b->device);
    engine_done(b->engine, f->number, f->ids, NULL, ignore, b);
    return prompts;
}

static void prompts_alone_are_not_held_back(void **state)
{
    struct bench *b = *state;

    b->limit = 1;
    add(b, 1, 30, 2);
    assert_int_equal(step(b), 12);
    assert_int_equal(b->asked_for, UINT32_MAX);
}

static void all_prompts_together_have_what_the_caller_says(void **state)
{
    struct bench *b = *state;

    add(b, 1, 2, 30);
    add(b, 2, 2, 30);
    step(b);
    add(b, 3, 30, 2);
    add(b, 4, 30, 2);
    add(b, 5, 30, 2);
    b->limit = 1000;
    assert_int_equal(step(b), 10); /* max_chunk */
    for (b->limit = 2; b->limit <= 8; b->limit++) {
        assert_int_equal(step(b), b->limit);
        assert_int_equal(b->asked_for, 2);
        assert_int_equal(b->prompts, 3); /* one of them waits for blocks */
    }
}

static void none_leaves_them_out_once(void **state)
{
    struct bench *b = *state;

    add(b, 1, 2, 30);
    step(b);
    add(b, 2, 9, 2);
    b->limit = 0;
    assert_int_equal(step(b), 0);
    assert_int_equal(b->plan->n_rows, 1);
    b->limit = 9;
    assert_int_equal(step(b), 9);
}

static void nobody_is_asked_when_there_is_no_prompt(void **state)
{
    struct bench *b = *state;

    add(b, 1, 2, 30);
    step(b);
    step(b);
    assert_int_equal(b->asked_for, UINT32_MAX);
}

/* A prompt of 60 ids, a token in a step: one of 3 comes behind it and does not wait for it. */
static void a_short_prompt_is_not_starved_by_a_long_one_at_any_limit(void **state)
{
    struct bench *b = *state;

    for (b->limit = 1; b->limit <= 4; b->limit++) {
        uint32_t steps = 0;

        add(b, 10 * b->limit + 1, 2, 30);
        step(b);
        add(b, 10 * b->limit + 2, 60, 1);
        step(b);
        add(b, 10 * b->limit + 3, 3, 1);
        while (engine_counts(b->engine).running + engine_counts(b->engine).waiting > 2 && steps < 12) {
            step(b);
            steps++;
        }
        assert_in_range(steps, 1, 8);
        for (uint64_t i = 1; i <= 3; i++)
            engine_cancel(b->engine, 10 * b->limit + i, ENGINE_ALL_CHOICES, ignore, b);
    }
}

/* It has a row in every other step; the steps between are no place for a whole chunk. */
static void an_answer_that_speculates_is_not_held_up_between_its_rows(void **state)
{
    static const int32_t alike[] = {1, 2, 1, 2, 1, 2, 1, 2};
    struct bench *b = *state;
    const struct fake_step *f;

    assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = 1, .ids = alike, .n_ids = 8,
        .max_tokens = 20, .ignore_eos = true, .guesses = 2, .sampling = {.top_p = 1}}), STATUS_OK);
    step(b);
    add(b, 2, 30, 1);
    b->limit = 3;
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_OK);
    fake_submit(&b->device, b->plan);
    assert_true(b->plan->n_decode == 1 && b->plan->n_tokens > 3);
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_AGAIN);
    f = fake_finish(&b->device);
    engine_done(b->engine, f->number, f->ids, NULL, ignore, b);
    assert_int_equal(step(b), 3);
}

/* The second waits for what the first computes; a step without a row would be the last. */
static void steps_of_one_token_get_everybody_to_the_end(void **state)
{
    struct bench *b = *state;

    add(b, 1, 9, 2);
    add(b, 1, 9, 2);
    add(b, 2, 3, 2);
    for (int i = 0; !engine_idle(b->engine); i++) {
        step(b);
        assert_true(i < 40);
    }
}

int main(void)
{
#define ENGINE_TEST(test) cmocka_unit_test_setup_teardown(test, open_bench, close_bench)
    const struct CMUnitTest tests[] = {
        ENGINE_TEST(prompts_alone_are_not_held_back),
        ENGINE_TEST(all_prompts_together_have_what_the_caller_says),
        ENGINE_TEST(none_leaves_them_out_once),
        ENGINE_TEST(nobody_is_asked_when_there_is_no_prompt),
        ENGINE_TEST(a_short_prompt_is_not_starved_by_a_long_one_at_any_limit),
        ENGINE_TEST(an_answer_that_speculates_is_not_held_up_between_its_rows),
        cmocka_unit_test_setup_teardown(steps_of_one_token_get_everybody_to_the_end, open_narrow,
            close_bench),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
