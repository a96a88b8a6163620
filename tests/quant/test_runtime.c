/* test_runtime.c - --quant: every cut has the whole matrix's codes, and a checkpoint written by
 * `quern quantize` is the same weights again. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/formula.h"
#include "quant/stored.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/quant/quant_support.h"
#include "tools/quantize_write.h"

static const char *const methods[] = {"int8", "int4", "fp8"};
static const char *const models[] = {"models/tied", "models/untied", "models/odd", "models/wide"};

enum { METHODS = 3, MODELS = 4, CUTS = 8, STAGING_MOST = 8 << 20 };

static uint32_t state_of_random = 99;

static uint32_t random_below(uint32_t n)
{
    state_of_random = state_of_random * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(state_of_random >> 8) * n >> 24);
}

static void check_cuts(struct quant_model *m, const struct module_shape *s)
{
    struct loaded whole, part;

    assert_int_equal(loaded_part(m, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &whole),
        STATUS_OK);
    for (int i = 0; i < CUTS; i++) {
        uint32_t row = random_below(s->rows), rows = 1 + random_below(s->rows - row);
        uint32_t col = random_below(s->cols), cols = 1 + random_below(s->cols - col);

        assert_int_equal(loaded_part(m, s->name, s->rows, s->cols, row, rows, col, cols, &part),
            STATUS_OK);
        for (uint32_t n = 0; n < rows; n++)
            assert_memory_equal(part.value + (size_t)n * cols,
                whole.value + (size_t)(row + n) * s->cols + col, cols * sizeof(float));
        loaded_free(m, &part);
    }
    loaded_free(m, &whole);
}

static void a_cut_has_the_codes_of_the_whole(void **state)
{
    char path[1024];

    (void)state;
    for (int i = 0; i < MODELS * METHODS; i++) {
        struct module_shape modules[LAYER_MODULES];
        struct quant_model m;

        assert_int_equal(quant_model_open(&m, golden_path(path, models[i / METHODS]),
                             &(struct quant_options){.method = methods[i % METHODS]}),
            STATUS_OK);
        layer_modules(&m.cfg, 0, modules);
        for (int j = 0; j < LAYER_MODULES; j++)
            check_cuts(&m, &modules[j]);
        quant_model_close(&m);
    }
    assert_int_equal(backend_bytes_held(), 0);
}

/* A code is at most half a step from its weight: of its scale, or of e4m3 at that size. */
static void check_errors(struct quant_model *m, const struct module_shape *s)
{
    float *plain = malloc((size_t)s->rows * s->cols * sizeof(float));
    char name[128];
    struct loaded w;

    snprintf(name, sizeof(name), "%s.weight", s->name);
    assert_int_equal(source_read(m->source, name, 0, s->rows, 0, s->cols, DTYPE_F32, plain),
        STATUS_OK);
    assert_int_equal(loaded_part(m, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &w),
        STATUS_OK);
    for (uint32_t n = 0; n < s->rows; n++)
        for (uint32_t k = 0; k < s->cols; k++) {
            float x = plain[(size_t)n * s->cols + k], got = w.value[(size_t)n * s->cols + k];
            float scale = w.weight.quant.scale[k / w.weight.quant.group * s->rows + n];
            /* the largest value of a scale may be half a step beyond the last code, and the
             * scale itself was rounded to bf16 */
            float step = w.weight.format == WEIGHT_FP8 ? fmaxf(fabsf(x) / 16, scale / 1024)
                                                       : scale * 0.54f;

            assert_true(fabsf(x - got) <= step * 1.01f);
        }
    loaded_free(m, &w);
    free(plain);
}

static void codes_are_near_their_weights(void **state)
{
    char path[1024];

    (void)state;
    for (int i = 0; i < METHODS; i++) {
        struct module_shape modules[LAYER_MODULES];
        struct quant_model m;

        assert_int_equal(quant_model_open(&m, golden_path(path, "models/odd"),
                             &(struct quant_options){.method = methods[i]}), STATUS_OK);
        layer_modules(&m.cfg, 0, modules);
        check_errors(&m, &modules[0]);
        check_errors(&m, &modules[6]);
        quant_model_close(&m);
    }
}

