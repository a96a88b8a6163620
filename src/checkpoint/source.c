/* source.c - checks that are the same for every source, and the source that is a checkpoint.
 *
 * An implementation finds a tensor and reads a run of its elements; shapes, types, ranges and the
 * cutting of rows and columns into runs are done here once. Whole rows are one run. */
#include "checkpoint/source.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/synth.h"
#include "quern/log.h"

/* Runs from this size on are asked for ahead, instead of page by page. */
enum { READ_AHEAD_BYTES = 1 << 18 };

static enum status find_tensor(const struct weight_source *src, const char *name,
                               struct source_tensor *t)
{
    if (src->ops->find(src, name, t))
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s: tensor %s is missing", src->model, name);
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

enum status source_check(const struct weight_source *src, const char *name, uint64_t rows,
                         uint64_t cols, enum dtype *stored)
{
    const struct tensor_view want = { .ndim = cols > 0 ? 2 : 1, .shape = { rows, cols } };
    struct source_tensor t;
    char found_text[128], want_text[128];
    enum status s = find_tensor(src, name, &t);

    if (s != STATUS_OK)
        return s;
    if (t.view.ndim != want.ndim || memcmp(t.view.shape, want.shape, sizeof(want.shape)) != 0)
        return log_fail(STATUS_INVALID, "%s: tensor %s has shape %s, this model needs %s", t.file,
                        name, tensor_shape_text(&t.view, found_text, sizeof(found_text)),
                        tensor_shape_text(&want, want_text, sizeof(want_text)));
    return float_dtype(&t, stored);
}

static bool range_within(uint64_t first, uint64_t n, uint64_t all)
{
    return first <= all && n <= all - first;
}

enum status source_read(const struct weight_source *src, const char *name, uint64_t row,
                        uint64_t n_rows, uint64_t col, uint64_t n_cols, enum dtype as, void *dst)
{
    struct source_tensor t;
    enum dtype stored;
    uint64_t rows, cols;
    enum status s = find_tensor(src, name, &t);

    if (s == STATUS_OK)
        s = float_dtype(&t, &stored);
    if (s != STATUS_OK)
        return s;
    rows = t.view.ndim > 0 ? t.view.shape[0] : 1;
    cols = t.view.ndim == 2 ? t.view.shape[1] : 1;
    if (t.view.ndim == 1 && n_cols == 0)
        n_cols = 1;
    if (t.view.ndim < 1 || t.view.ndim > 2 || !range_within(row, n_rows, rows) ||
        !range_within(col, n_cols, cols) || (as != DTYPE_F32 && as != DTYPE_BF16))
        return log_fail(STATUS_INTERNAL, "tensor %s: slice [%llu+%llu, %llu+%llu] is not within "
                        "it", name, (unsigned long long)row, (unsigned long long)n_rows,
                        (unsigned long long)col, (unsigned long long)n_cols);
    if (n_cols == cols) {
        src->ops->read(src, &t, row * cols, n_rows * cols, as, dst);
        return STATUS_OK;
    }
    for (uint64_t r = 0; r < n_rows; r++)
        src->ops->read(src, &t, (row + r) * cols + col, n_cols, as,
                       (char *)dst + r * n_cols * dtype_bytes(as));
    return STATUS_OK;
}

static bool same_bytes(const struct tensor_view *a, const struct tensor_view *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, sizeof(a->shape)) == 0 && a->data != NULL &&
           b->data != NULL && memcmp(a->data, b->data, a->bytes) == 0;
}

enum status source_head(const struct weight_source *src, const struct model_config *cfg,
                        enum head_kind *out)
{
    struct source_tensor embedding, head;
    bool has_embedding = src->ops->find(src, "model.embed_tokens.weight", &embedding);
    bool has_head = src->ops->find(src, "lm_head.weight", &head);

    if (!cfg->tied) {
        *out = HEAD_UNTIED;
    } else if (!has_head) {
        *out = HEAD_TIED;
    } else if (!has_embedding) {
        *out = HEAD_ONLY;
    } else if (same_bytes(&embedding.view, &head.view)) {
        *out = HEAD_TIED;
    } else {
        log_warn("%s: tie_word_embeddings is true, but lm_head.weight differs from the "
                 "embedding: it is used as the head", src->model);
        *out = HEAD_UNTIED;
    }
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

/* The source that is a checkpoint. ----------------------------------------------------------- */

struct checkpoint_source {
    struct weight_source base;
    struct checkpoint *checkpoint;
};

static const struct checkpoint *checkpoint_of(const struct weight_source *src)
{
    return ((const struct checkpoint_source *)src)->checkpoint;
}

static bool checkpoint_source_find(const struct weight_source *src, const char *name,
                                   struct source_tensor *out)
{
    const struct tensor_view *view = checkpoint_find(checkpoint_of(src), name);

    if (view == NULL)
        return false;
    out->view = *view;
    out->file = checkpoint_file(checkpoint_of(src), view);
    return true;
}

static void read_ahead(const char *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data & ~(page - 1);

    /* A hint: refused by some file systems, and then the faults do the work. */
    madvise((void *)begin, (uintptr_t)data + bytes - begin, MADV_WILLNEED);
}

static void checkpoint_source_read(const struct weight_source *src, const struct source_tensor *t,
                                   uint64_t first, uint64_t n, enum dtype as, void *dst)
{
    enum dtype stored = DTYPE_F32;
    const char *data;

    (void)src;
    (void)file_dtype_float(t->view.dtype, &stored); /* source_read() has checked it */
    data = (const char *)t->view.data + first * dtype_bytes(stored);
    if (n * dtype_bytes(stored) >= READ_AHEAD_BYTES)
        read_ahead(data, n * dtype_bytes(stored));
    source_convert(stored, data, n, as, dst);
}

static void checkpoint_source_close(struct weight_source *src)
{
    struct checkpoint_source *c = (struct checkpoint_source *)src;

    checkpoint_close(c->checkpoint);
    free(c);
}

static const struct source_ops checkpoint_ops = {
    .find = checkpoint_source_find,
    .read = checkpoint_source_read,
    .close = checkpoint_source_close,
};

static enum status open_checkpoint(const char *dir, struct weight_source **out)
{
    struct checkpoint_source *c = calloc(1, sizeof(*c));
    enum status s;

    if (c == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory", dir);
    s = checkpoint_open(dir, &c->checkpoint);
    if (s != STATUS_OK) {
        free(c);
        return s;
    }
    c->base.ops = &checkpoint_ops;
    c->base.model = checkpoint_dir(c->checkpoint);
    *out = &c->base;
    return STATUS_OK;
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
    return open_checkpoint(model, out);
}

void source_close(struct weight_source *src)
{
    if (src != NULL)
        src->ops->close(src);
}
