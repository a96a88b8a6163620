/* program.c - the list: operations and buffers appended, and their names.
 *
 * Nothing is judged here beyond what would not fit into memory; whether the
 * operations make sense together is program_check()'s business (check.c). */
#include "program/program.h"

#include <stdlib.h>

#include "quern/log.h"

const char *op_name(enum op_kind kind)
{
    static const char *const names[OP_KINDS] = {
        [OP_BEGIN] = "begin",
        [OP_EMBED] = "embed",
        [OP_NORM] = "norm",
        [OP_ADD_NORM] = "add_norm",
        [OP_LINEAR] = "linear",
        [OP_ADD_BIAS] = "add_bias",
        [OP_QK_ROPE] = "qk_rope",
        [OP_ATTENTION] = "attention",
        [OP_SILU_MUL] = "silu_mul",
        [OP_ALL_REDUCE] = "all_reduce",
        [OP_REDUCE_SCATTER] = "reduce_scatter",
        [OP_GATHER_ROWS] = "gather_rows",
        [OP_GATHER_COLS] = "gather_cols",
        [OP_SLICE_COLS] = "slice_cols",
        [OP_SLICE_ROWS] = "slice_rows",
        [OP_REDUCE_ADD_NORM] = "reduce_add_norm",
        [OP_AMAX] = "amax",
        [OP_MAX_REDUCE] = "max_reduce",
        [OP_PICK] = "pick",
        [OP_SAMPLE] = "sample",
    };

    return (unsigned)kind < OP_KINDS ? names[kind] : "unknown";
}

const char *place_name(enum place place)
{
    static const char *const names[] = {
        [PLACE_REPLICATE] = "replicate",
        [PLACE_SHARD] = "shard",
        [PLACE_PARTIAL] = "partial",
        [PLACE_SEQUENCE] = "sequence",
    };

    return (unsigned)place < sizeof(names) / sizeof(names[0]) ? names[place] : "unknown";
}

size_t kv_head_bytes(enum dtype type, uint32_t block_size, uint32_t head_dim)
{
    size_t values = (size_t)block_size * head_dim * dtype_bytes(type);

    return type == DTYPE_E4M3 ? (values + 3) / 4 * 4 + block_size * sizeof(float) : values;
}

size_t program_block_bytes(const struct program_shape *shape)
{
    return (size_t)2 * shape->kv_heads *
           kv_head_bytes(shape->kv_dtype, shape->limits.block_size, shape->head_dim);
}

/* Building ------------------------------------------------------------------------------- */

void program_init(struct program *p, const struct program_shape *shape, struct comm *comm)
{
    *p = (struct program){.shape = *shape, .groups.group[GROUP_TP] = comm};
}

void program_free(struct program *p)
{
    free(p->ops);
    p->ops = NULL;
    p->n_ops = p->ops_room = p->n_buffers = 0;
}

int program_buffer(struct program *p, const char *name, enum extent rows, uint32_t cols,
    enum place place)
{
    if (p->n_buffers == PROGRAM_MAX_BUFFERS || cols == 0) {
        log_fail(STATUS_INVALID, "program: buffer %s of %u columns is number %d, at most %d can be",
            name, cols, p->n_buffers + 1, PROGRAM_MAX_BUFFERS);
        return -1;
    }
    p->buffers[p->n_buffers] =
        (struct buffer_spec){.name = name, .rows = rows, .cols = cols, .place = place};
    return p->n_buffers++;
}

static bool buffer_number_valid(const struct program *p, int buffer)
{
    return buffer >= -1 && buffer < p->n_buffers;
}

static enum status grow(struct program *p)
{
    int room = p->ops_room == 0 ? 64 : 2 * p->ops_room;
    struct op *ops = realloc(p->ops, (size_t)room * sizeof(*ops));

    if (ops == NULL)
        return log_fail(STATUS_NOMEM, "program: no memory for %d operations", room);
    p->ops = ops;
    p->ops_room = room;
    return STATUS_OK;
}

enum status program_op(struct program *p, struct op op)
{
    if ((unsigned)op.kind >= OP_KINDS || !buffer_number_valid(p, op.in[0]) ||
        !buffer_number_valid(p, op.in[1]) || !buffer_number_valid(p, op.out))
        return log_fail(STATUS_INVALID, "program: %s of buffers %d and %d to %d, there are %d",
            op_name(op.kind), op.in[0], op.in[1], op.out, p->n_buffers);
    if (p->n_ops == p->ops_room && grow(p) != STATUS_OK)
        return STATUS_NOMEM;
    p->ops[p->n_ops++] = op;
    return STATUS_OK;
}
