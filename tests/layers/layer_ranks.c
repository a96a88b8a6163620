/* layer_ranks.c - see layer_ranks.h. Built, loaded and run as a worker would, without a worker. */
#include "tests/layers/layer_ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "layers/placement.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/kernels/exec_group.h"
#include "tests/layers/fake_source.h"

#define LAYER "model.layers.0."

/* Weights ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Sums of a row keep their size whatever its length. */
static float random_element(const struct fake_source *f, const struct fake_tensor *t, uint64_t row,
    uint64_t col)
{
    uint64_t tensor = (uint64_t)(t - f->tensors) << 56;
    float u = (float)((double)(mix(f->seed ^ tensor ^ row << 28 ^ col) >> 40) * 0x1p-23 - 1);

    if (t->type == FILE_I8)
        return truncf(127 * u);
    if (strstr(t->name, "scale") != NULL)
        return (1.5f + u) / 1000;
    if (t->cols == 0)
        return strstr(t->name, "norm") != NULL ? 1 + 0.3f * u : 0.5f * u;
    return u * sqrtf(3 / (float)t->cols);
}

static void add_linear(struct fake_source *f, const char *name, uint32_t rows, uint32_t cols)
{
    fake_source_add(f, FILE_F32, rows, cols, LAYER "%s.weight", name);
    fake_source_add(f, FILE_F32, rows, 0, LAYER "%s.bias", name);
}

static void add_mid(struct fake_source *f, const struct layer_sizes *z)
{
    if (!z->codes) {
        add_linear(f, "mid", z->deep, z->wide);
        return;
    }
    fake_source_add(f, FILE_I8, z->deep, z->wide, LAYER "mid.weight");
    fake_source_add(f, FILE_F32, z->deep, 1, LAYER "mid.weight_scale");
    fake_source_add(f, FILE_F32, z->deep, 0, LAYER "mid.bias");
}

static uint32_t all_parts(const struct layer_sizes *z)
{
    uint32_t n = 0;

    for (int i = 0; i < RUN_PARTS; i++)
        n += z->parts[i];
    return n;
}

static void add_tensors(struct fake_source *f, const struct layer_sizes *z)
{
    static const char *const norms[] = {"norm_a", "norm_b", "norm_c"};
    uint32_t q = z->heads * z->head_dim, kv = z->kv_heads * z->head_dim;

    fake_source_open(f);
    f->element = random_element;
    f->seed = z->seed;
    fake_source_add(f, FILE_F32, z->vocab, z->hidden, "model.embed_tokens.weight");
    fake_source_add(f, FILE_F32, z->vocab, z->hidden, "lm_head.weight");
    for (int i = 0; i < 3; i++)
        fake_source_add(f, FILE_F32, z->hidden, 0, LAYER "%s.weight", norms[i]);
    add_linear(f, "pre", z->wide, z->hidden);
    add_mid(f, z);
    add_linear(f, "post", z->hidden, z->deep);
    for (int i = 0; i < RUN_PARTS && z->parts[i] > 0; i++) {
        fake_source_add(f, FILE_F32, z->parts[i], z->hidden, LAYER "part%d.weight", i);
        fake_source_add(f, FILE_F32, z->parts[i], 0, LAYER "part%d.bias", i);
    }
    add_linear(f, "join", z->hidden, all_parts(z));
    add_linear(f, "self_attn.q_proj", q, z->hidden);
    add_linear(f, "self_attn.k_proj", kv, z->hidden);
    add_linear(f, "self_attn.v_proj", kv, z->hidden);
    add_linear(f, "self_attn.o_proj", z->hidden, q);
    fake_source_add(f, FILE_F32, z->head_dim, 0, LAYER "self_attn.q_norm.weight");
    fake_source_add(f, FILE_F32, z->head_dim, 0, LAYER "self_attn.k_norm.weight");
    add_linear(f, "mlp.gate_proj", z->inner, z->hidden);
    add_linear(f, "mlp.up_proj", z->inner, z->hidden);
    add_linear(f, "mlp.down_proj", z->hidden, z->inner);
}

/* Layers ----------------------------------------------------------------------------------- */

