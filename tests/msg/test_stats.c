/* test_stats.c - counting, adding generations up, and the JSON of it. */
#include <jansson.h>
#include <string.h>

#include "msg/stats.h"
#include "tests/ipc/ipc_support.h"

static json_t *json_of(const struct stats_copy *c)
{
    char text[STATS_JSON_BYTES + 2] = "{";
    json_error_t e;
    json_t *json;
    size_t n = stats_json(c, text + 1, STATS_JSON_BYTES);

    assert_in_range(n, 1, STATS_JSON_BYTES - 1);
    assert_int_equal(strlen(text + 1), n);
    strcat(text, "}");
    json = json_loads(text, JSON_REJECT_DUPLICATES, &e);
    if (json == NULL)
        fail_msg("%s: %s", e.text, text);
    return json;
}

/* How many values of a distribution are at most `bound`. */
static json_int_t up_to(const json_t *json, const char *name, double bound)
{
    json_t *bucket;
    size_t i;

    json_array_foreach(json_object_get(json_object_get(json, name), "buckets"), i, bucket)
        if (json_number_value(json_array_get(bucket, 0)) == bound)
            return json_integer_value(json_array_get(bucket, 1));
    fail_msg("%s has no bucket up to %g", name, bound);
    return -1;
}

static double member(const json_t *json, const char *name, const char *of)
{
    return json_number_value(json_object_get(json_object_get(json, name), of));
}

static void a_value_counts_in_every_bucket_that_reaches_it(void **state)
{
    struct stats s = {0};
    struct stats_copy c;
    json_t *json;

    (void)state;
    stats_observe(&s, STAT_STEP, 0);
    stats_observe(&s, STAT_STEP, 1000000);
    stats_observe(&s, STAT_STEP, 1000001);
    stats_observe(&s, STAT_STEP, UINT64_C(101000000000)); /* above all */
    stats_observe(&s, STAT_STEP_SEQS, 3);
    stats_read(&s, &c);
    json = json_of(&c);
    assert_int_equal(up_to(json, "step_time", 0.000001), 1);
    assert_int_equal(up_to(json, "step_time", 0.001), 2);
    assert_int_equal(up_to(json, "step_time", 0.002), 3);
    assert_int_equal(up_to(json, "step_time", 100), 3);
    assert_true(member(json, "step_time", "count") == 4);
    assert_true(member(json, "step_time", "sum") == 101.002000001);
    assert_int_equal(up_to(json, "step_sequences", 2), 0);
    assert_int_equal(up_to(json, "step_sequences", 5), 1);
    assert_true(member(json, "step_sequences", "sum") == 3);
    json_decref(json);
}

static void generations_add_up_but_for_what_is_so_now(void **state)
{
    struct stats first = {0}, second = {0};
    struct stats_copy sum = {0}, c;

    (void)state;
    stats_set(&first, STAT_RUNNING, 5);
    stats_set(&first, STAT_OUTPUT_TOKENS, 100);
    stats_observe(&first, STAT_QUEUE, 7);
    stats_set(&second, STAT_RUNNING, 2);
    stats_set(&second, STAT_OUTPUT_TOKENS, 10);
    stats_count(&second, STAT_OUTPUT_TOKENS, 1);
    stats_observe(&second, STAT_QUEUE, 8);
    stats_read(&first, &c);
    stats_add(&sum, &c);
    stats_read(&second, &c);
    stats_add(&sum, &c);
    assert_int_equal(sum.numbers[STAT_RUNNING], 2);
    assert_int_equal(sum.numbers[STAT_OUTPUT_TOKENS], 111);
    assert_int_equal(sum.histograms[STAT_QUEUE].counts[0], 2);
    assert_int_equal(sum.histograms[STAT_QUEUE].sum, 15);
}

/* Whatever a dying rank left there. */
static void the_largest_numbers_fit(void **state)
{
    struct stats_copy c;
    char text[STATS_JSON_BYTES];

    (void)state;
    memset(&c, 0xff, sizeof(c));
    assert_in_range(stats_json(&c, text, sizeof(text)), 1000, STATS_JSON_BYTES - 512);
}

static void names_of_the_contract_are_there(void **state)
{
    static const char *const numbers[] = {"running", "waiting", "kv_blocks_used", "kv_blocks",
        "prefix_tokens_asked", "prefix_tokens_hit", "preemptions", "prompt_tokens", "output_tokens"};
    struct stats s = {0};
    struct stats_copy c;
    json_t *json;

    (void)state;
    for (int i = 0; i < STAT_NUMBERS; i++)
        stats_set(&s, (enum stats_number)i, 100 + (uint64_t)i);
    stats_read(&s, &c);
    json = json_of(&c);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        assert_in_range(json_integer_value(json_object_get(json, numbers[i])), 100,
            100 + STAT_NUMBERS - 1);
    assert_int_equal(json_integer_value(json_object_get(json, "running")), 100 + STAT_RUNNING);
    assert_int_equal(json_object_size(json), STAT_NUMBERS + STAT_DISTRIBUTIONS);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_counts_in_every_bucket_that_reaches_it),
        cmocka_unit_test(generations_add_up_but_for_what_is_so_now),
        cmocka_unit_test(the_largest_numbers_fit),
        cmocka_unit_test(names_of_the_contract_are_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
