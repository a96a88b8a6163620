/* test_text_tools.c - tokenize, detokenize and template as line filters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/json_write.h"
#include "text_support.h"
#include "tools/text_tools.h"

enum tool { TOKENIZE, DETOKENIZE, DETOKENIZE_SKIPPING, DETOKENIZE_OF_MODEL, TEMPLATE };

/* Runs a tool over `input`; *output is malloc'ed. */
static enum status run(enum tool tool, const char *input, size_t bytes, char **output)
{
    const char *dir = support_tokenizer_dir();
    size_t written;
    FILE *in = fmemopen((void *)input, bytes, "r"), *out = open_memstream(output, &written);
    enum status s;

    assert_non_null(in);
    assert_non_null(out);
    if (tool == TOKENIZE)
        s = tool_tokenize(dir, in, out);
    else if (tool == TEMPLATE)
        s = tool_template(dir, in, out);
    else
        s = tool_detokenize(dir, tool == DETOKENIZE_SKIPPING,
            tool == DETOKENIZE_OF_MODEL ? 151936 : 0, in, out);
    fclose(in);
    fclose(out);
    return s;
}

static void check(enum tool tool, const char *input, const char *want)
{
    char *output;

    assert_int_equal(run(tool, input, strlen(input), &output), STATUS_OK);
    assert_string_equal(output, want);
    free(output);
}

static void each_line_gives_one_line(void **state)
{
    (void)state;
    check(TOKENIZE, "\"a\"\n\"\"\n\"<|im_end|> \\u0021\"", "[64]\n[]\n[151645, 753]\n");
    check(DETOKENIZE, "[64]\n[]\n[151645, 64, 151668]\n", "\"a\"\n\"\"\n\"<|im_end|>a</think>\"\n");
    check(DETOKENIZE_SKIPPING, "[151645, 64, 151668]\n", "\"a</think>\"\n");
    check(TEMPLATE, "{\"messages\": [{\"role\": \"user\", \"content\": \"\xc3\xa9\"}]}\n",
        "\"<|im_start|>user\\n\xc3\xa9<|im_end|>\\n\"\n");
}

static void a_bad_line_stops_and_is_named(void **state)
{
    static const struct {
        enum tool tool;
        const char *input, *output, *why;
    } cases[] = {
        { TOKENIZE, "\"a\"\n5\n\"b\"\n", "[64]\n", "line 2: expected a string in quotes" },
        { TOKENIZE, "\"a\"\n\n", "[64]\n", "line 2: byte 1: the document ends too early" },
        { TOKENIZE, "\"\xff\"\n", "", "line 1: byte 1: not UTF-8" },
        { TOKENIZE, "\"a\" \"b\"\n", "", "line 1: byte 4: bytes after the end" },
        { DETOKENIZE, "{}\n", "", "line 1: expected an array of token ids" },
        { DETOKENIZE, "[1]\n[64, 151669]\n", "\"\\\"\"\n", "line 2: element 1 is not a token id" },
        { DETOKENIZE, "[-1]\n", "", "line 1: element 0 is not a token id (0 to 151668)" },
        { DETOKENIZE, "[1.0]\n", "", "line 1: element 0 is not a token id" },
        { TEMPLATE, "{\"messages\": [{}]}\n", "", "line 1: messages[0]: role must be a string" },
    };
    char *output;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(run(cases[i].tool, cases[i].input, strlen(cases[i].input), &output),
            STATUS_INVALID);
        assert_string_equal(output, cases[i].output);
        if (strncmp(log_last_error(), cases[i].why, strlen(cases[i].why)) != 0)
            fail_msg("wanted %s, got %s", cases[i].why, log_last_error());
        free(output);
    }
}

/* Qwen3's models have 151936 rows, its tokenizer 151669 tokens. */
static void ids_of_padding_rows_are_nothing_where_the_model_is_known(void **state)
{
    static const char *const bad[] = { "[151936]\n", "[-1]\n", "[4294967296]\n", "[\"64\"]\n",
        "[[64]]\n" };
    char *output;

    (void)state;
    check(DETOKENIZE_OF_MODEL, "[64, 151669, 65, 151935]\n[151700]\n[]\n", "\"ab\"\n\"\"\n\"\"\n");
    check(DETOKENIZE_OF_MODEL, "[128233, 151669, 231]\n[ ]", "\"\xe1\xb2\x89\"\n\"\"\n");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(run(DETOKENIZE_OF_MODEL, bad[i], strlen(bad[i]), &output), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "is not a token id (0 to 151935)"));
        free(output);
    }
}

/* One error line only, however deep it was found. */
static void count_errors(void *context, enum log_level level, const char *line)
{
    (void)line;
    *(int *)context += level == LOG_LEVEL_ERROR;
}

static void a_bad_line_is_one_error(void **state)
{
    int errors = 0;
    char *output;

    (void)state;
    log_set_sink(count_errors, &errors);
    run(TEMPLATE, "{\"messages\": 5}", 15, &output);
    free(output);
    run(TOKENIZE, "5", 1, &output);
    free(output);
    log_set_sink(NULL, NULL);
    assert_int_equal(errors, 2);
}

static void a_closed_output_is_an_error(void **state)
{
    FILE *in = fmemopen((void *)"\"a\"", 3, "r"), *out = fopen("/dev/full", "w");

    (void)state;
    assert_non_null(in);
    assert_non_null(out);
    assert_int_equal(tool_tokenize(support_tokenizer_dir(), in, out), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "cannot write"));
    fclose(in);
    fclose(out);
}

/* All vectors in one run: text in, ids out, and the ids' text back. */
static void the_vectors_pass_through_both_filters(void **state)
{
    struct json_document d = support_golden("vectors.json");
    struct text_buffer texts = { 0 }, ids = { 0 }, decoded = { 0 };
    char *output;

    (void)state;
    for (const struct json_value *v = json_get(d.root, "encode")->first; v != NULL; v = v->next) {
        json_write_value(&texts, json_get(v, "text"));
        text_buffer_put(&texts, "\n");
        json_write_value(&ids, json_get(v, "ids"));
        text_buffer_put(&ids, "\n");
        json_write_value(&decoded, json_get(v, "decoded"));
        text_buffer_put(&decoded, "\n");
    }
    text_buffer_append(&decoded, "", 1);
    assert_int_equal(run(TOKENIZE, texts.bytes, texts.count, &output), STATUS_OK);
    assert_int_equal(strlen(output), ids.count);
    assert_memory_equal(output, ids.bytes, ids.count);
    free(output);
    assert_int_equal(run(DETOKENIZE_SKIPPING, ids.bytes, ids.count, &output), STATUS_OK);
    assert_string_equal(output, decoded.bytes);
    free(output);
    text_buffer_free(&texts);
    text_buffer_free(&ids);
    text_buffer_free(&decoded);
    json_document_free(&d);
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
        cmocka_unit_test(each_line_gives_one_line),
        cmocka_unit_test(a_bad_line_stops_and_is_named),
        cmocka_unit_test(ids_of_padding_rows_are_nothing_where_the_model_is_known),
        cmocka_unit_test(a_bad_line_is_one_error),
        cmocka_unit_test(a_closed_output_is_an_error),
        cmocka_unit_test(the_vectors_pass_through_both_filters),
    };

    return cmocka_run_group_tests(tests, NULL, remove_files);
}
