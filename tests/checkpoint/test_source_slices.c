/* test_source_slices.c - what a source makes of a checkpoint: slices of floats, names, heads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>

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

/* One F32 element under each name. */
static void write_names(const char *const *names, size_t n)
{
    struct made_tensor_bytes made[16];

    for (size_t i = 0; i < n; i++)
        made[i] = (struct made_tensor_bytes){ names[i], FILE_F32, 2, { 1, 1 }, "abcd" };
    made_file(&temp, "model.safetensors", made, n);
}

static void assert_missing(const char *name, const char *why)
{
    struct weight_source *src = open_source();
    enum dtype stored;

    assert_int_equal(source_check(src, name, 1, 1, &stored), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
    source_close(src);
}

static const char *const wanted[] = { "model.embed_tokens.weight", "model.layers.0.mlp.w.weight",
                                      "model.norm.weight", "lm_head.weight" };

static void names_of_every_class_are_found(void **state)
{
    static const char *const saved[][4] = {
        { "model.embed_tokens.weight", "model.layers.0.mlp.w.weight", "model.norm.weight",
          "lm_head.weight" },
        { "embed_tokens.weight", "layers.0.mlp.w.weight", "norm.weight", "lm_head.weight" },
        { "model.model.embed_tokens.weight", "model.model.layers.0.mlp.w.weight",
          "model.model.norm.weight", "model.lm_head.weight" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(saved) / sizeof(saved[0]); i++) {
        struct weight_source *src;

        write_names(saved[i], 4);
        src = open_source();
        for (size_t t = 0; t < 4; t++) {
            float x;

            assert_true(source_has(src, wanted[t]));
            assert_int_equal(source_read(src, wanted[t], 0, 1, 0, 1, DTYPE_F32, &x), STATUS_OK);
            assert_memory_equal(&x, "abcd", 4);
        }
        assert_false(source_has(src, "embed_tokens.weight"));
        source_close(src);
    }
}

/* What Transformers would fill with random numbers. */
static void a_missing_tensor_is_explained(void **state)
{
    (void)state;
    write_names((const char *const[]){ "module.model.embed_tokens.weight" }, 1);
    assert_missing("model.embed_tokens.weight", "tensor model.embed_tokens.weight is missing: it is "
                   "there as module.model.embed_tokens.weight: save the tensors without module. in "
                   "front");
    write_names((const char *const[]){ "model.language_model.norm.weight" }, 1);
    assert_missing("model.norm.weight", "save the tensors without model.language_model. in front");
    write_names((const char *const[]){ "model.layers.0.a.qweight" }, 1);
    assert_missing("model.layers.0.a.weight", "it is quantised, model.layers.0.a.qweight, and "
                   "config.json does not say how");
    assert_missing("lm_head.weight", "where the embedding is the head, too, as in Qwen3-0.6B");
    assert_missing("model.norm.weight", "tensor model.norm.weight is missing");
}

static void a_tensor_that_the_index_alone_has_is_missed_when_it_is_needed(void **state)
{
    static const char index[] = "{\"weight_map\": {\"norm.weight\": \"1.safetensors\", "
                                "\"model.lm_head.weight\": \"1.safetensors\", "
                                "\"mtp.fc.weight\": \"1.safetensors\"}}";
    const struct made_tensor_bytes one = { "x", FILE_U8, 1, { 1 }, "a" };

    (void)state;
    made_file(&temp, "1.safetensors", &one, 1);
    temp_dir_write(&temp, "model.safetensors.index.json", index, strlen(index));
    assert_missing("model.norm.weight", "is missing: the index puts it into 1.safetensors, which "
                                        "does not have it: download that file again");
    assert_missing("lm_head.weight", "the index puts it into 1.safetensors");
    assert_missing("model.embed_tokens.weight", "tensor model.embed_tokens.weight is missing");
}

static void of_two_tensors_with_one_name_equal_ones_are_one(void **state)
{
    static const char index[] = "{\"weight_map\": {\"a\": \"1.safetensors\", "
                                "\"b\": \"2.safetensors\"}}";
    const struct made_tensor_bytes first[] = { { "a", FILE_F32, 1, { 1 }, "abcd" },
                                               { "b", FILE_F32, 1, { 1 }, "efgh" } };
    const struct made_tensor_bytes second[] = { { "a", FILE_F32, 1, { 1 }, "abcd" },
                                                { "b", FILE_F32, 1, { 1 }, "efgi" } };
    struct weight_source *src;
    enum dtype stored;
    float x;

    (void)state;
    made_file(&temp, "1.safetensors", first, 2);
    made_file(&temp, "2.safetensors", second, 2);
    temp_dir_write(&temp, "model.safetensors.index.json", index, strlen(index));
    src = open_source();
    assert_int_equal(source_read(src, "a", 0, 1, 0, 0, DTYPE_F32, &x), STATUS_OK);
    assert_int_equal(source_read(src, "b", 0, 1, 0, 0, DTYPE_F32, &x), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "tensor b is in both 1.safetensors and 2.safetensors, "
                                             "and they differ"));
    assert_int_equal(source_check(src, "b", 1, 0, &stored), STATUS_INVALID);
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
        IN_TEMP(slices_of_every_type_equal_the_whole),
        IN_TEMP(vectors_are_read_as_rows),
        IN_TEMP(unaligned_data_is_read),
        IN_TEMP(check_refuses_shape_type_and_absence),
        IN_TEMP(tied_weights_are_resolved_as_transformers_does),
        IN_TEMP(names_of_every_class_are_found),
        IN_TEMP(a_missing_tensor_is_explained),
        IN_TEMP(a_tensor_that_the_index_alone_has_is_missed_when_it_is_needed),
        IN_TEMP(of_two_tensors_with_one_name_equal_ones_are_one),
        cmocka_unit_test(storyteller_opens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
