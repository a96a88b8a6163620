/* test_checkpoint.c - files of a checkpoint, its index, and reading slices of its tensors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/source.h"
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

/* A file with one tensor, U8 [4]. */
static void write_small(const char *file, const char *tensor)
{
    const struct made_tensor_bytes one = { tensor, FILE_U8, 1, { 4 }, "abcd" };

    made_file(&temp, file, &one, 1);
}

static void write_index(const char *json)
{
    temp_dir_write(&temp, "model.safetensors.index.json", json, strlen(json));
}

static void assert_refused(enum status want, const char *why)
{
    struct checkpoint *c = NULL;

    assert_int_equal(checkpoint_open(temp.path, &c), want);
    assert_null(c);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
}

static void assert_has(const char *const *names, size_t count)
{
    struct checkpoint *c = NULL;

    if (checkpoint_open(temp.path, &c) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    assert_int_equal(checkpoint_count(c), count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(checkpoint_at(c, i)->name, names[i]);
    assert_null(checkpoint_find(c, "nothing"));
    checkpoint_close(c);
}

static void index_names_the_files(void **state)
{
    (void)state;
    write_small("1.safetensors", "b");
    write_small("2.safetensors", "a");
    write_small("other.safetensors", "c");
    write_index("{\"weight_map\": {\"a\": \"2.safetensors\", \"b\": \"1.safetensors\"}}");
    assert_has((const char *const[]){ "a", "b" }, 2);
}

static void single_file_comes_first(void **state)
{
    (void)state;
    write_small("model.safetensors", "x");
    write_index("broken");
    assert_has((const char *const[]){ "x" }, 1);
}

static void folder_without_index_is_taken_whole(void **state)
{
    (void)state;
    write_small("b.safetensors", "x");
    write_small("a.safetensors", "y");
    write_small("consolidated.safetensors", "x");
    assert_has((const char *const[]){ "x", "y" }, 2);
}

static void consolidated_alone_is_taken(void **state)
{
    (void)state;
    write_small("consolidated.safetensors", "x");
    assert_has((const char *const[]){ "x" }, 1);
}

static void more_files_than_the_soft_limit_of_descriptors_are_opened(void **state)
{
    struct rlimit was, few;
    struct checkpoint *c;
    char name[32];

    (void)state;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "%02d.safetensors", i);
        write_small(name, name);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){ 24, was.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(checkpoint_open(temp.path, &c), STATUS_OK);
    assert_int_equal(checkpoint_count(c), 40);
    checkpoint_close(c);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

static void folder_errors_name_file_and_tensor(void **state)
{
    (void)state;
    assert_refused(STATUS_INVALID, "no model.safetensors");
    write_small("a.safetensors", "x");
    write_small("b.safetensors", "x");
    assert_refused(STATUS_INVALID, "tensor x is in both a.safetensors and b.safetensors");
    temp_dir_write(&temp, "b.safetensors", "\11\0\0\0\0\0\0\0", 8);
    assert_refused(STATUS_INVALID,
                   "b.safetensors: header length 9 is larger than the file (8 bytes)");
}

static void index_errors_name_file_and_tensor(void **state)
{
    (void)state;
    write_small("1.safetensors", "a");
    write_small("2.safetensors", "b");
    write_index("{}");
    assert_refused(STATUS_INVALID, "weight_map is missing");
    write_index("{\"weight_map\": {}}");
    assert_refused(STATUS_INVALID, "weight_map is missing, empty");
    write_index("{\"weight_map\": {\"a\": 1}}");
    assert_refused(STATUS_INVALID, "tensor a is mapped to something that is not a string");
    write_index("{\"weight_map\": {\"a\": \"../1.safetensors\"}}");
    assert_refused(STATUS_INVALID, "tensor a is mapped to ../1.safetensors, which is not");
    write_index("{\"weight_map\": {\"a\": \"/etc/passwd\"}}");
    assert_refused(STATUS_INVALID, "not the name of a file in the same directory");
    write_index("{\"weight_map\": {\"a\": \"3.safetensors\"}}");
    assert_refused(STATUS_IO, "3.safetensors: No such file");
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"c\": \"2.safetensors\"}}");
    assert_refused(STATUS_INVALID, "tensor c is mapped to 2.safetensors, which does not have it");
    write_index("{\"weight_map\": {\"a\": \"2.safetensors\", \"b\": \"1.safetensors\"}}");
    assert_refused(STATUS_INVALID, "tensor a is mapped to 2.safetensors, which does not have it");
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"a\": \"1.safetensors\"}}");
    assert_refused(STATUS_INVALID, "duplicate");
    write_index("{\"weight_map\": ");
    assert_refused(STATUS_INVALID, "model.safetensors.index.json: line 1: not valid JSON");
}

