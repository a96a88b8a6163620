/* synth.c - which tensors there are, and the arithmetic of one element.
 *
 * Counter-based: splitmix64 of (XXH64(name, seed), block number) is the key of a block of 128
 * elements, and a 32-bit mix of that key and the element's place in the block is the element, so
 * nothing depends on what was made before. The sum of the mix's four bytes stands for a normal
 * deviate: exact in float32 up to the final scaling, with no logarithm and no branch. */
#include "checkpoint/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

/* Elements are made by blocks of this many, whichever of them are wanted. */
enum { BLOCK = 128 };

/* Sizes that shapes are made of. */
enum extent_of { NONE, HIDDEN, INTERMEDIATE, QUERY, KEY_VALUE, HEAD, VOCAB };

struct synth_row {
    const char *suffix;
    enum extent_of rows, cols;
    bool bias; /* only with attention_bias */
};

static const struct synth_row layer_rows[] = {
    { "input_layernorm.weight", HIDDEN, NONE, false },
    { "self_attn.q_proj.weight", QUERY, HIDDEN, false },
    { "self_attn.k_proj.weight", KEY_VALUE, HIDDEN, false },
    { "self_attn.v_proj.weight", KEY_VALUE, HIDDEN, false },
    { "self_attn.o_proj.weight", HIDDEN, QUERY, false },
    { "self_attn.q_norm.weight", HEAD, NONE, false },
    { "self_attn.k_norm.weight", HEAD, NONE, false },
    { "post_attention_layernorm.weight", HIDDEN, NONE, false },
    { "mlp.gate_proj.weight", INTERMEDIATE, HIDDEN, false },
    { "mlp.up_proj.weight", INTERMEDIATE, HIDDEN, false },
    { "mlp.down_proj.weight", HIDDEN, INTERMEDIATE, false },
    { "self_attn.q_proj.bias", QUERY, NONE, true },
    { "self_attn.k_proj.bias", KEY_VALUE, NONE, true },
    { "self_attn.v_proj.bias", KEY_VALUE, NONE, true },
    { "self_attn.o_proj.bias", HIDDEN, NONE, true },
};

/* Outside the layers; lm_head comes last, where a tied model stops short of it. */
static const struct synth_row model_rows[] = {
    { "model.embed_tokens.weight", VOCAB, HIDDEN, false },
    { "model.norm.weight", HIDDEN, NONE, false },
    { "lm_head.weight", VOCAB, HIDDEN, false },
};

enum {
    LAYER_ROWS = sizeof(layer_rows) / sizeof(layer_rows[0]),
    BIAS_ROWS = 4, /* the last ones of layer_rows */
    MODEL_ROWS = sizeof(model_rows) / sizeof(model_rows[0]),
};

static const struct {
    const char *name;
    int hidden, intermediate, layers, heads;
    bool tied;
} presets[] = {
    { "0.6b", 1024, 3072, 28, 16, true },  { "1.7b", 2048, 6144, 28, 16, true },
    { "4b", 2560, 9728, 36, 32, true },    { "8b", 4096, 12288, 36, 32, false },
    { "14b", 5120, 17408, 40, 40, false }, { "32b", 5120, 25600, 64, 64, false },
};

struct synth_source {
    struct weight_source base;
    struct model_config cfg;
    uint64_t seed;
    char model[];
};

bool synth_is(const char *model)
{
    return strncmp(model, "synth:", 6) == 0;
}

static enum status preset_config(const char *name, struct model_config *cfg)
{
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++)
        if (strcmp(name, presets[i].name) == 0) {
            *cfg = (struct model_config){
                .architecture = ARCHITECTURE_QWEN3,
                .hidden = presets[i].hidden,
                .intermediate = presets[i].intermediate,
                .layers = presets[i].layers,
                .heads = presets[i].heads,
                .kv_heads = 8,
                .head_dim = 128,
                .vocab = 151936,
                .max_position = 40960,
                .tied = presets[i].tied,
                .rms_eps = 1e-6f,
                .rope_theta = 1e6,
                .rope.attention_factor = 1.0,
                .dtype = DTYPE_BF16,
                .bos = 151643,
                .eos = { 151645 },
                .n_eos = 1,
                .moe.sparse_step = 1,
            };
            return STATUS_OK;
        }
    if (strcmp(name, "30b-a3b") == 0)
        return log_fail(STATUS_INVALID, "synth:%s: Mixture of Experts is not supported by this "
                        "version", name);
    return log_fail(STATUS_INVALID, "synth:%s is unknown: use 0.6b, 1.7b, 4b, 8b, 14b, 32b or the "
                    "path of a config FILE.json", name);
}

static void settle_ids(struct model_config *cfg)
{
    int kept = 0;

    for (int i = 0; i < cfg->n_eos; i++)
        if (cfg->eos[i] < cfg->vocab)
            cfg->eos[kept++] = cfg->eos[i];
    cfg->n_eos = kept;
    if (cfg->n_eos == 0)
        cfg->eos[cfg->n_eos++] = cfg->vocab - 1;
    if (cfg->bos < 0 || cfg->bos >= cfg->vocab)
        cfg->bos = cfg->vocab > 1 ? cfg->vocab - 2 : 0;
}

