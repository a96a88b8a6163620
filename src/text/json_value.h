/* json_value.h - a small JSON tree, all of it in one bump arena.
 *
 * For values whose order of keys is not known beforehand (tokenizer_config.json,
 * a chat request). Numbers keep the text they were written with, objects keep
 * the order of their keys; of a key that occurs twice, the last value stands in
 * the first one's place, as in Python's dict.
 *
 * Ownership: a json_document owns every value, key and string in it; they hold
 * copies, so the input may go away. Errors as in json_pull.h. Never blocks. */
#ifndef QUERN_TEXT_JSON_VALUE_H
#define QUERN_TEXT_JSON_VALUE_H

#include "text/json_pull.h"
#include "text/text_arena.h"

enum json_type { JSON_IS_NULL, JSON_IS_BOOL, JSON_IS_NUMBER, JSON_IS_STRING, JSON_IS_ARRAY,
    JSON_IS_OBJECT };

struct json_value {
    enum json_type type;
    bool truth;                /* BOOL */
    const char *text;          /* STRING: decoded, 0-terminated; NUMBER: as written */
    size_t bytes;              /* of text, without the 0 */
    struct json_value *first;  /* ARRAY, OBJECT: the children, in order */
    size_t count;              /* how many */
    const char *key;           /* in an object: this child's key, 0-terminated */
    size_t key_bytes;
    struct json_value *next;   /* the sibling after this one */
};

struct json_document {
    struct json_value *root;
    struct text_arena arena;
};

/* The whole of text[0, bytes) as one document; `name` is what errors call it. */
enum status json_document_parse(const char *name, const char *text, size_t bytes,
    struct json_document *out);

/* The one value that the reader comes to next (the reader goes on behind it). */
enum status json_document_read(struct json_reader *r, struct json_document *out);

void json_document_free(struct json_document *d);

/* The child of that name, NULL if there is none, or v is NULL or no object. */
const struct json_value *json_get(const struct json_value *v, const char *key);

/* v is a string, and equal to `word`; false for NULL. */
bool json_is_word(const struct json_value *v, const char *word);

/* v is absent, or null. */
static inline bool json_is_nothing(const struct json_value *v)
{
    return v == NULL || v->type == JSON_IS_NULL;
}

/* "an object", "null", ...: for messages; "nothing" for NULL. */
const char *json_type_name(const struct json_value *v);

#endif
