/* plan_model.h - a model as all its ranks would build it, for `quern plan`.
 *
 * Every rank's program is built in this process, one after another, exactly as
 * its worker would build it, and no weight is read: what is printed is what
 * would run. plan_list.h makes a table of it.
 *
 * Ownership: plan_model_open()'s until plan_model_close().
 * Blocking: reads config.json and the headers of the weights' files. */
#ifndef QUERN_TOOLS_PLAN_MODEL_H
#define QUERN_TOOLS_PLAN_MODEL_H

#include "worker/worker.h"

struct plan_rank {
    struct qwen3 model;
    struct comm comm; /* rank and size alone: program_check() asks for them */
    uint64_t memory[MEMORY_KINDS]; /* bytes */
    uint64_t kv_per_token;         /* bytes of context, over all layers */
    bool built;
};

struct plan_model {
    struct runtime_config options;
    struct model_config config;
    struct weight_source *source;
    struct tp_plan *plan;
    struct quant_scheme *scheme; /* NULL: nothing is quantised */
    const struct backend *backend;
    struct device *device;
    int threads;         /* of each rank */
    int size;            /* ranks */
    uint32_t max_seqs, max_model_len, max_batched_tokens;
    uint64_t memory[MEMORY_KINDS]; /* bytes, of the rank that needs most of a kind */
    struct plan_rank ranks[MAX_RANKS];
};

/* INVALID (logged): whatever a worker would refuse before it reads weights; with a limit on
 * memory (--memory) also a model that does not fit it. */
enum status plan_model_open(const struct runtime_config *options, struct plan_model *m);
void plan_model_close(struct plan_model *m);

#endif
