/* qwen3.c - the forward pass, read from top to bottom.
 *
 * x is the residual stream; h what a block reads; y what it adds. The sum with
 * the residual and the next norm are one operation, so each decoder layer
 * leaves h ready for the next. How any of it is spread over ranks is not said
 * here: the plan says it, the layers do it. */
#include "model/qwen3.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

static void no_progress(void *context, uint64_t bytes)
{
    (void)context;
    (void)bytes;
}

/* What the layers do not set themselves: they know the heads and ids a rank has. */
static void fill_shape(const struct qwen3_options *o, struct program_shape *s)
{
    const struct model_config *c = o->config;

    *s = (struct program_shape){
        .hidden = (uint32_t)c->hidden,
        .layers = (uint32_t)c->layers,
        .head_dim = (uint32_t)c->head_dim,
        .vocab = (uint32_t)(c->labels > 0 ? c->labels : c->vocab),
        .ids = (uint32_t)c->vocab,
        .rms_eps = c->rms_eps,
        .kv_dtype = o->kv_dtype,
        .compute = o->compute,
    };
    config_rope_inv_freq(c, s->inv_freq, &s->rope_scale);
}

/* x: the residual stream; h: its norm, what the layer reads. Returns the next layer's h. */
static int decoder_layer(struct builder *b, const struct model_config *c, int i, int x, int h)
{
    const struct attention_shape shape = {
        .hidden = (uint32_t)c->hidden,
        .heads = (uint32_t)c->heads,
        .kv_heads = (uint32_t)c->kv_heads,
        .head_dim = (uint32_t)c->head_dim,
        .bias = c->attention_bias,
    };
    char attention[96], mlp[96], post[96], next[96];
    const struct weight *bias;
    int y;

    snprintf(attention, sizeof(attention), "model.layers.%d.self_attn", i);
    snprintf(mlp, sizeof(mlp), "model.layers.%d.mlp", i);
    snprintf(post, sizeof(post), "model.layers.%d.post_attention_layernorm", i);
    if (i + 1 < c->layers)
        snprintf(next, sizeof(next), "model.layers.%d.input_layernorm", i + 1);
    else
        snprintf(next, sizeof(next), "model.norm");

    y = attention_layer(b, i, attention, &shape, h, &bias);
    h = norm_layer(b, i, post, shape.hidden, (struct norm_input){.x = x, .y = y, .bias = bias});
    y = mlp_layer(b, i, mlp, shape.hidden, (uint32_t)c->intermediate, h);
    return norm_layer(b, i, next, shape.hidden, (struct norm_input){.x = x, .y = y});
}

