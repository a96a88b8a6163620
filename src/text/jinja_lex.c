/* jinja_lex.c - a template's text as tokens, all of them before parsing begins.
 *
 * jinja2's lexer is a set of regular expressions whose order matters; each
 * function here is one of them. Two rules decide about white space: trim_blocks
 * takes the newline after a block or comment, lstrip_blocks the indentation before
 * one, and "-" or "+" at a tag overrule them. Line numbers count the newlines that
 * are passed over. */
#include <stdio.h>
#include <stdlib.h>

#include <utf8proc.h>

#include "quern/log.h"
#include "text/jinja_ast.h"
#include "text/utf8.h"

struct lexer {
    struct jinja_compiler *c;
    const char *t;
    size_t n, at;
    unsigned line;
    bool line_starting; /* the last tag took a newline with it */
    char closers[JINJA_DEPTH_MAX]; /* of the brackets that are open in this tag */
    unsigned open;
};

static bool add(struct lexer *x, struct jinja_token token)
{
    struct jinja_compiler *c = x->c;

    if (c->count == c->room) {
        size_t room = c->room == 0 ? 256 : c->room * 2;
        struct jinja_token *grown = realloc(c->tokens, room * sizeof(*grown));

        if (grown == NULL)
            return jinja_out_of_memory(&c->run) != NULL;
        c->tokens = grown;
        c->room = room;
    }
    token.line = x->line;
    c->tokens[c->count++] = token;
    return true;
}

static bool add_plain(struct lexer *x, enum jinja_token_kind kind)
{
    return add(x, (struct jinja_token){ .kind = kind, .text = x->t + x->at });
}

static bool fail(struct lexer *x, const char *what)
{
    x->c->run.line = x->line;
    jinja_fail(&x->c->run, "%s", what);
    return false;
}

static void advance(struct lexer *x, size_t to)
{
    for (; x->at < to; x->at++)
        x->line += x->t[x->at] == '\n';
}

static bool begins(const struct lexer *x, size_t at, const char *word)
{
    size_t n = strlen(word);

    return x->n - at >= n && memcmp(x->t + at, word, n) == 0;
}

static bool add_text(struct lexer *x, size_t from, size_t to)
{
    return from == to
           || add(x, (struct jinja_token){
                         .kind = TOKEN_TEXT, .text = x->t + from, .bytes = to - from });
}

/* Where the text before a tag ends; `lstrip` as lstrip_blocks asks for. */
static size_t text_end(const struct lexer *x, size_t from, size_t to, char sign, bool lstrip)
{
    size_t start = to, at;

    if (sign == '-')
        return from + jinja_trim_end(x->t + from, to - from);
    if (sign == '+' || !lstrip)
        return to;
    while (start > from && x->t[start - 1] != '\n')
        start--;
    if (start == from && !x->line_starting)
        return to;
    at = jinja_skip_space(x->t, to, start);
    return at == to ? start : to;
}

static char sign_at(const struct lexer *x, size_t at)
{
    return at < x->n && (x->t[at] == '-' || x->t[at] == '+') ? x->t[at] : '\0';
}

/* The end of a block or comment at `at` ("%}", "-%}", "+%}") with the white space
 * that it takes; 0 if there is none. */
static size_t block_end(const struct lexer *x, size_t at, const char *end)
{
    char sign = sign_at(x, at);
    size_t i = at + (sign != '\0');

    if (!begins(x, i, end))
        return 0;
    i += 2;
    if (sign == '-')
        return jinja_skip_space(x->t, x->n, i);
    if (sign == '\0' && i < x->n && x->t[i] == '\n')
        i++;
    return i;
}

static void end_tag(struct lexer *x, size_t to)
{
    x->line_starting = x->t[to - 1] == '\n';
    advance(x, to);
}

/* "{% raw %}" at `at`: where it ends, 0 if it is none. */
static size_t raw_begin(const struct lexer *x, size_t at)
{
    size_t i = jinja_skip_space(x->t, x->n, at + 2 + (sign_at(x, at + 2) != '\0'));

    if (!begins(x, i, "raw"))
        return 0;
    i = jinja_skip_space(x->t, x->n, i + 3);
    if (begins(x, i, "-%}"))
        return jinja_skip_space(x->t, x->n, i + 3);
    return begins(x, i, "%}") ? i + 2 : 0;
}

