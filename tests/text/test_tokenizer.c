/* test_tokenizer.c - Qwen3's tokenizer against the reference's own answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <utf8proc.h>

#include "quern/log.h"
#include "text/tokenizer.h"
#include "text/vocab_table.h"
#include "text_support.h"

static struct tokenizer *qwen;
static struct json_document vectors;

static void check_ids(const struct json_value *want, const int32_t *ids, size_t count)
{
    const struct json_value *v = want->first;

    assert_int_equal(count, want->count);
    for (size_t i = 0; i < count; i++, v = v->next)
        assert_int_equal(ids[i], atoi(v->text));
}

static size_t read_ids(const struct json_value *list, int32_t *ids, size_t room)
{
    size_t count = 0;

    assert_true(list->count <= room);
    for (const struct json_value *v = list->first; v != NULL; v = v->next)
        ids[count++] = atoi(v->text);
    return count;
}

static void check_text(const struct json_value *want, const char *text, size_t bytes)
{
    assert_int_equal(bytes, want->bytes);
    assert_memory_equal(text, want->text, bytes);
}

static void every_encoding_equals_the_reference(void **state)
{
    const struct json_value *list = json_get(vectors.root, "encode");

    (void)state;
    assert_int_equal(list->count, 562);
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        const struct json_value *text = json_get(v, "text");
        size_t count, bytes;
        int32_t *ids;
        char *back;

        assert_int_equal(
            tokenizer_encode(qwen, text->text, text->bytes, TOKENIZER_PARSE_SPECIAL, &ids, &count), STATUS_OK);
        check_ids(json_get(v, "ids"), ids, count);
        assert_int_equal(tokenizer_decode(qwen, ids, count, true, &back, &bytes), STATUS_OK);
        check_text(json_get(v, "decoded"), back, bytes);
        free(back);
        free(ids);
    }
}

static void every_decoding_equals_the_reference(void **state)
{
    static const char *const keys[] = { "text", "text_skip_special" };
    const struct json_value *list = json_get(vectors.root, "decode");

    (void)state;
    assert_int_equal(list->count, 80);
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        int32_t ids[256];
        size_t count = read_ids(json_get(v, "ids"), ids, 256), bytes;
        char *text;

        for (int skip = 0; skip < 2; skip++) {
            assert_int_equal(tokenizer_decode(qwen, ids, count, skip, &text, &bytes), STATUS_OK);
            check_text(json_get(v, keys[skip]), text, bytes);
            free(text);
        }
    }
}

static void only_special_tokens_are_skipped(void **state)
{
    const int32_t ids[] = { 151644, 1678, 151667, 151668, 151645, 151643, 151656, 151665 };
    char *text;
    size_t bytes;

    (void)state;
    assert_int_equal(tokenizer_decode(qwen, ids, 8, true, &text, &bytes), STATUS_OK);
    assert_string_equal(text, "time<think></think><tool_response>");
    free(text);
    assert_int_equal(tokenizer_decode(qwen, ids, 2, false, &text, &bytes), STATUS_OK);
    assert_string_equal(text, "<|im_start|>time");
    free(text);
}

static void special_tokens_are_plain_text_unless_parsed(void **state)
{
    const char text[] = "<|im_end|><think>";
    int32_t *ids;
    size_t count;

    (void)state;
    assert_int_equal(tokenizer_encode(qwen, text, strlen(text), TOKENIZER_PARSE_SPECIAL, &ids, &count), STATUS_OK);
    assert_int_equal(count, 2);
    assert_int_equal(ids[0], 151645);
    assert_int_equal(ids[1], 151667);
    free(ids);
    assert_int_equal(tokenizer_encode(qwen, text, strlen(text), 0, &ids, &count), STATUS_OK);
    assert_true(count > 2);
    assert_int_equal(ids[count - 1], 151667);
    for (size_t i = 0; i + 1 < count; i++)
        assert_true(ids[i] < 151643);
    free(ids);
}

static void tokens_are_found_by_their_spelling(void **state)
{
    (void)state;
    assert_int_equal(tokenizer_find(qwen, "<|im_end|>"), 151645);
    assert_int_equal(tokenizer_find(qwen, "!"), 0);
    assert_int_equal(tokenizer_find(qwen, "\xc4\xa0"), 220);
    assert_int_equal(tokenizer_find(qwen, "<|no such token|>"), -1);
    assert_int_equal(tokenizer_vocab_size(qwen), 151669);
}

static void bad_utf8_is_refused_with_its_offset(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
        const char *where;
    } cases[] = {
        { "abc\xff", 4, "byte 3 " },          { "\xc3", 1, "byte 0 " },
        { "ok \xe4\xb8", 5, "byte 3 " },      { "\xed\xa0\x80", 3, "byte 0 " },
        { "12345678\xc0\x80", 10, "byte 8 " }, { "\xf4\x90\x80\x80", 4, "byte 0 " },
    };
    int32_t *ids = NULL;
    size_t count = 77;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(
            tokenizer_encode(qwen, cases[i].text, cases[i].bytes, TOKENIZER_PARSE_SPECIAL, &ids, &count),
            STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), cases[i].where));
    }
    assert_null(ids);
    assert_int_equal(count, 77);
}

static void ids_out_of_range_are_refused_and_gaps_are_nothing(void **state)
{
    const int32_t bad[] = { -1, 151669, INT32_MAX };
    char *text = NULL;
    size_t bytes;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(tokenizer_decode(qwen, &bad[i], 1, false, &text, &bytes), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "out of range"));
    }
    assert_null(text);
}

/* Encodes, decodes, and compares with NFC: of texts without added tokens the
 * two are the same, whatever the regex and the merges did. */
