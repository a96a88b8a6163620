/* jinja_functions.c - what a template can call by name, and the methods of values
 * other than strings. */
#include <stdio.h>
#include <time.h>

#include "text/jinja_ast.h"
#include "text/jinja_methods.h"

const struct jinja_builtin *jinja_find_in(const struct jinja_builtin *rows, const char *name,
    size_t bytes)
{
    for (; rows->name != NULL; rows++)
        if (json_text_is(name, bytes, rows->name))
            return rows;
    return NULL;
}

static value_ref range(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    struct jinja_value *v = jinja_make(r, JINJA_RANGE);
    int64_t bounds[3] = { 0, 0, 1 }, length = 0;
    int count = argv[2] != NULL ? 3 : argv[1] != NULL ? 2 : 1;

    (void)self;
    if (v == NULL)
        return NULL;
    for (int i = 0; i < count; i++)
        if (!jinja_as_int(argv[i], &bounds[count == 1 ? 1 : i]))
            return jinja_fail(r, "range needs whole numbers, not a %s", jinja_type_name(argv[i]));
    if (bounds[2] == 0)
        return jinja_fail(r, "range: the step must not be 0");
    v->range.start = bounds[0];
    v->range.stop = bounds[1];
    v->range.step = bounds[2];
    jinja_length(v, &length);
    return length <= 100000 ? v : jinja_fail(r, "a range has more than 100000 numbers");
}

/* dict(mapping or pairs, name=value, ...), also namespace's arguments. */
static value_ref fill_dict(struct jinja_run *r, enum jinja_kind kind, const struct jinja_args *args)
{
    value_ref out = jinja_dict(r, kind, 0), from = args->count > 0 ? args->items[0] : NULL;
    struct jinja_items pairs, pair;

    if (out == NULL || args->count > 1)
        return out == NULL ? NULL : jinja_fail(r, "dict takes at most one argument by position");
    if (from != NULL && from->kind == JINJA_DICT) {
        for (size_t i = 0; i < from->dict->count; i++)
            if (!jinja_dict_set(r, out->dict, from->dict->keys[i], from->dict->values[i]))
                return NULL;
    } else if (from != NULL) {
        if (!jinja_items(r, from, &pairs))
            return NULL;
        for (size_t i = 0; i < pairs.count; i++) {
            if (!jinja_items(r, pairs.items[i], &pair))
                return NULL;
            if (pair.count != 2)
                return jinja_fail(r, "dict needs pairs");
            if (!jinja_dict_set(r, out->dict, pair.items[0], pair.items[1]))
                return NULL;
        }
    }
    for (size_t i = 0; i < args->named->count; i++)
        if (!jinja_dict_set(r, out->dict, args->named->keys[i], args->named->values[i]))
            return NULL;
    return out;
}

static value_ref dict(struct jinja_run *r, value_ref self, const struct jinja_args *args)
{
    (void)self;
    return fill_dict(r, JINJA_DICT, args);
}

static value_ref namespace(struct jinja_run *r, value_ref self, const struct jinja_args *args)
{
    value_ref v = fill_dict(r, JINJA_NAMESPACE, args);

    (void)self;
    for (size_t i = 0; v != NULL && i < v->dict->count; i++)
        if (v->dict->keys[i]->kind == JINJA_STRING && v->dict->keys[i]->bytes > 0
            && v->dict->keys[i]->text[0] == '_')
            return jinja_fail(r, "a namespace may not store names that begin with _");
    return v;
}

static value_ref raise_exception(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    value_ref text = jinja_str(r, argv[0]);

    (void)self;
    return text != NULL ? jinja_fail(r, "%.*s", (int)(text->bytes < 600 ? text->bytes : 600),
                              text->text)
                        : NULL;
}

static value_ref strftime_now(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    time_t now = time(NULL);
    struct tm local;
    char format[256], text[1024];
    size_t bytes;

    (void)self;
    if (argv[0]->kind != JINJA_STRING || argv[0]->bytes >= sizeof(format) - 1
        || memchr(argv[0]->text, '\0', argv[0]->bytes) != NULL)
        return jinja_fail(r, "strftime_now needs a format of at most 254 bytes");
    if (memmem(argv[0]->text, argv[0]->bytes, "%f", 2) != NULL)
        return jinja_fail(r, "strftime_now: %%f is not done");
    if (argv[0]->bytes == 0)
        return &jinja_empty;
    memcpy(format, argv[0]->text, argv[0]->bytes);
    format[argv[0]->bytes] = '.'; /* so that an empty result is none */
    format[argv[0]->bytes + 1] = '\0';
    localtime_r(&now, &local);
    bytes = strftime(text, sizeof(text), format, &local);
    return bytes > 0 ? jinja_string_copy(r, text, bytes - 1)
                     : jinja_fail(r, "strftime_now: the text is too long");
}

