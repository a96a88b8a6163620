/* safetensors.c - opening and looking up; the header's rules are in safetensors_header.c.
 *
 * The file is mapped whole and private: pages come in as slices are read, shared with every other
 * rank through the page cache, and nothing is read twice. Views are sorted by name once, so a
 * look-up is a binary search and the header's JSON does not outlive safetensors_open(). */
#include "checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/config_json.h"
#include "checkpoint/safetensors_header.h"
#include "quern/log.h"

struct safetensors {
    char *name;
    void *map;
    size_t map_bytes;
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

static enum status map_file(const char *path, struct safetensors *st)
{
    struct stat info;
    enum status s = STATUS_INVALID;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for a writer */

    if (fd < 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0) {
        s = log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
        goto err_close;
    }
    if (!S_ISREG(info.st_mode)) {
        log_fail(s, "%s: not a regular file", st->name);
        goto err_close;
    }
    if (info.st_size < 8) {
        log_fail(s, "%s: %lld bytes are too few for a safetensors file: it begins with 8 bytes "
                 "of header length", st->name, (long long)info.st_size);
        goto err_close;
    }
    st->map_bytes = (size_t)info.st_size;
    st->map = mmap(NULL, st->map_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (st->map == MAP_FAILED) {
        st->map = NULL;
        s = log_fail(STATUS_IO, "%s: cannot map %zu bytes: %s", st->name, st->map_bytes,
                     strerror(errno));
        goto err_close;
    }
    s = STATUS_OK;

err_close:
    close(fd);
    return s;
}

enum status safetensors_open(const char *path, struct safetensors **out)
{
    struct safetensors *st = calloc(1, sizeof(*st));
    enum status s = STATUS_NOMEM;

    if (st == NULL)
        return log_fail(s, "%s: no memory", path_base(path));
    st->name = strdup(path_base(path));
    if (st->name == NULL) {
        log_fail(s, "%s: no memory", path_base(path));
        goto err_close;
    }
    s = map_file(path, st);
    if (s == STATUS_OK)
        s = safetensors_parse(st->name, st->map, st->map_bytes, &st->table);
    if (s != STATUS_OK)
        goto err_close;
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
    if (st->map != NULL)
        munmap(st->map, st->map_bytes);
    free(st->name);
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

const void *safetensors_map(const struct safetensors *st, size_t *bytes)
{
    *bytes = st->map_bytes;
    return st->map;
}

const char *safetensors_name(const struct safetensors *st)
{
    return st->name;
}
