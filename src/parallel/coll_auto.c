/* coll_auto.c - one addition, one table look-up and one call more than the algorithm itself.
 *
 * Every rank looks up the same table with the same bytes, so all enter the same
 * algorithm. Operations that only one algorithm does go straight to it. A fused
 * call that the chosen algorithm declines is offered to the others in the order
 * of the table, on every rank alike. */
#include "parallel/coll_auto.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

struct coll_auto {
    struct comm comm;
    struct comm *algorithms[COLL_ALGORITHMS]; /* NULL: cannot serve so many ranks */
    int server[COLL_OPS];                     /* of operations with no choice by size */
    struct choice choice;
    struct coll_counts counts;
};

static struct coll_auto *auto_of(const struct comm *comm)
{
    return comm->state;
}

/* Notes who serves this call, and gives its comm. */
static struct comm *serve(struct coll_auto *c, int thread, enum coll_op op, int algorithm)
{
    if (thread == 0)
        c->counts.calls[op][algorithm]++;
    return c->algorithms[algorithm];
}

static struct comm *serve_fixed(struct comm *comm, int thread, enum coll_op op)
{
    struct coll_auto *c = auto_of(comm);

    return serve(c, thread, op, c->server[op]);
}

static struct comm *serve_size(struct comm *comm, int thread, int threads, enum coll_op op,
    size_t floats)
{
    struct coll_auto *c = auto_of(comm);
    int i = choice_index(floats * sizeof(float) / (size_t)threads);

    return serve(c, thread, op, c->choice.algorithm[CHOICE_REDUCE][i]);
}

static enum status all_reduce(struct comm *comm, int thread, int threads, float *x, size_t n)
{
    struct comm *to = serve_size(comm, thread, threads, COLL_ALL_REDUCE, n);

    return to->row->all_reduce_f32(to, thread, threads, x, n);
}

static enum status max_reduce(struct comm *comm, int thread, int threads, float *x, size_t n)
{
    struct comm *to = serve_size(comm, thread, threads, COLL_MAX_REDUCE, n);

    return to->row->max_reduce_f32(to, thread, threads, x, n);
}

static enum status reduce_scatter_rows(struct comm *comm, int thread, int threads, float *x,
    size_t rows, size_t cols)
{
    struct comm *to = serve_fixed(comm, thread, COLL_REDUCE_SCATTER);

    return to->row->reduce_scatter_rows(to, thread, threads, x, rows, cols);
}

static enum status all_gather_rows(struct comm *comm, int thread, int threads, float *x,
    size_t rows, size_t cols)
{
    struct comm *to = serve_fixed(comm, thread, COLL_ALL_GATHER_ROWS);

    return to->row->all_gather_rows(to, thread, threads, x, rows, cols);
}

static enum status all_gather_cols(struct comm *comm, int thread, int threads, const float *mine,
    size_t mine_cols, float *out, size_t rows, const struct column_map *map)
{
    struct comm *to = serve_fixed(comm, thread, COLL_ALL_GATHER_COLS);

    return to->row->all_gather_cols(to, thread, threads, mine, mine_cols, out, rows, map);
}

static enum status try_fused(struct coll_auto *c, int thread, int threads,
    const struct fused_norm_args *a, int algorithm)
{
    struct comm *to = c->algorithms[algorithm];
    enum status s;

    if (to == NULL)
        return STATUS_UNSUPPORTED;
    s = to->row->fused_all_reduce_norm(to, thread, threads, a);
    if (s != STATUS_UNSUPPORTED)
        serve(c, thread, COLL_FUSED_NORM, algorithm);
    return s;
}

static enum status fused_all_reduce_norm(struct comm *comm, int thread, int threads,
    const struct fused_norm_args *a)
{
    struct coll_auto *c = auto_of(comm);
    size_t bytes = a->rows * a->cols * sizeof(float);
    int i = choice_index(bytes / (size_t)threads);
    int chosen = c->choice.algorithm[CHOICE_FUSED][i];
    enum status s = try_fused(c, thread, threads, a, chosen);

    for (int other = 0; s == STATUS_UNSUPPORTED && other < COLL_ALGORITHMS; other++)
        if (other != chosen)
            s = try_fused(c, thread, threads, a, other);
    return s;
}

static enum status all_gather(struct comm *comm, const void *mine, size_t bytes, void *all)
{
    struct comm *to = serve_fixed(comm, 0, COLL_ALL_GATHER);

    return to->row->all_gather(to, mine, bytes, all);
}

static enum status gather_rows(struct comm *comm, int root, const void *mine, size_t rows,
    const size_t *sizes, const size_t *offsets, void *out, size_t out_stride)
{
    struct comm *to = serve_fixed(comm, 0, COLL_GATHER_ROWS);

    return to->row->gather_rows(to, root, mine, rows, sizes, offsets, out, out_stride);
}

static enum status broadcast(struct comm *comm, int root, void *data, size_t bytes)
{
    struct comm *to = serve_fixed(comm, 0, COLL_BROADCAST);

    return to->row->broadcast(to, root, data, bytes);
}

static const struct comm_row auto_row = {
    .name = "auto",
    .all_reduce_f32 = all_reduce,
    .max_reduce_f32 = max_reduce,
    .reduce_scatter_rows = reduce_scatter_rows,
    .all_gather_rows = all_gather_rows,
    .all_gather_cols = all_gather_cols,
    .fused_all_reduce_norm = fused_all_reduce_norm,
    .all_gather = all_gather,
    .gather_rows = gather_rows,
    .broadcast = broadcast,
};

