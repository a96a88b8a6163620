/* jinja_parse.c - statements, and the making of nodes.
 *
 * A node knows its depth, the longest way down to a leaf, so a template whose
 * evaluation would go too deep is refused here, whatever made it deep. */
#include "text/jinja_ast.h"

struct jinja_node *jinja_node(struct jinja_compiler *c, enum jinja_node_kind kind)
{
    struct jinja_node *n = text_arena_take(&c->run.arena, sizeof(*n));

    if (n == NULL) {
        jinja_out_of_memory(&c->run);
        return NULL;
    }
    *n = (struct jinja_node){ .kind = kind, .line = jinja_peek(c, 0)->line, .depth = 1,
        .name = "" };
    return n;
}

bool jinja_adopt(struct jinja_compiler *c, struct jinja_node *parent, struct jinja_node *child)
{
    if (child == NULL)
        return false;
    if (child->depth >= JINJA_DEPTH_MAX) {
        c->run.line = child->line;
        jinja_fail(&c->run, "the template is nested too deeply");
        return false;
    }
    if (parent->depth <= child->depth)
        parent->depth = child->depth + 1;
    return true;
}

static bool list_add(struct jinja_compiler *c, struct jinja_list *list, struct jinja_node *child)
{
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 4 : list->room * 2;
        struct jinja_node **grown = text_arena_take(&c->run.arena, room * sizeof(struct jinja_node *));

        if (grown == NULL)
            return jinja_out_of_memory(&c->run) != NULL;
        if (list->count > 0)
            memcpy(grown, list->items, list->count * sizeof(struct jinja_node *));
        list->items = grown;
        list->room = room;
    }
    list->items[list->count++] = child;
    return true;
}

bool jinja_add(struct jinja_compiler *c, struct jinja_node *parent, struct jinja_list *list,
    struct jinja_node *child)
{
    return jinja_adopt(c, parent, child) && list_add(c, list, child);
}

static struct jinja_node *parse_statement(struct jinja_compiler *c);

static struct jinja_node *text_node(struct jinja_compiler *c)
{
    const struct jinja_token *t = jinja_peek(c, 0);
    struct jinja_node *n = jinja_node(c, NODE_TEXT);

    c->at++;
    if (n == NULL)
        return NULL;
    n->value = jinja_string_copy(&c->run, t->text, t->bytes);
    return n->value != NULL ? n : NULL;
}

static struct jinja_node *output_node(struct jinja_compiler *c)
{
    struct jinja_node *n;

    c->at++;
    n = jinja_node(c, NODE_OUTPUT);
    if (n == NULL)
        return NULL;
    n->a = jinja_parse_tuple(c, true, NULL, false);
    return jinja_adopt(c, n, n->a) && jinja_expect_kind(c, TOKEN_VARIABLE_END, "}}") ? n : NULL;
}

static bool at_one_of(const struct jinja_compiler *c, const char *const *ends)
{
    for (; ends != NULL && *ends != NULL; ends++)
        if (jinja_at_name(c, *ends))
            return true;
    return false;
}

/* Nodes up to a tag whose name is one of `ends`, which is then next; NULL: up to
 * the template's end. */
static bool parse_until(struct jinja_compiler *c, struct jinja_node *parent,
    struct jinja_list *body, const char *const *ends)
{
    for (;;) {
        struct jinja_node *n;

        switch (jinja_peek(c, 0)->kind) {
        case TOKEN_TEXT: n = text_node(c); break;
        case TOKEN_VARIABLE_BEGIN: n = output_node(c); break;
        case TOKEN_BLOCK_BEGIN:
            c->at++;
            if (at_one_of(c, ends))
                return true;
            n = parse_statement(c);
            if (n != NULL && !jinja_expect_kind(c, TOKEN_BLOCK_END, "%}"))
                return false;
            break;
        default:
            return ends == NULL || jinja_unexpected(c, ends[0]);
        }
        if (!jinja_add(c, parent, body, n))
            return false;
    }
}

/* A statement's body: the rest of its tag, then nodes up to `ends`. */
static bool parse_body(struct jinja_compiler *c, struct jinja_node *parent,
    struct jinja_list *body, const char *const *ends)
{
    bool ok;

    jinja_skip_op(c, ':');
    if (!jinja_expect_kind(c, TOKEN_BLOCK_END, "%}"))
        return false;
    if (++c->run.depth > JINJA_DEPTH_MAX) {
        jinja_fail(&c->run, "blocks are nested too deeply");
        return false;
    }
    ok = parse_until(c, parent, body, ends);
    c->run.depth--;
    return ok;
}

/* The same, and the end's name is taken. */
static bool parse_whole_body(struct jinja_compiler *c, struct jinja_node *parent, const char *end)
{
    const char *const ends[] = { end, NULL };

    if (!parse_body(c, parent, &parent->body, ends))
        return false;
    c->at++;
    return true;
}