static void the_head_is_int8_unless_it_is_told_not_to(void **state)
{
    struct quant_model m;
    char path[1024];
    struct loaded w;

    (void)state;
    assert_int_equal(quant_model_open(&m, golden_path(path, "models/tied"),
                         &(struct quant_options){.method = "int4"}), STATUS_OK);
    assert_int_equal(loaded_part(&m, "model.embed_tokens", (uint32_t)m.cfg.vocab,
                         (uint32_t)m.cfg.hidden, 3, 5, 0, (uint32_t)m.cfg.hidden, &w), STATUS_OK);
    assert_int_equal(w.weight.format, WEIGHT_INT8);
    assert_int_equal(w.weight.quant.activation, ACTIVATION_PLAIN);
    loaded_free(&m, &w);
    m.loader.tied = false; /* as where lm_head.weight turns out to be another matrix */
    assert_ptr_equal(quant_method_of(&m.loader, "model.embed_tokens"), &quant_none);
    quant_model_close(&m);
    assert_int_equal(quant_model_open(&m, golden_path(path, "models/tied"),
                         &(struct quant_options){.method = "int4", .head = "none"}), STATUS_OK);
    assert_ptr_equal(quant_method_of(&m.loader, "model.embed_tokens"), &quant_none);
    quant_model_close(&m);
    assert_int_equal(quant_model_open(&m, golden_path(path, "models/untied"),
                         &(struct quant_options){.method = "fp8", .head = "int8"}), STATUS_OK);
    assert_ptr_equal(quant_method_of(&m.loader, "model.embed_tokens"), &quant_none);
    assert_ptr_not_equal(quant_method_of(&m.loader, "lm_head"), &quant_none);
    quant_model_close(&m);
}

static void staging_stays_small(void **state)
{
    struct quant_model m;
    struct loaded w;

    (void)state;
    for (int i = 0; i < METHODS; i++) {
        assert_int_equal(quant_model_open(&m, "synth:8b",
                             &(struct quant_options){.method = methods[i]}), STATUS_OK);
        assert_int_equal(loaded_part(&m, "model.layers.0.mlp.down_proj", 4096, 12288, 256, 480, 0,
                             12288, &w), STATUS_OK);
        assert_true(m.loader.staging_bytes <= STAGING_MOST);
        loaded_free(&m, &w);
        quant_model_close(&m);
    }
}

/* quern quantize ------------------------------------------------------------------------------- */

static void quantise_golden(const char *model, const struct quantize_options *o, const char *out,
    enum status want)
{
    char path[1024];

    assert_int_equal(quantize_write(golden_path(path, model), o, out), want);
}

static void assert_same(struct quant_model *a, struct quant_model *b, const struct module_shape *s)
{
    struct loaded x, y;

    assert_int_equal(loaded_part(a, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &x),
        STATUS_OK);
    assert_int_equal(loaded_part(b, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &y),
        STATUS_OK);
    assert_int_equal(x.weight.format, y.weight.format);
    assert_int_equal(x.weight.quant.activation, y.weight.quant.activation);
    assert_int_equal(x.weight.quant.act_group, y.weight.quant.act_group);
    assert_true(x.weight.quant.act_least == y.weight.quant.act_least);
    assert_true(x.weight.quant.act_divisor == y.weight.quant.act_divisor);
    assert_memory_equal(x.value, y.value, (size_t)s->rows * s->cols * sizeof(float));
    loaded_free(a, &x);
    loaded_free(b, &y);
}

