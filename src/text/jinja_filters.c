/* jinja_filters.c - filters on text and single values.
 *
 * Most are string methods behind str(); what is Markup stays so where Python keeps
 * it. Filters that jinja2 has and this does not are rows too, so that using one
 * says so. */
#include "text/jinja_filters.h"

#include <utf8proc.h>

#include "text/jinja_ast.h"
#include "text/jinja_case.h"
#include "text/utf8.h"

value_ref jinja_call_method(struct jinja_run *r, value_ref string, const char *name,
    const value_ref *items, size_t count)
{
    struct jinja_dict none = { 0 };
    struct jinja_args args = { .items = items, .count = count, .named = &none };

    return jinja_call_builtin(r, jinja_find_method(string, name, strlen(name)), string, &args);
}

static value_ref with_str(struct jinja_run *r, value_ref v, const char *method,
    const value_ref *argv, size_t most)
{
    value_ref text = jinja_str(r, v);
    size_t count = 0;

    while (count < most && argv[count] != NULL)
        count++;
    return text != NULL ? jinja_call_method(r, text, method, argv, count) : NULL;
}

static value_ref upper(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return with_str(r, v, "upper", argv, 0);
}

static value_ref lower(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return with_str(r, v, "lower", argv, 0);
}

static value_ref capitalize(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return with_str(r, v, "capitalize", argv, 0);
}

static value_ref trim(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return with_str(r, v, "strip", argv, 1);
}

static value_ref center(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref width[2] = { argv[0] != NULL ? argv[0] : jinja_int(r, 80), NULL };

    return width[0] != NULL ? with_str(r, v, "center", width, 1) : NULL;
}

static bool begins_word(uint32_t c)
{
    return jinja_is_space(c) || (c < 0x80 && c != 0 && strchr("-({[<", (int)c) != NULL);
}

/* Not str.title(): words begin behind white space and opening brackets alone. */
static value_ref title(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct text_buffer b = { 0 };
    size_t start = 0;

    (void)argv;
    v = jinja_str(r, v);
    if (v == NULL || !jinja_spend(r, v->bytes / 4))
        return NULL;
    while (start < v->bytes) {
        size_t end = start, first, length;

        while (end < v->bytes && !begins_word(utf8_decode(v->text + end, &length)))
            end += length;
        if (end > start) {
            utf8_decode(v->text + start, &first);
            jinja_put_case(&b, JINJA_UPPER, v->text + start, first);
            jinja_put_case(&b, JINJA_LOWER, v->text + start + first, end - start - first);
        }
        for (start = end; start < v->bytes && begins_word(utf8_decode(v->text + start, &length));)
            start += length;
        text_buffer_append(&b, v->text + end, start - end);
    }
    return jinja_string_take(r, &b);
}

static value_ref string(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return jinja_str(r, v);
}

static value_ref defaulted(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref otherwise = argv[0] != NULL ? argv[0] : &jinja_empty;

    (void)r;
    if (v->kind == JINJA_UNDEFINED || (argv[1] != NULL && jinja_truth(argv[1]) && !jinja_truth(v)))
        return otherwise;
    return v;
}

static value_ref replace(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref text = jinja_str(r, v), items[3];

    items[0] = text != NULL ? jinja_str(r, argv[0]) : NULL;
    items[1] = items[0] != NULL ? jinja_str(r, argv[1]) : NULL;
    items[2] = argv[2];
    if (items[1] == NULL)
        return NULL;
    text = jinja_string(r, text->text, text->bytes); /* plain, as str() makes it */
    return text != NULL ? jinja_call_method(r, text, "replace", items,
                              argv[2] != NULL && argv[2]->kind != JINJA_NONE ? 3 : 2)
                        : NULL;
}

static value_ref marked_safe(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_value *out = jinja_make(r, JINJA_STRING);
    value_ref text = out != NULL ? jinja_str(r, v) : NULL;

    (void)argv;
    if (text == NULL)
        return NULL;
    *out = *text;
    out->flavour = JINJA_MARKUP;
    return out;
}