static void tensor_that_is_not_mapped_is_refused(void **state)
{
    static const struct made_tensor_bytes two[] = {
        { "a", FILE_U8, 1, { 1 }, "x" },
        { "b", FILE_U8, 1, { 1 }, "y" },
    };

    (void)state;
    made_file(&temp, "1.safetensors", two, 2);
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\"}}");
    assert_refused(STATUS_INVALID, "tensor b of 1.safetensors is not mapped");
    write_small("2.safetensors", "a");
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"b\": \"2.safetensors\"}}");
    assert_refused(STATUS_INVALID, "tensor a is in both 1.safetensors and 2.safetensors");
}

/* Exact in bf16 and f16 as in float32, so that one table serves all types. */
enum { ROWS = 5, COLS = 7 };

static float value(int i)
{
    return (i % 2 ? -1.0f : 1.0f) * ((float)i + 0.5f) / 8.0f;
}

static struct weight_source *open_source(void)
{
    struct weight_source *src;

    if (source_open(temp.path, 0, NULL, &src) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    return src;
}

static void write_matrix(enum file_dtype dtype)
{
    uint16_t half[ROWS * COLS + 2];
    float wide[ROWS * COLS + 2];
    const void *data = dtype == FILE_F32 ? (const void *)wide : half;
    const struct made_tensor_bytes made[] = {
        { "m", dtype, 2, { ROWS, COLS }, data },
        { "v", dtype, 1, { COLS }, data },
        { "pad", FILE_U64, 1, { 0 }, "" },
    };

    for (int i = 0; i < ROWS * COLS; i++) {
        wide[i] = value(i);
        half[i] = dtype == FILE_F16 ? f32_to_f16(value(i)) : f32_to_bf16(value(i));
    }
    made_file(&temp, "model.safetensors", made, 3);
}

static void assert_slice(const struct weight_source *src, int row, int rows, int col, int cols)
{
    float wide[ROWS * COLS];
    uint16_t half[ROWS * COLS];

    assert_int_equal(source_read(src, "m", (uint64_t)row, (uint64_t)rows, (uint64_t)col,
                                 (uint64_t)cols, DTYPE_F32, wide), STATUS_OK);
    assert_int_equal(source_read(src, "m", (uint64_t)row, (uint64_t)rows, (uint64_t)col,
                                 (uint64_t)cols, DTYPE_BF16, half), STATUS_OK);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            float want = value((row + r) * COLS + col + c);

            assert_true(wide[r * cols + c] == want);
            assert_int_equal(half[r * cols + c], f32_to_bf16(want));
        }
}

static void slices_of_every_type_equal_the_whole(void **state)
{
    static const struct {
        enum file_dtype file;
        enum dtype stored;
    } types[] = {
        { FILE_F32, DTYPE_F32 }, { FILE_BF16, DTYPE_BF16 }, { FILE_F16, DTYPE_F16 },
    };

    (void)state;
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        struct weight_source *src;
        enum dtype stored;

        write_matrix(types[t].file);
        src = open_source();
        assert_int_equal(source_check(src, "m", ROWS, COLS, &stored), STATUS_OK);
        assert_int_equal(stored, types[t].stored);
        for (int row = 0; row < ROWS; row++)
            for (int col = 0; col < COLS; col++)
                assert_slice(src, row, ROWS - row, col, COLS - col > 3 ? 3 : COLS - col);
        assert_slice(src, 0, ROWS, 0, COLS);
        assert_slice(src, 1, 0, 2, 0);
        source_close(src);
    }
}

static void vectors_are_read_as_rows(void **state)
{
    struct weight_source *src;
    float x[3];
    enum dtype stored;

    (void)state;
    write_matrix(FILE_BF16);
    src = open_source();
    assert_int_equal(source_check(src, "v", COLS, 0, &stored), STATUS_OK);
    assert_int_equal(source_read(src, "v", 2, 3, 0, 0, DTYPE_F32, x), STATUS_OK);
    for (int i = 0; i < 3; i++)
        assert_true(x[i] == value(2 + i));
    assert_int_equal(source_read(src, "v", 5, 3, 0, 0, DTYPE_F32, x), STATUS_INTERNAL);
    assert_int_equal(source_read(src, "m", 0, 1, 6, 2, DTYPE_F32, x), STATUS_INTERNAL);
    assert_int_equal(source_read(src, "m", 0, UINT64_MAX, 0, 1, DTYPE_F32, x), STATUS_INTERNAL);
    source_close(src);
}

