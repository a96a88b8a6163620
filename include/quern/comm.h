/* comm.h - what a program needs of its peers, naming no algorithm.
 *
 * One struct comm is one group of ranks as one rank sees it. It is called from
 * inside a running program, by the backend's threads: a call marked "every
 * thread" is made by all `threads` threads of the rank (the same number on
 * each rank) with the same arguments but `thread`; a call marked "one thread"
 * by exactly one. All ranks make the same calls in the same order: the plan
 * alone decides them.
 *
 * Blocking: until the peers arrive. Every wait ends with the group's abort
 * word (STATUS_DEAD) or a deadline (STATUS_TIMEOUT); the group is then over.
 * Sums are in rank order from +0.0, so they are bit-identical on all ranks. */
#ifndef QUERN_COMM_H
#define QUERN_COMM_H

#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

struct comm {
    int rank, size;
    size_t most_floats;         /* of x in one operation of every thread; 0: any number */
    const struct comm_row *row; /* the group's dispatcher, or one algorithm */
    void *state;
};

enum { COMM_MAX_RANKS = 16, COMM_MAX_PARTS = 4 };

/* Rows [first, first + count) of `rows` that a rank owns where a sequence is cut (sequence
 * parallel): longer ranges first. */
struct comm_rows {
    size_t first, count;
};
static inline struct comm_rows comm_own_rows(size_t rows, int rank, int size)
{
    size_t r = (size_t)rank, n = (size_t)size, each = rows / n, extra = rows % n;

    return (struct comm_rows){
        .first = r * each + (r < extra ? r : extra), .count = each + (r < extra ? 1 : 0)};
}

/* Where the columns of a sharded buffer belong in the whole one. A rank's columns are its part 0,
 * then its part 1, ...; part p of rank r is global columns [first[r], first[r] + count[r]) counted
 * from `at`. Ranges may overlap (replicated KV heads): the values are then the same. */
struct column_map {
    int n_parts;
    uint32_t cols; /* of the whole */
    struct {
        uint32_t at;
        uint32_t first[COMM_MAX_RANKS], count[COMM_MAX_RANKS];
    } parts[COMM_MAX_PARTS];
};

/* Columns that a rank has, of all parts. */
static inline uint32_t column_map_own(const struct column_map *map, int rank)
{
    uint32_t n = 0;

    for (int p = 0; p < map->n_parts; p++)
        n += map->parts[p].count[rank];
    return n;
}

/* x [rows, cols] += the sum over ranks of y [rows, cols] (Partial); out = rms_norm(x) * w.
 * x is Replicate; y is scratch afterwards. */
struct fused_norm_args {
    float *out, *x, *y;
    const float *w; /* [cols] */
    float eps;
    size_t rows, cols;
};

struct comm_row {
    const char *name; /* of the algorithm: what actually ran is reported */

    /* Every thread. x [n] f32, Partial on entry, the sum on return. The threads
     * share the range; the caller puts a barrier behind it. */
    enum status (*all_reduce_f32)(struct comm *c, int thread, int threads, float *x, size_t n);

    /* Every thread. The same with the maximum. */
    enum status (*max_reduce_f32)(struct comm *c, int thread, int threads, float *x, size_t n);

    /* Every thread. x [rows, cols]: Partial on entry; on return this rank's rows
     * (comm_own_rows) hold the sum, the others are undefined. */
    enum status (*reduce_scatter_rows)(struct comm *c, int thread, int threads, float *x,
        size_t rows, size_t cols);

    /* Every thread. x [rows, cols]: each rank's own rows on entry, all rows on return. */
    enum status (*all_gather_rows)(struct comm *c, int thread, int threads, float *x, size_t rows,
        size_t cols);

    /* Every thread. mine [rows, own columns] of each rank -> out [rows, map->cols]. */
    enum status (*all_gather_cols)(struct comm *c, int thread, int threads, const float *mine,
        size_t mine_cols, float *out, size_t rows, const struct column_map *map);

    /* Every thread. One pass; UNSUPPORTED when this group's algorithms cannot at this size: the
     * same answer on every rank and thread, with nothing done. */
    enum status (*fused_all_reduce_norm)(struct comm *c, int thread, int threads,
        const struct fused_norm_args *a);

    /* One thread. all [size][bytes] receives every rank's `mine` [bytes]. */
    enum status (*all_gather)(struct comm *c, const void *mine, size_t bytes, void *all);

    /* One thread. rank r's block of `rows` rows lands at out + offsets[r] with
     * row stride `out_stride` on rank `root`; elsewhere `out` is not touched.
     * mine [rows][mine_bytes] with stride mine_bytes. offsets, sizes: bytes per row. */
    enum status (*gather_rows)(struct comm *c, int root, const void *mine, size_t rows,
        const size_t *sizes, const size_t *offsets, void *out, size_t out_stride);

    /* One thread. data [bytes] of rank `root` -> data of every rank. */
    enum status (*broadcast)(struct comm *c, int root, void *data, size_t bytes);
};

/* The groups of a mesh that a program may communicate in; NULL: this rank is alone in it. */
enum comm_group { GROUP_TP, GROUP_ATTN_TP, GROUP_MOE_TP, GROUP_MOE_EP, COMM_GROUPS };

/* Owned by the mesh; several groups may share one comm. */
struct comm_groups {
    struct comm *group[COMM_GROUPS];
};

#endif
