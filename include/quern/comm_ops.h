/* comm_ops.h - the communication operations by the names the field uses, naming no algorithm.
 *
 * Each takes the groups of the program's mesh and runs on the group its name
 * (or `which`) says. A rank that is alone in a group (NULL, or size 1) has
 * nobody to talk to: operations in place leave the data as they are, those with
 * an output copy their input there.
 *
 * "Every thread", "one thread", blocking and death: as comm.h says of the row
 * behind each. Shapes are in elements of f32 unless bytes are named. */
#ifndef QUERN_COMM_OPS_H
#define QUERN_COMM_OPS_H

#include <stdbool.h>
#include <string.h>

#include "quern/comm.h"

static inline bool comm_is_alone(const struct comm *c)
{
    return c == NULL || c->size == 1;
}

/* Every thread. x [n] Partial -> the sum over the group's ranks, on all of them. */
static inline enum status group_all_reduce(const struct comm_groups *g, enum comm_group which,
    int thread, int threads, float *x, size_t n)
{
    struct comm *c = g->group[which];

    return comm_is_alone(c) ? STATUS_OK : c->row->all_reduce_f32(c, thread, threads, x, n);
}

static inline enum status tp_all_reduce(const struct comm_groups *g, int thread, int threads,
    float *x, size_t n)
{
    return group_all_reduce(g, GROUP_TP, thread, threads, x, n);
}

static inline enum status attn_tp_all_reduce(const struct comm_groups *g, int thread, int threads,
    float *x, size_t n)
{
    return group_all_reduce(g, GROUP_ATTN_TP, thread, threads, x, n);
}

static inline enum status moe_tp_all_reduce(const struct comm_groups *g, int thread, int threads,
    float *x, size_t n)
{
    return group_all_reduce(g, GROUP_MOE_TP, thread, threads, x, n);
}

static inline enum status moe_ep_all_reduce(const struct comm_groups *g, int thread, int threads,
    float *x, size_t n)
{
    return group_all_reduce(g, GROUP_MOE_EP, thread, threads, x, n);
}

/* Every thread. x [n] -> the maximum over the ranks, on all of them. */
static inline enum status max_reduce(const struct comm_groups *g, enum comm_group which,
    int thread, int threads, float *x, size_t n)
{
    struct comm *c = g->group[which];

    return comm_is_alone(c) ? STATUS_OK : c->row->max_reduce_f32(c, thread, threads, x, n);
}

/* Every thread. x [rows, cols] Partial -> this rank's rows (comm_own_rows) hold the sum. */
static inline enum status reduce_scatter(const struct comm_groups *g, enum comm_group which,
    int thread, int threads, float *x, size_t rows, size_t cols)
{
    struct comm *c = g->group[which];

    return comm_is_alone(c) ? STATUS_OK
                            : c->row->reduce_scatter_rows(c, thread, threads, x, rows, cols);
}

/* Every thread. Dimension 0: x [rows, cols], own rows -> all rows. */
static inline enum status all_gather_rows(const struct comm_groups *g, enum comm_group which,
    int thread, int threads, float *x, size_t rows, size_t cols)
{
    struct comm *c = g->group[which];

    return comm_is_alone(c) ? STATUS_OK
                            : c->row->all_gather_rows(c, thread, threads, x, rows, cols);
}

/* Every thread. Dimension 1: mine [rows, mine_cols] -> out [rows, map->cols]. Alone, the rows
 * are copied in the order of the map's parts. */
static inline enum status all_gather_cols(const struct comm_groups *g, enum comm_group which,
    int thread, int threads, const float *mine, size_t mine_cols, float *out, size_t rows,
    const struct column_map *map)
{
    struct comm *c = g->group[which];
    struct comm_rows own = comm_own_rows(rows, thread, threads);

    if (!comm_is_alone(c))
        return c->row->all_gather_cols(c, thread, threads, mine, mine_cols, out, rows, map);
    for (size_t row = own.first; row < own.first + own.count; row++) {
        const float *from = mine + row * mine_cols;

        for (int p = 0; p < map->n_parts; from += map->parts[p++].count[0])
            memcpy(out + row * map->cols + map->parts[p].at + map->parts[p].first[0], from,
                map->parts[p].count[0] * sizeof(float));
    }
    return STATUS_OK;
}

/* One thread. all [size][bytes] receives every rank's mine [bytes]. */
static inline enum status all_gather(const struct comm_groups *g, enum comm_group which,
    const void *mine, size_t bytes, void *all)
{
    struct comm *c = g->group[which];

    if (!comm_is_alone(c))
        return c->row->all_gather(c, mine, bytes, all);
    memcpy(all, mine, bytes);
    return STATUS_OK;
}

/* One thread. Each rank's mine [rows][sizes[rank]] -> out + offsets[rank], rows out_stride
 * bytes apart, on rank `root` alone. */
static inline enum status gather(const struct comm_groups *g, enum comm_group which, int root,
    const void *mine, size_t rows, const size_t *sizes, const size_t *offsets, void *out,
    size_t out_stride)
{
    struct comm *c = g->group[which];

    if (!comm_is_alone(c))
        return c->row->gather_rows(c, root, mine, rows, sizes, offsets, out, out_stride);
    for (size_t row = 0; row < rows; row++)
        memcpy((char *)out + row * out_stride + offsets[0], (const char *)mine + row * sizes[0],
            sizes[0]);
    return STATUS_OK;
}

/* One thread. data [bytes] of place `root` -> data of every rank. */
static inline enum status broadcast(const struct comm_groups *g, enum comm_group which, int root,
    void *data, size_t bytes)
{
    struct comm *c = g->group[which];

    return comm_is_alone(c) ? STATUS_OK : c->row->broadcast(c, root, data, bytes);
}

/* Every thread. x += sum of y; out = rms_norm(x) * w, in one pass. UNSUPPORTED, with nothing
 * done and on every rank and thread alike, where the plain operations must run instead: also
 * when this rank is alone, whose y is no debt. */
static inline enum status fused_all_reduce_rmsnorm(const struct comm_groups *g,
    enum comm_group which, int thread, int threads, const struct fused_norm_args *a)
{
    struct comm *c = g->group[which];

    return comm_is_alone(c) ? STATUS_UNSUPPORTED
                            : c->row->fused_all_reduce_norm(c, thread, threads, a);
}

#endif