static struct jinja_node *parse_if(struct jinja_compiler *c, struct jinja_node *n)
{
    static const char *const ends[] = { "endif", "elif", "else", NULL };
    static const char *const last[] = { "endif", NULL };
    bool otherwise = false;

    for (;;) {
        struct jinja_node *branch = jinja_node(c, NODE_BRANCH);

        if (branch == NULL)
            return NULL;
        if (!otherwise)
            branch->a = jinja_parse_tuple(c, false, NULL, false);
        if ((!otherwise && !jinja_adopt(c, branch, branch->a))
            || !parse_body(c, branch, &branch->body, otherwise ? last : ends)
            || !jinja_add(c, n, &n->list, branch))
            return NULL;
        if (jinja_skip_name(c, "endif"))
            return n;
        otherwise = jinja_at_name(c, "else");
        c->at++;
    }
}

/* Parses the target once more, for the condition has variables of its own. */
static bool parse_condition(struct jinja_compiler *c, struct jinja_node *n, size_t target)
{
    size_t at;

    if (!jinja_skip_name(c, "if"))
        return true;
    n->c = jinja_parse_expression(c, true);
    if (!jinja_adopt(c, n, n->c))
        return false;
    at = c->at;
    c->at = target;
    n->d = jinja_parse_target(c, "in", false);
    c->at = at;
    return n->d != NULL;
}

static struct jinja_node *parse_for(struct jinja_compiler *c, struct jinja_node *n)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    static const char *const last[] = { "endfor", NULL };
    size_t target = c->at;

    n->a = jinja_parse_target(c, "in", false);
    if (n->a == NULL)
        return NULL;
    if (!jinja_skip_name(c, "in")) {
        jinja_unexpected(c, "in");
        return NULL;
    }
    n->b = jinja_parse_tuple(c, false, "recursive", false);
    if (!jinja_adopt(c, n, n->b) || !parse_condition(c, n, target))
        return NULL;
    if (jinja_at_name(c, "recursive")) {
        jinja_fail(&c->run, "recursive loops are not done");
        return NULL;
    }
    c->loops++;
    if (!parse_body(c, n, &n->body, ends))
        return NULL;
    c->loops--;
    if (jinja_skip_name(c, "endfor"))
        return n;
    c->at++;
    if (!parse_body(c, n, &n->more, last))
        return NULL;
    c->at++;
    return n;
}

static struct jinja_node *parse_jump(struct jinja_compiler *c, struct jinja_node *n)
{
    if (c->loops > 0)
        return n;
    c->run.line = n->line;
    jinja_fail(&c->run, "break and continue belong into a loop");
    return NULL;
}

static struct jinja_node *parse_set(struct jinja_compiler *c, struct jinja_node *n)
{
    n->a = jinja_parse_target(c, NULL, true);
    if (n->a == NULL)
        return NULL;
    if (jinja_skip_op(c, '=')) {
        n->b = jinja_parse_tuple(c, true, NULL, false);
        return jinja_adopt(c, n, n->b) ? n : NULL;
    }
    n->kind = NODE_SET_BLOCK;
    if (jinja_at_op(c, '|')) {
        n->b = jinja_parse_filters(c, NULL);
        if (!jinja_adopt(c, n, n->b))
            return NULL;
    }
    return parse_whole_body(c, n, "endset") ? n : NULL;
}

/* "(a, b=1)" of a macro or call block. */
static bool parse_signature(struct jinja_compiler *c, struct jinja_node *n)
{
    if (!jinja_expect_op(c, '('))
        return false;
    while (!jinja_skip_op(c, ')')) {
        struct jinja_node *parameter;

        if (n->list.count > 0 && !jinja_expect_op(c, ','))
            return false;
        if (jinja_peek(c, 0)->kind != TOKEN_NAME)
            return jinja_unexpected(c, "a parameter's name");
        parameter = jinja_parse_primary(c, false);
        if (!jinja_add(c, n, &n->list, parameter))
            return false;
        if (parameter->kind != NODE_NAME)
            return jinja_unexpected(c, "a name before it that can be assigned to");
        if (jinja_skip_op(c, '=')) {
            if (!jinja_add(c, n, &n->more, jinja_parse_expression(c, true)))
                return false;
        } else if (n->more.count > 0) {
            return jinja_unexpected(c, "a default, since a parameter before it has one,");
        }
    }
    return true;
}

/* A body that is a function: loops outside of it are not its own. */
static bool parse_function(struct jinja_compiler *c, struct jinja_node *n, const char *end)
{
    unsigned loops = c->loops;
    bool ok;

    c->loops = 0;
    ok = parse_whole_body(c, n, end);
    c->loops = loops;
    return ok;
}

