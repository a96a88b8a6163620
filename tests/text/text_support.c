/* text_support.c - unpacking with xz, as a user would: a pipe from `xz -dc`. */
#include "text_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "text/utf8.h"

static char temp_dir[512];
static bool unpacked;

static const char *golden_path(const char *name)
{
    static char path[1024];
    const char *data = getenv("QUERN_TEST_DATA");

    snprintf(path, sizeof(path), "%s/golden/%s", data ? data : "tests", name);
    return path;
}

static char *read_stream(FILE *f, size_t *bytes)
{
    size_t room = 1 << 16, count = 0, got;
    char *text = malloc(room);

    assert_non_null(f);
    while ((got = fread(text + count, 1, room - count - 1, f)) > 0) {
        count += got;
        if (room - count < 2)
            text = realloc(text, room *= 2);
        assert_non_null(text);
    }
    text[count] = '\0';
    *bytes = count;
    return text;
}

char *support_golden_text(const char *name, size_t *bytes)
{
    return support_read(golden_path(name), bytes);
}

char *support_read(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    char *text = read_stream(f, bytes);

    fclose(f);
    return text;
}

const char *support_temp_dir(void)
{
    const char *base = getenv("TMPDIR");

    if (temp_dir[0] == '\0') {
        snprintf(temp_dir, sizeof(temp_dir), "%s/quern-text-XXXXXX", base ? base : "/tmp");
        assert_non_null(mkdtemp(temp_dir));
    }
    return temp_dir;
}

void support_write(const char *name, const char *bytes, size_t count)
{
    char path[1024];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", support_temp_dir(), name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, count, f), count);
    assert_int_equal(fclose(f), 0);
}

void support_remove(void)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "config.json", "vocab.json", "merges.txt", "added_tokens.json",
        "special_tokens_map.json", "chat_template.json" };
    char path[1024];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && temp_dir[0] != '\0'; i++) {
        snprintf(path, sizeof(path), "%s/%s", temp_dir, names[i]);
        unlink(path);
    }
    if (temp_dir[0] != '\0')
        rmdir(temp_dir);
    temp_dir[0] = '\0';
    unpacked = false;
}

const char *support_tokenizer_dir(void)
{
    char command[1100];
    size_t bytes;
    char *text;
    FILE *pipe;

    if (unpacked)
        return temp_dir;
    snprintf(command, sizeof(command), "xz -dc '%s'", golden_path("qwen3-tokenizer/tokenizer.json.xz"));
    pipe = popen(command, "r");
    text = read_stream(pipe, &bytes);
    assert_int_equal(pclose(pipe), 0);
    support_write("tokenizer.json", text, bytes);
    free(text);
    text = support_read(golden_path("qwen3-tokenizer/tokenizer_config.json"), &bytes);
    support_write("tokenizer_config.json", text, bytes);
    free(text);
    unpacked = true;
    return temp_dir;
}

struct json_document support_golden(const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "qwen3-tokenizer/%s", name);
    return support_golden_file(path);
}

struct json_document support_golden_file(const char *name)
{
    struct json_document d;
    size_t bytes;
    char *text = support_read(golden_path(name), &bytes);

    assert_int_equal(json_document_parse(name, text, bytes, &d), STATUS_OK);
    free(text);
    return d;
}

uint64_t support_seed(void)
{
    const char *given = getenv("QUERN_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0)
                          : (uint64_t)time(NULL) << 20 ^ (uint64_t)getpid();

    printf("# QUERN_TEST_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed != 0 ? seed : 1;
}

uint64_t support_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d) >> 8;
}

size_t support_random_text(uint64_t *state, size_t count, char *out)
{
    static const struct {
        uint32_t first, last;
    } kinds[] = {
        { 0x20, 0x7e },     { 'a', 'z' },         { ' ', ' ' },         { 9, 13 },
        { 0x80, 0x2ff },    { 0x300, 0x36f },     { 0x370, 0x17ff },    { 0x1800, 0x2fff },
        { 0x3000, 0x9fff }, { 0xa000, 0xd7ff },   { 0x1100, 0x11ff },   { 0xac00, 0xd7a3 },
        { '0', '9' },       { 0xe000, 0xffff },   { 0x10000, 0x1ffff }, { 0x20000, 0x32fff },
        { 0x1f300, 0x1f6ff }, { '\'', '\'' },     { 0x900, 0xdff },     { 0, 0x10ffff },
    };
    size_t written = 0;

    while (count-- > 0) {
        size_t k = support_random(state) % (sizeof(kinds) / sizeof(kinds[0]));
        uint32_t c = kinds[k].first
                     + (uint32_t)(support_random(state) % (kinds[k].last - kinds[k].first + 1));

        if (c >= 0xd800 && c < 0xe000)
            c = '\n';
        written += utf8_encode(c, out + written);
    }
    return written;
}
