/* ref_quant.c - the reference rows of quantised weights: what each format means.
 *
 * A panel's codes become floats once for a block of rows and one chunk of k;
 * everything after that is a product of floats. That is exact: codes of 4 and
 * 8 bits and e4m3 numbers are floats, as is the product of any two of them,
 * and a chunk's sum of integer products stays below 2^24. A block's integer
 * sum grows past that and is kept in a double, which holds it exactly. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/ref_quant.h"
#include "kernels/cpu/rows.h"

/* (weight code - zero) is at most 255 for 8 bits, an activation's code at most 128. */
_Static_assert(LINEAR_CHUNK * 255 * 128 < 1 << 24, "a chunk's integer sum is exact in float32");

enum { ROW_BLOCK = 64 };

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Weights ---------------------------------------------------------------------------------- */

/* A weight group's numbers for the outputs of one panel; those past n are zero. */
struct lanes {
    uint32_t group;
    float zero[PANEL], scale[PANEL];
};

static float zero_of(const struct weight_quant *q, enum weight_format format, size_t at)
{
    if (q->zero != NULL)
        return (float)q->zero[at];
    return format == WEIGHT_INT4 ? 8.0f : 0.0f;
}

static void load_lanes(struct lanes *l, const struct linear_args *a, enum weight_format format,
    uint32_t panel, uint32_t group)
{
    l->group = group;
    for (uint32_t j = 0; j < PANEL; j++) {
        uint32_t row = panel * PANEL + j;
        size_t at = (size_t)group * a->n + row;

        l->zero[j] = row < a->n ? zero_of(a->quant, format, at) : 0.0f;
        l->scale[j] = row < a->n ? a->quant->scale[at] : 0.0f;
    }
}

/* Inputs [k0, k1) of a panel -> w [k1 - k0][PANEL], less their zeros, and times their scales
 * when `scaled`. */
static inline void decode(float *w, const struct linear_args *a, enum weight_format format,
    uint32_t panel, uint32_t k0, uint32_t k1, bool scaled)
{
    struct lanes l;

    load_lanes(&l, a, format, panel, quant_group_of(a->quant, k0));
    for (uint32_t col = k0; col < k1; col++, w += PANEL) {
        uint32_t group = quant_group_of(a->quant, col);

        if (group != l.group)
            load_lanes(&l, a, format, panel, group);
        for (uint32_t j = 0; j < PANEL; j++) {
            w[j] = quant_code_value(a->w, format, a->k, panel, j, col) - l.zero[j];
            if (scaled)
                w[j] *= l.scale[j];
        }
    }
}

/* A quarter of a panel. The compiler's own vectors, on any machine: each lane is one running sum,
 * so they change speed and never a bit. */
typedef float quarter __attribute__((vector_size(16), may_alias));

/* sum [PANEL] = x [n] . w [n][PANEL], ascending; w is aligned to 16 bytes. */
static void products(float *sum, const float *x, const float *w, uint32_t n)
{
    const quarter *from = (const quarter *)w;
    quarter a = {0}, b = {0}, c = {0}, d = {0};

    for (uint32_t i = 0; i < n; i++, from += 4) {
        a += from[0] * x[i];
        b += from[1] * x[i];
        c += from[2] * x[i];
        d += from[3] * x[i];
    }
    memcpy(sum, &a, sizeof(a));
    memcpy(sum + 4, &b, sizeof(b));
    memcpy(sum + 8, &c, sizeof(c));
    memcpy(sum + 12, &d, sizeof(d));
}

static uint32_t lanes_in(const struct linear_args *a, uint32_t panel)
{
    return least(a->n - panel * PANEL, PANEL);
}

static float *y_at(const struct linear_args *a, uint32_t row, uint32_t panel)
{
    return a->y + row * a->ldy + (size_t)panel * PANEL;
}

static void panel_begin(const struct linear_args *a, uint32_t panel)
{
    for (uint32_t row = 0; row < a->m; row++)
        for (uint32_t j = 0; j < lanes_in(a, panel); j++)
            y_at(a, row, panel)[j] = 0.0f;
}

static void panel_end(const struct linear_args *a, uint32_t panel)
{
    for (uint32_t row = 0; row < a->m && a->bias != NULL; row++)
        for (uint32_t j = 0; j < lanes_in(a, panel); j++)
            y_at(a, row, panel)[j] += a->bias[panel * PANEL + j];
}

/* Plain activations: the sums of the float32 row ------------------------------------------- */

static inline void plain_panel(const struct linear_args *a, enum weight_format format,
    uint32_t panel)
{
    _Alignas(16) float w[LINEAR_CHUNK * PANEL];
    float sum[PANEL];

    for (uint32_t k0 = 0; k0 < a->k; k0 += LINEAR_CHUNK) {
        uint32_t n = least(a->k - k0, LINEAR_CHUNK);

        decode(w, a, format, panel, k0, k0 + n, true);
        for (uint32_t row = 0; row < a->m; row++) {
            products(sum, (const float *)a->x + row * a->ldx + k0, w, n);
            for (uint32_t j = 0; j < lanes_in(a, panel); j++)
                y_at(a, row, panel)[j] += sum[j];
        }
    }
}

/* Quantised activations -------------------------------------------------------------------- */

/* Inputs [k0, k1) lie in one chunk and in one block; `last` of that block. */
struct piece {
    uint32_t k0, k1;
    bool last;
};

static bool same_block(const struct weight_quant *q, uint32_t col, uint32_t next)
{
    return quant_group_of(q, col) == quant_group_of(q, next) &&
           quant_act_group_of(q, col) == quant_act_group_of(q, next);
}

