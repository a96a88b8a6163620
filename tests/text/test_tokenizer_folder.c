/* test_tokenizer_folder.c - the files of a tokenizer: which there are, and what else lies there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quern/log.h"
#include "text/text_file.h"
#include "text/tokenizer.h"
#include "text/vocab_table.h"
#include "small_tokenizer.h"
#include "text_support.h"

/* vocab.json and merges.txt; NULL leaves a file out. */
static enum status open_older(const char *vocab_end, const char *merges, const char *config,
    struct tokenizer **t)
{
    struct text_buffer vocab = { 0 };

    support_remove();
    small_tokenizer_put_vocab(&vocab, vocab_end);
    support_write("vocab.json", vocab.bytes + 9, vocab.count - 9); /* without "vocab": */
    text_buffer_free(&vocab);
    if (merges != NULL)
        support_write("merges.txt", merges, strlen(merges));
    if (config != NULL)
        support_write("tokenizer_config.json", config, strlen(config));
    return tokenizer_open(support_temp_dir(), t);
}

static void what_is_wrong_with_older_files_is_named(void **state)
{
    static const char end[] = ", \"ab\": 256, \"abc\": 257}";
    static const struct {
        const char *end, *merges, *config, *why;
    } cases[] = {
        { end, NULL, NULL, "merges.txt: No such file" },
        { end, "#version: 0.2\na b\nab\n", NULL, "merges.txt: line 3: a merge is two tokens" },
        { end, "a b c\n", NULL, "merges.txt: line 1: a merge is two tokens" },
        { end, "a b\n\na z\n", NULL, "merges.txt: line 3: a merge of tokens" },
        { end, "\x1f\x8b", NULL, "compressed by gzip" },
        { ", \"ab\": 256} x", "a b\n", NULL, "vocab.json: byte" },
        { ", \"ab\": \"x\"}", "a b\n", NULL, "vocab.json: byte" },
        { end, "a b\n", "{\"tokenizer_class\": \"GPT2Tokenizer\"}",
            "tokenizer_class is GPT2Tokenizer" },
        { end, "a b\n", "{\"tokenizer_class\": 5}", "tokenizer_class is a number" },
    };
    struct tokenizer *t;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_true(open_older(cases[i].end, cases[i].merges, cases[i].config, &t) < 0);
        if (strstr(log_last_error(), cases[i].why) == NULL)
            fail_msg("case %zu gave: %s", i, log_last_error());
    }
    assert_int_equal(open_older(end, "a b\nab c\n", NULL, &t), STATUS_OK);
    assert_int_equal(tokenizer_find(t, "<|endoftext|>"), 258);
    tokenizer_close(t);
    support_remove();
}

