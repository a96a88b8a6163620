/* jinja_access.c - v.name, v[key] and v[a:b:c] as the sandbox does them.
 *
 * v.name looks for a method first and for a key of that name second; v[key] the
 * other way round. So `schema.items` is a dict's method, whatever keys it has. What
 * is not there is undefined, not an error; an error comes when that is used. */
#include <stdlib.h>

#include "text/jinja_ast.h"
#include "text/utf8.h"

static value_ref missing(struct jinja_run *r, value_ref owner, value_ref name)
{
    struct jinja_value *v = jinja_make(r, JINJA_UNDEFINED);
    const char *text = "such element";

    if (v == NULL)
        return NULL;
    if (name->kind == JINJA_STRING)
        text = text_arena_copy(&r->arena, name->text, name->bytes);
    if (text == NULL)
        return jinja_out_of_memory(r);
    v->missing = (struct jinja_missing){ .name = text, .owner = jinja_type_name(owner) };
    return v;
}

static value_ref fail_undefined(struct jinja_run *r, value_ref v)
{
    char room[256];

    return jinja_fail(r, "%s", jinja_why_undefined(v, room, sizeof(room)));
}

static bool is_private(value_ref name)
{
    return name->bytes > 4 && memcmp(name->text, "__", 2) == 0
           && memcmp(name->text + name->bytes - 2, "__", 2) == 0;
}

/* What has a value of its own behind a name, but is no method. NULL: none. */
static value_ref property(struct jinja_run *r, value_ref v, value_ref name)
{
    switch (v->kind) {
    case JINJA_LOOP: return jinja_loop_attribute(r, v, name);
    case JINJA_MACRO:
        return jinja_is_word(name, "name") ? jinja_string(r, v->macro.name, strlen(v->macro.name)) : NULL;
    case JINJA_CYCLER:
        return jinja_is_word(name, "current") ? v->cycler->items[v->cycler->at] : NULL;
    case JINJA_RANGE:
        return jinja_is_word(name, "start")  ? jinja_int(r, v->range.start)
               : jinja_is_word(name, "stop") ? jinja_int(r, v->range.stop)
               : jinja_is_word(name, "step") ? jinja_int(r, v->range.step)
                                       : NULL;
    case JINJA_TUPLE:
        if (v->flavour != JINJA_GROUP)
            return NULL;
        return jinja_is_word(name, "grouper") ? v->list.items[0]
               : jinja_is_word(name, "list")  ? v->list.items[1]
                                        : NULL;
    default: return NULL;
    }
}

/* getattr(v, name): NULL without an error if there is none. */
static value_ref own_attribute(struct jinja_run *r, value_ref v, value_ref name)
{
    const struct jinja_builtin *row = jinja_find_method(v, name->text, name->bytes);
    struct jinja_value *method;
    value_ref found;

    if (v->kind == JINJA_NAMESPACE)
        return jinja_spend(r, v->dict->count / 4)
                   ? jinja_dict_get_text(v->dict, name->text, name->bytes)
                   : NULL;
    found = property(r, v, name);
    if (found != NULL || r->status != STATUS_OK)
        return found;
    if (is_private(name) && v->kind != JINJA_DICT)
        return jinja_fail(r, "attribute %.*s is not open to templates", (int)name->bytes, name->text);
    if (row == NULL)
        return NULL;
    if (row->state == JINJA_NOT_DONE)
        return jinja_fail(r, "%s.%s is not done", jinja_type_name(v), row->name);
    if (row->state == JINJA_FORBIDDEN)
        return jinja_undefined(r, "templates may not change lists and dicts (append, update, ...)");
    method = jinja_make(r, JINJA_METHOD);
    if (method != NULL) {
        method->method.self = v;
        method->method.row = row;
    }
    return method;
}

