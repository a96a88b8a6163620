/* test_safetensors.c - every rule of the format has its message; no bytes can crash the reader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <time.h>

#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_header.h"
#include "quern/log.h"
#include "tests/checkpoint/made_file.h"

static struct temp_dir temp;

static int make_temp(void **state)
{
    (void)state;
    temp_dir_make(&temp);
    return 0;
}

static int remove_temp(void **state)
{
    (void)state;
    temp_dir_remove(&temp);
    return 0;
}

/* A file: length prefix, header of `n` bytes, `data` bytes that count up. Returns its size. */
static size_t build(unsigned char *file, const char *header, size_t n, size_t data)
{
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data; i++)
        file[8 + n + i] = (unsigned char)i;
    return 8 + n + data;
}

static enum status open_bytes(const void *bytes, size_t n, struct safetensors **st)
{
    return safetensors_open(temp_dir_write(&temp, "bad.safetensors", bytes, n), st);
}

static void assert_bytes_refused(const void *bytes, size_t n, const char *why)
{
    struct safetensors *st = NULL;

    if (open_bytes(bytes, n, &st) != STATUS_INVALID)
        fail_msg("not refused for: %s", why);
    assert_null(st);
    assert_non_null(strstr(log_last_error(), "bad.safetensors"));
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
}

static void assert_header_refused(const char *header, size_t data, const char *why)
{
    unsigned char file[4096];

    assert_bytes_refused(file, build(file, header, strlen(header), data), why);
}

/* One tensor of this description. */
static void assert_tensor_refused(const char *info, size_t data, const char *why)
{
    char header[1024];

    snprintf(header, sizeof(header), "{\"x\":%s}", info);
    assert_header_refused(header, data, why);
}

static void lengths_that_cannot_be_are_refused(void **state)
{
    unsigned char file[64] = { 9 };

    (void)state;
    assert_bytes_refused("", 0, "is empty, not a safetensors file: download it again");
    assert_bytes_refused(file, 7, "7 bytes are too few");
    assert_bytes_refused(file, 8, "header length 9 is larger than the file (8 bytes)");
    assert_bytes_refused(file, 16, "header length 9 is larger than the file (16 bytes)");
    memset(file, 0xff, 8);
    assert_bytes_refused(file, 16, "header length 18446744073709551615 is larger than the "
                                   "format's limit of 100000000");
    memset(file, 0, 16);
    assert_bytes_refused(file, 8, "is zeros, not a safetensors file: the download did not finish");
    assert_bytes_refused(file, 16, "is zeros, not a safetensors file");
    file[15] = 1;
    assert_bytes_refused(file, 16, "does not begin with '{'");
}

static void headers_that_are_not_json_are_refused(void **state)
{
    (void)state;
    assert_header_refused("[]", 0, "does not begin with '{'");
    assert_header_refused(" {}", 0, "does not begin with '{'");
    assert_header_refused("\xef\xbb\xbf{}", 0, "does not begin with '{'");
    assert_header_refused("{", 0, "not valid JSON");
    assert_header_refused("{}x", 0, "not valid JSON");
    assert_header_refused("{\"a\xff\":1}", 0, "not UTF-8");
    assert_header_refused("{}\xff", 0, "not UTF-8");
    assert_header_refused("{\"__metadata__\":{\"a\":\"\\ud800\"}}", 0, "not valid JSON");
    assert_header_refused("{\"__metadata__\":{\"a\":\"\\udc00x\"}}", 0, "not valid JSON");
    assert_header_refused("{\"a\\u0000b\":{}}", 0, "not valid JSON");
    assert_header_refused("{\"a\":[[[[[[[[1]]]]]]]]}", 0, "nested more than 8 deep");
}

static void header_padded_with_nul_is_refused(void **state)
{
    unsigned char file[64];

    (void)state;
    assert_bytes_refused(file, build(file, "{}\0\0\0\0\0\0", 8, 0), "not valid JSON");
}

static void duplicate_keys_are_refused(void **state)
{
    static const char one[] = "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
    char header[256];

    (void)state;
    snprintf(header, sizeof(header), "{\"x\":%s,\"x\":%s}", one, one);
    assert_header_refused(header, 1, "duplicate");
    assert_tensor_refused("{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],"
                          "\"data_offsets\":[0,1]}", 1, "duplicate");
    assert_header_refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate");
    assert_header_refused("{\"__metadata__\":{\"a\":\"b\",\"a\":\"b\"}}", 0, "duplicate");
}

