/* jinja_parse_expr.c - expressions, by recursive descent in jinja2's precedence:
 * inline if, or, and, not, comparisons and in, + -, ~, * / // %, **, unary, then
 * attributes, calls, filters and tests. */
#include "text/jinja_ast.h"

static struct jinja_node *parse_or(struct jinja_compiler *c);
static struct jinja_node *parse_unary(struct jinja_compiler *c, bool filters);

static struct jinja_node *parent_of(struct jinja_compiler *c, enum jinja_node_kind kind,
    struct jinja_node *a)
{
    struct jinja_node *n = a != NULL ? jinja_node(c, kind) : NULL;

    if (n == NULL || !jinja_adopt(c, n, a))
        return NULL;
    n->a = a;
    n->line = a->line; /* where the expression begins, not where its parser stands */
    return n;
}

static struct jinja_node *pair_of(struct jinja_compiler *c, enum jinja_node_kind kind, char op,
    struct jinja_node *a, struct jinja_node *b)
{
    struct jinja_node *n = parent_of(c, kind, a);

    if (n == NULL || !jinja_adopt(c, n, b))
        return NULL;
    n->op = op;
    n->b = b;
    return n;
}

/* Parsing goes down here for every bracket and operator: the one place to count. */
struct jinja_node *jinja_parse_expression(struct jinja_compiler *c, bool choices)
{
    struct jinja_node *n = NULL, *choice;

    if (++c->run.depth <= JINJA_DEPTH_MAX)
        n = parse_or(c);
    else
        jinja_fail(&c->run, "expressions are nested too deeply");
    while (n != NULL && choices && jinja_skip_name(c, "if")) {
        choice = parent_of(c, NODE_CHOICE, parse_or(c));
        if (choice == NULL || !jinja_adopt(c, choice, n))
            return NULL;
        choice->b = n;
        if (jinja_skip_name(c, "else")) {
            choice->c = jinja_parse_expression(c, true);
            if (!jinja_adopt(c, choice, choice->c))
                return NULL;
        }
        n = choice;
    }
    c->run.depth--;
    return n;
}

static struct jinja_node *parse_compare(struct jinja_compiler *c);

static struct jinja_node *parse_not(struct jinja_compiler *c)
{
    struct jinja_node *n;

    if (!jinja_skip_name(c, "not"))
        return parse_compare(c);
    if (++c->run.depth > JINJA_DEPTH_MAX) {
        jinja_fail(&c->run, "expressions are nested too deeply");
        return NULL;
    }
    n = parent_of(c, NODE_NOT, parse_not(c));
    c->run.depth--;
    return n;
}

static struct jinja_node *parse_and(struct jinja_compiler *c)
{
    struct jinja_node *n = parse_not(c);

    while (n != NULL && jinja_skip_name(c, "and"))
        n = pair_of(c, NODE_AND, 0, n, parse_not(c));
    return n;
}

static struct jinja_node *parse_or(struct jinja_compiler *c)
{
    struct jinja_node *n = parse_and(c);

    while (n != NULL && jinja_skip_name(c, "or"))
        n = pair_of(c, NODE_OR, 0, n, parse_and(c));
    return n;
}

static struct jinja_node *parse_power(struct jinja_compiler *c)
{
    struct jinja_node *n = parse_unary(c, true);

    while (n != NULL && jinja_skip_op(c, OP_POWER))
        n = pair_of(c, NODE_BINARY, OP_POWER, n, parse_unary(c, true));
    return n;
}

static char next_of(const struct jinja_compiler *c, const char *ops)
{
    const struct jinja_token *t = jinja_peek(c, 0);

    return t->kind == TOKEN_OPERATOR && strchr(ops, t->op) != NULL ? t->op : '\0';
}

static struct jinja_node *parse_product(struct jinja_compiler *c)
{
    static const char ops[] = { '*', '/', '%', OP_FLOOR, '\0' };
    struct jinja_node *n = parse_power(c);
    char op;

