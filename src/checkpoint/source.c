/* source.c - checks that are the same for every source.
 *
 * An implementation finds a tensor and reads runs of its elements; shapes, types, ranges and the
 * cutting of rows and columns into runs are done here once. Whole rows are one run. */
#include "checkpoint/source.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/synth.h"
#include "quern/log.h"

static enum status find_tensor(const struct weight_source *src, const char *name,
                               struct source_tensor *t)
{
    char why[384] = "";

    if (!src->ops->find(src, name, t)) {
        if (src->ops->explain != NULL)
            src->ops->explain(src, name, why, sizeof(why));
        return log_fail(STATUS_INVALID, "%s: tensor %s is missing%s", src->model, name, why);
    }
    if (t->other != NULL)
        return log_fail(STATUS_INVALID, "%s: tensor %s is in both %s and %s, and they differ: keep "
                        "the one that is meant", src->model, name, t->file, t->other);
    return STATUS_OK;
}

static enum status float_dtype(const struct source_tensor *t, enum dtype *stored)
{
    if (file_dtype_float(t->view.dtype, stored) == STATUS_OK)
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s: tensor %s is stored as %s, weights must be F32, F16 or "
                    "BF16", t->file, t->view.name, file_dtype_name(t->view.dtype));
}

bool source_has(const struct weight_source *src, const char *name)
{
    struct source_tensor t;

    return src->ops->find(src, name, &t);
}

bool source_find(const struct weight_source *src, const char *name, struct source_tensor *out)
{
    return src->ops->find(src, name, out);
}

/* Finds tensor `name` and checks its shape. */
static enum status check_shape(const struct weight_source *src, const char *name, uint64_t rows,
                               uint64_t cols, struct source_tensor *t)
{
    const struct tensor_view want = { .ndim = cols > 0 ? 2 : 1, .shape = { rows, cols } };
    char found_text[128], want_text[128];
    enum status s = find_tensor(src, name, t);

    if (s != STATUS_OK)
        return s;
    if (t->view.ndim != want.ndim || memcmp(t->view.shape, want.shape, sizeof(want.shape)) != 0)
        return log_fail(STATUS_INVALID, "%s: tensor %s has shape %s, this model needs %s", t->file,
                        name, tensor_shape_text(&t->view, found_text, sizeof(found_text)),
                        tensor_shape_text(&want, want_text, sizeof(want_text)));
    return STATUS_OK;
}

enum status source_check(const struct weight_source *src, const char *name, uint64_t rows,
                         uint64_t cols, enum dtype *stored)
{
    struct source_tensor t;
    enum status s = check_shape(src, name, rows, cols, &t);

    return s == STATUS_OK ? float_dtype(&t, stored) : s;
}

/* "I8 or F8_E4M3" */
static const char *types_text(unsigned types, char *out, size_t out_bytes)
{
    size_t used = 0;

    out[0] = '\0';
    for (int t = 0; t < FILE_DTYPE_COUNT; t++)
        if (types & FILE_TYPE(t) && used < out_bytes)
            used += (size_t)snprintf(out + used, out_bytes - used, "%s%s", used > 0 ? " or " : "",
                                     file_dtype_name((enum file_dtype)t));
    return out;
}

enum status source_check_stored(const struct weight_source *src, const char *name, unsigned types,
                                uint64_t rows, uint64_t cols, enum file_dtype *stored)
{
    struct source_tensor t;
    char text[96];
    enum status s = check_shape(src, name, rows, cols, &t);

    if (s != STATUS_OK)
        return s;
    if (!(types & FILE_TYPE(t.view.dtype)))
        return log_fail(STATUS_INVALID, "%s: tensor %s is stored as %s, it must be %s", t.file,
                        name, file_dtype_name(t.view.dtype),
                        types_text(types, text, sizeof(text)));
    *stored = t.view.dtype;
    return STATUS_OK;
}

static bool range_within(uint64_t first, uint64_t n, uint64_t all)
{
    return first <= all && n <= all - first;
}

/* Rows x columns of a tensor, to be read run by run. */
struct slice {
    struct source_tensor t;
    uint64_t row, n_rows, col, n_cols;
    uint64_t cols; /* of the whole tensor */
};

static enum status check_slice(const char *name, struct slice *slice)
{
    const struct tensor_view *view = &slice->t.view;
    uint64_t rows = view->ndim > 0 ? view->shape[0] : 1;

    slice->cols = view->ndim == 2 ? view->shape[1] : 1;
    if (view->ndim < 2 && slice->n_cols == 0)
        slice->n_cols = 1;
    if (view->ndim > 2 || !range_within(slice->row, slice->n_rows, rows) ||
        !range_within(slice->col, slice->n_cols, slice->cols))
        return log_fail(STATUS_INTERNAL, "tensor %s: slice [%llu+%llu, %llu+%llu] is not within "
                        "it", name, (unsigned long long)slice->row,
                        (unsigned long long)slice->n_rows, (unsigned long long)slice->col,
                        (unsigned long long)slice->n_cols);
    return STATUS_OK;
}

static enum status read_slice(const struct weight_source *src, const struct slice *s,
                              enum dtype as, void *dst)
{
    bool whole = s->n_cols == s->cols;
    const struct source_runs runs = {
        .first = s->row * s->cols + s->col,
        .n = whole ? s->n_rows * s->cols : s->n_cols,
        .stride = s->cols,
        .rows = whole ? 1 : s->n_rows,
    };

