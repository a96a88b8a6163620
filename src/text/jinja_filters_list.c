/* jinja_filters_list.c - filters on lists.
 *
 * What is a generator in Python is one here: it counts as true, has no length and
 * is used up by the first walk over it. Its items are computed at once; nothing
 * that a filter or test calls could tell the difference. */
#include "text/jinja_ast.h"
#include "text/jinja_case.h"
#include "text/jinja_filters.h"

static value_ref folded(struct jinja_run *r, value_ref v, value_ref case_sensitive)
{
    bool sensitive = case_sensitive != NULL && jinja_truth(case_sensitive);

    return v == NULL || sensitive || v->kind != JINJA_STRING ? v : jinja_cased(r, v, JINJA_LOWER);
}

value_ref *jinja_keys(struct jinja_run *r, const struct jinja_items *list, value_ref path,
    value_ref case_sensitive, value_ref otherwise)
{
    value_ref *keys = jinja_array(r, list->count);

    for (size_t i = 0; keys != NULL && i < list->count; i++) {
        value_ref key = jinja_path(r, list->items[i], path);

        if (key != NULL && key->kind == JINJA_UNDEFINED && otherwise != NULL)
            key = otherwise;
        keys[i] = folded(r, key, case_sensitive);
        if (keys[i] == NULL)
            return NULL;
    }
    return keys;
}

static value_ref first(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items list;

    (void)argv;
    if (v->kind == JINJA_GENERATOR && v->generator->at < v->generator->count)
        return v->generator->items[v->generator->at++];
    if (!jinja_items(r, v, &list))
        return NULL;
    return list.count > 0 ? list.items[0]
                          : jinja_undefined(r, "No first item, sequence was empty.");
}

static value_ref last(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items list;

    (void)argv;
    if (v->kind == JINJA_GENERATOR)
        return jinja_fail(r, "a generator has no last item: make it a list first");
    if (!jinja_items(r, v, &list))
        return NULL;
    return list.count > 0 ? list.items[list.count - 1]
                          : jinja_undefined(r, "No last item, sequence was empty.");
}

static value_ref length(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref name = jinja_string(r, "length", 6);
    int64_t n;

    (void)argv;
    if (v->kind == JINJA_LOOP && name != NULL)
        return jinja_loop_attribute(r, v, name);
    if (!jinja_length(v, &n))
        return jinja_fail(r, "a %s has no length", jinja_type_name(v));
    return jinja_spend(r, v->kind == JINJA_STRING ? v->bytes / 64 : 0) ? jinja_int(r, n) : NULL;
}

static value_ref list(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;

    (void)argv;
    return jinja_items(r, v, &all) ? jinja_sequence(r, JINJA_LIST, all.items, all.count) : NULL;
}

static value_ref items(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref view;

    (void)argv;
    if (v->kind == JINJA_UNDEFINED)
        return jinja_generator(r, NULL, 0);
    if (v->kind != JINJA_DICT)
        return jinja_fail(r, "items: a %s is no mapping", jinja_type_name(v));
    view = jinja_call_method(r, v, "items", NULL, 0);
    return view != NULL ? jinja_generator(r, view->list.items, view->list.count) : NULL;
}

static value_ref join(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref separator = argv[0] != NULL ? jinja_str(r, argv[0]) : &jinja_empty;
    struct text_buffer b = { 0 };
    struct jinja_items all;

    if (separator == NULL || !jinja_items(r, v, &all))
        return NULL;
    for (size_t i = 0; i < all.count; i++) {
        value_ref item = jinja_path(r, all.items[i], argv[1]);

        if (i > 0)
            text_buffer_append(&b, separator->text, separator->bytes);
        if (item == NULL || !jinja_put_str(r, &b, item) || !jinja_may_hold(r, b.count)) {
            text_buffer_free(&b);
            return NULL;
        }
    }
    return jinja_string_take(r, &b);
}

static value_ref reverse(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;
    value_ref *reversed, minus_one = jinja_int(r, -1);

    (void)argv;
    if (minus_one == NULL)
        return NULL;
    if (v->kind == JINJA_STRING)
        return jinja_slice(r, v, &jinja_none, &jinja_none, minus_one);
    reversed = jinja_items(r, v, &all) ? jinja_array(r, all.count) : NULL;
    if (reversed == NULL)
        return NULL;
    for (size_t i = 0; i < all.count; i++)
        reversed[i] = all.items[all.count - 1 - i];
    return v->kind == JINJA_GENERATOR ? jinja_sequence(r, JINJA_LIST, reversed, all.count)
                                      : jinja_generator(r, reversed, all.count);
}

static size_t *order_of(struct jinja_run *r, const value_ref *keys, size_t count,
    value_ref descending)
{
    size_t *order = text_arena_take(&r->arena, (count + 1) * sizeof(*order));

    if (order == NULL) {
        jinja_out_of_memory(r);
        return NULL;
    }
    return jinja_sort(r, keys, count, descending != NULL && jinja_truth(descending), order) ? order
                                                                                            : NULL;
}

