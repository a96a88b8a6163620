/* jinja.c - compiling: text -> tokens -> nodes -> slots; and the entry to rendering.
 *
 * The template itself is compiled as a macro without parameters, so there is one
 * way to run a body. */
#include "text/jinja.h"

#include <stdlib.h>

#include "quern/log.h"
#include "text/jinja_ast.h"
#include "text/utf8.h"

/* As jinja2's lexer begins: one kind of newline, and none at the end. */
static const char *normalise(struct text_arena *arena, const char *text, size_t *bytes)
{
    char *out = text_arena_take(arena, *bytes + 1);
    size_t n = 0;

    if (out == NULL)
        return NULL;
    for (size_t i = 0; i < *bytes; i++) {
        bool feed = text[i] == '\n' && i > 0 && text[i - 1] == '\r'; /* of \r\n */

        if (!feed)
            out[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (n > 0 && out[n - 1] == '\n')
        n--;
    out[n] = '\0';
    *bytes = n;
    return out;
}

static bool is_content(const struct jinja_node *n)
{
    if (n->kind == NODE_ATTRIBUTE)
        return json_text_is(n->name, n->bytes, "content");
    return n->kind == NODE_ITEM && n->b->kind == NODE_CONST && n->b->value->kind == JINJA_STRING
           && json_text_is(n->b->value->text, n->b->value->bytes, "content");
}

/* The expression is `content` or a part of it: an attribute, or a variable that may
 * hold it. What a call makes of it (split) is text. */
static bool mentions_content(const struct jinja_node *n)
{
    if (n == NULL || n->kind == NODE_CALL)
        return false;
    if (is_content(n) || (n->kind == NODE_NAME && json_text_is(n->name, n->bytes, "content")))
        return true;
    if (mentions_content(n->a) || mentions_content(n->b) || mentions_content(n->c))
        return true;
    for (size_t i = 0; i < n->list.count; i++)
        if (mentions_content(n->list.items[i]))
            return true;
    return false;
}

static bool loops_over_content(const struct jinja_node *n)
{
    const struct jinja_list *lists[3] = { &n->list, &n->more, &n->body };

    if (n->kind == NODE_FOR && mentions_content(n->b))
        return true;
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < lists[i]->count; k++)
            if (loops_over_content(lists[i]->items[k]))
                return true;
    return false;
}

static enum status compile(struct jinja_compiler *c, struct jinja_program *p, const char *text,
    size_t bytes)
{
    p->source = normalise(&c->run.arena, text, &bytes);
    p->root = text_arena_take(&c->run.arena, sizeof(*p->root));
    if (p->source == NULL || p->root == NULL)
        return log_fail(STATUS_NOMEM, "%s: out of memory", p->name);
    *p->root = (struct jinja_node){ .kind = NODE_CALL_BLOCK, .line = 1, .depth = 1, .name = "" };
    if (jinja_lex(c, p->source, bytes) && jinja_parse(c, &p->root->body)
        && jinja_resolve(c, p->root))
        p->loops_over_content = loops_over_content(p->root);
    free(c->tokens);
    return c->run.status;
}

enum status jinja_compile(const char *name, const char *text, size_t bytes,
    struct jinja_program **out)
{
    struct jinja_program *p;
    struct jinja_compiler c = { .run.limits = jinja_default_limits };
    enum status s;

    if (bytes > JINJA_TEMPLATE_MAX)
        return log_fail(STATUS_INVALID, "%s: a template of %zu bytes is more than %d", name, bytes,
            JINJA_TEMPLATE_MAX);
    if (utf8_valid_prefix(text, bytes) != bytes)
        return log_fail(STATUS_INVALID, "%s: byte %zu is not UTF-8", name,
            utf8_valid_prefix(text, bytes));
    p = calloc(1, sizeof(*p));
    if (p != NULL)
        p->name = text_arena_copy(&c.run.arena, name, strlen(name));
    if (p == NULL || p->name == NULL) {
        free(p);
        text_arena_free(&c.run.arena);
        return log_fail(STATUS_NOMEM, "%s: out of memory", name);
    }
    c.run.program = p;
    s = compile(&c, p, text, bytes);
    p->arena = c.run.arena;
    if (s == STATUS_OK)
        *out = p;
    else
        jinja_free(p);
    return s;
}

void jinja_free(struct jinja_program *p)
{
    if (p == NULL)
        return;
    text_arena_free(&p->arena);
    free(p);
}

const char *jinja_source(const struct jinja_program *p)
{
    return p->source;
}

bool jinja_loops_over_content(const struct jinja_program *p)
{
    return p->loops_over_content;
}

/* Runs the template; its text is then the whole of run.out. */
static enum status run_root(struct jinja_run *r, const struct json_value *context)
{
    value_ref variables = jinja_from_json(r, context), named = jinja_dict(r, JINJA_DICT, 0);
    struct jinja_value root = { .kind = JINJA_MACRO, .macro.node = r->program->root };
    struct jinja_args none = { 0 };
    value_ref text;

    if (variables == NULL || named == NULL)
        return r->status;
    r->context = variables->dict;
    none.named = named->dict;
    text = jinja_call_macro(r, &root, &none);
    if (text != NULL)
        text_buffer_append(&r->out, text->text, text->bytes);
    return r->status;
}

enum status jinja_render(const struct jinja_program *p, const char *origin,
    const struct json_value *context, const struct jinja_limits *limits, char **text,
    size_t *bytes)
{
    struct jinja_run r = { .program = p, .origin = origin, .limits = limits != NULL ? *limits : jinja_default_limits,
        .line = 1 };
    enum status s;

    if (context == NULL || context->type != JSON_IS_OBJECT)
        return log_fail(STATUS_INVALID, "%s: the variables must be an object, not %s", p->name,
            json_type_name(context));
    r.arena.limit = r.limits.memory_bytes;
    s = run_root(&r, context);
    text_arena_free(&r.arena);
    if (s == STATUS_OK)
        return text_buffer_take(&r.out, text, bytes);
    text_buffer_free(&r.out);
    return s;
}
