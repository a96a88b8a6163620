/* test_tokenizer_files.c - what is wrong with a tokenizer.json is said by name.
 *
 * A small tokenizer of 256 bytes, two merges and two added tokens is written
 * with one part replaced at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quern/log.h"
#include "text/json_write.h"
#include "text/tokenizer.h"
#include "text/pretokenize.h"
#include "text/text_file.h"
#include "text/vocab.h"
#include "text/vocab_table.h"
#include "text_support.h"

enum { PART_ADDED, PART_NORMALIZER, PART_PRE, PART_POST, PART_DECODER, PART_SETTINGS, PART_VOCAB,
    PART_MERGES, PART_COUNT };

static const char *const sound[PART_COUNT] = {
    [PART_ADDED] = "\"added_tokens\": [{\"id\": 300, \"content\": \"<|end|>\", \"special\": true},"
                   "{\"id\": 301, \"content\": \"<t>\", \"special\": false}]",
    [PART_NORMALIZER] = "\"normalizer\": {\"type\": \"NFC\"}",
    [PART_PRE] = NULL, /* holds the regex: made when needed */
    [PART_POST] = "\"post_processor\": null",
    [PART_DECODER] = "\"decoder\": {\"type\": \"ByteLevel\"}",
    [PART_SETTINGS] = "\"type\": \"BPE\", \"dropout\": null, \"byte_fallback\": false",
    [PART_VOCAB] = ", \"ab\": 256, \"abc\": 257}",
    [PART_MERGES] = "[\"a b\", [\"ab\", \"c\"]]",
};

static void put_pre_tokenizer(struct text_buffer *b, const char *regex, const char *more)
{
    text_buffer_put(b, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": "
                       "\"Split\", \"pattern\": {\"Regex\": ");
    json_write_string(b, regex, strlen(regex));
    text_buffer_put(b, "}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": "
                       "\"ByteLevel\", \"use_regex\": false, \"add_prefix_space\": false");
    text_buffer_put(b, more);
    text_buffer_put(b, "}]}");
}

static void put_vocab(struct text_buffer *b, const char *end)
{
    text_buffer_put(b, "\"vocab\": {");
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelled[4], id[16];

        snprintf(id, sizeof(id), ": %u", byte);
        text_buffer_put(b, byte == 0 ? "" : ", ");
        json_write_string(b, spelled, vocab_spell_byte((uint8_t)byte, spelled));
        text_buffer_put(b, id);
    }
    text_buffer_put(b, end);
}

/* tokenizer.json with the parts of `sound` but for one. */
static struct text_buffer make_file(int part, const char *instead, bool merges_first)
{
    struct text_buffer b = { 0 };
    const char *parts[PART_COUNT];

    memcpy(parts, sound, sizeof(parts));
    if (part >= 0)
        parts[part] = instead;
    text_buffer_put(&b, "{");
    for (int i = PART_ADDED; i <= PART_DECODER; i++) {
        if (i == PART_PRE && parts[i] == NULL)
            put_pre_tokenizer(&b, pretokenizer_regex, "");
        else
            text_buffer_put(&b, parts[i]);
        text_buffer_put(&b, ", ");
    }
    text_buffer_put(&b, "\"model\": {");
    text_buffer_put(&b, parts[PART_SETTINGS]);
    text_buffer_put(&b, ", ");
    if (merges_first) {
        text_buffer_put(&b, "\"merges\": ");
        text_buffer_put(&b, parts[PART_MERGES]);
        text_buffer_put(&b, ", ");
    }
    put_vocab(&b, parts[PART_VOCAB]);
    if (!merges_first) {
        text_buffer_put(&b, ", \"merges\": ");
        text_buffer_put(&b, parts[PART_MERGES]);
    }
    text_buffer_put(&b, "}}");
    return b;
}

static enum status open_file(struct text_buffer b, struct tokenizer **t)
{
    support_write("tokenizer.json", b.bytes, b.count);
    text_buffer_free(&b);
    return tokenizer_open(support_temp_dir(), t);
}

static void check_works(struct tokenizer *t)
{
    static const int32_t want[] = { 257, 'b', 300, 301, 256 };
    int32_t *ids;
    size_t count;

    assert_int_equal(tokenizer_encode(t, "abcb<|end|><t>ab", 16, true, &ids, &count), STATUS_OK);
    assert_int_equal(count, 5);
    assert_memory_equal(ids, want, sizeof(want));
    free(ids);
}

static void a_sound_file_opens_in_either_order(void **state)
{
    struct tokenizer *t;

    (void)state;
    for (int merges_first = 0; merges_first < 2; merges_first++) {
        assert_int_equal(open_file(make_file(-1, NULL, merges_first), &t), STATUS_OK);
        check_works(t);
        assert_int_equal(tokenizer_vocab_size(t), 302);
        tokenizer_close(t);
    }
}

