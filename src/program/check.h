/* check.h - what program_check() knows: a buffer's placement at a point of the list, and what
 * each operation reads and leaves behind. Private to src/program.
 *
 * On one rank Shard, Replicate and Sequence are the same thing and a buffer is
 * what it was declared; only Partial stays a debt. */
#ifndef QUERN_PROGRAM_CHECK_H
#define QUERN_PROGRAM_CHECK_H

#include "program/program.h"

/* Sums over ranks are not the only debt: a maximum is another, which only max_reduce pays.
 * Nobody declares it, so it is no enum place. */
enum { PLACE_MAXIMUM = PLACE_SEQUENCE + 1 };

enum { /* sets of placements */
    REPLICATE = 1 << PLACE_REPLICATE,
    SHARD = 1 << PLACE_SHARD,
    PARTIAL = 1 << PLACE_PARTIAL,
    SEQUENCE = 1 << PLACE_SEQUENCE,
    MAXIMUM = 1 << PLACE_MAXIMUM,
};

struct buffer_walk {
    bool written;
    int place;        /* enum place, or PLACE_MAXIMUM */
    uint32_t covered; /* columns written so far, from the first on */
};

struct walk {
    const struct program *p;
    struct buffer_walk buffers[PROGRAM_MAX_BUFFERS];
};

/* NULL, or what does not fit. All buffers read have been found written and well placed. */
typedef const char *op_check(const struct walk *w, const struct op *op);
/* How `out`, or in[0] where there is none, is placed afterwards. */
typedef int op_result(const struct walk *w, const struct op *op);

struct op_rule {
    unsigned in0, in1; /* sets of placements; 0: it must not have this buffer */
    bool in1_optional;
    bool out;          /* a buffer apart from in[0]; otherwise out is in[0] or -1 */
    bool weight, weight2, map;
    op_check *check;   /* NULL: any shape will do */
    op_result *result; /* NULL: placements stay as they are */
};

extern const struct op_rule op_rules[OP_KINDS];

/* The rules that weights bring along (check_linear.c). */
op_check check_linear, check_amax;
op_result linear_result;

static inline const struct buffer_spec *spec_of(const struct walk *w, int buffer)
{
    return &w->p->buffers[buffer];
}

static inline bool is_alone(const struct program *p)
{
    return program_comm(p) == NULL || program_comm(p)->size == 1;
}

#endif
