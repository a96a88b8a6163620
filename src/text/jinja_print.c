/* jinja_print.c - str() and repr() as Python writes them.
 *
 * What Python prints with an address in it (methods, generators) has no text that
 * could be equal: printing it is an error. */
#include <math.h>
#include <stdio.h>

#include <utf8proc.h>

#include "text/jinja_ast.h"
#include "text/jinja_methods.h"
#include "text/json_write.h"
#include "text/utf8.h"

void jinja_put_float(struct text_buffer *b, double x)
{
    if (isnan(x))
        text_buffer_put(b, "nan");
    else if (isinf(x))
        text_buffer_put(b, x < 0 ? "-inf" : "inf");
    else
        json_write_double(b, x);
}

bool jinja_is_printable(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return c == ' ';
    default: return true;
    }
}

static void put_character(struct text_buffer *b, const char *text, size_t length, char quote)
{
    size_t used;
    uint32_t c = utf8_decode(text, &used);
    char spelt[16];

    if (c == (uint32_t)quote || c == '\\')
        snprintf(spelt, sizeof(spelt), "\\%c", (char)c);
    else if (c == '\n' || c == '\r' || c == '\t')
        snprintf(spelt, sizeof(spelt), "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
    else if (jinja_is_printable(c))
        spelt[0] = '\0';
    else
        snprintf(spelt, sizeof(spelt),
            c < 0x100     ? "\\x%02x"
            : c < 0x10000 ? "\\u%04x"
                          : "\\U%08x",
            c);
    if (spelt[0] == '\0')
        text_buffer_append(b, text, length);
    else
        text_buffer_put(b, spelt);
}

static void put_quoted(struct text_buffer *b, value_ref v)
{
    bool single = memchr(v->text, '\'', v->bytes) != NULL;
    bool both = single && memchr(v->text, '"', v->bytes) != NULL;
    char quote = single && !both ? '"' : '\'';

    if (v->flavour == JINJA_MARKUP)
        text_buffer_put(b, "Markup(");
    text_buffer_append(b, &quote, 1);
    for (size_t at = 0, length; at < v->bytes; at += length) {
        utf8_decode(v->text + at, &length);
        put_character(b, v->text + at, length, quote);
    }
    text_buffer_append(b, &quote, 1);
    if (v->flavour == JINJA_MARKUP)
        text_buffer_put(b, ")");
}

static bool put_value(struct jinja_run *r, struct text_buffer *b, value_ref v, unsigned level);

static bool put_items(struct jinja_run *r, struct text_buffer *b, const struct jinja_items *list,
    unsigned level)
{
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            text_buffer_put(b, ", ");
        if (!put_value(r, b, list->items[i], level + 1))
            return false;
    }
    return true;
}

static bool put_list(struct jinja_run *r, struct text_buffer *b, value_ref v, unsigned level)
{
    static const char *const views[] = { [JINJA_VIEW_KEYS] = "dict_keys([",
        [JINJA_VIEW_VALUES] = "dict_values([", [JINJA_VIEW_ITEMS] = "dict_items([" };
    bool tuple = v->kind == JINJA_TUPLE, view = v->kind == JINJA_VIEW;

    text_buffer_put(b, view ? views[v->flavour] : tuple ? "(" : "[");
    if (!put_items(r, b, &v->list, level))
        return false;
    text_buffer_put(b, view ? "])" : !tuple ? "]" : v->list.count == 1 ? ",)" : ")");
    return true;
}

static bool put_dict(struct jinja_run *r, struct text_buffer *b, value_ref v, unsigned level)
{
    const struct jinja_dict *d = v->dict;

    text_buffer_put(b, v->kind == JINJA_NAMESPACE ? "<Namespace {" : "{");
    for (size_t i = 0; i < d->count; i++) {
        if (i > 0)
            text_buffer_put(b, ", ");
        if (!put_value(r, b, d->keys[i], level + 1))
            return false;
        text_buffer_put(b, ": ");
        if (!put_value(r, b, d->values[i], level + 1))
            return false;
    }
    text_buffer_put(b, v->kind == JINJA_NAMESPACE ? "}>" : "}");
    return true;
}

static void put_number(struct text_buffer *b, value_ref v)
{
    char text[96];

    if (v->kind == JINJA_INT)
        snprintf(text, sizeof(text), "%lld", (long long)v->integer);
    else if (v->range.step == 1)
        snprintf(text, sizeof(text), "range(%lld, %lld)", (long long)v->range.start,
            (long long)v->range.stop);
    else
        snprintf(text, sizeof(text), "range(%lld, %lld, %lld)", (long long)v->range.start,
            (long long)v->range.stop, (long long)v->range.step);
    text_buffer_put(b, text);
}

static bool put_macro(struct jinja_run *r, struct text_buffer *b, value_ref v)
{
    value_ref name = jinja_string(r, v->macro.name, strlen(v->macro.name));

    if (name == NULL)
        return false;
    text_buffer_put(b, "<Macro ");
    put_quoted(b, name);
    text_buffer_put(b, ">");
    return true;
}

static bool put_value(struct jinja_run *r, struct text_buffer *b, value_ref v, unsigned level)
{
    if (!jinja_enter(r, level, "a value that is printed") || !jinja_may_hold(r, b->count))
        return false;
    switch (v->kind) {
    case JINJA_UNDEFINED: text_buffer_put(b, "Undefined"); return true;
    case JINJA_NONE: text_buffer_put(b, "None"); return true;
    case JINJA_BOOL: text_buffer_put(b, v->truth ? "True" : "False"); return true;
    case JINJA_FLOAT: jinja_put_float(b, v->real); return true;
    case JINJA_BIG: text_buffer_append(b, v->text, v->bytes); return true;
    case JINJA_INT:
    case JINJA_RANGE: put_number(b, v); return true;
    case JINJA_STRING: put_quoted(b, v); return jinja_spend(r, v->bytes / 16);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_VIEW: return put_list(r, b, v, level);
    case JINJA_DICT:
    case JINJA_NAMESPACE: return put_dict(r, b, v, level);
    case JINJA_MACRO: return put_macro(r, b, v);
    default:
        jinja_fail(r, "a %s has no text to print (is a call or a filter such as list missing?)",
            jinja_type_name(v));
        return false;
    }
}

bool jinja_put_repr(struct jinja_run *r, struct text_buffer *b, value_ref v)
{
    return put_value(r, b, v, 0);
}

bool jinja_put_str(struct jinja_run *r, struct text_buffer *b, value_ref v)
{
    if (v->kind == JINJA_STRING)
        text_buffer_append(b, v->text, v->bytes);
    else if (v->kind != JINJA_UNDEFINED)
        return put_value(r, b, v, 0);
    return true;
}

value_ref jinja_str(struct jinja_run *r, value_ref v)
{
    struct text_buffer b = { 0 };

    if (v->kind == JINJA_STRING)
        return v;
    if (jinja_put_str(r, &b, v))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

const char *jinja_why_undefined(value_ref v, char *room, size_t bytes)
{
    const struct jinja_missing *m = &v->missing;

    if (m->hint != NULL)
        return m->hint;
    if (m->owner == NULL)
        snprintf(room, bytes, "'%s' is undefined", m->name);
    else
        snprintf(room, bytes, "a '%s' has no '%s'", m->owner, m->name);
    return room;
}
