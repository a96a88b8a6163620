/* program.h - the forward pass as data: operations on named buffers.
 *
 * The model's layers append operations once, at load; a backend then runs the
 * list for each plan (the CPU walks it, CUDA captures it, `quern plan` prints
 * it). An operation names its buffers, never memory; a buffer says how it is
 * placed over the group's ranks. Partial is a type: a row-parallel product
 * yields it, and only a reduce (OP_ALL_REDUCE, OP_REDUCE_SCATTER,
 * OP_REDUCE_ADD_NORM) takes it, so a missing one is an error when the program
 * is built and not a wrong answer.
 *
 * Ownership: the program owns its arrays and the names in them; weights belong
 * to the model and must outlive it. Not changed after program_check(). */
#ifndef QUERN_PROGRAM_H
#define QUERN_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/comm.h"
#include "quern/dtype.h"
#include "quern/plan.h"

enum compute {
    COMPUTE_F32,  /* activations are never rounded */
    COMPUTE_BF16, /* each linear layer's input is rounded to bf16; sums stay float32 */
};

enum place {
    PLACE_REPLICATE, /* the same on every rank */
    PLACE_SHARD,     /* cut on the last dimension: cols are this rank's */
    PLACE_PARTIAL,   /* whole, but a debt: the sum over ranks is meant */
    PLACE_SEQUENCE,  /* cut on rows: only comm_own_rows() of the step's rows hold values */
};

enum extent { EXTENT_TOKENS, EXTENT_OUTPUTS }; /* what a buffer has one row for */

struct buffer_spec {
    const char *name;   /* static string */
    enum extent rows;
    uint32_t cols;      /* f32 each; local to the rank when sharded (on the last dimension) */
    enum place place;
};

/* How a linear weight lies in memory. Activations come as the backend's row for it wants;
 * `compute` says whether they were rounded. Codes are signed for INT8, 0..15 for INT4, e4m3
 * bits for FP8. */
enum weight_format {
    WEIGHT_F32,
    WEIGHT_BF16,
    WEIGHT_FP8,  /* e4m3fn: bias 7, no infinity, NaN 0x7f and 0xff, most 448 */
    WEIGHT_INT8,
    WEIGHT_INT4,
    WEIGHT_FORMATS,
};

/* What activations become before they meet the codes. */
enum activation { ACTIVATION_PLAIN, ACTIVATION_INT8, ACTIVATION_FP8 };

/* How codes become numbers: w[n, k] = (code - zero[g, n]) * scale[g, n], all in f32, where g is
 * the group of input k. Unused (groups 0) for F32 and BF16. */
struct weight_quant {
    uint32_t groups;    /* along k, that this rank's inputs touch */
    uint32_t group;     /* inputs in a group */
    uint32_t first;     /* this rank's input 0 is input `first` of group 0: a cut may lie within */
    float *scale;       /* [groups, n] f32, backend memory */
    int16_t *zero;      /* [groups, n], backend memory, or NULL: 0 (INT4: 8) */
    uint32_t *group_of; /* [k], backend memory: the group of each input, or NULL: (first + k) / group */

    enum activation activation;
    float activation_scale;  /* > 0: static, of the whole tensor; 0: by each token's maximum */
    uint32_t act_group;      /* inputs that share an activation scale; 0: the whole token */
    uint32_t act_first;      /* this rank's input 0 in the whole token: which act group it is in */
    uint32_t act_groups;     /* of the whole token, over all ranks: columns of an amax buffer */
    float act_divisor;       /* scale = amax / act_divisor: 127, 127.5, 448 */
    float act_least;         /* the smallest scale */
};

/* A rank's own part of a weight matrix [n, k] (n outputs, k inputs), packed by
 * the backend (backend.h: weight_pack), or of a vector (k = 0). */
struct weight {
    const char *name; /* as in the checkpoint; several merged: joined with '+' */
    uint32_t n, k;
    enum weight_format format;
    void *data;  /* backend memory, packed */
    float *bias; /* [n] f32 backend memory, or NULL */
    struct weight_quant quant;
};

