/* layers.h - layers append their operations to a program and name their weights.
 *
 * A struct builder is the place where a model is put together on one rank: the
 * program grows by operations, the list of weights by slices of the checkpoint
 * that this rank owns. Nothing is read until builder_load(), so the memory a
 * model needs is known (builder->weight_bytes) before any is taken.
 *
 * Which part of a module a rank owns is its strategy's business (the
 * tensor-parallel plan), and how it is stored its quant method's: layers ask
 * both and are the same code for all of them. What lies between two modules
 * follows from placements (placement.h): a Partial sum meets a norm and is
 * reduced in it, a sequence shard meets a product and is gathered. The first
 * failure is kept in builder->status and the rest is skipped, so that a model
 * reads as a list of layers; builder_finish() tells.
 *
 * Ownership: the builder owns weights and their backend memory until
 * builder_free(); the program it fills belongs to the caller. */
#ifndef QUERN_LAYERS_LAYERS_H
#define QUERN_LAYERS_LAYERS_H

#include "parallel/shard.h"
#include "parallel/strategy.h"
#include "parallel/tp_plan.h"
#include "program/program.h"
#include "quant/quant.h"

enum { WEIGHT_PARTS = 4, MODULE_BYTES = 160 };

/* A weight that will be loaded; `quern plan` prints the list. */
struct planned_weight {
    struct planned_weight *next;
    struct weight weight;
    size_t bytes;                      /* in backend memory */
    bool vector;
    const struct strategy *strategy;   /* of parts[0]; others have its cut */
    const struct quant_method *method; /* NULL for a vector */
    struct weight_slice slice;         /* a vector: parts[0].row, rows; its name is modules[0] */
    struct weight_part parts[WEIGHT_PARTS];
    char modules[WEIGHT_PARTS][MODULE_BYTES];
    char as[WEIGHT_PARTS][MODULE_BYTES]; /* what the plan calls each part's module */
    char name[WEIGHT_PARTS * MODULE_BYTES]; /* modules joined with '+' */
};

/* What a buffer holds at this point of the program. */
struct buffer_state {
    enum place place;
    uint32_t cols;                /* of the whole, over all ranks */
    struct column_map *map;       /* PLACE_SHARD: which columns each rank has */
    char writer[MODULE_BYTES];    /* the module that wrote it: for messages */
};

struct builder {
    struct program *program;
    struct weight_loader *loader;
    const struct tp_plan *plan;
    int rank, size;
    enum status status;
    size_t weight_bytes; /* in backend memory, of all weights planned so far */
    uint32_t vocab_longest; /* ids of the rank that has most of the head */
    uint32_t kv_heads_most; /* KV heads of the rank that has most of them: not rank 0, where ranks
                             * outnumber them */
    struct planned_weight *first, **last;
    struct buffer_state buffers[PROGRAM_MAX_BUFFERS];
    struct kept_map *maps;
};

void builder_init(struct builder *b, struct program *program, struct weight_loader *loader,
    const struct tp_plan *plan, int rank, int size);

/* Checks the program. */
enum status builder_finish(struct builder *b);

/* Reads and packs every weight; to be called once, after builder_finish(). */
enum status builder_load(struct builder *b);
void builder_free(struct builder *b);

/* A buffer of the program, the same one for the same name, rows and columns; -1 after a failure. */
int builder_buffer(struct builder *b, const char *name, enum extent rows, uint32_t cols);
void builder_op(struct builder *b, struct op op);
void builder_fail(struct builder *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Weights, to be loaded later. NULL after a failure. */
const struct weight *builder_matrix(struct builder *b, const struct weight_slice *slice,
    const struct strategy *strategy);
/* Elements [first, first + n) of NAME, a vector of `all`, as float32. */
const struct weight *builder_vector(struct builder *b, const char *name, uint32_t all,
    uint32_t first, uint32_t n, const struct strategy *strategy);

/* The strategy of a module; NULL after a failure. */
const struct strategy *builder_strategy(struct builder *b, const char *module, int kind);

/* The layers. `module` is the checkpoint's name without ".weight"; `layer` is -1 outside the
 * decoder layers. Sizes are the whole model's; each layer cuts its own shard and returns the
 * buffer with its result, whose placement the builder knows. ------------------------------- */

/* One module of a product. */
struct linear_part {
    const char *module;
    const char *as;  /* the name the plan knows it by; NULL: `module` */
    const char *merged; /* where a checkpoint has all parts stacked in one tensor: its module; NULL:
                         * it never does */
    uint32_t rows;   /* outputs, of the whole module */
    uint32_t unit;   /* outputs that stay together where they are cut */
    const struct range *own; /* [ranks] what each one has where outputs are cut; NULL: evenly */
};

/* Whether a product's modules have biases, and what becomes of them. */
struct linear_bias {
    bool has;
    /* skip_bias_add: of a single module, the bias is left out of the result, for who reads that to
     * add once. Set: a vector with the columns that the result has here. */
    bool skip;
    const struct weight *skipped;
};

/* out = in . W^T for up to four modules of `in_cols` inputs that are placed alike, stacked: one
 * product where their quant methods allow, one after another else. `name` is the buffer's; `bias`
 * NULL: there is none. */
int linear_layer(struct builder *b, int layer, const char *name, const struct linear_part *parts,
    int n_parts, uint32_t in_cols, struct linear_bias *bias, int in);

/* One column-parallel module whose result stays cut, whatever its strategy makes of it. */
int linear_cut(struct builder *b, int layer, const char *name, const struct linear_part *part,
    uint32_t in_cols, int in);

/* out = rms_norm(x), or x += y first (x keeps the sum). */
struct norm_input {
    int x, y;                  /* y: -1 for none */
    const struct weight *bias; /* of y's module, which left it out, or NULL */
};
int norm_layer(struct builder *b, int layer, const char *module, uint32_t cols,
    struct norm_input in);

/* q, k, v; head norms and rotation; attention; o. The result may be Partial; *bias: what is to be
 * added to it, once, or NULL. */
struct attention_shape {
    uint32_t hidden, heads, kv_heads, head_dim;
    bool bias;
};
int attention_layer(struct builder *b, int layer, const char *module,
    const struct attention_shape *shape, int in, const struct weight **bias);

/* down(silu(gate(in)) * up(in)). The result may be Partial. */
int mlp_layer(struct builder *b, int layer, const char *module, uint32_t hidden,
    uint32_t intermediate, int in);

/* Token ids -> rows of the table. Returns the buffer, and the weight for a tied head. The plan
 * knows it as model.embed_tokens, whatever its module is called. */
struct embedding {
    const struct weight *table;
    struct range rows; /* ids this rank has, whole rows of them; count 0: cut otherwise */
    struct column_map *map; /* which ids every rank has; NULL: all of them */
};
int embedding_layer(struct builder *b, const char *module, uint32_t vocab, uint32_t hidden,
    struct embedding *own);

/* The rows the plan wants outputs of -> logits shards -> ids. The plan knows it `as` lm_head, or as
 * score where `vocab` counts labels. `tied`: the embedding that is the head as well, or NULL and the
 * weight is MODULE's. */
void head_layer(struct builder *b, const char *as, const char *module, uint32_t vocab,
    uint32_t hidden, const struct embedding *tied, int in);

#endif
