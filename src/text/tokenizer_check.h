/* tokenizer_check.h - is this tokenizer.json one that is implemented, and what does it ask for?
 *
 * Every answer other than STATUS_OK is STATUS_INVALID, logged as
 * "tokenizer.json: PART: what it must be", or STATUS_NOMEM. What a part asks for
 * is noted in the tokenizer; values are only looked at. */
#ifndef QUERN_TEXT_TOKENIZER_CHECK_H
#define QUERN_TEXT_TOKENIZER_CHECK_H

#include "text/tokenizer_internal.h"

/* Is this a part ("normalizer"), or a setting of the model ("dropout"), that can change ids or
 * texts? Any other may be passed over. */
bool tokenizer_knows_part(const char *part);
bool tokenizer_knows_setting(const char *key);

/* A part of the file ("normalizer", "decoder", ...). */
enum status tokenizer_check_part(struct tokenizer *t, const char *part, const struct json_value *v);

/* A setting within "model" ("type", "dropout", ...). */
enum status tokenizer_check_setting(struct tokenizer *t, const char *key,
    const struct json_value *v);

enum status tokenizer_unsupported(const char *part, const char *what);

#endif
