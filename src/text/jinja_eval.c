/* jinja_eval.c - expressions.
 *
 * One function a kind of node, chosen by a table. run.line is the node's while it
 * works and its parent's again when it is done, so an error names the line of the
 * operation, not of the last operand. */
#include "text/jinja_ast.h"

typedef value_ref evaluator(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f);

static value_ref *eval_list(struct jinja_run *r, const struct jinja_list *list,
    struct jinja_frame *f)
{
    value_ref *items = jinja_array(r, list->count);

    for (size_t i = 0; items != NULL && i < list->count; i++) {
        items[i] = jinja_eval(r, list->items[i], f);
        if (items[i] == NULL)
            return NULL;
    }
    return items;
}

static value_ref eval_const(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    (void)r;
    (void)f;
    return n->value;
}

static struct jinja_frame *frame_of(const struct jinja_node *n, struct jinja_frame *f)
{
    for (unsigned hops = n->hops; hops > 0; hops--)
        f = f->outer;
    return f;
}

static value_ref eval_name(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = frame_of(n, f)->slots[n->slot];
    struct jinja_value *missing;

    if (v != NULL)
        return v;
    missing = jinja_make(r, JINJA_UNDEFINED);
    if (missing != NULL)
        missing->missing.name = n->name;
    return missing;
}

static value_ref eval_sequence(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f)
{
    value_ref *items = eval_list(r, &n->list, f);

    return items == NULL ? NULL
                         : jinja_sequence(r, n->kind == NODE_LIST ? JINJA_LIST : JINJA_TUPLE,
                               items, n->list.count);
}

static value_ref eval_dict(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref d = jinja_dict(r, JINJA_DICT, n->list.count);

    for (size_t i = 0; d != NULL && i < n->list.count; i++) {
        value_ref key = jinja_eval(r, n->list.items[i], f);
        value_ref value = key != NULL ? jinja_eval(r, n->more.items[i], f) : NULL;

        if (value == NULL || !jinja_dict_set(r, d->dict, key, value))
            return NULL;
    }
    return d;
}

static value_ref eval_unary(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->a, f);

    if (v == NULL)
        return NULL;
    if (n->kind == NODE_NOT)
        return jinja_bool(!jinja_truth(v));
    return n->kind == NODE_NEGATE ? jinja_negate(r, v) : jinja_plus(r, v);
}

static value_ref eval_binary(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref a = jinja_eval(r, n->a, f), b = a != NULL ? jinja_eval(r, n->b, f) : NULL;

    return b != NULL ? jinja_binary(r, n->op, a, b) : NULL;
}

static value_ref eval_logic(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref a = jinja_eval(r, n->a, f);

    if (a == NULL || jinja_truth(a) == (n->kind == NODE_OR))
        return a;
    return jinja_eval(r, n->b, f);
}

static bool compare(struct jinja_run *r, char op, value_ref a, value_ref b, bool *result)
{
    bool ordered = true, ok;
    int order = 0;

    switch (op) {
    case OP_EQUAL: return jinja_equal(r, a, b, result);
    case OP_DIFFERENT:
        ok = jinja_equal(r, a, b, result);
        *result = !*result;
        return ok;
    case OP_IN: return jinja_contains(r, b, a, result);
    case OP_NOT_IN:
        ok = jinja_contains(r, b, a, result);
        *result = !*result;
        return ok;
    default: break;
    }
    if (!jinja_order(r, a, b, &order, &ordered))
        return false;
    *result = ordered
              && (op == '<'            ? order < 0
                  : op == '>'          ? order > 0
                  : op == OP_AT_MOST ? order <= 0
                                       : order >= 0);
    return true;
}

/* a < b < c means a < b and b < c, and stops at the first that is false. */
static value_ref eval_compare(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f)
{
    value_ref a = jinja_eval(r, n->a, f);
    bool result = true;

    for (size_t i = 0; a != NULL && result && i < n->list.count; i++) {
        const struct jinja_node *operand = n->list.items[i];
        value_ref b = jinja_eval(r, operand->a, f);

        if (b == NULL || !compare(r, operand->op, a, b, &result))
            return NULL;
        a = b;
    }
    return a != NULL ? jinja_bool(result) : NULL;
}

