/* test_options.c - a command line by its table: values, refusals, what is left over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "base/options.h"
#include "quern/log.h"

struct values {
    bool flag, has_seed;
    const char *text, *choice;
    int number;
    float real;
    uint64_t seed, bytes;
};

#define AT(field) offsetof(struct values, field)
static const struct option_row rows[] = {
    {"number", 'n', OPTION_INT, AT(number), "N", "", 1, 100, 0},
    {"flag", 'f', OPTION_FLAG, AT(flag), NULL, "", 0, 0, 0},
    {"text", 't', OPTION_TEXT, AT(text), "TEXT", "", 0, 0, 0},
    {"choice", 0, OPTION_CHOICE, AT(choice), "bf16|f32|f3", "", 0, 0, 0},
    {"real", 0, OPTION_REAL, AT(real), "X", "", 0, 1, 0},
    {"seed", 0, OPTION_SEED, AT(seed), "S", "", 0, 0, AT(has_seed)},
    {"bytes", 0, OPTION_BYTES, AT(bytes), "BYTES", "", 0, 0, 0},
    {"hidden", 0, OPTION_FLAG, AT(flag), NULL, NULL, 0, 0, 0},
    {0},
};

enum { MAX_WORDS = 12 };

/* Splits `line` at blanks, puts "run" before it, and parses. */
static enum status parse(const char *line, struct values *v, char **left)
{
    static char copy[256];
    char *argv[MAX_WORDS + 2] = {(char *)"run"};
    int argc = 1, first = 0;
    enum status s;

    strcpy(copy, line);
    for (char *word = strtok(copy, " "); word != NULL && argc <= MAX_WORDS;
         word = strtok(NULL, " "))
        argv[argc++] = word;
    *v = (struct values){0};
    s = options_parse(rows, argc, argv, v, &first);
    if (s == STATUS_OK && left != NULL) {
        for (int i = first; i < argc; i++)
            left[i - first] = argv[i];
        left[argc - first] = NULL;
    }
    return s;
}

static void refused(const char *line, const char *because)
{
    struct values v;

    assert_int_equal(parse(line, &v, NULL), STATUS_INVALID);
    if (strstr(log_last_error(), because) == NULL)
        fail_msg("\"%s\" gave \"%s\", not \"%s\"", line, log_last_error(), because);
}

static void values_land_at_their_places(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("-n 7 --flag -t words --choice f32 --real=0.25 --bytes 1.5G "
                           "--seed 18446744073709551615", &v, NULL), STATUS_OK);
    assert_int_equal(v.number, 7);
    assert_true(v.flag);
    assert_string_equal(v.text, "words");
    assert_string_equal(v.choice, "f32");
    assert_true(v.real == 0.25f);
    assert_true(v.has_seed);
    assert_true(v.seed == UINT64_MAX);
    assert_true(v.bytes == UINT64_C(3) << 29);
}

static void what_is_not_given_is_left_alone(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("", &v, NULL), STATUS_OK);
    assert_memory_equal(&v, &(struct values){0}, sizeof(v));
}

static void other_words_come_last(void **state)
{
    struct values v;
    char *left[MAX_WORDS + 1];

    (void)state;
    assert_int_equal(parse("one -n 5 two --flag three", &v, left), STATUS_OK);
    assert_int_equal(v.number, 5);
    assert_true(v.flag);
    assert_string_equal(left[0], "one");
    assert_string_equal(left[1], "two");
    assert_string_equal(left[2], "three");
    assert_null(left[3]);
}

static void two_dashes_end_the_options(void **state)
{
    struct values v;
    char *left[MAX_WORDS + 1];

    (void)state;
    assert_int_equal(parse("-f -- --flag -n", &v, left), STATUS_OK);
    assert_string_equal(left[0], "--flag");
    assert_string_equal(left[1], "-n");
    assert_null(left[2]);
}

static void a_dash_alone_is_a_word(void **state)
{
    struct values v;
    char *left[MAX_WORDS + 1];

    (void)state;
    assert_int_equal(parse("-f -", &v, left), STATUS_OK);
    assert_string_equal(left[0], "-");
}

static void help_stops_the_parsing(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("--help", &v, NULL), STATUS_CLOSED);
    assert_int_equal(parse("-fh --nonsense", &v, NULL), STATUS_CLOSED);
}

static void unknown_options_are_named(void **state)
{
    (void)state;
    refused("--nonsense", "unknown option --nonsense: see quern run --help");
    refused("--nonsense=3", "--nonsense=3");
    refused("-x", "unknown option -x");
    refused("-fx", "unknown option -x");
    refused("word -xf", "unknown option -x");
}

static void unknown_options_suggest_the_nearest(void **state)
{
    (void)state;
    refused("--nmuber 3", "unknown option --nmuber: did you mean --number? See quern run --help");
    refused("--chioce=f32", "unknown option --chioce=f32: did you mean --choice?");
    refused("--hepl", "did you mean --help?");
    refused("--hiddne", "unknown option --hiddne: see"); /* it is not for people */
}

static void flags_with_values_are_named(void **state)
{
    (void)state;
    refused("--flag=yes", "--flag takes no value: see quern run --help");
}

static void missing_values_are_named(void **state)
{
    (void)state;
    refused("--number", "--number needs a value");
    refused("-n", "-n needs a value");
}

static void whole_numbers_keep_their_range(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("-n 1", &v, NULL), STATUS_OK);
    assert_int_equal(parse("-n 100", &v, NULL), STATUS_OK);
    refused("-n 0", "--number 0: it wants a whole number from 1 to 100");
    refused("-n 101", "from 1 to 100");
    refused("-n -3", "from 1 to 100");
    refused("-n 7x", "from 1 to 100");
    refused("-n 1.5", "from 1 to 100");
    refused("--number=", "from 1 to 100");
    refused("-n 99999999999999999999", "from 1 to 100");
}

