/* jinja_format.c - "%s" % x and "{}".format(x).
 *
 * Of the printf kind: flags, width and precision for s, r, d, i, f, e, g, x, o and
 * c. Of str.format: fields by number, in order or by name, with attributes and
 * items behind them and !s or !r; format specifications are not done. */
#include <stdio.h>
#include <string.h>

#include "text/jinja_ast.h"
#include "text/json_write.h"
#include "text/utf8.h"

struct specification {
    bool left, zero, plus, space, precise;
    int64_t width, precision;
    char type;
};

struct formatting {
    struct jinja_run *r;
    struct text_buffer out;
    value_ref format, args;
    size_t at, used; /* in the format; of the arguments */
};

static bool fail(struct formatting *f, const char *what)
{
    jinja_fail(f->r, "format: %s", what);
    return false;
}

static char next(const struct formatting *f)
{
    return f->at < f->format->bytes ? f->format->text[f->at] : '\0';
}

static int64_t read_number(struct formatting *f)
{
    int64_t x = 0;

    while (next(f) >= '0' && next(f) <= '9' && x < 1000000)
        x = x * 10 + (f->format->text[f->at++] - '0');
    return x;
}

/* "(name)" behind the percent sign. */
static bool read_name(struct formatting *f, value_ref *value)
{
    const char *name = f->format->text + f->at + 1;
    const char *end = memchr(name, ')', f->format->bytes - f->at - 1);

    if (end == NULL || f->args->kind != JINJA_DICT)
        return fail(f, "%(name) needs a ) and a dict");
    *value = jinja_dict_get_text(f->args->dict, name, (size_t)(end - name));
    f->at = (size_t)(end + 1 - f->format->text);
    return *value != NULL || fail(f, "a name is not among the arguments");
}

static bool read_specification(struct formatting *f, struct specification *s)
{
    *s = (struct specification){ 0 };
    for (;; f->at++) {
        char c = next(f);

        if (c == '-')
            s->left = true;
        else if (c == '0')
            s->zero = true;
        else if (c == '+')
            s->plus = true;
        else if (c == ' ')
            s->space = true;
        else
            break;
    }
    s->width = read_number(f);
    if (next(f) == '.') {
        f->at++;
        s->precise = true;
        s->precision = read_number(f);
    }
    s->type = next(f);
    f->at++;
    if (s->width > 10000 || s->precision > 300)
        return fail(f, "a width or precision is too large");
    return s->type != '\0' || fail(f, "the format ends within a field");
}

static bool next_argument(struct formatting *f, value_ref *value)
{
    if (f->args->kind != JINJA_TUPLE) {
        *value = f->args;
        return f->used++ == 0 || fail(f, "there are too few arguments");
    }
    if (f->used == f->args->list.count)
        return fail(f, "there are too few arguments");
    *value = f->args->list.items[f->used++];
    return true;
}

/* Pads text; zeros go behind a sign. */
static bool put_padded(struct formatting *f, const struct specification *s, const char *text,
    size_t bytes, bool number)
{
    int64_t pad = s->width - (int64_t)jinja_characters(text, bytes);
    bool zeros = number && s->zero && !s->left;
    size_t sign = zeros && bytes > 0 && strchr("+- ", text[0]) != NULL;

    text_buffer_append(&f->out, text, sign);
    if (!s->left && !jinja_put_times(f->r, &f->out, zeros ? "0" : " ", 1, pad))
        return false;
    text_buffer_append(&f->out, text + sign, bytes - sign);
    return !s->left || jinja_put_times(f->r, &f->out, " ", 1, pad);
}

static bool put_text(struct formatting *f, const struct specification *s, value_ref v)
{
    struct text_buffer b = { 0 };
    size_t bytes;
    bool ok = s->type == 'r' ? jinja_put_repr(f->r, &b, v) : jinja_put_str(f->r, &b, v);

    bytes = b.count;
    if (ok && s->precise && bytes > 0)
        bytes = jinja_offset(b.bytes, b.count, (size_t)s->precision);
    ok = ok && !b.failed && put_padded(f, s, bytes > 0 ? b.bytes : "", bytes, false);
    text_buffer_free(&b);
    return ok;
}

