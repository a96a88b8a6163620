/* coll_internal.h - what the files of the shared-memory algorithms share. Private to src/parallel.
 *
 * `every` serves calls that all threads make, `single` calls that one thread
 * makes: they count apart, for the threads that stay away do not count along. */
#ifndef QUERN_PARALLEL_COLL_INTERNAL_H
#define QUERN_PARALLEL_COLL_INTERNAL_H

#include <string.h>

#include "parallel/coll_channel.h"
#include "parallel/coll_shm.h"

struct coll_shm {
    struct comm comm;
    struct coll_shm_options o;
    int ranks[COMM_MAX_RANKS];
    struct channel_peers peers;
    struct channel every, single;
};

enum { COLL_LINE_FLOATS = CHANNEL_LINE / 4 };

/* dst[i] = the reduction of src[0][i] .. src[ranks - 1][i], in this order. */
typedef void combine_ranks(float *dst, const float *const *src, int ranks, size_t n);

struct span {
    size_t first, count;
};

/* Part `i` of `parts` of n floats, in whole cache lines: no two threads write one. */
static inline struct span span_part(size_t n, int i, int parts)
{
    size_t lines = (n + COLL_LINE_FLOATS - 1) / COLL_LINE_FLOATS;
    size_t from = lines * (size_t)i / (size_t)parts * COLL_LINE_FLOATS;
    size_t to = lines * ((size_t)i + 1) / (size_t)parts * COLL_LINE_FLOATS;

    to = to < n ? to : n;
    return (struct span){.first = from < to ? from : to, .count = from < to ? to - from : 0};
}

/* Thread `thread`'s part of range `whole`. */
static inline struct span span_of_thread(struct span whole, int thread, int threads)
{
    struct span part = span_part(whole.count, thread, threads);

    part.first += whole.first;
    return part;
}

/* The elements of the rows that the rank at `place` owns. */
static inline struct span span_of_rows(size_t rows, size_t cols, int place, int size)
{
    struct comm_rows own = comm_own_rows(rows, place, size);

    return (struct span){.first = own.first * cols, .count = own.count * cols};
}

/* The most floats that are one rank's own of n or fewer: a range of elements (span_part()), or rows
 * of which there are at least as many as ranks (span_of_rows()). Ranges grow with n; the largest
 * share of rows is where there is one more than ranks: two of size + 1. */
static inline size_t own_most(size_t n, int size)
{
    size_t ranks = (size_t)size, lines = (n + COLL_LINE_FLOATS - 1) / COLL_LINE_FLOATS;
    size_t range = (lines + ranks - 1) / ranks * COLL_LINE_FLOATS;
    size_t rows = 2 * n / (ranks + 1);

    return range > rows ? range : rows;
}

/* A copy in plain moves. memcpy() of some kilobytes is one string instruction where libc thinks it
 * fast, and on some cores that is ten times slower when destination and source lie a few bytes
 * apart modulo a page, as buffers of different allocations like to. */
static inline void copy_bytes(void *dst, const void *src, size_t bytes)
{
    size_t at = 0;

    for (; at + CHANNEL_LINE <= bytes; at += CHANNEL_LINE) {
        memcpy((char *)dst + at, (const char *)src + at, CHANNEL_LINE);
        __asm__ __volatile__("" ::: "memory"); /* or the loop becomes a memcpy() again */
    }
    if (at < bytes)
        memcpy((char *)dst + at, (const char *)src + at, bytes - at);
}

static inline void copy_floats(float *dst, const float *src, size_t n)
{
    copy_bytes(dst, src, n * sizeof(float));
}

static inline struct coll_shm *coll_of(struct comm *comm)
{
    return comm->state;
}

/* The largest of each in rank order; a NaN stays. Bits as on every other rank. */
combine_ranks max_ranks;

/* INTERNAL (logged) when `floats` is more than the group was opened for. */
enum status coll_check_room(const struct coll_shm *c, enum coll_op op, size_t floats);

/* coll_rows.c */
enum status rows_reduce_scatter(struct comm *comm, int thread, int threads, float *x, size_t rows,
    size_t cols);
enum status rows_all_gather(struct comm *comm, int thread, int threads, float *x, size_t rows,
    size_t cols);
enum status cols_all_gather(struct comm *comm, int thread, int threads, const float *mine,
    size_t mine_cols, float *out, size_t rows, const struct column_map *map);

/* coll_single.c */
enum status single_all_gather(struct comm *comm, const void *mine, size_t bytes, void *all);
enum status single_gather_rows(struct comm *comm, int root, const void *mine, size_t rows,
    const size_t *sizes, const size_t *offsets, void *out, size_t out_stride);
enum status single_broadcast(struct comm *comm, int root, void *data, size_t bytes);

/* coll_fused.c */
enum status fused_oneshot(struct comm *comm, int thread, int threads,
    const struct fused_norm_args *a);
enum status fused_twoshot(struct comm *comm, int thread, int threads,
    const struct fused_norm_args *a);

/* coll_oneshot.c, coll_twoshot.c: the rows of the table. */
extern const struct coll_algorithm coll_oneshot, coll_twoshot;

#endif