static void assert_written_equals_loaded(const char *model, const struct quantize_options *o)
{
    struct module_shape modules[LAYER_MODULES];
    struct quant_model written, plain;
    struct temp_dir dir;
    char path[1024], out[512];

    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    quantise_golden(model, o, out, STATUS_OK);
    assert_int_equal(quant_model_open(&written, out, NULL), STATUS_OK);
    assert_int_equal(quant_model_open(&plain, golden_path(path, model),
                         &(struct quant_options){.method = o->method, .head = "none",
                             .activations = o->activations}), STATUS_OK);
    for (int layer = 0; layer < plain.cfg.layers; layer++) {
        layer_modules(&plain.cfg, layer, modules);
        for (int j = 0; j < LAYER_MODULES; j++)
            assert_same(&written, &plain, &modules[j]);
    }
    assert_ptr_equal(quant_method_of(&written.loader, "lm_head"), &quant_none);
    quant_model_close(&written);
    quant_model_close(&plain);
    temp_dir_remove(&dir);
}

static void what_quantize_writes_is_what_quant_loads(void **state)
{
    (void)state;
    assert_written_equals_loaded("models/tied", &(struct quantize_options){.method = "int8"});
    assert_written_equals_loaded("models/odd", &(struct quantize_options){.method = "fp8"});
    assert_written_equals_loaded("models/untied", &(struct quantize_options){.method = "fp8",
        .shard_bytes = 20000});
    assert_written_equals_loaded("models/sharded", &(struct quantize_options){.method = "int8"});
    assert_written_equals_loaded("models/odd", &(struct quantize_options){.method = "int8"});
    assert_written_equals_loaded("models/yarn", &(struct quantize_options){.method = "int8"}); /* f16 */
}

/* "pack-quantized", or "mixed-precision" where head and layers lie differently. */
static void assert_format(const struct quantize_options *o, const char *want)
{
    char out[512], path[600];
    struct temp_dir dir;
    json_t *root;

    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    quantise_golden("models/untied", o, out, STATUS_OK);
    snprintf(path, sizeof(path), "%s/config.json", out);
    root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(json_object_get(root,
                            "quantization_config"), "format")), want);
    json_decref(root);
    temp_dir_remove(&dir);
}

static void a_head_that_lies_differently_makes_the_format_mixed(void **state)
{
    (void)state;
    assert_format(&(struct quantize_options){.method = "fp8", .head = true}, "mixed-precision");
    assert_format(&(struct quantize_options){.method = "fp8"}, "float-quantized");
    assert_format(&(struct quantize_options){.method = "int8", .head = true}, "pack-quantized");
    assert_format(&(struct quantize_options){.method = "int8", .head = true,
        .activations = "dynamic"}, "mixed-precision");
    assert_format(&(struct quantize_options){.method = "int8", .activations = "dynamic"},
        "int-quantized");
}

static void activations_are_quantised_only_where_asked(void **state)
{
    static const struct quantize_options dynamic[] = {
        {.method = "int8", .activations = "dynamic"}, {.method = "fp8", .activations = "dynamic"}};
    static const enum activation kinds[] = {ACTIVATION_INT8, ACTIVATION_FP8};
    char path[1024];

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int asked = 0; asked < 2; asked++) {
            const struct quant_options o = {.method = dynamic[i].method,
                .activations = asked ? "dynamic" : NULL};
            struct module_shape modules[LAYER_MODULES];
            struct quant_model m;
            struct loaded w;

            assert_int_equal(quant_model_open(&m, golden_path(path, "models/tied"), &o),
                STATUS_OK);
            layer_modules(&m.cfg, 0, modules);
            assert_int_equal(loaded_part(&m, modules[0].name, modules[0].rows, modules[0].cols, 0,
                                 4, 0, modules[0].cols, &w), STATUS_OK);
            assert_int_equal(w.weight.quant.activation, asked ? kinds[i] : ACTIVATION_PLAIN);
            loaded_free(&m, &w);
            quant_model_close(&m);
        }
    for (int i = 0; i < 2; i++)
        assert_written_equals_loaded("models/tied", &dynamic[i]);
}