static void metadata_holds_strings_only(void **state)
{
    (void)state;
    assert_header_refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ a is not a string");
    assert_header_refused("{\"__metadata__\":null}", 0, "__metadata__ is not an object");
    assert_header_refused("{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, "is not a string");
}

static void tensor_fields_must_be_complete_and_typed(void **state)
{
    (void)state;
    assert_tensor_refused("7", 0, "not described by an object");
    assert_tensor_refused("[\"U8\",[1],[0,1]]", 1, "not described by an object");
    assert_tensor_refused("{\"shape\":[1],\"data_offsets\":[0,1]}", 1, "dtype is missing");
    assert_tensor_refused("{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}", 1, "dtype");
    assert_tensor_refused("{\"dtype\":\"F12\",\"shape\":[1],\"data_offsets\":[0,1]}", 1,
                          "tensor x: dtype F12 is unknown");
    assert_tensor_refused("{\"dtype\":\"U8\",\"data_offsets\":[0,1]}", 1, "shape is missing");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}", 1, "shape");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],"
                          "\"data_offsets\":[0,1]}", 1, "9 dimensions");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1]}", 1, "data_offsets is not an array");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}", 1,
                          "array of two");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}", 1,
                          "array of two");
    assert_header_refused("{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                          "empty name");
}

static void numbers_must_be_plain_whole_ones(void **state)
{
    static const struct {
        const char *number, *why;
    } bad[] = {
        { "-1", "shape has an entry that is not a whole number" },
        { "1.5", "shape has an entry" },
        { "1.0", "shape has an entry" },
        { "1e0", "shape has an entry" },
        { "true", "shape has an entry" },
        { "\"1\"", "shape has an entry" },
        { "-0", "the number -0" },
        { "01", "not valid JSON" },
        { "+1", "not valid JSON" },
        { "NaN", "not valid JSON" },
        { "18446744073709551616", "not valid JSON" },
    };
    char info[128];

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        snprintf(info, sizeof(info), "{\"dtype\":\"U8\",\"shape\":[%s],\"data_offsets\":[0,1]}",
                 bad[i].number);
        assert_tensor_refused(info, 1, bad[i].why);
    }
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.0]}", 1,
                          "data_offsets has an entry");
}

static void offsets_must_tile_the_data(void **state)
{
    (void)state;
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}", 2,
                          "leave a hole after byte 0");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}", 1,
                          "end before they begin");
    assert_header_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                          "\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3,
                          "tensor y: data_offsets [1,3] overlap the tensor before");
    assert_header_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                          "\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}", 5,
                          "tensor y: data_offsets [3,5] leave a hole after byte 2");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}", 3,
                          "cut short: its tensors take 4 bytes, 3 are there");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}", 9,
                          "5 bytes follow the last tensor");
    assert_header_refused("{}", 1, "1 bytes follow the last tensor");
}

static void sizes_must_agree_with_shapes(void **state)
{
    (void)state;
    assert_tensor_refused("{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,20]}", 20,
                          "shape [2,3] of F32 needs 24 bytes, data_offsets give 20");
    assert_tensor_refused("{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,28]}", 28,
                          "shape [2,3] of F32 needs 24 bytes, data_offsets give 28");
    assert_tensor_refused("{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}", 2,
                          "12 bits of F4 are no whole number of bytes");
    assert_tensor_refused("{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],"
                          "\"data_offsets\":[0,0]}", 0, "more than 2^64 bits");
    assert_tensor_refused("{\"dtype\":\"F64\",\"shape\":[4611686018427387904],"
                          "\"data_offsets\":[0,0]}", 0, "more than 2^64 bits");
}

static void missing_and_special_files_are_refused(void **state)
{
    struct safetensors *st = NULL;

    (void)state;
    assert_int_equal(safetensors_open("/nonexistent/a.safetensors", &st), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/nonexistent/a.safetensors: No such file"));
    assert_int_equal(safetensors_open(temp.path, &st), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is a directory, not a file"));
    assert_int_equal(mkfifo(temp_dir_file(&temp, "pipe"), 0600), 0);
    assert_int_equal(safetensors_open(temp_dir_file(&temp, "pipe"), &st), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "pipe is a pipe, not a file"));
    assert_null(st);
}

static void what_lies_in_the_place_of_a_file_is_named(void **state)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n";

    (void)state;
    assert_bytes_refused(pointer, strlen(pointer), "is a Git LFS pointer, not a safetensors file: "
                                                   "run `git lfs pull` in its folder");
    assert_bytes_refused("PK\3\4\0\0\0\0\0\0\0", 11, "is a zip archive (torch.save()");
    assert_bytes_refused("Entry not found", 15, "is text (\"Entry not found\")");
    assert_bytes_refused("GGUF\3\0\0\0\0\0", 10, "is a GGUF file");
    assert_bytes_refused("\x1f\x8b\x08\0\0\0\0\0\0", 9, "is compressed by gzip");
}