value_ref jinja_attribute(struct jinja_run *r, value_ref v, value_ref name)
{
    value_ref found;

    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(r, v);
    found = own_attribute(r, v, name);
    if (found == NULL && r->status == STATUS_OK && v->kind == JINJA_DICT
        && jinja_spend(r, v->dict->count / 4))
        found = jinja_dict_get_text(v->dict, name->text, name->bytes);
    if (found == NULL && r->status == STATUS_OK)
        found = missing(r, v, name);
    return found;
}

static value_ref character(struct jinja_run *r, value_ref v, int64_t i)
{
    size_t at = jinja_offset(v->text, v->bytes, (size_t)i), length;
    struct jinja_value *c = jinja_make(r, JINJA_STRING);

    if (c == NULL || !jinja_spend(r, v->bytes / 64))
        return NULL;
    utf8_decode(v->text + at, &length);
    c->text = v->text + at;
    c->bytes = length;
    c->flavour = v->flavour;
    return c;
}

/* v[i] of a sequence; NULL without an error if there is none. */
static value_ref element(struct jinja_run *r, value_ref v, int64_t i)
{
    int64_t length;

    if (v->kind == JINJA_VIEW || !jinja_length(v, &length))
        return NULL;
    if (i < 0)
        i += length;
    if (i < 0 || i >= length)
        return NULL;
    if (v->kind == JINJA_STRING)
        return character(r, v, i);
    if (v->kind == JINJA_RANGE)
        return jinja_int(r, v->range.start + i * v->range.step);
    return v->list.items[i];
}

value_ref jinja_item(struct jinja_run *r, value_ref v, value_ref key)
{
    value_ref found = NULL;
    int64_t i;

    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(r, v);
    if (v->kind == JINJA_DICT) {
        if (jinja_spend(r, v->dict->count / 4) && key->kind != JINJA_LIST
            && key->kind != JINJA_DICT)
            found = jinja_dict_get(r, v->dict, key);
    } else if (jinja_as_int(key, &i)) {
        found = element(r, v, i);
    }
    if (found == NULL && r->status == STATUS_OK && key->kind == JINJA_STRING)
        found = own_attribute(r, v, key);
    if (found == NULL && r->status == STATUS_OK)
        found = missing(r, v, key);
    return found;
}

/* A bound of a slice, moved into [low, high]; false, with an error, if it is no number. */
static bool slice_bound(struct jinja_run *r, value_ref v, int64_t length, int64_t low, int64_t high,
    int64_t missing_value, int64_t *out)
{
    if (v->kind == JINJA_NONE) {
        *out = missing_value;
        return true;
    }
    if (v->kind == JINJA_UNDEFINED || !jinja_as_int(v, out)) {
        jinja_fail(r, "a slice needs whole numbers, not a %s", jinja_type_name(v));
        return false;
    }
    if (*out < 0)
        *out = *out < -length ? low : *out + length;
    if (*out < low)
        *out = low;
    if (*out > high)
        *out = high;
    return true;
}

static value_ref slice_range(struct jinja_run *r, value_ref v, int64_t start, int64_t stop,
    int64_t step)
{
    struct jinja_value *out = jinja_make(r, JINJA_RANGE);

    if (out == NULL)
        return NULL;
    if (__builtin_mul_overflow(v->range.step, step, &out->range.step))
        return jinja_fail(r, "a slice's step is too large");
    out->range.start = v->range.start + start * v->range.step;
    out->range.stop = v->range.start + stop * v->range.step;
    return out;
}

static value_ref slice_list(struct jinja_run *r, value_ref v, int64_t start, int64_t count,
    int64_t step)
{
    value_ref *items;

    if (step == 1)
        return jinja_sequence(r, v->kind, v->list.items + (count > 0 ? start : 0), (size_t)count);
    items = jinja_spend(r, (uint64_t)count / 4) ? jinja_array(r, (size_t)count) : NULL;
    if (items == NULL)
        return NULL;
    for (int64_t i = 0; i < count; i++)
        items[i] = v->list.items[start + i * step];
    return jinja_sequence(r, v->kind, items, (size_t)count);
}

