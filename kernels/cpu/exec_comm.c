/* exec_comm.c - the operations that meet other ranks, and those that would if there were any.
 *
 * Each is one call through the group's row by every thread; the barrier behind
 * it is exec.c's. Alone, a buffer is whole already and an operation is nothing,
 * or the plain copy that its columns' map says.
 *
 * Which functions a row has is asked when a program is loaded, so that no step
 * finds out half way. */
#include <string.h>

#include "kernels/cpu/exec.h"
#include "quern/log.h"

/* Values of a buffer in this step. */
static size_t values_of(const struct step *s, int buffer)
{
    return (size_t)rows_of(s, buffer) * cols_of(s->x, buffer);
}

static bool nothing_to_share(const struct step *s, int buffer)
{
    return is_alone(s->x) || rows_of(s, buffer) == 0;
}

static const struct comm_groups *groups_of(const struct step *s)
{
    return &s->x->program->groups;
}

/* A buffer's sum or maximum over the ranks, in place. What is larger than the group's buffers, as
 * logits that are summed whole, goes in pieces, with the barrier between them that the group wants
 * behind each: threads share pieces of other lengths otherwise. */
static enum status reduce(struct step *s, int buffer, bool maximum, int thread)
{
    struct executable *x = s->x;
    size_t n = values_of(s, buffer), room = x->comm->most_floats > 0 ? x->comm->most_floats : n;
    enum status status = STATUS_OK;

    for (size_t at = 0; status == STATUS_OK && at < n; at += room) {
        float *piece = x->buffers[buffer] + at;
        size_t floats = n - at < room ? n - at : room;

        status = maximum ? max_reduce(groups_of(s), GROUP_TP, thread, x->threads, piece, floats)
                         : tp_all_reduce(groups_of(s), thread, x->threads, piece, floats);
        if (at + room < n && pool_barrier(x->device->pool, status != STATUS_OK))
            return status != STATUS_OK ? status : STATUS_CLOSED;
    }
    return status;
}

enum status op_all_reduce(struct step *s, const struct op *op, int thread)
{
    return nothing_to_share(s, op->in[0]) ? STATUS_OK : reduce(s, op->in[0], false, thread);
}

enum status op_max_reduce(struct step *s, const struct op *op, int thread)
{
    return nothing_to_share(s, op->in[0]) ? STATUS_OK : reduce(s, op->in[0], true, thread);
}

enum status op_reduce_scatter(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;

    if (nothing_to_share(s, op->in[0]))
        return STATUS_OK;
    return reduce_scatter(groups_of(s), GROUP_TP, thread, x->threads, x->buffers[op->in[0]],
        rows_of(s, op->in[0]), cols_of(x, op->in[0]));
}

enum status op_gather_rows(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;

    if (nothing_to_share(s, op->in[0]))
        return STATUS_OK;
    return all_gather_rows(groups_of(s), GROUP_TP, thread, x->threads, x->buffers[op->in[0]],
        rows_of(s, op->in[0]), cols_of(x, op->in[0]));
}

/* Replicate is more than a sequence shard: from here on the other rows count for nothing. */
enum status op_slice_rows(struct step *s, const struct op *op, int thread)
{
    (void)s;
    (void)op;
    (void)thread;
    return STATUS_OK;
}

/* Columns ---------------------------------------------------------------------------------- */

static int own_rank(const struct comm *c)
{
    return c == NULL ? 0 : c->rank;
}

/* Between a row of this rank's own columns and one of all: into `whole`, or out of it. */
static void copy_columns(const struct column_map *map, int rank, float *own, float *whole,
    bool into_whole)
{
    for (int p = 0; p < map->n_parts; p++) {
        float *there = whole + map->parts[p].at + map->parts[p].first[rank];
        uint32_t n = map->parts[p].count[rank];

        memcpy(into_whole ? there : own, into_whole ? own : there, n * sizeof(*own));
        own += n;
    }
}