enum status synth_config(const char *like, struct model_config *cfg)
{
    const char *name = synth_is(like) ? like + 6 : like;
    size_t n = strlen(name);
    enum status s;

    if (n <= 5 || strcmp(name + n - 5, ".json") != 0)
        return preset_config(name, cfg);
    s = config_read_file(name, cfg);
    if (s == STATUS_OK)
        settle_ids(cfg);
    return s;
}

static uint64_t extent(const struct model_config *cfg, enum extent_of e)
{
    switch (e) {
    case NONE: return 0;
    case HIDDEN: return (uint64_t)cfg->hidden;
    case INTERMEDIATE: return (uint64_t)cfg->intermediate;
    case QUERY: return (uint64_t)cfg->heads * (uint64_t)cfg->head_dim;
    case KEY_VALUE: return (uint64_t)cfg->kv_heads * (uint64_t)cfg->head_dim;
    case HEAD: return (uint64_t)cfg->head_dim;
    case VOCAB: return (uint64_t)cfg->vocab;
    }
    return 0;
}

static void fill_view(const struct model_config *cfg, const struct synth_row *row,
                      const char *name, struct tensor_view *view)
{
    uint64_t rows = extent(cfg, row->rows), cols = extent(cfg, row->cols);

    *view = (struct tensor_view){
        .name = name,
        .dtype = file_dtype_of(cfg->dtype),
        .ndim = cols > 0 ? 2 : 1,
        .shape = { rows, cols },
        .bytes = rows * (cols > 0 ? cols : 1) * dtype_bytes(cfg->dtype),
    };
}

static uint64_t rows_per_layer(const struct model_config *cfg)
{
    return cfg->attention_bias ? LAYER_ROWS : LAYER_ROWS - BIAS_ROWS;
}

static uint64_t model_rows_of(const struct model_config *cfg)
{
    return cfg->tied ? MODEL_ROWS - 1 : MODEL_ROWS;
}

uint64_t synth_tensor_count(const struct model_config *cfg)
{
    return model_rows_of(cfg) + (uint64_t)cfg->layers * rows_per_layer(cfg);
}

void synth_tensor_at(const struct model_config *cfg, uint64_t i, char *name,
                     struct tensor_view *view)
{
    const struct synth_row *row;

    if (i < model_rows_of(cfg)) {
        row = &model_rows[i];
        snprintf(name, SYNTH_NAME_BYTES, "%s", row->suffix);
    } else {
        i -= model_rows_of(cfg);
        row = &layer_rows[i % rows_per_layer(cfg)];
        snprintf(name, SYNTH_NAME_BYTES, "model.layers.%llu.%s",
                 (unsigned long long)(i / rows_per_layer(cfg)), row->suffix);
    }
    fill_view(cfg, row, name, view);
}

/* The row of a name, NULL for a name that such a model does not have. */
static const struct synth_row *find_row(const struct model_config *cfg, const char *name)
{
    char canonical[32];
    int layer, used = 0;

    for (uint64_t i = 0; i < model_rows_of(cfg); i++)
        if (strcmp(name, model_rows[i].suffix) == 0)
            return &model_rows[i];
    if (sscanf(name, "model.layers.%9d.%n", &layer, &used) != 1 || used == 0 || layer < 0 ||
        layer >= cfg->layers)
        return NULL;
    /* Not "+1" nor "01": a name has one spelling. */
    snprintf(canonical, sizeof(canonical), "model.layers.%d.", layer);
    if (strncmp(name, canonical, strlen(canonical)) != 0)
        return NULL;
    for (uint64_t i = 0; i < rows_per_layer(cfg); i++)
        if (strcmp(name + used, layer_rows[i].suffix) == 0)
            return &layer_rows[i];
    return NULL;
}

