/* setup.c - the numbers the ranks run by: chosen once by rank 0, checked by all.
 *
 * What the options ask for is known to every rank; what memory allows of it is
 * rank 0's to find (fit.c), and the others take its word. */
#include <string.h>

#include "base/cores.h"
#include "quern/spin.h"
#include "parallel/choose.h"
#include "parallel/mesh.h"
#include "quern/log.h"
#include "worker/worker.h"

#include "kernels/cpu/cpu.h"

enum {
    DEFAULT_SEQS = 16,
    DEFAULT_BATCHED_TOKENS = 512,
    DEFAULT_BLOCK = 16,
    LEAST_OUTPUTS = 32,
    PLAN_SLOTS = 8,
    MOST_PLAN_BYTES = 64 << 20, /* eight of them lie in the plan ring */
};
static const uint64_t collective_deadline_ns = 120u * 1000000000ull;

static uint32_t or_default(uint32_t given, uint32_t fallback)
{
    return given != 0 ? given : fallback;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static uint32_t divide_up(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static void first_limits(struct worker *w, struct agreement *a)
{
    const struct runtime_config *c = &w->shared->config;

    a->limits = (struct plan_limits){
        .max_slots = or_default(c->max_seqs, DEFAULT_SEQS),
        .max_tokens = or_default(c->max_batched_tokens, DEFAULT_BATCHED_TOKENS),
        .block_size = or_default(c->block_size, DEFAULT_BLOCK),
        .vocab = (uint32_t)w->config.vocab,
    };
    /* every running sequence gets its row in each step */
    a->limits.max_tokens = larger(a->limits.max_tokens, a->limits.max_slots);
    /* each of them has an output, and some may ask for more; more of a prompt's take more steps */
    a->limits.max_outputs = larger(a->limits.max_slots, LEAST_OUTPUTS);
    if (a->limits.max_outputs > a->limits.max_tokens)
        a->limits.max_outputs = a->limits.max_tokens;
    a->max_model_len = or_default(c->max_model_len, (uint32_t)w->config.max_position);
    a->limits.max_blocks_per_slot = divide_up(a->max_model_len, a->limits.block_size);
    a->limits.n_blocks = 1; /* until memory says how many */
}

static struct mesh_shape mesh_shape(const struct worker *w)
{
    return (struct mesh_shape){.tp = w->size, .dp = 1, .ep = 1};
}

/* The widest row that any rank has of a buffer whose columns are gathered; the same number on
 * all. 0: none is. */
static size_t widest_row(const struct program *p, int size)
{
    uint32_t widest = 0;

    for (int i = 0; i < p->n_ops; i++)
        for (int r = 0; p->ops[i].kind == OP_GATHER_COLS && r < size; r++) {
            uint32_t row = column_map_own(p->ops[i].map, r);

            widest = row > widest ? row : widest;
        }
    return widest;
}

/* Values of the largest buffer that is scattered or gathered by rows, and of the residual stream at
 * least; the same number on all. Sums of more go in pieces, these do not. */
static size_t most_whole(const struct worker *w, const struct plan_limits *limits)
{
    const struct program *p = &w->model.program;
    size_t most = (size_t)limits->max_tokens * (size_t)w->config.hidden;

    for (int i = 0; i < p->n_ops; i++) {
        const struct buffer_spec *b = &p->buffers[p->ops[i].in[0] < 0 ? 0 : p->ops[i].in[0]];
        size_t values = (size_t)program_most_rows(limits, b) * b->cols;

        if ((p->ops[i].kind == OP_REDUCE_SCATTER || p->ops[i].kind == OP_GATHER_ROWS) &&
            values > most)
            most = values;
    }
    return most;
}

/* The comms' sizes: the same function of the agreement on every rank. */
static void comm_options(struct worker *w, const struct agreement *a, struct coll_shm_options *o)
{
    *o = (struct coll_shm_options){
        .heap = &w->heap,
        .abort_word = &w->shared->control->abort_word,
        .rank = w->rank,
        .size = w->size,
        .threads = (int)a->threads,
        .reduce_floats = most_whole(w, &a->limits),
        .gather_bytes = w->backend->gather_bytes(&a->limits, w->model.builder.vocab_longest),
        .row_floats = widest_row(&w->model.program, w->size),
        .norm_cols = (size_t)w->config.hidden,
        .deadline_ns = collective_deadline_ns,
    };
}

uint64_t setup_symmetric_bytes(struct worker *w, const struct agreement *a)
{
    struct coll_shm_options comm;

    if (w->size == 1)
        return 0;
    comm_options(w, a, &comm);
    return mesh_heap_bytes(mesh_shape(w), &comm);
}

void setup_own(struct worker *w, uint64_t bytes[MEMORY_KINDS])
{
    struct agreement a = {0};

    first_limits(w, &a);
    memory_own(w, &a, bytes);
}

enum status setup_limits(struct worker *w, struct agreement *a)
{
    enum status s;

    first_limits(w, a);
    if (a->max_model_len > (uint32_t)w->config.max_position)
        return log_fail(STATUS_INVALID, "--max-model-len %u is more than this model's %d positions",
            a->max_model_len, w->config.max_position);
    s = memory_fit(w, a);
    if (s != STATUS_OK)
        return s;
    a->plan_bytes = plan_max_bytes(&a->limits);
    if (a->plan_bytes == 0 || a->plan_bytes > MOST_PLAN_BYTES)
        return log_fail(STATUS_INVALID, "%u tokens in blocks of %u make too large a plan: use a "
            "larger --block-size or a smaller --max-model-len", a->max_model_len,
            a->limits.block_size);
    a->region_bytes = w->size > 1 ? setup_symmetric_bytes(w, a) : SYMHEAP_PAGE;
    return STATUS_OK;
}

/* Where the plan ring and the heap lie in the step segment. */
struct step_layout {
    size_t plans_at, plans_bytes, heap_at, heap_bytes, bytes;
};

static enum status lay_out(const struct worker *w, const struct agreement *a,
    struct step_layout *l)
{
    struct segment_cursor c = {0};

    l->plans_bytes = broadcast_ring_bytes(PLAN_SLOTS, (uint32_t)a->plan_bytes);
    l->heap_bytes = symheap_bytes((uint32_t)w->size, a->region_bytes);
    l->plans_at = segment_carve(&c, l->plans_bytes, 64);
    l->heap_at = segment_carve(&c, l->heap_bytes, SYMHEAP_PAGE);
    return segment_carved(&c, &l->bytes);
}

/* Rank 0 makes the step segment, before the others are told its size. */
static enum status fill_step_segment(struct worker *w, const struct agreement *a)
{
    struct shared *g = w->shared;
    struct step_layout l;
    enum status s = lay_out(w, a, &l);

    if (s == STATUS_OK)
        s = segment_fill("quern-step", g->step_fd, l.bytes, &w->step_segment);
    if (s != STATUS_OK)
        return s;
    g->step_fd = -1; /* the segment's now */
    return broadcast_ring_init((char *)w->step_segment.base + l.plans_at, PLAN_SLOTS,
        (uint32_t)a->plan_bytes, (uint32_t)w->size - 1, g->generation);
}

static enum status map_step_segment(struct worker *w)
{
    enum status s = segment_map(w->shared->step_fd, &w->step_segment);

    if (s == STATUS_OK)
        w->shared->step_fd = -1;
    return s;
}

static enum status attach_step_segment(struct worker *w, const struct agreement *a)
{
    struct step_layout l;
    enum status s = lay_out(w, a, &l);
    char *base = w->step_segment.base;

    if (s != STATUS_OK)
        return s;
    if (l.bytes > w->step_segment.bytes)
        return log_fail(STATUS_INVALID, "rank %d: the step segment has %zu bytes, %zu are needed",
            w->rank, w->step_segment.bytes, l.bytes);
    s = broadcast_ring_attach(base + l.plans_at, l.plans_bytes, w->shared->generation, &w->plans);
    if (s != STATUS_OK)
        return s;
    return symheap_attach(base + l.heap_at, l.heap_bytes, (uint32_t)w->size, a->region_bytes,
        &w->heap);
}

/* For measuring collectives: a fifth of what this rank's weights take to load at 1 GB/s, so that
 * nobody notices. The small sizes, which decoding uses, come first. */
static uint64_t measure_ns(const struct worker *w)
{
    uint64_t ns = w->model.builder.weight_bytes / 5;

    return ns < CHOICE_LEAST_NS ? CHOICE_LEAST_NS : ns > CHOICE_MOST_NS ? CHOICE_MOST_NS : ns;
}

static enum status open_comm(struct worker *w, const struct agreement *a)
{
    struct coll_shm_options o;
    struct cpu_kernels kernels;
    enum status s;

    if (w->size == 1)
        return STATUS_OK;
    s = cpu_kernels_select(NULL, &kernels);
    if (s != STATUS_OK)
        return s;
    comm_options(w, a, &o);
    o.sum_ranks = kernels.sum_ranks;
    o.add_norm = kernels.add_norm;
    cores_stand_on(w->rank * (int)a->threads);
    return mesh_open(mesh_shape(w), w->rank, &o, measure_ns(w), &w->mesh);
}

static enum status join(struct worker *w, const void *blob, size_t bytes)
{
    struct shared *g = w->shared;

    return rendezvous_join(&g->rendezvous, (uint32_t)w->rank, g->generation, blob, bytes,
        &g->control->abort_word,
        spin_deadline_ns((uint64_t)g->config.load_timeout_s * 1000000000u));
}

/* What a rank left in this round. */
static enum status read_blob(const struct worker *w, int rank, void *out, size_t bytes)
{
    size_t left;
    const void *blob = rendezvous_blob(&w->shared->rendezvous, (uint32_t)rank, &left);

    if (blob == NULL || left != bytes)
        return log_fail(STATUS_INVALID, "rank %d: rank %d left %zu bytes, not %zu", w->rank, rank,
            left, bytes);
    memcpy(out, blob, bytes);
    return STATUS_OK;
}

enum status setup_sizes(struct worker *w)
{
    uint64_t mine[MEMORY_KINDS], theirs[MEMORY_KINDS];
    enum status s;

    setup_own(w, mine);
    s = join(w, mine, sizeof(mine));
    for (int r = 0; s == STATUS_OK && r < w->size; r++) {
        s = read_blob(w, r, theirs, sizeof(theirs));
        if (s == STATUS_OK)
            memory_compare(w, mine, theirs);
    }
    return s;
}

/* Meets the other ranks; on return *a is rank 0's. Where its hash is another, `why` follows "rank
 * N ". */
static enum status meet(struct worker *w, struct agreement *a, const char *why)
{
    uint64_t mine = a->config_hash;
    enum status s = join(w, a, sizeof(*a));

    if (s == STATUS_OK)
        s = read_blob(w, 0, a, sizeof(*a));
    if (s == STATUS_OK && a->config_hash != mine)
        s = log_fail(STATUS_INVALID, "rank %d %s", w->rank, why);
    return s;
}

enum status setup_agree(struct worker *w, struct agreement *a)
{
    struct agreement check;
    enum status s;

    if (w->rank == 0) {
        s = fill_step_segment(w, a);
        if (s != STATUS_OK)
            return s;
    }
    s = meet(w, a, "read another config.json or plan than rank 0, or a plugin's strategy cuts "
        "otherwise there: did a file change?");
    if (s == STATUS_OK && a->threads != (uint32_t)w->threads)
        s = log_fail(STATUS_INVALID, "rank %d would run %d threads, rank 0 %u: say how many with "
            "--threads", w->rank, w->threads, a->threads);
    if (s == STATUS_OK && w->rank != 0)
        s = map_step_segment(w);
    if (s == STATUS_OK)
        s = attach_step_segment(w, a);
    if (s == STATUS_OK)
        s = open_comm(w, a);
    if (s != STATUS_OK)
        return s;
    w->limits = a->limits;
    w->max_model_len = a->max_model_len;
    /* A second round: everyone is attached, with the same heap. */
    check = *a;
    check.config_hash = symheap_signature(&w->heap);
    return meet(w, &check, "laid out its shared memory unlike rank 0: are both the same program?");
}