static size_t raw_end(const struct lexer *x, size_t at)
{
    size_t i = jinja_skip_space(x->t, x->n, at + 2 + (sign_at(x, at + 2) != '\0'));

    if (!begins(x, i, "endraw"))
        return 0;
    return block_end(x, jinja_skip_space(x->t, x->n, i + 6), "%}");
}

static bool lex_raw(struct lexer *x, size_t inside)
{
    end_tag(x, inside);
    for (size_t i = inside; i + 1 < x->n; i++) {
        size_t end = begins(x, i, "{%") ? raw_end(x, i) : 0;

        if (end == 0)
            continue;
        if (!add_text(x, inside, text_end(x, inside, i, sign_at(x, i + 2), true)))
            return false;
        end_tag(x, end);
        return true;
    }
    return fail(x, "{% raw %} has no {% endraw %}");
}

static bool lex_comment(struct lexer *x, size_t inside)
{
    for (size_t i = inside; i + 1 < x->n; i++) {
        size_t end = block_end(x, i, "#}");

        if (end == 0)
            continue;
        end_tag(x, end);
        return true;
    }
    return fail(x, "a comment has no #} at its end");
}

static bool name_character(const struct lexer *x, size_t at, size_t *length)
{
    uint32_t c;
    utf8proc_category_t k;

    if (at >= x->n)
        return false;
    c = utf8_decode(x->t + at, length);
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
               || c == '_';
    k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NO;
}

static bool lex_name(struct lexer *x)
{
    size_t end = x->at, length;

    while (name_character(x, end, &length))
        end += length;
    if (!add(x, (struct jinja_token){ .kind = TOKEN_NAME, .text = x->t + x->at,
                    .bytes = end - x->at }))
        return false;
    advance(x, end);
    return true;
}

static bool lex_string(struct lexer *x, size_t end)
{
    struct jinja_token token = { .kind = TOKEN_STRING, .text = x->t + x->at,
        .bytes = end + 1 - x->at };

    x->c->run.line = x->line;
    if (!jinja_lex_string(&x->c->run, x->t + x->at + 1, end - x->at - 1, &token.value))
        return false;
    if (!add(x, token))
        return false;
    advance(x, end + 1);
    return true;
}

/* The closing quote of the string at x->at; 0 if there is none. */
static size_t closing_quote(const struct lexer *x)
{
    for (size_t i = x->at + 1; i < x->n; i++) {
        if (x->t[i] == '\\')
            i++;
        else if (x->t[i] == x->t[x->at])
            return i;
    }
    return 0;
}

static bool track_brackets(struct lexer *x, char c)
{
    static const char pairs[128] = { ['('] = ')', ['['] = ']', ['{'] = '}' };
    char message[64];

    if (pairs[(unsigned char)c] != 0) {
        if (x->open == JINJA_DEPTH_MAX)
            return fail(x, "brackets are nested too deeply");
        x->closers[x->open++] = pairs[(unsigned char)c];
        return true;
    }
    if (c != ')' && c != ']' && c != '}')
        return true;
    if (x->open > 0 && x->closers[x->open - 1] == c) {
        x->open--;
        return true;
    }
    if (x->open == 0)
        snprintf(message, sizeof(message), "'%c' closes nothing", c);
    else
        snprintf(message, sizeof(message), "'%c' stands where '%c' is expected", c,
            x->closers[x->open - 1]);
    return fail(x, message);
}

static bool lex_operator(struct lexer *x)
{
    static const struct {
        const char *text;
        char op;
    } twos[] = { { "**", OP_POWER }, { "//", OP_FLOOR }, { "==", OP_EQUAL }, { "!=", OP_DIFFERENT },
        { ">=", OP_AT_LEAST }, { "<=", OP_AT_MOST } };
    struct jinja_token token = { .kind = TOKEN_OPERATOR, .text = x->t + x->at, .bytes = 1 };
    char c = x->t[x->at];

    for (size_t i = 0; i < sizeof(twos) / sizeof(twos[0]) && token.op == 0; i++)
        if (begins(x, x->at, twos[i].text)) {
            token.op = twos[i].op;
            token.bytes = 2;
        }
    if (token.op == 0 && c != '\0' && strchr("+-/*%~[](){}><=.:|,;", c) != NULL)
        token.op = c;
    if (token.op == 0)
        return fail(x, "there is a character that means nothing in a tag");
    if (token.bytes == 1 && !track_brackets(x, c))
        return false;
    if (!add(x, token))
        return false;
    advance(x, x->at + token.bytes);
    return true;
}

