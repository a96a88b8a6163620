/* quant_support.c - a backend that is an array, and a model that is only its weights.
 *
 * Codes are kept one to a byte in the order they are packed in, so that a test
 * sees what a method loaded and nothing of how a device would lay it out. */
#include "tests/quant/quant_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_header.h"

static size_t bytes_held;

static void *fake_alloc(struct device *d, size_t bytes)
{
    (void)d;
    bytes_held += bytes;
    return calloc(1, bytes ? bytes : 1);
}

static void fake_release(struct device *d, void *mem, size_t bytes)
{
    (void)d;
    bytes_held -= bytes;
    free(mem);
}

static size_t element_bytes(enum weight_format format)
{
    return format == WEIGHT_F32 ? 4 : format == WEIGHT_BF16 ? 2 : 1;
}

static size_t fake_weight_bytes(struct device *d, enum weight_format format, uint32_t n, uint32_t k)
{
    (void)d;
    return (size_t)n * k * element_bytes(format);
}

static void fake_pack(struct device *d, struct weight *w, uint32_t n0, uint32_t rows,
    const void *src)
{
    size_t row = w->k * element_bytes(w->format);

    (void)d;
    assert_int_equal(n0 % 16, 0);
    assert_true(rows % 16 == 0 || n0 + rows == w->n);
    memcpy((char *)w->data + n0 * row, src, rows * row);
}

static void fake_vector(struct device *d, float *dst, const float *src, uint32_t n)
{
    (void)d;
    memcpy(dst, src, n * sizeof(float));
}

static void fake_rows(struct device *d, void *dst, size_t dst_stride, const void *src,
    size_t src_stride, size_t bytes, size_t rows)
{
    (void)d;
    for (size_t i = 0; i < rows; i++)
        memcpy((char *)dst + i * dst_stride, (const char *)src + i * src_stride, bytes);
}

static const struct backend fake_backend = {
    .name = "fake",
    .alloc = fake_alloc,
    .release = fake_release,
    .weight_bytes = fake_weight_bytes,
    .weight_pack = fake_pack,
    .vector_write = fake_vector,
    .write_rows = fake_rows,
};

static void no_progress(void *context, uint64_t bytes)
{
    (void)context;
    (void)bytes;
}

size_t backend_bytes_held(void)
{
    return bytes_held;
}

const char *golden_path(char out[1024], const char *name)
{
    const char *data = getenv("QUERN_TEST_DATA");

    snprintf(out, 1024, "%s/golden/%s", data != NULL ? data : "tests", name);
    return out;
}

enum status quant_model_open(struct quant_model *m, const char *dir,
    const struct quant_options *options)
{
    enum status s;

    *m = (struct quant_model){.loader = {.backend = &fake_backend, .compute = COMPUTE_F32,
        .progress = no_progress}};
    snprintf(m->dir, sizeof(m->dir), "%s", dir);
    s = quant_open(m->dir, options, &m->scheme);
    if (s != STATUS_OK)
        return s;
    assert_int_equal(source_config(m->dir, &m->cfg), STATUS_OK);
    assert_int_equal(source_open(m->dir, 1, &m->cfg, &m->source), STATUS_OK);
    m->loader.source = m->source;
    m->loader.scheme = m->scheme;
    m->loader.tied = m->cfg.tied;
    return STATUS_OK;
}

void quant_model_close(struct quant_model *m)
{
    free(m->loader.staging);
    source_close(m->source);
    quant_close(m->scheme);
}

static float value_at(const struct weight *w, uint32_t n, uint32_t k)
{
    const struct weight_quant *q = &w->quant;
    size_t at = (size_t)n * w->k + k;
    uint32_t g;
    float code = 0, zero = w->format == WEIGHT_INT4 ? 8 : 0;

    if (w->format == WEIGHT_F32)
        return ((const float *)w->data)[at];
    if (w->format == WEIGHT_BF16)
        return bf16_to_f32(((const uint16_t *)w->data)[at]);
    g = q->group_of != NULL ? q->group_of[k] : (q->first + k) / q->group;
    assert_true(g < q->groups);
    if (w->format == WEIGHT_FP8)
        code = e4m3_to_f32(((const uint8_t *)w->data)[at]);
    else if (w->format == WEIGHT_INT8)
        code = ((const int8_t *)w->data)[at];
    else
        code = ((const uint8_t *)w->data)[at];
    assert_true(w->format != WEIGHT_INT4 || code < 16);
    if (q->zero != NULL)
        zero = q->zero[(size_t)g * w->n + n];
    return (code - zero) * q->scale[(size_t)g * w->n + n];
}

