/* linear_drive.c - cuts a linear layer into tiles.
 *
 * Two shapes of work. A few tokens (one tile high) are bound by reading w: each
 * group of panels is read once from end to end, and x stays in the cache. More
 * tokens are bound by arithmetic: a block of rows of x by one chunk of k is
 * copied together, since rows a power of two apart would fall on the same few
 * sets of a cache, and stays in the second-level cache while all panels pass;
 * the piece of a panel that meets it stays in the first. Both add chunk sums to
 * y in ascending k. */
#include <string.h>

#include "kernels/cpu/linear.h"

enum {
    BLOCK_ROWS = 96,
    AHEAD_BYTES = 1024, /* hides memory's latency when every weight is used once */
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t steps_of(const struct linear_args *a, const struct linear_tiles *t)
{
    return (a->k + t->step - 1) / t->step;
}

static const char *x_at(const struct linear_args *a, const struct linear_tiles *t, uint32_t row,
    uint32_t step)
{
    return (const char *)a->x + (row * a->ldx + (size_t)step * t->step) * t->x_bytes;
}

static void drive_few(const struct linear_args *a, const struct linear_tiles *t, uint32_t panel0,
    uint32_t panel1)
{
    uint32_t chunk = LINEAR_CHUNK / t->step;
    struct linear_span s = {.ldx = a->ldx, .steps = steps_of(a, t), .ahead = AHEAD_BYTES};

    for (s.panel = panel0; s.panel < panel1;) {
        uint32_t width = least(t->panels[a->m], panel1 - s.panel);

        for (s.step0 = 0; s.step0 < s.steps; s.step0 = s.step1) {
            s.step1 = least(s.step0 + chunk, s.steps);
            s.x = x_at(a, t, 0, s.step0);
            t->tile[a->m][width](a, &s);
        }
        s.panel += width;
    }
}

/* `rows` rows from s.row on, in tiles of nearly equal height: 7 is 3 + 4, not 6 + 1. */
static void drive_tiles(const struct linear_args *a, const struct linear_tiles *t,
    struct linear_span s, uint32_t rows, uint32_t width)
{
    for (uint32_t tiles = (rows + t->rows - 1) / t->rows; tiles > 0; tiles--) {
        uint32_t height = rows / tiles;

        t->tile[height][width](a, &s);
        s.row += height;
        s.x = (const char *)s.x + height * s.ldx * t->x_bytes;
        rows -= height;
    }
}

/* Rows [row, row + rows) of x, steps [step0, step1), side by side. */
static void copy_block(char *to, const struct linear_args *a, const struct linear_tiles *t,
    const struct linear_span *s, uint32_t rows)
{
    size_t bytes = (size_t)(s->step1 - s->step0) * t->step * t->x_bytes;

    for (uint32_t r = 0; r < rows; r++)
        memcpy(to + r * s->ldx * t->x_bytes, x_at(a, t, s->row + r, s->step0), bytes);
}

static void drive_block(const struct linear_args *a, const struct linear_tiles *t,
    uint32_t panel0, uint32_t panel1, uint32_t row, uint32_t rows)
{
    _Alignas(64) char block[BLOCK_ROWS * LINEAR_CHUNK * sizeof(float)];
    struct linear_span s = {.x = block, .ldx = LINEAR_CHUNK, .row = row, .steps = steps_of(a, t)};

    /* One panel's piece is used by many rows: time enough to ask for the next panels'. */
    s.ahead = (size_t)s.steps * STEP_BYTES * t->panels[t->rows];
    for (s.step0 = 0; s.step0 < s.steps; s.step0 = s.step1) {
        s.step1 = least(s.step0 + LINEAR_CHUNK / t->step, s.steps);
        copy_block(block, a, t, &s, rows);
        for (s.panel = panel0; s.panel < panel1;) {
            uint32_t width = least(t->panels[t->rows], panel1 - s.panel);

            drive_tiles(a, t, s, rows, width);
            s.panel += width;
        }
    }
}

void linear_drive(const struct linear_args *a, const struct linear_tiles *t, uint32_t panel0,
    uint32_t panel1)
{
    if (a->m <= t->rows) {
        if (a->m > 0)
            drive_few(a, t, panel0, panel1);
        return;
    }
    for (uint32_t row = 0; row < a->m; row += BLOCK_ROWS)
        drive_block(a, t, panel0, panel1, row, least(BLOCK_ROWS, a->m - row));
}
