/* coll_rows.c - halves of an all-reduce over rows, and columns put together.
 *
 * One meeting each, on one-shot's alternating buffers: these move every byte
 * once as it is, so there is nothing for a second algorithm to save.
 *
 * Gathered columns may be wider than anything reduced, so they go in pieces:
 * each thread owns a slice of the buffers and moves its rows through it, and
 * all threads make as many meetings as the one with the most rows (R1). */
#include "parallel/coll_internal.h"
#include "quern/log.h"

enum status rows_reduce_scatter(struct comm *comm, int thread, int threads, float *x, size_t rows,
    size_t cols)
{
    struct coll_shm *c = coll_of(comm);
    struct channel *ch = &c->every;
    uint32_t epoch = channel_next(ch, thread);
    float *parts = channel_at(ch, c->o.rank, epoch & 1);
    const float *src[COMM_MAX_RANKS];
    struct span mine;
    enum status s = coll_check_room(c, COLL_REDUCE_SCATTER, rows * cols);

    if (s != STATUS_OK)
        return s;
    for (int r = 0; r < c->o.size; r++) {
        struct span p = span_of_thread(span_of_rows(rows, cols, r, c->o.size), thread, threads);

        if (r != c->o.rank && p.count > 0)
            copy_floats(parts + p.first, x + p.first, p.count);
    }
    s = channel_meet(ch, thread, epoch);
    if (s != STATUS_OK)
        return s;
    mine = span_of_thread(span_of_rows(rows, cols, c->o.rank, c->o.size), thread, threads);
    for (int r = 0; r < c->o.size; r++)
        src[r] = (r == c->o.rank ? x : (const float *)channel_at(ch, r, epoch & 1)) + mine.first;
    if (mine.count > 0)
        c->o.sum_ranks(x + mine.first, src, c->o.size, mine.count);
    return STATUS_OK;
}

enum status rows_all_gather(struct comm *comm, int thread, int threads, float *x, size_t rows,
    size_t cols)
{
    struct coll_shm *c = coll_of(comm);
    struct channel *ch = &c->every;
    uint32_t epoch = channel_next(ch, thread);
    struct span mine =
        span_of_thread(span_of_rows(rows, cols, c->o.rank, c->o.size), thread, threads);
    enum status s = coll_check_room(c, COLL_ALL_GATHER_ROWS, rows * cols);

    if (s != STATUS_OK)
        return s;
    if (mine.count > 0)
        copy_floats((float *)channel_at(ch, c->o.rank, epoch & 1) + mine.first, x + mine.first,
            mine.count);
    s = channel_meet(ch, thread, epoch);
    for (int r = 0; s == STATUS_OK && r < c->o.size; r++) {
        struct span p = span_of_thread(span_of_rows(rows, cols, r, c->o.size), thread, threads);

        if (r != c->o.rank && p.count > 0)
            copy_floats(x + p.first, (const float *)channel_at(ch, r, epoch & 1) + p.first,
                p.count);
    }
    return s;
}

/* Columns -------------------------------------------------------------------------------- */

static enum status check_map(const struct coll_shm *c, size_t mine_cols,
    const struct column_map *map)
{
    for (int r = 0; r < c->o.size; r++) {
        if (column_map_own(map, r) > c->o.row_floats)
            return log_fail(STATUS_INTERNAL, "all_gather_cols of %u columns a rank, room for %zu",
                column_map_own(map, r), c->o.row_floats);
        for (int p = 0; p < map->n_parts; p++)
            if ((uint64_t)map->parts[p].at + map->parts[p].first[r] + map->parts[p].count[r] >
                map->cols)
                return log_fail(STATUS_INTERNAL, "part %d of rank %d ends behind column %u", p, r,
                    map->cols);
    }
    if (column_map_own(map, c->o.rank) != mine_cols)
        return log_fail(STATUS_INTERNAL, "all_gather_cols: %zu columns of ours, %u in the map",
            mine_cols, column_map_own(map, c->o.rank));
    return STATUS_OK;
}

/* Rows [0, rows) of one rank, src [rows, its columns], to their places in out. */
static void place_columns(float *out, const float *src, size_t rows, int rank,
    const struct column_map *map)
{
    size_t width = column_map_own(map, rank);

    for (size_t row = 0; row < rows; row++) {
        const float *from = src + row * width;

        for (int p = 0; p < map->n_parts; p++) {
            size_t n = map->parts[p].count[rank];

            copy_floats(out + row * map->cols + map->parts[p].at + map->parts[p].first[rank],
                from, n);
            from += n;
        }
    }
}

/* How many rows fit into a thread's slice of a buffer, whichever rank's they are. */
static size_t rows_in_slice(const struct coll_shm *c, const struct column_map *map,
    size_t slice_floats)
{
    size_t widest = 1;

    for (int r = 0; r < c->o.size; r++)
        if (column_map_own(map, r) > widest)
            widest = column_map_own(map, r);
    return slice_floats > widest ? slice_floats / widest : 1;
}

/* A thread's rows [from, to): in pieces of at most `step`. `slice`: its floats in a buffer. */
static enum status move_rows(struct coll_shm *c, int thread, size_t slice, const float *mine,
    size_t mine_cols, float *out, struct comm_rows rows, size_t step, size_t pieces,
    const struct column_map *map)
{
    struct channel *ch = &c->every;

    for (size_t i = 0; i < pieces; i++) {
        size_t done = i * step < rows.count ? i * step : rows.count;
        size_t n = rows.count - done < step ? rows.count - done : step, row = rows.first + done;
        uint32_t epoch = channel_next(ch, thread);
        enum status s;

        if (n > 0)
            copy_floats((float *)channel_at(ch, c->o.rank, epoch & 1) + slice,
                mine + row * mine_cols, n * mine_cols);
        s = channel_meet(ch, thread, epoch);
        if (s != STATUS_OK)
            return s;
        for (int r = 0; r < c->o.size; r++)
            place_columns(out + row * map->cols,
                r == c->o.rank ? mine + row * mine_cols
                               : (const float *)channel_at(ch, r, epoch & 1) + slice,
                n, r, map);
    }
    return STATUS_OK;
}

enum status cols_all_gather(struct comm *comm, int thread, int threads, const float *mine,
    size_t mine_cols, float *out, size_t rows, const struct column_map *map)
{
    struct coll_shm *c = coll_of(comm);
    size_t slice = c->every.bytes[0] / sizeof(float) / (size_t)threads /
                   COLL_LINE_FLOATS * COLL_LINE_FLOATS;
    size_t most = (rows + (size_t)threads - 1) / (size_t)threads, step;
    enum status s = check_map(c, mine_cols, map);

    if (s != STATUS_OK)
        return s;
    step = rows_in_slice(c, map, slice);
    return move_rows(c, thread, slice * (size_t)thread, mine, mine_cols, out,
        comm_own_rows(rows, thread, threads), step, (most + step - 1) / step, map);
}
