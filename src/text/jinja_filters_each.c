/* jinja_filters_each.c - filters that call a filter or a test for every item: map,
 * select, reject and their kin. All of them give generators. */
#include "text/jinja_filters.h"

static value_ref map_attribute(struct jinja_run *r, const struct jinja_items *all,
    const struct jinja_args *args)
{
    value_ref path = jinja_dict_get_text(args->named, "attribute", 9);
    value_ref otherwise = jinja_dict_get_text(args->named, "default", 7), *out;

    if (path == NULL || args->named->count > 1 + (otherwise != NULL))
        return jinja_fail(r, "map needs a filter's name, or attribute= and default=");
    if (otherwise != NULL && otherwise->kind == JINJA_NONE)
        otherwise = NULL;
    out = jinja_keys(r, all, path, &jinja_true, otherwise);
    return out != NULL ? jinja_generator(r, out, all->count) : NULL;
}

static value_ref map(struct jinja_run *r, value_ref v, const struct jinja_args *args)
{
    struct jinja_args rest = { .items = args->items + 1, .named = args->named };
    const struct jinja_builtin *row;
    struct jinja_items all;
    value_ref *out;

    if (!jinja_truth(v))
        return jinja_generator(r, NULL, 0);
    if (!jinja_items(r, v, &all))
        return NULL;
    if (args->count == 0)
        return map_attribute(r, &all, args);
    row = args->items[0]->kind == JINJA_STRING
              ? jinja_find_filter(args->items[0]->text, args->items[0]->bytes)
              : NULL;
    if (row == NULL)
        return jinja_fail(r, "map: there is no such filter");
    rest.count = args->count - 1;
    out = jinja_array(r, all.count);
    for (size_t i = 0; out != NULL && i < all.count; i++) {
        out[i] = jinja_spend(r, 1) ? jinja_call_builtin(r, row, all.items[i], &rest) : NULL;
        if (out[i] == NULL)
            return NULL;
    }
    return out != NULL ? jinja_generator(r, out, all.count) : NULL;
}

/* What select and reject keep: items whose value passes the test, or is true. */
static value_ref choose(struct jinja_run *r, value_ref v, const struct jinja_args *args,
    bool by_path, bool wanted)
{
    struct jinja_args rest = { .named = args->named };
    const struct jinja_builtin *row = NULL;
    struct jinja_items all;
    value_ref *kept;
    size_t count = 0, name = by_path;

    if (!jinja_truth(v))
        return jinja_generator(r, NULL, 0);
    if (by_path && args->count == 0)
        return jinja_fail(r, "selectattr and rejectattr need an attribute");
    if (args->count > name) {
        if (args->items[name]->kind == JINJA_STRING)
            row = jinja_find_test(args->items[name]->text, args->items[name]->bytes);
        if (row == NULL)
            return jinja_fail(r, "select, reject: there is no such test");
        rest.items = args->items + name + 1;
        rest.count = args->count - name - 1;
    }
    if (!jinja_items(r, v, &all) || (kept = jinja_array(r, all.count)) == NULL)
        return NULL;
    for (size_t i = 0; i < all.count; i++) {
        value_ref value = by_path ? jinja_path(r, all.items[i], args->items[0]) : all.items[i];

        if (value != NULL && row != NULL)
            value = jinja_spend(r, 1) ? jinja_call_builtin(r, row, value, &rest) : NULL;
        if (value == NULL)
            return NULL;
        if (jinja_truth(value) == wanted)
            kept[count++] = all.items[i];
    }
    return jinja_generator(r, kept, count);
}

static value_ref select_items(struct jinja_run *r, value_ref v, const struct jinja_args *args)
{
    return choose(r, v, args, false, true);
}

static value_ref reject(struct jinja_run *r, value_ref v, const struct jinja_args *args)
{
    return choose(r, v, args, false, false);
}

static value_ref selectattr(struct jinja_run *r, value_ref v, const struct jinja_args *args)
{
    return choose(r, v, args, true, true);
}

static value_ref rejectattr(struct jinja_run *r, value_ref v, const struct jinja_args *args)
{
    return choose(r, v, args, true, false);
}

static const struct jinja_builtin each_filters[] = {
    { .name = "map", .any = map },
    { .name = "reject", .any = reject },
    { .name = "rejectattr", .any = rejectattr },
    { .name = "select", .any = select_items },
    { .name = "selectattr", .any = selectattr },
    { 0 },
};

const struct jinja_builtin *jinja_find_filter(const char *name, size_t bytes)
{
    const struct jinja_builtin *const tables[] = { jinja_list_filters, jinja_text_filters,
        each_filters };
    const struct jinja_builtin *row = NULL;

    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && row == NULL; i++)
        row = jinja_find_in(tables[i], name, bytes);
    if (row == NULL && json_text_is(name, bytes, jinja_filter_tojson.name))
        row = &jinja_filter_tojson;
    return row;
}