    return runs.n > 0 && s->n_rows > 0 ? src->ops->read(src, &s->t, &runs, as, dst) : STATUS_OK;
}

enum status source_read(const struct weight_source *src, const char *name, uint64_t row,
                        uint64_t n_rows, uint64_t col, uint64_t n_cols, enum dtype as, void *dst)
{
    struct slice slice = { .row = row, .n_rows = n_rows, .col = col, .n_cols = n_cols };
    enum dtype stored;
    enum status s = find_tensor(src, name, &slice.t);

    if (s == STATUS_OK)
        s = float_dtype(&slice.t, &stored);
    if (s == STATUS_OK && as != DTYPE_F32 && as != DTYPE_BF16)
        s = log_fail(STATUS_INTERNAL, "tensor %s: weights are read as F32 or BF16", name);
    if (s == STATUS_OK)
        s = check_slice(name, &slice);
    return s == STATUS_OK ? read_slice(src, &slice, as, dst) : s;
}

enum status source_read_raw(const struct weight_source *src, const char *name, uint64_t row,
                            uint64_t n_rows, uint64_t col, uint64_t n_cols, void *dst)
{
    struct slice slice = { .row = row, .n_rows = n_rows, .col = col, .n_cols = n_cols };
    enum status s = find_tensor(src, name, &slice.t);

    if (s == STATUS_OK && file_dtype_bits(slice.t.view.dtype) % 8 != 0)
        s = log_fail(STATUS_INTERNAL, "tensor %s: elements of %s are not whole bytes", name,
                     file_dtype_name(slice.t.view.dtype));
    if (s == STATUS_OK)
        s = check_slice(name, &slice);
    return s == STATUS_OK ? read_slice(src, &slice, SOURCE_AS_STORED, dst) : s;
}

enum status source_read_scalar(const struct weight_source *src, const char *name, float *out)
{
    const struct source_runs one = { .n = 1, .rows = 1 };
    struct source_tensor t;
    enum dtype stored;
    uint64_t count = 1;
    char text[128];
    enum status s = find_tensor(src, name, &t);

    if (s == STATUS_OK)
        s = float_dtype(&t, &stored);
    if (s != STATUS_OK)
        return s;
    for (int i = 0; i < t.view.ndim; i++)
        count *= t.view.shape[i];
    if (count != 1)
        return log_fail(STATUS_INVALID, "%s: tensor %s has shape %s, it must have one element",
                        t.file, name, tensor_shape_text(&t.view, text, sizeof(text)));
    return src->ops->read(src, &t, &one, DTYPE_F32, out);
}

enum status source_head(const struct weight_source *src, const struct model_config *cfg,
                        enum head_kind *out)
{
    struct source_tensor embedding, head;
    bool has_embedding = src->ops->find(src, "model.embed_tokens.weight", &embedding);
    bool has_head = src->ops->find(src, "lm_head.weight", &head), same = false;
    enum status s = STATUS_OK;

    if (cfg->tied && has_head && has_embedding)
        s = tensor_same(&embedding.view, &head.view, &same);
    if (s != STATUS_OK)
        return s;
    if (cfg->tied && has_head && has_embedding && !same)
        log_warn("%s: tie_word_embeddings is true, but lm_head.weight differs from the "
                 "embedding: it is used as the head", src->model);
    if (!cfg->tied)
        *out = HEAD_UNTIED;
    else if (!has_head || same)
        *out = HEAD_TIED;
    else
        *out = has_embedding ? HEAD_UNTIED : HEAD_ONLY;
    return STATUS_OK;
}

static uint16_t load_u16(const char *p)
{
    uint16_t x;

    memcpy(&x, p, sizeof(x));
    return x;
}

static float load_f32(const char *p)
{
    float x;

    memcpy(&x, p, sizeof(x));
    return x;
}

static void convert_to_f32(enum dtype stored, const char *src, uint64_t n, float *dst)
{
    if (stored == DTYPE_F32)
        memcpy(dst, src, n * sizeof(*dst));
    else if (stored == DTYPE_BF16)
        for (uint64_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(load_u16(src + 2 * i));
    else
        for (uint64_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(load_u16(src + 2 * i));
}

static void convert_to_bf16(enum dtype stored, const char *src, uint64_t n, uint16_t *dst)
{
    if (stored == DTYPE_BF16)
        memcpy(dst, src, n * sizeof(*dst));
    else if (stored == DTYPE_F32)
        for (uint64_t i = 0; i < n; i++)
            dst[i] = f32_to_bf16(load_f32(src + 4 * i));
    else
        for (uint64_t i = 0; i < n; i++)
            dst[i] = f32_to_bf16(f16_to_f32(load_u16(src + 2 * i)));
}

void source_convert(enum dtype stored, const void *src, uint64_t n, enum dtype as, void *dst)
{
    if (as == DTYPE_F32)
        convert_to_f32(stored, src, n, dst);
    else
        convert_to_bf16(stored, src, n, dst);
}

enum status source_config(const char *model, struct model_config *cfg)
{
    if (synth_is(model))
        return synth_config(model, cfg);
    return config_read(model, cfg);
}

enum status source_open(const char *model, uint64_t seed, const struct model_config *cfg,
                        struct weight_source **out)
{
    if (synth_is(model))
        return synth_open(model, seed, cfg, out);
    return source_checkpoint_open(model, out);
}

void source_close(struct weight_source *src)
{
    if (src != NULL)
        src->ops->close(src);
}