static void forward(struct builder *b, const struct qwen3_options *o)
{
    const struct model_config *c = o->config;
    uint32_t vocab = (uint32_t)c->vocab, hidden = (uint32_t)c->hidden;
    enum head_kind kind = HEAD_TIED;
    struct embedding own;
    const char *table;
    int x, h;

    if (c->labels > 0)
        kind = HEAD_UNTIED;
    else if (b->status == STATUS_OK)
        b->status = source_head(o->source, c, &kind);
    b->loader->tied = kind != HEAD_UNTIED;
    table = kind == HEAD_ONLY ? "lm_head" : "model.embed_tokens";
    builder_op(b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    x = embedding_layer(b, table, vocab, hidden, &own);
    h = norm_layer(b, 0, "model.layers.0.input_layernorm", hidden,
        (struct norm_input){.x = x, .y = -1});
    for (int i = 0; i < c->layers; i++)
        h = decoder_layer(b, c, i, x, h);
    if (c->labels > 0)
        head_layer(b, "score", "score", (uint32_t)c->labels, hidden, NULL, h);
    else if (kind == HEAD_UNTIED)
        head_layer(b, "lm_head", "lm_head", vocab, hidden, NULL, h);
    else
        head_layer(b, "lm_head", table, vocab, hidden, &own, h);
}

enum { MODULE_NAME = 96 };
struct module_list {
    struct plan_module *modules;
    char (*names)[MODULE_NAME];
    int n;
};

static void add_module(struct module_list *l, enum module_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add_module(struct module_list *l, enum module_kind kind, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(l->names[l->n], MODULE_NAME, format, args);
    va_end(args);
    l->modules[l->n] = (struct plan_module){.name = l->names[l->n], .kind = kind};
    l->n++;
}

static void list_layer(struct module_list *l, int i)
{
    static const char *const linears[] = {"self_attn.q_proj", "self_attn.k_proj",
        "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};

    for (size_t k = 0; k < sizeof(linears) / sizeof(linears[0]); k++)
        add_module(l, KIND_LINEAR, "model.layers.%d.%s", i, linears[k]);
    add_module(l, KIND_FUSED, "model.layers.%d.self_attn.qkv_proj", i);
    add_module(l, KIND_FUSED, "model.layers.%d.mlp.gate_up_proj", i);
    add_module(l, KIND_MODULE, "model.layers.%d.self_attn", i);
    add_module(l, KIND_MODULE, "model.layers.%d.mlp", i);
    add_module(l, KIND_HEAD_NORM, "model.layers.%d.self_attn.q_norm", i);
    add_module(l, KIND_HEAD_NORM, "model.layers.%d.self_attn.k_norm", i);
    add_module(l, KIND_NORM, "model.layers.%d.input_layernorm", i);
    add_module(l, KIND_NORM, "model.layers.%d.post_attention_layernorm", i);
}

/* Does the plan say only what this model has? */
static enum status check_plan(const struct tp_plan *plan, int layers)
{
    size_t n = (size_t)layers * 15 + 4;
    struct module_list l = {
        .modules = calloc(n, sizeof(*l.modules)), .names = calloc(n, sizeof(*l.names))};
    enum status s;

    if (l.modules == NULL || l.names == NULL) {
        s = log_fail(STATUS_NOMEM, "no memory for the list of modules");
        goto out;
    }
    add_module(&l, KIND_EMBEDDING, "model.embed_tokens");
    for (int i = 0; i < layers; i++)
        list_layer(&l, i);
    add_module(&l, KIND_NORM, "model.norm");
    add_module(&l, KIND_LINEAR, "lm_head");
    add_module(&l, KIND_LINEAR, "score"); /* of a model that has labels in its place */
    s = tp_plan_check(plan, l.modules, l.n);
out:
    free(l.names);
    free(l.modules);
    return s;
}

enum status qwen3_plan(const struct qwen3_options *o, struct qwen3 *m)
{
    struct program_shape shape;
    enum status s = shard_check((uint32_t)o->config->heads, o->size);

    if (s == STATUS_OK)
        s = check_plan(o->plan, o->config->layers);
    if (s != STATUS_OK)
        return s;
    fill_shape(o, &shape);
    m->loader = (struct weight_loader){
        .source = o->source,
        .scheme = o->scheme,
        .backend = o->backend,
        .device = o->device,
        .compute = o->compute,
        .progress = o->progress != NULL ? o->progress : no_progress,
        .context = o->context,
    };
    program_init(&m->program, &shape, NULL);
    builder_init(&m->builder, &m->program, &m->loader, o->plan, o->rank, o->size);
    forward(&m->builder, o);
    s = m->builder.status;
    if (s != STATUS_OK)
        qwen3_free(m);
    return s;
}

enum status qwen3_load(struct qwen3 *m, const struct plan_limits *limits,
    const struct comm_groups *groups)
{
    enum status s;

    m->program.shape.limits = *limits;
    m->program.groups = *groups;
    s = builder_finish(&m->builder);
    return s == STATUS_OK ? builder_load(&m->builder) : s;
}

void qwen3_free(struct qwen3 *m)
{
    builder_free(&m->builder);
    program_free(&m->program);
}