static value_ref eval_concat(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    struct text_buffer b = { 0 };
    value_ref *items = eval_list(r, &n->list, f);

    for (size_t i = 0; items != NULL && i < n->list.count; i++)
        if (!jinja_put_str(r, &b, items[i]) || !jinja_may_hold(r, b.count))
            items = NULL;
    if (items != NULL && jinja_spend(r, b.count / 64))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

static value_ref eval_choice(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref test = jinja_eval(r, n->a, f);

    if (test == NULL)
        return NULL;
    if (jinja_truth(test))
        return jinja_eval(r, n->b, f);
    if (n->c != NULL)
        return jinja_eval(r, n->c, f);
    return jinja_undefined(r, "an inline if was false and has no else");
}

static value_ref eval_attribute(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->a, f);

    return v != NULL ? jinja_attribute(r, v, n->value) : NULL;
}

static value_ref eval_item(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->a, f), key = v != NULL ? jinja_eval(r, n->b, f) : NULL;

    return key != NULL ? jinja_item(r, v, key) : NULL;
}

static value_ref eval_slice(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->a, f), *bounds = v != NULL ? eval_list(r, &n->list, f) : NULL;

    return bounds != NULL ? jinja_slice(r, v, bounds[0], bounds[1], bounds[2]) : NULL;
}

/* *b: the items of a sequence behind those that are written out. */
static bool add_positional(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    struct jinja_args *out)
{
    struct jinja_items more = { 0 };
    value_ref extra, *items = eval_list(r, &n->list, f), *all;

    if (items == NULL)
        return false;
    out->items = items;
    out->count = n->list.count;
    if (n->b == NULL)
        return true;
    extra = jinja_eval(r, n->b, f);
    if (extra == NULL || !jinja_items(r, extra, &more))
        return false;
    all = jinja_array(r, out->count + more.count);
    if (all == NULL)
        return false;
    memcpy(all, items, out->count * sizeof(*all));
    if (more.count > 0)
        memcpy(all + out->count, more.items, more.count * sizeof(*all));
    out->items = all;
    out->count += more.count;
    return true;
}

static bool add_one_named(struct jinja_run *r, struct jinja_dict *d, value_ref name, value_ref v)
{
    if (name->kind != JINJA_STRING) {
        jinja_fail(r, "the names of ** arguments must be strings");
        return false;
    }
    if (jinja_dict_get_text(d, name->text, name->bytes) != NULL) {
        jinja_fail(r, "argument %.*s is given twice", (int)name->bytes, name->text);
        return false;
    }
    return jinja_spend(r, d->count / 4 + 1) && jinja_dict_set(r, d, name, v);
}

static bool add_named(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    struct jinja_dict *d)
{
    value_ref more;

    for (size_t i = 0; i < n->more.count; i++) {
        const struct jinja_node *keyword = n->more.items[i];
        value_ref v = jinja_eval(r, keyword->a, f);

        if (v == NULL || !add_one_named(r, d, keyword->value, v))
            return false;
    }
    if (n->c == NULL)
        return true;
    more = jinja_eval(r, n->c, f);
    if (more == NULL)
        return false;
    if (more->kind != JINJA_DICT) {
        jinja_fail(r, "** needs a dict, not a %s", jinja_type_name(more));
        return false;
    }
    for (size_t i = 0; i < more->dict->count; i++)
        if (!add_one_named(r, d, more->dict->keys[i], more->dict->values[i]))
            return false;
    return true;
}

bool jinja_arguments(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f,
    struct jinja_args *out)
{
    value_ref named = jinja_dict(r, JINJA_DICT, 0);

    if (named == NULL || !add_positional(r, n, f, out) || !add_named(r, n, f, named->dict))
        return false;
    out->named = named->dict;
    return true;
}

static value_ref eval_call(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref callee = jinja_eval(r, n->a, f);
    struct jinja_args args;

    if (callee == NULL || !jinja_arguments(r, n, f, &args))
        return NULL;
    return jinja_call(r, callee, &args);
}

value_ref jinja_apply_filter(struct jinja_run *r, const struct jinja_node *n,
    struct jinja_frame *f, value_ref input)
{
    const struct jinja_builtin *row;
    struct jinja_args args;