static void numbers_keep_their_range(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("--real 1", &v, NULL), STATUS_OK);
    assert_int_equal(parse("--real 0", &v, NULL), STATUS_OK);
    refused("--real 1.01", "--real 1.01: it wants a number from 0 to 1");
    refused("--real nan", "from 0 to 1");
    refused("--real -inf", "from 0 to 1");
    refused("--real half", "from 0 to 1");
}

static void seeds_are_all_of_64_bits(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("--seed 0", &v, NULL), STATUS_OK);
    assert_true(v.has_seed && v.seed == 0);
    refused("--seed -1", "from 0 to 18446744073709551615");
    refused("--seed 18446744073709551616", "from 0 to 18446744073709551615");
    refused("--seed one", "from 0 to 18446744073709551615");
}

static void bytes_have_units(void **state)
{
    static const struct {
        const char *line;
        uint64_t bytes;
    } good[] = {
        {"--bytes 1", 1}, {"--bytes 2K", 2 << 10}, {"--bytes 800M", UINT64_C(800) << 20},
        {"--bytes 16G", UINT64_C(16) << 30}, {"--bytes 2T", UINT64_C(2) << 40},
        {"--bytes 0.5K", 512},
    };
    struct values v;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(parse(good[i].line, &v, NULL), STATUS_OK);
        assert_true(v.bytes == good[i].bytes);
    }
    refused("--bytes 0", "--bytes 0: it wants bytes, such as 800M or 16G");
    refused("--bytes -1G", "such as");
    refused("--bytes G", "such as");
    refused("--bytes 1GB", "such as");
    refused("--bytes inf", "such as");
    refused("--bytes nan", "such as");
    refused("--bytes 1e30", "such as");
}

static void choices_are_whole_words(void **state)
{
    struct values v;

    (void)state;
    assert_int_equal(parse("--choice bf16", &v, NULL), STATUS_OK);
    assert_int_equal(parse("--choice f3", &v, NULL), STATUS_OK);
    assert_string_equal(v.choice, "f3");
    refused("--choice bf", "--choice bf: it wants one of bf16|f32|f3");
    refused("--choice f321", "one of");
    refused("--choice bf16|f32", "one of");
    refused("--choice |", "one of");
    refused("--choice=", "one of");
}

static void ids_are_read_in_order(void **state)
{
    static const int32_t want[] = {1, 22, 2147483647, 0};
    int32_t *ids = NULL;
    size_t n = 0;

    (void)state;
    assert_int_equal(options_ids("1, 22 ,2147483647,0", &ids, &n), STATUS_OK);
    assert_int_equal(n, 4);
    assert_memory_equal(ids, want, sizeof(want));
    free(ids);
    assert_int_equal(options_ids("", &ids, &n), STATUS_OK);
    assert_int_equal(n, 0);
    free(ids);
}

static void bad_ids_are_refused(void **state)
{
    static const char *const bad[] = {
        ",", "1,", ",1", "1,,2", "1 2", "-1", "2147483648", "1,x", "0x", "1;2",
        "99999999999999999999",
    };
    int32_t *ids = (int32_t *)&ids;
    size_t n = 77;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(options_ids(bad[i], &ids, &n), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "it wants token ids, such as 1,2,3"));
    }
    assert_ptr_equal(ids, &ids);
    assert_int_equal(n, 77);
}

static const char *nearest(const char *word, const char *const *names)
{
    struct nearest n = NEAREST_TO(word, strlen(word));

    for (; *names != NULL; names++)
        nearest_offer(&n, *names);
    return n.name != NULL ? n.name : "none";
}

static void the_nearest_word_needs_the_fewest_edits(void **state)
{
    static const char *const names[] = {"run", "serve", "plan", "tokenize", "detokenize", NULL};

    (void)state;
    assert_string_equal(nearest("rum", names), "run");        /* another letter */
    assert_string_equal(nearest("rn", names), "run");         /* one less */
    assert_string_equal(nearest("runn", names), "run");       /* one more */
    assert_string_equal(nearest("urn", names), "run");        /* two swapped */
    assert_string_equal(nearest("tokenise", names), "tokenize");
    assert_string_equal(nearest("detoknize", names), "detokenize");
    assert_string_equal(nearest("server", names), "serve");
    assert_string_equal(nearest("pan", names), "plan");
    assert_string_equal(nearest("go", names), "none");
    assert_string_equal(nearest("x", names), "none");
    assert_string_equal(nearest("", names), "none");
    assert_string_equal(nearest("frobnicate", names), "none");
    assert_string_equal(nearest("tokenizetokenizetokenizetokenizetokenize", names), "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_land_at_their_places),
        cmocka_unit_test(what_is_not_given_is_left_alone),
        cmocka_unit_test(other_words_come_last),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(a_dash_alone_is_a_word),
        cmocka_unit_test(help_stops_the_parsing),
        cmocka_unit_test(unknown_options_are_named),
        cmocka_unit_test(unknown_options_suggest_the_nearest),
        cmocka_unit_test(flags_with_values_are_named),
        cmocka_unit_test(missing_values_are_named),
        cmocka_unit_test(whole_numbers_keep_their_range),
        cmocka_unit_test(numbers_keep_their_range),
        cmocka_unit_test(seeds_are_all_of_64_bits),
        cmocka_unit_test(bytes_have_units),
        cmocka_unit_test(choices_are_whole_words),
        cmocka_unit_test(the_nearest_word_needs_the_fewest_edits),
        cmocka_unit_test(ids_are_read_in_order),
        cmocka_unit_test(bad_ids_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