enum op_kind {
    OP_BEGIN,      /* plan -> ids, positions, rope angles; slots start, blocks change */
    OP_EMBED,      /* out = table[id]; ids outside the table's rows give zero */
    OP_NORM,       /* out = rms_norm(in, weight) */
    OP_ADD_NORM,   /* in[0] += in[1]; out = rms_norm(in[0], weight) */
    OP_LINEAR,     /* out = in . weight^T + bias */
    OP_ADD_BIAS,   /* in[0] += weight (a vector), after a reduce */
    OP_QK_ROPE,    /* in place on q,k,v rows: head norms, rotation; k, v into the cache */
    OP_ATTENTION,  /* out = attention of the q rows of `in` over the cache */
    OP_SILU_MUL,   /* out = silu(in[:, :k]) * in[:, k:] */
    OP_ALL_REDUCE, /* in: Partial -> Replicate, in place */
    OP_REDUCE_SCATTER, /* in: Partial -> Sequence, in place */
    OP_GATHER_ROWS,    /* in: Sequence -> Replicate, in place */
    OP_GATHER_COLS,    /* in: Shard -> out: Replicate, columns where op.map says */
    OP_SLICE_COLS,     /* in: Replicate -> out: Shard, this rank's columns of op.map */
    OP_SLICE_ROWS,     /* in: Replicate -> Sequence, in place: nothing moves */
    OP_REDUCE_ADD_NORM, /* in[0] += sum over ranks of in[1] (Partial); out = rms_norm(in[0]): one pass
                         * where the group can, the plain three otherwise */
    OP_AMAX,       /* out [tokens, act_groups] = the largest |in| of each activation group of `weight`,
                    * 0 where this rank has no input of it: Partial under maximum */
    OP_MAX_REDUCE, /* in: the maximum over ranks, in place: Replicate */
    OP_PICK,       /* out = rows of `in` that the plan wants outputs of */
    OP_SAMPLE,     /* logits shards -> an id per OUTPUT_TOKEN row, into the slots; logits of
                    * OUTPUT_LOGITS rows are gathered to rank 0, hidden states of OUTPUT_POOLED rows
                    * are its own (in[1]) */
    OP_KINDS,
};

struct op {
    enum op_kind kind;
    int layer;                    /* -1 outside the layers */
    int in[2], out;               /* buffer numbers, -1 for none. OP_LINEAR: in[1] is an amax buffer,
                                   * -1: each token's maximum is taken of `in[0]` as it is here */
    uint32_t out_col;             /* OP_LINEAR: first column of `out` that is written */
    uint32_t first_id;            /* OP_EMBED: the id of the table's row 0; it has weight->n rows */
    const struct column_map *map; /* OP_GATHER_COLS, OP_SLICE_COLS; owned by the builder */
    const struct weight *weight;  /* table, norm [cols] or linear */
    const struct weight *weight2; /* OP_QK_ROPE: weight = q norm, weight2 = k norm */
};

/* What arrays here and in the kernels have room for. */
enum { PROGRAM_MAX_HEAD_DIM = 256, PROGRAM_MAX_HEADS = 128 };

/* Sizes every operation may need; local to this rank where it says so. */
struct program_shape {
    struct plan_limits limits;
    uint32_t hidden;
    uint32_t layers;
    uint32_t head_dim;
    uint32_t heads, kv_heads;   /* this rank's */
    uint16_t q_to_kv[PROGRAM_MAX_HEADS]; /* local query head -> local KV head */
    uint32_t vocab_first, vocab_rows; /* this rank's ids */
    uint32_t vocab;             /* logits of a position: of all ids, padding rows included, or of labels */
    uint32_t ids;               /* that tokens have; 0: vocab */
    float rms_eps;
    float rope_scale;           /* cos and sin are multiplied by it; 1 without YaRN */
    float inv_freq[PROGRAM_MAX_HEAD_DIM / 2]; /* [head_dim / 2] */
    enum dtype kv_dtype;        /* F32, BF16, F16 or E4M3 */
    enum compute compute;
};

enum { PROGRAM_MAX_BUFFERS = 32 };

struct program {
    struct program_shape shape;
    struct buffer_spec buffers[PROGRAM_MAX_BUFFERS];
    int n_buffers;
    struct op *ops;
    int n_ops, ops_room;
    struct comm_groups groups; /* of the mesh; tp NULL or of size 1: alone */
};

/* All ranks of the model. */
static inline struct comm *program_comm(const struct program *p)
{
    return p->groups.group[GROUP_TP];
}

/* Token ids are below it. */
static inline uint32_t program_ids(const struct program_shape *s)
{
    return s->ids > 0 ? s->ids : s->vocab;
}

/* The most rows that a buffer has in a step. */
static inline uint32_t program_most_rows(const struct plan_limits *limits,
    const struct buffer_spec *b)
{
    return b->rows == EXTENT_TOKENS ? limits->max_tokens : limits->max_outputs;
}

const char *op_name(enum op_kind kind);
const char *place_name(enum place place);

/* A KV block of one layer is one piece: k, then v, in each one head after the other. A head is
 * [block_size, head_dim] of kv_dtype; with E4M3 then, from a multiple of 4 bytes on, [block_size]
 * f32: the scale of each position, by which its codes are multiplied. */
size_t kv_head_bytes(enum dtype type, uint32_t block_size, uint32_t head_dim);

/* Bytes of one KV block of one layer on this rank. */
size_t program_block_bytes(const struct program_shape *shape);

#endif
