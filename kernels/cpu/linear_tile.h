/* linear_tile.h - the tiles of one row of the table, written once.
 *
 * A template: define these, include it, and static `TILE_NAME(apply)` is there.
 *   TILE_NAME(x)         the name x of this row
 *   TILE_STEP            inputs in a step: 1 (f32 weights) or 2 (bf16 pairs)
 *   TILE_HALVES          products that a step is made of
 *   TILE_X               element type of x
 *   TILE_WEIGHT(w, half) the weights of one panel's step (64 bytes at w)
 *   TILE_INPUT(x, half)  the step's input, in all lanes
 *   TILE_MADD(w, x, acc) acc + w * x
 *   TILE_TALLEST         6 or 8: rows of the tallest tile
 * They are undefined again at the end, so that a file can make several rows.
 *
 * In a tile weights are in the outer loop and rows of x in the inner one: a weight is decoded
 * once for all rows and leaves its register before the next comes. Heights and widths are
 * constants where a tile is made, so all of its sums are registers. */
#include "kernels/cpu/linear.h"

#ifndef QUERN_KERNELS_CPU_LINEAR_TILE_H
#define QUERN_KERNELS_CPU_LINEAR_TILE_H

/* Adds a chunk's sums [16] to y: y begins with the first chunk, the last one brings the bias. */
static inline void add_chunk(const struct linear_args *a, const struct linear_span *s,
    uint32_t row, uint32_t panel, const float *sums)
{
    uint32_t column = panel * PANEL, lanes = a->n - column < PANEL ? a->n - column : PANEL;
    float *y = a->y + row * a->ldy + column;
    const float *bias = s->step1 == s->steps && a->bias != NULL ? a->bias + column : NULL;
    v16 sum = v16_load(sums);

    if (s->step0 > 0)
        sum = v16_add(v16_load_n(y, lanes), sum);
    if (bias != NULL)
        sum = v16_add(sum, v16_load_n(bias, lanes));
    v16_store_n(y, sum, lanes);
}

#endif

V16_FN void TILE_NAME(run)(const struct linear_args *a, const struct linear_span *s,
    const uint32_t rows, const uint32_t panels)
{
    v16 acc[TILE_TALLEST][TILE_MAX_PANELS];
    const TILE_X *x[TILE_TALLEST];
    const char *w[TILE_MAX_PANELS];
    float sums[TILE_TALLEST][TILE_MAX_PANELS][PANEL];

#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++)
        x[r] = (const TILE_X *)s->x + r * s->ldx;
#pragma GCC unroll 4
    for (uint32_t p = 0; p < panels; p++)
        w[p] = (const char *)a->w + ((size_t)(s->panel + p) * s->steps + s->step0) * STEP_BYTES;
#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (uint32_t p = 0; p < panels; p++)
            acc[r][p] = v16_set1(0.0f);

    for (size_t i = 0, steps = s->step1 - s->step0; i < steps; i++) {
#pragma GCC unroll 2
        for (int half = 0; half < TILE_HALVES; half++)
#pragma GCC unroll 4
            for (uint32_t p = 0; p < panels; p++) {
                v16 weight = TILE_WEIGHT(w[p] + i * STEP_BYTES, half);

                if (half == 0)
                    _mm_prefetch(w[p] + i * STEP_BYTES + s->ahead, _MM_HINT_T0);
#pragma GCC unroll 8
                for (uint32_t r = 0; r < rows; r++)
                    acc[r][p] = TILE_MADD(weight, TILE_INPUT(x[r] + i * TILE_STEP, half),
                        acc[r][p]);
            }
    }

#pragma GCC unroll 8
    for (uint32_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (uint32_t p = 0; p < panels; p++)
            v16_store(sums[r][p], acc[r][p]);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t p = 0; p < panels; p++)
            add_chunk(a, s, s->row + r, s->panel + p, sums[r][p]);
}

#define TILE(height, width) \
    static void TILE_NAME(tile_##height##x##width)(const struct linear_args *a, \
        const struct linear_span *s) \
    { \
        TILE_NAME(run)(a, s, height, width); \
    }

TILE(1, 1) TILE(1, 2) TILE(1, 3) TILE(1, 4)
TILE(2, 1) TILE(2, 2)
TILE(3, 1) TILE(3, 2)
TILE(4, 1) TILE(5, 1) TILE(6, 1)
#if TILE_TALLEST == 8
TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(7, 1) TILE(7, 2)
TILE(8, 1) TILE(8, 2)
#endif

static void TILE_NAME(apply)(const struct linear_args *a, uint32_t panel0, uint32_t panel1)
{
#define T(height, width) TILE_NAME(tile_##height##x##width)
    static const struct linear_tiles tiles = {
        .step = TILE_STEP,
        .x_bytes = sizeof(TILE_X),
        .rows = TILE_TALLEST,
#if TILE_TALLEST == 8
        .panels = {0, 4, 2, 2, 2, 2, 2, 2, 2},
#else
        .panels = {0, 4, 2, 2, 1, 1, 1},
#endif
        .tile = {
            [1] = {NULL, T(1, 1), T(1, 2), T(1, 3), T(1, 4)},
            [2] = {NULL, T(2, 1), T(2, 2)},
            [3] = {NULL, T(3, 1), T(3, 2)},
#if TILE_TALLEST == 8
            [4] = {NULL, T(4, 1), T(4, 2)},
            [5] = {NULL, T(5, 1), T(5, 2)},
            [6] = {NULL, T(6, 1), T(6, 2)},
            [7] = {NULL, T(7, 1), T(7, 2)},
            [8] = {NULL, T(8, 1), T(8, 2)},
#else
            [4] = {NULL, T(4, 1)},
            [5] = {NULL, T(5, 1)},
            [6] = {NULL, T(6, 1)},
#endif
        },
    };
#undef T

    linear_drive(a, &tiles, panel0, panel1);
}

#undef TILE
#undef TILE_NAME
#undef TILE_STEP
#undef TILE_HALVES
#undef TILE_X
#undef TILE_WEIGHT
#undef TILE_INPUT
#undef TILE_MADD
#undef TILE_TALLEST
