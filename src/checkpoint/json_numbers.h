/* json_numbers.h - numbers that Python writes into JSON and jansson does not read.
 *
 * Purpose:  NaN, Infinity and numbers beyond int64 or a double stand in config files of people,
 *           under keys that quern does not know. They pass through as marked strings: no typed
 *           reader takes one for a number, and what is written again has them as they were.
 * Owns:     the caller owns what json_numbers_mark() makes.
 * Blocking: never. */
#ifndef QUERN_CHECKPOINT_JSON_NUMBERS_H
#define QUERN_CHECKPOINT_JSON_NUMBERS_H

#include <stddef.h>

#include "quern/status.h"

/* text [bytes] with each such number as a marked string: *marked [*marked_bytes], to be freed by
 * the caller. Anything else, right or wrong, stays as it is. NOMEM, not logged. */
enum status json_numbers_mark(const char *text, size_t bytes, char **marked, size_t *marked_bytes);

/* Of JSON text made by jansson: marked strings become the numbers again, in place. */
void json_numbers_restore(char *text);

#endif
