/* test_limits.c - what the engine refuses, and that a step stays under its limits. */
#include "tests/engine/engine_bench.h"

static void requests_that_never_fit_are_refused(void **state)
{
    struct bench *b = *state;

    assert_int_equal(add(b, 1, 0, 5), STATUS_INVALID);
    assert_int_equal(add(b, 1, CONTEXT, 5), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "a prompt of 96 tokens does not fit a context of 96"));
    assert_true(engine_idle(b->engine));
}

static void pool_smaller_than_the_context_refuses_what_it_cannot_hold(void **state)
{
    struct bench *b = *state; /* of half as many blocks */

    assert_int_equal(add(b, 1, 40, 9), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "49 tokens need 13 KV blocks, there are 12"));
    assert_int_equal(add(b, 1, 40, 8), STATUS_OK);
}

static int open_small_pool(void **state)
{
    struct plan_limits limits = fake_limits;

    limits.n_blocks /= 2;
    return open_with(state, &limits);
}

static int open_few_outputs(void **state)
{
    struct plan_limits limits = fake_limits;

    limits.max_outputs = 3;
    return open_with(state, &limits);
}

static void step_has_no_more_outputs_than_its_limit(void **state)
{
    struct bench *b = *state;
    const int32_t ids[3] = {1, 1, 1};
    uint32_t most = 0;

    for (uint64_t id = 1; id <= FAKE_SLOTS; id++)
        assert_int_equal(add(b, id, 2, 4), STATUS_OK);
    for (uint64_t n = 0; engine_plan(b->engine, b->plan) == STATUS_OK; n++) {
        assert_true(b->plan->n_outputs <= 3);
        most = b->plan->n_outputs > most ? b->plan->n_outputs : most;
        done(b, n, ids);
    }
    assert_int_equal(most, 3);
    assert_true(engine_idle(b->engine));
}

/* All outputs are what every guess says: the most that two can take of each step. */
static void a_waiting_prompt_is_not_held_up_by_guesses(void **state)
{
    struct bench *b = *state;
    int32_t threes[FAKE_OUTPUTS], ids[12];
    bool started = false;

    for (int i = 0; i < FAKE_OUTPUTS; i++)
        threes[i] = 3;
    for (int i = 0; i < 12; i++)
        ids[i] = 3;
    for (uint64_t id = 1; id <= 2; id++)
        assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = id, .ids = ids,
            .n_ids = 12, .n_prompt = 12, .max_tokens = 60, .ignore_eos = true, .guesses = 8,
            .sampling = {.top_p = 1}}), STATUS_OK);
    for (uint64_t i = 0; i < 6; i++) {
        planned(b);
        done(b, i, threes);
    }
    assert_int_equal(add(b, 3, 4, 2), STATUS_OK);
    for (uint64_t i = 6; i < 12 && !started; i++) {
        const struct plan_row *row = planned(b);

        for (uint32_t r = 0; r < b->plan->n_rows; r++)
            started |= row[r].kind == ROW_PREFILL;
        done(b, i, threes);
    }
    assert_true(started);
}

/* A list that no plan holds would wait for ever. */
static void lists_over_their_limits_are_refused(void **state)
{
    static const int32_t words[BAD_WORDS + BIAS_WORDS + 4];
    struct bench *b = *state;
    const int32_t id = 1;
    struct engine_request r = {.id = 1, .ids = &id, .n_ids = 1, .n_prompt = 1, .max_tokens = 1,
        .words = words, .stops = words};

    r.sampling.n_bad = BAD_WORDS + 1;
    assert_int_equal(engine_add(b->engine, &r), STATUS_INVALID);
    r.sampling.n_bad = 0;
    r.sampling.n_bias = BIAS_WORDS + 2;
    assert_int_equal(engine_add(b->engine, &r), STATUS_INVALID);
    r.sampling.n_bias = 0;
    r.n_stops = END_WORDS;
    assert_int_equal(engine_add(b->engine, &r), STATUS_INVALID);
    r.n_stops = END_WORDS - 2;
    assert_int_equal(engine_add(b->engine, &r), STATUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ENGINE_TEST(requests_that_never_fit_are_refused),
        ENGINE_TEST(lists_over_their_limits_are_refused),
        cmocka_unit_test_setup_teardown(pool_smaller_than_the_context_refuses_what_it_cannot_hold,
            open_small_pool, close_bench),
        cmocka_unit_test_setup_teardown(step_has_no_more_outputs_than_its_limit, open_few_outputs,
            close_bench),
        ENGINE_TEST(a_waiting_prompt_is_not_held_up_by_guesses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