/* The key of one item for sort: a list with a part for each attribute. */
static value_ref sort_key(struct jinja_run *r, value_ref v, value_ref paths, value_ref sensitive)
{
    struct jinja_items parts = { &paths, 1 };
    value_ref comma = jinja_string(r, ",", 1), split, *key;

    if (comma == NULL)
        return NULL;
    if (paths != NULL && paths->kind == JINJA_STRING) {
        split = jinja_call_method(r, paths, "split", &comma, 1);
        if (split == NULL)
            return NULL;
        parts = split->list;
    }
    key = jinja_array(r, parts.count);
    for (size_t i = 0; key != NULL && i < parts.count; i++) {
        key[i] = folded(r, jinja_path(r, v, parts.items[i]), sensitive);
        if (key[i] == NULL)
            return NULL;
    }
    return key != NULL ? jinja_sequence(r, JINJA_LIST, key, parts.count) : NULL;
}

static value_ref arranged(struct jinja_run *r, const struct jinja_items *all, const size_t *order)
{
    value_ref *sorted = jinja_array(r, all->count);

    for (size_t i = 0; sorted != NULL && i < all->count; i++)
        sorted[i] = all->items[order[i]];
    return sorted != NULL ? jinja_sequence(r, JINJA_LIST, sorted, all->count) : NULL;
}

static value_ref sort(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;
    value_ref *keys;
    size_t *order;

    if (!jinja_items(r, v, &all) || (keys = jinja_array(r, all.count)) == NULL)
        return NULL;
    for (size_t i = 0; i < all.count; i++) {
        keys[i] = sort_key(r, all.items[i], argv[2], argv[1]);
        if (keys[i] == NULL)
            return NULL;
    }
    order = order_of(r, keys, all.count, argv[0]);
    return order != NULL ? arranged(r, &all, order) : NULL;
}

static value_ref dictsort(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool by_value = argv[1] != NULL && jinja_is_word(argv[1], "value");
    value_ref pairs, part = jinja_int(r, by_value), *keys;
    size_t *order;

    if (argv[1] != NULL && !by_value && !jinja_is_word(argv[1], "key"))
        return jinja_fail(r, "dictsort sorts by key or by value");
    if (v->kind != JINJA_DICT)
        return jinja_fail(r, "dictsort needs a dict, not a %s", jinja_type_name(v));
    pairs = part != NULL ? jinja_call_method(r, v, "items", NULL, 0) : NULL;
    keys = pairs != NULL ? jinja_keys(r, &pairs->list, part, argv[0], NULL) : NULL;
    order = keys != NULL ? order_of(r, keys, pairs->list.count, argv[2]) : NULL;
    return order != NULL ? arranged(r, &pairs->list, order) : NULL;
}

static value_ref unique(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;
    value_ref *keys, *kept;
    size_t count = 0;

    if (!jinja_items(r, v, &all) || (kept = jinja_array(r, all.count)) == NULL
        || (keys = jinja_keys(r, &all, argv[1], argv[0], NULL)) == NULL)
        return NULL;
    for (size_t i = 0; i < all.count; i++) {
        bool seen = false;

        if (keys[i]->kind == JINJA_LIST || keys[i]->kind == JINJA_DICT)
            return jinja_fail(r, "unique: a %s cannot be compared by its hash",
                jinja_type_name(keys[i]));
        for (size_t k = 0; k < count && !seen; k++)
            if (!jinja_equal(r, keys[k], keys[i], &seen))
                return NULL;
        if (seen)
            continue;
        keys[count] = keys[i];
        kept[count++] = all.items[i];
    }
    return jinja_generator(r, kept, count);
}

/* The least, or with `most` the greatest; of equal ones the first. */
static value_ref extreme(struct jinja_run *r, value_ref v, const value_ref *argv, bool most)
{
    struct jinja_items all;
    value_ref *keys;
    size_t best = 0;

    if (!jinja_items(r, v, &all))
        return NULL;
    if (all.count == 0)
        return jinja_undefined(r, "No aggregated item, sequence was empty.");
    keys = jinja_keys(r, &all, argv[1], argv[0], NULL);
    if (keys == NULL)
        return NULL;
    for (size_t i = 1; i < all.count; i++) {
        bool ordered;
        int c;

        if (!jinja_order(r, keys[i], keys[best], &c, &ordered))
            return NULL;
        if (ordered && (most ? c > 0 : c < 0))
            best = i;
    }
    return all.items[best];
}

static value_ref least(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return extreme(r, v, argv, false);
}

static value_ref greatest(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return extreme(r, v, argv, true);
}

static value_ref sum(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref total = argv[1] != NULL ? argv[1] : jinja_int(r, 0);
    struct jinja_items all;

    if (total == NULL || !jinja_items(r, v, &all))
        return NULL;
    if (total->kind == JINJA_STRING)
        return jinja_fail(r, "sum does not add strings: use join");
    for (size_t i = 0; i < all.count && total != NULL; i++) {
        value_ref item = jinja_path(r, all.items[i], argv[0]);

        total = item != NULL ? jinja_binary(r, '+', total, item) : NULL;
    }
    return total;
}