static value_ref cycler(struct jinja_run *r, value_ref self, const struct jinja_args *args)
{
    struct jinja_cycler *c = text_arena_take(&r->arena, sizeof(*c));
    struct jinja_value *v = jinja_make(r, JINJA_CYCLER);

    (void)self;
    if (v == NULL || c == NULL)
        return jinja_out_of_memory(r);
    if (args->count == 0 || args->named->count > 0)
        return jinja_fail(r, "cycler needs items");
    *c = (struct jinja_cycler){ .items = args->items, .count = args->count };
    v->cycler = c;
    return v;
}

static value_ref joiner(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    bool *used = text_arena_take(&r->arena, sizeof(*used));
    struct jinja_value *v = jinja_make(r, JINJA_JOINER);
    value_ref separator = argv[0] != NULL ? argv[0] : jinja_string(r, ", ", 2);

    (void)self;
    if (v == NULL || used == NULL || separator == NULL)
        return jinja_out_of_memory(r);
    *used = false;
    v->joiner.separator = separator;
    v->joiner.used = used;
    return v;
}

static const struct jinja_builtin global_rows[] = {
    { .name = "range", .params = ". . .", .least = 1, .call = range },
    { .name = "dict", .any = dict },
    { .name = "namespace", .any = namespace },
    { .name = "raise_exception", .params = "message", .least = 1, .call = raise_exception },
    { .name = "strftime_now", .params = "format", .least = 1, .call = strftime_now },
    { .name = "cycler", .any = cycler },
    { .name = "joiner", .params = "sep", .call = joiner },
    { .name = "lipsum", .params = "", .state = JINJA_NOT_DONE },
};

enum { GLOBALS = sizeof(global_rows) / sizeof(global_rows[0]) };

#define FUNCTION(i) { .kind = JINJA_METHOD, .method.row = &global_rows[i] }
static const struct jinja_value globals[GLOBALS] = { FUNCTION(0), FUNCTION(1), FUNCTION(2),
    FUNCTION(3), FUNCTION(4), FUNCTION(5), FUNCTION(6), FUNCTION(7) };

value_ref jinja_find_global(const char *name, size_t bytes)
{
    for (int i = 0; i < GLOBALS; i++)
        if (json_text_is(name, bytes, global_rows[i].name))
            return &globals[i];
    return NULL;
}

static value_ref view(struct jinja_run *r, value_ref self, enum jinja_flavour flavour)
{
    const struct jinja_dict *d = self->dict;
    struct jinja_value *v = jinja_make(r, JINJA_VIEW);
    value_ref *items = flavour == JINJA_VIEW_ITEMS ? jinja_array(r, d->count) : NULL;

    if (v == NULL || !jinja_spend(r, d->count / 4))
        return NULL;
    v->flavour = flavour;
    v->list.count = d->count;
    v->list.items = flavour == JINJA_VIEW_KEYS ? d->keys : d->values;
    if (flavour != JINJA_VIEW_ITEMS)
        return v;
    v->list.items = items;
    for (size_t i = 0; items != NULL && i < d->count; i++) {
        items[i] = jinja_pair(r, d->keys[i], d->values[i]);
        if (items[i] == NULL)
            return NULL;
    }
    return items != NULL ? v : NULL;
}

static value_ref dict_keys(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    (void)argv;
    return view(r, self, JINJA_VIEW_KEYS);
}

static value_ref dict_values(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    (void)argv;
    return view(r, self, JINJA_VIEW_VALUES);
}

static value_ref dict_items(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    (void)argv;
    return view(r, self, JINJA_VIEW_ITEMS);
}

static value_ref dict_get(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    value_ref found;

    if (argv[0]->kind == JINJA_LIST || argv[0]->kind == JINJA_DICT)
        return jinja_fail(r, "a %s cannot be a key", jinja_type_name(argv[0]));
    found = jinja_spend(r, self->dict->count / 4) ? jinja_dict_get(r, self->dict, argv[0]) : NULL;
    if (found != NULL || r->status != STATUS_OK)
        return found;
    return argv[1] != NULL ? argv[1] : &jinja_none;
}

static value_ref copy(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    struct jinja_value *v = jinja_make(r, self->kind); /* no value changes: a new identity */

    (void)argv;
    if (v != NULL)
        *v = *self;
    return v;
}

