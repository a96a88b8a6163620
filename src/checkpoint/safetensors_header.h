/* safetensors_header.h - the header of a .safetensors file: read with every check, and written.
 *
 * Purpose:  safetensors_parse() turns a file's header into views of its tensors;
 *           safetensors_layout() makes the header for tensors that are yet to be written.
 * Owns:     a table owns its views and their names (safetensors_table_free()). The caller frees
 *           the text of a layout.
 * Blocking: none. */
#ifndef QUERN_CHECKPOINT_SAFETENSORS_HEADER_H
#define QUERN_CHECKPOINT_SAFETENSORS_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "checkpoint/safetensors.h"
#include "quern/status.h"

struct safetensors_table {
    struct tensor_view *views; /* [count], sorted by name */
    size_t count;
    char *names;
};

/* A header's length and its first byte. */
enum { SAFETENSORS_BEGIN_BYTES = 9 };

/* Could these first n bytes be those of a header? */
bool safetensors_begins(const void *head, size_t n);

/* How many bytes the header of a file of `file_bytes` takes, its length prefix included; `head`
 * has its first SAFETENSORS_BEGIN_BYTES, or as many as there are. `file` names the origin in
 * messages. INVALID, logged. */
enum status safetensors_header_bytes(const char *file, const unsigned char *head,
                                     uint64_t file_bytes, size_t *bytes);

/* Reads that header, text [bytes], checks it, and the layout against the file's size. The views'
 * `in` is left NULL. INVALID or NOMEM, logged. */
enum status safetensors_parse(const char *file, const char *text, size_t bytes,
                              uint64_t file_bytes, struct safetensors_table *out);
void safetensors_table_free(struct safetensors_table *table);

/* Orders `views` (name, dtype, ndim, shape; data unused) as writers do, by dtype descending and
 * then by name, fills in their `bytes`, and makes the file's beginning: *text, *text_bytes long
 * (a multiple of 8, length prefix included). The tensors' bytes follow it in that order with
 * nothing between them. NOMEM, logged. */
enum status safetensors_layout(struct tensor_view *views, size_t count, char **text,
                               size_t *text_bytes);

#endif