static void a_gap_in_the_ids_is_no_text(void **state)
{
    const int32_t ids[] = { 'a', 280, 'b' };
    struct tokenizer *t;
    char *text;
    size_t bytes;

    (void)state;
    assert_int_equal(open_file(make_file(-1, NULL, false), &t), STATUS_OK);
    assert_int_equal(tokenizer_decode(t, ids, 3, false, &text, &bytes), STATUS_OK);
    assert_string_equal(text, "ab");
    free(text);
    tokenizer_close(t);
}

static void each_wrong_part_is_named(void **state)
{
    static const struct {
        int part;
        const char *instead, *why;
    } cases[] = {
        { PART_NORMALIZER, "\"normalizer\": null", "normalizer: it must be NFC" },
        { PART_NORMALIZER, "\"normalizer\": {\"type\": \"NFKC\"}", "normalizer: it must be NFC" },
        { PART_NORMALIZER, "\"x\": 1", "normalizer: it is missing" },
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
        { PART_SETTINGS, "\"unk_token\": \"u\"", "unk_token must be null" },
        { PART_SETTINGS, "\"byte_fallback\": true", "byte_fallback must be false" },
        { PART_SETTINGS, "\"ignore_merges\": true", "ignore_merges must be false" },
        { PART_SETTINGS, "\"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix must be empty" },
        { PART_VOCAB, ", \"ab\": 255, \"abc\": 257}", "id 255 belongs to two tokens" },
        { PART_VOCAB, ", \"ab\": 256, \"ab\": 257}", "has two ids, 256 and 257" },
        { PART_VOCAB, ", \"ab\": \"x\"}", "expected a token's id" },
        { PART_VOCAB, ", \"ab\": -1}", "a token's id is a whole number" },
        { PART_VOCAB, ", \"ab\": 1.5}", "a token's id is a whole number" },
        { PART_VOCAB, ", \"ab\": 99999999}", "a token's id is a whole number" },
        { PART_MERGES, "{}", "model.merges to be an array" },
        { PART_MERGES, "[\"ab\"]", "a space between" },
        { PART_MERGES, "[\"a z\"]", "not in model.vocab" },
        { PART_MERGES, "[[\"a\", \"z\"]]", "not in model.vocab" },
        { PART_MERGES, "[[\"a\"]]", "a merge to be two strings" },
        { PART_MERGES, "[[\"a\", \"b\", \"c\"]]", "a merge to be two strings" },
        { PART_MERGES, "[5]", "a merge must be a string" },
        { PART_ADDED, "\"added_tokens\": 3", "added_tokens: expected an array" },
        { PART_ADDED, "\"added_tokens\": [{\"content\": \"x\"}]", "an id is not a whole number" },
        { PART_ADDED, "\"added_tokens\": [{\"id\": 300}]", "content must be a string" },
        { PART_ADDED, "\"added_tokens\": [{\"id\": 300, \"content\": \"x\", \"lstrip\": true}]",
            "added token 300: lstrip must be false" },
        { PART_ADDED, "\"added_tokens\": [{\"id\": 300, \"content\": \"x\", \"normalized\": true}]",
            "added token 300: normalized must be false" },
        { PART_ADDED, "\"added_tokens\": [{\"id\": 9, \"content\": \"<x>\"}]",
            "id 9 belongs to two tokens" },
    };
    struct tokenizer *t = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int merges_first = 0; merges_first < 2; merges_first++) {
            struct text_buffer file = make_file(cases[i].part, cases[i].instead, merges_first);

            assert_int_equal(open_file(file, &t), STATUS_INVALID);
            if (strstr(log_last_error(), cases[i].why) == NULL
                || strncmp(log_last_error(), "tokenizer.json: ", 16) != 0)
                fail_msg("%s gave: %s", cases[i].instead, log_last_error());
        }
    assert_null(t);
}

static void a_byte_without_a_token_is_named(void **state)
{
    struct text_buffer whole = make_file(-1, NULL, false);
    struct tokenizer *t;
    char *z = strstr(whole.bytes, "\"Z\": 90");

    (void)state;
    memcpy(z, "\"ZZ\":90", 7);
    assert_int_equal(open_file(whole, &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "no token for byte 0x5a"));
}

static void any_truncation_is_refused(void **state)
{
    struct text_buffer whole = make_file(-1, NULL, false);
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
    struct text_buffer whole = make_file(-1, NULL, false);
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
        assert_int_equal(tokenizer_encode(t, "abc abc", 7, true, &ids, &count), STATUS_OK);
        free(ids);
        tokenizer_close(t);
    }
    text_buffer_free(&whole);
}

