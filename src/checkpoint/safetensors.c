/* safetensors.c - opening and looking up; the header's rules are in safetensors_header.c.
 *
 * The file stays open and slices are read from the page cache, which all ranks share: not mapped,
 * so that nothing of it counts as a rank's memory and a file that shrinks is an error, not a
 * signal. Views are sorted by name once, so a look-up is a binary search and the header's JSON
 * does not outlive safetensors_open(). */
#include "checkpoint/safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "checkpoint/config_json.h"
#include "checkpoint/safetensors_header.h"
#include "quern/log.h"

/* Two tensors are compared by pieces of this size, on the stack. */
enum { COMPARE_BYTES = 1 << 16 };

struct safetensors {
    char *path;
    int fd;
    struct safetensors_table table;
};

static const struct {
    const char *name;
    unsigned bits;
} dtypes[FILE_DTYPE_COUNT] = {
    [FILE_BOOL] = { "BOOL", 8 },
    [FILE_F4] = { "F4", 4 },
    [FILE_F6_E2M3] = { "F6_E2M3", 6 },
    [FILE_F6_E3M2] = { "F6_E3M2", 6 },
    [FILE_U8] = { "U8", 8 },
    [FILE_I8] = { "I8", 8 },
    [FILE_F8_E5M2] = { "F8_E5M2", 8 },
    [FILE_F8_E4M3] = { "F8_E4M3", 8 },
    [FILE_F8_E8M0] = { "F8_E8M0", 8 },
    [FILE_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 8 },
    [FILE_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 8 },
    [FILE_I16] = { "I16", 16 },
    [FILE_U16] = { "U16", 16 },
    [FILE_F16] = { "F16", 16 },
    [FILE_BF16] = { "BF16", 16 },
    [FILE_I32] = { "I32", 32 },
    [FILE_U32] = { "U32", 32 },
    [FILE_F32] = { "F32", 32 },
    [FILE_C64] = { "C64", 64 },
    [FILE_F64] = { "F64", 64 },
    [FILE_I64] = { "I64", 64 },
    [FILE_U64] = { "U64", 64 },
};

const char *file_dtype_name(enum file_dtype t)
{
    return dtypes[t].name;
}

unsigned file_dtype_bits(enum file_dtype t)
{
    return dtypes[t].bits;
}

enum file_dtype file_dtype_of(enum dtype t)
{
    static const enum file_dtype of[DTYPE_COUNT] = {
        [DTYPE_F32] = FILE_F32, [DTYPE_BF16] = FILE_BF16, [DTYPE_F16] = FILE_F16,
        [DTYPE_I32] = FILE_I32, [DTYPE_U8] = FILE_U8,     [DTYPE_I8] = FILE_I8,
        [DTYPE_E4M3] = FILE_F8_E4M3,
    };
    return of[t];
}

enum status file_dtype_float(enum file_dtype t, enum dtype *out)
{
    switch (t) {
    case FILE_F32: *out = DTYPE_F32; return STATUS_OK;
    case FILE_BF16: *out = DTYPE_BF16; return STATUS_OK;
    case FILE_F16: *out = DTYPE_F16; return STATUS_OK;
    default: return STATUS_UNSUPPORTED;
    }
}

const char *tensor_shape_text(const struct tensor_view *v, char *out, size_t out_bytes)
{
    FILE *text = fmemopen(out, out_bytes, "w");

    if (text == NULL)
        return "[?]";
    fputc('[', text);
    for (int i = 0; i < v->ndim; i++)
        fprintf(text, "%s%llu", i > 0 ? "," : "", (unsigned long long)v->shape[i]);
    fputc(']', text);
    fclose(text);
    out[out_bytes - 1] = '\0';
    return out;
}

/* Where the first bytes are no header: what are they? OK: not known either. */
static enum status check_beginning(const struct safetensors *st, uint64_t bytes)
{
    char head[FILE_HEAD_BYTES];
    size_t n = bytes < sizeof(head) ? (size_t)bytes : sizeof(head);
    enum status s = file_read_at(st->fd, st->path, 0, n, head);