    while (n != NULL && (op = next_of(c, ops)) != '\0') {
        c->at++;
        n = pair_of(c, NODE_BINARY, op, n, parse_power(c));
    }
    return n;
}

static struct jinja_node *parse_concat(struct jinja_compiler *c)
{
    struct jinja_node *n = parse_product(c), *list;

    if (n == NULL || !jinja_at_op(c, '~'))
        return n;
    list = jinja_node(c, NODE_CONCAT);
    if (list == NULL || !jinja_add(c, list, &list->list, n))
        return NULL;
    while (jinja_skip_op(c, '~'))
        if (!jinja_add(c, list, &list->list, parse_product(c)))
            return NULL;
    return list;
}

static struct jinja_node *parse_sum(struct jinja_compiler *c)
{
    struct jinja_node *n = parse_concat(c);
    char op;

    while (n != NULL && (op = next_of(c, "+-")) != '\0') {
        c->at++;
        n = pair_of(c, NODE_BINARY, op, n, parse_concat(c));
    }
    return n;
}

/* The comparison that comes next, taken; '\0' if none does. */
static char take_comparison(struct jinja_compiler *c)
{
    static const char ops[] = { OP_EQUAL, OP_DIFFERENT, '<', '>', OP_AT_LEAST, OP_AT_MOST, '\0' };
    const struct jinja_token *after = jinja_peek(c, 1);
    char op = next_of(c, ops);

    if (op != '\0') {
        c->at++;
        return op;
    }
    if (jinja_skip_name(c, "in"))
        return OP_IN;
    if (jinja_at_name(c, "not") && after->kind == TOKEN_NAME
        && json_text_is(after->text, after->bytes, "in")) {
        c->at += 2;
        return OP_NOT_IN;
    }
    return '\0';
}

static struct jinja_node *parse_compare(struct jinja_compiler *c)
{
    struct jinja_node *n = parse_sum(c), *comparison = NULL, *operand;
    char op;

    while (n != NULL && (op = take_comparison(c)) != '\0') {
        if (comparison == NULL)
            comparison = parent_of(c, NODE_COMPARE, n);
        operand = comparison != NULL ? parent_of(c, NODE_OPERAND, parse_sum(c)) : NULL;
        if (operand == NULL || !jinja_add(c, comparison, &comparison->list, operand))
            return NULL;
        operand->op = op;
    }
    return comparison != NULL ? comparison : n;
}

static struct jinja_node *parse_test(struct jinja_compiler *c, struct jinja_node *input);
static struct jinja_node *parse_call(struct jinja_compiler *c, struct jinja_node *callee);

static struct jinja_node *parse_filter_expr(struct jinja_compiler *c, struct jinja_node *n)
{
    for (;;) {
        if (n == NULL)
            return NULL;
        if (jinja_at_op(c, '|'))
            n = jinja_parse_filters(c, n);
        else if (jinja_skip_name(c, "is"))
            n = parse_test(c, n);
        else if (jinja_at_op(c, '('))
            n = parse_call(c, n);
        else
            return n;
    }
}

static struct jinja_node *parse_unary(struct jinja_compiler *c, bool filters)
{
    struct jinja_node *n;
    char op = next_of(c, "+-");

    if (++c->run.depth > JINJA_DEPTH_MAX) {
        jinja_fail(&c->run, "expressions are nested too deeply");
        return NULL;
    }
    if (op != '\0') {
        c->at++;
        n = parent_of(c, op == '-' ? NODE_NEGATE : NODE_PLUS, parse_unary(c, false));
    } else {
        n = jinja_parse_primary(c, false);
    }
    n = jinja_parse_postfix(c, n);
    c->run.depth--;
    return filters ? parse_filter_expr(c, n) : n;
}

static struct jinja_node *parse_subscript(struct jinja_compiler *c, struct jinja_node *owner);

