/* qwen3.c - the forward pass, read from top to bottom.
 *
 * x is the residual stream; h what a block reads; y what it adds. The sum with
 * the residual and the next norm are one operation, so each decoder layer
 * leaves h ready for the next. */
#include "model/qwen3.h"

#include <stdio.h>
#include <string.h>

#include "quern/log.h"

struct blocks_of {
    struct attention_shape attention;
    struct mlp_shape mlp;
    int x, h, y, picked, logits;
};

static void no_progress(void *context, uint64_t bytes)
{
    (void)context;
    (void)bytes;
}

static void fill_shape(const struct qwen3_options *o, struct program_shape *s)
{
    const struct model_config *c = o->config;
    struct head_shard own = shard_heads((uint32_t)c->heads, (uint32_t)c->kv_heads, o->rank, o->size);
    struct range vocab = shard_range((uint32_t)c->vocab, VOCAB_UNIT, o->rank, o->size);
    uint32_t group = (uint32_t)(c->heads / c->kv_heads);

    *s = (struct program_shape){
        .hidden = (uint32_t)c->hidden,
        .layers = (uint32_t)c->layers,
        .head_dim = (uint32_t)c->head_dim,
        .heads = own.q.count,
        .kv_heads = own.kv.count,
        .vocab_first = vocab.first,
        .vocab_rows = vocab.count,
        .vocab = (uint32_t)c->vocab,
        .rms_eps = c->rms_eps,
        .kv_dtype = o->kv_dtype,
        .compute = o->compute,
    };
    for (uint32_t i = 0; i < own.q.count; i++)
        s->q_to_kv[i] = (uint16_t)((own.q.first + i) / group - own.kv.first);
    config_rope_inv_freq(c, s->inv_freq, &s->rope_scale);
}

static void make_buffers(struct builder *b, const struct model_config *c,
    const struct program_shape *s, struct blocks_of *m)
{
    uint32_t d = s->head_dim, hidden = s->hidden;
    uint32_t inner =
        shard_range((uint32_t)c->intermediate, MLP_UNIT, b->rank, b->size).count;

    m->x = builder_buffer(b, "x", EXTENT_TOKENS, hidden, partial_place(b));
    m->h = builder_buffer(b, "h", EXTENT_TOKENS, hidden, PLACE_REPLICATE);
    m->y = builder_buffer(b, "y", EXTENT_TOKENS, hidden, partial_place(b));
    m->attention = (struct attention_shape){
        .hidden = hidden,
        .heads = (uint32_t)c->heads,
        .kv_heads = (uint32_t)c->kv_heads,
        .head_dim = d,
        .bias = c->attention_bias,
        .qkv = builder_buffer(b, "qkv", EXTENT_TOKENS, (s->heads + 2 * s->kv_heads) * d,
            PLACE_SHARD),
        .attended = builder_buffer(b, "attended", EXTENT_TOKENS, s->heads * d, PLACE_SHARD),
    };
    m->mlp = (struct mlp_shape){
        .hidden = hidden,
        .intermediate = (uint32_t)c->intermediate,
        .gate_up = builder_buffer(b, "gate_up", EXTENT_TOKENS, 2 * inner, PLACE_SHARD),
        .product = builder_buffer(b, "product", EXTENT_TOKENS, inner, PLACE_SHARD),
    };
    m->picked = builder_buffer(b, "picked", EXTENT_OUTPUTS, hidden, PLACE_REPLICATE);
    m->logits = builder_buffer(b, "logits", EXTENT_OUTPUTS, s->vocab_rows, PLACE_SHARD);
}

static void decoder_layer(struct builder *b, const struct blocks_of *m, int i, int layers)
{
    char attention[96], mlp[96], post[96], next[96];

    snprintf(attention, sizeof(attention), "model.layers.%d.self_attn", i);
    snprintf(mlp, sizeof(mlp), "model.layers.%d.mlp", i);
    snprintf(post, sizeof(post), "model.layers.%d.post_attention_layernorm", i);
    if (i + 1 < layers)
        snprintf(next, sizeof(next), "model.layers.%d.input_layernorm", i + 1);
    else
        snprintf(next, sizeof(next), "model.norm");

    attention_layer(b, i, attention, &m->attention, m->h, m->y);
    norm_layer(b, i, post, m->attention.hidden, m->x, m->y, m->h);
    mlp_layer(b, i, mlp, &m->mlp, m->h, m->y);
    norm_layer(b, i, next, m->attention.hidden, m->x, m->y, m->h);
}

static void forward(struct builder *b, const struct qwen3_options *o, struct program_shape *s)
{
    const struct model_config *c = o->config;
    const struct weight *table, *head;
    enum head_kind kind = HEAD_TIED;
    struct blocks_of m;

    if (b->status == STATUS_OK)
        b->status = source_head(o->source, c, &kind);
    make_buffers(b, c, s, &m);
    table = vocabulary_weight(b, kind == HEAD_ONLY ? "lm_head" : "model.embed_tokens", s->vocab,
        s->hidden);
    builder_op(b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    embedding_layer(b, table, m.x);
    norm_layer(b, 0, "model.layers.0.input_layernorm", s->hidden, m.x, -1, m.h);
    for (int i = 0; i < c->layers; i++)
        decoder_layer(b, &m, i, c->layers);
    head = kind == HEAD_UNTIED ? vocabulary_weight(b, "lm_head", s->vocab, s->hidden) : table;
    head_layer(b, head, m.h, m.picked, m.logits);
}

enum status qwen3_plan(const struct qwen3_options *o, struct qwen3 *m)
{
    struct program_shape shape;
    enum status s = shard_check((uint32_t)o->config->heads, o->size);

    if (s != STATUS_OK)
        return s;
    fill_shape(o, &shape);
    m->loader = (struct weight_loader){
        .source = o->source,
        .backend = o->backend,
        .device = o->device,
        .compute = o->compute,
        .progress = o->progress != NULL ? o->progress : no_progress,
        .context = o->context,
    };
    program_init(&m->program, &shape, NULL);
    builder_init(&m->builder, &m->program, &m->loader, &quant_none, o->rank, o->size);
    forward(&m->builder, o, &shape);
    s = m->builder.status;
    if (s != STATUS_OK)
        qwen3_free(m);
    return s;
}

enum status qwen3_load(struct qwen3 *m, const struct plan_limits *limits, struct comm *comm)
{
    enum status s;

    m->program.shape.limits = *limits;
    m->program.comm = comm;
    s = builder_finish(&m->builder);
    return s == STATUS_OK ? builder_load(&m->builder) : s;
}

void qwen3_free(struct qwen3 *m)
{
    builder_free(&m->builder);
    program_free(&m->program);
}
