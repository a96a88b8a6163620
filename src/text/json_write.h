/* json_write.h - JSON as Python's json.dumps(ensure_ascii=False) prints it.
 *
 * Chat templates were rendered with that when the model was trained, so every
 * byte counts: ", " and ": " between elements, keys in their order, whole
 * numbers as they were written, other numbers in the shortest form that reads
 * back (0.1, 1.0, 1e-05, 1e+16), text unescaped but for quotes, backslashes and
 * control characters. Appends to a text_buffer, whose failure the caller checks
 * at the end. Nothing blocks. */
#ifndef QUERN_TEXT_JSON_WRITE_H
#define QUERN_TEXT_JSON_WRITE_H

#include "text/json_value.h"

void json_write_value(struct text_buffer *out, const struct json_value *v);

/* text[0, bytes) in quotes; it must be well-formed UTF-8. */
void json_write_string(struct text_buffer *out, const char *text, size_t bytes);

#endif
