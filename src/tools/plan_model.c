/* plan_model.c - the first half of a worker's opening, once for each rank.
 *
 * Limits come from the function that rank 0 uses (setup_limits()), over a
 * group's control page that nobody shares, and hold for all. Without --memory it is told that
 * there is plenty: a plan for a machine that this one is not must be printed,
 * and trying whether the memory is there would take it from others. */
#include "tools/plan_model.h"

#include <stdlib.h>
#include <string.h>

#include "base/cores.h"
#include "parallel/plugin.h"
#include "quern/log.h"

static const uint64_t plenty = UINT64_C(1) << 60;

static const char *or_null(const char *text)
{
    return text[0] != '\0' ? text : NULL;
}

static enum status open_parts(struct plan_model *m)
{
    const struct runtime_config *c = &m->options;
    const struct quant_options quant = {.method = c->quant, .head = c->quant_head,
        .activations = c->quant_activations};
    enum status s = c->plugin[0] != '\0' ? plugin_load(c->plugin) : STATUS_OK;

    if (s == STATUS_OK)
        s = tp_plan_open(or_null(c->tp_plan), &m->plan);
    if (s == STATUS_OK)
        s = source_config(c->model, &m->config);
    if (s == STATUS_OK)
        s = shard_check((uint32_t)m->config.heads, m->size);
    if (s == STATUS_OK)
        s = source_open(c->model, c->seed, &m->config, &m->source);
    if (s == STATUS_OK)
        s = quant_open(c->model, &quant, &m->scheme);
    return s;
}

/* With as many threads as a worker would have: scratch memory depends on them. */
static enum status open_device(struct plan_model *m)
{
    int cores = cores_usable() / m->size;

    m->threads = m->options.threads != 0 ? (int)m->options.threads : cores > 0 ? cores : 1;
    m->backend = backend_find(m->options.backend);
    if (m->backend == NULL)
        return STATUS_INVALID;
    return m->backend->open(&(struct backend_options){.threads = m->threads, .first_cpu = -1},
        &m->device);
}

static enum status build_rank(struct plan_model *m, int rank)
{
    struct plan_rank *r = &m->ranks[rank];
    const struct qwen3_options o = {
        .config = &m->config,
        .source = m->source,
        .plan = m->plan,
        .scheme = m->scheme,
        .backend = m->backend,
        .device = m->device,
        .rank = rank,
        .size = m->size,
        .compute = strcmp(m->options.compute, "f32") == 0 ? COMPUTE_F32 : COMPUTE_BF16,
        .kv_dtype = worker_kv_dtype(&m->options),
    };
    enum status s = qwen3_plan(&o, &r->model);

    if (s != STATUS_OK)
        return s;
    r->built = true;
    r->comm = (struct comm){.rank = rank, .size = m->size};
    r->model.program.groups.group[GROUP_TP] = &r->comm;
    return STATUS_OK;
}

/* As much of a rank's worker as counts memory. */
static struct worker worker_of(const struct plan_model *m, struct shared *shared, int rank)
{
    return (struct worker){
        .shared = shared,
        .rank = rank,
        .size = m->size,
        .threads = m->threads,
        .config = m->config,
        .backend = m->backend,
        .device = m->device,
        .model = m->ranks[rank].model,
    };
}

/* What rank 0's worker would choose for all. */
static enum status choose_limits(struct plan_model *m, struct shared *shared, struct agreement *a)
{
    struct worker w = worker_of(m, shared, 0);
    uint64_t own[MEMORY_KINDS], others[MEMORY_KINDS];
    enum status s;

    setup_own(&w, own);
    for (int rank = 1; rank < m->size; rank++) {
        struct worker other = worker_of(m, shared, rank);

        setup_own(&other, others);
        memory_compare(&w, own, others);
    }
    a->threads = (uint32_t)m->threads;
    s = setup_limits(&w, a);
    memcpy(m->memory, w.memory, sizeof(m->memory));
    return s;
}

/* What the rank's worker would take, and whether its program is sound. */
static enum status measure_rank(struct plan_model *m, struct shared *shared, int rank,
    const struct agreement *a)
{
    struct plan_rank *r = &m->ranks[rank];
    struct program_shape *shape = &r->model.program.shape;
    struct worker w = worker_of(m, shared, rank);
    enum status s;

    shape->limits = a->limits;
    s = builder_finish(&r->model.builder);
    if (s != STATUS_OK)
        return s;
    memory_own(&w, a, r->memory);
    r->kv_per_token = program_block_bytes(shape) * shape->layers / a->limits.block_size;
    return STATUS_OK;
}

static enum status measure_ranks(struct plan_model *m)
{
    struct shared shared = {.control = calloc(1, sizeof(*shared.control)), .config = m->options};
    struct agreement a = {0};
    enum status s;

    if (shared.control == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a group's control page");
    if (m->options.memory == 0)
        shared.config.memory = plenty;
    s = choose_limits(m, &shared, &a);
    m->max_seqs = a.limits.max_slots;
    m->max_model_len = a.max_model_len;
    m->max_batched_tokens = a.limits.max_tokens;
    for (int rank = 0; s == STATUS_OK && rank < m->size; rank++)
        s = measure_rank(m, &shared, rank, &a);
    free(shared.control);
    return s;
}

enum status plan_model_open(const struct runtime_config *options, struct plan_model *m)
{
    enum status s;

    *m = (struct plan_model){.options = *options, .size = (int)options->tp};
    s = open_parts(m);
    if (s == STATUS_OK)
        s = open_device(m);
    for (int rank = 0; s == STATUS_OK && rank < m->size; rank++)
        s = build_rank(m, rank);
    if (s == STATUS_OK)
        s = measure_ranks(m);
    if (s != STATUS_OK)
        plan_model_close(m);
    return s;
}

void plan_model_close(struct plan_model *m)
{
    for (int rank = 0; rank < m->size; rank++)
        if (m->ranks[rank].built)
            qwen3_free(&m->ranks[rank].model);
    if (m->device != NULL)
        m->backend->close(m->device);
    quant_close(m->scheme);
    tp_plan_close(m->plan);
    source_close(m->source);
    *m = (struct plan_model){0};
}
