/* coll_fused.c - the sum over ranks, the residual and the norm in one pass over the rows.
 *
 * Apart, these are an all-reduce, a barrier of the rank's threads and a norm,
 * and every row goes through the cache twice. Here a thread finishes a row
 * while its sum is still in the first-level cache. The sum is the backend's
 * sum_ranks and the norm its add_norm, so the bits are those of the plain rows.
 *
 * One-shot: every rank norms all rows from everybody's parts. Two-shot: each
 * sums its own rows (comm_own_rows), then all norm all rows from the sums,
 * which add_norm reads where they lie. Buffers: see coll_oneshot.c and
 * coll_twoshot.c. Rows go to threads whole; a row without a thread of its own
 * costs less than the barrier that cutting it would. */
#include "parallel/coll_internal.h"

/* Rows of thread `thread` among `whole`. */
static struct comm_rows rows_of_thread(struct comm_rows whole, int thread, int threads)
{
    struct comm_rows part = comm_own_rows(whole.count, thread, threads);

    part.first += whole.first;
    return part;
}

static void add_norm(const struct coll_shm *c, const struct fused_norm_args *a, size_t row,
    const float *y, size_t rows)
{
    size_t at = row * a->cols;

    c->o.add_norm(a->out + at, a->x + at, y, a->w, a->eps, (uint32_t)a->cols, 0, (uint32_t)rows);
}

/* Asks at once for all that the peers wrote of rows `mine`. A sixth off the fused call where it is
 * short, nothing where it is long or where sums stand alone: docs/performance.md. */
static void ask_for_parts(const struct coll_shm *c, const struct fused_norm_args *a, int which,
    struct comm_rows mine)
{
    enum { MOST_FLOATS = 8192 };
    size_t n = mine.count * a->cols;

    if (n > MOST_FLOATS)
        return;
    for (int r = 0; r < c->o.size; r++) {
        const float *part = (const float *)channel_at(&c->every, r, which) + mine.first * a->cols;

        if (r == c->o.rank)
            continue;
        for (size_t i = 0; i < n; i += COLL_LINE_FLOATS)
            __builtin_prefetch(part + i);
    }
}

static void sum_and_norm(const struct coll_shm *c, const struct fused_norm_args *a, int which,
    struct comm_rows mine)
{
    ask_for_parts(c, a, which, mine);
    for (size_t row = mine.first; row < mine.first + mine.count; row++) {
        float *y = a->y + row * a->cols;
        const float *src[COMM_MAX_RANKS];

        for (int r = 0; r < c->o.size; r++)
            src[r] = r == c->o.rank
                         ? y
                         : (const float *)channel_at(&c->every, r, which) + row * a->cols;
        c->o.sum_ranks(y, src, c->o.size, a->cols);
        add_norm(c, a, row, y, 1);
    }
}

enum status fused_oneshot(struct comm *comm, int thread, int threads,
    const struct fused_norm_args *a)
{
    struct coll_shm *c = coll_of(comm);
    struct channel *ch = &c->every;
    struct comm_rows mine = comm_own_rows(a->rows, thread, threads);
    uint32_t epoch;
    enum status s;

    if (c->o.add_norm == NULL || a->rows * a->cols > c->o.reduce_floats)
        return STATUS_UNSUPPORTED;
    epoch = channel_next(ch, thread);
    if (mine.count > 0)
        copy_floats((float *)channel_at(ch, c->o.rank, epoch & 1) + mine.first * a->cols,
            a->y + mine.first * a->cols, mine.count * a->cols);
    s = channel_meet(ch, thread, epoch);
    if (s == STATUS_OK)
        sum_and_norm(c, a, epoch & 1, mine);
    return s;
}

/* The partial rows that peers are going to sum. */
static void send_rows(const struct coll_shm *c, const struct fused_norm_args *a, int thread,
    int threads)
{
    float *parts = channel_at(&c->every, c->o.rank, 0);

    for (int r = 0; r < c->o.size; r++) {
        struct comm_rows p =
            rows_of_thread(comm_own_rows(a->rows, r, c->o.size), thread, threads);

        if (r != c->o.rank && p.count > 0)
            copy_floats(parts + p.first * a->cols, a->y + p.first * a->cols, p.count * a->cols);
    }
}

static void sum_own_rows(const struct coll_shm *c, const struct fused_norm_args *a, int thread,
    int threads)
{
    struct comm_rows whole = comm_own_rows(a->rows, c->o.rank, c->o.size);
    struct comm_rows mine = rows_of_thread(whole, thread, threads);
    float *sums = channel_at(&c->every, c->o.rank, 1);
    const float *src[COMM_MAX_RANKS];

    for (int r = 0; r < c->o.size; r++)
        src[r] = (r == c->o.rank ? a->y : (const float *)channel_at(&c->every, r, 0)) +
                 mine.first * a->cols;
    if (mine.count > 0)
        c->o.sum_ranks(sums + (mine.first - whole.first) * a->cols, src, c->o.size,
            mine.count * a->cols);
}

static void norm_all_rows(const struct coll_shm *c, const struct fused_norm_args *a, int thread,
    int threads)
{
    for (int r = 0; r < c->o.size; r++) {
        struct comm_rows whole = comm_own_rows(a->rows, r, c->o.size);
        struct comm_rows p = rows_of_thread(whole, thread, threads);
        const float *sums = channel_at(&c->every, r, 1);

        if (p.count > 0)
            add_norm(c, a, p.first, sums + (p.first - whole.first) * a->cols, p.count);
    }
}

/* UNSUPPORTED also for fewer rows than ranks: some would have nothing to sum. */
enum status fused_twoshot(struct comm *comm, int thread, int threads,
    const struct fused_norm_args *a)
{
    struct coll_shm *c = coll_of(comm);
    struct channel *ch = &c->every;
    enum status s;

    if (c->o.add_norm == NULL || a->rows * a->cols > c->o.reduce_floats ||
        a->rows < (size_t)c->o.size)
        return STATUS_UNSUPPORTED;
    send_rows(c, a, thread, threads);
    s = channel_meet(ch, thread, channel_next(ch, thread));
    if (s != STATUS_OK)
        return s;
    sum_own_rows(c, a, thread, threads);
    s = channel_meet(ch, thread, channel_next(ch, thread));
    if (s == STATUS_OK)
        norm_all_rows(c, a, thread, threads);
    return s;
}