/* Unaligned, a scalar, an empty tensor, extra fields, metadata, padding: all legal. */
static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[3,7]},"
    "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3],\"extra\":[1,-0.5]},"
    "\"e\":{\"dtype\":\"BF16\",\"shape\":[0,4],\"data_offsets\":[7,7]},"
    "\"q\":{\"dtype\":\"F4\",\"shape\":[2,2],\"data_offsets\":[7,9]}}   ";

enum { GOOD_DATA = 9 };

static void good_file_is_read(void **state)
{
    unsigned char file[1024];
    struct safetensors *st;
    const struct tensor_view *v;
    char shape[32], *z;

    (void)state;
    assert_int_equal(open_bytes(file, build(file, good_header, strlen(good_header), GOOD_DATA),
                                &st), STATUS_OK);
    assert_int_equal(safetensors_count(st), 4);
    assert_string_equal(safetensors_at(st, 0)->name, "a");
    assert_string_equal(safetensors_at(st, 3)->name, "z");
    assert_string_equal(safetensors_name(st), "bad.safetensors");
    v = safetensors_find(st, "z");
    assert_int_equal(v->ndim, 0);
    assert_int_equal(v->bytes, 4);
    z = tensor_bytes(v);
    assert_memory_equal(z, "\3\4\5\6", 4);
    free(z);
    v = safetensors_find(st, "e");
    assert_int_equal(v->bytes, 0);
    assert_string_equal(tensor_shape_text(v, shape, sizeof(shape)), "[0,4]");
    assert_string_equal(file_dtype_name(safetensors_find(st, "q")->dtype), "F4");
    assert_null(safetensors_find(st, "b"));
    assert_null(safetensors_find(st, "__metadata__"));
    safetensors_close(st);
}