static value_ref escape(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref text = jinja_str(r, v);

    (void)argv;
    return text != NULL ? jinja_escape(r, text) : NULL;
}

static value_ref force_escape(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref text = jinja_str(r, v), plain;

    (void)argv;
    plain = text != NULL ? jinja_string(r, text->text, text->bytes) : NULL;
    return plain != NULL ? jinja_escape(r, plain) : NULL;
}

static bool put_indented(struct jinja_run *r, struct text_buffer *b, value_ref indent,
    const struct jinja_items *lines, bool first, bool blank)
{
    for (size_t i = 0; i < lines->count; i++) {
        value_ref line = lines->items[i];
        bool indented = i == 0 ? first : blank || line->bytes > 0;

        if (i > 0)
            text_buffer_put(b, "\n");
        if (indented)
            text_buffer_append(b, indent->text, indent->bytes);
        text_buffer_append(b, line->text, line->bytes);
        if (!jinja_may_hold(r, b->count))
            return false;
    }
    return true;
}

static value_ref indent_text(struct jinja_run *r, value_ref width)
{
    struct text_buffer b = { 0 };
    int64_t spaces = 4;

    if (width != NULL && width->kind == JINJA_STRING)
        return width;
    if (width != NULL && !jinja_as_int(width, &spaces))
        return jinja_fail(r, "indent: the width must be a number or a string");
    if (jinja_put_times(r, &b, " ", 1, spaces))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

static value_ref indent(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool first = argv[1] != NULL && jinja_truth(argv[1]);
    bool blank = argv[2] != NULL && jinja_truth(argv[2]);
    value_ref space = indent_text(r, argv[0]), newline = jinja_string(r, "\n", 1), text;
    struct text_buffer b = { 0 };
    struct jinja_items lines;

    if (space == NULL || newline == NULL)
        return NULL;
    text = jinja_binary(r, '+', v, newline);
    if (text == NULL)
        return NULL;
    if (text->kind != JINJA_STRING || text->flavour == JINJA_MARKUP)
        return jinja_fail(r, "indent needs a plain string");
    if (!jinja_split_lines(r, text, false, &lines))
        return NULL;
    if (put_indented(r, &b, space, &lines, first, blank))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

static value_ref joined(struct jinja_run *r, value_ref text, size_t bytes, value_ref end)
{
    value_ref head = jinja_string(r, text->text, bytes);

    return head != NULL ? jinja_concat(r, head, end) : NULL;
}

static value_ref truncate(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref end = argv[2] != NULL ? argv[2] : jinja_string(r, "...", 3);
    int64_t length = 255, leeway = 5, keep, has;
    size_t bytes;

    if (end == NULL)
        return NULL;
    if (!jinja_length(v, &has) || end->kind != JINJA_STRING || v->flavour == JINJA_MARKUP
        || (argv[0] != NULL && !jinja_as_int(argv[0], &length))
        || (argv[3] != NULL && argv[3]->kind != JINJA_NONE && !jinja_as_int(argv[3], &leeway)))
        return jinja_fail(r, "truncate needs a string, numbers and an end that is a string");
    keep = length - (int64_t)jinja_characters(end->text, end->bytes);
    if (keep < 0 || leeway < 0)
        return jinja_fail(r, "truncate: the length is less than that of the end");
    if (has - length <= leeway)
        return v;
    if (v->kind != JINJA_STRING)
        return jinja_fail(r, "truncate: a %s cannot be cut", jinja_type_name(v));
    bytes = jinja_offset(v->text, v->bytes, (size_t)keep);
    if (argv[1] != NULL && jinja_truth(argv[1]))
        return joined(r, v, bytes, end);
    for (size_t i = bytes; i > 0; i--)
        if (v->text[i - 1] == ' ')
            return joined(r, v, i - 1, end);
    return joined(r, v, bytes, end);
}

static value_ref wordcount(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int64_t count = 0;
    bool inside = false;
    value_ref text = jinja_str(r, v);

    (void)argv;
    if (text == NULL || !jinja_spend(r, text->bytes / 8))
        return NULL;
    for (size_t at = 0, length; at < text->bytes; at += length) {
        uint32_t c = utf8_decode(text->text + at, &length);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        bool word = c == '_' || (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO)
                    || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);

        count += word && !inside;
        inside = word;
    }
    return jinja_int(r, count);
}

static value_ref format(struct jinja_run *r, value_ref v, const struct jinja_args *args)
{
    value_ref text = jinja_str(r, v);
    struct jinja_value named = { .kind = JINJA_DICT };
    struct jinja_value positional = { .kind = JINJA_TUPLE, .list = { args->items, args->count } };

    if (args->count > 0 && args->named->count > 0)
        return jinja_fail(r, "format takes arguments by position or by name, not both");
    named.dict = (struct jinja_dict *)args->named;
    return text != NULL ? jinja_format(r, text, args->named->count > 0 ? &named : &positional)
                        : NULL;
}

static value_ref urlencode_text(struct jinja_run *r, value_ref v)
{
    static const char hex[] = "0123456789ABCDEF";
    struct text_buffer b = { 0 };

    for (size_t i = 0; i < v->bytes; i++) {
        unsigned char c = (unsigned char)v->text[i];
        char spelt[3] = { '%', hex[c >> 4], hex[c & 15] };

        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
            || (c != 0 && strchr("_.-~/", c) != NULL))
            text_buffer_append(&b, (const char *)&c, 1);
        else
            text_buffer_append(&b, spelt, 3);
    }
    return jinja_string_take(r, &b);
}

