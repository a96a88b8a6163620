/* layout.c - where a loaded program's memory lies.
 *
 * One function names every array once; run without memory it counts, run with
 * memory it assigns, so the two cannot disagree. The mapping is lazy: what a
 * step never touches (a long row's scratch, logits nobody asks for) costs
 * address space only. The KV cache is a mapping of its own and is never
 * cleared: a position is written before it is read. */
#include <sys/mman.h>

#include "kernels/cpu/exec.h"
#include "kernels/cpu/ref_quant.h"

enum { LINE = 64, HUGE_BYTES = 2 << 20 };

void *memory_map(size_t bytes, bool huge)
{
    void *mem = mmap(NULL, bytes > 0 ? bytes : 1, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (mem == MAP_FAILED)
        return NULL;
    if (huge && bytes >= HUGE_BYTES)
        (void)madvise(mem, bytes, MADV_HUGEPAGE); /* only a wish */
    return mem;
}

void memory_unmap(void *mem, size_t bytes)
{
    if (mem != NULL)
        munmap(mem, bytes > 0 ? bytes : 1);
}

struct carver {
    char *base; /* NULL: counting */
    size_t at;
};

static void *carve(struct carver *c, size_t count, size_t each)
{
    size_t here = (c->at + LINE - 1) & ~(size_t)(LINE - 1);

    c->at = here + count * each;
    return c->base != NULL ? c->base + here : NULL;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* What a row of a linear layer's input may take, over all of them. */
struct widest {
    uint32_t inputs, codes, scales;
};

static struct widest widest_linear(const struct program *p)
{
    struct widest most = {0};

    for (int i = 0; i < p->n_ops; i++) {
        const struct weight *w = p->ops[i].weight;

        if (p->ops[i].kind != OP_LINEAR)
            continue;
        most.inputs = larger(most.inputs, (uint32_t)input_stride(w->k));
        if (!is_quantised(w->format) || w->quant.activation == ACTIVATION_PLAIN)
            continue;
        most.codes = larger(most.codes, (uint32_t)code_stride(w->k));
        most.scales = larger(most.scales, quant_act_groups(&w->quant, w->k));
    }
    return most;
}

/* The program's buffers that have a row for each token, or for each output. */
static void layout_rows(struct executable *x, struct carver *c, enum extent rows)
{
    const struct program *p = x->program;

    for (int i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].rows == rows)
            x->buffers[i] = carve(c, (size_t)program_most_rows(&p->shape.limits, &p->buffers[i]) *
                p->buffers[i].cols, sizeof(float));
}

static void layout_buffers(struct executable *x, struct carver *c)
{
    const struct plan_limits *l = &x->program->shape.limits;
    struct widest widest = widest_linear(x->program);
    size_t rows = larger(l->max_tokens, l->max_outputs);

    layout_rows(x, c, EXTENT_TOKENS);
    x->rounded = carve(c, rows * widest.inputs, sizeof(float));
    x->codes = carve(c, rows * widest.codes, sizeof(*x->codes));
    x->scales = carve(c, rows * widest.scales, sizeof(*x->scales));
}

static void layout_state(struct executable *x, struct carver *c)
{
    const struct program_shape *shape = &x->program->shape;
    const struct plan_limits *l = &shape->limits;
    size_t angles = (size_t)l->max_tokens * (shape->head_dim / 2);

    x->sequences = carve(c, l->max_slots, sizeof(*x->sequences));
    x->tables = carve(c, (size_t)l->max_slots * l->max_blocks_per_slot, sizeof(*x->tables));
    x->words = carve(c, (size_t)l->max_slots * SAMPLING_WORDS, sizeof(*x->words));
    x->ids = carve(c, (size_t)l->n_blocks * l->block_size, sizeof(*x->ids));
    x->barrier_after = carve(c, (size_t)x->program->n_ops, sizeof(*x->barrier_after));
    x->own_rows = carve(c, (size_t)x->program->n_ops, sizeof(*x->own_rows));
    x->tokens = carve(c, l->max_tokens, sizeof(*x->tokens));
    x->positions = carve(c, l->max_tokens, sizeof(*x->positions));
    x->blocks = carve(c, l->max_tokens, sizeof(*x->blocks));
    x->cos = carve(c, angles, sizeof(*x->cos));
    x->sin = carve(c, angles, sizeof(*x->sin));
    x->picked = carve(c, l->max_outputs, sizeof(*x->picked));
    x->attention_from = carve(c, (size_t)x->threads + 1, sizeof(*x->attention_from));
    x->draws = carve(c, l->max_outputs, sizeof(*x->draws));
}

static void layout_scratch(struct executable *x, struct carver *c)
{
    const struct plan_limits *l = &x->program->shape.limits;
    uint32_t vocab = x->program->shape.vocab;

    /* Rows are dealt to threads in turn: no more of them have one than there are rows. */
    x->scratch = carve(c, (size_t)x->threads, sizeof(*x->scratch));
    for (int t = 0; t < x->threads && t < (int)l->max_outputs; t++) {
        struct row_scratch s;

        s.sort.a = carve(c, vocab, sizeof(*s.sort.a));
        s.sort.b = carve(c, vocab, sizeof(*s.sort.b));
        s.edit.counts = carve(c, vocab, sizeof(*s.edit.counts));
        s.edit.touched = carve(c, vocab, sizeof(*s.edit.touched));
        s.logits = carve(c, vocab, sizeof(*s.logits));
        s.ids = carve(c, (size_t)l->max_blocks_per_slot * l->block_size, sizeof(*s.ids));
        if (c->base != NULL)
            x->scratch[t] = s;
    }
}

static void layout_sampling(struct executable *x, struct carver *c)
{
    const struct program_shape *shape = &x->program->shape;
    uint32_t vocab = shape->vocab, outputs = shape->limits.max_outputs;
    size_t ranks = is_alone(x) ? 0 : (size_t)x->comm->size;
    size_t records = records_room(&shape->limits);

    layout_scratch(x, c);
    x->records = carve(c, records, 1);
    x->chosen = carve(c, outputs, sizeof(*x->chosen));
    if (ranks == 0)
        return;
    x->all_chosen = carve(c, ranks * outputs, sizeof(*x->all_chosen));
    x->all_records = carve(c, ranks, records);
    x->shard = carve(c, vocab, sizeof(float));
    x->shards = carve(c, ranks * vocab, sizeof(float));
    x->row = carve(c, vocab, sizeof(float));
    x->shard_ranges = carve(c, ranks, sizeof(*x->shard_ranges));
    x->shard_sizes = carve(c, ranks, sizeof(*x->shard_sizes));
    x->shard_offsets = carve(c, ranks, sizeof(*x->shard_offsets));
}

static void layout_logits(struct executable *x, struct carver *c)
{
    const struct program_shape *shape = &x->program->shape;
    size_t outputs = shape->limits.max_outputs;
    bool root = is_root(x);

    layout_rows(x, c, EXTENT_OUTPUTS);
    for (int i = 0; i < BACKEND_DEPTH; i++)
        x->steps[i].logits = carve(c, root ? outputs * shape->vocab : 0, sizeof(float));
}

static void layout_steps(struct executable *x, struct carver *c)
{
    const struct plan_limits *l = &x->program->shape.limits;
    bool root = is_root(x);

    for (int i = 0; i < BACKEND_DEPTH; i++) {
        struct step *s = &x->steps[i];

        s->x = x;
        s->plan = carve(c, plan_max_bytes(l), 1);
        s->ids = carve(c, l->max_outputs, sizeof(*s->ids));
        s->hidden = carve(c, root ? (size_t)l->max_outputs * x->program->shape.hidden : 0,
            sizeof(*s->hidden));
        s->logprobs = carve(c, root ? (size_t)l->max_outputs * (LOGPROBS_MOST + 1) : 0,
            sizeof(*s->logprobs));
        s->told = carve(c, (size_t)x->threads, sizeof(*s->told));
    }
}

size_t layout_memory(struct executable *x, uint64_t bytes[MEMORY_KINDS])
{
    struct carver c = {.base = x->memory};

    layout_buffers(x, &c);
    bytes[MEMORY_BUFFERS] = c.at;
    layout_logits(x, &c);
    bytes[MEMORY_LOGITS] = c.at - bytes[MEMORY_BUFFERS];
    layout_state(x, &c);
    layout_sampling(x, &c);
    layout_steps(x, &c);
    bytes[MEMORY_WORKSPACE] = c.at - bytes[MEMORY_BUFFERS] - bytes[MEMORY_LOGITS];
    return c.at;
}

static size_t layer_bytes(const struct program_shape *shape)
{
    return shape->limits.n_blocks * program_block_bytes(shape);
}

size_t cache_bytes(const struct program_shape *shape)
{
    return shape->layers * layer_bytes(shape);
}

struct kv_view cache_view(const struct executable *x, int layer)
{
    const struct program_shape *shape = &x->program->shape;
    char *base = (char *)x->cache + (size_t)layer * layer_bytes(shape);
    size_t head = kv_head_bytes(shape->kv_dtype, shape->limits.block_size, shape->head_dim);

    return (struct kv_view){
        .k = base,
        .v = base + shape->kv_heads * head,
        .dtype = shape->kv_dtype,
        .kv_heads = shape->kv_heads,
        .block_size = shape->limits.block_size,
        .head_dim = shape->head_dim,
        .head_bytes = head,
        .block_bytes = program_block_bytes(shape),
    };
}