static void a_file_that_shrinks_after_it_was_opened_is_an_error(void **state)
{
    unsigned char file[1024];
    size_t n = build(file, good_header, strlen(good_header), GOOD_DATA);
    const struct tensor_view *a, *z;
    struct safetensors *st;
    char got[4];

    (void)state;
    assert_int_equal(open_bytes(file, n, &st), STATUS_OK);
    a = safetensors_find(st, "a");
    z = safetensors_find(st, "z");
    assert_int_equal(truncate(temp.joined, (off_t)(n - GOOD_DATA + 3)), 0);
    assert_int_equal(tensor_read(a, 0, 3, got), STATUS_OK);
    assert_memory_equal(got, "\0\1\2", 3);
    assert_int_equal(tensor_read(z, 0, 4, got), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/bad.safetensors ends at byte"));
    safetensors_close(st);
}

static void empty_header_is_a_file_without_tensors(void **state)
{
    unsigned char file[64];
    struct safetensors *st;

    (void)state;
    assert_int_equal(open_bytes(file, build(file, "{}", 2, 0), &st), STATUS_OK);
    assert_int_equal(safetensors_count(st), 0);
    assert_null(safetensors_find(st, "x"));
    safetensors_close(st);
}

static void layout_is_what_writers_agree_on(void **state)
{
    struct tensor_view views[] = {
        { .name = "u", .dtype = FILE_U8, .ndim = 1, .shape = { 3 } },
        { .name = "b", .dtype = FILE_BF16, .ndim = 2, .shape = { 2, 3 } },
        { .name = "a", .dtype = FILE_BF16, .ndim = 1, .shape = { 1 } },
        { .name = "s", .dtype = FILE_F32, .ndim = 0 },
    };
    static const char *const order[] = { "s", "a", "b", "u" };
    struct safetensors_table table;
    char *text;
    size_t n;

    (void)state;
    assert_int_equal(safetensors_layout(views, 4, &text, &n), STATUS_OK);
    assert_int_equal(n % 8, 0);
    for (int i = 0; i < 4; i++)
        assert_string_equal(views[i].name, order[i]);
    assert_int_equal(safetensors_parse("made", text, n, n + 4 + 2 + 12 + 3, &table), STATUS_OK);
    assert_int_equal(table.count, 4);
    assert_string_equal(table.views[1].name, "b");
    assert_int_equal(table.views[1].shape[1], 3);
    assert_int_equal(table.views[1].at, n + 6);
    safetensors_table_free(&table);
    free(text);
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void assert_within(const struct safetensors_table *table, size_t header, size_t file)
{
    for (size_t i = 0; i < table->count; i++) {
        assert_in_range(table->views[i].at, header, file);
        assert_true(table->views[i].bytes <= file - table->views[i].at);
    }
}

/* What safetensors_open() does to the bytes of a file. */
static enum status parse_file(const unsigned char *file, size_t n, struct safetensors_table *table)
{
    unsigned char head[SAFETENSORS_BEGIN_BYTES] = { 0 };
    char *exact; /* its own block, so that one byte too far is seen */
    size_t bytes;
    enum status s;

    memcpy(head, file, n < sizeof(head) ? n : sizeof(head));
    s = safetensors_header_bytes("fuzzed", head, n, &bytes);
    if (s != STATUS_OK)
        return s;
    exact = malloc(bytes);
    assert_non_null(exact);
    memcpy(exact, file, bytes);
    s = safetensors_parse("fuzzed", exact, bytes, n, table);
    if (s == STATUS_OK)
        assert_within(table, bytes, n);
    free(exact);
    return s;
}

static size_t mutate(unsigned char *file, size_t n, uint64_t *random)
{
    static const char likely[] = "{}[]\",:0123456789-.eE\\u \0\xff";
    uint64_t r = next_random(random);
    size_t at = (r >> 32) % n;

    if (r % 16 == 0)
        return at; /* cut off */
    if (r % 16 < 4)
        file[at] ^= (unsigned char)(1u << (r >> 8) % 8);
    else if (r % 16 < 12)
        file[at] = (unsigned char)likely[(r >> 8) % (sizeof(likely) - 1)];
    else if (r % 16 < 14)
        memmove(file + at, file + (r >> 16) % n, (n - at < 7 ? n - at : 7) / 2);
    else
        file[(r >> 8) % 8] = (unsigned char)(r >> 16);
    return n;
}

static void mutated_files_never_crash_the_reader(void **state)
{
    const char *given = getenv("QUERN_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL), random = seed;
    unsigned char file[1024];
    unsigned accepted = 0;
    enum { CASES = 20000 };

    (void)state;
    random = random * 2 + 1; /* never 0 */
    print_message("# QUERN_TEST_SEED=%llu\n", (unsigned long long)seed);
    for (int i = 0; i < CASES; i++) {
        size_t n = build(file, good_header, strlen(good_header), GOOD_DATA);
        uint64_t edits = 1 + next_random(&random) % 4;
        struct safetensors_table table = { 0 };
        enum status s;

        while (edits-- > 0 && n > 32)
            n = mutate(file, n, &random);
        s = parse_file(file, n, &table);
        assert_true(s == STATUS_OK || s == STATUS_INVALID);
        if (s == STATUS_OK) {
            accepted++;
            safetensors_table_free(&table);
        }
    }
    print_message("# %u of %d accepted\n", accepted, CASES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lengths_that_cannot_be_are_refused),
        cmocka_unit_test(headers_that_are_not_json_are_refused),
        cmocka_unit_test(header_padded_with_nul_is_refused),
        cmocka_unit_test(duplicate_keys_are_refused),
        cmocka_unit_test(metadata_holds_strings_only),
        cmocka_unit_test(tensor_fields_must_be_complete_and_typed),
        cmocka_unit_test(numbers_must_be_plain_whole_ones),
        cmocka_unit_test(offsets_must_tile_the_data),
        cmocka_unit_test(sizes_must_agree_with_shapes),
        cmocka_unit_test(missing_and_special_files_are_refused),
        cmocka_unit_test(what_lies_in_the_place_of_a_file_is_named),
        cmocka_unit_test(good_file_is_read),
        cmocka_unit_test(a_file_that_shrinks_after_it_was_opened_is_an_error),
        cmocka_unit_test(empty_header_is_a_file_without_tensors),
        cmocka_unit_test(layout_is_what_writers_agree_on),
        cmocka_unit_test(mutated_files_never_crash_the_reader),
    };

    return cmocka_run_group_tests(tests, make_temp, remove_temp);
}
