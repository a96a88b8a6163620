/* jinja_methods_split.c - methods of strings that take them apart, put them
 * together or pad them. */
#include "text/jinja_methods.h"

#include "text/jinja_ast.h"
#include "text/jinja_filters.h"
#include "text/utf8.h"

/* Parts as they are found; they grow in the arena. */
struct parts {
    struct jinja_run *r;
    value_ref *items;
    size_t count, room;
};

static bool add(struct parts *p, const char *text, size_t bytes)
{
    value_ref v = jinja_string(p->r, text, bytes);

    if (v == NULL || !jinja_spend(p->r, 1))
        return false;
    if (p->count == p->room) {
        size_t room = p->room == 0 ? 4 : p->room * 2;
        value_ref *grown = jinja_array(p->r, room);

        if (grown == NULL)
            return false;
        if (p->count > 0)
            memcpy(grown, p->items, p->count * sizeof(*grown));
        p->items = grown;
        p->room = room;
    }
    p->items[p->count++] = v;
    return true;
}

static value_ref as_list(const struct parts *p)
{
    return jinja_sequence(p->r, JINJA_LIST, p->items, p->count);
}

static bool plain(struct jinja_run *r, value_ref v, const char *method)
{
    if (v->flavour != JINJA_MARKUP)
        return true;
    jinja_fail(r, "%s of escaped text is not done", method);
    return false;
}

static void reverse(struct parts *p)
{
    for (size_t i = 0; i < p->count / 2; i++) {
        value_ref swap = p->items[i];

        p->items[i] = p->items[p->count - 1 - i];
        p->items[p->count - 1 - i] = swap;
    }
}

static bool split_at_space(struct parts *p, value_ref v, int64_t most)
{
    size_t at = jinja_skip_space(v->text, v->bytes, 0), length;

    while (at < v->bytes) {
        size_t end = at;

        if (most-- == 0)
            return add(p, v->text + at, v->bytes - at);
        while (end < v->bytes && !jinja_is_space(utf8_decode(v->text + end, &length)))
            end += length;
        if (!add(p, v->text + at, end - at))
            return false;
        at = jinja_skip_space(v->text, v->bytes, end);
    }
    return true;
}

static bool rsplit_at_space(struct parts *p, value_ref v, int64_t most)
{
    size_t end = jinja_trim_end(v->text, v->bytes);
    size_t first = jinja_skip_space(v->text, v->bytes, 0);

    while (end > first) {
        size_t at = end;

        if (most-- == 0)
            return add(p, v->text, end);
        while (at > 0 && jinja_trim_end(v->text, at) == at) {
            at--;
            while (at > 0 && ((unsigned char)v->text[at] & 0xc0) == 0x80)
                at--;
        }
        if (!add(p, v->text + at, end - at))
            return false;
        end = jinja_trim_end(v->text, at);
    }
    return true;
}

static bool split_at(struct parts *p, value_ref v, value_ref by, int64_t most)
{
    size_t at = 0;

    for (; most != 0; most--) {
        const char *found = memmem(v->text + at, v->bytes - at, by->text, by->bytes);

        if (found == NULL)
            break;
        if (!add(p, v->text + at, (size_t)(found - v->text) - at))
            return false;
        at = (size_t)(found - v->text) + by->bytes;
    }
    return add(p, v->text + at, v->bytes - at);
}

static bool rsplit_at(struct parts *p, value_ref v, value_ref by, int64_t most)
{
    struct jinja_value rest = *v;

    for (; most != 0; most--) {
        const char *found = jinja_last_match(&rest, by);
        size_t end = found != NULL ? (size_t)(found - v->text) + by->bytes : 0;

        if (found == NULL)
            break;
        if (!add(p, v->text + end, rest.bytes - end))
            return false;
        rest.bytes = end - by->bytes;
    }
    return add(p, rest.text, rest.bytes);
}

