/* test_engine.c - the scheduler, one rule at a time. All at once: test_traffic.c; its limits:
 * test_limits.c. */
#include "tests/engine/engine_bench.h"

static void nothing_to_do_gives_no_plan(void **state)
{
    struct bench *b = *state;

    assert_true(engine_idle(b->engine));
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_AGAIN);
    engine_cancel(b->engine, 5, ENGINE_ALL_CHOICES, note_event, b);
    assert_int_equal(b->n_events, 0);
}

static void long_prompt_is_cut_at_the_steps_size(void **state)
{
    struct bench *b = *state;
    const uint32_t cuts[] = {12, 12, 6};
    int32_t id = 3;

    assert_int_equal(add(b, 1, 30, 1), STATUS_OK);
    for (uint32_t i = 0; i < 3; i++) {
        const struct plan_row *row = planned(b);

        assert_int_equal(b->plan->n_starts, i == 0);
        assert_int_equal(b->plan->n_rows, 1);
        assert_int_equal(row->kind, ROW_PREFILL);
        assert_int_equal(row->n_tokens, cuts[i]);
        assert_int_equal(plan_tokens(b->plan)[0], 1 + 12 * i);
        assert_int_equal(row->output, i == 2 ? OUTPUT_TOKEN : OUTPUT_NONE);
        assert_int_equal(b->plan->n_outputs, i == 2);
        done(b, i, &id);
    }
    assert_int_equal(b->n_events, 2);
    assert_true(engine_idle(b->engine));
}

static void answers_go_before_prompts(void **state)
{
    struct bench *b = *state;
    const struct plan_row *row;

    assert_int_equal(add(b, 1, 3, 9), STATUS_OK);
    planned(b);
    assert_int_equal(add(b, 2, 20, 9), STATUS_OK);
    row = planned(b);
    assert_int_equal(b->plan->n_rows, 2);
    assert_int_equal(row[0].kind, ROW_DECODE);
    assert_int_equal(row[1].kind, ROW_PREFILL);
    assert_int_equal(row[1].n_tokens, 11);
}

static void next_step_names_an_id_still_to_come(void **state)
{
    struct bench *b = *state;
    const struct plan_row *row;

    assert_int_equal(add(b, 1, 2, 4), STATUS_OK);
    planned(b);
    row = planned(b); /* step 0 is not done */
    assert_int_equal(b->plan->number, 1);
    assert_int_equal(row->kind, ROW_DECODE);
    assert_int_equal(plan_tokens(b->plan)[0], token_from_slot(row->slot));
}

static void requests_start_in_order_of_arrival(void **state)
{
    struct bench *b = *state;
    const uint32_t all = FAKE_BLOCKS * FAKE_BLOCK_SIZE;

    assert_int_equal(add(b, 1, 1, 4), STATUS_OK);
    assert_int_equal(add(b, 2, all - 1, 1), STATUS_OK); /* needs every block */
    assert_int_equal(add(b, 3, 1, 4), STATUS_OK);       /* would fit at once */
    planned(b);
    assert_int_equal(b->plan->n_starts, 1);
    assert_int_equal(plan_starts(b->plan)->sampling.seed, 1);
    engine_cancel(b->engine, 2, ENGINE_ALL_CHOICES, note_event, b);
    planned(b);
    assert_int_equal(b->plan->n_starts, 1);
    assert_int_equal(plan_starts(b->plan)->sampling.seed, 3);
}

static void no_more_sequences_run_than_there_are_slots(void **state)
{
    struct bench *b = *state;
    int32_t ids[FAKE_SLOTS + 1] = {0};

    for (uint64_t id = 1; id <= FAKE_SLOTS + 1; id++)
        assert_int_equal(add(b, id, 1, 1), STATUS_OK);
    planned(b);
    assert_int_equal(b->plan->n_starts, FAKE_SLOTS);
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_AGAIN);
    done(b, 0, ids);
    planned(b);
    assert_int_equal(b->plan->n_starts, 1);
}

static void end_token_is_noticed_one_step_late(void **state)
{
    struct bench *b = *state;
    int32_t prompt[] = {1, 2}, end = EOS + 1, extra = 5;

    assert_int_equal(engine_add(b->engine, &(struct engine_request){
        .id = 9, .ids = prompt, .n_ids = 2, .max_tokens = 5, .sampling = {.top_p = 1}}), STATUS_OK);
    planned(b);
    planned(b); /* its second id is on its way already */
    done(b, 0, &end);
    assert_int_equal(b->n_events, 1);
    assert_true(b->events[0].kind == ENGINE_DONE);
    assert_int_equal(b->events[0].finish, ENGINE_STOP);
    assert_int_equal(b->events[0].output_tokens, 1);
    assert_false(engine_idle(b->engine));
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_AGAIN);
    done(b, 1, &extra);
    assert_int_equal(b->n_events, 1);
    assert_true(engine_idle(b->engine));
}

