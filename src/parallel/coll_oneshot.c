/* coll_oneshot.c - write yours, meet once, read everybody's.
 *
 * Floor of an all-reduce of n floats on r ranks: each rank writes 4n bytes and
 * reads 4nr; at decode sizes (4 to 20 KiB, in cache) the flag's hop dominates.
 * Our own part is read where it lies, not where peers read it.
 *
 * The two buffers alternate: a rank that writes call e + 2 knows from the flags
 * of e + 1 that everyone has read e (R2). */
#include "parallel/coll_internal.h"

static enum status reduce(struct coll_shm *c, enum coll_op op, int thread, int threads, float *x,
    size_t n, combine_ranks *combine)
{
    struct channel *ch = &c->every;
    uint32_t epoch = channel_next(ch, thread);
    int which = epoch & 1;
    struct span mine = span_part(n, thread, threads);
    const float *src[COMM_MAX_RANKS];
    enum status s = coll_check_room(c, op, n);

    if (s != STATUS_OK)
        return s;
    for (int r = 0; r < c->o.size; r++)
        src[r] = (r == c->o.rank ? x : (const float *)channel_at(ch, r, which)) + mine.first;
    if (mine.count > 0)
        copy_floats((float *)channel_at(ch, c->o.rank, which) + mine.first, x + mine.first,
            mine.count);
    s = channel_meet(ch, thread, epoch);
    if (s == STATUS_OK && mine.count > 0)
        combine(x + mine.first, src, c->o.size, mine.count);
    return s;
}

static enum status all_reduce(struct comm *comm, int thread, int threads, float *x, size_t n)
{
    struct coll_shm *c = coll_of(comm);

    return reduce(c, COLL_ALL_REDUCE, thread, threads, x, n, c->o.sum_ranks);
}

static enum status max_reduce(struct comm *comm, int thread, int threads, float *x, size_t n)
{
    return reduce(coll_of(comm), COLL_MAX_REDUCE, thread, threads, x, n, max_ranks);
}

static const struct comm_row row = {
    .name = "shm_oneshot",
    .all_reduce_f32 = all_reduce,
    .max_reduce_f32 = max_reduce,
    .reduce_scatter_rows = rows_reduce_scatter,
    .all_gather_rows = rows_all_gather,
    .all_gather_cols = cols_all_gather,
    .fused_all_reduce_norm = fused_oneshot,
    .all_gather = single_all_gather,
    .gather_rows = single_gather_rows,
    .broadcast = single_broadcast,
};

/* What ranks tell each other when they agree on a choice is never much, and broadcasts go in
 * pieces of this. */
static size_t single_bytes(const struct coll_shm_options *o)
{
    const size_t least = SYMHEAP_PAGE;

    return o->gather_bytes > least ? o->gather_bytes : least;
}

static size_t max_bytes(const struct coll_shm_options *o, enum coll_op op)
{
    switch (op) {
    case COLL_ALL_REDUCE:
    case COLL_MAX_REDUCE:
    case COLL_REDUCE_SCATTER:
    case COLL_ALL_GATHER_ROWS: return o->reduce_floats * sizeof(float);
    case COLL_FUSED_NORM: return o->add_norm != NULL ? o->reduce_floats * sizeof(float) : 0;
    case COLL_ALL_GATHER_COLS: return o->row_floats > 0 ? SIZE_MAX : 0; /* in pieces */
    case COLL_ALL_GATHER:
    case COLL_GATHER_ROWS: return single_bytes(o);
    case COLL_BROADCAST: return SIZE_MAX; /* in pieces */
    case COLL_OPS: break;
    }
    return 0;
}

/* Each thread has room for a row in its slice of all_gather_cols. */
static void buffers(const struct coll_shm_options *o, size_t every[2], size_t single[2])
{
    size_t lines = (o->row_floats + COLL_LINE_FLOATS - 1) / COLL_LINE_FLOATS;
    size_t slices = lines * COLL_LINE_FLOATS * (size_t)o->threads;
    size_t floats = slices > o->reduce_floats ? slices : o->reduce_floats;

    every[0] = every[1] = floats * sizeof(float);
    single[0] = single[1] = single_bytes(o);
}

const struct coll_algorithm coll_oneshot = {
    .name = "shm_oneshot",
    .ops = (1u << COLL_OPS) - 1,
    .min_ranks = 1,
    .max_ranks = COMM_MAX_RANKS,
    .max_bytes = max_bytes,
    .buffers = buffers,
    .row = &row,
};
