/* coll_shm.c - opening a row of the table of algorithms.
 *
 * All algorithms live in one struct: a channel for the calls of every thread
 * and one for the calls of a single one, sized by the row. What an algorithm
 * does not need has no bytes. */
#include "parallel/coll_shm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/coll_internal.h"
#include "quern/log.h"

const struct coll_algorithm *const coll_algorithms[COLL_ALGORITHMS] = {
    [COLL_SHM_ONESHOT] = &coll_oneshot,
    [COLL_SHM_TWOSHOT] = &coll_twoshot,
};

const char *coll_op_name(enum coll_op op)
{
    static const char *const names[COLL_OPS] = {
        [COLL_ALL_REDUCE] = "all_reduce",
        [COLL_MAX_REDUCE] = "max_reduce",
        [COLL_REDUCE_SCATTER] = "reduce_scatter_rows",
        [COLL_ALL_GATHER_ROWS] = "all_gather_rows",
        [COLL_ALL_GATHER_COLS] = "all_gather_cols",
        [COLL_FUSED_NORM] = "fused_all_reduce_norm",
        [COLL_ALL_GATHER] = "all_gather",
        [COLL_GATHER_ROWS] = "gather_rows",
        [COLL_BROADCAST] = "broadcast",
    };

    return names[op];
}

enum status coll_algorithm_find(const char *name, int *index)
{
    char names[128] = "";
    size_t used = 0;

    for (int i = 0; i < COLL_ALGORITHMS; i++) {
        if (strcmp(coll_algorithms[i]->name, name) == 0) {
            *index = i;
            return STATUS_OK;
        }
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "",
            coll_algorithms[i]->name);
    }
    return log_fail(STATUS_INVALID, "there is no collective algorithm \"%s\": there is %s", name,
        names);
}

enum status coll_check_room(const struct coll_shm *c, enum coll_op op, size_t floats)
{
    if (floats <= c->o.reduce_floats)
        return STATUS_OK;
    return log_fail(STATUS_INTERNAL, "%s of %zu floats, room for %zu", coll_op_name(op), floats,
        c->o.reduce_floats);
}

void max_ranks(float *dst, const float *const *src, int ranks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float most = src[0][i];

        for (int r = 1; r < ranks; r++) {
            float x = src[r][i];

            most = x > most || x != x ? x : most;
        }
        dst[i] = most;
    }
}

static enum status check(const struct coll_algorithm *algorithm, const struct coll_shm_options *o)
{
    if (o->size < algorithm->min_ranks || o->size > algorithm->max_ranks)
        return log_fail(STATUS_INVALID, "%d ranks: %s serves %d to %d", o->size, algorithm->name,
            algorithm->min_ranks, algorithm->max_ranks);
    if (o->rank < 0 || o->rank >= o->size || o->threads < 1 || o->sum_ranks == NULL ||
        o->reduce_floats == 0 || o->gather_bytes == 0)
        return log_fail(STATUS_INVALID,
            "%s: place %d of %d, %d threads, %zu floats and %zu bytes cannot be", algorithm->name,
            o->rank, o->size, o->threads, o->reduce_floats, o->gather_bytes);
    return STATUS_OK;
}

static void take_options(struct coll_shm *c, const struct coll_algorithm *algorithm,
    const struct coll_shm_options *o)
{
    c->o = *o;
    for (int i = 0; i < o->size; i++)
        c->ranks[i] = o->ranks != NULL ? o->ranks[i] : i;
    c->o.ranks = c->ranks;
    c->peers = (struct channel_peers){
        .heap = o->heap,
        .abort_word = o->abort_word,
        .ranks = c->ranks,
        .rank = o->rank,
        .size = o->size,
        .threads = o->threads,
        .deadline_ns = o->deadline_ns,
    };
    c->comm = (struct comm){.rank = o->rank, .size = o->size, .most_floats = o->reduce_floats,
        .row = algorithm->row, .state = c};
}

static enum status open_channels(struct coll_shm *c, const struct coll_algorithm *algorithm)
{
    size_t every[2], single[2];
    enum status s;

    algorithm->buffers(&c->o, every, single);
    s = channel_open(&c->every, &c->peers, every[0], every[1]);
    if (s == STATUS_OK && single[0] > 0)
        s = channel_open(&c->single, &c->peers, single[0], single[1]);
    return s;
}

size_t coll_shm_heap_bytes(const struct coll_algorithm *algorithm,
    const struct coll_shm_options *o)
{
    size_t every[2], single[2], bytes;

    algorithm->buffers(o, every, single);
    bytes = channel_heap_bytes(o->threads, every[0], every[1]);
    return single[0] > 0 ? bytes + channel_heap_bytes(o->threads, single[0], single[1]) : bytes;
}

enum status coll_shm_open(const struct coll_algorithm *algorithm,
    const struct coll_shm_options *o, struct comm **out)
{
    struct coll_shm *c;
    enum status s = check(algorithm, o);

    if (s != STATUS_OK)
        return s;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a group's channels");
    take_options(c, algorithm, o);
    s = open_channels(c, algorithm);
    if (s != STATUS_OK) {
        coll_shm_close(&c->comm);
        return s;
    }
    *out = &c->comm;
    return STATUS_OK;
}

void coll_shm_close(struct comm *comm)
{
    struct coll_shm *c;

    if (comm == NULL)
        return;
    c = coll_of(comm);
    channel_close(&c->every);
    channel_close(&c->single);
    free(c);
}

void coll_shm_align(struct comm *comm)
{
    channel_align(&coll_of(comm)->every);
}
