/* test_json.c - the pull reader, the tree and the writer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/json_write.h"
#include "text_support.h"

static void tokens_come_in_order_with_their_offsets(void **state)
{
    static const char text[] = " {\"a\": [1, -2.5e+3], \"b\\n\": null, \"c\": {}} ";
    static const struct {
        enum json_kind kind;
        const char *text;
        size_t at;
    } want[] = {
        { JSON_OBJECT, "", 1 },       { JSON_KEY, "a", 2 },        { JSON_ARRAY, "", 7 },
        { JSON_NUMBER, "1", 8 },      { JSON_NUMBER, "-2.5e+3", 11 }, { JSON_ARRAY_END, "", 18 },
        { JSON_KEY, "b\n", 21 },      { JSON_NULL, "", 28 },       { JSON_KEY, "c", 34 },
        { JSON_OBJECT, "", 39 },      { JSON_OBJECT_END, "", 40 }, { JSON_OBJECT_END, "", 41 },
        { JSON_END, "", 43 },         { JSON_END, "", 43 },
    };
    struct json_reader r;
    struct json_token token;

    (void)state;
    json_reader_open(&r, "test", text, strlen(text));
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        assert_int_equal(json_next(&r, &token), STATUS_OK);
        assert_int_equal(token.kind, want[i].kind);
        assert_int_equal(token.at, want[i].at);
        assert_int_equal(token.bytes, strlen(want[i].text));
        assert_memory_equal(token.text, want[i].text, token.bytes);
    }
    json_reader_close(&r);
}

static void skipping_passes_over_whole_values(void **state)
{
    static const char text[] = "[{\"x\": [1, {\"y\": []}]}, 5, 6]";
    struct json_reader r;
    struct json_token token;

    (void)state;
    json_reader_open(&r, "test", text, strlen(text));
    assert_int_equal(json_next(&r, &token), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(json_next(&r, &token), STATUS_OK);
        assert_int_equal(json_skip(&r, &token), STATUS_OK);
    }
    assert_int_equal(json_expect(&r, JSON_NUMBER, "a number", &token), STATUS_OK);
    assert_true(json_text_is(token.text, token.bytes, "6"));
    assert_int_equal(json_expect(&r, JSON_STRING, "a string", &token), STATUS_INVALID);
    assert_string_equal(log_last_error(), "test: byte 28: expected a string");
    json_reader_close(&r);
}

/* Parses and writes again; NULL if it is refused. */
static char *rewrite(const char *text, size_t bytes)
{
    struct text_buffer out = { 0 };
    struct json_document d;
    char *written;
    size_t count;

    if (json_document_parse("test", text, bytes, &d) != STATUS_OK)
        return NULL;
    json_write_value(&out, d.root);
    json_document_free(&d);
    assert_int_equal(text_buffer_take(&out, &written, &count), STATUS_OK);
    return written;
}

static void check_rewrite(const char *text, const char *want)
{
    char *got = rewrite(text, strlen(text));

    assert_non_null(got);
    assert_string_equal(got, want);
    free(got);
}

