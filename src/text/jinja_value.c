/* jinja_value.c - making values and asking simple things of them.
 *
 * Dicts are two arrays in the order of insertion and are searched from the front:
 * those of a chat have a few keys, and a rendering's count of steps bounds the
 * rest. */
#include "text/jinja_value.h"

#include <string.h>

#include "text/jinja_ast.h"
#include "text/json_write.h"
#include "text/utf8.h"

const struct jinja_value jinja_none = { .kind = JINJA_NONE };
const struct jinja_value jinja_true = { .kind = JINJA_BOOL, .truth = true };
const struct jinja_value jinja_false = { .kind = JINJA_BOOL };
const struct jinja_value jinja_empty = { .kind = JINJA_STRING, .text = "" };

struct jinja_value *jinja_make(struct jinja_run *r, enum jinja_kind kind)
{
    struct jinja_value *v = text_arena_take(&r->arena, sizeof(*v));

    if (v == NULL) {
        jinja_out_of_memory(r);
        return NULL;
    }
    *v = (struct jinja_value){ .kind = kind };
    return v;
}

value_ref *jinja_array(struct jinja_run *r, size_t count)
{
    value_ref *items = NULL;

    if (count < SIZE_MAX / 64)
        items = text_arena_take(&r->arena, count * sizeof(*items));
    if (items == NULL) {
        jinja_out_of_memory(r);
        return NULL;
    }
    memset(items, 0, count * sizeof(*items));
    return items;
}

value_ref jinja_int(struct jinja_run *r, int64_t x)
{
    struct jinja_value *v = jinja_make(r, JINJA_INT);

    if (v != NULL)
        v->integer = x;
    return v;
}

value_ref jinja_float(struct jinja_run *r, double x)
{
    struct jinja_value *v = jinja_make(r, JINJA_FLOAT);

    if (v != NULL)
        v->real = x;
    return v;
}

value_ref jinja_string(struct jinja_run *r, const char *text, size_t bytes)
{
    struct jinja_value *v = jinja_make(r, JINJA_STRING);

    if (v == NULL)
        return NULL;
    v->text = text;
    v->bytes = bytes;
    return v;
}

value_ref jinja_string_copy(struct jinja_run *r, const char *text, size_t bytes)
{
    const char *copy = jinja_may_hold(r, bytes) ? text_arena_copy(&r->arena, text, bytes) : NULL;

    return copy != NULL ? jinja_string(r, copy, bytes) : jinja_out_of_memory(r);
}

value_ref jinja_string_take(struct jinja_run *r, struct text_buffer *b)
{
    value_ref v = b->failed ? jinja_out_of_memory(r) : jinja_string_copy(r, b->bytes, b->count);

    text_buffer_free(b);
    return v;
}

value_ref jinja_undefined(struct jinja_run *r, const char *hint)
{
    struct jinja_value *v = jinja_make(r, JINJA_UNDEFINED);

    if (v != NULL)
        v->missing.hint = hint;
    return v;
}

value_ref jinja_sequence(struct jinja_run *r, enum jinja_kind kind, const value_ref *items,
    size_t count)
{
    struct jinja_value *v = jinja_make(r, kind);

    if (v != NULL)
        v->list = (struct jinja_items){ items, count };
    return v;
}

value_ref jinja_generator(struct jinja_run *r, const value_ref *items, size_t count)
{
    struct jinja_generator *g = text_arena_take(&r->arena, sizeof(*g));
    struct jinja_value *v = jinja_make(r, JINJA_GENERATOR);

    if (v == NULL || g == NULL)
        return jinja_out_of_memory(r);
    *g = (struct jinja_generator){ .items = items, .count = count };
    v->generator = g;
    return v;
}

value_ref jinja_pair(struct jinja_run *r, value_ref a, value_ref b)
{
    value_ref *items = jinja_array(r, 2);

    if (items == NULL)
        return NULL;
    items[0] = a;
    items[1] = b;
    return jinja_sequence(r, JINJA_TUPLE, items, 2);
}