int case_nothing(struct builder *b, const struct layer_sizes *z, int x)
{
    (void)b;
    (void)z;
    return x;
}

static int single(struct builder *b, const struct layer_sizes *z, const char *module, uint32_t rows,
    uint32_t cols, int in)
{
    const struct linear_part part = {.module = module, .rows = rows, .unit = 1};
    struct linear_bias bias = {.has = z->bias, .skip = z->skip && b->size > 1};
    int out = linear_layer(b, 0, strrchr(module, '.') + 1, &part, 1, cols, &bias, in);

    if (bias.skipped == NULL || b->status != STATUS_OK)
        return out;
    if (b->buffers[out].place == PLACE_PARTIAL)
        place_whole(b, 0, module, out);
    builder_op(b, (struct op){.kind = OP_ADD_BIAS, .layer = 0, .in = {out, -1}, .out = out,
        .weight = bias.skipped});
    return out;
}

int case_linear(struct builder *b, const struct layer_sizes *z, int x)
{
    int h = single(b, z, LAYER "pre", z->wide, z->hidden, x);

    h = single(b, z, LAYER "mid", z->deep, z->wide, h);
    return single(b, z, LAYER "post", z->hidden, z->deep, h);
}

int case_merged(struct builder *b, const struct layer_sizes *z, int x)
{
    static const char *const names[RUN_PARTS] = {
        LAYER "part0", LAYER "part1", LAYER "part2", LAYER "part3"};
    struct linear_part parts[RUN_PARTS];
    struct linear_bias bias = {.has = z->bias};
    int n = 0, out;

    for (; n < RUN_PARTS && z->parts[n] > 0; n++)
        parts[n] = (struct linear_part){.module = names[n], .rows = z->parts[n], .unit = 1};
    out = linear_layer(b, 0, "merged", parts, n, z->hidden, &bias, x);
    if (b->status == STATUS_OK && b->buffers[out].place == PLACE_SHARD)
        out = place_gather(b, 0, "whole", out);
    return single(b, z, LAYER "join", z->hidden, all_parts(z), out);
}

static int norm(struct builder *b, const struct layer_sizes *z, const char *module, int x, int y,
    const struct weight *bias)
{
    return norm_layer(b, 0, module, z->hidden, (struct norm_input){.x = x, .y = y, .bias = bias});
}

int case_attention(struct builder *b, const struct layer_sizes *z, int x)
{
    const struct attention_shape shape = {.hidden = z->hidden, .heads = z->heads,
        .kv_heads = z->kv_heads, .head_dim = z->head_dim, .bias = z->bias};
    int h = norm(b, z, LAYER "norm_a", x, -1, NULL);
    const struct weight *bias;

    h = attention_layer(b, 0, LAYER "self_attn", &shape, h, &bias);
    return norm(b, z, LAYER "norm_b", x, h, bias);
}

int case_mlp(struct builder *b, const struct layer_sizes *z, int x)
{
    int h = norm(b, z, LAYER "norm_a", x, -1, NULL);

    h = mlp_layer(b, 0, LAYER "mlp", z->hidden, z->inner, h);
    return norm(b, z, LAYER "norm_b", x, h, NULL);
}

int case_decoder(struct builder *b, const struct layer_sizes *z, int x)
{
    int h = case_attention(b, z, x);

    h = mlp_layer(b, 0, LAYER "mlp", z->hidden, z->inner, h);
    return norm(b, z, LAYER "norm_c", x, h, NULL);
}

/* Plans ------------------------------------------------------------------------------------ */

static void open_plan(const struct layer_rule *rules, struct tp_plan **plan)
{
    char json[2048] = "{", path[64];
    int fd = memfd_create("plan.json", MFD_CLOEXEC);
    size_t at = 1;

    for (int i = 0; rules[i].pattern != NULL; i++)
        at += (size_t)snprintf(json + at, sizeof(json) - at, "%s\n\"%s\": \"%s\"", i > 0 ? "," : "",
            rules[i].pattern, rules[i].strategy);
    at += (size_t)snprintf(json + at, sizeof(json) - at, "\n}");
    assert_true(at < sizeof(json));
    assert_int_equal(write(fd, json, at), at);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (tp_plan_open(path, plan) != STATUS_OK)
        fail_msg("%s", log_last_error());
    close(fd);
}