static value_ref split(struct jinja_run *r, value_ref v, const value_ref *argv, bool right)
{
    struct parts p = { .r = r };
    value_ref by = argv[0];
    int64_t most = -1;
    bool ok;

    if (!plain(r, v, "split"))
        return NULL;
    if (argv[1] != NULL && !jinja_as_int(argv[1], &most))
        return jinja_fail(r, "split: maxsplit must be a whole number");
    if (by == NULL || by->kind == JINJA_NONE) {
        ok = right ? rsplit_at_space(&p, v, most) : split_at_space(&p, v, most);
    } else {
        if (by->kind != JINJA_STRING || by->bytes == 0)
            return jinja_fail(r, "split needs a string that is not empty, or none");
        ok = right ? rsplit_at(&p, v, by, most) : split_at(&p, v, by, most);
    }
    if (!ok || !jinja_spend(r, v->bytes / 16))
        return NULL;
    if (right)
        reverse(&p);
    return as_list(&p);
}

value_ref jinja_method_split(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return split(r, v, argv, false);
}

value_ref jinja_method_rsplit(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return split(r, v, argv, true);
}

static bool ends_line(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028
           || c == 0x2029;
}

bool jinja_split_lines(struct jinja_run *r, value_ref v, bool keep, struct jinja_items *out)
{
    struct parts p = { .r = r };
    size_t start = 0, length;

    for (size_t at = 0; at < v->bytes;) {
        uint32_t c = utf8_decode(v->text + at, &length);
        size_t end = at;

        at += length;
        if (!ends_line(c))
            continue;
        if (c == '\r' && at < v->bytes && v->text[at] == '\n')
            at++;
        if (!add(&p, v->text + start, (keep ? at : end) - start))
            return false;
        start = at;
    }
    if (start < v->bytes && !add(&p, v->text + start, v->bytes - start))
        return false;
    *out = (struct jinja_items){ p.items, p.count };
    return jinja_spend(r, v->bytes / 8);
}

value_ref jinja_method_splitlines(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct jinja_items lines;

    if (!plain(r, v, "splitlines")
        || !jinja_split_lines(r, v, argv[0] != NULL && jinja_truth(argv[0]), &lines))
        return NULL;
    return jinja_sequence(r, JINJA_LIST, lines.items, lines.count);
}

static value_ref partition(struct jinja_run *r, value_ref v, value_ref by, bool last)
{
    struct parts p = { .r = r };
    const char *found;
    size_t before;

    if (!plain(r, v, "partition"))
        return NULL;
    if (by->kind != JINJA_STRING || by->bytes == 0)
        return jinja_fail(r, "partition needs a string that is not empty");
    found = last ? jinja_last_match(v, by) : memmem(v->text, v->bytes, by->text, by->bytes);
    if (found == NULL) {
        if (!add(&p, last ? "" : v->text, last ? 0 : v->bytes) || !add(&p, "", 0)
            || !add(&p, last ? v->text : "", last ? v->bytes : 0))
            return NULL;
    } else {
        before = (size_t)(found - v->text);
        if (!add(&p, v->text, before) || !add(&p, found, by->bytes)
            || !add(&p, found + by->bytes, v->bytes - before - by->bytes))
            return NULL;
    }
    return jinja_spend(r, v->bytes / 16) ? jinja_sequence(r, JINJA_TUPLE, p.items, p.count) : NULL;
}

value_ref jinja_method_partition(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return partition(r, v, argv[0], false);
}

value_ref jinja_method_rpartition(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return partition(r, v, argv[0], true);
}

/* Before every character and at the end. */
static bool interleave(struct jinja_run *r, struct text_buffer *b, value_ref v, value_ref with,
    int64_t most)
{
    size_t at = 0, length;

    for (; most != 0 && at < v->bytes; most--, at += length) {
        utf8_decode(v->text + at, &length);
        text_buffer_append(b, with->text, with->bytes);
        text_buffer_append(b, v->text + at, length);
        if (!jinja_may_hold(r, b->count))
            return false;
    }
    text_buffer_append(b, v->text + at, v->bytes - at);
    if (most != 0)
        text_buffer_append(b, with->text, with->bytes);
    return true;
}

static bool replace_all(struct jinja_run *r, struct text_buffer *b, value_ref v,
    const value_ref *argv, int64_t most)
{
    size_t at = 0;

    if (argv[0]->bytes == 0)
        return interleave(r, b, v, argv[1], most);
    for (; most != 0; most--) {
        const char *found = memmem(v->text + at, v->bytes - at, argv[0]->text, argv[0]->bytes);

        if (found == NULL)
            break;
        text_buffer_append(b, v->text + at, (size_t)(found - v->text) - at);
        text_buffer_append(b, argv[1]->text, argv[1]->bytes);
        at = (size_t)(found - v->text) + argv[0]->bytes;
        if (!jinja_may_hold(r, b->count))
            return false;
    }
    text_buffer_append(b, v->text + at, v->bytes - at);
    return jinja_may_hold(r, b->count);
}

