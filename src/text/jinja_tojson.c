/* jinja_tojson.c - tojson as Transformers defines it: Python's json.dumps with
 * ensure_ascii, indent, separators and sort_keys, and no escaping for HTML. */
#include <math.h>
#include <stdio.h>

#include "text/jinja_ast.h"
#include "text/json_write.h"
#include "text/utf8.h"

struct style {
    struct jinja_run *r;
    struct text_buffer *out;
    value_ref comma, colon; /* strings */
    value_ref indent;       /* a string, or NULL for one line */
    bool ascii, sorted;
};

static bool put(struct style *s, value_ref v, unsigned level);

static void put_ascii(struct text_buffer *out, value_ref v)
{
    static const char named[128] = { ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f',
        ['\r'] = 'r', ['"'] = '"', ['\\'] = '\\' };
    char spelt[16];

    text_buffer_put(out, "\"");
    for (size_t at = 0, length; at < v->bytes; at += length) {
        uint32_t c = utf8_decode(v->text + at, &length);

        if (c < 0x80 && named[c] != 0)
            snprintf(spelt, sizeof(spelt), "\\%c", named[c]);
        else if (c >= 0x20 && c < 0x7f)
            snprintf(spelt, sizeof(spelt), "%c", (char)c);
        else if (c < 0x10000)
            snprintf(spelt, sizeof(spelt), "\\u%04x", c);
        else
            snprintf(spelt, sizeof(spelt), "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                0xdc00 + ((c - 0x10000) & 0x3ff));
        text_buffer_put(out, spelt);
    }
    text_buffer_put(out, "\"");
}

static void put_string(struct style *s, value_ref v)
{
    if (s->ascii)
        put_ascii(s->out, v);
    else
        json_write_string(s->out, v->text, v->bytes);
}

static bool put_newline(struct style *s, unsigned level)
{
    if (s->indent == NULL)
        return true;
    text_buffer_put(s->out, "\n");
    return jinja_put_times(s->r, s->out, s->indent->text, s->indent->bytes, level);
}

static bool put_list(struct style *s, value_ref v, unsigned level)
{
    if (v->list.count == 0) {
        text_buffer_put(s->out, "[]");
        return true;
    }
    text_buffer_put(s->out, "[");
    for (size_t i = 0; i < v->list.count; i++) {
        if (i > 0)
            text_buffer_append(s->out, s->comma->text, s->comma->bytes);
        if (!put_newline(s, level + 1) || !put(s, v->list.items[i], level + 1))
            return false;
    }
    if (!put_newline(s, level))
        return false;
    text_buffer_put(s->out, "]");
    return true;
}

static bool put_key(struct style *s, value_ref key)
{
    switch (key->kind) {
    case JINJA_STRING: put_string(s, key); return true;
    case JINJA_NONE:
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_BIG:
    case JINJA_FLOAT:
        text_buffer_put(s->out, "\"");
        if (!put(s, key, 0))
            return false;
        text_buffer_put(s->out, "\"");
        return true;
    default:
        jinja_fail(s->r, "tojson: a key cannot be a %s", jinja_type_name(key));
        return false;
    }
}

static bool put_dict(struct style *s, value_ref v, unsigned level)
{
    const struct jinja_dict *d = v->dict;
    size_t *order = NULL;

    if (d->count == 0) {
        text_buffer_put(s->out, "{}");
        return true;
    }
    if (s->sorted) {
        order = text_arena_take(&s->r->arena, d->count * sizeof(*order));
        if (order == NULL)
            return jinja_out_of_memory(s->r) != NULL;
        if (!jinja_sort(s->r, d->keys, d->count, false, order))
            return false;
    }
    text_buffer_put(s->out, "{");
    for (size_t i = 0; i < d->count; i++) {
        size_t k = order != NULL ? order[i] : i;

        if (i > 0)
            text_buffer_append(s->out, s->comma->text, s->comma->bytes);
        if (!put_newline(s, level + 1) || !put_key(s, d->keys[k]))
            return false;
        text_buffer_append(s->out, s->colon->text, s->colon->bytes);
        if (!put(s, d->values[k], level + 1))
            return false;
    }
    if (!put_newline(s, level))
        return false;
    text_buffer_put(s->out, "}");
    return true;
}

static bool put(struct style *s, value_ref v, unsigned level)
{
    char number[32];

    if (!jinja_enter(s->r, level, "tojson: a value") || !jinja_may_hold(s->r, s->out->count))
        return false;
    switch (v->kind) {
    case JINJA_NONE: text_buffer_put(s->out, "null"); return true;
    case JINJA_BOOL: text_buffer_put(s->out, v->truth ? "true" : "false"); return true;
    case JINJA_INT:
        snprintf(number, sizeof(number), "%lld", (long long)v->integer);
        text_buffer_put(s->out, number);
        return true;
    case JINJA_BIG: text_buffer_append(s->out, v->text, v->bytes); return true;
    case JINJA_FLOAT: json_write_double(s->out, v->real); return true;
    case JINJA_STRING: put_string(s, v); return jinja_spend(s->r, v->bytes / 16);
    case JINJA_LIST:
    case JINJA_TUPLE: return put_list(s, v, level);
    case JINJA_DICT: return put_dict(s, v, level);
    default:
        jinja_fail(s->r, "tojson: an object of type %s is no JSON", jinja_type_name(v));
        return false;
    }
}

static bool set_separators(struct style *s, value_ref separators)
{
    struct jinja_items pair;

    if (separators == NULL || separators->kind == JINJA_NONE) {
        s->comma = jinja_string(s->r, s->indent != NULL ? "," : ", ", s->indent != NULL ? 1 : 2);
        s->colon = jinja_string(s->r, ": ", 2);
        return s->comma != NULL && s->colon != NULL;
    }
    if (!jinja_items(s->r, separators, &pair))
        return false;
    if (pair.count != 2 || pair.items[0]->kind != JINJA_STRING
        || pair.items[1]->kind != JINJA_STRING) {
        jinja_fail(s->r, "tojson: separators must be two strings");
        return false;
    }
    s->comma = pair.items[0];
    s->colon = pair.items[1];
    return true;
}

static bool set_indent(struct style *s, value_ref indent)
{
    struct text_buffer spaces = { 0 };
    int64_t width;

    if (indent == NULL || indent->kind == JINJA_NONE)
        return true;
    if (indent->kind == JINJA_STRING) {
        s->indent = indent;
        return true;
    }
    if (!jinja_as_int(indent, &width)) {
        jinja_fail(s->r, "tojson: indent must be a number or a string");
        return false;
    }
    if (!jinja_put_times(s->r, &spaces, " ", 1, width)) {
        text_buffer_free(&spaces);
        return false;
    }
    s->indent = jinja_string_take(s->r, &spaces);
    return s->indent != NULL;
}

static value_ref tojson(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct text_buffer b = { 0 };
    struct style s = { .r = r, .out = &b, .ascii = argv[0] != NULL && jinja_truth(argv[0]),
        .sorted = argv[3] != NULL && jinja_truth(argv[3]) };

    if (!set_indent(&s, argv[1]) || !set_separators(&s, argv[2]))
        return NULL;
    if (put(&s, v, 0))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

const struct jinja_builtin jinja_filter_tojson = { .name = "tojson",
    .params = "ensure_ascii indent separators sort_keys", .call = tojson };