static const struct jinja_builtin dict_rows[] = {
    { .name = "keys", .params = "", .call = dict_keys },
    { .name = "values", .params = "", .call = dict_values },
    { .name = "items", .params = "", .call = dict_items },
    { .name = "get", .params = ". .", .least = 1, .call = dict_get },
    { .name = "copy", .params = "", .call = copy },
    { .name = "fromkeys", .state = JINJA_NOT_DONE },
    { .name = "clear", .state = JINJA_FORBIDDEN },
    { .name = "pop", .state = JINJA_FORBIDDEN },
    { .name = "popitem", .state = JINJA_FORBIDDEN },
    { .name = "setdefault", .state = JINJA_FORBIDDEN },
    { .name = "update", .state = JINJA_FORBIDDEN },
    { 0 },
};

static value_ref list_count(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    int64_t count = 0;

    for (size_t i = 0; i < self->list.count; i++) {
        bool equal;

        if (!jinja_equal(r, self->list.items[i], argv[0], &equal))
            return NULL;
        count += equal;
    }
    return jinja_int(r, count);
}

static value_ref list_index(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    for (size_t i = 0; i < self->list.count; i++) {
        bool equal;

        if (!jinja_equal(r, self->list.items[i], argv[0], &equal))
            return NULL;
        if (equal)
            return jinja_int(r, (int64_t)i);
    }
    return jinja_fail(r, "index: the value is not in the list");
}

static const struct jinja_builtin list_rows[] = {
    { .name = "count", .params = ".", .least = 1, .call = list_count },
    { .name = "index", .params = ".", .least = 1, .call = list_index },
    { .name = "copy", .params = "", .call = copy },
    { .name = "append", .state = JINJA_FORBIDDEN },
    { .name = "clear", .state = JINJA_FORBIDDEN },
    { .name = "extend", .state = JINJA_FORBIDDEN },
    { .name = "insert", .state = JINJA_FORBIDDEN },
    { .name = "pop", .state = JINJA_FORBIDDEN },
    { .name = "remove", .state = JINJA_FORBIDDEN },
    { .name = "reverse", .state = JINJA_FORBIDDEN },
    { .name = "sort", .state = JINJA_FORBIDDEN },
    { 0 },
};

static const struct jinja_builtin tuple_rows[] = {
    { .name = "count", .params = ".", .least = 1, .call = list_count },
    { .name = "index", .params = ".", .least = 1, .call = list_index },
    { 0 },
};

static value_ref cycler_next(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    struct jinja_cycler *c = self->cycler;
    value_ref v = c->items[c->at];

    (void)r;
    (void)argv;
    c->at = (c->at + 1) % c->count;
    return v;
}

static value_ref cycler_reset(struct jinja_run *r, value_ref self, const value_ref *argv)
{
    (void)r;
    (void)argv;
    self->cycler->at = 0;
    return &jinja_none;
}

static const struct jinja_builtin cycler_rows[] = {
    { .name = "next", .params = "", .call = cycler_next },
    { .name = "reset", .params = "", .call = cycler_reset },
    { 0 },
};

/* What numbers have in Python; nothing of it is done. */
static const struct jinja_builtin number_rows[] = {
    { .name = "real", .state = JINJA_NOT_DONE },
    { .name = "imag", .state = JINJA_NOT_DONE },
    { .name = "numerator", .state = JINJA_NOT_DONE },
    { .name = "denominator", .state = JINJA_NOT_DONE },
    { .name = "conjugate", .state = JINJA_NOT_DONE },
    { .name = "bit_length", .state = JINJA_NOT_DONE },
    { .name = "bit_count", .state = JINJA_NOT_DONE },
    { .name = "as_integer_ratio", .state = JINJA_NOT_DONE },
    { .name = "is_integer", .state = JINJA_NOT_DONE },
    { .name = "hex", .state = JINJA_NOT_DONE },
    { .name = "fromhex", .state = JINJA_NOT_DONE },
    { .name = "to_bytes", .state = JINJA_NOT_DONE },
    { .name = "from_bytes", .state = JINJA_NOT_DONE },
    { 0 },
};

const struct jinja_builtin *jinja_find_method(value_ref v, const char *name, size_t bytes)
{
    static const struct jinja_builtin *const tables[] = {
        [JINJA_STRING] = jinja_string_methods, [JINJA_DICT] = dict_rows, [JINJA_LIST] = list_rows,
        [JINJA_TUPLE] = tuple_rows, [JINJA_CYCLER] = cycler_rows, [JINJA_BOOL] = number_rows,
        [JINJA_INT] = number_rows, [JINJA_BIG] = number_rows, [JINJA_FLOAT] = number_rows,
        [JINJA_JOINER] = NULL,
    };

    return tables[v->kind] != NULL ? jinja_find_in(tables[v->kind], name, bytes) : NULL;
}