static struct quant_scheme *open_scheme(const struct layer_sizes *z)
{
    static const char config[] = "{\"quantization_config\": {\"quant_method\": "
        "\"compressed-tensors\", \"format\": \"int-quantized\", \"config_groups\": {\"group_0\": {"
        "\"targets\": [\"re:.*mid$\"], \"weights\": {\"num_bits\": 8, \"type\": \"int\", "
        "\"symmetric\": true, \"strategy\": \"channel\", \"dynamic\": false}, "
        "\"input_activations\": {\"num_bits\": 8, \"type\": \"int\", \"symmetric\": true, "
        "\"strategy\": \"token\", \"dynamic\": true}}}}}";
    struct quant_scheme *scheme = NULL;
    struct temp_dir folder;

    if (!z->codes)
        return NULL;
    temp_dir_make(&folder);
    temp_dir_write(&folder, "config.json", config, sizeof(config) - 1);
    if (quant_open(folder.path, NULL, &scheme) != STATUS_OK)
        fail_msg("%s", log_last_error());
    temp_dir_remove(&folder);
    return scheme;
}

/* Ranks ------------------------------------------------------------------------------------ */

struct rank {
    struct device *device;
    struct weight_loader loader;
    struct program program;
    struct builder builder;
    struct executable *executable;
};

static void no_progress(void *context, uint64_t bytes)
{
    (void)context;
    (void)bytes;
}

static void fill_shape(const struct layer_sizes *z, struct program_shape *s)
{
    *s = (struct program_shape){
        .limits = {.max_slots = 2, .max_tokens = 16, .max_outputs = 16, .max_blocks_per_slot = 2,
            .n_blocks = 4, .block_size = 8, .vocab = z->vocab},
        .hidden = z->hidden, .layers = 1, .head_dim = z->head_dim, .vocab = z->vocab,
        .rms_eps = 1e-6f, .rope_scale = 1, .kv_dtype = DTYPE_F32, .compute = COMPUTE_F32};
    for (uint32_t i = 0; i < z->head_dim / 2; i++)
        s->inv_freq[i] = 1 / powf(1000, 2 * (float)i / (float)z->head_dim);
}