/* Groups of 8 against plain weights: the formula, code by code. */
static void groups_have_their_own_scales(void **state)
{
    const struct quantize_options o = {.method = "int4", .group = 8};
    struct module_shape modules[LAYER_MODULES];
    struct quant_model written, plain;
    char path[1024], out[512], name[128];
    struct temp_dir dir;
    struct loaded w;
    float x[8];

    (void)state;
    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    quantise_golden("models/tied", &o, out, STATUS_OK);
    assert_int_equal(quant_model_open(&written, out, NULL), STATUS_OK);
    assert_int_equal(quant_model_open(&plain, golden_path(path, "models/tied"), NULL),
        STATUS_OK);
    layer_modules(&plain.cfg, 0, modules);
    assert_int_equal(loaded_part(&written, modules[6].name, modules[6].rows, modules[6].cols, 0,
                         modules[6].rows, 0, modules[6].cols, &w), STATUS_OK);
    snprintf(name, sizeof(name), "%s.weight", modules[6].name);
    assert_int_equal(w.weight.quant.group, 8);
    for (uint32_t n = 0; n < modules[6].rows; n++) {
        float scale;

        assert_int_equal(source_read(plain.source, name, n, 1, 8, 8, DTYPE_F32, x), STATUS_OK);
        scale = formula_scale(formula_amax(0, x, 8), FORMULA_INT4, plain.cfg.dtype);
        for (uint32_t k = 0; k < 8; k++)
            assert_true(w.value[(size_t)n * modules[6].cols + 8 + k] ==
                        (float)(formula_int4(x[k], scale) - 8) * scale);
    }
    loaded_free(&written, &w);
    quant_model_close(&written);
    quant_model_close(&plain);
    temp_dir_remove(&dir);
}

static void a_tied_head_is_written_apart(void **state)
{
    const struct quantize_options o = {.method = "int4", .group = 8, .head = true};
    struct quant_model m;
    char out[512];
    struct temp_dir dir;
    struct loaded w;

    (void)state;
    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    quantise_golden("models/tied", &o, out, STATUS_OK);
    assert_int_equal(quant_model_open(&m, out, NULL), STATUS_OK);
    assert_false(m.cfg.tied);
    assert_ptr_equal(quant_method_of(&m.loader, "model.embed_tokens"), &quant_none);
    assert_int_equal(loaded_part(&m, "lm_head", (uint32_t)m.cfg.vocab, (uint32_t)m.cfg.hidden, 0,
                         16, 0, (uint32_t)m.cfg.hidden, &w), STATUS_OK);
    assert_int_equal(w.weight.format, WEIGHT_INT8);
    assert_int_equal(w.weight.quant.activation, ACTIVATION_PLAIN);
    loaded_free(&m, &w);
    quant_model_close(&m);
    temp_dir_remove(&dir);
}

