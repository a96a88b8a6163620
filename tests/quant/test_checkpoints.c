/* test_checkpoints.c - the field's checkpoints: whole, in pieces, stacked; and their definitions.
 *
 * tests/golden/quant has small checkpoints made by the field's own tools, each
 * with inputs x and outputs y of some layers, computed from the method's
 * definition by a program that shares nothing with this one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors.h"
#include "quern/log.h"
#include "tests/quant/quant_support.h"

static const char *const checkpoints[] = {"awq_g128", "awq_g32", "awq_gptqmodel", "blockwise_int8",
    "ct_fp8_block", "ct_fp8_dynamic", "ct_fp8_static", "ct_w4a16", "ct_w4a16_actorder",
    "ct_w4a16_asym", "ct_w4a16_channel", "ct_w4a16_g128", "ct_w4afp8", "ct_w8a16",
    "ct_w8a16_asym_channel", "ct_w8a8", "fp8_block_bf16", "fp8_block_f16", "fp8_block_f32",
    "fp8_block_ue8m0", "fp8_tensor", "fp8_tensor_legacy", "fp8_tensor_static", "gptq_v1",
    "gptq_v1_8bit", "gptq_v1_asym_act", "gptq_v1_dynamic", "gptq_v1_short", "gptq_v2_8bit_act",
    "gptq_v2_asym", "gptq_v2_short_act", "w8a8_int8"};

enum { CHECKPOINTS = sizeof(checkpoints) / sizeof(checkpoints[0]), CUTS = 12 };

static uint32_t state_of_random = 12345;

static uint32_t random_below(uint32_t n)
{
    state_of_random = state_of_random * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(state_of_random >> 8) * n >> 24);
}

static void open_golden(struct quant_model *m, const char *name)
{
    char path[1024], folder[128];

    snprintf(folder, sizeof(folder), "quant/%s", name);
    assert_int_equal(quant_model_open(m, golden_path(path, folder), NULL), STATUS_OK);
    assert_non_null(m->scheme);
}

static void assert_cut(const struct loaded *whole, const struct loaded *part, uint32_t row,
    uint32_t col)
{
    for (uint32_t n = 0; n < part->weight.n; n++)
        assert_memory_equal(part->value + (size_t)n * part->weight.k,
            whole->value + (size_t)(row + n) * whole->weight.k + col,
            part->weight.k * sizeof(float));
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
        assert_cut(&whole, &part, row, col);
        loaded_free(m, &part);
    }
    loaded_free(m, &whole);
}

static void any_cut_equals_the_whole(void **state)
{
    (void)state;
    for (int i = 0; i < CHECKPOINTS; i++) {
        struct module_shape modules[LAYER_MODULES];
        struct quant_model m;

        open_golden(&m, checkpoints[i]);
        for (int layer = 0; layer < m.cfg.layers; layer++) {
            layer_modules(&m.cfg, layer, modules);
            for (int j = 0; j < LAYER_MODULES; j++)
                check_cuts(&m, &modules[j]);
        }
        quant_model_close(&m);
    }
    assert_int_equal(backend_bytes_held(), 0);
}

/* gate and up, their middle rows, one below the other. False: the method keeps them apart. */
static bool check_stack(struct quant_model *m)
{
    struct module_shape modules[LAYER_MODULES];
    struct weight_part parts[2];
    struct weight_slice slice = {.parts = parts, .n_parts = 2};
    struct loaded both, one;
    bool merges;

    layer_modules(&m->cfg, 0, modules);
    for (int i = 0; i < 2; i++)
        parts[i] = (struct weight_part){.module = modules[4 + i].name,
            .all_rows = modules[4 + i].rows, .all_cols = modules[4 + i].cols,
            .row = 5 + (uint32_t)i, .rows = modules[4 + i].rows / 2};
    slice.cols = modules[4].cols;
    assert_int_equal(quant_method_of(&m->loader, parts[0].module)->mergeable(&m->loader, &slice,
                         &merges), STATUS_OK);
    if (!merges)
        return false;
    assert_int_equal(loaded_slice(m, &slice, &both), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        const struct weight_part *p = &parts[i];

        assert_int_equal(loaded_part(m, p->module, p->all_rows, p->all_cols, p->row, p->rows, 0,
                             slice.cols, &one), STATUS_OK);
        assert_memory_equal(both.value + (size_t)i * p->rows * slice.cols, one.value,
            (size_t)p->rows * slice.cols * sizeof(float));
        loaded_free(m, &one);
    }
    loaded_free(m, &both);
    return true;
}

