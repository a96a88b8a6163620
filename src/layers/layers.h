/* layers.h - layers append their operations to a program and name their weights.
 *
 * A struct builder is the place where a model is put together on one rank: the
 * program grows by operations, the list of weights by slices of the checkpoint
 * that this rank owns. Nothing is read until builder_load(), so the memory a
 * model needs is known (builder->weight_bytes) before any is taken.
 *
 * Layers know placements, not algorithms: a row-parallel product is Partial,
 * and reduce_partial() appends what makes it whole, which is nothing on one
 * rank. The first failure is kept in builder->status and the rest is skipped,
 * so that a model reads as a list of layers; builder_finish() tells.
 *
 * Ownership: the builder owns weights and their backend memory until
 * builder_free(); the program it fills belongs to the caller. */
#ifndef QUERN_LAYERS_LAYERS_H
#define QUERN_LAYERS_LAYERS_H

#include "parallel/shard.h"
#include "program/program.h"
#include "quant/quant.h"

struct planned_weight;

struct builder {
    struct program *program;
    struct weight_loader *loader;
    const struct quant_method *method;
    int rank, size;
    enum status status;
    size_t weight_bytes; /* in backend memory, of all weights planned so far */
    struct planned_weight *first, **last;
};

void builder_init(struct builder *b, struct program *program, struct weight_loader *loader,
    const struct quant_method *method, int rank, int size);

/* Checks the program. */
enum status builder_finish(struct builder *b);

/* Reads and packs every weight; to be called once, after builder_finish(). */
enum status builder_load(struct builder *b);
void builder_free(struct builder *b);

/* A buffer of the program; -1 after a failure. */
int builder_buffer(struct builder *b, const char *name, enum extent rows, uint32_t cols,
    enum place place);
void builder_op(struct builder *b, struct op op);

/* Weights, to be loaded later. NULL after a failure. */
const struct weight *builder_matrix(struct builder *b, const struct weight_slice *slice);
/* Elements [first, first + n) of NAME, a vector of `all`, as float32. */
const struct weight *builder_vector(struct builder *b, const char *name, uint32_t all,
    uint32_t first, uint32_t n);

/* The layers. `module` is the checkpoint's name without ".weight"; `layer` is -1 outside the
 * decoder layers. Sizes are the whole model's; each layer cuts its own shard. ------------- */

/* out = in . W^T for several modules of `in_cols` inputs each, stacked: this rank's rows of
 * each, `rows[i]`. Output stays Shard. */
struct column_part {
    const char *module;
    uint32_t all_rows;
    struct range rows;
};
void linear_column(struct builder *b, int layer, const struct column_part *parts, int n_parts,
    uint32_t in_cols, bool bias, int in, int out);

/* out = in[:, cols] . W[:, cols]^T: Partial, reduced; the bias is added once, afterwards. */
void linear_row(struct builder *b, int layer, const char *module, uint32_t out_rows,
    uint32_t in_cols, struct range cols, bool bias, int in, int out);

/* Partial -> Replicate: a sum over the ranks, nothing on one. */
void reduce_partial(struct builder *b, int layer, int buffer);
/* What a row-parallel product's buffer is. */
enum place partial_place(const struct builder *b);

/* out = rms_norm(x), or x += y first (y >= 0). */
void norm_layer(struct builder *b, int layer, const char *module, uint32_t cols, int x, int y,
    int out);

/* q, k, v in one product; head norms and rotation; attention; o, reduced into `out`. */
struct attention_shape {
    uint32_t hidden, heads, kv_heads, head_dim;
    bool bias;
    int qkv, attended; /* buffers [heads + 2 kv_heads][head_dim], [heads][head_dim]: local */
};
void attention_layer(struct builder *b, int layer, const char *module,
    const struct attention_shape *shape, int in, int out);

/* down(silu(gate(in)) * up(in)), reduced into `out`. */
struct mlp_shape {
    uint32_t hidden, intermediate;
    int gate_up, product; /* buffers [2 * local], [local] */
};
enum { MLP_UNIT = 16 }; /* what the intermediate size is cut in */
void mlp_layer(struct builder *b, int layer, const char *module, const struct mlp_shape *shape,
    int in, int out);

/* Vocabulary rows over the ranks, in whole panels. */
enum { VOCAB_UNIT = 16 };
const struct weight *vocabulary_weight(struct builder *b, const char *module, uint32_t vocab,
    uint32_t hidden);
void embedding_layer(struct builder *b, const struct weight *table, int out);
/* Rows the plan wants outputs of -> logits shards -> ids. */
void head_layer(struct builder *b, const struct weight *head, int in, int picked, int logits);

#endif