static struct jinja_node *parse_macro(struct jinja_compiler *c, struct jinja_node *n)
{
    if (jinja_peek(c, 0)->kind != TOKEN_NAME) {
        jinja_unexpected(c, "a macro's name");
        return NULL;
    }
    n->a = jinja_parse_primary(c, false);
    if (!jinja_adopt(c, n, n->a))
        return NULL;
    if (n->a->kind != NODE_NAME) {
        jinja_unexpected(c, "a name that can be assigned to");
        return NULL;
    }
    n->name = n->a->name;
    return parse_signature(c, n) && parse_function(c, n, "endmacro") ? n : NULL;
}

static struct jinja_node *parse_call_block(struct jinja_compiler *c, struct jinja_node *n)
{
    n->name = "caller";
    if (jinja_at_op(c, '(') && !parse_signature(c, n))
        return NULL;
    n->a = jinja_parse_expression(c, true);
    if (!jinja_adopt(c, n, n->a))
        return NULL;
    if (n->a->kind != NODE_CALL) {
        c->run.line = n->line;
        jinja_fail(&c->run, "a call block needs a call");
        return NULL;
    }
    return parse_function(c, n, "endcall") ? n : NULL;
}

static struct jinja_node *parse_generation(struct jinja_compiler *c, struct jinja_node *n)
{
    n->name = "generation";
    return parse_function(c, n, "endgeneration") ? n : NULL;
}

/* {% filter upper|trim %}: the first filter has no bar before it. */
static struct jinja_node *parse_filter_block(struct jinja_compiler *c, struct jinja_node *n)
{
    c->at--;
    c->tokens[c->at] = (struct jinja_token){ .kind = TOKEN_OPERATOR, .op = '|', .line = n->line,
        .text = "|", .bytes = 1 };
    n->b = jinja_parse_filters(c, NULL);
    return jinja_adopt(c, n, n->b) && parse_whole_body(c, n, "endfilter") ? n : NULL;
}

static struct jinja_node *parse_with(struct jinja_compiler *c, struct jinja_node *n)
{
    while (jinja_peek(c, 0)->kind != TOKEN_BLOCK_END) {
        if (n->list.count > 0 && !jinja_expect_op(c, ','))
            return NULL;
        /* one name: a comma begins the next assignment */
        if (jinja_peek(c, 0)->kind != TOKEN_NAME) {
            jinja_unexpected(c, "a name");
            return NULL;
        }
        if (!jinja_add(c, n, &n->list, jinja_parse_primary(c, false)) || !jinja_expect_op(c, '=')
            || !jinja_add(c, n, &n->more, jinja_parse_expression(c, true)))
            return NULL;
    }
    return parse_whole_body(c, n, "endwith") ? n : NULL;
}

static struct jinja_node *parse_print(struct jinja_compiler *c, struct jinja_node *n)
{
    n->a = jinja_parse_expression(c, true);
    return jinja_adopt(c, n, n->a) ? n : NULL;
}

typedef struct jinja_node *statement_parser(struct jinja_compiler *c, struct jinja_node *n);

static const struct statement {
    const char *name;
    enum jinja_node_kind kind;
    statement_parser *parse;
} statements[] = {
    { "if", NODE_IF, parse_if },
    { "for", NODE_FOR, parse_for },
    { "set", NODE_SET, parse_set },
    { "macro", NODE_MACRO, parse_macro },
    { "break", NODE_BREAK, parse_jump },
    { "continue", NODE_CONTINUE, parse_jump },
    { "call", NODE_CALL_BLOCK, parse_call_block },
    { "filter", NODE_FILTER_BLOCK, parse_filter_block },
    { "with", NODE_WITH, parse_with },
    { "generation", NODE_CALL_BLOCK, parse_generation },
    { "print", NODE_OUTPUT, parse_print },
};

static struct jinja_node *parse_statement(struct jinja_compiler *c)
{
    const struct jinja_token *t = jinja_peek(c, 0);
    struct jinja_node *n;

    c->run.line = t->line;
    if (t->kind != TOKEN_NAME) {
        jinja_unexpected(c, "a statement's name");
        return NULL;
    }
    for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++) {
        if (!json_text_is(t->text, t->bytes, statements[i].name))
            continue;
        n = jinja_node(c, statements[i].kind);
        c->at++;
        return n != NULL ? statements[i].parse(c, n) : NULL;
    }
    jinja_fail(&c->run, "the statement '%.*s' is not done, or its block was not begun",
        (int)(t->bytes < 40 ? t->bytes : 40), t->text);
    return NULL;
}

bool jinja_parse(struct jinja_compiler *c, struct jinja_list *body)
{
    struct jinja_node root = { .kind = NODE_CALL_BLOCK };

    if (!parse_until(c, &root, &root.body, NULL))
        return false;
    *body = root.body;
    return true;
}