static bool dict_grow(struct jinja_run *r, struct jinja_dict *d, size_t room)
{
    value_ref *keys = jinja_array(r, room), *values = jinja_array(r, room);

    if (keys == NULL || values == NULL)
        return false;
    if (d->count > 0) {
        memcpy(keys, d->keys, d->count * sizeof(*keys));
        memcpy(values, d->values, d->count * sizeof(*values));
    }
    d->keys = keys;
    d->values = values;
    d->room = room;
    return true;
}

value_ref jinja_dict(struct jinja_run *r, enum jinja_kind kind, size_t room)
{
    struct jinja_dict *d = text_arena_take(&r->arena, sizeof(*d));
    struct jinja_value *v = jinja_make(r, kind);

    if (v == NULL || d == NULL)
        return jinja_out_of_memory(r);
    *d = (struct jinja_dict){ 0 };
    if (room > 0 && !dict_grow(r, d, room))
        return NULL;
    v->dict = d;
    return v;
}

static bool dict_append(struct jinja_run *r, struct jinja_dict *d, value_ref key, value_ref value)
{
    if (d->count == d->room && !dict_grow(r, d, d->room == 0 ? 4 : d->room * 2))
        return false;
    d->keys[d->count] = key;
    d->values[d->count++] = value;
    return true;
}

/* The key's index; count if it is not there, above that after an error. */
static size_t dict_find(struct jinja_run *r, const struct jinja_dict *d, value_ref key)
{
    bool equal = false;

    if (!jinja_spend(r, d->count / 4))
        return SIZE_MAX;
    for (size_t i = 0; i < d->count; i++) {
        if (!jinja_equal(r, d->keys[i], key, &equal))
            return SIZE_MAX;
        if (equal)
            return i;
    }
    return d->count;
}

bool jinja_dict_set(struct jinja_run *r, struct jinja_dict *d, value_ref key, value_ref value)
{
    size_t i;

    if (key->kind == JINJA_LIST || key->kind == JINJA_DICT || key->kind == JINJA_VIEW) {
        jinja_fail(r, "a %s cannot be a key", jinja_type_name(key));
        return false;
    }
    i = dict_find(r, d, key);
    if (i > d->count)
        return false;
    if (i == d->count)
        return dict_append(r, d, key, value);
    d->values[i] = value;
    return true;
}

value_ref jinja_dict_get(struct jinja_run *r, const struct jinja_dict *d, value_ref key)
{
    size_t i;

    if (key->kind == JINJA_STRING)
        return jinja_dict_get_text(d, key->text, key->bytes);
    i = dict_find(r, d, key);
    return i < d->count ? d->values[i] : NULL;
}

value_ref jinja_dict_get_text(const struct jinja_dict *d, const char *key, size_t bytes)
{
    for (size_t i = 0; i < d->count; i++)
        if (d->keys[i]->kind == JINJA_STRING && d->keys[i]->bytes == bytes
            && memcmp(d->keys[i]->text, key, bytes) == 0)
            return d->values[i];
    return NULL;
}

static value_ref number_from_json(struct jinja_run *r, const struct json_value *v)
{
    bool whole = true, negative = v->bytes > 0 && v->text[0] == '-';
    struct jinja_value *big;
    int64_t x = 0;
    double real;

    for (size_t i = negative; i < v->bytes && whole; i++)
        whole = v->text[i] >= '0' && v->text[i] <= '9';
    if (!whole)
        return json_text_to_double(v->text, v->bytes, &real) ? jinja_float(r, real)
                                                              : jinja_out_of_memory(r);
    for (size_t i = negative; i < v->bytes; i++)
        if (__builtin_mul_overflow(x, 10, &x)
            || __builtin_add_overflow(x, negative ? '0' - v->text[i] : v->text[i] - '0', &x)) {
            big = jinja_make(r, JINJA_BIG);
            if (big != NULL) {
                big->text = v->text;
                big->bytes = v->bytes;
            }
            return big;
        }
    return jinja_int(r, x);
}

static value_ref array_from_json(struct jinja_run *r, const struct json_value *v)
{
    value_ref *items = jinja_array(r, v->count);
    size_t i = 0;

    if (items == NULL)
        return NULL;
    for (const struct json_value *each = v->first; each != NULL; each = each->next, i++) {
        items[i] = jinja_from_json(r, each);
        if (items[i] == NULL)
            return NULL;
    }
    return jinja_sequence(r, JINJA_LIST, items, v->count);
}