static struct piece piece_from(const struct linear_args *a, uint32_t k0)
{
    uint32_t end = least(a->k, (k0 / LINEAR_CHUNK + 1) * LINEAR_CHUNK), k1 = k0 + 1;

    while (k1 < end && same_block(a->quant, k0, k1))
        k1++;
    return (struct piece){k0, k1, k1 == a->k || !same_block(a->quant, k0, k1)};
}

static void widen_codes(float *x, const uint8_t *codes, uint32_t n, enum activation from)
{
    for (uint32_t i = 0; i < n; i++)
        x[i] = from == ACTIVATION_INT8 ? (float)(int8_t)codes[i] : e4m3_to_f32(codes[i]);
}

/* y += the block's sums times both scales. */
static void add_block(const struct linear_args *a, uint32_t row, uint32_t panel, uint32_t col,
    const double *block)
{
    const struct weight_quant *q = a->quant;
    uint32_t act = quant_act_group_of(q, col) - quant_act_group_first(q);
    const float *scale = q->scale + (size_t)quant_group_of(q, col) * a->n + (size_t)panel * PANEL;
    float x_scale = a->x_scales[row * a->ld_scales + act], *y = y_at(a, row, panel);

    for (uint32_t j = 0; j < lanes_in(a, panel); j++)
        y[j] += (float)block[j] * (x_scale * scale[j]);
}

/* Rows [row, row + rows) of x, rows <= ROW_BLOCK. */
static inline void coded_block(const struct linear_args *a, enum weight_format format,
    uint32_t panel, uint32_t row, uint32_t rows)
{
    const bool whole = a->quant->activation == ACTIVATION_INT8 && format != WEIGHT_FP8;
    _Alignas(16) float w[LINEAR_CHUNK * PANEL];
    float x[LINEAR_CHUNK], sum[PANEL];
    double block[ROW_BLOCK][PANEL] = {{0}};
    struct piece p;

    for (uint32_t k0 = 0; k0 < a->k; k0 = p.k1) {
        p = piece_from(a, k0);
        decode(w, a, format, panel, p.k0, p.k1, false);
        for (uint32_t r = 0; r < rows; r++) {
            widen_codes(x, (const uint8_t *)a->x + (row + r) * a->ldx + k0, p.k1 - k0,
                a->quant->activation);
            products(sum, x, w, p.k1 - k0);
            for (int j = 0; j < PANEL; j++) /* a sum of floats is a float, one of integers exact */
                block[r][j] = whole ? block[r][j] + sum[j] : (float)block[r][j] + sum[j];
            if (!p.last)
                continue;
            add_block(a, row + r, panel, k0, block[r]);
            for (int j = 0; j < PANEL; j++)
                block[r][j] = 0;
        }
    }
}

static inline void product(const struct linear_args *a, enum weight_format format,
    uint32_t panel0, uint32_t panel1)
{
    for (uint32_t panel = panel0; panel < panel1; panel++) {
        panel_begin(a, panel);
        if (a->quant->activation == ACTIVATION_PLAIN)
            plain_panel(a, format, panel);
        else
            for (uint32_t row = 0; row < a->m; row += ROW_BLOCK)
                coded_block(a, format, panel, row, least(a->m - row, ROW_BLOCK));
        panel_end(a, panel);
    }
}

static void linear_fp8(const struct linear_args *a, uint32_t panel0, uint32_t panel1)
{
    product(a, WEIGHT_FP8, panel0, panel1);
}

static void linear_int8(const struct linear_args *a, uint32_t panel0, uint32_t panel1)
{
    product(a, WEIGHT_INT8, panel0, panel1);
}

static void linear_int4(const struct linear_args *a, uint32_t panel0, uint32_t panel1)
{
    product(a, WEIGHT_INT4, panel0, panel1);
}

/* Activations ------------------------------------------------------------------------------ */

static float amax(const float *x, size_t n)
{
    float most = 0.0f;

    for (size_t i = 0; i < n; i++) {
        float size = fabsf(x[i]);

        if (size > most || isnan(size))
            most = size;
    }
    return most;
}

/* A NaN becomes -128: its scale is one too. */
static uint8_t int8_of(float v)
{
    float whole = rintf(v);

    return (uint8_t)(int8_t)(!(whole > -128.0f) ? -128.0f : whole > 127.0f ? 127.0f : whole);
}

static void quantize(uint8_t *codes, const float *x, size_t n, float scale, enum activation to,
    bool inverse)
{
    float factor = 1.0f / scale;

    for (size_t i = 0; i < n; i++) {
        float v = inverse ? x[i] * factor : x[i] / scale;

        codes[i] = to == ACTIVATION_INT8 ? int8_of(v) : f32_to_e4m3(v);
    }
}

/* The rest --------------------------------------------------------------------------------- */

void quant_lookup(float *out, const struct weight *w, uint32_t row)
{
    const struct weight_quant *q = &w->quant;

    for (uint32_t col = 0; col < w->k; col++) {
        size_t at = (size_t)quant_group_of(q, col) * w->n + row;
        float code = quant_code_value(w->data, w->format, w->k, row / PANEL, row % PANEL, col);

        out[col] = (code - zero_of(q, w->format, at)) * q->scale[at];
    }
}

void quant_rows_scalar(struct cpu_kernels *t)
{
    for (int compute = 0; compute < 2; compute++) {
        t->linear[WEIGHT_FP8][compute] =
            (struct linear_kernel){"scalar.fp8", DTYPE_F32, linear_fp8};
        t->linear[WEIGHT_INT8][compute] =
            (struct linear_kernel){"scalar.int8", DTYPE_F32, linear_int8};
        t->linear[WEIGHT_INT4][compute] =
            (struct linear_kernel){"scalar.int4", DTYPE_F32, linear_int4};
    }
    t->amax = amax;
    t->quantize = quantize;
}
