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

/* x as Python's repr: shortest; Infinity, -Infinity and NaN as json.dumps writes them. */
void json_write_double(struct text_buffer *out, double x);

/* The number text[0, bytes) is written as, whatever the locale: digits with a point,
 * an exponent or none, a sign in front. False if there is no memory. */
bool json_text_to_double(const char *text, size_t bytes, double *x);

#endif