static void what_cannot_be_written_is_refused(void **state)
{
    struct temp_dir dir, empty;
    char out[512];

    (void)state;
    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    quantise_golden("models/odd", &(struct quantize_options){.method = "int4", .group = 4096}, out,
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "--group 4096 does not divide"));
    quantise_golden("models/odd", &(struct quantize_options){.method = "int8", .group = 64}, out,
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "--group is for --quant int4"));
    quantise_golden("quant/ct_w8a8", &(struct quantize_options){.method = "int8"}, out,
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "quantised already"));
    quantise_golden("models/odd", &(struct quantize_options){.method = "int9"}, out,
        STATUS_INVALID);
    quantise_golden("models/tied", &(struct quantize_options){.method = "int4",
        .activations = "dynamic"}, out, STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "int4 quantises weights alone"));
    temp_dir_write(&dir, "file", "x", 1);
    quantise_golden("models/odd", &(struct quantize_options){.method = "int8"}, dir.path,
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "exists and is not empty"));
    snprintf(out, sizeof(out), "%s/link", dir.path);
    assert_int_equal(symlink(".", out), 0);
    quantise_golden("models/odd", &(struct quantize_options){.method = "int8"}, out,
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is no directory's own name"));
    temp_dir_make(&empty);
    snprintf(out, sizeof(out), "%s/slashed", dir.path);
    assert_int_equal(symlink(empty.path, out), 0);
    snprintf(out, sizeof(out), "%s/slashed//", dir.path); /* a link to where it would fit */
    quantise_golden("models/odd", &(struct quantize_options){.method = "int8"}, out,
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is no directory's own name"));
    temp_dir_remove(&empty);
    quantise_golden("models/odd", &(struct quantize_options){.method = "int8"}, ".",
        STATUS_INVALID);
    temp_dir_remove(&dir);
}

/* A plain checkpoint with one tensor more. */
static enum status quantise_with(const struct made_tensor *more, const char *method)
{
    const struct made_tensor tensors[] = {
        {"model.embed_tokens.weight", FILE_BF16, 2, {16, 16}, NULL}, *more};
    struct temp_dir dir;
    char out[512];
    enum status s;

    temp_dir_make(&dir);
    write_checkpoint(dir.path, NULL, tensors, 2);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    s = quantize_write(dir.path, &(struct quantize_options){.method = method}, out);
    temp_dir_remove(&dir);
    return s;
}

static void tensors_of_no_use_are_copied_or_refused(void **state)
{
    static const struct made_tensor scalar = {"model.layers.0.self_attn.k_scale", FILE_F32, 0, {0},
        NULL}, empty = {"rest", FILE_BF16, 2, {8, 0}, NULL}, narrow = {"narrow", FILE_F4, 1, {8},
        NULL}, hollow = {"model.layers.0.mlp.up_proj.weight", FILE_BF16, 2, {8, 0}, NULL};

    (void)state;
    assert_int_equal(quantise_with(&scalar, "int8"), STATUS_OK);
    assert_int_equal(quantise_with(&empty, "int8"), STATUS_OK);
    assert_int_equal(quantise_with(&narrow, "int8"), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "tensor narrow is stored as F4"));
    for (int i = 0; i < METHODS; i++) {
        assert_int_equal(quantise_with(&hollow, methods[i]), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "up_proj.weight has no elements"));
    }
}

static void merged_tensors_are_quantised_too(void **state)
{
#define MERGED "model.layers.0.self_attn.qkv_proj"
    static const struct made_tensor tensors[] = {{MERGED ".weight", FILE_BF16, 2, {32, 16}, NULL}};
    struct quant_model m;
    struct temp_dir dir;
    char out[512];

    (void)state;
    temp_dir_make(&dir);
    write_checkpoint(dir.path, NULL, tensors, 1);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    assert_int_equal(quantize_write(dir.path, &(struct quantize_options){.method = "int8"}, out),
        STATUS_OK);
    assert_int_equal(quant_model_open(&m, out, NULL), STATUS_OK);
    assert_ptr_not_equal(quant_method_of(&m.loader, MERGED), &quant_none);
    quant_model_close(&m);
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_has_the_codes_of_the_whole),
        cmocka_unit_test(codes_are_near_their_weights),
        cmocka_unit_test(the_head_is_int8_unless_it_is_told_not_to),
        cmocka_unit_test(staging_stays_small),
        cmocka_unit_test(what_quantize_writes_is_what_quant_loads),
        cmocka_unit_test(a_head_that_lies_differently_makes_the_format_mixed),
        cmocka_unit_test(activations_are_quantised_only_where_asked),
        cmocka_unit_test(groups_have_their_own_scales),
        cmocka_unit_test(a_tied_head_is_written_apart),
        cmocka_unit_test(what_cannot_be_written_is_refused),
        cmocka_unit_test(tensors_of_no_use_are_copied_or_refused),
        cmocka_unit_test(merged_tensors_are_quantised_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