static inline uint64_t splitmix64(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* All of one block: out [BLOCK] = mean + scale * z. The trip count is a constant and the lanes are
 * 32 bits wide, so that every compiler at -O2 makes vector code of it. */
static inline __attribute__((always_inline)) void make_block(uint64_t key, uint64_t block,
                                                            float mean, float scale, float *out)
{
    uint64_t block_key = splitmix64(key + (block + 1) * 0x9e3779b97f4a7c15u);
    uint32_t low = (uint32_t)block_key, high = (uint32_t)(block_key >> 32);
    /* Four uniform numbers of 0..255: this mean, and a variance of 65535 / 3. */
    const float centre = 510.0f, unit = scale * 0x1.bb688cp-8f;

    for (uint32_t i = 0; i < BLOCK; i++) {
        uint32_t x = i * 0x9e3779b9u + low;

        x = (x ^ x >> 16) * 0x7feb352du;
        x = ((x ^ x >> 15) + high) * 0x846ca68bu;
        x ^= x >> 16;
        x = (x & 0x00ff00ffu) + (x >> 8 & 0x00ff00ffu);
        x = (x & 0xffffu) + (x >> 16);
        out[i] = mean + ((float)(int32_t)x - centre) * unit;
    }
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

static void distribution(const struct tensor_view *view, float *mean, float *scale)
{
    *mean = 0.0f;
    if (view->ndim == 2)
        *scale = 1.0f / sqrtf((float)view->shape[1]);
    else if (ends_with(view->name, ".bias"))
        *scale = 0.02f;
    else {
        *mean = 1.0f;
        *scale = 0.1f;
    }
}

/* Rounds values [BLOCK] to the stored type, into dst [BLOCK] of it. */
static inline __attribute__((always_inline)) void store_block(const float *values,
                                                             enum file_dtype stored, void *dst)
{
    uint16_t *half = dst;

    if (stored == FILE_F32)
        memcpy(dst, values, BLOCK * sizeof(float));
    else if (stored == FILE_BF16)
        for (int i = 0; i < BLOCK; i++)
            half[i] = f32_to_bf16(values[i]);
    else
        for (int i = 0; i < BLOCK; i++)
            half[i] = f32_to_f16(values[i]);
}

/* Block number `block` of a tensor, stored; compiled once per instruction set, same bits. */
struct block_of {
    uint64_t key;
    float mean, scale;
    enum file_dtype stored;
};

static void fill_block(const struct block_of *t, uint64_t block, void *dst)
{
    float values[BLOCK];

    make_block(t->key, block, t->mean, t->scale, values);
    store_block(values, t->stored, dst);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void fill_block_avx2(const struct block_of *t,
                                                            uint64_t block, void *dst)
{
    float values[BLOCK];

    make_block(t->key, block, t->mean, t->scale, values);
    store_block(values, t->stored, dst);
}
#endif

typedef void block_filler(const struct block_of *t, uint64_t block, void *dst);

static block_filler *choose_filler(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return fill_block_avx2;
#endif
    return fill_block;
}

void synth_fill(uint64_t seed, const struct tensor_view *view, uint64_t first, uint64_t n,
                void *dst)
{
    struct block_of t = {
        .key = XXH64(view->name, strlen(view->name), seed),
        .stored = view->dtype,
    };
    block_filler *fill = choose_filler();
    size_t size = file_dtype_bits(view->dtype) / 8;
    float stored[BLOCK]; /* large enough for any stored type */
    char *out = dst;

    distribution(view, &t.mean, &t.scale);
    while (n > 0) {
        uint64_t skip = first % BLOCK, take = BLOCK - skip < n ? BLOCK - skip : n;

        fill(&t, first / BLOCK, stored);
        memcpy(out, (char *)stored + skip * size, take * size);
        out += take * size;
        first += take;
        n -= take;
    }
}

static const struct synth_source *synth_of(const struct weight_source *src)
{
    return (const struct synth_source *)src;
}

static bool synth_find(const struct weight_source *src, const char *name,
                       struct source_tensor *out)
{
    const struct model_config *cfg = &synth_of(src)->cfg;
    const struct synth_row *row = find_row(cfg, name);

    if (row == NULL)
        return false;
    fill_view(cfg, row, name, &out->view);
    out->file = src->model;
    out->other = NULL;
    return true;
}

static void make_run(const struct synth_source *synth, const struct tensor_view *view,
                     uint64_t first, uint64_t n, enum dtype as, char *dst)
{
    float values[8 * BLOCK]; /* large enough for any stored type */

    if (as == SOURCE_AS_STORED || view->dtype == file_dtype_of(as)) {
        synth_fill(synth->seed, view, first, n, dst);
        return;
    }
    while (n > 0) {
        uint64_t most = 8 * BLOCK - first % BLOCK, take = most < n ? most : n;

        synth_fill(synth->seed, view, first, take, values);
        source_convert(synth->cfg.dtype, values, take, as, dst);
        dst += take * dtype_bytes(as);
        first += take;
        n -= take;
    }
}

static enum status synth_read(const struct weight_source *src, const struct source_tensor *t,
                              const struct source_runs *runs, enum dtype as, void *dst)
{
    size_t size = as == SOURCE_AS_STORED ? file_dtype_bits(t->view.dtype) / 8 : dtype_bytes(as);

    for (uint64_t i = 0; i < runs->rows; i++)
        make_run(synth_of(src), &t->view, runs->first + i * runs->stride, runs->n, as,
                 (char *)dst + i * runs->n * size);
    return STATUS_OK;
}

static void synth_close(struct weight_source *src)
{
    free(src);
}

static const struct source_ops synth_ops = {
    .find = synth_find,
    .read = synth_read,
    .close = synth_close,
};

enum status synth_open(const char *model, uint64_t seed, const struct model_config *cfg,
                       struct weight_source **out)
{
    struct synth_source *s = malloc(sizeof(*s) + strlen(model) + 1);

    if (s == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory", model);
    *s = (struct synth_source){ .base.ops = &synth_ops, .cfg = *cfg, .seed = seed };
    strcpy(s->model, model);
    s->base.model = s->model;
    *out = &s->base;
    return STATUS_OK;
}
