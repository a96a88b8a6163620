/* source_checkpoint.c - the source that is a checkpoint: runs of elements, read and converted.
 *
 * What a caller wants as it is stored is read into its place; the rest goes through a small buffer
 * that stays in the processor's cache. Short runs that lie close together, as a rank's columns of
 * a narrow matrix do, are read with what is between them: up to GAP_BYTES are cheaper to copy than
 * another system call. */
#include "checkpoint/source.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "quern/log.h"

enum { BUFFER_BYTES = 1 << 16, GAP_BYTES = 4096 };

/* What a caller reads at once is asked for ahead from this size on. */
enum { READ_AHEAD_BYTES = 1 << 18 };

struct checkpoint_source {
    struct weight_source base;
    struct checkpoint *checkpoint;
};

static const struct checkpoint *checkpoint_of(const struct weight_source *src)
{
    return ((const struct checkpoint_source *)src)->checkpoint;
}

/* A base model that was saved alone, as embedding models are, has its names without "model.". */
static const struct tensor_view *find_view(const struct checkpoint *c, const char *name)
{
    static const char base[] = "model.";
    const struct tensor_view *view = checkpoint_find(c, name);

    if (view == NULL && strncmp(name, base, strlen(base)) == 0)
        view = checkpoint_find(c, name + strlen(base));
    return view;
}

static bool find(const struct weight_source *src, const char *name, struct source_tensor *out)
{
    const struct tensor_view *view = find_view(checkpoint_of(src), name);

    if (view == NULL)
        return false;
    out->view = *view;
    out->file = safetensors_name(view->in);
    out->other = checkpoint_other(checkpoint_of(src), view);
    return true;
}

static void explain(const struct weight_source *src, const char *name, char *out, size_t n)
{
    checkpoint_explain(checkpoint_of(src), name, out, n);
}

/* One read's types and sizes. */
struct reading {
    const struct tensor_view *view;
    enum dtype stored, as; /* as SOURCE_AS_STORED: `stored` does not matter */
    size_t size, out_size; /* of an element */
};

static bool in_place(const struct reading *r)
{
    return r->as == SOURCE_AS_STORED || r->as == r->stored;
}

static void convert(const struct reading *r, const char *elements, uint64_t n, char *dst)
{
    if (in_place(r))
        memcpy(dst, elements, n * r->size);
    else
        source_convert(r->stored, elements, n, r->as, dst);
}

static enum status read_run(const struct reading *r, uint64_t first, uint64_t n, char *dst)
{
    char buffer[BUFFER_BYTES];
    uint64_t step = sizeof(buffer) / r->size;

    if (n * r->size >= READ_AHEAD_BYTES)
        tensor_read_ahead(r->view, first * r->size, n * r->size);
    if (in_place(r))
        return tensor_read(r->view, first * r->size, n * r->size, dst);
    for (uint64_t i = 0; i < n; i += step) {
        uint64_t take = n - i < step ? n - i : step;
        enum status s = tensor_read(r->view, (first + i) * r->size, take * r->size, buffer);

        if (s != STATUS_OK)
            return s;
        convert(r, buffer, take, dst + i * r->out_size);
    }
    return STATUS_OK;
}

/* Several runs at a time, with what lies between them. */
static enum status read_close_runs(const struct reading *r, const struct source_runs *runs,
                                   char *dst)
{
    char buffer[BUFFER_BYTES];
    uint64_t pitch = runs->stride * r->size, step = (sizeof(buffer) - runs->n * r->size) / pitch + 1;

    for (uint64_t row = 0; row < runs->rows; row += step) {
        uint64_t rows = runs->rows - row < step ? runs->rows - row : step;
        uint64_t first = (runs->first + row * runs->stride) * r->size;
        enum status s = tensor_read(r->view, first, (rows - 1) * pitch + runs->n * r->size, buffer);

        if (s != STATUS_OK)
            return s;
        for (uint64_t i = 0; i < rows; i++)
            convert(r, buffer + i * pitch, runs->n, dst + (row + i) * runs->n * r->out_size);
    }
    return STATUS_OK;
}

static enum status read_runs(const struct weight_source *src, const struct source_tensor *t,
                             const struct source_runs *runs, enum dtype as, void *dst)
{
    struct reading r = {
        .view = &t->view,
        .stored = DTYPE_F32,
        .as = as,
        .size = file_dtype_bits(t->view.dtype) / 8,
    };
    uint64_t gap = (runs->stride - runs->n) * r.size;

    (void)src;
    (void)file_dtype_float(t->view.dtype, &r.stored); /* source.c has checked it */
    r.out_size = as == SOURCE_AS_STORED ? r.size : dtype_bytes(as);
    if (runs->rows > 1 && gap < GAP_BYTES && runs->n * r.size < BUFFER_BYTES / 4)
        return read_close_runs(&r, runs, dst);
    for (uint64_t i = 0; i < runs->rows; i++) {
        enum status s = read_run(&r, runs->first + i * runs->stride, runs->n,
                                 (char *)dst + i * runs->n * r.out_size);

        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

static void close_source(struct weight_source *src)
{
    struct checkpoint_source *c = (struct checkpoint_source *)src;

    checkpoint_close(c->checkpoint);
    free(c);
}

static const struct source_ops checkpoint_ops = {
    .find = find,
    .explain = explain,
    .read = read_runs,
    .close = close_source,
};

enum status source_checkpoint_open(const char *dir, struct weight_source **out)
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