static void numbers_are_written_as_python_does(void **state)
{
    static const char *const pairs[][2] = {
        { "0.1", "0.1" },
        { "1.0", "1.0" },
        { "1", "1" },
        { "-0", "0" },
        { "-0.0", "-0.0" },
        { "1e16", "1e+16" },
        { "1e15", "1000000000000000.0" },
        { "1E-5", "1e-05" },
        { "0.0001", "0.0001" },
        { "123456789012345678901234567890", "123456789012345678901234567890" },
        { "0.1000000000000000055511151231257827", "0.1" },
        { "5e-324", "5e-324" },
        { "2.2250738585072014e-308", "2.2250738585072014e-308" },
        { "1.7976931348623157e308", "1.7976931348623157e+308" },
        { "1e400", "Infinity" },
        { "-1e400", "-Infinity" },
        { "1e-400", "0.0" },
        { "1e99999999999999999999", "Infinity" },
        { "5.684341886080801486968994140625e-14", "5.684341886080802e-14" },
        { "9007199254740993.0", "9007199254740992.0" },
        { "100.0", "100.0" },
        { "12.5e1", "125.0" },
        { "0.30000000000000004", "0.30000000000000004" },
        { "1e23", "1e+23" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        check_rewrite(pairs[i][0], pairs[i][1]);
}

static void shortest_numbers_read_back(void **state)
{
    uint64_t random = support_seed();

    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint64_t bits = support_random(&random) ^ support_random(&random) << 30;
        double x, back;
        char text[64], *got;

        if (round % 4 == 0)
            bits &= UINT64_C(0xfff) << 52; /* powers of two: the uneven case */
        memcpy(&x, &bits, sizeof(x));
        if (!(x - x == 0))
            continue;
        snprintf(text, sizeof(text), "%.17e", x);
        got = rewrite(text, strlen(text));
        back = strtod(got, NULL);
        assert_memory_equal(&back, &x, sizeof(x));
        assert_true(strlen(got) <= 24);
        free(got);
    }
}

static void text_is_escaped_as_python_does(void **state)
{
    (void)state;
    check_rewrite("\"\\u0000\\u001f\\b\\f\\n\\r\\t\\\"\\\\\\/\\u007f\\u00e9\\ud83d\\ude00\"",
        "\"\\u0000\\u001f\\b\\f\\n\\r\\t\\\"\\\\/\x7f\xc3\xa9\xf0\x9f\x98\x80\"");
    check_rewrite("{\"b\":[],\"a\":{},\"c\":[true,false,null]}",
        "{\"b\": [], \"a\": {}, \"c\": [true, false, null]}");
}

static void the_last_of_equal_keys_counts_in_the_first_place(void **state)
{
    (void)state;
    check_rewrite("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}");
    check_rewrite("{\"a\":1,\"a\":{\"x\":[1]},\"ab\":0,\"a\":[2],\"\":5,\"\":6}",
        "{\"a\": [2], \"ab\": 0, \"\": 6}");
}

static void broken_documents_are_refused_at_their_byte(void **state)
{
    static const struct {
        const char *text;
        int at;
    } cases[] = {
        { "", 0 },          { "  ", 2 },           { "nul", 0 },        { "[1,]", 3 },
        { "[1 2]", 3 },     { "{\"a\" 1}", 5 },    { "{\"a\":}", 5 },   { "{a:1}", 1 },
        { "{\"a\":1,}", 7 }, { "[1", 2 },          { "\"abc", 0 },      { "\"a\\", 2 },
        { "\"\\x\"", 1 },   { "\"\\u12g4\"", 1 },  { "\"\\ud800\"", 1 }, { "\"\\udc00\"", 1 },
        { "\"\\ud800\\u0041\"", 1 }, { "\"\n\"", 1 }, { "\"\xff\"", 1 }, { "\"\xe4\xb8\"", 1 },
        { "01", 0 },        { "-", 0 },            { "1.", 0 },         { "1e", 0 },
        { ".5", 0 },        { "+1", 0 },           { "NaN", 0 },        { "1 x", 2 },
        { "]", 0 },         { "[}", 1 },           { "{]", 1 },         { "\xef\xbb\xbf" "1", 0 },
        { "[1}", 2 },       { "{\"a\":1]", 6 },    { "tru", 0 },        { ",", 0 },
    };
    char where[32];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_null(rewrite(cases[i].text, strlen(cases[i].text)));
        snprintf(where, sizeof(where), "test: byte %d: ", cases[i].at);
        if (strncmp(log_last_error(), where, strlen(where)) != 0)
            fail_msg("%s gave: %s", cases[i].text, log_last_error());
    }
}

static void depth_has_a_limit(void **state)
{
    char text[2 * JSON_DEPTH_MAX + 2];
    char *got;

    (void)state;
    memset(text, '[', JSON_DEPTH_MAX);
    memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
    got = rewrite(text, 2 * JSON_DEPTH_MAX);
    assert_non_null(got);
    assert_memory_equal(got, text, 2 * JSON_DEPTH_MAX);
    free(got);
    memset(text, '[', sizeof(text));
    assert_null(rewrite(text, sizeof(text)));
    assert_non_null(strstr(log_last_error(), "nested too deeply"));
}

/* A random document out of pieces that often fit together. */
static size_t random_document(uint64_t *random, char *out)
{
    static const char *const pieces[] = { "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"", "1", "-2.5", "true", "null", " ", "\"", "\\", "{\"k\":", "[1,",
        "\xe4\xb8\xad", "\xff", "\n", "\"x\":" };
    size_t count = support_random(random) % 24, bytes = 0;

    while (count-- > 0) {
        const char *p = pieces[support_random(random) % (sizeof(pieces) / sizeof(pieces[0]))];

        memcpy(out + bytes, p, strlen(p));
        bytes += strlen(p);
    }
    return bytes;
}

/* Random bytes never crash, and what is accepted means the same when it is
 * written and read again. */
static void random_documents_are_refused_or_stable(void **state)
{
    uint64_t random = support_seed();
    int accepted = 0;

    (void)state;
    for (int round = 0; round < 100000; round++) {
        char text[512], *exact, *once, *twice;
        size_t bytes = random_document(&random, text);

        exact = malloc(bytes + 1); /* for the sanitizer to watch */
        memcpy(exact, text, bytes);
        once = rewrite(exact, bytes);
        free(exact);
        if (once == NULL)
            continue;
        twice = rewrite(once, strlen(once));
        assert_non_null(twice);
        assert_string_equal(once, twice);
        free(once);
        free(twice);
        accepted++;
    }
    assert_true(accepted > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_in_order_with_their_offsets),
        cmocka_unit_test(skipping_passes_over_whole_values),
        cmocka_unit_test(numbers_are_written_as_python_does),
        cmocka_unit_test(shortest_numbers_read_back),
        cmocka_unit_test(text_is_escaped_as_python_does),
        cmocka_unit_test(the_last_of_equal_keys_counts_in_the_first_place),
        cmocka_unit_test(broken_documents_are_refused_at_their_byte),
        cmocka_unit_test(depth_has_a_limit),
        cmocka_unit_test(random_documents_are_refused_or_stable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
