/* worker.c - opening a rank, and the two things every rank does with a plan.
 *
 * The order of opening is the order in which things can be refused: first what
 * the options and the config say, then what memory allows, then the weights. */
#include "worker/worker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <xxhash.h>

#include "base/cores.h"
#include "quern/spin.h"
#include "layers/placement.h"
#include "parallel/plugin.h"
#include "quern.h"
#include "quern/log.h"

enum { PROGRESS_PARTS = 100 };

static void on_progress(void *context, uint64_t bytes)
{
    struct worker *w = context;
    /* relaxed: only shown */
    uint64_t total = atomic_load_explicit(&w->seat.member->total, memory_order_relaxed);
    uint64_t before = atomic_fetch_add_explicit(&w->seat.member->loaded, bytes, memory_order_relaxed);

    if (total > 0 && before * PROGRESS_PARTS / total != (before + bytes) * PROGRESS_PARTS / total)
        doorbell_ring(&w->shared->supervisor_bell);
}

static enum status open_source(struct worker *w)
{
    const struct runtime_config *c = &w->shared->config;
    enum status s = source_config(c->model, &w->config);

    if (s == STATUS_OK)
        s = shard_check((uint32_t)w->config.heads, w->size);
    if (s == STATUS_OK)
        s = generation_read(c->model, &w->config, &w->generation);
    if (s == STATUS_OK)
        s = source_open(c->model, c->seed, &w->config, &w->source);
    return s;
}

static const char *or_null(const char *text)
{
    return text[0] != '\0' ? text : NULL;
}

/* How the model is spread over ranks, and how its weights are stored. */
static enum status open_plan(struct worker *w)
{
    const struct runtime_config *c = &w->shared->config;
    const struct quant_options quant = {.method = c->quant, .head = c->quant_head,
        .activations = c->quant_activations};
    enum status s = c->plugin[0] != '\0' ? plugin_load(c->plugin) : STATUS_OK;

    if (s == STATUS_OK)
        s = tp_plan_open(or_null(c->tp_plan), &w->plan);
    if (s == STATUS_OK)
        s = quant_open(c->model, &quant, &w->scheme);
    return s;
}

static enum status open_device(struct worker *w)
{
    const struct runtime_config *c = &w->shared->config;
    int cores = cores_usable() / w->size;
    struct backend_options o = {.first_cpu = -1, .progress = &w->seat.member->progress};

    w->backend = backend_find(c->backend);
    if (w->backend == NULL)
        return STATUS_INVALID;
    o.threads = c->threads != 0 ? (int)c->threads : cores > 0 ? cores : 1;
    w->threads = o.threads;
    if (w->rank == 0 && c->threads == 0 && cores_guessed())
        log_warn("sched_getaffinity is refused, so all %d CPUs count as usable: set --threads if "
            "there are fewer, or allow it in the seccomp profile", cores_usable());
    /* ranks on more threads than cores must not burn the core a peer needs */
    if (w->size * w->threads > cores_usable())
        flag_spin_ns = 0;
    return w->backend->open(&o, &w->device);
}

enum dtype worker_kv_dtype(const struct runtime_config *c)
{
    static const struct {
        const char *name;
        enum dtype type;
    } types[] = {{"f32", DTYPE_F32}, {"f16", DTYPE_F16}, {"fp8", DTYPE_E4M3}};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        if (strcmp(c->kv_dtype, types[i].name) == 0)
            return types[i].type;
    return DTYPE_BF16;
}

static enum status plan_model(struct worker *w)
{
    const struct runtime_config *c = &w->shared->config;
    struct qwen3_options o = {
        .config = &w->config,
        .source = w->source,
        .plan = w->plan,
        .scheme = w->scheme,
        .backend = w->backend,
        .device = w->device,
        .rank = w->rank,
        .size = w->size,
        .compute = strcmp(c->compute, "f32") == 0 ? COMPUTE_F32 : COMPUTE_BF16,
        .kv_dtype = worker_kv_dtype(c),
        .progress = on_progress,
        .context = w,
    };

    return qwen3_plan(&o, &w->model);
}

static enum status load_model(struct worker *w)
{
    enum status s;

