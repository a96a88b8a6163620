/* test_ask.c - quern run's options of the answer: what they do to what is printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/command.h"

#define ONCE "Once upon a time"

/* Standard output of `quern run` with these words; freed by the caller. */
static char *printed(const char *const *words)
{
    const char *all[COMMAND_ARGS] = {"run", "--threads", "1", "-n", "16", "--seed", "3"};
    struct command c;
    char *out;

    for (int i = 7; *words != NULL; words++)
        all[i++] = *words;
    child_run(&c, NULL, all);
    if (c.status != 0)
        fail_msg("status %d: %s", c.status, c.err);
    out = strdup(c.out);
    child_free(&c);
    return out;
}

#define PRINTED(...) printed((const char *const[]){__VA_ARGS__, NULL})

static int count(const char *text, char what)
{
    int n = 0;

    for (; *text != '\0'; text++)
        n += *text == what;
    return n;
}

static void choices_are_lines_one_after_another_the_first_as_alone(void **state)
{
    char *one = PRINTED("--print-ids", "--ignore-eos", ONCE);
    char *three = PRINTED("--print-ids", "--ignore-eos", "--choices", "3", ONCE);
    char *again = PRINTED("--print-ids", "--ignore-eos", "--choices", "3", "--tp", "2", ONCE);
    char *second = strchr(three, '\n') + 1;

    (void)state;
    assert_int_equal(count(three, '\n'), 3);
    assert_int_equal(count(three, ','), 3 * 15);
    assert_memory_equal(three, one, strlen(one));
    assert_memory_not_equal(second, one, strlen(one)); /* noise of their own */
    assert_string_not_equal(strchr(second, '\n') + 1, one);
    assert_int_equal(count(again, '\n'), 3);
    free(one);
    free(three);
    free(again);
}

static void lines_of_logprobs_follow_each_choice(void **state)
{
    char *out = PRINTED("--choices", "2", "--logprobs", "0", "--ignore-eos", ONCE);
    const char *at = strchr(out, '\n') + 1;

    (void)state;
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < 16; i++, at = strchr(at, '\n') + 1) {
            assert_memory_equal(at, "{\"id\": ", 7);
            assert_memory_equal(strchr(at, '\n') - 10, "\"top\": []}", 10);
        }
        if (c == 0)
            at = strchr(at, '\n') + 1; /* the second one's text */
    }
    assert_string_equal(at, "");
    free(out);
}

static void bad_words_do_not_come(void **state)
{
    char *with = PRINTED("--greedy", ONCE), *without;

    (void)state;
    assert_non_null(strstr(with, "little"));
    assert_non_null(strstr(with, "girl"));
    without = PRINTED("--greedy", "--bad-words", "little", "--bad-words", " girl", ONCE);
    assert_null(strstr(without, "little"));
    assert_null(strstr(without, "girl"));
    free(with);
    free(without);
}

/* Ids and a bad word need the text worker, too. */
static void bad_words_hold_for_a_prompt_of_ids(void **state)
{
    char *without = PRINTED("--greedy", "--bad-words", "little", "--ids", "410,403,258,367");

    (void)state;
    assert_null(strstr(without, "little"));
    free(without);
}

static void the_first_stop_text_ends_the_answer(void **state)
{
    char *whole = PRINTED("--greedy", ONCE), *cut;
    const char *at = strstr(whole, " girl");

    (void)state;
    assert_non_null(at);
    cut = PRINTED("--greedy", "--stop", "named", "--stop", " girl", "--stop", "nothing", ONCE);
    assert_int_equal(strlen(cut), at - whole + 1);
    assert_memory_equal(cut, whole, (size_t)(at - whole));
    free(whole);
    free(cut);
}

static void echo_of_ids_prints_their_text(void **state)
{
    char *text = PRINTED("--greedy", "--echo", ONCE);
    char *ids = PRINTED("--greedy", "--echo", "--ids", "410,403,258,367");

    (void)state;
    assert_string_equal(ids, text);
    free(text);
    free(ids);
}

static void a_bias_chooses_the_token(void **state)
{
    char *out = PRINTED("--print-ids", "--logit-bias", "300:100", ONCE);

    (void)state;
    assert_memory_equal(out, "300,300,300,", 12);
    free(out);
}

static void what_cannot_be_is_wrong_usage_before_anything_loads(void **state)
{
    static const char *const wrong[][2] = {{"--logit-bias", "5"}, {"--logit-bias", "5:x"},
        {"--logit-bias", "-1:2"}, {"--logit-bias", "5:101"}, {"--speculate", "ngram"},
        {"--speculate", "ngram:17"}, {"--speculate", "draft:3"}, {"--choices", "0"},
        {"--choices", "129"}, {"--logprobs", "21"}, {"--stop", ""}, {"--bad-words", ""},
        {"--bad-ids", "1,x"}, {"--stop-ids", "a"}, {"--presence-penalty", "3"},
        {"--repetition-penalty", "0"}};

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct command c;

        child_run(&c, NULL, (const char *const[]){"run", wrong[i][0], wrong[i][1], ONCE, NULL});
        if (c.status != 2 || c.out_bytes > 0 || count(c.err, '\n') != 1)
            fail_msg("%s %s: status %d, \"%s\"", wrong[i][0], wrong[i][1], c.status, c.err);
        child_free(&c);
    }
}

static void ids_that_the_model_does_not_have_are_named(void **state)
{
    struct command c;

    (void)state;
    child_run(&c, NULL, (const char *const[]){"run", "--stop-ids", "99999999", ONCE, NULL});
    assert_int_equal(c.status, 1);
    assert_non_null(strstr(c.err, "stop_ids: token id 99999999 is out of range"));
    child_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_are_lines_one_after_another_the_first_as_alone),
        cmocka_unit_test(lines_of_logprobs_follow_each_choice),
        cmocka_unit_test(bad_words_do_not_come),
        cmocka_unit_test(bad_words_hold_for_a_prompt_of_ids),
        cmocka_unit_test(the_first_stop_text_ends_the_answer),
        cmocka_unit_test(echo_of_ids_prints_their_text),
        cmocka_unit_test(a_bias_chooses_the_token),
        cmocka_unit_test(what_cannot_be_is_wrong_usage_before_anything_loads),
        cmocka_unit_test(ids_that_the_model_does_not_have_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
