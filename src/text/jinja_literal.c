/* jinja_literal.c - strings and numbers as they are written in a template.
 *
 * Strings go through Python's "unicode-escape" after everything beyond ASCII was
 * written as an escape, so a backslash before such a character makes that escape
 * plain text: '\é' is a backslash and "xe9". */
#include <stdio.h>
#include <stdlib.h>

#include "text/jinja_ast.h"
#include "text/json_write.h"
#include "text/utf8.h"

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool put_character(struct jinja_run *r, struct text_buffer *b, uint32_t c)
{
    char out[4];

    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        jinja_fail(r, "an escape in a string is no character (a lone surrogate, or too large)");
        return false;
    }
    text_buffer_append(b, out, utf8_encode(c, out));
    return true;
}

/* \xhh, \uhhhh, \Uhhhhhhhh: `digits` of them at text[*at]. */
static bool put_hex(struct jinja_run *r, struct text_buffer *b, const char *text, size_t bytes,
    size_t *at, unsigned digits)
{
    uint32_t c = 0;

    for (unsigned i = 0; i < digits; i++, ++*at) {
        int d = *at < bytes ? hex_digit(text[*at]) : -1;

        if (d < 0) {
            jinja_fail(r, "an escape in a string lacks hexadecimal digits");
            return false;
        }
        c = c << 4 | (uint32_t)d;
    }
    return put_character(r, b, c);
}

static bool put_octal(struct jinja_run *r, struct text_buffer *b, const char *text, size_t bytes,
    size_t *at)
{
    uint32_t c = 0;

    for (unsigned i = 0; i < 3 && *at < bytes && text[*at] >= '0' && text[*at] <= '7'; i++, ++*at)
        c = c * 8 + (uint32_t)(text[*at] - '0');
    return put_character(r, b, c);
}