enum status loaded_slice(struct quant_model *m, const struct weight_slice *slice,
    struct loaded *out)
{
    const struct quant_method *method = quant_method_of(&m->loader, slice->parts[0].module);
    size_t before = bytes_held;
    enum status s;

    *out = (struct loaded){.weight.name = slice->parts[0].module};
    s = method->measure(&m->loader, slice, &out->plan);
    if (s != STATUS_OK)
        return s;
    s = method->load(&m->loader, slice, &out->weight);
    if (s != STATUS_OK) {
        quant_release(&m->loader, &out->weight);
        assert_int_equal(bytes_held, before);
        return s;
    }
    assert_int_equal(bytes_held - before, out->plan.bytes);
    assert_int_equal(out->weight.n, out->plan.weight.n);
    assert_int_equal(out->weight.k, out->plan.weight.k);
    assert_int_equal(out->weight.format, out->plan.weight.format);
    out->value = malloc(((size_t)out->weight.n * out->weight.k + 1) * sizeof(float));
    for (uint32_t n = 0; n < out->weight.n; n++)
        for (uint32_t k = 0; k < out->weight.k; k++)
            out->value[(size_t)n * out->weight.k + k] = value_at(&out->weight, n, k);
    return STATUS_OK;
}

enum status loaded_part(struct quant_model *m, const char *module, uint32_t all_rows,
    uint32_t all_cols, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
    struct loaded *out)
{
    const struct weight_part part = {.module = module, .all_rows = all_rows, .all_cols = all_cols,
        .row = row, .rows = rows};

    return loaded_slice(m, &(struct weight_slice){.parts = &part, .n_parts = 1, .col = col,
        .cols = cols}, out);
}

void loaded_free(struct quant_model *m, struct loaded *x)
{
    quant_release(&m->loader, &x->weight);
    free(x->value);
    x->value = NULL;
}

void layer_modules(const struct model_config *cfg, int layer,
    struct module_shape out[LAYER_MODULES])
{
    uint32_t hidden = (uint32_t)cfg->hidden, inner = (uint32_t)cfg->intermediate;
    uint32_t q = (uint32_t)(cfg->heads * cfg->head_dim);
    uint32_t kv = (uint32_t)(cfg->kv_heads * cfg->head_dim);
    const struct {
        const char *name;
        uint32_t rows, cols;
    } rows[LAYER_MODULES] = {
        {"self_attn.q_proj", q, hidden}, {"self_attn.k_proj", kv, hidden},
        {"self_attn.v_proj", kv, hidden}, {"self_attn.o_proj", hidden, q},
        {"mlp.gate_proj", inner, hidden}, {"mlp.up_proj", inner, hidden},
        {"mlp.down_proj", hidden, inner},
    };

    for (int i = 0; i < LAYER_MODULES; i++) {
        snprintf(out[i].name, sizeof(out[i].name), "model.layers.%d.%s", layer, rows[i].name);
        out[i].rows = rows[i].rows;
        out[i].cols = rows[i].cols;
    }
}

static FILE *open_in(const char *dir, const char *name)
{
    char path[1200];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    return f;
}

static void write_config(const char *dir, const char *quantization)
{
    FILE *f = open_in(dir, "config.json");

    fprintf(f, "{\"model_type\": \"qwen3\", \"hidden_size\": 16, \"intermediate_size\": 32, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
        "\"head_dim\": 8, \"vocab_size\": 16, \"tie_word_embeddings\": true");
    if (quantization != NULL)
        fprintf(f, ", \"quantization_config\": %s", quantization);
    fprintf(f, "}\n");
    fclose(f);
}

static const struct made_tensor *made_of(const struct made_tensor *tensors, const char *name)
{
    while (strcmp(tensors->name, name) != 0)
        tensors++;
    return tensors;
}

void write_checkpoint(const char *dir, const char *quantization, const struct made_tensor *tensors,
    size_t count)
{
    struct tensor_view *views = calloc(count + 1, sizeof(*views));
    FILE *f = open_in(dir, "model.safetensors");
    char *header;
    size_t header_bytes;

    for (size_t i = 0; i < count; i++)
        views[i] = (struct tensor_view){.name = tensors[i].name, .dtype = tensors[i].dtype,
            .ndim = tensors[i].ndim, .shape = {tensors[i].shape[0], tensors[i].shape[1]}};
    assert_int_equal(safetensors_layout(views, count, &header, &header_bytes), STATUS_OK);
    fwrite(header, 1, header_bytes, f);
    for (size_t i = 0; i < count; i++) {
        const void *data = made_of(tensors, views[i].name)->data;

        for (size_t b = 0; b < views[i].bytes; b++)
            fputc(data != NULL ? ((const unsigned char *)data)[b] : 0, f);
    }
    fclose(f);
    free(header);
    free(views);
    write_config(dir, quantization);
}