static void unaligned_data_is_read(void **state)
{
    static const char header[] =
        "{\"p\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
        "\"m\":{\"dtype\":\"F32\",\"shape\":[5,7],\"data_offsets\":[1,141]}}";
    char file[8 + sizeof(header) - 1 + 141] = { (char)(sizeof(header) - 1) };
    struct weight_source *src;

    (void)state;
    memcpy(file + 8, header, sizeof(header) - 1);
    for (int i = 0; i < ROWS * COLS; i++) {
        float x = value(i);

        memcpy(file + 8 + sizeof(header) - 1 + 1 + 4 * i, &x, sizeof(x));
    }
    temp_dir_write(&temp, "model.safetensors", file, sizeof(file));
    src = open_source();
    assert_slice(src, 0, ROWS, 0, COLS);
    assert_slice(src, 2, 3, 1, 5);
    source_close(src);
}

static void check_refuses_shape_type_and_absence(void **state)
{
    struct weight_source *src;
    enum dtype stored = DTYPE_COUNT;

    (void)state;
    write_matrix(FILE_F32);
    src = open_source();
    assert_int_equal(source_check(src, "m", 7, 7, &stored), STATUS_INVALID);
    assert_string_equal(log_last_error(), "model.safetensors: tensor m has shape [5,7], this "
                                          "model needs [7,7]");
    assert_int_equal(source_check(src, "m", 5, 0, &stored), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "this model needs [5]"));
    assert_int_equal(source_check(src, "n", 5, 7, &stored), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "tensor n is missing"));
    assert_int_equal(source_check(src, "pad", 0, 0, &stored), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "tensor pad is stored as U64, weights must be"));
    assert_int_equal(stored, DTYPE_COUNT);
    assert_true(source_has(src, "m"));
    assert_false(source_has(src, "n"));
    source_close(src);
}

static enum head_kind head_of(const struct made_tensor_bytes *made, size_t n, bool tied)
{
    const struct model_config cfg = { .tied = tied };
    struct weight_source *src;
    enum head_kind kind;

    made_file(&temp, "model.safetensors", made, n);
    src = open_source();
    assert_int_equal(source_head(src, &cfg, &kind), STATUS_OK);
    source_close(src);
    return kind;
}

static void tied_weights_are_resolved_as_transformers_does(void **state)
{
    const struct made_tensor_bytes embed = {
        "model.embed_tokens.weight", FILE_F32, 2, { 1, 1 }, "abcd"
    };
    const struct made_tensor_bytes head = { "lm_head.weight", FILE_F32, 2, { 1, 1 }, "abcd" };
    const struct made_tensor_bytes other = { "lm_head.weight", FILE_F32, 2, { 1, 1 }, "abce" };

    (void)state;
    assert_int_equal(head_of((const struct made_tensor_bytes[]){ embed }, 1, true), HEAD_TIED);
    assert_int_equal(head_of((const struct made_tensor_bytes[]){ head, embed }, 2, true), HEAD_TIED);
    assert_int_equal(head_of((const struct made_tensor_bytes[]){ other, embed }, 2, true), HEAD_UNTIED);
    assert_int_equal(head_of((const struct made_tensor_bytes[]){ head }, 1, true), HEAD_ONLY);
    assert_int_equal(head_of((const struct made_tensor_bytes[]){ head, embed }, 2, false), HEAD_UNTIED);
}

static void storyteller_opens(void **state)
{
    const char *data = getenv("QUERN_DATADIR");
    char dir[PATH_MAX];
    struct model_config cfg;
    struct weight_source *src;
    enum head_kind kind;
    enum dtype stored;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models/storyteller", data != NULL ? data : "share");
    assert_int_equal(source_config(dir, &cfg), STATUS_OK);
    assert_int_equal(source_open(dir, 0, &cfg, &src), STATUS_OK);
    assert_int_equal(source_head(src, &cfg, &kind), STATUS_OK);
    assert_int_equal(kind, HEAD_TIED);
    assert_int_equal(source_check(src, "model.layers.7.mlp.down_proj.weight", 256, 768, &stored),
                     STATUS_OK);
    assert_int_equal(stored, DTYPE_BF16);
    source_close(src);
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(index_names_the_files),
        IN_TEMP(single_file_comes_first),
        IN_TEMP(folder_without_index_is_taken_whole),
        IN_TEMP(consolidated_alone_is_taken),
        IN_TEMP(more_files_than_the_soft_limit_of_descriptors_are_opened),
        IN_TEMP(folder_errors_name_file_and_tensor),
        IN_TEMP(index_errors_name_file_and_tensor),
        IN_TEMP(tensor_that_is_not_mapped_is_refused),
        IN_TEMP(slices_of_every_type_equal_the_whole),
        IN_TEMP(vectors_are_read_as_rows),
        IN_TEMP(unaligned_data_is_read),
        IN_TEMP(check_refuses_shape_type_and_absence),
        IN_TEMP(tied_weights_are_resolved_as_transformers_does),
        cmocka_unit_test(storyteller_opens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