/* A backslash before a character beyond ASCII. */
static void put_spelt(struct text_buffer *b, const char *text, size_t *at)
{
    size_t length;
    uint32_t c = utf8_decode(text + *at, &length);
    char spelt[16];

    snprintf(spelt, sizeof(spelt), c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    text_buffer_put(b, spelt);
    *at += length;
}

/* What follows a backslash, at text[*at]. */
static bool put_escape(struct jinja_run *r, struct text_buffer *b, const char *text, size_t bytes,
    size_t *at)
{
    static const char plain[128] = { ['\\'] = '\\', ['\''] = '\'', ['"'] = '"', ['a'] = '\a',
        ['b'] = '\b', ['f'] = '\f', ['n'] = '\n', ['r'] = '\r', ['t'] = '\t', ['v'] = '\v' };
    unsigned char c = (unsigned char)text[*at];

    if (c >= 0x80) {
        put_spelt(b, text, at);
        return true;
    }
    if (c >= '0' && c <= '7')
        return put_octal(r, b, text, bytes, at);
    ++*at;
    switch (c) {
    case '\n': return true;
    case 'x': return put_hex(r, b, text, bytes, at, 2);
    case 'u': return put_hex(r, b, text, bytes, at, 4);
    case 'U': return put_hex(r, b, text, bytes, at, 8);
    case 'N': jinja_fail(r, "\\N{...} in a string is not done: write the character"); return false;
    default: break;
    }
    if (plain[c] != 0) {
        text_buffer_append(b, &plain[c], 1);
    } else {
        text_buffer_put(b, "\\");
        text_buffer_append(b, text + *at - 1, 1);
    }
    return true;
}

bool jinja_lex_string(struct jinja_run *r, const char *text, size_t bytes, value_ref *out)
{
    struct text_buffer b = { 0 };

    for (size_t at = 0; at < bytes;) {
        const char *slash = memchr(text + at, '\\', bytes - at);
        size_t plain = slash == NULL ? bytes - at : (size_t)(slash - (text + at));

        text_buffer_append(&b, text + at, plain);
        at += plain;
        if (at++ < bytes && !put_escape(r, &b, text, bytes, &at)) {
            text_buffer_free(&b);
            return false;
        }
    }
    *out = jinja_string_take(r, &b);
    return *out != NULL;
}

static size_t scan_digits(const char *t, size_t n, size_t at)
{
    while (at < n && ((t[at] >= '0' && t[at] <= '9')
                      || (t[at] == '_' && at + 1 < n && t[at + 1] >= '0' && t[at + 1] <= '9')))
        at++;
    return at;
}

static bool digit_at(const char *t, size_t n, size_t at)
{
    return at < n && t[at] >= '0' && t[at] <= '9';
}

/* How long the float at t[0] is; 0 if there is only a whole number. */
static size_t float_length(const char *t, size_t n)
{
    size_t whole = scan_digits(t, n, 0), end = whole, exponent;

    if (end < n && t[end] == '.' && digit_at(t, n, end + 1))
        end = scan_digits(t, n, end + 1);
    exponent = end;
    if (exponent < n && (t[exponent] == 'e' || t[exponent] == 'E')) {
        exponent += 1 + (exponent + 1 < n && (t[exponent + 1] == '+' || t[exponent + 1] == '-'));
        if (digit_at(t, n, exponent))
            return scan_digits(t, n, exponent);
    }
    return end > whole ? end : 0;
}

/* Digits of a base that divides into bits, behind 0b, 0o or 0x. */
static size_t based_length(const char *t, size_t n, unsigned *base)
{
    char mark = n > 2 ? (char)(t[1] | 0x20) : '\0';
    size_t at = 2;

    *base = t[0] != '0' ? 0 : mark == 'b' ? 2 : mark == 'o' ? 8 : mark == 'x' ? 16 : 0;
    while (*base != 0 && at < n) {
        size_t digit = at + (t[at] == '_');

        if (digit >= n || hex_digit(t[digit]) < 0 || (unsigned)hex_digit(t[digit]) >= *base)
            break;
        at = digit + 1;
    }
    if (at == 2)
        *base = 0; /* "0x" without digits: a 0, and a name behind it */
    return *base != 0 ? at : 0;
}

/* Decimal: a 0 is followed by more zeros alone. */
static size_t whole_length(const char *t, size_t n)
{
    size_t at = 1;

    if (t[0] != '0')
        return scan_digits(t, n, 0);
    while (at < n && (t[at] == '0' || (t[at] == '_' && at + 1 < n && t[at + 1] == '0')))
        at++;
    return at;
}

static size_t without_underscores(const char *t, size_t n, char *out)
{
    size_t count = 0;

    for (size_t i = 0; i < n; i++)
        if (t[i] != '_')
            out[count++] = t[i];
    out[count] = '\0';
    return count;
}

static value_ref whole_number(struct jinja_run *r, const char *digits, size_t count, unsigned base)
{
    int64_t x = 0;

    for (size_t i = 0; i < count; i++)
        if (__builtin_mul_overflow(x, (int64_t)base, &x)
            || __builtin_add_overflow(x, hex_digit(digits[i]), &x))
            return jinja_fail(r, "the number %.*s is beyond 64 bits", (int)(count < 40 ? count : 40),
                digits);
    return jinja_int(r, x);
}

bool jinja_lex_number(struct jinja_run *r, const char *text, size_t bytes, size_t *used,
    bool after_point, value_ref *out)
{
    unsigned base = 0;
    size_t length = after_point ? 0 : float_length(text, bytes), count;
    bool real = length > 0, ok;
    char *plain;
    double x;

    if (!real)
        length = based_length(text, bytes, &base);
    if (length == 0)
        length = whole_length(text, bytes);
    plain = malloc(length + 1);
    if (plain == NULL)
        return jinja_out_of_memory(r) != NULL;
    count = without_underscores(text, length, plain);
    if (real) {
        ok = json_text_to_double(plain, count, &x);
        *out = ok ? jinja_float(r, x) : jinja_out_of_memory(r);
    } else {
        *out = base == 0 ? whole_number(r, plain, count, 10)
                         : whole_number(r, plain + 2, count - 2, base);
    }
    free(plain);
    *used = length;
    return *out != NULL;
}
