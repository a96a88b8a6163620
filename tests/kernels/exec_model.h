/* exec_model.h - a model small enough to compute by hand, as a program on the CPU backend.
 *
 * One decoder layer, or none (embedding and head alone, whose logits have the same bits for
 * any number of ranks). A struct rank is one rank of it: weights cut, packed and loaded. */
#ifndef TESTS_KERNELS_EXEC_MODEL_H
#define TESTS_KERNELS_EXEC_MODEL_H

#include "program/program.h"
#include "quern/backend.h"

enum {
    HIDDEN = 27, /* odd: a linear layer's input is padded */
    HEADS = 4,
    KV_HEADS = 2,
    HEAD_DIM = 6,
    INTER = 32,
    VOCAB = 1403, /* no multiple of a panel, uneven over ranks, more than their lists hold */
    BLOCK = 8,
    BLOCKS_PER_SLOT = 40,
    N_BLOCKS = 100,
    SLOTS = 4,
    TOKENS = 320,
    OUTPUTS = 320,
    RANK_WEIGHTS = 12,
    MODEL_SEED = 20261122,
};

struct model {
    float embed[VOCAB * HIDDEN], head[VOCAB * HIDDEN];
    float norm1[HIDDEN], norm2[HIDDEN], norm3[HIDDEN], q_norm[HEAD_DIM], k_norm[HEAD_DIM];
    float q[HEADS * HEAD_DIM * HIDDEN], k[KV_HEADS * HEAD_DIM * HIDDEN],
        v[KV_HEADS * HEAD_DIM * HIDDEN], o[HIDDEN * HEADS * HEAD_DIM];
    float gate[INTER * HIDDEN], up[INTER * HIDDEN], down[HIDDEN * INTER];
    float o_bias[HIDDEN];
    float inv_freq[HEAD_DIM / 2];
};

/* Random weights, each a number that bf16 can hold. */
void model_fill(struct model *m, uint32_t seed);

/* logits [n, VOCAB] of ids [n], in double, by the formulas; no layer: embedding times head. */
void model_forward(const struct model *m, const int32_t *ids, int n, bool layer, double *logits);

struct rank_options {
    int rank, size, threads;
    struct comm *comm;
    const char *isa;
    enum weight_format format;
    enum compute compute;
    enum dtype kv_dtype;
    bool layer;
};

struct rank {
    struct rank_options options;
    struct program program;
    struct device *device;
    struct executable *executable;
    struct weight weights[RANK_WEIGHTS];
    int n_weights;
    struct plan *plan; /* [plan_max_bytes] being written */
    uint64_t next;     /* number of the next plan */
    uint32_t length[SLOTS], told[SLOTS]; /* positions that rows wrote, blocks that changes named */
    bool started[SLOTS];
};

/* Fails the test on any error. */
void rank_open(struct rank *r, const struct model *m, const struct rank_options *options);
void rank_close(struct rank *r);

/* Writing a plan: begin, any number of starts and rows, then submit. */
void rank_begin(struct rank *r);
/* Slot `slot` starts; its rows name the blocks they need first, scattered over the pool. */
void rank_start(struct rank *r, uint32_t slot, const struct sampling *s);
/* The same with the sequence's lists, sampling_words() of them. */
void rank_start_with(struct rank *r, uint32_t slot, const struct sampling *s, uint32_t n_prompt,
    const int32_t *words);
void rank_row(struct rank *r, uint32_t slot, const int32_t *tokens, uint32_t n,
    enum row_output output, uint32_t n_outputs);
/* A row that decodes: tokens[0], then guesses. The length is what it will be if all are right;
 * rank_take_back() lowers it. */
void rank_guesses(struct rank *r, uint32_t slot, const int32_t *tokens, uint32_t n);
void rank_take_back(struct rank *r, uint32_t slot, uint32_t n);
/* A chunk of a prompt: all its ids are scored, and `next` behind it; below 0: an id is sampled. */
void rank_scores(struct rank *r, uint32_t slot, const int32_t *tokens, uint32_t n, int32_t next);
/* Checks the plan; the number of the step in *number. */
enum status rank_submit(struct rank *r, uint64_t *number);

/* The result of a step, which must be in order. */
struct step_result rank_wait(struct rank *r, uint64_t number);

/* ids [n], always the same. */
void prompt_of(int32_t *ids, int n);

/* ||got - want|| / ||want|| */
double relative_error(const float *got, const double *want, size_t n);

#endif