static bool put_whole(struct formatting *f, const struct specification *s, value_ref v)
{
    char text[400], digits[340];
    int64_t x;
    uint64_t size;

    if (v->kind == JINJA_FLOAT && v->real > -9e18 && v->real < 9e18
        && (s->type == 'd' || s->type == 'i'))
        x = (int64_t)v->real;
    else if (!jinja_as_int(v, &x))
        return fail(f, "%d, %x and %o need a whole number of 64 bits");
    size = x < 0 ? 0 - (uint64_t)x : (uint64_t)x;
    snprintf(digits, sizeof(digits),
        s->type == 'x'   ? "%.*llx"
        : s->type == 'X' ? "%.*llX"
        : s->type == 'o' ? "%.*llo"
                         : "%.*llu",
        s->precise && s->precision > 0 ? (int)s->precision : 1, (unsigned long long)size);
    snprintf(text, sizeof(text), "%s%s", x < 0 ? "-" : s->plus ? "+" : s->space ? " " : "",
        digits);
    return put_padded(f, s, text, strlen(text), true);
}

static bool put_real(struct formatting *f, const struct specification *s, value_ref v)
{
    char text[800], pattern[8] = { '%', '.', '*', s->type, '\0' };
    double x;
    size_t sign;

    if (!jinja_as_float(v, &x))
        return fail(f, "%f, %e and %g need a number");
    sign = s->plus || s->space;
    text[0] = s->plus ? '+' : ' ';
    snprintf(text + sign, sizeof(text) - sign, pattern, s->precise ? (int)s->precision : 6, x);
    if (sign && text[1] == '-')
        return put_padded(f, s, text + 1, strlen(text + 1), true);
    return put_padded(f, s, text, strlen(text), true);
}

static bool put_field(struct formatting *f)
{
    struct specification s;
    value_ref v = NULL;

    if (next(f) == '(' && !read_name(f, &v))
        return false;
    if (!read_specification(f, &s))
        return false;
    if (s.type == '%') {
        text_buffer_put(&f->out, "%");
        return true;
    }
    if (v == NULL && !next_argument(f, &v))
        return false;
    if (strchr("sr", s.type) != NULL)
        return put_text(f, &s, v);
    if (strchr("dixXo", s.type) != NULL)
        return put_whole(f, &s, v);
    if (strchr("fFeEgG", s.type) != NULL)
        return put_real(f, &s, v);
    return fail(f, "a conversion is not done (s, r, d, i, x, o, f, e, g are)");
}

/* What Python takes for a mapping here, so that it may stay unused. */
static bool may_be_mapping(value_ref v)
{
    return v->kind == JINJA_DICT || v->kind == JINJA_LIST || v->kind == JINJA_UNDEFINED
           || v->kind == JINJA_RANGE;
}

value_ref jinja_format(struct jinja_run *r, value_ref format, value_ref args)
{
    struct formatting f = { .r = r, .format = format, .args = args };
    bool ok = format->flavour != JINJA_MARKUP || fail(&f, "escaped text is not done");

    while (ok && f.at < format->bytes) {
        const char *percent = memchr(format->text + f.at, '%', format->bytes - f.at);
        size_t plain = percent == NULL ? format->bytes - f.at
                                       : (size_t)(percent - format->text) - f.at;

        text_buffer_append(&f.out, format->text + f.at, plain);
        f.at += plain + 1;
        if (percent != NULL)
            ok = put_field(&f) && jinja_may_hold(r, f.out.count);
    }
    if (ok && !may_be_mapping(args)
        && f.used < (args->kind == JINJA_TUPLE ? args->list.count : 1))
        ok = fail(&f, "not all arguments were used");
    if (ok && jinja_spend(r, f.out.count / 16))
        return jinja_string_take(r, &f.out);
    text_buffer_free(&f.out);
    return NULL;
}