    atomic_store_explicit(&w->seat.member->total, w->model.builder.weight_bytes, memory_order_relaxed);
    member_stage(&w->seat, STAGE_LOADING);
    s = qwen3_load(&w->model, &w->limits, &w->mesh.comms);
    if (s == STATUS_OK)
        s = w->backend->program_load(w->device, &w->model.program, &w->executable);
    return s;
}

/* The last rendezvous: from here on, a plan reaches everyone. */
static enum status meet_ready(struct worker *w)
{
    const struct runtime_config *c = &w->shared->config;

    return rendezvous_join(&w->shared->rendezvous, (uint32_t)w->rank, w->shared->generation,
        NULL, 0, &w->shared->control->abort_word,
        spin_deadline_ns((uint64_t)c->load_timeout_s * 1000000000u));
}

/* What must be the same on every rank of a model: each read config and plan, and asked the plan's
 * strategies, by itself. */
static uint64_t model_hash(const struct qwen3 *m)
{
    const struct program *p = &m->program;
    const struct program_shape *s = &p->shape;
    const uint32_t shape[] = {s->hidden, s->layers, s->head_dim, s->vocab, (uint32_t)s->kv_dtype,
        (uint32_t)s->compute};
    uint64_t hash = XXH3_64bits_withSeed(shape, sizeof(shape), place_hash(&m->builder));

    for (int i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];
        /* not the buffers: their numbers follow from sizes, which differ */
        const int32_t one[] = {(int32_t)op->kind, op->layer};

        hash = XXH3_64bits_withSeed(one, sizeof(one), hash);
    }
    return hash;
}

/* What an answer's bits depend on: program, shares and types are in the model's hash. */
static uint64_t fingerprint_of(const struct worker *w)
{
    const char *rows = w->backend->describe(w->device);
    uint64_t hash = model_hash(&w->model);

    hash = XXH3_64bits_withSeed(rows, strcspn(rows, ","), hash); /* not how many threads there are */
    hash = XXH3_64bits_withSeed(w->shared->config.quant, sizeof(w->shared->config.quant), hash);
    return XXH3_64bits_withSeed(QUERN_VERSION, strlen(QUERN_VERSION), hash);
}

static void tell_facts(struct worker *w)
{
    struct model_facts *f = &w->shared->control->facts;
    const struct generation_defaults *g = &w->generation;

    f->vocab = (uint32_t)w->config.vocab;
    f->max_model_len = w->max_model_len;
    f->max_seqs = w->limits.max_slots;
    f->hidden = (uint32_t)w->config.hidden;
    f->fingerprint = fingerprint_of(w);
    f->width = w->model.program.shape.vocab;
    f->defaults = (struct sampling){
        .temperature = g->do_sample ? g->temperature : 0,
        .top_p = g->top_p,
        .min_p = g->min_p,
        .repetition = g->repetition_penalty,
        .min_tokens = (uint32_t)g->min_new_tokens,
        .top_k = g->top_k,
    };
}

static void tell_memory(const struct worker *w)
{
    char all[16], list[MEMORY_LIST];

    log_info("memory%s: %s; %s in all, of that the KV cache as it fills",
        w->size > 1 ? " of a rank, at most" : "", memory_list(w->memory, 1, list),
        memory_text(memory_sum(w->memory), all));
}

enum status worker_open(struct shared *shared, int rank, struct worker *w)
{
    struct agreement a = {0};
    enum status s;

    *w = (struct worker){.shared = shared, .rank = rank, .size = (int)shared->config.tp,
        .seat = shared_seat(shared, rank)};
    s = open_source(w);
    if (s == STATUS_OK)
        s = open_plan(w);
    if (s == STATUS_OK)
        s = open_device(w);
    if (s == STATUS_OK)
        s = plan_model(w);
    a.config_hash = model_hash(&w->model);
    a.threads = (uint32_t)w->threads;
    if (s == STATUS_OK)
        s = setup_sizes(w);
    if (s == STATUS_OK && rank == 0)
        s = setup_limits(w, &a);
    if (s == STATUS_OK)
        s = setup_agree(w, &a);
    if (s == STATUS_OK)
        s = load_model(w);
    if (s == STATUS_OK)
        s = meet_ready(w);
    if (s != STATUS_OK) {
        worker_close(w);
        return s;
    }
    if (rank == 0) {
        tell_facts(w);
        tell_memory(w);
    }
    log_debug("rank %d: %s", rank, w->backend->describe(w->device));
    member_stage(&w->seat, STAGE_READY);
    return STATUS_OK;
}