    if (s != STATUS_OK || safetensors_begins(head, n))
        return s;
    return file_recognise(st->path, "a safetensors file", false, head, n);
}

static enum status read_header(struct safetensors *st, uint64_t bytes)
{
    const char *name = path_base(st->path);
    unsigned char head[SAFETENSORS_BEGIN_BYTES] = { 0 };
    size_t n = bytes < sizeof(head) ? (size_t)bytes : sizeof(head), header = 0;
    char *text;
    enum status s = check_beginning(st, bytes);

    if (s == STATUS_OK)
        s = file_read_at(st->fd, st->path, 0, n, head);
    if (s == STATUS_OK)
        s = safetensors_header_bytes(name, head, bytes, &header);
    if (s != STATUS_OK)
        return s;
    text = malloc(header);
    if (text == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for a header of %zu bytes", name, header);
    s = file_read_at(st->fd, st->path, 0, header, text);
    if (s == STATUS_OK)
        s = safetensors_parse(name, text, header, bytes, &st->table);
    free(text);
    return s;
}

enum status safetensors_open(const char *path, struct safetensors **out)
{
    struct safetensors *st = calloc(1, sizeof(*st));
    uint64_t bytes = 0;
    enum status s = STATUS_NOMEM;

    if (st == NULL)
        return log_fail(s, "%s: no memory", path_base(path));
    st->fd = -1;
    st->path = strdup(path);
    if (st->path == NULL) {
        log_fail(s, "%s: no memory", path_base(path));
        goto err_close;
    }
    s = file_open(path, false, &st->fd, &bytes);
    if (s == STATUS_OK)
        s = read_header(st, bytes);
    if (s != STATUS_OK)
        goto err_close;
    for (size_t i = 0; i < st->table.count; i++)
        st->table.views[i].in = st;
    *out = st;
    return STATUS_OK;

err_close:
    safetensors_close(st);
    return s;
}

void safetensors_close(struct safetensors *st)
{
    if (st == NULL)
        return;
    safetensors_table_free(&st->table);
    if (st->fd >= 0)
        close(st->fd);
    free(st->path);
    free(st);
}

static int name_against_view(const void *name, const void *view)
{
    return strcmp(name, ((const struct tensor_view *)view)->name);
}

const struct tensor_view *safetensors_find(const struct safetensors *st, const char *name)
{
    if (st->table.count == 0)
        return NULL;
    return bsearch(name, st->table.views, st->table.count, sizeof(st->table.views[0]),
                   name_against_view);
}

size_t safetensors_count(const struct safetensors *st)
{
    return st->table.count;
}

const struct tensor_view *safetensors_at(const struct safetensors *st, size_t i)
{
    return &st->table.views[i];
}

enum status tensor_read(const struct tensor_view *v, uint64_t first, size_t n, void *dst)
{
    return file_read_at(v->in->fd, v->in->path, v->at + first, n, dst);
}

static bool alike(const struct tensor_view *a, const struct tensor_view *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, sizeof(a->shape)) == 0 && a->in != NULL && b->in != NULL;
}

enum status tensor_same(const struct tensor_view *a, const struct tensor_view *b, bool *same)
{
    char x[COMPARE_BYTES], y[COMPARE_BYTES];
    bool equal = alike(a, b);

    for (uint64_t at = 0; equal && at < a->bytes; at += sizeof(x)) {
        size_t n = a->bytes - at < sizeof(x) ? a->bytes - at : sizeof(x);
        enum status s = tensor_read(a, at, n, x);

        if (s == STATUS_OK)
            s = tensor_read(b, at, n, y);
        if (s != STATUS_OK)
            return s;
        equal = memcmp(x, y, n) == 0;
    }
    *same = equal;
    return STATUS_OK;
}

void tensor_read_ahead(const struct tensor_view *v, uint64_t first, size_t n)
{
    (void)posix_fadvise(v->in->fd, (off_t)(v->at + first), (off_t)n, POSIX_FADV_WILLNEED);
}

const char *safetensors_name(const struct safetensors *st)
{
    return path_base(st->path);
}