/* Steps run in order, so what an ended sequence had is free for the next plan. */
static void ended_sequence_gives_its_slot_and_blocks_to_the_next_plan(void **state)
{
    struct bench *b = *state;
    int32_t prompt[] = {1, 2}, end = EOS, extra = 5;

    for (uint64_t id = 1; id <= FAKE_SLOTS; id++)
        assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = id, .ids = prompt,
            .n_ids = 1, .max_tokens = 5, .sampling = {.top_p = 1}}), STATUS_OK);
    assert_int_equal(add(b, 99, 1, 1), STATUS_OK);
    planned(b);
    planned(b);
    assert_int_equal(b->plan->n_starts, 0);
    assert_int_equal(engine_counts(b->engine).blocks_used, FAKE_SLOTS);
    done(b, 0, (int32_t[FAKE_SLOTS]){end, 1, 1, 1, 1, 1, 1, 1});
    assert_int_equal(engine_counts(b->engine).blocks_used, FAKE_SLOTS - 1);
    planned(b);
    assert_int_equal(b->plan->n_starts, 1);
    assert_int_equal(plan_starts(b->plan)->slot, 0);
    done(b, 1, (int32_t[FAKE_SLOTS]){extra, 1, 1, 1, 1, 1, 1, 1}); /* of the ended: dropped */
}

static void ignored_end_token_is_an_id_like_others(void **state)
{
    struct bench *b = *state;
    int32_t end = EOS;

    assert_int_equal(add(b, 1, 2, 2), STATUS_OK);
    planned(b);
    planned(b);
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_AGAIN); /* two ids are on their way */
    done(b, 0, &end);
    done(b, 1, &end);
    assert_int_equal(b->n_events, 3);
    assert_int_equal(b->events[0].token, EOS);
    assert_int_equal(b->events[1].token, EOS);
    assert_true(b->events[2].kind == ENGINE_DONE);
    assert_int_equal(b->events[2].finish, ENGINE_LENGTH);
    assert_int_equal(b->events[2].output_tokens, 2);
}

static void waiting_request_is_cancelled_at_once(void **state)
{
    struct bench *b = *state;

    assert_int_equal(add(b, 1, 2, 2), STATUS_OK);
    assert_int_equal(add(b, 2, 2, 2), STATUS_OK);
    engine_cancel(b->engine, 2, ENGINE_ALL_CHOICES, note_event, b);
    assert_int_equal(b->n_events, 1);
    assert_int_equal(b->events[0].id, 2);
    assert_int_equal(b->events[0].finish, ENGINE_CANCELLED);
    assert_int_equal(b->events[0].output_tokens, 0);
    assert_int_equal(add(b, 3, 2, 2), STATUS_OK); /* the list's end is where it should be */
    planned(b);
    assert_int_equal(b->plan->n_starts, 2);
    assert_int_equal(plan_starts(b->plan)[1].sampling.seed, 3);
}

static void cancelled_request_is_gone_when_its_steps_are_done(void **state)
{
    struct bench *b = *state;
    int32_t id = 3;

    assert_int_equal(add(b, 1, 2, 9), STATUS_OK);
    planned(b);
    planned(b);
    done(b, 0, &id);
    engine_cancel(b->engine, 1, ENGINE_ALL_CHOICES, note_event, b);
    engine_cancel(b->engine, 1, ENGINE_ALL_CHOICES, note_event, b); /* once more: it has ended */
    assert_int_equal(b->n_events, 2);
    assert_int_equal(b->events[1].finish, ENGINE_CANCELLED);
    assert_int_equal(b->events[1].output_tokens, 1);
    assert_false(engine_idle(b->engine));
    assert_int_equal(engine_plan(b->engine, b->plan), STATUS_AGAIN);
    done(b, 1, &id);
    assert_int_equal(b->n_events, 2);
    assert_true(engine_idle(b->engine));
}

static void request_between_steps_is_cancelled_at_once(void **state)
{
    struct bench *b = *state;
    int32_t id = 3;

    assert_int_equal(add(b, 1, 30, 9), STATUS_OK);
    planned(b);
    done(b, 0, &id);
    engine_cancel(b->engine, 1, ENGINE_ALL_CHOICES, note_event, b);
    assert_true(engine_idle(b->engine));
    assert_int_equal(b->events[0].finish, ENGINE_CANCELLED);
}

