/* jinja_compare.c - ==, <, in, is, and sorting.
 *
 * Numbers of all kinds compare with each other by value; the extended precision
 * of long double holds both 64-bit integers and doubles exactly. Strings compare
 * by code points, which is the order of UTF-8's bytes. */
#include <math.h>
#include <stdlib.h>

#include "text/jinja_ast.h"

static bool as_number(value_ref v, long double *x)
{
    int64_t i;

    if (v->kind == JINJA_FLOAT)
        *x = v->real;
    else if (jinja_as_int(v, &i))
        *x = i;
    else
        return false;
    return true;
}

static int compare_text(value_ref a, value_ref b)
{
    size_t least = a->bytes < b->bytes ? a->bytes : b->bytes;
    int c = least > 0 ? memcmp(a->text, b->text, least) : 0;

    return c != 0 ? c : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static bool equal_at(struct jinja_run *r, value_ref a, value_ref b, unsigned level, bool *result);

static bool equal_lists(struct jinja_run *r, value_ref a, value_ref b, unsigned level,
    bool *result)
{
    *result = a->list.count == b->list.count;
    for (size_t i = 0; i < a->list.count && *result; i++)
        if (!equal_at(r, a->list.items[i], b->list.items[i], level + 1, result))
            return false;
    return true;
}

static bool equal_dicts(struct jinja_run *r, const struct jinja_dict *a, const struct jinja_dict *b,
    unsigned level, bool *result)
{
    *result = a->count == b->count;
    for (size_t i = 0; i < a->count && *result; i++) {
        value_ref other = jinja_spend(r, b->count / 4) ? jinja_dict_get(r, b, a->keys[i]) : NULL;

        if (r->status != STATUS_OK)
            return false;
        *result = other != NULL;
        if (other != NULL && !equal_at(r, a->values[i], other, level + 1, result))
            return false;
    }
    return true;
}

static bool equal_ranges(value_ref a, value_ref b)
{
    int64_t n = 0, m = 0;

    jinja_length(a, &n);
    jinja_length(b, &m);
    return n == m && (n == 0 || a->range.start == b->range.start)
           && (n < 2 || a->range.step == b->range.step);
}

static bool equal_at(struct jinja_run *r, value_ref a, value_ref b, unsigned level, bool *result)
{
    long double x, y;

    if (!jinja_enter(r, level, "a comparison"))
        return false;
    *result = a == b && !(a->kind == JINJA_FLOAT && isnan(a->real));
    if (*result)
        return true;
    if (as_number(a, &x) && as_number(b, &y)) {
        *result = x == y;
        return true;
    }
    if (a->kind != b->kind)
        return true;
    switch (a->kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE: *result = true; return true;
    case JINJA_BIG:
    case JINJA_STRING:
        *result = compare_text(a, b) == 0;
        return jinja_spend(r, *result ? a->bytes / 64 : 0);
    case JINJA_LIST:
    case JINJA_TUPLE: return equal_lists(r, a, b, level, result);
    case JINJA_DICT: return equal_dicts(r, a->dict, b->dict, level, result);
    case JINJA_RANGE: *result = equal_ranges(a, b); return true;
    case JINJA_METHOD: *result = a->method.self == b->method.self && a->method.row == b->method.row;
        return true;
    case JINJA_VIEW: jinja_fail(r, "comparing dict views is not done"); return false;
    default: return true; /* by identity */
    }
}

bool jinja_equal(struct jinja_run *r, value_ref a, value_ref b, bool *result)
{
    return equal_at(r, a, b, 0, result);
}

static bool order_at(struct jinja_run *r, value_ref a, value_ref b, unsigned level, int *result,
    bool *ordered);

static bool order_lists(struct jinja_run *r, value_ref a, value_ref b, unsigned level, int *result,
    bool *ordered)
{
    size_t n = a->list.count, m = b->list.count;
    bool equal = true;

    for (size_t i = 0; i < n && i < m; i++) {
        if (!equal_at(r, a->list.items[i], b->list.items[i], level + 1, &equal))
            return false;
        if (!equal)
            return order_at(r, a->list.items[i], b->list.items[i], level + 1, result, ordered);
    }
    *result = (n > m) - (n < m);
    return true;
}

static bool order_at(struct jinja_run *r, value_ref a, value_ref b, unsigned level, int *result,
    bool *ordered)
{
    long double x, y;
    char room[256];

    if (!jinja_enter(r, level, "a comparison"))
        return false;
    *ordered = true;
    if (as_number(a, &x) && as_number(b, &y)) {
        *ordered = !isnan(x) && !isnan(y);
        *result = (x > y) - (x < y);
        return true;
    }
    if (a->kind == JINJA_STRING && b->kind == JINJA_STRING) {
        *result = compare_text(a, b);
        return true;
    }
    if (a->kind == b->kind && (a->kind == JINJA_LIST || a->kind == JINJA_TUPLE))
        return order_lists(r, a, b, level, result, ordered);
    if (a->kind == JINJA_UNDEFINED || b->kind == JINJA_UNDEFINED)
        jinja_fail(r, "%s", jinja_why_undefined(a->kind == JINJA_UNDEFINED ? a : b, room,
                                sizeof(room)));
    else if (a->kind == JINJA_BIG || b->kind == JINJA_BIG)
        jinja_fail(r, "ordering numbers beyond 64 bits is not done");
    else
        jinja_fail(r, "there is no order between %s and %s", jinja_type_name(a),
            jinja_type_name(b));
    return false;
}

bool jinja_order(struct jinja_run *r, value_ref a, value_ref b, int *result, bool *ordered)
{
    return order_at(r, a, b, 0, result, ordered);
}

static bool contains_item(struct jinja_run *r, const struct jinja_items *list, value_ref item,
    size_t *at, bool *result)
{
    *result = false;
    while (*at < list->count && !*result)
        if (!jinja_equal(r, list->items[(*at)++], item, result))
            return false;
    return true;
}

bool jinja_contains(struct jinja_run *r, value_ref container, value_ref item, bool *result)
{
    struct jinja_items list;
    size_t at = 0;

    switch (container->kind) {
    case JINJA_STRING:
        if (item->kind != JINJA_STRING) {
            jinja_fail(r, "a %s cannot be in a string", jinja_type_name(item));
            return false;
        }
        *result = memmem(container->text, container->bytes, item->text, item->bytes) != NULL;
        return jinja_spend(r, container->bytes / 64);
    case JINJA_DICT:
        if (item->kind == JINJA_LIST || item->kind == JINJA_DICT) {
            jinja_fail(r, "a %s cannot be a key", jinja_type_name(item));
            return false;
        }
        *result = jinja_spend(r, container->dict->count / 4)
                  && jinja_dict_get(r, container->dict, item) != NULL;
        return r->status == STATUS_OK;
    case JINJA_GENERATOR:
        list = (struct jinja_items){ container->generator->items, container->generator->count };
        return contains_item(r, &list, item, &container->generator->at, result);
    default:
        return jinja_items(r, container, &list) && contains_item(r, &list, item, &at, result);
    }
}

/* Python shares small numbers, and True, False and None; of other equal numbers
 * and strings only its memory knows. */
bool jinja_same(struct jinja_run *r, value_ref a, value_ref b, bool *result)
{
    *result = a == b;
    if (*result || a->kind != b->kind)
        return true;
    switch (a->kind) {
    case JINJA_NONE: *result = true; return true;
    case JINJA_BOOL: *result = a->truth == b->truth; return true;
    case JINJA_INT:
        if (a->integer != b->integer || (a->integer >= -5 && a->integer <= 256)) {
            *result = a->integer == b->integer;
            return true;
        }
        break;
    case JINJA_STRING:
        if (compare_text(a, b) != 0)
            return true;
        break;
    case JINJA_FLOAT:
        if (a->real != b->real)
            return true;
        break;
    default: return true;
    }
    jinja_fail(r, "sameas between equal values has no fixed answer: use ==");
    return false;
}

/* A bottom-up merge sort, so that the order is stable and a failing comparison
 * ends it. Descending keeps equal ones in their order, too, as sorted() does. */
static bool merge(struct jinja_run *r, const value_ref *keys, const size_t *from, size_t *to,
    size_t low, size_t middle, size_t high, bool reverse)
{
    size_t i = low, j = middle;

    for (size_t k = low; k < high; k++) {
        int order = 0;
        bool ordered = true;

        if (i < middle && j < high
            && !jinja_order(r, keys[from[j]], keys[from[i]], &order, &ordered))
            return false;
        if (j >= high || (i < middle && !(ordered && (reverse ? order > 0 : order < 0))))
            to[k] = from[i++];
        else
            to[k] = from[j++];
    }
    return true;
}

bool jinja_sort(struct jinja_run *r, const value_ref *keys, size_t count, bool reverse,
    size_t *order)
{
    size_t *other = text_arena_take(&r->arena, (count + 1) * sizeof(*other));
    size_t *from = order, *to = other;

    if (other == NULL)
        return jinja_out_of_memory(r) != NULL;
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t width = 1; width < count; width *= 2) {
        size_t *swap = from;

        for (size_t low = 0; low < count; low += 2 * width) {
            size_t middle = low + width < count ? low + width : count;
            size_t high = middle + width < count ? middle + width : count;

            if (!merge(r, keys, from, to, low, middle, high, reverse))
                return false;
        }
        from = to;
        to = swap;
    }
    if (from != order)
        memcpy(order, from, count * sizeof(*order));
    return true;
}