struct fields {
    struct jinja_run *r;
    const struct jinja_args *args;
    struct text_buffer out;
    size_t automatic; /* the next of those without a number */
};

/* The argument that a field's first word names. */
static value_ref field_argument(struct fields *f, const char *name, size_t bytes)
{
    int64_t i = (int64_t)f->automatic;
    value_ref v;

    if (bytes > 0 && !json_text_to_id(name, bytes, INT32_MAX, &i)) {
        v = jinja_dict_get_text(f->args->named, name, bytes);
        return v != NULL ? v : jinja_fail(f->r, "format: there is no argument '%.*s'", (int)bytes,
                                   name);
    }
    if (bytes == 0)
        f->automatic++;
    return (size_t)i < f->args->count ? f->args->items[i]
                                      : jinja_fail(f->r, "format: there are too few arguments");
}

/* ".name" and "[key]" behind it. */
static value_ref field_path(struct fields *f, value_ref v, const char *text, size_t bytes)
{
    size_t at = 0;

    while (v != NULL && at < bytes) {
        bool item = text[at] == '[';
        size_t start = at + 1, end = start;
        value_ref key;
        int64_t i;

        while (end < bytes && (item ? text[end] != ']' : text[end] != '.' && text[end] != '['))
            end++;
        if (item && json_text_to_id(text + start, end - start, INT32_MAX, &i))
            key = jinja_int(f->r, i);
        else
            key = jinja_string_copy(f->r, text + start, end - start);
        if (key == NULL)
            return NULL;
        v = item ? jinja_item(f->r, v, key) : jinja_attribute(f->r, v, key);
        at = end + item;
    }
    return v;
}

/* One field, text[0, bytes) between its braces. */
static bool put_braced(struct fields *f, const char *text, size_t bytes)
{
    bool repr = bytes >= 2 && memcmp(text + bytes - 2, "!r", 2) == 0;
    bool str = bytes >= 2 && memcmp(text + bytes - 2, "!s", 2) == 0;
    size_t end = bytes - (repr || str ? 2 : 0), name = 0;
    value_ref v;

    if (memchr(text, ':', end) != NULL || memchr(text, '!', end) != NULL
        || memchr(text, '{', end) != NULL) {
        jinja_fail(f->r, "format: a field's specification is not done");
        return false;
    }
    while (name < end && text[name] != '.' && text[name] != '[')
        name++;
    v = field_argument(f, text, name);
    if (v != NULL)
        v = field_path(f, v, text + name, end - name);
    if (v == NULL)
        return false;
    return repr ? jinja_put_repr(f->r, &f->out, v) : jinja_put_str(f->r, &f->out, v);
}

value_ref jinja_str_format(struct jinja_run *r, value_ref format, const struct jinja_args *args)
{
    struct fields f = { .r = r, .args = args };
    const char *t = format->text, *close;
    bool ok = format->flavour != JINJA_MARKUP;

    for (size_t at = 0; ok && at < format->bytes; at++) {
        bool twice = at + 1 < format->bytes && t[at + 1] == t[at];

        if (t[at] != '{' && t[at] != '}') {
            text_buffer_append(&f.out, t + at, 1);
        } else if (twice) {
            text_buffer_append(&f.out, t + at++, 1);
        } else {
            close = t[at] == '{' ? memchr(t + at, '}', format->bytes - at) : NULL;
            ok = close != NULL && put_braced(&f, t + at + 1, (size_t)(close - t) - at - 1)
                 && jinja_may_hold(r, f.out.count);
            at = ok ? (size_t)(close - t) : at;
        }
    }
    if (ok && jinja_spend(r, f.out.count / 16))
        return jinja_string_take(r, &f.out);
    text_buffer_free(&f.out);
    return jinja_fail(r, "format: a brace is alone, or the text is escaped");
}
