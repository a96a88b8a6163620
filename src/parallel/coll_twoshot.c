/* coll_twoshot.c - reduce-scatter by ranges of elements, then all-gather.
 *
 * Of n floats on r ranks each rank writes n - n/r, reads n to sum its range,
 * writes n/r sums and reads n - n/r of others: less than one-shot's n + nr from
 * three ranks on, for one meeting more.
 *
 * Buffer 0 holds parts, buffer 1 sums; neither alternates (R2): parts are
 * written again only in the next call, when the second meeting of this one has
 * shown that all have read them; sums only after the next call's first meeting,
 * which nobody comes to before having read them.
 *
 * Within a call nothing keeps the threads of a rank together, so thread t reads
 * only what threads t of other ranks wrote: a range is cut among threads in the
 * same way by its owner, its writers and its readers. */
#include "parallel/coll_internal.h"

/* The parts that peers are going to sum. */
static void send_parts(const struct coll_shm *c, int thread, int threads, const float *x, size_t n)
{
    float *parts = channel_at(&c->every, c->o.rank, 0);

    for (int r = 0; r < c->o.size; r++) {
        struct span s = span_of_thread(span_part(n, r, c->o.size), thread, threads);

        if (r != c->o.rank && s.count > 0)
            copy_floats(parts + s.first, x + s.first, s.count);
    }
}

static void sum_range(const struct coll_shm *c, int thread, int threads, const float *x, size_t n,
    combine_ranks *combine)
{
    struct span whole = span_part(n, c->o.rank, c->o.size);
    struct span mine = span_of_thread(whole, thread, threads);
    float *sums = channel_at(&c->every, c->o.rank, 1);
    const float *src[COMM_MAX_RANKS];

    for (int r = 0; r < c->o.size; r++)
        src[r] = (r == c->o.rank ? x : (const float *)channel_at(&c->every, r, 0)) + mine.first;
    if (mine.count > 0)
        combine(sums + (mine.first - whole.first), src, c->o.size, mine.count);
}

static void fetch_sums(const struct coll_shm *c, int thread, int threads, float *x, size_t n)
{
    for (int r = 0; r < c->o.size; r++) {
        struct span whole = span_part(n, r, c->o.size);
        struct span s = span_of_thread(whole, thread, threads);
        const float *sums = channel_at(&c->every, r, 1);

        if (s.count > 0)
            copy_floats(x + s.first, sums + (s.first - whole.first), s.count);
    }
}

static enum status reduce(struct coll_shm *c, enum coll_op op, int thread, int threads, float *x,
    size_t n, combine_ranks *combine)
{
    struct channel *ch = &c->every;
    enum status s = coll_check_room(c, op, n);

    if (s != STATUS_OK)
        return s;
    send_parts(c, thread, threads, x, n);
    s = channel_meet(ch, thread, channel_next(ch, thread));
    if (s != STATUS_OK)
        return s;
    sum_range(c, thread, threads, x, n, combine);
    s = channel_meet(ch, thread, channel_next(ch, thread));
    if (s == STATUS_OK)
        fetch_sums(c, thread, threads, x, n);
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
    .name = "shm_twoshot",
    .all_reduce_f32 = all_reduce,
    .max_reduce_f32 = max_reduce,
    .fused_all_reduce_norm = fused_twoshot,
};

static size_t max_bytes(const struct coll_shm_options *o, enum coll_op op)
{
    switch (op) {
    case COLL_ALL_REDUCE:
    case COLL_MAX_REDUCE: return o->reduce_floats * sizeof(float);
    case COLL_FUSED_NORM: return o->add_norm != NULL ? o->reduce_floats * sizeof(float) : 0;
    default: return 0;
    }
}

static void buffers(const struct coll_shm_options *o, size_t every[2], size_t single[2])
{
    every[0] = o->reduce_floats * sizeof(float);
    every[1] = own_most(o->reduce_floats, o->size) * sizeof(float);
    single[0] = single[1] = 0;
}

const struct coll_algorithm coll_twoshot = {
    .name = "shm_twoshot",
    .ops = 1u << COLL_ALL_REDUCE | 1u << COLL_MAX_REDUCE | 1u << COLL_FUSED_NORM,
    .min_ranks = 2,
    .max_ranks = COMM_MAX_RANKS,
    .max_bytes = max_bytes,
    .buffers = buffers,
    .row = &row,
};