static value_ref urlencode(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    if (v->kind != JINJA_STRING && jinja_is_iterable(v))
        return jinja_fail(r, "urlencode of anything but text is not done");
    v = jinja_str(r, v);
    return v != NULL && jinja_spend(r, v->bytes / 4) ? urlencode_text(r, v) : NULL;
}

const struct jinja_builtin jinja_text_filters[] = {
    { .name = "abs", .params = "", .call = jinja_filter_abs },
    { .name = "capitalize", .params = "", .call = capitalize },
    { .name = "center", .params = "width", .call = center },
    { .name = "d", .params = "default_value boolean", .call = defaulted },
    { .name = "default", .params = "default_value boolean", .call = defaulted },
    { .name = "e", .params = "", .call = escape },
    { .name = "escape", .params = "", .call = escape },
    { .name = "float", .params = "default", .call = jinja_filter_float },
    { .name = "forceescape", .params = "", .call = force_escape },
    { .name = "format", .any = format },
    { .name = "indent", .params = "width first blank", .call = indent },
    { .name = "int", .params = "default base", .call = jinja_filter_int },
    { .name = "lower", .params = "", .call = lower },
    { .name = "replace", .params = "old new count", .least = 2, .call = replace },
    { .name = "round", .params = "precision method", .call = jinja_filter_round },
    { .name = "safe", .params = "", .call = marked_safe },
    { .name = "string", .params = "", .call = string },
    { .name = "title", .params = "", .call = title },
    { .name = "trim", .params = "chars", .call = trim },
    { .name = "truncate", .params = "length killwords end leeway", .call = truncate },
    { .name = "upper", .params = "", .call = upper },
    { .name = "urlencode", .params = "", .call = urlencode },
    { .name = "wordcount", .params = "", .call = wordcount },
    { .name = "attr", .state = JINJA_NOT_DONE },
    { .name = "filesizeformat", .state = JINJA_NOT_DONE },
    { .name = "pprint", .state = JINJA_NOT_DONE },
    { .name = "random", .state = JINJA_NOT_DONE },
    { .name = "striptags", .state = JINJA_NOT_DONE },
    { .name = "urlize", .state = JINJA_NOT_DONE },
    { .name = "wordwrap", .state = JINJA_NOT_DONE },
    { .name = "xmlattr", .state = JINJA_NOT_DONE },
    { 0 },
};
