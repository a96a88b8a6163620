/* test_bench.c - quern bench throughput: what it counts is what it asked for. Not how fast. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "tests/e2e/command.h"

enum { MOST_WORDS = 24 };

/* What the benchmark says with these options, and small prompts. */
static json_t *bench(const char *const more[])
{
    const char *words[MOST_WORDS] = {"bench", "throughput", "--json", "--threads", "1"};
    struct command c;
    json_error_t e;
    json_t *json;
    size_t n = 5;

    while (*more != NULL && n < MOST_WORDS - 1)
        words[n++] = *more++;
    words[n] = NULL;
    if (child_run(&c, NULL, words) != 0)
        fail_msg("%s", c.err);
    json = json_loads(c.out, JSON_REJECT_DUPLICATES, &e);
    if (json == NULL)
        fail_msg("%s: %s", e.text, c.out);
    child_free(&c);
    return json;
}

static double figure(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);

    if (!json_is_number(value))
        fail_msg("%s is no number there", name);
    return json_number_value(value);
}

static void every_request_gets_what_was_asked_for(void **state)
{
    static const char *const options[] = {"--requests", "12", "--shortest", "10", "--longest", "10",
        "--seed", "5", NULL};
    json_t *json = bench(options);

    (void)state;
    assert_true(figure(json, "prompt_tokens") == 120);
    assert_true(figure(json, "output_tokens") == 120);
    assert_in_range((int)figure(json, "steps"), 10, 130);
    assert_true(figure(json, "mean_batch") > 1 && figure(json, "mean_batch") <= 16);
    assert_true(figure(json, "hit_rate") == 0);
    assert_true(figure(json, "engine_us") > 0);
    assert_true(figure(json, "weights_bytes") > 15e6 && figure(json, "weights_bytes") < 50e6);
    assert_true(figure(json, "limit_ratio") > 0);
    json_decref(json);
}

/* 40 ids that all share, two blocks of them full. */
static void shared_prefixes_are_found_again(void **state)
{
    static const char *const options[] = {"--requests", "9", "--shortest", "4", "--longest", "9",
        "--shared-prefix", "40", NULL};
    json_t *json = bench(options);
    double asked = figure(json, "prompt_tokens");

    (void)state;
    assert_in_range((int)asked, 9 * 44, 9 * 49);
    assert_true(figure(json, "hit_rate") > 7 * 32 / asked);
    json_decref(json);
}

static void the_next_turn_of_a_chat_finds_the_last_one(void **state)
{
    static const char *const options[] = {"--requests", "3", "--shortest", "40", "--longest", "40",
        "--turns", "3", NULL};
    json_t *json = bench(options);

    (void)state;
    assert_true(figure(json, "prompt_tokens") == 3 * (40 + 120 + 200));
    assert_true(figure(json, "output_tokens") == 3 * 120);
    assert_true(figure(json, "hit_rate") > 3 * (64 + 144) / 1080.0 - 0.001);
    json_decref(json);
}

static void a_long_prompt_beside_answers_is_timed(void **state)
{
    static const char *const options[] = {"--disturb", "600", "--streams", "3", NULL};
    json_t *json = bench(options);

    (void)state;
    assert_true(figure(json, "prompt_tokens") == 600);
    assert_true(figure(json, "undisturbed_p99_ms") >= figure(json, "undisturbed_median_ms"));
    assert_true(figure(json, "disturbed_p99_ms") >= figure(json, "disturbed_median_ms"));
    assert_true(figure(json, "prompt_s") > 0);
    json_decref(json);
}

static void lengths_are_cut_to_what_the_context_holds(void **state)
{
    static const char *const options[] = {"--requests", "4", "--shortest", "500", "--longest", "900",
        "--max-model-len", "64", NULL};
    static const char *const none[] = {"bench", "throughput", "--requests", "1", "--turns", "100",
        "--max-model-len", "64", NULL};
    json_t *json = bench(options);
    struct command c;

    (void)state;
    assert_true(figure(json, "longest") == 32);
    assert_true(figure(json, "output_tokens") == 4 * 32);
    json_decref(json);
    assert_int_equal(child_run(&c, NULL, none), 1);
    assert_non_null(strstr(c.err, "a context of 64 tokens does not hold 100 turns"));
    assert_ptr_equal(strchr(c.err, '\n'), c.err + c.err_bytes - 1);
    child_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_gets_what_was_asked_for),
        cmocka_unit_test(shared_prefixes_are_found_again),
        cmocka_unit_test(the_next_turn_of_a_chat_finds_the_last_one),
        cmocka_unit_test(a_long_prompt_beside_answers_is_timed),
        cmocka_unit_test(lengths_are_cut_to_what_the_context_holds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