static void the_config_file_decides_what_is_special(void **state)
{
    static const char config[] = "{\"added_tokens_decoder\": {\"301\": {\"content\": \"<t>\", "
                                 "\"special\": true}, \"302\": {\"content\": \"<u>\"}}}";
    static const char *const broken[] = { "{", "{\"added_tokens_decoder\": {\"x\": {}}}",
        "{\"added_tokens_decoder\": {\"301\": {\"content\": \"<v>\"}}}",
        "{\"added_tokens_decoder\": {\"301\": {}}}" };
    const int32_t ids[] = { 301, 302 };
    struct tokenizer *t;
    char *text;
    size_t bytes;

    (void)state;
    support_write("tokenizer_config.json", config, strlen(config));
    assert_int_equal(open_file(make_file(-1, NULL, false), &t), STATUS_OK);
    assert_int_equal(tokenizer_vocab_size(t), 303);
    assert_int_equal(tokenizer_decode(t, ids, 2, true, &text, &bytes), STATUS_OK);
    assert_string_equal(text, "<u>");
    free(text);
    tokenizer_close(t);
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        support_write("tokenizer_config.json", broken[i], strlen(broken[i]));
        assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "tokenizer_config.json"));
    }
    support_remove();
}

static void a_missing_file_is_named_with_its_path(void **state)
{
    struct tokenizer *t;

    (void)state;
    support_remove();
    assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_IO);
    assert_non_null(strstr(log_last_error(), support_temp_dir()));
    assert_non_null(strstr(log_last_error(), "tokenizer.json"));
    assert_int_equal(tokenizer_open("/", &t), STATUS_IO);
}

static void without_files_there_is_the_tokenizer_of_no_tokens(void **state)
{
    const int32_t id = 0;
    struct tokenizer *t;
    struct vocab_table table;
    char mem[64], *text;
    int32_t *ids;
    size_t count;

    (void)state;
    support_remove();
    assert_int_equal(tokenizer_open_or_none(support_temp_dir(), &t), STATUS_OK);
    assert_int_equal(tokenizer_vocab_size(t), 0);
    assert_int_equal(tokenizer_encode(t, "", 0, true, &ids, &count), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "no tokenizer files"));
    assert_int_equal(tokenizer_decode(t, &id, 1, false, &text, &count), STATUS_INVALID);
    assert_int_equal(vocab_table_write(t, mem, sizeof(mem)), STATUS_OK);
    assert_int_equal(vocab_table_attach(mem, sizeof(mem), &table), STATUS_OK);
    assert_int_equal(table.count, 0);
    tokenizer_close(t);
    /* a broken tokenizer is not none */
    support_write("tokenizer.json", "{", 1);
    assert_int_equal(tokenizer_open_or_none(support_temp_dir(), &t), STATUS_INVALID);
}

/* Opening would wait for ever on the one, read for ever from the other. */
static void what_is_no_file_is_refused_at_once(void **state)
{
    char path[1024];
    struct tokenizer *t;

    (void)state;
    support_remove();
    snprintf(path, sizeof(path), "%s/tokenizer.json", support_temp_dir());
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "tokenizer.json is a pipe"));
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is a device"));
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is a directory"));
    rmdir(path);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_int_equal(tokenizer_open_or_none(support_temp_dir(), &t), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "which is not there"));
    unlink(path);
}

static void what_people_have_instead_is_named(void **state)
{
    static const struct {
        const char *name, *bytes, *why;
    } cases[] = {
        { "tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "Git LFS pointer" },
        { "tokenizer.json", "\n<!DOCTYPE html><html></html>", "web page" },
        { "tokenizer.json", "", "is empty" },
        { "tokenizer_config.json", "PK\3\4zip", "zip archive" },
        { "tokenizer_config.json", "Entry not found", "is text (\"Entry not found\")" },
    };
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text_buffer sound_file = make_file(-1, NULL, false);

        support_remove();
        support_write("tokenizer.json", sound_file.bytes, sound_file.count);
        text_buffer_free(&sound_file);
        support_write(cases[i].name, cases[i].bytes, strlen(cases[i].bytes));
        assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
        if (strstr(log_last_error(), cases[i].why) == NULL
            || strstr(log_last_error(), cases[i].name) == NULL)
            fail_msg("\"%s\" gave: %s", cases[i].bytes, log_last_error());
    }
    support_remove();
}

/* A hole of 128 MiB and a byte: refused by its size, not read. */
static void a_file_larger_than_any_tokenizer_is_refused(void **state)
{
    char path[1024];
    struct tokenizer *t;

    (void)state;
    support_remove();
    support_write("tokenizer.json", "{", 1);
    snprintf(path, sizeof(path), "%s/tokenizer.json", support_temp_dir());
    assert_int_equal(truncate(path, ((off_t)TEXT_FILE_MOST_BYTES) + 1), 0);
    assert_int_equal(tokenizer_open(support_temp_dir(), &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "has 134217729 bytes, more than 134217728"));
    support_remove();
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
        cmocka_unit_test(a_byte_without_a_token_is_named),
        cmocka_unit_test(any_truncation_is_refused),
        cmocka_unit_test(random_damage_is_harmless),
        cmocka_unit_test(the_config_file_decides_what_is_special),
        cmocka_unit_test(a_missing_file_is_named_with_its_path),
        cmocka_unit_test(without_files_there_is_the_tokenizer_of_no_tokens),
        cmocka_unit_test(what_is_no_file_is_refused_at_once),
        cmocka_unit_test(what_people_have_instead_is_named),
        cmocka_unit_test(a_file_larger_than_any_tokenizer_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, remove_files);
}
