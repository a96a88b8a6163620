/* layer_ranks.h - a few random layers between an embedding and a head, run on real ranks.
 *
 * Each rank is a CPU device with its own threads, and they communicate through
 * tests/kernels/exec_group.h. What comes out is the logits of every token of
 * two sequences, a prompt each and one token more of the first: so steps have
 * more rows than ranks, and fewer.
 *
 * Ownership: the caller frees nothing; results are written into its array. */
#ifndef TESTS_LAYERS_LAYER_RANKS_H
#define TESTS_LAYERS_LAYER_RANKS_H

#include "layers/layers.h"

enum { RANKS_MAX = 4, RUN_VOCAB_MAX = 96, RUN_PARTS = 4 };
enum { PROMPT_0 = 7, PROMPT_1 = 4, RUN_TOKENS = PROMPT_0 + PROMPT_1 + 1 };

struct layer_sizes {
    uint64_t seed;             /* of the weights and ids */
    uint32_t hidden, vocab;
    uint32_t wide, deep;       /* of the single product: [deep, wide] */
    uint32_t parts[RUN_PARTS]; /* outputs of modules that are one product; 0 behind the last */
    uint32_t inner;            /* of the MLP */
    uint32_t heads, kv_heads, head_dim;
    bool bias, tied;
    bool skip; /* more than one rank leaves biases out of products and adds them behind */
    bool codes;                /* "layers.0.mid" is stored as int8, and so are its activations */
};

/* Appends layers behind x, the embeddings; returns what the head reads. */
typedef int layer_case(struct builder *b, const struct layer_sizes *z, int x);

layer_case case_nothing;   /* embed_tokens, lm_head */
layer_case case_linear;    /* layers.0.pre [wide, hidden], .mid [deep, wide], .post */
layer_case case_merged;    /* layers.0.part0 .. part3, gathered where they stay cut, .join */
layer_case case_attention; /* layers.0.norm_a, .self_attn, .norm_b */
layer_case case_mlp;       /* layers.0.norm_a, .mlp, .norm_b */
layer_case case_decoder;   /* layers.0.norm_a, .self_attn, .norm_b, .mlp, .norm_c */

/* One line of a plan; a NULL pattern ends the list. */
struct layer_rule {
    const char *pattern, *strategy;
};

/* logits [RUN_TOKENS, vocab] of `layers` on `size` ranks of `threads` threads; INVALID when the
 * layers refuse the plan, on every rank. Fails the test on anything else. */
enum status run_layers(layer_case *layers, const struct layer_sizes *z,
    const struct layer_rule *rules, int size, int threads, float *logits);

#endif