static void stacked_parts_equal_single_ones(void **state)
{
    int stacked = 0;

    (void)state;
    for (int i = 0; i < CHECKPOINTS; i++) {
        struct quant_model m;

        open_golden(&m, checkpoints[i]);
        stacked += check_stack(&m);
        quant_model_close(&m);
    }
    print_message("# %d of %d stack\n", stacked, CHECKPOINTS);
    assert_true(stacked > CHECKPOINTS / 2);
}

/* Codes one at a time -------------------------------------------------------------------------- */

enum packing { AWQ, GPTQ, GPTQ_V2, COMPRESSED };

/* Weight-only checkpoints, as their config.json has them; zeros: there is a tensor of them. */
static const struct packed_case {
    const char *name;
    enum packing packing;
    int bits;
    uint32_t group; /* 0: the whole row */
    bool zeros;
} packed_cases[] = {
    {"awq_g32", AWQ, 4, 32, true},
    {"awq_gptqmodel", AWQ, 4, 64, true},
    {"gptq_v1", GPTQ, 4, 32, true},
    {"gptq_v1_8bit", GPTQ, 8, 32, true},
    {"gptq_v1_asym_act", GPTQ, 4, 32, true},
    {"gptq_v1_short", GPTQ, 4, 32, true},
    {"gptq_v2_8bit_act", GPTQ_V2, 8, 32, true},
    {"gptq_v2_asym", GPTQ_V2, 4, 32, true},
    {"gptq_v2_short_act", GPTQ_V2, 4, 32, true},
    {"ct_w4a16", COMPRESSED, 4, 32, false},
    {"ct_w4a16_asym", COMPRESSED, 4, 32, true},
    {"ct_w4a16_actorder", COMPRESSED, 4, 32, true},
    {"ct_w4a16_channel", COMPRESSED, 4, 0, false},
    {"ct_w8a16_asym_channel", COMPRESSED, 8, 0, true},
};

static uint32_t word_at(struct quant_model *m, const char *module, const char *what, uint32_t row,
    uint32_t col, bool vector)
{
    char name[600];
    uint32_t word = 0;

    snprintf(name, sizeof(name), "%s.%s", module, what);
    assert_int_equal(source_read_raw(m->source, name, row, 1, col, vector ? 0 : 1, &word),
        STATUS_OK);
    return word;
}

static int field(uint32_t word, uint32_t i, int bits)
{
    return (int)(word >> (i * (uint32_t)bits) & ((1u << bits) - 1));
}

static uint32_t group_at(struct quant_model *m, const struct packed_case *c, const char *module,
    uint32_t k)
{
    const char *what = c->packing == COMPRESSED ? "weight_g_idx" : "g_idx";
    char name[600];

    snprintf(name, sizeof(name), "%s.%s", module, what);
    if (source_has(m->source, name))
        return word_at(m, module, what, k, 0, true);
    return c->group ? k / c->group : 0;
}

static float naive_value(struct quant_model *m, const struct packed_case *c, const char *module,
    uint32_t n, uint32_t k)
{
    static const uint32_t awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    uint32_t per = 32 / (uint32_t)c->bits, g = group_at(m, c, module, k), word;
    bool rows = c->packing == COMPRESSED;
    int code, zero = 1 << (c->bits - 1);
    char name[600];
    float scale;

    if (rows) {
        code = field(word_at(m, module, "weight_packed", n, k / per, false), k % per, c->bits);
        if (c->zeros)
            zero = field(word_at(m, module, "weight_zero_point", n / per, g, false), n % per,
                c->bits);
    } else if (c->packing == AWQ) {
        code = field(word_at(m, module, "qweight", k, n / 8, false), awq[n % 8], 4);
        zero = field(word_at(m, module, "qzeros", g, n / 8, false), awq[n % 8], 4);
    } else {
        code = field(word_at(m, module, "qweight", k / per, n, false), k % per, c->bits);
        word = word_at(m, module, "qzeros", g, n / per, false);
        if (c->packing == GPTQ)
            word += c->bits == 4 ? 0x11111111u : 0x01010101u;
        zero = field(word, n % per, c->bits);
    }
    snprintf(name, sizeof(name), "%s.%s", module, rows ? "weight_scale" : "scales");
    assert_int_equal(source_read(m->source, name, rows ? n : g, 1, rows ? g : n, 1, DTYPE_F32,
                         &scale), STATUS_OK);
    return (float)(code - zero) * scale;
}

static void packed_codes_are_what_the_formats_say(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(packed_cases) / sizeof(packed_cases[0]); i++) {
        const struct packed_case *c = &packed_cases[i];
        struct module_shape modules[LAYER_MODULES];
        struct quant_model m;

        open_golden(&m, c->name);
        layer_modules(&m.cfg, 0, modules);
        for (int j = 0; j < LAYER_MODULES; j += 3) {
            const struct module_shape *s = &modules[j];
            struct loaded w;

            assert_int_equal(loaded_part(&m, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols,
                                 &w), STATUS_OK);
            for (uint32_t t = 0; t < 500; t++) {
                uint32_t n = random_below(s->rows), k = random_below(s->cols);

                assert_true(w.value[(size_t)n * s->cols + k] == naive_value(&m, c, s->name, n, k));
            }
            loaded_free(&m, &w);
        }
        quant_model_close(&m);
    }
}

