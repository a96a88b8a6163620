/* tokenizer_check.h - is this tokenizer.json one that is implemented?
 *
 * Every answer other than STATUS_OK is STATUS_INVALID, logged as
 * "tokenizer.json: PART: what it must be". Values are only looked at. */
#ifndef QUERN_TEXT_TOKENIZER_CHECK_H
#define QUERN_TEXT_TOKENIZER_CHECK_H

#include "text/json_value.h"

/* A part of the file ("normalizer", "decoder", ...); one that cannot change ids is fine. */
enum status tokenizer_check_part(const char *part, const struct json_value *v);

/* A setting within "model" ("type", "dropout", ...). */
enum status tokenizer_check_setting(const char *key, const struct json_value *v);

enum status tokenizer_unsupported(const char *part, const char *what);

#endif