static bool lex_number(struct lexer *x, bool *found)
{
    struct jinja_token token = { .kind = TOKEN_NUMBER, .text = x->t + x->at };
    bool after_point = x->at > 0 && x->t[x->at - 1] == '.';

    *found = false;
    x->c->run.line = x->line;
    if (!jinja_lex_number(&x->c->run, x->t + x->at, x->n - x->at, &token.bytes, after_point,
            &token.value))
        return false;
    if (token.bytes == 0)
        return true;
    *found = true;
    if (!add(x, token))
        return false;
    advance(x, x->at + token.bytes);
    return true;
}

/* One token within a tag, at x->at, where no white space is. */
static bool lex_piece(struct lexer *x)
{
    size_t length, quote;
    bool found = false;
    char c = x->t[x->at];

    if (c >= '0' && c <= '9' && (!lex_number(x, &found) || found))
        return found;
    if (name_character(x, x->at, &length))
        return lex_name(x);
    if (c == '\'' || c == '"') {
        quote = closing_quote(x);
        return quote != 0 ? lex_string(x, quote) : fail(x, "a string has no closing quote");
    }
    return lex_operator(x);
}

/* The end of the tag, if it is here and no bracket is open. */
static size_t tag_end(const struct lexer *x, bool block)
{
    if (x->open > 0)
        return 0;
    if (block)
        return block_end(x, x->at, "%}");
    if (begins(x, x->at, "-}}"))
        return jinja_skip_space(x->t, x->n, x->at + 3);
    return begins(x, x->at, "}}") ? x->at + 2 : 0;
}

static bool lex_tag(struct lexer *x, size_t inside, bool block)
{
    if (!add_plain(x, block ? TOKEN_BLOCK_BEGIN : TOKEN_VARIABLE_BEGIN))
        return false;
    advance(x, inside);
    x->open = 0;
    while (x->at < x->n) {
        size_t end = tag_end(x, block), blank;

        if (end != 0) {
            if (!add_plain(x, block ? TOKEN_BLOCK_END : TOKEN_VARIABLE_END))
                return false;
            end_tag(x, end);
            return true;
        }
        blank = jinja_skip_space(x->t, x->n, x->at);
        if (blank > x->at)
            advance(x, blank);
        else if (!lex_piece(x))
            return false;
    }
    return true; /* the parser finds that it ends too early */
}

/* The next "{{", "{%" or "{#" from `at`; n if there is none. */
static size_t find_tag(const struct lexer *x, size_t at)
{
    for (; at + 1 < x->n; at++)
        if (x->t[at] == '{' && (x->t[at + 1] == '{' || x->t[at + 1] == '%' || x->t[at + 1] == '#'))
            return at;
    return x->n;
}

static bool lex_root(struct lexer *x)
{
    while (x->at < x->n) {
        size_t tag = find_tag(x, x->at), inside, raw = 0;
        char kind = tag < x->n ? x->t[tag + 1] : '\0';
        bool ok;

        if (kind == '\0')
            return add_text(x, x->at, x->n);
        if (!add_text(x, x->at, text_end(x, x->at, tag, sign_at(x, tag + 2), kind != '{')))
            return false;
        advance(x, tag);
        inside = tag + 2 + (sign_at(x, tag + 2) != '\0');
        if (kind == '%')
            raw = raw_begin(x, tag);
        if (raw != 0)
            ok = lex_raw(x, raw);
        else if (kind == '#')
            ok = lex_comment(x, inside);
        else
            ok = lex_tag(x, inside, kind == '%');
        if (!ok)
            return false;
    }
    return true;
}

bool jinja_lex(struct jinja_compiler *c, const char *text, size_t bytes)
{
    struct lexer x = { .c = c, .t = text, .n = bytes, .line = 1, .line_starting = true };

    return lex_root(&x) && add_plain(&x, TOKEN_END);
}
