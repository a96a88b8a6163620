/* test_tokenizer_files.c - what is wrong with a tokenizer.json is said by name.
 *
 * The small tokenizer with one part replaced at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/json_write.h"
#include "text/tokenizer.h"
#include "text/pretokenize.h"
#include "small_tokenizer.h"
#include "text_support.h"

static void a_sound_file_opens_in_either_order(void **state)
{
    struct tokenizer *t;

    (void)state;
    for (int merges_first = 0; merges_first < 2; merges_first++) {
        assert_int_equal(small_tokenizer_open(small_tokenizer_file(-1, NULL, merges_first), &t), STATUS_OK);
        small_tokenizer_works(t);
        assert_int_equal(tokenizer_vocab_size(t), 260);
        tokenizer_close(t);
    }
}

static void a_gap_in_the_ids_is_no_text(void **state)
{
    const int32_t ids[] = { 'a', 270, 'b', 281 };
    struct tokenizer *t;
    char *text;
    size_t bytes;

    (void)state;
    assert_int_equal(small_tokenizer_open(small_tokenizer_file(PART_VOCAB,
        ", \"ab\": 256, \"abc\": 257, \"<|end|>\": 280, \"<t>\": 281}", false), &t), STATUS_OK);
    assert_int_equal(tokenizer_decode(t, ids, 4, false, &text, &bytes), STATUS_OK);
    assert_string_equal(text, "ab<t>");
    free(text);
    tokenizer_close(t);
}

static void each_wrong_part_is_named(void **state)
{
    static const struct {
        int part;
        const char *instead, *why;
    } cases[] = {
        { PART_NORMALIZER, "\"normalizer\": {\"type\": \"NFKC\"}", "normalizer: it must be NFC" },
        { PART_NORMALIZER, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": "
            "\"NFC\"}, {\"type\": \"Lowercase\"}]}", "normalizer: it must be NFC" },
        { PART_NORMALIZER, "\"normalizer\": {\"type\": \"Sequence\"}", "it must be NFC" },
        { PART_PRE, "\"pre_tokenizer\": {\"type\": \"Whitespace\"}", "pre_tokenizer: it must be" },
        { PART_PRE, "\"pre_tokenizer\": 7", "pre_tokenizer: it must be" },
        { PART_PRE,
            "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\","
            "\"pattern\": {\"Regex\": \"\\\\s+\"}}, {\"type\": \"ByteLevel\"}]}",
            "another regex" },
        { PART_PRE, "\"x\": 1", "pre_tokenizer: it is missing" },
        { PART_POST, "\"post_processor\": {\"type\": \"TemplateProcessing\"}", "post_processor:" },
        { PART_DECODER, "\"decoder\": {\"type\": \"Metaspace\"}", "decoder: it must be" },
        { PART_DECODER, "\"x\": 1", "decoder: it is missing" },
        { PART_SETTINGS, "\"type\": \"Unigram\"", "model: its type must be BPE" },
        { PART_SETTINGS, "\"type\": 5", "model: its type must be BPE" },
        { PART_SETTINGS, "\"dropout\": 0.1", "dropout must be null" },
        { PART_SETTINGS, "\"ignore_merges\": 1", "ignore_merges must be true or false" },
        { PART_SETTINGS, "\"continuing_subword_prefix\": \"##\"",
            "continuing_subword_prefix must be empty" },
        { PART_SETTINGS, "\"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix must be empty" },
        { PART_VOCAB, ", \"ab\": 255, \"abc\": 257}", "id 255 belongs to two tokens" },
        { PART_VOCAB, ", \"ab\": 256, \"ab\": 257}", "has two ids, 256 and 257" },
        { PART_VOCAB, ", \"ab\": \"x\"}", "expected a token's id" },
        { PART_VOCAB, ", \"ab\": -1}", "a token's id is a whole number" },
        { PART_VOCAB, ", \"ab\": 1.5}", "a token's id is a whole number" },
        { PART_VOCAB, ", \"ab\": 99999999}", "a token's id is a whole number" },
        { PART_MERGES, "{}", "the merges to be an array" },
        { PART_MERGES, "[\"ab\"]", "a space between" },
        { PART_MERGES, "[\"a b c\"]", "a space between" },
        { PART_MERGES, "[\"a z\"]", "not in the vocabulary" },
        { PART_MERGES, "[[\"a\", \"z\"]]", "not in the vocabulary" },
        { PART_MERGES, "[[\"a\"]]", "a merge to be two strings" },
        { PART_MERGES, "[[\"a\", \"b\", \"c\"]]", "a merge to be two strings" },
        { PART_MERGES, "[5]", "a merge must be a string" },
        { PART_ADDED, "\"added_tokens\": 3", "added_tokens: expected an array" },
        { PART_ADDED, "\"added_tokens\": [{\"content\": \"x\"}]", "an id is not a whole number" },
        { PART_ADDED, "\"added_tokens\": [{\"id\": 300}]", "content of an added token must be a string" },
        { PART_ADDED, "\"added_tokens\": [{\"id\": 300, \"content\": \"x\", \"lstrip\": 1}]",
            "lstrip of an added token must be true or false, not a number" },
        { PART_ADDED, "\"added_tokens\": [5]", "an id is not a whole number" },
    };
    struct tokenizer *t = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int merges_first = 0; merges_first < 2; merges_first++) {
            struct text_buffer file = small_tokenizer_file(cases[i].part, cases[i].instead, merges_first);

            assert_int_equal(small_tokenizer_open(file, &t), STATUS_INVALID);
            if (strstr(log_last_error(), cases[i].why) == NULL
                || strncmp(log_last_error(), "tokenizer.json: ", 16) != 0)
                fail_msg("%s gave: %s", cases[i].instead, log_last_error());
        }
    assert_null(t);
}

/* Each of what the second step must be, one at a time. */
static void steps_that_cut_otherwise_are_refused(void **state)
{
    static const struct {
        const char *behavior, *invert, *type, *prefix, *regex, *why;
    } cases[] = {
        { "\"Isolated\"", "false", "\"ByteLevel\"", "false", "false", NULL },
        { "\"Isolated\"", "true", "\"ByteLevel\"", "false", "false", NULL },
        { "\"Removed\"", "true", "\"ByteLevel\"", "false", "false", NULL },
        { "\"Removed\"", "false", "\"ByteLevel\"", "false", "false", "must be Isolated" },
        { "\"Isolated\"", "null", "\"ByteLevel\"", "false", "false", "must be Isolated" },
        { "\"Contiguous\"", "false", "\"ByteLevel\"", "false", "false", "must be Isolated" },
        { "\"MergedWithNext\"", "false", "\"ByteLevel\"", "false", "false", "must be Isolated" },
        { "\"Isolated\"", "false", "\"Metaspace\"", "false", "false", "second step" },
        { "\"Isolated\"", "false", "\"ByteLevel\"", "true", "false", "second step" },
        { "\"Isolated\"", "false", "\"ByteLevel\"", "null", "false", "second step" },
        { "\"Isolated\"", "false", "\"ByteLevel\"", "false", "true", "second step" },
        { "\"Isolated\"", "false", "\"ByteLevel\"", "false", "null", "second step" },
    };
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text_buffer part = { 0 };
        char rest[256];
        enum status s;

        text_buffer_put(&part, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": "
                               "[{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        json_write_string(&part, pretokenizer_regex, strlen(pretokenizer_regex));
        snprintf(rest, sizeof(rest), "}, \"behavior\": %s, \"invert\": %s}, {\"type\": %s, "
            "\"add_prefix_space\": %s, \"use_regex\": %s}]}", cases[i].behavior, cases[i].invert,
            cases[i].type, cases[i].prefix, cases[i].regex);
        text_buffer_append(&part, rest, strlen(rest) + 1);
        s = small_tokenizer_open(small_tokenizer_file(PART_PRE, part.bytes, false), &t);
        text_buffer_free(&part);
        if (cases[i].why == NULL) {
            assert_int_equal(s, STATUS_OK);
            small_tokenizer_works(t);
            tokenizer_close(t);
            continue;
        }
        assert_int_equal(s, STATUS_INVALID);
        if (strstr(log_last_error(), cases[i].why) == NULL)
            fail_msg("case %zu gave: %s", i, log_last_error());
    }
}

