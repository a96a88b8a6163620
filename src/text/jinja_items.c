/* jinja_items.c - what a loop over a value gives, as one array. */
#include "text/jinja_ast.h"
#include "text/utf8.h"

bool jinja_is_iterable(value_ref v)
{
    switch (v->kind) {
    case JINJA_UNDEFINED:
    case JINJA_STRING:
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
    case JINJA_GENERATOR:
    case JINJA_RANGE:
    case JINJA_DICT:
    case JINJA_LOOP: return true;
    default: return false;
    }
}

static bool characters(struct jinja_run *r, value_ref v, struct jinja_items *out)
{
    size_t count = jinja_characters(v->text, v->bytes), at = 0, length;
    value_ref *items = jinja_array(r, count);

    if (items == NULL || !jinja_spend(r, count))
        return false;
    for (size_t i = 0; i < count; i++, at += length) {
        utf8_decode(v->text + at, &length);
        items[i] = jinja_string(r, v->text + at, length);
        if (items[i] == NULL)
            return false;
    }
    *out = (struct jinja_items){ items, count };
    return true;
}

static bool numbers(struct jinja_run *r, value_ref v, struct jinja_items *out)
{
    int64_t count = 0;
    value_ref *items;

    jinja_length(v, &count);
    items = jinja_spend(r, (uint64_t)count) ? jinja_array(r, (size_t)count) : NULL;
    if (items == NULL)
        return false;
    for (int64_t i = 0; i < count; i++) {
        items[i] = jinja_int(r, v->range.start + i * v->range.step);
        if (items[i] == NULL)
            return false;
    }
    *out = (struct jinja_items){ items, (size_t)count };
    return true;
}

bool jinja_items(struct jinja_run *r, value_ref v, struct jinja_items *out)
{
    struct jinja_generator *g;

    switch (v->kind) {
    case JINJA_UNDEFINED:
        *out = (struct jinja_items){ 0 };
        return true;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW:
        *out = v->list;
        return jinja_spend(r, v->list.count / 8);
    case JINJA_DICT:
        *out = (struct jinja_items){ v->dict->keys, v->dict->count };
        return jinja_spend(r, v->dict->count / 8);
    case JINJA_GENERATOR:
        g = v->generator;
        *out = (struct jinja_items){ g->items + g->at, g->count - g->at };
        g->at = g->count;
        return jinja_spend(r, out->count / 8);
    case JINJA_STRING: return characters(r, v, out);
    case JINJA_RANGE: return numbers(r, v, out);
    case JINJA_LOOP: jinja_fail(r, "walking over `loop` itself is not done"); return false;
    default: jinja_fail(r, "'%s' object is not iterable", jinja_type_name(v)); return false;
    }
}