/* Opening -------------------------------------------------------------------------------- */

static bool serves_group(int algorithm, const struct coll_shm_options *o)
{
    const struct coll_algorithm *a = coll_algorithms[algorithm];

    return o->size >= a->min_ranks && o->size <= a->max_ranks;
}

size_t coll_auto_heap_bytes(const struct coll_shm_options *o)
{
    size_t bytes = 0;

    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (serves_group(a, o))
            bytes += coll_shm_heap_bytes(coll_algorithms[a], o);
    return bytes;
}

/* The first algorithm of the table, or the forced one, for each operation; what the forced one
 * cannot do is told. */
static void find_servers(struct coll_auto *c, int forced)
{
    char others[256] = "";
    size_t used = 0;

    for (int op = 0; op < COLL_OPS; op++) {
        int a = forced >= 0 ? forced : 0;

        if ((coll_algorithms[a]->ops & 1u << op) == 0 || c->algorithms[a] == NULL) {
            a = COLL_SHM_ONESHOT;
            used += (size_t)snprintf(others + used, sizeof(others) - used, "%s%s",
                used > 0 ? ", " : "", coll_op_name((enum coll_op)op));
        }
        c->server[op] = a;
    }
    if (used > 0)
        log_info("QUERN_COLL=%s cannot do %s over %d ranks: %s does", coll_algorithms[forced]->name,
            others, c->comm.size, coll_algorithms[COLL_SHM_ONESHOT]->name);
}

static enum status open_algorithms(struct coll_auto *c, const struct coll_shm_options *o)
{
    enum status s = STATUS_OK;

    for (int a = 0; s == STATUS_OK && a < COLL_ALGORITHMS; a++)
        if (serves_group(a, o))
            s = coll_shm_open(coll_algorithms[a], o, &c->algorithms[a]);
    return s;
}

/* The forced algorithm at every size; -1: none is. */
static enum status read_forced(int *forced)
{
    const char *name = getenv("QUERN_COLL");

    *forced = -1;
    if (name == NULL || name[0] == '\0' || strcmp(name, "auto") == 0)
        return STATUS_OK;
    return coll_algorithm_find(name, forced);
}

static void force(struct coll_auto *c, int forced)
{
    memset(&c->choice, 0, sizeof(c->choice));
    memset(c->choice.algorithm[CHOICE_REDUCE], c->server[COLL_ALL_REDUCE], CHOICE_SIZES);
    memset(c->choice.algorithm[CHOICE_FUSED], c->server[COLL_FUSED_NORM], CHOICE_SIZES);
    log_debug("collectives of %d ranks: %s, as QUERN_COLL says", c->comm.size,
        coll_algorithms[forced]->name);
}

/* A rank that is forced does not take part in measuring, so ranks first agree on that. */
static enum status make_choice(struct coll_auto *c, const struct coll_shm_options *o,
    uint64_t measure_ns, int forced)
{
    struct comm *host = c->algorithms[COLL_SHM_ONESHOT];
    enum status s;

    if (forced >= 0)
        force(c, forced);
    else
        choice_default(o, &c->choice);
    s = choice_agree(host, o, &c->choice);
    if (s != STATUS_OK || forced >= 0 || measure_ns == 0)
        return s;
    s = choice_measure(c->algorithms, o, measure_ns, &c->choice);
    return s == STATUS_OK ? choice_agree(host, o, &c->choice) : s;
}

enum status coll_auto_open(const struct coll_shm_options *o, uint64_t measure_ns,
    struct comm **out)
{
    struct coll_auto *c;
    int forced;
    enum status s = read_forced(&forced);

    if (s != STATUS_OK)
        return s;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a group's algorithms");
    c->comm = (struct comm){.rank = o->rank, .size = o->size, .most_floats = o->reduce_floats,
        .row = &auto_row, .state = c};
    s = open_algorithms(c, o);
    if (s == STATUS_OK) {
        find_servers(c, forced);
        s = make_choice(c, o, measure_ns, forced);
    }
    if (s != STATUS_OK) {
        coll_auto_close(&c->comm);
        return s;
    }
    *out = &c->comm;
    return STATUS_OK;
}

static void report(const struct coll_auto *c)
{
    for (int op = 0; op < COLL_OPS; op++)
        for (int a = 0; a < COLL_ALGORITHMS; a++)
            if (c->counts.calls[op][a] > 0)
                log_debug("collectives of %d ranks, rank %d: %s ran %s %llu times", c->comm.size,
                    c->comm.rank, coll_op_name((enum coll_op)op), coll_algorithms[a]->name,
                    (unsigned long long)c->counts.calls[op][a]);
}

void coll_auto_close(struct comm *comm)
{
    struct coll_auto *c;

    if (comm == NULL)
        return;
    c = auto_of(comm);
    report(c);
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        coll_shm_close(c->algorithms[a]);
    free(c);
}

const struct coll_counts *coll_auto_counts(const struct comm *comm)
{
    return &auto_of(comm)->counts;
}

const struct choice *coll_auto_choice(const struct comm *comm)
{
    return &auto_of(comm)->choice;
}

struct comm *coll_auto_algorithm(const struct comm *comm, int algorithm)
{
    return auto_of(comm)->algorithms[algorithm];
}