/* (grouper, list) for the items from `from` to `to` in sorted order. */
static value_ref group(struct jinja_run *r, const struct jinja_items *all, const size_t *order,
    size_t from, size_t to, value_ref grouper)
{
    value_ref *members = jinja_array(r, to - from), list_of = NULL, pair;
    struct jinja_value *out = jinja_make(r, JINJA_TUPLE);

    if (members == NULL || out == NULL)
        return NULL;
    for (size_t i = from; i < to; i++)
        members[i - from] = all->items[order[i]];
    list_of = jinja_sequence(r, JINJA_LIST, members, to - from);
    pair = list_of != NULL ? jinja_pair(r, grouper, list_of) : NULL;
    if (pair == NULL)
        return NULL;
    *out = *pair;
    out->flavour = JINJA_GROUP;
    return out;
}

static value_ref groupby(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;
    value_ref *keys, *exact, *groups;
    size_t *order, count = 0;

    if (!jinja_items(r, v, &all) || (groups = jinja_array(r, all.count)) == NULL
        || (keys = jinja_keys(r, &all, argv[0], argv[2], argv[1])) == NULL
        || (exact = jinja_keys(r, &all, argv[0], &jinja_true, argv[1])) == NULL
        || (order = order_of(r, keys, all.count, NULL)) == NULL)
        return NULL;
    for (size_t from = 0, to; from < all.count; from = to) {
        bool equal = true;

        for (to = from + 1; to < all.count; to++)
            if (!jinja_equal(r, keys[order[from]], keys[order[to]], &equal) || !equal)
                break;
        groups[count] = r->status == STATUS_OK
                            ? group(r, &all, order, from, to, exact[order[from]])
                            : NULL;
        if (groups[count++] == NULL)
            return NULL;
    }
    return jinja_sequence(r, JINJA_LIST, groups, count);
}

/* Items [from, from + count) and, behind them, `fill` up to `room`. */
static value_ref part(struct jinja_run *r, const struct jinja_items *all, size_t from, size_t count,
    value_ref fill, size_t room)
{
    value_ref *out = jinja_array(r, count > room ? count : room);

    if (out == NULL)
        return NULL;
    if (count > 0)
        memcpy(out, all->items + from, count * sizeof(*out));
    while (fill != NULL && fill->kind != JINJA_NONE && count < room)
        out[count++] = fill;
    return jinja_sequence(r, JINJA_LIST, out, count);
}

static value_ref batch(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;
    value_ref *parts;
    int64_t size;
    size_t count = 0;

    if (!jinja_as_int(argv[0], &size) || size < 1 || size > 1000000)
        return jinja_fail(r, "batch: the size must be a number from 1 to 1000000");
    if (!jinja_items(r, v, &all) || (parts = jinja_array(r, all.count)) == NULL)
        return NULL;
    for (size_t from = 0; from < all.count; from += (size_t)size) {
        size_t rest = all.count - from;

        parts[count] = part(r, &all, from, rest < (size_t)size ? rest : (size_t)size, argv[1],
            (size_t)size);
        if (parts[count++] == NULL)
            return NULL;
    }
    return jinja_generator(r, parts, count);
}

static value_ref slice(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items all;
    value_ref *parts;
    int64_t slices;
    size_t at = 0;

    if (!jinja_as_int(argv[0], &slices) || slices < 1 || slices > 100000)
        return jinja_fail(r, "slice: the number of slices must be from 1 to 100000");
    if (!jinja_items(r, v, &all) || (parts = jinja_array(r, (size_t)slices)) == NULL)
        return NULL;
    for (size_t i = 0; i < (size_t)slices; i++) {
        size_t each = all.count / (size_t)slices, extra = i < all.count % (size_t)slices;

        parts[i] = part(r, &all, at, each + extra, extra ? NULL : argv[1], each + 1);
        if (parts[i] == NULL)
            return NULL;
        at += each + extra;
    }
    return jinja_generator(r, parts, (size_t)slices);
}

const struct jinja_builtin jinja_list_filters[] = {
    { .name = "batch", .params = "linecount fill_with", .least = 1, .call = batch },
    { .name = "count", .params = "", .call = length },
    { .name = "dictsort", .params = "case_sensitive by reverse", .call = dictsort },
    { .name = "first", .params = "", .call = first },
    { .name = "groupby", .params = "attribute default case_sensitive", .least = 1,
        .call = groupby },
    { .name = "items", .params = "", .call = items },
    { .name = "join", .params = "d attribute", .call = join },
    { .name = "last", .params = "", .call = last },
    { .name = "length", .params = "", .call = length },
    { .name = "list", .params = "", .call = list },
    { .name = "max", .params = "case_sensitive attribute", .call = greatest },
    { .name = "min", .params = "case_sensitive attribute", .call = least },
    { .name = "reverse", .params = "", .call = reverse },
    { .name = "slice", .params = "slices fill_with", .least = 1, .call = slice },
    { .name = "sort", .params = "reverse case_sensitive attribute", .call = sort },
    { .name = "sum", .params = "attribute start", .call = sum },
    { .name = "unique", .params = "case_sensitive attribute", .call = unique },
    { 0 },
};
