/* layer_model.c - see layer_model.h. */
#include "tests/layers/layer_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

enum { TOKENS = 16, DEFAULT_INNER = 48 };

/* The backend ----------------------------------------------------------------------------- */

size_t layer_model_held;

static void *take(struct device *d, size_t bytes)
{
    (void)d;
    layer_model_held += bytes;
    return calloc(1, bytes);
}

static void release(struct device *d, void *mem, size_t bytes)
{
    (void)d;
    layer_model_held -= bytes;
    free(mem);
}

static size_t code_bytes(enum weight_format format)
{
    return format == WEIGHT_F32 ? 4 : format == WEIGHT_BF16 ? 2 : 1;
}

static size_t weight_bytes(struct device *d, enum weight_format format, uint32_t n, uint32_t k)
{
    (void)d;
    return (size_t)n * k * code_bytes(format);
}

static void pack(struct device *d, struct weight *w, uint32_t n0, uint32_t rows, const void *src)
{
    size_t row = w->k * code_bytes(w->format);

    (void)d;
    assert_int_equal(n0 % 16, 0);
    assert_true(rows % 16 == 0 || n0 + rows == w->n);
    memcpy((char *)w->data + n0 * row, src, rows * row);
}

static void write_vector(struct device *d, float *dst, const float *src, uint32_t n)
{
    (void)d;
    memcpy(dst, src, n * sizeof(float));
}

static void write_rows(struct device *d, void *dst, size_t dst_stride, const void *src,
    size_t src_stride, size_t bytes, size_t rows)
{
    (void)d;
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)dst + i * dst_stride, (const char *)src + i * src_stride, bytes);
}

static const struct backend plain_backend = {
    .name = "plain",
    .alloc = take,
    .release = release,
    .weight_bytes = weight_bytes,
    .weight_pack = pack,
    .vector_write = write_vector,
    .write_rows = write_rows,
};

static void count_progress(void *context, uint64_t bytes)
{
    *(uint64_t *)context += bytes;
}

/* The checkpoint -------------------------------------------------------------------------- */

static void add_linear(struct fake_source *f, const struct layer_options *o, const char *name,
    uint32_t rows, uint32_t cols, bool bias)
{
    bool codes = o->int8 && (o->plain == NULL || strcmp(o->plain, name) != 0);

    fake_source_add(f, codes ? FILE_I8 : FILE_F32, rows, cols, "%s.weight", name);
    if (codes)
        fake_source_add(f, FILE_F32, rows, 1, "%s.weight_scale", name);
    if (bias)
        fake_source_add(f, FILE_F32, rows, 0, "%s.bias", name);
}

