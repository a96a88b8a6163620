/* jinja_tokens.c - the parser's eyes: the next token, and what must follow. */
#include <stdio.h>

#include "text/jinja_ast.h"

const struct jinja_token *jinja_peek(const struct jinja_compiler *c, size_t ahead)
{
    size_t at = c->at + ahead;

    return &c->tokens[at < c->count ? at : c->count - 1]; /* the last is TOKEN_END */
}

bool jinja_at_op(const struct jinja_compiler *c, char op)
{
    return jinja_peek(c, 0)->kind == TOKEN_OPERATOR && jinja_peek(c, 0)->op == op;
}

bool jinja_at_name(const struct jinja_compiler *c, const char *name)
{
    const struct jinja_token *t = jinja_peek(c, 0);

    return t->kind == TOKEN_NAME && json_text_is(t->text, t->bytes, name);
}

bool jinja_skip_op(struct jinja_compiler *c, char op)
{
    bool here = jinja_at_op(c, op);

    c->at += here;
    return here;
}

bool jinja_skip_name(struct jinja_compiler *c, const char *name)
{
    bool here = jinja_at_name(c, name);

    c->at += here;
    return here;
}

bool jinja_unexpected(struct jinja_compiler *c, const char *wanted)
{
    const struct jinja_token *t = jinja_peek(c, 0);
    size_t shown = t->bytes < 40 ? t->bytes : 40;

    c->run.line = t->line;
    if (t->kind == TOKEN_END)
        jinja_fail(&c->run, "the template ends where %s is expected", wanted);
    else if (t->kind == TOKEN_BLOCK_END || t->kind == TOKEN_VARIABLE_END)
        jinja_fail(&c->run, "the tag ends where %s is expected", wanted);
    else
        jinja_fail(&c->run, "'%.*s' stands where %s is expected", (int)shown, t->text, wanted);
    return false;
}

bool jinja_expect_op(struct jinja_compiler *c, char op)
{
    char wanted[] = { '\'', op == OP_EQUAL ? '=' : op, '\'', '\0' };

    return jinja_skip_op(c, op) || jinja_unexpected(c, wanted);
}

bool jinja_expect_kind(struct jinja_compiler *c, enum jinja_token_kind kind, const char *what)
{
    if (jinja_peek(c, 0)->kind != kind)
        return jinja_unexpected(c, what);
    c->at++;
    return true;
}