static void broken_output_ends_its_own_request_alone(void **state)
{
    struct bench *b = *state;
    const int32_t good[2] = {1, 1}, bad[2] = {BROKEN_ID, 1};

    assert_int_equal(add(b, 1, 2, 3), STATUS_OK);
    assert_int_equal(add(b, 2, 2, 3), STATUS_OK);
    planned(b);
    done(b, 0, good);
    planned(b);
    planned(b); /* planned ahead: the row of the broken one is dropped */
    b->n_events = 0;
    done(b, 1, bad);
    assert_int_equal(b->n_events, 2);
    assert_int_equal(b->events[0].id, 1);
    assert_true(b->events[0].kind == ENGINE_DONE);
    assert_int_equal(b->events[0].finish, ENGINE_BROKEN);
    assert_int_equal(b->events[0].step, 1);
    assert_int_equal(b->events[0].output_tokens, 1);
    assert_int_equal(b->events[1].token, 1);
    done(b, 2, bad);
    assert_int_equal(b->n_events, 4);
    assert_int_equal(b->events[3].id, 2);
    assert_int_equal(b->events[3].finish, ENGINE_LENGTH);
    assert_true(engine_idle(b->engine));
}

static void end_of_the_context_cuts_the_answer(void **state)
{
    struct bench *b = *state;
    int32_t id = 1;

    assert_int_equal(add(b, 1, CONTEXT - 2, 1000), STATUS_OK);
    for (uint64_t n = 0; engine_plan(b->engine, b->plan) == STATUS_OK; n++)
        done(b, n, &id);
    assert_int_equal(b->n_events, 3);
    assert_int_equal(b->events[2].finish, ENGINE_LENGTH);
    assert_int_equal(b->events[2].output_tokens, 2);
}

static void engine_may_be_closed_in_the_middle(void **state)
{
    struct bench *b = *state;

    for (uint64_t id = 1; id <= FAKE_SLOTS + 4; id++)
        assert_int_equal(add(b, id, 3, 3), STATUS_OK);
    planned(b);
    planned(b);
}

static void times_are_told_by_the_caller_s_clock(void **state)
{
    struct bench *b = *state;
    const int32_t prompt[] = {1, 2, 3}, id = 4;

    assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = 1, .ids = prompt, .n_ids = 3,
        .n_prompt = 3, .max_tokens = 3, .ignore_eos = true, .arrived_ns = 100}), STATUS_OK);
    engine_clock(b->engine, 250);
    planned(b);
    assert_int_equal(b->times[ENGINE_QUEUE_TIME][0], 150);
    engine_clock(b->engine, 1100);
    done(b, 0, &id);
    assert_int_equal(b->times[ENGINE_FIRST_TOKEN_TIME][0], 1000);
    assert_int_equal(engine_counts(b->engine).prompt_tokens, 3);
    planned(b);
    engine_clock(b->engine, 1107);
    done(b, 1, &id);
    assert_int_equal(b->times[ENGINE_TOKEN_TIME][0], 7);
    assert_int_equal(b->n_times[ENGINE_QUEUE_TIME], 1);
    assert_int_equal(b->n_times[ENGINE_FIRST_TOKEN_TIME], 1);
    assert_int_equal(b->n_times[ENGINE_TOKEN_TIME], 1);
    assert_int_equal(engine_counts(b->engine).prompt_tokens, 3);
}

/* Taken up after its ranks died: it neither came now nor is its next id the first. */
static void what_goes_on_is_no_new_prompt(void **state)
{
    struct bench *b = *state;
    const int32_t id = 4;

    engine_clock(b->engine, 500);
    assert_int_equal(add(b, 1, 3, 3), STATUS_OK);
    planned(b);
    done(b, 0, &id);
    assert_int_equal(b->n_times[ENGINE_QUEUE_TIME] + b->n_times[ENGINE_FIRST_TOKEN_TIME], 0);
    assert_int_equal(engine_counts(b->engine).prompt_tokens, 0);
    planned(b);
    engine_clock(b->engine, 530);
    done(b, 1, &id);
    assert_int_equal(b->times[ENGINE_TOKEN_TIME][0], 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ENGINE_TEST(nothing_to_do_gives_no_plan),
        ENGINE_TEST(long_prompt_is_cut_at_the_steps_size),
        ENGINE_TEST(answers_go_before_prompts),
        ENGINE_TEST(next_step_names_an_id_still_to_come),
        ENGINE_TEST(requests_start_in_order_of_arrival),
        ENGINE_TEST(no_more_sequences_run_than_there_are_slots),
        ENGINE_TEST(end_token_is_noticed_one_step_late),
        ENGINE_TEST(ended_sequence_gives_its_slot_and_blocks_to_the_next_plan),
        ENGINE_TEST(ignored_end_token_is_an_id_like_others),
        ENGINE_TEST(waiting_request_is_cancelled_at_once),
        ENGINE_TEST(cancelled_request_is_gone_when_its_steps_are_done),
        ENGINE_TEST(request_between_steps_is_cancelled_at_once),
        ENGINE_TEST(broken_output_ends_its_own_request_alone),
        ENGINE_TEST(end_of_the_context_cuts_the_answer),
        ENGINE_TEST(engine_may_be_closed_in_the_middle),
        ENGINE_TEST(times_are_told_by_the_caller_s_clock),
        ENGINE_TEST(what_goes_on_is_no_new_prompt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