value_ref jinja_method_replace(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct text_buffer b = { 0 };
    int64_t most = -1;

    if (!plain(r, v, "replace"))
        return NULL;
    if (argv[0]->kind != JINJA_STRING || argv[1]->kind != JINJA_STRING
        || (argv[2] != NULL && !jinja_as_int(argv[2], &most)))
        return jinja_fail(r, "replace needs two strings and perhaps a number");
    if (replace_all(r, &b, v, argv, most) && jinja_spend(r, (v->bytes + b.count) / 16))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

value_ref jinja_method_join(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    struct text_buffer b = { 0 };
    struct jinja_items list;

    if (!plain(r, v, "join") || !jinja_items(r, argv[0], &list))
        return NULL;
    for (size_t i = 0; i < list.count; i++) {
        if (list.items[i]->kind != JINJA_STRING || !jinja_may_hold(r, b.count)) {
            text_buffer_free(&b);
            return jinja_fail(r, "join: item %zu is a %s, not a string", i,
                jinja_type_name(list.items[i]));
        }
        if (i > 0)
            text_buffer_append(&b, v->text, v->bytes);
        text_buffer_append(&b, list.items[i]->text, list.items[i]->bytes);
    }
    return jinja_string_take(r, &b);
}

/* Padded to a width; `left` is how much of it goes before the text. */
static value_ref padded(struct jinja_run *r, value_ref v, const value_ref *argv,
    int64_t (*left)(int64_t pad, int64_t width))
{
    value_ref fill = argv[1] != NULL ? argv[1] : jinja_string(r, " ", 1);
    struct text_buffer b = { 0 };
    int64_t width, pad, before;

    if (fill == NULL || !plain(r, v, "padding"))
        return NULL;
    if (!jinja_as_int(argv[0], &width) || fill->kind != JINJA_STRING
        || jinja_characters(fill->text, fill->bytes) != 1)
        return jinja_fail(r, "padding needs a number and perhaps one character");
    pad = width < 0 ? 0 : width - (int64_t)jinja_characters(v->text, v->bytes);
    if (pad <= 0)
        return v;
    before = left(pad, width);
    if (jinja_put_times(r, &b, fill->text, fill->bytes, before)) {
        text_buffer_append(&b, v->text, v->bytes);
        if (jinja_put_times(r, &b, fill->text, fill->bytes, pad - before))
            return jinja_string_take(r, &b);
    }
    text_buffer_free(&b);
    return NULL;
}

static int64_t none_left(int64_t pad, int64_t width)
{
    (void)pad;
    (void)width;
    return 0;
}

static int64_t all_left(int64_t pad, int64_t width)
{
    (void)width;
    return pad;
}

/* Of an odd rest the left side gets more if the width is odd, too. */
static int64_t half_left(int64_t pad, int64_t width)
{
    return pad / 2 + (pad & width & 1);
}

value_ref jinja_method_ljust(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return padded(r, v, argv, none_left);
}

value_ref jinja_method_rjust(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return padded(r, v, argv, all_left);
}

value_ref jinja_method_center(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return padded(r, v, argv, half_left);
}

value_ref jinja_method_zfill(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool sign = v->bytes > 0 && (v->text[0] == '-' || v->text[0] == '+');
    int64_t width;
    struct text_buffer b = { 0 };

    if (!plain(r, v, "zfill") || !jinja_as_int(argv[0], &width))
        return jinja_fail(r, "zfill needs a number");
    text_buffer_append(&b, v->text, sign);
    if (jinja_put_times(r, &b, "0", 1,
            width < 0 ? 0 : width - (int64_t)jinja_characters(v->text, v->bytes))) {
        text_buffer_append(&b, v->text + sign, v->bytes - sign);
        return jinja_string_take(r, &b);
    }
    text_buffer_free(&b);
    return NULL;
}
