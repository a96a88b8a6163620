/* source.c - checks that are the same for every source, and the source that is a checkpoint.
 *
 * An implementation finds a tensor and reads a run of its elements; shapes, types, ranges and the
 * cutting of rows and columns into runs are done here once. Whole rows are one run.
 *
 * A checkpoint is mapped, and pages once read would stay in the process's memory beside the
 * weights that were made of them. So what has been read is let go of on the way: loading a shard
 * takes the shard and a few megabytes, however large the file. */
#include "checkpoint/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/synth.h"
#include "quern/log.h"

/* Runs from this size on are asked for ahead, instead of page by page. */
enum { READ_AHEAD_BYTES = 1 << 18 };

/* Pages are given back each time this much of a tensor has gone by. */
enum { FORGET_BYTES = 4 << 20, FAULT_AROUND = 2 << 20 };

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

/* Reads a run; `as` is a float type, or DTYPE_COUNT for the elements as they are stored. */
static void read_run(const struct weight_source *src, const struct source_tensor *t,
                     uint64_t first, uint64_t n, enum dtype as, char *dst)
{
    if (as == DTYPE_COUNT)
        src->ops->copy(src, t, first, n, dst);
    else
        src->ops->read(src, t, first, n, as, dst);
}

static void forget(const struct weight_source *src, const struct source_tensor *t, uint64_t first,
                   uint64_t end)
{
    if (src->ops->forget != NULL && end > first)
        src->ops->forget(src, t, first, end - first);
}

/* Runs of whole rows are cut at FORGET_BYTES; narrow ones are counted by what they span, because
 * pages come in around them. */
static void read_slice(const struct weight_source *src, const struct slice *s, enum dtype as,
                       char *dst)
{
    uint64_t size = file_dtype_bits(s->t.view.dtype) / 8, row_bytes = s->cols * size;
    uint64_t step = row_bytes < FORGET_BYTES ? FORGET_BYTES / (row_bytes + 1) + 1 : 1;
    uint64_t out_size = as == DTYPE_COUNT ? size : dtype_bytes(as);

    for (uint64_t r = 0; r < s->n_rows; r += step) {
        uint64_t rows = s->n_rows - r < step ? s->n_rows - r : step;
        uint64_t first = (s->row + r) * s->cols + s->col;

        if (s->n_cols == s->cols)
            read_run(src, &s->t, first, rows * s->cols, as, dst + r * s->n_cols * out_size);
        else
            for (uint64_t i = 0; i < rows; i++)
                read_run(src, &s->t, first + i * s->cols, s->n_cols, as,
                         dst + (r + i) * s->n_cols * out_size);
        forget(src, &s->t, first, first + (rows - 1) * s->cols + s->n_cols);
    }
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
    if (s == STATUS_OK && n_rows > 0)
        read_slice(src, &slice, as, dst);
    return s;
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
    if (s == STATUS_OK && n_rows > 0)
        read_slice(src, &slice, DTYPE_COUNT, dst);
    return s;
}

enum status source_read_scalar(const struct weight_source *src, const char *name, float *out)
{
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
    src->ops->read(src, &t, 0, 1, DTYPE_F32, out);
    return STATUS_OK;
}

/* Two whole tensors go by, of which a rank needs its own part at most: what has been compared is
 * let go of on the way, as what is read. */
static bool same_bytes(const struct weight_source *src, const struct source_tensor *a,
                       const struct source_tensor *b)
{
    const struct tensor_view *x = &a->view, *y = &b->view;
    uint64_t bits = file_dtype_bits(x->dtype);

    if (x->dtype != y->dtype || x->ndim != y->ndim ||
        memcmp(x->shape, y->shape, sizeof(x->shape)) != 0 || x->data == NULL || y->data == NULL)
        return false;
    for (uint64_t at = 0, n; at < x->bytes; at += n) {
        uint64_t first = at * 8 / bits, end;
        bool same;

        n = x->bytes - at < FORGET_BYTES ? x->bytes - at : FORGET_BYTES;
        end = (at + n) * 8 / bits;
        same = memcmp((const char *)x->data + at, (const char *)y->data + at, n) == 0;
        forget(src, a, first, end);
        forget(src, b, first, end);
        if (!same)
            return false;
    }
    return true;
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
    } else if (same_bytes(src, &embedding, &head)) {
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

static void checkpoint_source_copy(const struct weight_source *src, const struct source_tensor *t,
                                   uint64_t first, uint64_t n, void *dst)
{
    uint64_t size = file_dtype_bits(t->view.dtype) / 8;

    (void)src;
    memcpy(dst, (const char *)t->view.data + first * size, n * size);
}

/* Mapped pages count as this process's memory until it lets go of them; they stay in the page
 * cache. A fault brings in the pages around it, too, up to a huge page's worth of them, and so
 * that much more on either side is let go of than was read. */
static void checkpoint_source_forget(const struct weight_source *src, const struct source_tensor *t,
                                     uint64_t first, uint64_t n)
{
    uint64_t size = file_dtype_bits(t->view.dtype) / 8;
    uintptr_t begin = (uintptr_t)t->view.data + first * size, end = begin + n * size;
    size_t map_bytes = 0;
    uintptr_t map = (uintptr_t)checkpoint_map(checkpoint_of(src), &t->view, &map_bytes);

    if (map == 0)
        return;
    begin = begin - map > FAULT_AROUND ? (begin - FAULT_AROUND) & ~(uintptr_t)(FAULT_AROUND - 1)
                                       : map;
    begin = begin > map ? begin : map;
    end = map + map_bytes - end > FAULT_AROUND ? end + FAULT_AROUND : map + map_bytes;
    /* A hint, as above: where it is refused the kernel finds the pages when it needs them. */
    madvise((void *)begin, end - begin, MADV_DONTNEED);
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
    .copy = checkpoint_source_copy,
    .forget = checkpoint_source_forget,
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