static value_ref slice_string(struct jinja_run *r, value_ref v, int64_t start, int64_t count,
    int64_t step)
{
    struct text_buffer b = { 0 };
    struct jinja_items all;
    struct jinja_value *out = jinja_make(r, JINJA_STRING);
    value_ref joined;

    if (out == NULL || !jinja_spend(r, v->bytes / 64))
        return NULL;
    out->flavour = v->flavour;
    if (step == 1 || count == 0) {
        size_t from = jinja_offset(v->text, v->bytes, (size_t)(count > 0 ? start : 0));

        out->text = v->text + from;
        out->bytes = jinja_offset(v->text + from, v->bytes - from, (size_t)count);
        return out;
    }
    if (!jinja_items(r, v, &all))
        return NULL;
    for (int64_t i = 0; i < count; i++)
        text_buffer_append(&b, all.items[start + i * step]->text,
            all.items[start + i * step]->bytes);
    joined = jinja_string_take(r, &b);
    if (joined == NULL)
        return NULL;
    out->text = joined->text;
    out->bytes = joined->bytes;
    return out;
}

value_ref jinja_slice(struct jinja_run *r, value_ref v, value_ref from, value_ref to, value_ref by)
{
    int64_t length = 0, step = 1, start = 0, stop = 0, count = 0, low, high;

    if (v->kind == JINJA_UNDEFINED)
        return fail_undefined(r, v);
    if (v->kind == JINJA_VIEW || v->kind == JINJA_DICT || !jinja_length(v, &length))
        return jinja_fail(r, "a %s cannot be sliced", jinja_type_name(v));
    if (by->kind != JINJA_NONE && !jinja_as_int(by, &step))
        return jinja_fail(r, "a slice's step must be a whole number");
    if (step == 0)
        return jinja_fail(r, "a slice's step must not be 0");
    if (v->kind == JINJA_RANGE && (step > INT32_MAX || step < -INT32_MAX))
        return jinja_fail(r, "a slice's step is too large");
    if (step < -length - 1 && v->kind != JINJA_RANGE) /* beyond the ends all steps are one */
        step = -length - 1;
    if (step > length + 1 && v->kind != JINJA_RANGE)
        step = length + 1;
    low = step < 0 ? -1 : 0;
    high = step < 0 ? length - 1 : length;
    if (!slice_bound(r, from, length, low, high, step < 0 ? high : 0, &start)
        || !slice_bound(r, to, length, low, high, step < 0 ? -1 : length, &stop))
        return NULL;
    if (step > 0 && stop > start)
        count = (stop - start - 1) / step + 1;
    if (step < 0 && start > stop)
        count = (start - stop - 1) / -step + 1;
    if (v->kind == JINJA_RANGE)
        return slice_range(r, v, start, stop, step);
    return v->kind == JINJA_STRING ? slice_string(r, v, start, count, step)
                                   : slice_list(r, v, start, count, step);
}

/* One part of a path: digits are a number. */
static value_ref path_key(struct jinja_run *r, const char *text, size_t bytes)
{
    int64_t i;

    if (json_text_to_id(text, bytes, INT64_MAX, &i))
        return jinja_int(r, i);
    return jinja_string(r, text, bytes);
}

value_ref jinja_path(struct jinja_run *r, value_ref v, value_ref path)
{
    size_t at = 0;

    if (path == NULL || path->kind == JINJA_NONE)
        return v;
    if (path->kind != JINJA_STRING)
        return jinja_item(r, v, path);
    while (v != NULL) {
        const char *dot = memchr(path->text + at, '.', path->bytes - at);
        size_t end = dot == NULL ? path->bytes : (size_t)(dot - path->text);
        value_ref key = path_key(r, path->text + at, end - at);

        v = key != NULL ? jinja_item(r, v, key) : NULL;
        if (dot == NULL)
            break;
        at = end + 1;
    }
    return v;
}
