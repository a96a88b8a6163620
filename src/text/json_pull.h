/* json_pull.h - a pull reader for JSON (RFC 8259) over a buffer in memory.
 *
 * The caller asks for one token at a time and nothing is built, so an 11 MB
 * tokenizer.json costs one pass. Strict: well-formed UTF-8 only, no raw control
 * characters in strings, no lone surrogates, no trailing bytes, at most
 * JSON_DEPTH_MAX containers within each other. Numbers keep their text.
 *
 * Memory:   the reader borrows `text` and `name`; it owns a scratch buffer for
 *           strings that hold escapes, freed by json_reader_close().
 * Errors:   STATUS_INVALID, logged as "NAME: byte N: what is wrong"; after an
 *           error the reader must only be closed.
 * Blocking: never. */
#ifndef QUERN_TEXT_JSON_PULL_H
#define QUERN_TEXT_JSON_PULL_H

#include <stdint.h>

#include "text/text_buffer.h"

enum { JSON_DEPTH_MAX = 256 };

enum json_kind {
    JSON_OBJECT,
    JSON_OBJECT_END,
    JSON_ARRAY,
    JSON_ARRAY_END,
    JSON_KEY,
    JSON_STRING,
    JSON_NUMBER,
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
    JSON_END, /* the document is over; reported once and for all */
};

struct json_token {
    enum json_kind kind;
    const char *text; /* KEY, STRING: decoded, may hold zero bytes; NUMBER: as written */
    size_t bytes;     /* of text, which is valid until the next KEY or STRING is read */
    size_t at;        /* byte offset of the token in the buffer */
};

enum json_expect {
    JSON_EXPECT_VALUE,
    JSON_EXPECT_ELEMENT_OR_END,
    JSON_EXPECT_KEY,
    JSON_EXPECT_KEY_OR_END,
    JSON_EXPECT_COMMA_OR_END,
    JSON_EXPECT_NOTHING,
};

struct json_reader {
    const char *name, *text;
    size_t bytes, at;
    unsigned depth;
    enum json_expect expect;
    uint64_t in_array[JSON_DEPTH_MAX / 64]; /* bit d: container d is an array */
    struct text_buffer scratch;
};

/* Reads the one document in text[0, bytes). */
void json_reader_open(struct json_reader *r, const char *name, const char *text, size_t bytes);
void json_reader_close(struct json_reader *r);

enum status json_next(struct json_reader *r, struct json_token *token);

/* Passes over the rest of the value that `first` began; nothing to do for a scalar. */
enum status json_skip(struct json_reader *r, const struct json_token *first);

/* json_next(), and it must be of `kind`; `what` names it in the error. */
enum status json_expect(struct json_reader *r, enum json_kind kind, const char *what,
    struct json_token *token);

/* Logs "NAME: byte AT: message" for a token that means nothing here; STATUS_INVALID. */
enum status json_complain(const struct json_reader *r, size_t at, const char *message);

/* The token's text is exactly `word`. */
bool json_text_is(const char *text, size_t bytes, const char *word);

/* A whole number in [0, limit], written without sign, fraction or exponent; else false. */
bool json_text_to_id(const char *text, size_t bytes, int64_t limit, int64_t *value);

#endif
