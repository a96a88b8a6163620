/* jinja_call.c - calls: builtins by their parameters' names, and macros. */
#include "text/jinja_ast.h"

/* The next word of a list of parameters; its length 0 at the end. */
static const char *next_word(const char *p, size_t *bytes)
{
    p += strspn(p, " ");
    *bytes = strcspn(p, " ");
    return p;
}

static bool put_argument(struct jinja_run *r, const struct jinja_builtin *row, value_ref *argv,
    unsigned i, value_ref v)
{
    if (argv[i] != NULL) {
        jinja_fail(r, "%s: an argument is given twice", row->name);
        return false;
    }
    argv[i] = v;
    return true;
}

static bool bind_named(struct jinja_run *r, const struct jinja_builtin *row,
    const struct jinja_args *args, value_ref *argv)
{
    for (size_t i = 0; i < args->named->count; i++) {
        value_ref name = args->named->keys[i];
        const char *p = row->params != NULL ? row->params : "";
        unsigned k = 0;
        size_t bytes;

        for (p = next_word(p, &bytes); bytes > 0; p = next_word(p + bytes, &bytes), k++)
            if (bytes == name->bytes && memcmp(p, name->text, bytes) == 0)
                break;
        if (bytes == 0) {
            jinja_fail(r, "%s has no argument '%.*s'", row->name, (int)name->bytes, name->text);
            return false;
        }
        if (!put_argument(r, row, argv, k, args->named->values[i]))
            return false;
    }
    return true;
}

static unsigned count_words(const char *p)
{
    unsigned count = 0;
    size_t bytes;

    for (p = next_word(p != NULL ? p : "", &bytes); bytes > 0; p = next_word(p + bytes, &bytes))
        count++;
    return count;
}

value_ref jinja_call_builtin(struct jinja_run *r, const struct jinja_builtin *row, value_ref self,
    const struct jinja_args *args)
{
    value_ref argv[JINJA_ARGUMENTS_MAX] = { NULL };
    unsigned most = count_words(row->params);

    if (row->state == JINJA_NOT_DONE)
        return jinja_fail(r, "%s is not done", row->name);
    if (row->any != NULL)
        return row->any(r, self, args);
    if (args->count > most)
        return jinja_fail(r, "%s takes at most %u arguments, not %zu", row->name, most,
            args->count);
    for (size_t i = 0; i < args->count; i++)
        argv[i] = args->items[i];
    if (!bind_named(r, row, args, argv))
        return NULL;
    for (unsigned i = 0; i < row->least; i++)
        if (argv[i] == NULL)
            return jinja_fail(r, "%s needs %u arguments", row->name, row->least);
    return row->call(r, self, argv);
}

/* The macro's parameters that were not given, from their defaults. */
static bool fill_defaults(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    size_t without = n->list.count - n->more.count;

    for (size_t i = 0; i < n->list.count; i++) {
        const struct jinja_node *parameter = n->list.items[i];
        value_ref v;

        if (f->slots[parameter->slot] != NULL)
            continue;
        if (i >= without)
            v = jinja_eval(r, n->more.items[i - without], f);
        else
            v = jinja_undefined(r, "a macro's parameter was not given");
        if (v == NULL)
            return false;
        f->slots[parameter->slot] = v;
    }
    return true;
}

/* Whether the parameter is the macro's; it gets the value then. */
static bool take_parameter(const struct jinja_node *n, struct jinja_frame *f, value_ref name,
    value_ref v, size_t given)
{
    for (size_t i = given; i < n->list.count; i++) {
        const struct jinja_node *parameter = n->list.items[i];

        if (!json_text_is(name->text, name->bytes, parameter->name))
            continue;
        f->slots[parameter->slot] = v;
        return true;
    }
    return false;
}

static bool is_caller(value_ref name)
{
    return json_text_is(name->text, name->bytes, "caller");
}

static bool bind_macro_names(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f, const struct jinja_args *args, size_t given)
{
    value_ref rest = jinja_dict(r, JINJA_DICT, 0);

    if (rest == NULL)
        return false;
    for (size_t i = 0; i < args->named->count; i++) {
        value_ref name = args->named->keys[i], v = args->named->values[i];

        if (take_parameter(n, f, name, v, given))
            continue;
        if (n->calls_caller && is_caller(name)) {
            f->slots[n->caller_slot] = v;
        } else if (!n->takes_named) {
            jinja_fail(r, "macro '%s' takes no argument '%.*s'", n->name, (int)name->bytes,
                name->text);
            return false;
        } else if (!jinja_dict_set(r, rest->dict, name, v)) {
            return false;
        }
    }
    if (n->takes_named)
        f->slots[n->named_slot] = rest;
    return true;
}

static bool bind_macro(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    const struct jinja_args *args)
{
    size_t given = args->count < n->list.count ? args->count : n->list.count;

    for (size_t i = 0; i < given; i++)
        f->slots[n->list.items[i]->slot] = args->items[i];
    if (args->count > given && !n->takes_more) {
        jinja_fail(r, "macro '%s' takes at most %zu arguments, not %zu", n->name, n->list.count,
            args->count);
        return false;
    }
    if (n->takes_more)
        f->slots[n->more_slot] = jinja_sequence(r, JINJA_TUPLE, args->items + given,
            args->count - given);
    if (n->calls_caller)
        f->slots[n->caller_slot] = jinja_undefined(r, "No caller defined");
    return bind_macro_names(r, n, f, args, given) && r->status == STATUS_OK;
}

value_ref jinja_call_macro(struct jinja_run *r, value_ref macro, const struct jinja_args *args)
{
    const struct jinja_node *n = macro->macro.node;
    struct jinja_frame *f = text_arena_take(&r->arena, sizeof(*f) + n->slot * sizeof(f->slots[0]));

    if (f == NULL)
        return jinja_out_of_memory(r);
    memset(f->slots, 0, n->slot * sizeof(f->slots[0]));
    f->outer = macro->macro.frame;
    if (!bind_macro(r, n, f, args) || !jinja_enter_scope(r, &n->scope, f)
        || !fill_defaults(r, n, f))
        return NULL;
    return jinja_run_macro(r, n, f);
}

value_ref jinja_call(struct jinja_run *r, value_ref callee, const struct jinja_args *args)
{
    char room[256];

    switch (callee->kind) {
    case JINJA_METHOD: return jinja_call_builtin(r, callee->method.row, callee->method.self, args);
    case JINJA_MACRO: return jinja_call_macro(r, callee, args);
    case JINJA_JOINER:
        if (*callee->joiner.used)
            return callee->joiner.separator;
        *callee->joiner.used = true;
        return &jinja_empty;
    case JINJA_LOOP: return jinja_fail(r, "calling loop (recursive loops) is not done");
    case JINJA_UNDEFINED:
        return jinja_fail(r, "%s", jinja_why_undefined(callee, room, sizeof(room)));
    default: return jinja_fail(r, "a %s cannot be called", jinja_type_name(callee));
    }
}