static void the_config_file_decides_what_is_special(void **state)
{
    static const char config[] = "{\"added_tokens_decoder\": {\"259\": {\"content\": \"<t>\", "
                                 "\"special\": true}, \"260\": {\"content\": \"<u>\"}}}";
    static const char *const broken[] = { "{", "{\"added_tokens_decoder\": {\"x\": {}}}",
        "{\"added_tokens_decoder\": []}", "[]", "{\"added_tokens_decoder\": {\"259\": {}}}",
        "{\"added_tokens_decoder\": {\"259\": {\"content\": \"<t>\", \"rstrip\": \"yes\"}}}",
        "{\"add_prefix_space\": true}" };
    const int32_t ids[] = { 259, 260 };
    struct tokenizer *t;
    char *text;
    size_t bytes;

    (void)state;
    support_write("tokenizer_config.json", config, strlen(config));
    assert_int_equal(small_tokenizer_open(small_tokenizer_file(-1, NULL, false), &t), STATUS_OK);
    assert_int_equal(tokenizer_vocab_size(t), 261);
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
    assert_int_equal(tokenizer_encode(t, "", 0, TOKENIZER_PARSE_SPECIAL, &ids, &count), STATUS_INVALID);
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
        struct text_buffer sound_file = small_tokenizer_file(-1, NULL, false);

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

/* One random byte of one of five files: opens or is refused, and what opens can encode. */
static void random_damage_to_any_file_is_harmless(void **state)
{
    static const char *const files[][2] = {
        { "vocab.json", NULL }, /* made below */
        { "merges.txt", "#version: 0.2\na b\nab c\n" },
        { "added_tokens.json", "{\"<t>\": 258, \"<|end|>\": 259, \"\xc3\xa9 \": 260}" },
        { "special_tokens_map.json", "{\"eos_token\": {\"content\": \"<|end|>\", \"lstrip\": true},"
            " \"additional_special_tokens\": [\"<x>\", {\"content\": \"<y>\", \"rstrip\": true}]}" },
        { "tokenizer_config.json", "{\"pad_token\": \"<p>\", \"image_token\": \"<i>\", "
            "\"bos_token\": \"<t>\", \"add_bos_token\": true, \"split_special_tokens\": false}" },
    };
    static const char text[] = "abc <|end|> \xc3\xa9  <x> <y> <i>";
    uint64_t random = support_seed();
    struct text_buffer vocab = { 0 };

    (void)state;
    small_tokenizer_put_vocab(&vocab, ", \"ab\": 256, \"abc\": 257}");
    for (int round = 0; round < 400; round++) {
        size_t damaged = support_random(&random) % 5;
        struct tokenizer *t;
        int32_t *ids;
        size_t count;

        for (size_t i = 0; i < 5; i++) {
            struct text_buffer file = { 0 };

            if (files[i][1] == NULL)
                text_buffer_append(&file, vocab.bytes + 9, vocab.count - 9);
            else
                text_buffer_put(&file, files[i][1]);
            if (i == damaged)
                file.bytes[support_random(&random) % file.count] =
                    "\"{}[]:,0a \n\\\xff"[support_random(&random) % 13];
            support_write(files[i][0], file.bytes, file.count);
            text_buffer_free(&file);
        }
        if (tokenizer_open(support_temp_dir(), &t) != STATUS_OK)
            continue;
        assert_int_equal(tokenizer_encode(t, text, strlen(text),
            TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL, &ids, &count), STATUS_OK);
        free(ids);
        tokenizer_close(t);
    }
    text_buffer_free(&vocab);
    support_remove();
}

/* AddressSanitizer keeps what was freed. A tree of all of it took forty times the file. */
#ifdef __SANITIZE_ADDRESS__
enum { LARGE_BYTES = 8 << 20, MULTIPLE = 16 };
#else
enum { LARGE_BYTES = 8 << 20, MULTIPLE = 4 };
#endif

/* A tokenizer.json of 8 MiB, nearly all of it `unit` again and again where %s stands. */
static void write_large(const char *part, const char *unit)
{
    struct text_buffer large = { 0 }, file;
    const char *hole = strstr(part, "%s");

    text_buffer_append(&large, part, (size_t)(hole - part));
    while (large.count < LARGE_BYTES)
        text_buffer_put(&large, unit);
    text_buffer_append(&large, hole + 2, strlen(hole + 2) + 1);
    file = small_tokenizer_file(PART_NORMALIZER, large.bytes, false);
    support_write("tokenizer.json", file.bytes, file.count);
    text_buffer_free(&file);
    text_buffer_free(&large);
}

/* Opens it in a process of its own: the most memory that took, in bytes. */
static long long peak_of_opening(void)
{
    struct rusage before, after;
    int ends[2], status;
    long kilobytes = -1;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct tokenizer *t;
        long grown;

        getrusage(RUSAGE_SELF, &before);
        if (tokenizer_open(support_temp_dir(), &t) == STATUS_OK)
            tokenizer_close(t);
        getrusage(RUSAGE_SELF, &after);
        grown = after.ru_maxrss - before.ru_maxrss;
        _exit(write(ends[1], &grown, sizeof(grown)) == sizeof(grown) ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &kilobytes, sizeof(kilobytes)), sizeof(kilobytes));
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return (long long)kilobytes << 10;
}

static void a_large_file_takes_a_small_multiple_of_its_size(void **state)
{
    static const char *const parts[][2] = {
        { "\"no such part\": [%s 1]", "1," },
        { "\"normalizer\": {\"type\": \"NFC\", \"x\": [%s 1]}", "1," },
        { "\"added_tokens\": [%s {\"id\": 258, \"content\": \"<x>\"}]",
            "{\"id\": 258, \"content\": \"<x>\"}," },
        { "\"post_processor\": [%s 1]", "[]," },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        long long peak;

        write_large(parts[i][0], parts[i][1]);
        peak = peak_of_opening();
        if (peak > (long long)MULTIPLE * LARGE_BYTES)
            fail_msg("part %zu: a file of %d bytes took %lld", i, LARGE_BYTES, peak);
    }
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
        cmocka_unit_test(what_is_wrong_with_older_files_is_named),
        cmocka_unit_test(the_config_file_decides_what_is_special),
        cmocka_unit_test(a_missing_file_is_named_with_its_path),
        cmocka_unit_test(without_files_there_is_the_tokenizer_of_no_tokens),
        cmocka_unit_test(what_is_no_file_is_refused_at_once),
        cmocka_unit_test(what_people_have_instead_is_named),
        cmocka_unit_test(a_file_larger_than_any_tokenizer_is_refused),
        cmocka_unit_test(random_damage_to_any_file_is_harmless),
        cmocka_unit_test(a_large_file_takes_a_small_multiple_of_its_size),
    };

    return cmocka_run_group_tests(tests, NULL, remove_files);
}
