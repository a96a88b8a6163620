/* safetensors.h - one .safetensors file, checked before use, its tensors read when asked for.
 *
 * Purpose:  every rule of the format (FACTS 3) is checked at open, each with a message of its own
 *           that begins with the file's name; afterwards a view says where in the file its bytes
 *           are, and tensor_read() gets them.
 * Owns:     struct safetensors owns a descriptor, all views and names; they end with
 *           safetensors_close(). Read-only afterwards: any number of threads may look up and read.
 * Blocking: the disk. Opening reads the header alone.
 * Death:    a file that another process cuts short is an error of tensor_read() that names it. */
#ifndef QUERN_CHECKPOINT_SAFETENSORS_H
#define QUERN_CHECKPOINT_SAFETENSORS_H

#include <stdbool.h>
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

struct safetensors;

struct tensor_view {
    const char *name;
    enum file_dtype dtype;
    int ndim;                        /* 0: a scalar */
    uint64_t shape[TENSOR_DIMS_MAX]; /* row-major */
    const struct safetensors *in;    /* NULL where nothing is stored */
    uint64_t at;                     /* the first byte in the file; little-endian elements */
    size_t bytes;
};

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

/* IO: cannot be opened or read. INVALID: not a file, or a rule of the format is broken. NOMEM. */
enum status safetensors_open(const char *path, struct safetensors **out);
void safetensors_close(struct safetensors *st);

/* NULL when there is none. Valid until safetensors_close(). */
const struct tensor_view *safetensors_find(const struct safetensors *st, const char *name);

/* All views, sorted by name. */
size_t safetensors_count(const struct safetensors *st);
const struct tensor_view *safetensors_at(const struct safetensors *st, size_t i);

/* Bytes [first, first + n) of a stored tensor into dst. IO: the file cannot be read any more. */
enum status tensor_read(const struct tensor_view *v, uint64_t first, size_t n, void *dst);

/* Whether both are stored, with one type, shape and content. IO. */
enum status tensor_same(const struct tensor_view *a, const struct tensor_view *b, bool *same);

/* Asks the system to have these bytes ready; a hint. */
void tensor_read_ahead(const struct tensor_view *v, uint64_t first, size_t n);

/* The file's name without its folder. */
const char *safetensors_name(const struct safetensors *st);

#endif