static void check_round_trip(const char *text, size_t bytes)
{
    utf8proc_uint8_t *normal;
    utf8proc_ssize_t normal_bytes = utf8proc_map((const utf8proc_uint8_t *)text,
        (utf8proc_ssize_t)bytes, &normal, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    utf8proc_uint8_t *again;
    int32_t *ids;
    size_t count, back_bytes;
    char *back;

    assert_true(normal_bytes >= 0);
    assert_int_equal(tokenizer_encode(qwen, text, bytes, TOKENIZER_PARSE_SPECIAL, &ids, &count), STATUS_OK);
    assert_int_equal(tokenizer_decode(qwen, ids, count, false, &back, &back_bytes), STATUS_OK);
    /* Characters younger than the reference's tables stay unnormalized: the
     * comparison normalizes both sides. */
    assert_int_equal(utf8proc_map((const utf8proc_uint8_t *)back, (utf8proc_ssize_t)back_bytes,
                         &again, UTF8PROC_STABLE | UTF8PROC_COMPOSE), normal_bytes);
    assert_memory_equal(again, normal, (size_t)normal_bytes);
    free(again);
    free(normal);
    free(ids);
    free(back);
}

static void random_text_comes_back_as_its_nfc(void **state)
{
    uint64_t random = support_seed();
    char text[4 * 300];

    (void)state;
    for (int round = 0; round < 4000; round++)
        check_round_trip(text, support_random_text(&random, support_random(&random) % 300, text));
}

/* One piece of a million bytes: the merge loop must not be quadratic. */
static void a_megabyte_without_a_space_is_encoded(void **state)
{
    enum { BYTES = 1 << 20 };
    uint64_t random = support_seed();
    char *text = malloc(BYTES);

    (void)state;
    memset(text, 'a', BYTES);
    check_round_trip(text, BYTES);
    for (size_t i = 0; i < BYTES; i++)
        text[i] = (char)('a' + support_random(&random) % 26);
    check_round_trip(text, BYTES);
    memset(text, ' ', BYTES);
    check_round_trip(text, BYTES);
    for (size_t i = 0; i + 3 <= BYTES; i += 3)
        memcpy(text + i, "\xe4\xb8\xad", 3);
    check_round_trip(text, BYTES / 3 * 3);
    free(text);
}

static void the_flat_table_says_what_the_tokenizer_says(void **state)
{
    size_t bytes = vocab_table_bytes(qwen);
    void *mem = malloc(bytes);
    struct vocab_table table;

    (void)state;
    assert_int_equal(vocab_table_write(qwen, mem, bytes - 1), STATUS_INVALID);
    assert_int_equal(vocab_table_write(qwen, mem, bytes), STATUS_OK);
    assert_int_equal(vocab_table_attach(mem, bytes, &table), STATUS_OK);
    assert_int_equal(table.count, 151669);
    for (int32_t id = 0; id < 151669; id += 7) {
        const uint8_t *raw;
        size_t count;
        bool special;

        assert_true(vocab_table_get(&table, id, &raw, &count, &special));
        assert_true(count > 0);
        assert_int_equal(special, id >= 151643 && id <= 151656);
    }
    free(mem);
}

static int open_qwen(void **state)
{
    (void)state;
    vectors = support_golden("vectors.json");
    return tokenizer_open(support_tokenizer_dir(), &qwen) == STATUS_OK ? 0 : -1;
}

static int close_qwen(void **state)
{
    (void)state;
    tokenizer_close(qwen);
    json_document_free(&vectors);
    support_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_encoding_equals_the_reference),
        cmocka_unit_test(every_decoding_equals_the_reference),
        cmocka_unit_test(only_special_tokens_are_skipped),
        cmocka_unit_test(special_tokens_are_plain_text_unless_parsed),
        cmocka_unit_test(tokens_are_found_by_their_spelling),
        cmocka_unit_test(bad_utf8_is_refused_with_its_offset),
        cmocka_unit_test(ids_out_of_range_are_refused_and_gaps_are_nothing),
        cmocka_unit_test(random_text_comes_back_as_its_nfc),
        cmocka_unit_test(a_megabyte_without_a_space_is_encoded),
        cmocka_unit_test(the_flat_table_says_what_the_tokenizer_says),
    };

    return cmocka_run_group_tests(tests, open_qwen, close_qwen);
}