void worker_close(struct worker *w)
{
    if (w->executable != NULL)
        w->backend->program_unload(w->executable);
    if (w->model.builder.program != NULL)
        qwen3_free(&w->model);
    mesh_close(&w->mesh);
    segment_close(&w->step_segment);
    if (w->device != NULL)
        w->backend->close(w->device);
    quant_close(w->scheme);
    tp_plan_close(w->plan);
    source_close(w->source);
    generation_free(&w->generation);
    *w = (struct worker){0};
}

static bool has_plan_room(void *context)
{
    struct worker *w = context;
    void *slot;

    return shared_aborted(w->shared) || broadcast_ring_reserve(&w->plans, &slot) != STATUS_AGAIN;
}

/* Full: a follower is PLAN_SLOTS steps behind, it is slow or stopped. Sleeps at once, since
 * that is rare and may last. */
static enum status reserve_plan(struct worker *w, void **slot)
{
    enum status s;

    while ((s = broadcast_ring_reserve(&w->plans, slot)) == STATUS_AGAIN) {
        if (shared_aborted(w->shared))
            return STATUS_DEAD;
        s = doorbell_await(&w->shared->leader_room, w->shared->death_fd, has_plan_room, w, 0);
        if (s != STATUS_OK)
            return s;
    }
    return s;
}

enum status worker_publish(struct worker *w, const struct plan *plan)
{
    void *slot;
    enum status s;

    if (w->submitted - w->finished == BACKEND_DEPTH)
        return STATUS_AGAIN;
    if (w->size > 1) {
        s = reserve_plan(w, &slot);
        if (s != STATUS_OK)
            return s;
        memcpy(slot, plan, plan->bytes);
        broadcast_ring_publish(&w->plans);
        for (int rank = 1; rank < w->size; rank++)
            doorbell_ring(&w->shared->rank_bells[rank]);
    }
    if (plan->flags & PLAN_STOP)
        return STATUS_OK;
    s = w->backend->submit(w->executable, plan);
    if (s == STATUS_OK)
        w->submitted = plan->number + 1;
    return s;
}

enum status worker_wait(struct worker *w, struct step_result *result)
{
    enum status s = w->backend->wait(w->executable, w->finished, result);

    if (s == STATUS_OK)
        w->finished++;
    return s;
}

/* quern worker RANK FDS ------------------------------------------------------------------- */

static enum status worker_live(struct shared *g, int rank)
{
    struct worker w;
    enum status s = worker_open(g, rank, &w);

    if (s != STATUS_OK)
        return s;
    s = rank == 0 ? leader_run(&w) : follower_run(&w);
    worker_close(&w);
    return s;
}

int worker_main(int argc, char **argv)
{
    struct shared g;
    struct member_seat seat;
    enum status s;
    int rank;

    /* Ctrl-C is for the client, and a service manager's SIGTERM for the supervisor, even when
     * they are sent to all of us: it ends us in good order. */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    rank = argc == 3 ? atoi(argv[1]) : -1;
    s = shared_join(argc == 3 ? argv[2] : "", &g);
    if (s != STATUS_OK)
        return 2;
    if (rank < 0 || rank >= (int)g.config.tp)
        return 2;
    seat = shared_seat(&g, rank);
    prctl(PR_SET_NAME, (char[16]){'q', 'u', 'e', 'r', 'n', '-', 'r', (char)('0' + rank / 10),
        (char)('0' + rank % 10)});
    log_set_level((enum log_level)g.config.log_level);
    log_set_sink(member_log, rank > 0 ? seat.member : NULL);
    s = worker_live(&g, rank);
    if (s == STATUS_OK)
        member_stage(&seat, STAGE_STOPPED);
    else if (s != STATUS_DEAD) /* a death elsewhere is told by who saw it */
        member_fail(&seat, log_last_error());
    shared_close(&g);
    return s == STATUS_OK ? 0 : 1;
}
