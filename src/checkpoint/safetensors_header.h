/* safetensors_header.h - the header of a .safetensors file: read with every check, and written.
 *
 * Purpose:  safetensors_parse() turns the bytes of a whole file into views of its tensors;
 *           safetensors_layout() makes the header for tensors that are yet to be written.
 * Owns:     a table owns its views and their names (safetensors_table_free()); view data points
 *           into the bytes given. The caller frees the text of a layout.
 * Blocking: none. */
#ifndef QUERN_CHECKPOINT_SAFETENSORS_HEADER_H
#define QUERN_CHECKPOINT_SAFETENSORS_HEADER_H

#include <stddef.h>
#include <stdint.h>

#include "checkpoint/safetensors.h"
#include "quern/status.h"

struct safetensors_table {
    struct tensor_view *views; /* [count], sorted by name */
    size_t count;
    char *names;
};

/* `file` names the origin in messages. INVALID or NOMEM, logged. */
enum status safetensors_parse(const char *file, const void *bytes, size_t n,
                              struct safetensors_table *out);
void safetensors_table_free(struct safetensors_table *table);

/* Orders `views` (name, dtype, ndim, shape; data unused) as writers do, by dtype descending and
 * then by name, fills in their `bytes`, and makes the file's beginning: *text, *text_bytes long
 * (a multiple of 8, length prefix included). The tensors' bytes follow it in that order with
 * nothing between them. NOMEM, logged. */
enum status safetensors_layout(struct tensor_view *views, size_t count, char **text,
                               size_t *text_bytes);

#endif
