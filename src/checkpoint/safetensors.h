/* safetensors.h - one .safetensors file, mapped read-only and checked before use.
 *
 * Purpose:  every rule of the format (FACTS 3) is checked at open, each with a message of its own
 *           that begins with the file's name; afterwards a view is a pointer into the mapping.
 * Owns:     struct safetensors owns the mapping and all views and names; they end with
 *           safetensors_close(). Read-only afterwards: any number of threads may look up.
 * Blocking: page faults only. The tensors are not read here.
 * Death:    a file that another process cuts short while it is mapped ends this process with
 *           SIGBUS: replace checkpoints by rename, as every writer of them does. */
#ifndef QUERN_CHECKPOINT_SAFETENSORS_H
#define QUERN_CHECKPOINT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "quern/dtype.h"
#include "quern/status.h"

/* In the format's own order, low to high alignment. */
enum file_dtype {
    FILE_BOOL, FILE_F4, FILE_F6_E2M3, FILE_F6_E3M2, FILE_U8, FILE_I8, FILE_F8_E5M2, FILE_F8_E4M3,
    FILE_F8_E8M0, FILE_F8_E4M3FNUZ, FILE_F8_E5M2FNUZ, FILE_I16, FILE_U16, FILE_F16, FILE_BF16,
    FILE_I32, FILE_U32, FILE_F32, FILE_C64, FILE_F64, FILE_I64, FILE_U64, FILE_DTYPE_COUNT,
};

enum { TENSOR_DIMS_MAX = 8 };

struct tensor_view {
    const char *name;
    enum file_dtype dtype;
    int ndim;                        /* 0: a scalar */
    uint64_t shape[TENSOR_DIMS_MAX]; /* row-major */
    const void *data;                /* little-endian; any alignment: copy what you read */
    size_t bytes;
};

struct safetensors;

/* "BF16", ...; never NULL. */
const char *file_dtype_name(enum file_dtype t);

/* Size of an element in bits: 4 to 64. */
unsigned file_dtype_bits(enum file_dtype t);

/* The file's spelling of a type of ours. */
enum file_dtype file_dtype_of(enum dtype t);

/* OK and *out for F32, BF16 and F16, which weights may have; UNSUPPORTED (not logged) else. */
enum status file_dtype_float(enum file_dtype t, enum dtype *out);

/* "[3,4]" into out, cut if it does not fit; returns out. */
const char *tensor_shape_text(const struct tensor_view *v, char *out, size_t out_bytes);

/* IO: cannot be opened or mapped. INVALID: a rule of the format is broken. NOMEM. */
enum status safetensors_open(const char *path, struct safetensors **out);
void safetensors_close(struct safetensors *st);

/* NULL when there is none. Valid until safetensors_close(). */
const struct tensor_view *safetensors_find(const struct safetensors *st, const char *name);

/* All views, sorted by name. */
size_t safetensors_count(const struct safetensors *st);
const struct tensor_view *safetensors_at(const struct safetensors *st, size_t i);

/* The whole file as it is mapped: the pages that hold its views, and *bytes of them. */
const void *safetensors_map(const struct safetensors *st, size_t *bytes);

/* The file's name without its folder. */
const char *safetensors_name(const struct safetensors *st);

#endif