enum status op_slice_cols(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct part rows = rows_mine(s, op, op->out, thread);

    for (uint32_t r = rows.from; r < rows.to; r++)
        copy_columns(op->map, own_rank(x->comm), row_at(x, op->out, r), row_at(x, op->in[0], r),
            false);
    return STATUS_OK;
}

enum status op_gather_cols(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct part rows = rows_mine(s, op, op->out, thread);

    if (!nothing_to_share(s, op->in[0]))
        return all_gather_cols(groups_of(s), GROUP_TP, thread, x->threads,
            x->buffers[op->in[0]], cols_of(x, op->in[0]), x->buffers[op->out],
            rows_of(s, op->in[0]), op->map);
    for (uint32_t r = rows.from; r < rows.to; r++)
        copy_columns(op->map, own_rank(x->comm), row_at(x, op->in[0], r), row_at(x, op->out, r),
            true);
    return STATUS_OK;
}

/* Fused ------------------------------------------------------------------------------------ */

static enum status reduce_add_norm_at_once(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct fused_norm_args args = {
        .out = x->buffers[op->out],
        .x = x->buffers[op->in[0]],
        .y = x->buffers[op->in[1]],
        .w = op->weight->data,
        .eps = x->program->shape.rms_eps,
        .rows = rows_of(s, op->out),
        .cols = cols_of(x, op->out),
    };

    if (x->comm->row->fused_all_reduce_norm == NULL)
        return STATUS_UNSUPPORTED;
    return fused_all_reduce_rmsnorm(groups_of(s), GROUP_TP, thread, x->threads, &args);
}

enum status op_reduce_add_norm(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    enum status status;

    if (nothing_to_share(s, op->in[1]))
        return op_norm(s, op, thread);
    status = reduce_add_norm_at_once(s, op, thread);
    if (status != STATUS_UNSUPPORTED)
        return status;
    status = reduce(s, op->in[1], false, thread);
    if (pool_barrier(x->device->pool, status != STATUS_OK))
        return status != STATUS_OK ? status : STATUS_CLOSED;
    return op_norm(s, op, thread);
}

/* At load ---------------------------------------------------------------------------------- */

/* The function that an operation needs and the row has not; NULL when all is there. */
static const char *missing_function(const struct comm_row *row, enum op_kind kind)
{
    switch (kind) {
    case OP_ALL_REDUCE:
    case OP_REDUCE_ADD_NORM: return row->all_reduce_f32 == NULL ? "all-reduce" : NULL;
    case OP_MAX_REDUCE: return row->max_reduce_f32 == NULL ? "max-reduce" : NULL;
    case OP_REDUCE_SCATTER: return row->reduce_scatter_rows == NULL ? "reduce-scatter" : NULL;
    case OP_GATHER_ROWS: return row->all_gather_rows == NULL ? "all-gather of rows" : NULL;
    case OP_GATHER_COLS: return row->all_gather_cols == NULL ? "all-gather of columns" : NULL;
    default: return NULL;
    }
}

static bool map_fits(const struct program *p, const struct op *op)
{
    int own = op->kind == OP_GATHER_COLS ? op->in[0] : op->out;

    return column_map_own(op->map, own_rank(program_comm(p))) == p->buffers[own].cols;
}

enum status comm_ops_check(const struct program *p)
{
    bool group = program_comm(p) != NULL && program_comm(p)->size > 1;

    for (int i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];
        const char *missing = group ? missing_function(program_comm(p)->row, op->kind) : NULL;

        if (missing != NULL)
            return log_fail(STATUS_INVALID, "collective %s has no %s, which operation %d (%s, "
                "layer %d) needs: set QUERN_COLL to another", program_comm(p)->row->name, missing,
                i, op_name(op->kind), op->layer);
        if (op->map != NULL && !map_fits(p, op))
            return log_fail(STATUS_INVALID, "operation %d (%s, layer %d): the column map gives "
                "rank %d another number of columns than its buffer has", i, op_name(op->kind),
                op->layer, own_rank(program_comm(p)));
    }
    return STATUS_OK;
}
