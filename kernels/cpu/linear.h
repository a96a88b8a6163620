/* linear.h - what the fast rows of a linear layer share: tiles and their driver.
 *
 * A tile is a few rows of x against a few panels of w over a span of k: its sums
 * stay in registers for one chunk and are then added to y. The driver cuts the
 * work into tiles; a tile knows one instruction set. Since each output element
 * has its own running sum, the cut changes speed and never a bit of the answer.
 *
 * Private to kernels/cpu. Nothing here allocates or keeps state. */
#ifndef QUERN_KERNELS_CPU_LINEAR_H
#define QUERN_KERNELS_CPU_LINEAR_H

#include "kernels/cpu/cpu.h"

enum {
    TILE_MAX_ROWS = 8,
    TILE_MAX_PANELS = 4,
    STEP_BYTES = 64, /* of one panel: 16 outputs by one f32 or two bf16 inputs */
};

/* Where a tile lies. A step is one input (f32 weights) or a pair of inputs (bf16 weights). */
struct linear_span {
    const void *x;         /* the first row's input at step0 */
    size_t ldx;            /* in elements */
    uint32_t row, panel;   /* the tile's first, in y and in w */
    uint32_t step0, step1; /* at most one chunk; step0 = 0 begins the sums in y */
    uint32_t steps;        /* of the whole k; step1 = steps adds the bias */
    size_t ahead;          /* each step asks for the weights this many bytes on */
};

typedef void linear_tile(const struct linear_args *a, const struct linear_span *s);

struct linear_tiles {
    uint32_t step;                         /* inputs in a step: 1 or 2 */
    uint32_t x_bytes;                      /* of an element of x */
    uint32_t rows;                         /* of the tallest tile */
    uint32_t panels[TILE_MAX_ROWS + 1];    /* [height]: of the widest tile of that height */
    linear_tile *tile[TILE_MAX_ROWS + 1][TILE_MAX_PANELS + 1]; /* [height][width] */
};

/* y = x . w^T + bias for panels [panel0, panel1); k >= 1. Uses up to 200 KiB of stack. */
void linear_drive(const struct linear_args *a, const struct linear_tiles *t, uint32_t panel0,
    uint32_t panel1);

#endif