static void add_layer(struct fake_source *f, const struct layer_options *o, int i, uint32_t inner)
{
    const struct {
        const char *name;
        uint32_t rows, cols;
        bool bias;
    } linears[] = {
        {"self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN, o->bias},
        {"self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN, o->bias},
        {"self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN, o->bias},
        {"self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM, o->bias},
        {"mlp.gate_proj", inner, HIDDEN, false},
        {"mlp.up_proj", inner, HIDDEN, false},
        {"mlp.down_proj", HIDDEN, inner, false},
    };

    for (size_t k = 0; k < sizeof(linears) / sizeof(linears[0]); k++) {
        char name[96];

        if (o->merged && !o->twice && linears[k].cols == HIDDEN && k != 3)
            continue;
        snprintf(name, sizeof(name), "model.layers.%d.%s", i, linears[k].name);
        add_linear(f, o, name, linears[k].rows, linears[k].cols, linears[k].bias);
    }
    if (o->merged) {
        char name[96];

        snprintf(name, sizeof(name), "model.layers.%d.self_attn.qkv_proj", i);
        add_linear(f, o, name, (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN, o->bias);
        snprintf(name, sizeof(name), "model.layers.%d.mlp.gate_up_proj", i);
        add_linear(f, o, name, 2 * inner, HIDDEN, false);
    }
    fake_source_add(f, FILE_F32, HEAD_DIM, 0, "model.layers.%d.self_attn.q_norm.weight", i);
    fake_source_add(f, FILE_F32, HEAD_DIM, 0, "model.layers.%d.self_attn.k_norm.weight", i);
    fake_source_add(f, FILE_F32, HIDDEN, 0, "model.layers.%d.input_layernorm.weight", i);
    fake_source_add(f, FILE_F32, HIDDEN, 0, "model.layers.%d.post_attention_layernorm.weight", i);
}

static void add_tensors(struct fake_source *f, const struct layer_options *o)
{
    fake_source_add(f, FILE_F32, VOCAB, HIDDEN, "model.embed_tokens.weight");
    for (int i = 0; i < LAYERS; i++)
        add_layer(f, o, i, o->inner != 0 ? o->inner : DEFAULT_INNER);
    fake_source_add(f, FILE_F32, HIDDEN, 0, "model.norm.weight");
    if (o->untied)
        fake_source_add(f, FILE_F32, VOCAB, HIDDEN, "lm_head.weight");
}

/* The program ----------------------------------------------------------------------------- */

void layer_model_begin(struct layer_model *m, const struct layer_options *o, int rank, int size)
{
    const struct program_shape shape = {
        .limits = {.max_slots = 2, .max_tokens = TOKENS, .max_outputs = 2, .max_blocks_per_slot = 2,
            .n_blocks = 4, .block_size = 8, .vocab = VOCAB},
        .hidden = HIDDEN, .layers = LAYERS, .head_dim = HEAD_DIM, .vocab = VOCAB,
        .kv_dtype = DTYPE_F32};

    *m = (struct layer_model){.comm = {.rank = rank, .size = size}};
    fake_source_open(&m->source);
    add_tensors(&m->source, o);
    m->source.missing = o->missing;
    m->loader = (struct weight_loader){.source = &m->source.source, .scheme = o->scheme,
        .backend = &plain_backend, .compute = COMPUTE_F32, .progress = count_progress,
        .context = &m->progressed};
    assert_int_equal(tp_plan_open(o->plan, &m->plan), STATUS_OK);
    program_init(&m->program, &shape, &m->comm);
    builder_init(&m->b, &m->program, &m->loader, m->plan, rank, size);
}

static int decoder_layer(struct builder *b, const struct layer_options *o, int i, int x, int h)
{
    const struct attention_shape shape = {.hidden = HIDDEN, .heads = HEADS, .kv_heads = KV_HEADS,
        .head_dim = HEAD_DIM, .bias = o->bias};
    const struct weight *bias;
    char name[96];
    int y;

    snprintf(name, sizeof(name), "model.layers.%d.self_attn", i);
    y = attention_layer(b, i, name, &shape, h, &bias);
    snprintf(name, sizeof(name), "model.layers.%d.post_attention_layernorm", i);
    h = norm_layer(b, i, name, HIDDEN, (struct norm_input){.x = x, .y = y, .bias = bias});
    snprintf(name, sizeof(name), "model.layers.%d.mlp", i);
    y = mlp_layer(b, i, name, HIDDEN, o->inner != 0 ? o->inner : DEFAULT_INNER, h);
    snprintf(name, sizeof(name), "model.layers.%d.input_layernorm", i + 1);
    return norm_layer(b, i, i + 1 < LAYERS ? name : "model.norm", HIDDEN,
        (struct norm_input){.x = x, .y = y});
}

enum status layer_model_build(struct layer_model *m, const struct layer_options *o, int rank,
    int size)
{
    struct builder *b = &m->b;
    struct embedding own;
    int x, h;

    layer_model_begin(m, o, rank, size);
    builder_op(b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    x = embedding_layer(b, "model.embed_tokens", VOCAB, HIDDEN, &own);
    h = norm_layer(b, 0, "model.layers.0.input_layernorm", HIDDEN,
        (struct norm_input){.x = x, .y = -1});
    for (int i = 0; i < LAYERS; i++)
        h = decoder_layer(b, o, i, x, h);
    if (o->untied)
        head_layer(b, "lm_head", "lm_head", VOCAB, HIDDEN, NULL, h);
    else
        head_layer(b, "lm_head", "model.embed_tokens", VOCAB, HIDDEN, &own, h);
    return builder_finish(b);
}

void layer_model_end(struct layer_model *m)
{
    builder_free(&m->b);
    program_free(&m->program);
    tp_plan_close(m->plan);
    m->plan = NULL;
}

int count_ops(const struct program *p, enum op_kind kind)
{
    int n = 0;

    for (int i = 0; i < p->n_ops; i++)
        n += p->ops[i].kind == kind;
    return n;
}

const struct op *find_weight(const struct program *p, const char *name)
{
    for (int i = 0; i < p->n_ops; i++)
        if (p->ops[i].weight != NULL && strcmp(p->ops[i].weight->name, name) == 0)
            return &p->ops[i];
    return NULL;
}
