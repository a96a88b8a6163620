/* test_meter.c - the leader's stopwatch, with a clock that the test makes up. */
#include "tests/ipc/ipc_support.h"
#include "worker/meter.h"

static struct stats stats;
static struct meter meter;
static struct pace pace;
static struct {
    struct plan plan;
    struct plan_row rows[2];
} step;

static int start(void **state)
{
    (void)state;
    stats = (struct stats){0};
    meter = (struct meter){.stats = &stats, .pace = &pace};
    return pace_open(&pace, 100, 16) == STATUS_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    pace_close(&pace);
    return 0;
}

static struct stats_copy counted(void)
{
    struct stats_copy c;

    stats_read(&stats, &c);
    return c;
}

static uint64_t sum(enum stats_distribution which)
{
    return counted().histograms[which].sum;
}

/* The loop has worked until `from`, and submits until `to`. */
static void submit(uint64_t number, uint32_t tokens, uint64_t from, uint64_t to)
{
    step.plan = (struct plan){.number = number, .n_tokens = tokens, .n_rows = 2, .n_decode = 1,
        .rows_at = sizeof(step.plan)};
    step.rows[0] = (struct plan_row){.kind = ROW_DECODE, .n_tokens = 1};
    step.rows[1] = (struct plan_row){.kind = ROW_PREFILL, .first_token = 1, .n_tokens = tokens - 1};
    meter_pause(&meter, from);
    meter_submit(&meter, &step.plan, from);
    meter_begin(&meter, to);
}

static void done(uint64_t number, uint64_t from, uint64_t to)
{
    meter_pause(&meter, from);
    meter_begin(&meter, to);
    meter_done(&meter, number, to);
}

static void a_step_s_time_begins_when_the_one_before_is_done(void **state)
{
    (void)state;
    meter_begin(&meter, 1000);
    submit(0, 30, 1100, 1101);
    submit(1, 40, 1200, 1201);
    done(0, 1210, 5100); /* 4000 since it was submitted */
    assert_int_equal(sum(STAT_STEP), 4000);
    done(1, 5110, 5900); /* 800 since step 0 was done */
    assert_int_equal(sum(STAT_STEP), 4800);
    submit(2, 50, 9000, 9001);
    done(2, 9002, 9500); /* 500: the device was idle */
    assert_int_equal(sum(STAT_STEP), 5300);
    assert_int_equal(counted().numbers[STAT_STEPS], 3);
    assert_int_equal(sum(STAT_STEP_TOKENS), 120);
    assert_int_equal(sum(STAT_STEP_SEQS), 6);
}

static void the_engine_s_time_is_neither_waiting_nor_submitting_nor_sleep(void **state)
{
    (void)state;
    meter_begin(&meter, 1000);
    submit(0, 1, 1010, 2000);
    assert_int_equal(sum(STAT_ENGINE), 10);
    submit(1, 1, 2020, 3000);
    assert_int_equal(sum(STAT_ENGINE), 30);
    done(0, 3005, 9000);
    meter_pause(&meter, 9003);
    meter_begin(&meter, 20000); /* it slept */
    assert_int_equal(sum(STAT_ENGINE), 30);
    submit(2, 1, 20100, 20101);
    assert_int_equal(sum(STAT_ENGINE), 30 + 5 + 3 + 100);
}

static void what_answers_alone_took_is_told_from_what_prompts_added(void **state)
{
    (void)state;
    meter_begin(&meter, 1000);
    submit(0, 1, 1000, 1001);
    step.rows[1] = step.rows[0]; /* two answers */
    step.plan.n_tokens = step.plan.n_decode = 2;
    meter_submit(&meter, &step.plan, 1001);
    done(0, 1002, 3001);
    assert_true(pace.alone[2].time.ns == 2000);
    submit(1, 11, 3001, 3002);
    done(1, 3002, 4001);
    assert_true(pace.alone[1].time.n == 0); /* one answer, and 10 tokens of prompts */
    assert_int_equal(pace.since_probe, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_step_s_time_begins_when_the_one_before_is_done, start,
            stop),
        cmocka_unit_test_setup_teardown(
            the_engine_s_time_is_neither_waiting_nor_submitting_nor_sleep, start, stop),
        cmocka_unit_test_setup_teardown(
            what_answers_alone_took_is_told_from_what_prompts_added, start, stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
