/* test_meter.c - the leader's stopwatch, with a clock that the test makes up. */
#include "tests/ipc/ipc_support.h"
#include "worker/meter.h"

static struct stats stats;
static struct meter meter;
static struct plan plan;

static int start(void **state)
{
    (void)state;
    stats = (struct stats){0};
    meter = (struct meter){.stats = &stats};
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
    plan = (struct plan){.number = number, .n_tokens = tokens, .n_rows = 2};
    meter_pause(&meter, from);
    meter_submit(&meter, &plan, from);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_step_s_time_begins_when_the_one_before_is_done, start),
        cmocka_unit_test_setup(the_engine_s_time_is_neither_waiting_nor_submitting_nor_sleep, start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