static void keep_warning(void *context, enum log_level level, const char *line)
{
    if (level == LOG_LEVEL_WARN)
        snprintf(context, 256, "%s", line);
}

static void an_id_that_is_not_the_next_one_is_told(void **state)
{
    char warning[256] = "";
    struct tokenizer *t;

    (void)state;
    log_set_sink(keep_warning, warning);
    assert_int_equal(small_tokenizer_open(small_tokenizer_file(PART_ADDED, "\"added_tokens\": [{\"id\": 258, "
        "\"content\": \"<x>\"}, {\"id\": 257, \"content\": \"abc\"}]", false), &t), STATUS_OK);
    tokenizer_close(t);
    assert_string_equal(warning, "");
    assert_int_equal(small_tokenizer_open(small_tokenizer_file(PART_ADDED, "\"added_tokens\": [{\"id\": 300, "
        "\"content\": \"<x>\"}]", false), &t), STATUS_OK);
    log_set_sink(NULL, NULL);
    assert_int_equal(tokenizer_find(t, "<x>"), 258);
    tokenizer_close(t);
    assert_non_null(strstr(warning, "\"<x>\" has id 300 there, but 258"));
}

static void post_processors_of_other_shapes_are_refused(void **state)
{
#define TEMPLATE(single)                                                                           \
    "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": " single                     \
    ", \"special_tokens\": {\"e\": {\"ids\": [1]}, \"f\": {\"ids\": [-1]}, \"g\": {}}}"
#define TEXT_A "{\"Sequence\": {\"id\": \"A\"}}"
#define TEXT_B "{\"Sequence\": {\"id\": \"B\"}}"
#define MARK(name) "{\"SpecialToken\": {\"id\": \"" name "\"}}"
    static const char *const bad[] = {
        TEMPLATE("5"), TEMPLATE("[]"), TEMPLATE("[5]"), TEMPLATE("[" TEXT_B "]"),
        TEMPLATE("[" TEXT_A ", " TEXT_A "]"), TEMPLATE("[" MARK("e") "]"),
        TEMPLATE("[" TEXT_A ", " MARK("f") "]"), TEMPLATE("[" TEXT_A ", " MARK("g") "]"),
        TEMPLATE("[" TEXT_A ", " MARK("none") "]"),
        "\"post_processor\": {\"type\": \"Sequence\"}",
        ("\"post_processor\": {\"type\": \"Sequence\", \"processors\": [{\"type\": "
            "\"BertProcessing\"}]}"),
    };
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(small_tokenizer_open(small_tokenizer_file(PART_POST, bad[i], false), &t), STATUS_INVALID);
        if (strstr(log_last_error(), "post_processor: it must be") == NULL)
            fail_msg("%s gave: %s", bad[i], log_last_error());
    }
    assert_int_equal(small_tokenizer_open(small_tokenizer_file(PART_POST, TEMPLATE("[" TEXT_A ", " MARK("e") "]"), false),
        &t), STATUS_OK);
    small_tokenizer_works(t);
    tokenizer_close(t);
}