static value_ref object_from_json(struct jinja_run *r, const struct json_value *v)
{
    value_ref object = jinja_dict(r, JINJA_DICT, v->count);

    if (object == NULL)
        return NULL;
    for (const struct json_value *each = v->first; each != NULL; each = each->next) {
        value_ref key = jinja_string(r, each->key, each->key_bytes);
        value_ref value = key != NULL ? jinja_from_json(r, each) : NULL;

        if (value == NULL || !dict_append(r, object->dict, key, value)) /* keys differ */
            return NULL;
    }
    return object;
}

value_ref jinja_from_json(struct jinja_run *r, const struct json_value *v)
{
    switch (v->type) { /* the reader bounds the depth: JSON_DEPTH_MAX */
    case JSON_IS_NULL: return &jinja_none;
    case JSON_IS_BOOL: return jinja_bool(v->truth);
    case JSON_IS_NUMBER: return number_from_json(r, v);
    case JSON_IS_STRING: return jinja_string(r, v->text, v->bytes);
    case JSON_IS_ARRAY: return array_from_json(r, v);
    case JSON_IS_OBJECT: return object_from_json(r, v);
    }
    return NULL;
}

const char *jinja_type_name(value_ref v)
{
    static const char *const names[] = {
        [JINJA_UNDEFINED] = "Undefined", [JINJA_NONE] = "NoneType",   [JINJA_BOOL] = "bool",
        [JINJA_INT] = "int",             [JINJA_BIG] = "int",         [JINJA_FLOAT] = "float",
        [JINJA_STRING] = "str",          [JINJA_LIST] = "list",       [JINJA_TUPLE] = "tuple",
        [JINJA_VIEW] = "dict view",      [JINJA_GENERATOR] = "generator",
        [JINJA_RANGE] = "range",         [JINJA_DICT] = "dict",
        [JINJA_NAMESPACE] = "Namespace", [JINJA_MACRO] = "Macro",     [JINJA_METHOD] = "method",
        [JINJA_LOOP] = "LoopContext",    [JINJA_CYCLER] = "Cycler",   [JINJA_JOINER] = "Joiner",
    };

    return names[v->kind];
}

static int64_t range_length(value_ref v)
{
    int64_t start = v->range.start, stop = v->range.stop, step = v->range.step;
    uint64_t span, stride;

    if (step > 0 ? start >= stop : start <= stop)
        return 0;
    span = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop;
    stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    span = (span - 1) / stride;
    return span >= INT64_MAX ? INT64_MAX : (int64_t)span + 1;
}

bool jinja_length(value_ref v, int64_t *length)
{
    switch (v->kind) {
    case JINJA_UNDEFINED: *length = 0; return true;
    case JINJA_STRING: *length = (int64_t)jinja_characters(v->text, v->bytes); return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW: *length = (int64_t)v->list.count; return true;
    case JINJA_DICT: *length = (int64_t)v->dict->count; return true;
    case JINJA_RANGE: *length = range_length(v); return true;
    default: return false;
    }
}

bool jinja_truth(value_ref v)
{
    switch (v->kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE: return false;
    case JINJA_BOOL: return v->truth;
    case JINJA_INT: return v->integer != 0;
    case JINJA_FLOAT: return v->real != 0;
    case JINJA_STRING: return v->bytes > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW: return v->list.count > 0;
    case JINJA_DICT: return v->dict->count > 0;
    case JINJA_RANGE: return range_length(v) > 0;
    default: return true;
    }
}

bool jinja_as_int(value_ref v, int64_t *x)
{
    if (v->kind == JINJA_BOOL)
        *x = v->truth;
    else if (v->kind == JINJA_INT)
        *x = v->integer;
    else
        return false;
    return true;
}

bool jinja_as_float(value_ref v, double *x)
{
    int64_t i;

    if (v->kind == JINJA_FLOAT)
        *x = v->real;
    else if (jinja_as_int(v, &i))
        *x = (double)i;
    else
        return false;
    return true;
}