struct jinja_node *jinja_parse_postfix(struct jinja_compiler *c, struct jinja_node *n)
{
    for (;;) {
        if (n == NULL)
            return NULL;
        if (jinja_at_op(c, '.') || jinja_at_op(c, '['))
            n = parse_subscript(c, n);
        else if (jinja_at_op(c, '('))
            n = parse_call(c, n);
        else
            return n;
    }
}

static struct jinja_node *named(struct jinja_compiler *c, struct jinja_node *n,
    const struct jinja_token *t)
{
    if (n == NULL)
        return NULL;
    n->value = jinja_string_copy(&c->run, t->text, t->bytes);
    if (n->value == NULL)
        return NULL;
    n->name = n->value->text;
    n->bytes = t->bytes;
    return n;
}

static struct jinja_node *parse_dotted(struct jinja_compiler *c, struct jinja_node *owner)
{
    const struct jinja_token *t = jinja_peek(c, 0);
    struct jinja_node *n;

    if (t->kind == TOKEN_NAME) {
        c->at++;
        return named(c, parent_of(c, NODE_ATTRIBUTE, owner), t);
    }
    if (t->kind != TOKEN_NUMBER || t->value->kind != JINJA_INT) {
        jinja_unexpected(c, "a name or number behind the dot");
        return NULL;
    }
    n = jinja_node(c, NODE_CONST);
    c->at++;
    if (n == NULL)
        return NULL;
    n->value = t->value;
    return pair_of(c, NODE_ITEM, 0, owner, n);
}

/* One bound of a slice; none if it is left out. */
static bool parse_bound(struct jinja_compiler *c, struct jinja_node *slice)
{
    struct jinja_node *n;

    if (!jinja_at_op(c, ':') && !jinja_at_op(c, ']') && !jinja_at_op(c, ','))
        return jinja_add(c, slice, &slice->list, jinja_parse_expression(c, true));
    n = jinja_node(c, NODE_CONST);
    if (n != NULL)
        n->value = &jinja_none;
    return jinja_add(c, slice, &slice->list, n);
}

static struct jinja_node *parse_slice(struct jinja_compiler *c, struct jinja_node *owner,
    struct jinja_node *first)
{
    struct jinja_node *n = parent_of(c, NODE_SLICE, owner);

    if (n == NULL || !jinja_add(c, n, &n->list, first) || !jinja_expect_op(c, ':')
        || !parse_bound(c, n))
        return NULL;
    jinja_skip_op(c, ':');
    return parse_bound(c, n) ? n : NULL;
}

static struct jinja_node *parse_subscript(struct jinja_compiler *c, struct jinja_node *owner)
{
    struct jinja_node *n, *key;

    if (jinja_skip_op(c, '.'))
        return parse_dotted(c, owner);
    c->at++; /* '[' */
    if (jinja_at_op(c, ':')) {
        key = jinja_node(c, NODE_CONST);
        if (key != NULL)
            key->value = &jinja_none;
    } else {
        key = jinja_parse_expression(c, true);
    }
    if (key == NULL)
        return NULL;
    if (jinja_at_op(c, ':'))
        n = parse_slice(c, owner, key);
    else
        n = pair_of(c, NODE_ITEM, 0, owner, key);
    return n != NULL && jinja_expect_op(c, ']') ? n : NULL;
}

static bool parse_keyword(struct jinja_compiler *c, struct jinja_node *n)
{
    const struct jinja_token *t = jinja_peek(c, 0);
    struct jinja_node *keyword = named(c, jinja_node(c, NODE_KEYWORD), t);

    c->at += 2;
    if (keyword == NULL)
        return false;
    keyword->a = jinja_parse_expression(c, true);
    return jinja_adopt(c, keyword, keyword->a) && jinja_add(c, n, &n->more, keyword);
}