static void a_byte_without_a_token_is_named(void **state)
{
    struct text_buffer whole = small_tokenizer_file(-1, NULL, false);
    struct tokenizer *t;
    char *z = strstr(whole.bytes, "\"Z\": 90");

    (void)state;
    memcpy(z, "\"ZZ\":90", 7);
    assert_int_equal(small_tokenizer_open(whole, &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "no token for byte 0x5a"));
}

static void any_truncation_is_refused(void **state)
{
    struct text_buffer whole = small_tokenizer_file(-1, NULL, false);
    struct tokenizer *t;

    (void)state;
    for (size_t n = 0; n < whole.count; n += 1 + n / 16) {
        support_write("tokenizer.json", whole.bytes, n);
        assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
    }
    text_buffer_free(&whole);
}

/* One random byte changed: opens or is refused, and what opens can encode. */
static void random_damage_is_harmless(void **state)
{
    uint64_t random = support_seed();
    struct text_buffer whole = small_tokenizer_file(-1, NULL, false);
    struct tokenizer *t;

    (void)state;
    for (int round = 0; round < 300; round++) {
        size_t at = support_random(&random) % whole.count;
        char kept = whole.bytes[at];
        int32_t *ids;
        size_t count;

        whole.bytes[at] = "\"{}[]:,0a \\\xff"[support_random(&random) % 12];
        support_write("tokenizer.json", whole.bytes, whole.count);
        whole.bytes[at] = kept;
        if (tokenizer_open(support_temp_dir(), &t) != STATUS_OK)
            continue;
        assert_int_equal(tokenizer_encode(t, "abc abc", 7, TOKENIZER_PARSE_SPECIAL, &ids, &count), STATUS_OK);
        free(ids);
        tokenizer_close(t);
    }
    text_buffer_free(&whole);
}

static int remove_files(void **state)
{
    (void)state;
    support_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_file_opens_in_either_order),
        cmocka_unit_test(a_gap_in_the_ids_is_no_text),
        cmocka_unit_test(each_wrong_part_is_named),
        cmocka_unit_test(steps_that_cut_otherwise_are_refused),
        cmocka_unit_test(an_id_that_is_not_the_next_one_is_told),
        cmocka_unit_test(post_processors_of_other_shapes_are_refused),
        cmocka_unit_test(a_byte_without_a_token_is_named),
        cmocka_unit_test(any_truncation_is_refused),
        cmocka_unit_test(random_damage_is_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, remove_files);
}