static void append_layers(struct builder *b, layer_case *layers, const struct layer_sizes *z)
{
    struct embedding own;
    int x;

    builder_op(b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    x = embedding_layer(b, "model.embed_tokens", z->vocab, z->hidden, &own);
    x = layers(b, z, x);
    if (z->tied)
        head_layer(b, "lm_head", "model.embed_tokens", z->vocab, z->hidden, &own, x);
    else
        head_layer(b, "lm_head", "lm_head", z->vocab, z->hidden, NULL, x);
}

/* INVALID: the layers do not fit together. */
static enum status rank_open(struct rank *r, layer_case *layers, const struct layer_sizes *z,
    struct fake_source *source, const struct quant_scheme *scheme, const struct tp_plan *plan,
    struct comm *comm, int threads)
{
    const struct backend_options options = {.threads = threads, .first_cpu = -1};
    struct program_shape shape;
    enum status s;

    *r = (struct rank){0};
    assert_int_equal(cpu_backend.open(&options, &r->device), STATUS_OK);
    r->loader = (struct weight_loader){.source = &source->source, .scheme = scheme,
        .backend = &cpu_backend, .device = r->device, .compute = COMPUTE_F32,
        .progress = no_progress};
    fill_shape(z, &shape);
    program_init(&r->program, &shape, comm);
    builder_init(&r->builder, &r->program, &r->loader, plan, comm->rank, comm->size);
    append_layers(&r->builder, layers, z);
    s = r->builder.status;
    if (s != STATUS_OK)
        return s;
    if (builder_finish(&r->builder) != STATUS_OK || builder_load(&r->builder) != STATUS_OK ||
        cpu_backend.program_load(r->device, &r->program, &r->executable) != STATUS_OK)
        fail_msg("rank %d of %d: %s", comm->rank, comm->size, log_last_error());
    return STATUS_OK;
}

static void rank_close(struct rank *r)
{
    if (r->executable != NULL)
        cpu_backend.program_unload(r->executable);
    builder_free(&r->builder);
    program_free(&r->program);
    cpu_backend.close(r->device);
}

/* Steps ------------------------------------------------------------------------------------ */

static void add_row(struct plan *p, const struct layer_sizes *z, uint32_t slot, uint32_t n)
{
    plan_rows(p)[p->n_rows++] = (struct plan_row){.slot = slot, .first_token = p->n_tokens,
        .n_tokens = n, .n_outputs = n, .output = OUTPUT_LOGITS};
    for (uint32_t i = 0; i < n; i++)
        plan_tokens(p)[p->n_tokens + i] =
            (int32_t)(mix(z->seed + p->number * 100 + p->n_tokens + i) % z->vocab);
    p->n_tokens += n;
    p->n_outputs += n;
}

static void start_slot(struct plan *p, uint32_t slot)
{
    plan_starts(p)[p->n_starts++] = (struct slot_start){.slot = slot, .sampling = {.top_p = 1}};
    for (uint32_t i = 0; i < 2; i++)
        plan_changes(p)[p->n_changes++] =
            (struct block_change){.slot = slot, .index = i, .block = 3 - 2 * i - slot};
}

static void step_all(struct rank *ranks, int size, struct plan *p, uint32_t vocab, float *logits)
{
    const struct plan_limits *limits = &ranks[0].program.shape.limits;
    struct step_result result;

    plan_pack(p);
    assert_int_equal(plan_check(p, p->bytes, limits, 1), STATUS_OK);
    for (int r = 0; r < size; r++)
        assert_int_equal(cpu_backend.submit(ranks[r].executable, p), STATUS_OK);
    for (int r = 0; r < size; r++) {
        assert_int_equal(cpu_backend.wait(ranks[r].executable, p->number, &result), STATUS_OK);
        if (r == 0)
            memcpy(logits, result.logits, (size_t)p->n_outputs * vocab * sizeof(*logits));
    }
}

static void run_steps(struct rank *ranks, int size, const struct layer_sizes *z, float *logits)
{
    const struct plan_limits *limits = &ranks[0].program.shape.limits;
    struct plan *p = malloc(plan_max_bytes(limits));

    assert_non_null(p);
    plan_begin(p, limits, 1, 0);
    start_slot(p, 0);
    start_slot(p, 1);
    add_row(p, z, 0, PROMPT_0);
    add_row(p, z, 1, PROMPT_1);
    step_all(ranks, size, p, z->vocab, logits);
    plan_begin(p, limits, 1, 1);
    add_row(p, z, 0, 1);
    step_all(ranks, size, p, z->vocab, logits + (size_t)(PROMPT_0 + PROMPT_1) * z->vocab);
    free(p);
}

enum status run_layers(layer_case *layers, const struct layer_sizes *z,
    const struct layer_rule *rules, int size, int threads, float *logits)
{
    struct shared *group = group_open(size, threads);
    struct quant_scheme *scheme = open_scheme(z);
    struct rank ranks[RANKS_MAX];
    struct fake_source source;
    struct tp_plan *plan;
    enum status s = STATUS_OK;

    assert_true(size <= RANKS_MAX && z->vocab <= RUN_VOCAB_MAX);
    group_set_fused(group, (enum group_fused)(z->seed % 3));
    add_tensors(&source, z);
    open_plan(rules, &plan);
    for (int r = 0; r < size; r++) {
        enum status own = rank_open(&ranks[r], layers, z, &source, scheme, plan,
            group_comm(group, r), threads);

        if (r > 0)
            assert_int_equal(own, s);
        s = own;
    }
    if (s == STATUS_OK)
        run_steps(ranks, size, z, logits);
    for (int r = 0; r < size; r++)
        rank_close(&ranks[r]);
    tp_plan_close(plan);
    quant_close(scheme);
    shared_close(group);
    return s;
}
