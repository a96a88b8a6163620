/* layer_model.h - two decoder layers on a backend that keeps matrices as they come.
 *
 * What a rank would build and load, without a model's file, a process or a
 * kernel: tests look at the program and at the memory. Names are Qwen3's, so
 * that its plan and any file for it apply. */
#ifndef TESTS_LAYERS_LAYER_MODEL_H
#define TESTS_LAYERS_LAYER_MODEL_H

#include "layers/layers.h"
#include "tests/layers/fake_source.h"

enum { HIDDEN = 24, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, VOCAB = 56, LAYERS = 2 };

/* Set before layer_model_build(); 0 and NULL are defaults. */
struct layer_options {
    const char *plan;       /* a file, or NULL: Qwen3's own */
    uint32_t inner;         /* of the MLP; 0: 48 */
    bool bias;              /* q, k, v and o have biases */
    bool merged;            /* qkv_proj and gate_up_proj are one tensor each */
    bool twice;             /* with `merged`: and their parts have tensors of their own, too */
    bool untied;            /* lm_head has a weight of its own */
    const char *missing;    /* a tensor that is not there */
    const char *plain;      /* with `int8`: this module is kept as it was */
    bool int8;              /* linear layers are stored as int8 codes */
    struct quant_scheme *scheme;
};

struct layer_model {
    struct fake_source source;
    struct weight_loader loader;
    struct tp_plan *plan;
    struct comm comm;
    struct program program;
    struct builder b;
    uint64_t progressed;    /* bytes that loading told of */
};

/* Bytes that all models hold of the backend. */
extern size_t layer_model_held;

/* An empty builder for rank of size: nothing built. */
void layer_model_begin(struct layer_model *m, const struct layer_options *o, int rank, int size);
/* The whole model; the status of builder_finish(). layer_model_end() also after a failure. */
enum status layer_model_build(struct layer_model *m, const struct layer_options *o, int rank,
    int size);
void layer_model_end(struct layer_model *m);

int count_ops(const struct program *p, enum op_kind kind);
/* The first operation with a weight of this name; NULL: none. */
const struct op *find_weight(const struct program *p, const char *name);

#endif
