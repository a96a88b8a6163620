/* ref.c - the scalar reference: what every operation means, in the plainest C.
 *
 * Speed is no aim here beyond letting the tests run. Faster rows are held
 * against these loops, and a machine with nothing better runs them. Sums that no
 * contract makes float32 (the norms') are taken in double. Attention and rope
 * are in ref_attention.c, quantised weights in ref_quant.c. */
#include <math.h>

#include "kernels/cpu/ref_quant.h"
#include "kernels/cpu/rows.h"

/* acc[j] += the panel's weights for input `col` * x. */
static void add_product(float acc[PANEL], const struct linear_args *a, enum weight_format format,
    uint32_t panel, uint32_t col, float x)
{
    if (format == WEIGHT_F32) {
        const float *w = (const float *)a->w + ((size_t)panel * a->k + col) * PANEL;

        for (int j = 0; j < PANEL; j++)
            acc[j] += w[j] * x;
    } else {
        size_t pairs = (a->k + 1) / 2;
        const uint16_t *w = (const uint16_t *)a->w +
            ((size_t)panel * pairs + col / 2) * 2 * PANEL + col % 2;

        for (int j = 0; j < PANEL; j++)
            acc[j] += bf16_to_f32(w[2 * j]) * x;
    }
}

static void panel_product(const struct linear_args *a, enum weight_format format, uint32_t row,
    uint32_t panel)
{
    const float *x = (const float *)a->x + row * a->ldx;
    float total[PANEL] = {0};

    for (uint32_t k0 = 0; k0 < a->k; k0 += LINEAR_CHUNK) {
        uint32_t k1 = a->k - k0 < LINEAR_CHUNK ? a->k : k0 + LINEAR_CHUNK;
        float chunk[PANEL] = {0};

        for (uint32_t col = k0; col < k1; col++)
            add_product(chunk, a, format, panel, col, x[col]);
        for (int j = 0; j < PANEL; j++)
            total[j] += chunk[j];
    }
    for (uint32_t j = panel * PANEL; j < a->n && j < (panel + 1) * PANEL; j++)
        a->y[row * a->ldy + j] = total[j % PANEL] + (a->bias != NULL ? a->bias[j] : 0.0f);
}

static void product(const struct linear_args *a, enum weight_format format, uint32_t panel0,
    uint32_t panel1)
{
    for (uint32_t panel = panel0; panel < panel1; panel++)
        for (uint32_t row = 0; row < a->m; row++)
            panel_product(a, format, row, panel);
}

static void linear_f32(const struct linear_args *a, uint32_t panel0, uint32_t panel1)
{
    product(a, WEIGHT_F32, panel0, panel1);
}

static void linear_bf16(const struct linear_args *a, uint32_t panel0, uint32_t panel1)
{
    product(a, WEIGHT_BF16, panel0, panel1);
}

static void add_norm(float *out, float *x, const float *y, const float *w, float eps, uint32_t cols,
    uint32_t row0, uint32_t row1)
{
    for (size_t row = row0; row < row1; row++) {
        float *xr = x + row * cols, *to = out + row * cols;
        double squares = 0;

        for (uint32_t i = 0; i < cols; i++) {
            if (y != NULL)
                xr[i] += y[row * cols + i];
            squares += (double)xr[i] * xr[i];
        }
        float scale = (float)(1.0 / sqrt(squares / cols + (double)eps));

        for (uint32_t i = 0; i < cols; i++)
            to[i] = xr[i] * scale * w[i];
    }
}

static void silu_mul(float *out, const float *x, uint32_t cols, uint32_t row0, uint32_t row1)
{
    for (size_t row = row0; row < row1; row++) {
        const float *gate = x + row * 2 * cols, *up = gate + cols;

        for (uint32_t i = 0; i < cols; i++)
            out[row * cols + i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void sum_ranks(float *dst, const float *const *src, int ranks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = 0.0f;

        for (int r = 0; r < ranks; r++)
            sum += src[r][i];
        dst[i] = sum;
    }
}

static void round_bf16(uint16_t *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = f32_to_bf16(src[i]);
}

static void round_bf16_f32(float *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = bf16_round(src[i]);
}

static void lookup_f32(float *out, const struct weight *w, uint32_t row)
{
    const float *from = (const float *)w->data + (size_t)(row / PANEL) * w->k * PANEL + row % PANEL;

    for (uint32_t i = 0; i < w->k; i++)
        out[i] = from[(size_t)i * PANEL];
}

static void lookup_bf16(float *out, const struct weight *w, uint32_t row)
{
    size_t pairs = ((size_t)w->k + 1) / 2;
    const uint16_t *from =
        (const uint16_t *)w->data + (row / PANEL * pairs * PANEL + row % PANEL) * 2;

    for (uint32_t i = 0; i < w->k; i++)
        out[i] = bf16_to_f32(from[(size_t)(i / 2) * 2 * PANEL + i % 2]);
}

static void lookup(float *out, const struct weight *w, uint32_t row)
{
    if (w->format == WEIGHT_F32)
        lookup_f32(out, w, row);
    else if (w->format == WEIGHT_BF16)
        lookup_bf16(out, w, row);
    else
        quant_lookup(out, w, row);
}

/* A NaN never wins; 0 when nothing does. */
static uint32_t argmax(const float *x, uint32_t n)
{
    float best = -INFINITY;
    uint32_t at = 0;

    for (uint32_t i = 0; i < n; i++)
        if (x[i] > best) {
            best = x[i];
            at = i;
        }
    return at;
}

void linear_rows_scalar(struct cpu_kernels *t)
{
    t->linear[WEIGHT_F32][COMPUTE_F32] =
        (struct linear_kernel){"scalar.f32", DTYPE_F32, linear_f32};
    t->linear[WEIGHT_F32][COMPUTE_BF16] = t->linear[WEIGHT_F32][COMPUTE_F32];
    t->linear[WEIGHT_BF16][COMPUTE_F32] =
        (struct linear_kernel){"scalar.bf16", DTYPE_F32, linear_bf16};
    t->linear[WEIGHT_BF16][COMPUTE_BF16] = t->linear[WEIGHT_BF16][COMPUTE_F32];
}

void norm_rows_scalar(struct cpu_kernels *t)
{
    t->add_norm = add_norm;
    t->silu_mul = silu_mul;
    t->sum_ranks = sum_ranks;
    t->round_bf16 = round_bf16;
    t->round_bf16_f32 = round_bf16_f32;
    t->lookup = lookup;
    t->argmax = argmax;
}