/* Definitions ---------------------------------------------------------------------------------- */

static double act_code(const struct weight_quant *q, float x, float scale)
{
    if (q->activation == ACTIVATION_FP8)
        return e4m3_to_f32(f32_to_e4m3(x / scale));
    return fmin(fmax(rint((double)(x / scale)), -128), 127);
}

/* The scale of x[k]'s group. */
static float act_scale(const struct weight_quant *q, const float *x, uint32_t cols, uint32_t k)
{
    uint32_t first = q->act_group ? k / q->act_group * q->act_group : 0;
    uint32_t end = q->act_group && first + q->act_group < cols ? first + q->act_group : cols;
    float amax = 0, scale;

    if (q->activation_scale > 0)
        return q->activation_scale;
    for (uint32_t i = first; i < end; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    scale = amax / q->act_divisor;
    return scale > q->act_least ? scale : q->act_least;
}

static void check_product(const struct loaded *w, const float *x, const float *y)
{
    const struct weight_quant *q = &w->weight.quant;
    uint32_t cols = w->weight.k;
    double *used = malloc(cols * sizeof(double));

    for (uint32_t k = 0; k < cols; k++) {
        float scale = q->activation == ACTIVATION_PLAIN ? 1 : act_scale(q, x, cols, k);

        used[k] = q->activation == ACTIVATION_PLAIN ? (double)x[k]
                                                    : act_code(q, x[k], scale) * (double)scale;
    }
    for (uint32_t n = 0; n < w->weight.n; n++) {
        double sum = 0, size = 0;

        for (uint32_t k = 0; k < cols; k++) {
            sum += used[k] * (double)w->value[(size_t)n * cols + k];
            size += fabs(used[k] * (double)w->value[(size_t)n * cols + k]);
        }
        assert_true(fabs(sum - (double)y[n]) <= 1e-6 * size);
    }
    free(used);
}

/* "x.NAME" of a reference file belongs to the module NAME; its outputs are "y.NAME". */
static int check_definition(struct quant_model *m, const struct safetensors *ref,
    const struct tensor_view *x)
{
    struct module_shape modules[LAYER_MODULES];
    int done = 0;

    for (int i = 0; i < LAYER_MODULES * m->cfg.layers; i++) {
        const struct module_shape *s = &modules[i % LAYER_MODULES];
        const struct tensor_view *y;
        char name[128];
        struct loaded w;

        layer_modules(&m->cfg, i / LAYER_MODULES, modules);
        if (strcmp(x->name + 2, s->name) != 0)
            continue;
        snprintf(name, sizeof(name), "y.%s", s->name);
        y = safetensors_find(ref, name);
        assert_non_null(y);
        assert_int_equal(loaded_part(m, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &w),
            STATUS_OK);
        for (uint64_t t = 0; t < x->shape[0]; t++) {
            float *in = malloc(s->cols * sizeof(float)), *out = malloc(s->rows * sizeof(float));

            assert_int_equal(tensor_read(x, t * s->cols * 4, s->cols * 4, in), STATUS_OK);
            assert_int_equal(tensor_read(y, t * s->rows * 4, s->rows * 4, out), STATUS_OK);
            check_product(&w, in, out);
            free(in);
            free(out);
        }
        loaded_free(m, &w);
        done++;
    }
    return done;
}

static void quantised_activations_have_their_definition(void **state)
{
    int checked = 0;

    (void)state;
    for (int i = 0; i < CHECKPOINTS; i++) {
        char path[1024], file[128];
        struct safetensors *ref;
        struct quant_model m;

        open_golden(&m, checkpoints[i]);
        snprintf(file, sizeof(file), "quant/%s/reference.safetensors", checkpoints[i]);
        assert_int_equal(safetensors_open(golden_path(path, file), &ref), STATUS_OK);
        for (size_t t = 0; t < safetensors_count(ref); t++)
            if (strncmp(safetensors_at(ref, t)->name, "x.", 2) == 0)
                checked += check_definition(&m, ref, safetensors_at(ref, t));
        safetensors_close(ref);
        quant_model_close(&m);
    }
    assert_true(checked >= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_cut_equals_the_whole),
        cmocka_unit_test(stacked_parts_equal_single_ones),
        cmocka_unit_test(packed_codes_are_what_the_formats_say),
        cmocka_unit_test(quantised_activations_have_their_definition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
