/* jinja_parse_primary.c - names, literals and brackets, and what can be assigned to. */
#include "text/jinja_ast.h"

static struct jinja_node *constant(struct jinja_compiler *c, value_ref v)
{
    struct jinja_node *n = v != NULL ? jinja_node(c, NODE_CONST) : NULL;

    if (n != NULL)
        n->value = v;
    return n;
}

/* true, false, none in either spelling; NULL for other names. */
static value_ref named_constant(const struct jinja_token *t)
{
    static const struct {
        const char *name;
        value_ref value;
    } words[] = { { "true", &jinja_true }, { "True", &jinja_true }, { "false", &jinja_false },
        { "False", &jinja_false }, { "none", &jinja_none }, { "None", &jinja_none } };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (json_text_is(t->text, t->bytes, words[i].name))
            return words[i].value;
    return NULL;
}

static struct jinja_node *name_node(struct jinja_compiler *c, const struct jinja_token *t)
{
    struct jinja_node *n = jinja_node(c, NODE_NAME);

    if (n == NULL)
        return NULL;
    n->name = text_arena_copy(&c->run.arena, t->text, t->bytes);
    n->bytes = t->bytes;
    if (n->name == NULL)
        jinja_out_of_memory(&c->run);
    return n->name != NULL ? n : NULL;
}

static struct jinja_node *parse_name(struct jinja_compiler *c, bool namespaces)
{
    const struct jinja_token *t = jinja_peek(c, 0), *attribute;
    struct jinja_node *n, *owner;

    c->at++;
    if (named_constant(t) != NULL)
        return constant(c, named_constant(t));
    if (json_text_is(t->text, t->bytes, "self") || json_text_is(t->text, t->bytes, "super")) {
        c->run.line = t->line;
        jinja_fail(&c->run, "'%.*s' is not done", (int)t->bytes, t->text);
        return NULL;
    }
    owner = name_node(c, t);
    if (owner == NULL || !namespaces || !jinja_skip_op(c, '.'))
        return owner;
    attribute = jinja_peek(c, 0);
    if (!jinja_expect_kind(c, TOKEN_NAME, "an attribute's name"))
        return NULL;
    n = jinja_node(c, NODE_NS_REF);
    if (n == NULL || !jinja_adopt(c, n, owner))
        return NULL;
    n->a = owner;
    n->value = jinja_string_copy(&c->run, attribute->text, attribute->bytes);
    n->name = n->value != NULL ? n->value->text : NULL;
    return n->name != NULL ? n : NULL;
}

static struct jinja_node *parse_strings(struct jinja_compiler *c)
{
    value_ref v = jinja_peek(c, 0)->value;
    struct jinja_node *n = jinja_node(c, NODE_CONST);

    c->at++;
    for (; v != NULL && jinja_peek(c, 0)->kind == TOKEN_STRING; c->at++)
        v = jinja_concat(&c->run, v, jinja_peek(c, 0)->value);
    if (n == NULL || v == NULL)
        return NULL;
    n->value = v;
    return n;
}

static struct jinja_node *parse_list(struct jinja_compiler *c)
{
    struct jinja_node *n = jinja_node(c, NODE_LIST);

    c->at++;
    while (n != NULL && !jinja_skip_op(c, ']')) {
        if (n->list.count > 0 && !jinja_expect_op(c, ','))
            return NULL;
        if (n->list.count > 0 && jinja_skip_op(c, ']'))
            return n;
        if (!jinja_add(c, n, &n->list, jinja_parse_expression(c, true)))
            return NULL;
    }
    return n;
}

static struct jinja_node *parse_dict(struct jinja_compiler *c)
{
    struct jinja_node *n = jinja_node(c, NODE_DICT);

    c->at++;
    while (n != NULL && !jinja_skip_op(c, '}')) {
        if (n->list.count > 0 && !jinja_expect_op(c, ','))
            return NULL;
        if (n->list.count > 0 && jinja_skip_op(c, '}'))
            return n;
        if (!jinja_add(c, n, &n->list, jinja_parse_expression(c, true)) || !jinja_expect_op(c, ':')
            || !jinja_add(c, n, &n->more, jinja_parse_expression(c, true)))
            return NULL;
    }
    return n;
}

static struct jinja_node *parse_brackets(struct jinja_compiler *c)
{
    struct jinja_node *n;

    c->at++;
    n = jinja_parse_tuple(c, true, NULL, true);
    return n != NULL && jinja_expect_op(c, ')') ? n : NULL;
}

struct jinja_node *jinja_parse_primary(struct jinja_compiler *c, bool namespaces)
{
    const struct jinja_token *t = jinja_peek(c, 0);

    switch (t->kind) {
    case TOKEN_NAME: return parse_name(c, namespaces);
    case TOKEN_STRING: return parse_strings(c);
    case TOKEN_NUMBER: c->at++; return constant(c, t->value);
    default: break;
    }
    if (jinja_at_op(c, '('))
        return parse_brackets(c);
    if (jinja_at_op(c, '['))
        return parse_list(c);
    if (jinja_at_op(c, '{'))
        return parse_dict(c);
    jinja_unexpected(c, "an expression");
    return NULL;
}

static bool tuple_ends(const struct jinja_compiler *c, const char *end_name)
{
    enum jinja_token_kind kind = jinja_peek(c, 0)->kind;

    return kind == TOKEN_BLOCK_END || kind == TOKEN_VARIABLE_END || jinja_at_op(c, ')')
           || (end_name != NULL && jinja_at_name(c, end_name));
}

/* Expressions with commas between them, as they may stand without brackets. */
static struct jinja_node *parse_items(struct jinja_compiler *c, bool targets, bool namespaces,
    bool choices, const char *end_name, bool parentheses)
{
    struct jinja_node *n = jinja_node(c, NODE_TUPLE);
    bool tuple = false;

    while (n != NULL && !tuple_ends(c, end_name)) {
        struct jinja_node *item = targets ? jinja_parse_primary(c, namespaces)
                                          : jinja_parse_expression(c, choices);

        if (!jinja_add(c, n, &n->list, item))
            return NULL;
        if (!jinja_skip_op(c, ','))
            break;
        tuple = true;
    }
    if (n == NULL || tuple || (n->list.count == 0 && parentheses))
        return n;
    if (n->list.count == 1)
        return n->list.items[0];
    jinja_unexpected(c, "an expression");
    return NULL;
}

struct jinja_node *jinja_parse_tuple(struct jinja_compiler *c, bool choices, const char *end_name,
    bool parentheses)
{
    return parse_items(c, false, false, choices, end_name, parentheses);
}

static bool can_assign(const struct jinja_node *n)
{
    if (n->kind != NODE_TUPLE)
        return n->kind == NODE_NAME || n->kind == NODE_NS_REF;
    for (size_t i = 0; i < n->list.count; i++)
        if (!can_assign(n->list.items[i]))
            return false;
    return true;
}

struct jinja_node *jinja_parse_target(struct jinja_compiler *c, const char *end_name,
    bool namespaces)
{
    unsigned line = jinja_peek(c, 0)->line;
    struct jinja_node *n = parse_items(c, true, namespaces, false, end_name, false);

    if (n == NULL || can_assign(n))
        return n;
    c->run.line = line;
    jinja_fail(&c->run, "something is assigned to that is no name");
    return NULL;
}