static bool parse_argument(struct jinja_compiler *c, struct jinja_node *n)
{
    bool star = jinja_at_op(c, '*'), two_stars = jinja_at_op(c, OP_POWER);
    struct jinja_node **slot = star ? &n->b : &n->c;
    const struct jinja_token *after = jinja_peek(c, 1);
    bool keyword = jinja_peek(c, 0)->kind == TOKEN_NAME && after->kind == TOKEN_OPERATOR
                   && after->op == '=';

    if (n->c != NULL || (star && n->b != NULL)
        || (!star && !two_stars && !keyword && (n->b != NULL || n->more.count > 0)))
        return jinja_unexpected(c, "an end of the arguments (positional, named, *, **)");
    if (star || two_stars) {
        c->at++;
        *slot = jinja_parse_expression(c, true);
        return jinja_adopt(c, n, *slot);
    }
    return keyword ? parse_keyword(c, n)
                   : jinja_add(c, n, &n->list, jinja_parse_expression(c, true));
}

/* "(...)" behind a callee, a filter's or a test's name. */
static bool parse_arguments(struct jinja_compiler *c, struct jinja_node *n)
{
    if (!jinja_expect_op(c, '('))
        return false;
    for (bool first = true; !jinja_skip_op(c, ')'); first = false) {
        if (!first && !jinja_expect_op(c, ','))
            return false;
        if (!first && jinja_skip_op(c, ')'))
            return true;
        if (!parse_argument(c, n))
            return false;
    }
    return true;
}

static struct jinja_node *parse_call(struct jinja_compiler *c, struct jinja_node *callee)
{
    struct jinja_node *n = parent_of(c, NODE_CALL, callee);

    return n != NULL && parse_arguments(c, n) ? n : NULL;
}

/* A name, with dots in it or none: those of filters and tests. */
static struct jinja_node *take_name(struct jinja_compiler *c, struct jinja_node *n,
    const char *what)
{
    struct jinja_token t = *jinja_peek(c, 0);

    if (!jinja_expect_kind(c, TOKEN_NAME, what))
        return NULL;
    while (jinja_skip_op(c, '.')) {
        const struct jinja_token *part = jinja_peek(c, 0);

        if (!jinja_expect_kind(c, TOKEN_NAME, what))
            return NULL;
        t.bytes = (size_t)(part->text + part->bytes - t.text);
    }
    return named(c, n, &t);
}

struct jinja_node *jinja_parse_filters(struct jinja_compiler *c, struct jinja_node *input)
{
    while (jinja_skip_op(c, '|')) {
        struct jinja_node *n = jinja_node(c, NODE_FILTER);

        if (n == NULL || (input != NULL && !jinja_adopt(c, n, input)))
            return NULL;
        n->a = input;
        if (take_name(c, n, "a filter's name") == NULL
            || (jinja_at_op(c, '(') && !parse_arguments(c, n)))
            return NULL;
        input = n;
    }
    return input;
}

/* Whether an argument without brackets follows: "is divisibleby 3". */
static bool bare_argument(const struct jinja_compiler *c)
{
    switch (jinja_peek(c, 0)->kind) {
    case TOKEN_NAME:
        return !jinja_at_name(c, "else") && !jinja_at_name(c, "or") && !jinja_at_name(c, "and");
    case TOKEN_STRING:
    case TOKEN_NUMBER: return true;
    default: return jinja_at_op(c, '[') || jinja_at_op(c, '{');
    }
}

static struct jinja_node *parse_test(struct jinja_compiler *c, struct jinja_node *input)
{
    bool negated = jinja_skip_name(c, "not");
    struct jinja_node *n = parent_of(c, NODE_TEST, input);

    if (n == NULL || take_name(c, n, "a test's name") == NULL)
        return NULL;
    if (jinja_at_op(c, '(')) {
        if (!parse_arguments(c, n))
            return NULL;
    } else if (bare_argument(c)) {
        if (jinja_at_name(c, "is")) {
            jinja_unexpected(c, "no second test");
            return NULL;
        }
        if (!jinja_add(c, n, &n->list, jinja_parse_postfix(c, jinja_parse_primary(c, false))))
            return NULL;
    }
    return negated ? parent_of(c, NODE_NOT, n) : n;
}
