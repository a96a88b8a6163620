/* json_value.c - from tokens to a tree, without recursion.
 *
 * A stack of the open containers stands for the recursion: JSON_DEPTH_MAX
 * pointers bound it whatever the input is. */
#include "text/json_value.h"

#include <stdlib.h>

#include "quern/log.h"

void json_document_free(struct json_document *d)
{
    text_arena_free(&d->arena);
    d->root = NULL;
}

struct keyed {
    struct json_value *value;
    size_t order;
};

static int compare_keys(const struct json_value *a, const struct json_value *b)
{
    size_t least = a->key_bytes < b->key_bytes ? a->key_bytes : b->key_bytes;
    int c = memcmp(a->key, b->key, least);

    if (c != 0)
        return c;
    return (a->key_bytes > b->key_bytes) - (a->key_bytes < b->key_bytes);
}

static int by_key_then_order(const void *x, const void *y)
{
    const struct keyed *a = x, *b = y;
    int c = compare_keys(a->value, b->value);

    return c != 0 ? c : (a->order > b->order) - (a->order < b->order);
}

/* Gives the first of equal keys the value of the last and marks the others (key = NULL). */
static void mark_duplicates(struct keyed *sorted, size_t count)
{
    for (size_t i = 0, j; i < count; i = j) {
        struct json_value *keep = sorted[i].value;

        for (j = i + 1; j < count && compare_keys(keep, sorted[j].value) == 0; j++)
            ;
        if (j == i + 1)
            continue;
        struct json_value last = *sorted[j - 1].value;

        last.next = keep->next;
        *keep = last;
        for (size_t k = i + 1; k < j; k++)
            sorted[k].value->key = NULL;
    }
}

static void drop_marked(struct json_value *object)
{
    struct json_value **link = &object->first;

    while (*link != NULL) {
        if ((*link)->key != NULL) {
            link = &(*link)->next;
            continue;
        }
        *link = (*link)->next;
        object->count--;
    }
}

static bool fold_duplicates(struct json_value *object)
{
    struct keyed *sorted;
    size_t n = 0;

    if (object->count < 2)
        return true;
    sorted = malloc(object->count * sizeof(*sorted));
    if (sorted == NULL)
        return false;
    for (struct json_value *v = object->first; v != NULL; v = v->next, n++)
        sorted[n] = (struct keyed){ .value = v, .order = n };
    qsort(sorted, n, sizeof(*sorted), by_key_then_order);
    mark_duplicates(sorted, n);
    free(sorted);
    drop_marked(object);
    return true;
}

struct builder {
    struct json_reader *reader;
    struct json_document *document;
    struct json_value *open[JSON_DEPTH_MAX]; /* the containers around the next value */
    struct json_value **tail[JSON_DEPTH_MAX];
    unsigned depth;
    const char *key; /* read, and waiting for its value */
    size_t key_bytes;
};

static const enum json_type type_of[] = {
    [JSON_OBJECT] = JSON_IS_OBJECT, [JSON_ARRAY] = JSON_IS_ARRAY, [JSON_STRING] = JSON_IS_STRING,
    [JSON_NUMBER] = JSON_IS_NUMBER, [JSON_TRUE] = JSON_IS_BOOL,   [JSON_FALSE] = JSON_IS_BOOL,
    [JSON_NULL] = JSON_IS_NULL,
};

static void attach(struct builder *b, struct json_value *v)
{
    if (b->depth == 0) {
        b->document->root = v;
        return;
    }
    *b->tail[b->depth - 1] = v;
    b->tail[b->depth - 1] = &v->next;
    b->open[b->depth - 1]->count++;
}

static bool add_value(struct builder *b, const struct json_token *token)
{
    struct json_value *v = text_arena_take(&b->document->arena, sizeof(*v));

    if (v == NULL)
        return false;
    *v = (struct json_value){ .type = type_of[token->kind], .truth = token->kind == JSON_TRUE,
        .key = b->key, .key_bytes = b->key_bytes };
    b->key = NULL;
    if (v->type == JSON_IS_STRING || v->type == JSON_IS_NUMBER) {
        v->text = text_arena_copy(&b->document->arena, token->text, token->bytes);
        v->bytes = token->bytes;
        if (v->text == NULL)
            return false;
    }
    attach(b, v);
    if (token->kind == JSON_OBJECT || token->kind == JSON_ARRAY) {
        b->open[b->depth] = v;
        b->tail[b->depth++] = &v->first;
    }
    return true;
}

static bool add_token(struct builder *b, const struct json_token *token)
{
    switch (token->kind) {
    case JSON_KEY:
        b->key = text_arena_copy(&b->document->arena, token->text, token->bytes);
        b->key_bytes = token->bytes;
        return b->key != NULL;
    case JSON_OBJECT_END:
        return fold_duplicates(b->open[--b->depth]);
    case JSON_ARRAY_END:
        b->depth--;
        return true;
    default:
        return add_value(b, token);
    }
}

enum status json_document_read(struct json_reader *r, struct json_document *out)
{
    struct json_document d = { 0 };
    struct builder b = { .reader = r, .document = &d };
    struct json_token token;
    enum status s;

    do {
        s = json_next(r, &token);
        if (s == STATUS_OK && !add_token(&b, &token))
            s = log_fail(STATUS_NOMEM, "%s: out of memory", r->name);
    } while (s == STATUS_OK && b.depth > 0);
    if (s != STATUS_OK) {
        json_document_free(&d);
        return s;
    }
    *out = d;
    return STATUS_OK;
}

enum status json_document_parse(const char *name, const char *text, size_t bytes,
    struct json_document *out)
{
    struct json_document d = { 0 };
    struct json_reader r;
    struct json_token token;
    enum status s;

    json_reader_open(&r, name, text, bytes);
    s = json_document_read(&r, &d);
    if (s == STATUS_OK)
        s = json_next(&r, &token);
    json_reader_close(&r);
    if (s != STATUS_OK) {
        json_document_free(&d);
        return s;
    }
    *out = d;
    return STATUS_OK;
}

const struct json_value *json_get(const struct json_value *v, const char *key)
{
    if (v == NULL || v->type != JSON_IS_OBJECT)
        return NULL;
    for (v = v->first; v != NULL; v = v->next)
        if (json_text_is(v->key, v->key_bytes, key))
            return v;
    return NULL;
}

bool json_is_word(const struct json_value *v, const char *word)
{
    return v != NULL && v->type == JSON_IS_STRING && json_text_is(v->text, v->bytes, word);
}

const char *json_type_name(const struct json_value *v)
{
    static const char *const names[] = {
        [JSON_IS_NULL] = "null",       [JSON_IS_BOOL] = "a boolean",
        [JSON_IS_NUMBER] = "a number", [JSON_IS_STRING] = "a string",
        [JSON_IS_ARRAY] = "an array",  [JSON_IS_OBJECT] = "an object",
    };

    return v == NULL ? "nothing" : names[v->type];
}
