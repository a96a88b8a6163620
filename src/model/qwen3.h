/* qwen3.h - Qwen3, dense: its program and its weights on one rank.
 *
 * The architecture is FACTS 2.1, term by term. A struct qwen3 is built in two
 * steps: qwen3_plan() makes the program and learns what memory the weights
 * need, reading no weight; qwen3_load() is told the limits and the peers, and
 * reads this rank's slices.
 *
 * Ownership: it owns program, weights and their backend memory; source,
 * backend, device and comm must outlive it. */
#ifndef QUERN_MODEL_QWEN3_H
#define QUERN_MODEL_QWEN3_H

#include "layers/layers.h"
#include "checkpoint/config.h"

struct qwen3_options {
    const struct model_config *config;
    struct weight_source *source;
    const struct backend *backend;
    struct device *device;
    int rank, size;
    const struct tp_plan *plan; /* which strategy each module has */
    const struct quant_scheme *scheme; /* NULL: nothing is quantised */
    enum compute compute;
    enum dtype kv_dtype;
    void (*progress)(void *context, uint64_t bytes); /* NULL: not told */
    void *context;
};

struct qwen3 {
    struct program program;
    struct weight_loader loader;
    struct builder builder;
};

/* INVALID (logged): a tensor is missing or has the wrong shape. */
enum status qwen3_plan(const struct qwen3_options *o, struct qwen3 *m);
/* `groups` of the mesh, all NULL: alone. INVALID also when the program does not fit the limits. */
enum status qwen3_load(struct qwen3 *m, const struct plan_limits *limits,
    const struct comm_groups *groups);
void qwen3_free(struct qwen3 *m);

#endif