    if (n->a != NULL) /* the filters before this one */
        input = n->a->kind == NODE_FILTER ? jinja_apply_filter(r, n->a, f, input)
                                          : jinja_eval(r, n->a, f);
    if (input == NULL || !jinja_arguments(r, n, f, &args))
        return NULL;
    r->line = n->line;
    row = jinja_find_filter(n->name, n->bytes);
    if (row == NULL)
        return jinja_fail(r, "there is no filter '%s'", n->name);
    return jinja_call_builtin(r, row, input, &args);
}

static value_ref eval_filter(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    return jinja_apply_filter(r, n, f, NULL);
}

static value_ref eval_test(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    value_ref v = jinja_eval(r, n->a, f);
    const struct jinja_builtin *row;
    struct jinja_args args;

    if (v == NULL || !jinja_arguments(r, n, f, &args))
        return NULL;
    row = jinja_find_test(n->name, n->bytes);
    if (row == NULL)
        return jinja_fail(r, "there is no test '%s'", n->name);
    return jinja_call_builtin(r, row, v, &args);
}

static evaluator *const evaluators[] = {
    [NODE_CONST] = eval_const,       [NODE_NAME] = eval_name,
    [NODE_LIST] = eval_sequence,     [NODE_TUPLE] = eval_sequence,
    [NODE_DICT] = eval_dict,         [NODE_NOT] = eval_unary,
    [NODE_NEGATE] = eval_unary,      [NODE_PLUS] = eval_unary,
    [NODE_BINARY] = eval_binary,     [NODE_AND] = eval_logic,
    [NODE_OR] = eval_logic,          [NODE_COMPARE] = eval_compare,
    [NODE_CONCAT] = eval_concat,     [NODE_CHOICE] = eval_choice,
    [NODE_ATTRIBUTE] = eval_attribute, [NODE_ITEM] = eval_item,
    [NODE_SLICE] = eval_slice,       [NODE_CALL] = eval_call,
    [NODE_FILTER] = eval_filter,     [NODE_TEST] = eval_test,
};

value_ref jinja_eval(struct jinja_run *r, const struct jinja_node *n, struct jinja_frame *f)
{
    unsigned line = r->line;
    value_ref v;

    if (n->kind >= sizeof(evaluators) / sizeof(evaluators[0]) || evaluators[n->kind] == NULL)
        return jinja_fail(r, "a node of kind %d is no expression", n->kind);
    if (r->depth >= JINJA_CALLS_MAX)
        return jinja_fail(r, "expressions and macros are within each other too deeply");
    if (!jinja_spend(r, 1))
        return NULL;
    r->depth++;
    r->line = n->line;
    v = evaluators[n->kind](r, n, f);
    r->depth--;
    if (v != NULL)
        r->line = line;
    return v;
}

static bool assign_attribute(struct jinja_run *r, const struct jinja_node *target,
    struct jinja_frame *f, value_ref v)
{
    value_ref owner = jinja_eval(r, target->a, f);

    if (owner == NULL)
        return false;
    if (owner->kind != JINJA_NAMESPACE)
        jinja_fail(r, "cannot assign attribute on non-namespace object");
    else if (target->name[0] == '_')
        jinja_fail(r, "a namespace may not store '%s': names must not begin with _", target->name);
    else
        return jinja_dict_set(r, owner->dict, target->value, v);
    return false;
}

bool jinja_assign(struct jinja_run *r, const struct jinja_node *target, struct jinja_frame *f,
    value_ref v)
{
    struct jinja_items parts;

    if (target->kind == NODE_NAME) {
        frame_of(target, f)->slots[target->slot] = v;
        return true;
    }
    if (target->kind == NODE_NS_REF)
        return assign_attribute(r, target, f, v);
    if (v->kind == JINJA_UNDEFINED || !jinja_is_iterable(v)) {
        jinja_fail(r, "a %s cannot be taken apart into %zu names", jinja_type_name(v),
            target->list.count);
        return false;
    }
    if (!jinja_items(r, v, &parts))
        return false;
    if (parts.count != target->list.count) {
        jinja_fail(r, "%zu values cannot be taken apart into %zu names", parts.count,
            target->list.count);
        return false;
    }
    for (size_t i = 0; i < parts.count; i++)
        if (!jinja_assign(r, target->list.items[i], f, parts.items[i]))
            return false;
    return true;
}
