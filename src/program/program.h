/* program.h - building a program: buffers and operations, appended in order.
 *
 * The builder of src/layers calls program_init(), then program_buffer() and
 * program_op() as the model's layers go by, then program_check() once. From
 * then on the program does not change; backends read it.
 *
 * Operations and their buffers ("in place": out is in[0] or -1):
 *   OP_BEGIN      none; the first operation, once
 *   OP_EMBED      out [tokens, k], weight [rows, k] of ids first_id on; Partial when it is cut
 *   OP_NORM       in[0] -> out of one shape, Replicate or Sequence; weight vector [cols]
 *   OP_ADD_NORM   in[0] += in[1], placed alike, then as OP_NORM
 *   OP_REDUCE_ADD_NORM  the same, in[0] Replicate, in[1] Partial and undefined afterwards
 *   OP_LINEAR     in[0] [rows, k] -> columns [out_col, out_col + n) of out. Of Replicate: Shard
 *                 where out is declared so, else Replicate; of Shard: Partial, and then without
 *                 a bias. Parts of one buffer come in order, from column 0 on. in[1]: maxima
 *                 [rows, act_groups], Replicate, of a weight with dynamic activation scales
 *   OP_ADD_BIAS   in place; weight vector [cols]
 *   OP_QK_ROPE    in place on [tokens, (heads + 2 kv_heads) head_dim]; weight, weight2
 *                 vectors [head_dim]
 *   OP_ATTENTION  in[0] as above -> out [tokens, heads head_dim]
 *   OP_SILU_MUL   in[0] [rows, 2 cols] -> out [rows, cols], placed alike
 *   OP_ALL_REDUCE in place: Partial -> Replicate
 *   OP_REDUCE_SCATTER in place: Partial -> Sequence
 *   OP_GATHER_ROWS    in place: Sequence -> Replicate
 *   OP_SLICE_ROWS     in place: Replicate -> Sequence
 *   OP_GATHER_COLS    in[0] Shard [rows, own] -> out Replicate [rows, map->cols]
 *   OP_SLICE_COLS     in[0] Replicate [rows, map->cols] -> out Shard [rows, own]
 *   OP_AMAX       in[0] [rows, k] -> out [rows, act_groups] of weight: a maximum that is due
 *   OP_MAX_REDUCE in place: that -> Replicate
 *   OP_PICK       in[0] [tokens, cols] -> out [outputs, cols], placed alike
 *   OP_SAMPLE     in[0] [outputs, vocab_rows], Shard; in[1] [outputs, hidden], Replicate, or none:
 *                 hidden states, for those who want them
 * A buffer's placement is what its last writer, or an operation in place, made of it;
 * buffer_spec.place is what the first writer makes of it (of OP_AMAX's nothing is declared).
 * On one rank Shard, Replicate and Sequence are the same thing; Partial stays a debt
 * that a reduce must pay. */
#ifndef QUERN_PROGRAM_PROGRAM_H
#define QUERN_PROGRAM_PROGRAM_H

#include "quern/program.h"

/* An empty program of the tp group `comm`, which outlives it; NULL: alone. A mesh with more groups
 * sets p->groups. */
void program_init(struct program *p, const struct program_shape *shape, struct comm *comm);

/* The new buffer's number, or -1 (logged) when there are PROGRAM_MAX_BUFFERS or cols is 0.
 * `name` is a static string. */
int program_buffer(struct program *p, const char *name, enum extent rows, uint32_t cols,
    enum place place);

/* Appends; *op is copied, its weights are not. INVALID for buffer numbers that are none,
 * NOMEM. What the operation does with them is program_check()'s business. */
enum status program_op(struct program *p, struct op op);

/* OK, or INVALID (logged, naming operation, layer and buffers): a Partial buffer is read by
 * anything but a reduce, or overwritten or left so; a buffer is read before it is written;
 * shapes or placements do not fit; the shape itself is out of range. Weights need not be loaded:
 * only their numbers are read. */
enum status program_check(const struct program *p);

/* Frees the list of operations; the program is empty then. */
void program_free(struct program *p);

#endif
