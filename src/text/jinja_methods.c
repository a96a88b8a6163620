/* jinja_methods.c - methods of strings: stripping, case, searching, and questions.
 *
 * Positions are counted in characters. Markup keeps its mark where only characters
 * are taken away or change their case; other methods on it are not done. */
#include <utf8proc.h>

#include "text/jinja_ast.h"
#include "text/jinja_case.h"
#include "text/jinja_methods.h"
#include "text/utf8.h"

static value_ref part(struct jinja_run *r, value_ref v, size_t from, size_t to)
{
    struct jinja_value *out = jinja_make(r, JINJA_STRING);

    if (out == NULL)
        return NULL;
    out->text = v->text + from;
    out->bytes = to - from;
    out->flavour = v->flavour;
    return out;
}

/* Whether the character is one of `chars`, or white space if that is none. */
static bool is_among(value_ref chars, const char *c, size_t length)
{
    size_t used;

    if (chars == NULL || chars->kind == JINJA_NONE)
        return jinja_is_space(utf8_decode(c, &used));
    return memmem(chars->text, chars->bytes, c, length) != NULL;
}

static value_ref stripped(struct jinja_run *r, value_ref v, value_ref chars, bool left, bool right)
{
    size_t from = 0, to = v->bytes, length;

    if (chars != NULL && chars->kind != JINJA_NONE && chars->kind != JINJA_STRING)
        return jinja_fail(r, "strip needs a string or none, not a %s", jinja_type_name(chars));
    while (left && from < to) {
        utf8_decode(v->text + from, &length);
        if (!is_among(chars, v->text + from, length))
            break;
        from += length;
    }
    while (right && to > from) {
        size_t at = to - 1;

        while (((unsigned char)v->text[at] & 0xc0) == 0x80)
            at--;
        if (!is_among(chars, v->text + at, to - at))
            break;
        to = at;
    }
    return jinja_spend(r, (v->bytes - (to - from)) / 8) ? part(r, v, from, to) : NULL;
}

static value_ref strip(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return stripped(r, v, argv[0], true, true);
}

static value_ref lstrip(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return stripped(r, v, argv[0], true, false);
}

static value_ref rstrip(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return stripped(r, v, argv[0], false, true);
}

static value_ref upper(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return jinja_cased(r, v, JINJA_UPPER);
}

static value_ref lower(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return jinja_cased(r, v, JINJA_LOWER);
}

static value_ref title(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return jinja_cased(r, v, JINJA_TITLE);
}

static value_ref capitalize(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return jinja_cased(r, v, JINJA_CAPITALIZED);
}

static value_ref swapcase(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return jinja_cased(r, v, JINJA_SWAPPED);
}

static bool begins(value_ref v, value_ref with)
{
    return v->bytes >= with->bytes && memcmp(v->text, with->text, with->bytes) == 0;
}

static bool ends(value_ref v, value_ref with)
{
    return v->bytes >= with->bytes
           && memcmp(v->text + v->bytes - with->bytes, with->text, with->bytes) == 0;
}

/* v[start:end] if these are given, and where that begins in characters; NULL: failed.
 * A start behind the end of v finds nothing, not even "". */
static value_ref window(struct jinja_run *r, value_ref v, const value_ref *bounds, int64_t *start,
    bool *beyond)
{
    value_ref from = bounds[0] != NULL ? bounds[0] : &jinja_none;
    value_ref to = bounds[1] != NULL ? bounds[1] : &jinja_none;
    int64_t length;

    *start = 0;
    *beyond = false;
    if (from->kind == JINJA_NONE && to->kind == JINJA_NONE)
        return v;
    jinja_length(v, &length);
    if (jinja_as_int(from, start)) {
        *beyond = *start > length;
        *start = *start < -length ? 0 : *start < 0 ? *start + length : *start;
    }
    return jinja_slice(r, v, from, to, &jinja_none);
}

static value_ref has_end(struct jinja_run *r, value_ref v, const value_ref *argv,
    bool (*matches)(value_ref v, value_ref with))
{
    int64_t start;
    bool beyond;
    struct jinja_items list = { &argv[0], 1 };

    v = window(r, v, argv + 1, &start, &beyond);
    if (v == NULL)
        return NULL;
    if (argv[0]->kind == JINJA_TUPLE)
        list = argv[0]->list;
    for (size_t i = 0; i < list.count; i++) {
        if (list.items[i]->kind != JINJA_STRING)
            return jinja_fail(r, "startswith and endswith need a string or a tuple of them, not "
                "a %s", jinja_type_name(list.items[i]));
        if (!beyond && matches(v, list.items[i]))
            return &jinja_true;
    }
    return &jinja_false;
}

static value_ref startswith(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return has_end(r, v, argv, begins);
}

static value_ref endswith(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return has_end(r, v, argv, ends);
}

static value_ref removeprefix(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    if (argv[0]->kind != JINJA_STRING)
        return jinja_fail(r, "removeprefix needs a string");
    return begins(v, argv[0]) ? part(r, v, argv[0]->bytes, v->bytes) : v;
}

static value_ref removesuffix(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    if (argv[0]->kind != JINJA_STRING)
        return jinja_fail(r, "removesuffix needs a string");
    return ends(v, argv[0]) ? part(r, v, 0, v->bytes - argv[0]->bytes) : v;
}

const char *jinja_last_match(value_ref v, value_ref what)
{
    for (size_t at = v->bytes + 1 - what->bytes; what->bytes <= v->bytes && at-- > 0;)
        if (memcmp(v->text + at, what->text, what->bytes) == 0)
            return v->text + at;
    return NULL;
}

/* The position in characters, or -1. */
static value_ref found_at(struct jinja_run *r, value_ref v, const value_ref *argv, bool last,
    bool must)
{
    int64_t start;
    bool beyond;
    const char *at;

    if (argv[0]->kind != JINJA_STRING)
        return jinja_fail(r, "find needs a string, not a %s", jinja_type_name(argv[0]));
    v = window(r, v, argv + 1, &start, &beyond);
    if (v == NULL || !jinja_spend(r, v->bytes / 16))
        return NULL;
    at = last ? jinja_last_match(v, argv[0])
              : memmem(v->text, v->bytes, argv[0]->text, argv[0]->bytes);
    if (at == NULL || beyond)
        return must ? jinja_fail(r, "index: the text is not in the string") : jinja_int(r, -1);
    return jinja_int(r, start + (int64_t)jinja_characters(v->text, (size_t)(at - v->text)));
}

static value_ref find(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return found_at(r, v, argv, false, false);
}

static value_ref rfind(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return found_at(r, v, argv, true, false);
}

static value_ref index_of(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return found_at(r, v, argv, false, true);
}

static value_ref rindex_of(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return found_at(r, v, argv, true, true);
}

static value_ref count(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int64_t start, n = 0;
    bool beyond;

    if (argv[0]->kind != JINJA_STRING)
        return jinja_fail(r, "count needs a string, not a %s", jinja_type_name(argv[0]));
    v = window(r, v, argv + 1, &start, &beyond);
    if (v == NULL || !jinja_spend(r, v->bytes / 16))
        return NULL;
    if (beyond)
        return jinja_int(r, 0);
    if (argv[0]->bytes == 0)
        return jinja_int(r, (int64_t)jinja_characters(v->text, v->bytes) + 1);
    for (const char *at = v->text;; n++) {
        at = memmem(at, v->bytes - (size_t)(at - v->text), argv[0]->text, argv[0]->bytes);
        if (at == NULL)
            return jinja_int(r, n);
        at += argv[0]->bytes;
    }
}

enum question { IS_ALPHA, IS_ALNUM, IS_DECIMAL, IS_SPACE, IS_ASCII, IS_PRINTABLE };

static bool answers(uint32_t c, enum question q)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);

    switch (q) {
    case IS_ALPHA: return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    case IS_ALNUM:
        return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO)
               || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
    case IS_DECIMAL: return k == UTF8PROC_CATEGORY_ND;
    case IS_SPACE: return jinja_is_space(c);
    case IS_ASCII: return c < 0x80;
    case IS_PRINTABLE: return jinja_is_printable(c);
    }
    return false;
}

static value_ref all_are(struct jinja_run *r, value_ref v, enum question q, bool empty)
{
    if (!jinja_spend(r, v->bytes / 8))
        return NULL;
    for (size_t at = 0, length; at < v->bytes; at += length)
        if (!answers(utf8_decode(v->text + at, &length), q))
            return &jinja_false;
    return jinja_bool(v->bytes > 0 || empty);
}

static value_ref isalpha_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return all_are(r, v, IS_ALPHA, false);
}

static value_ref isalnum_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return all_are(r, v, IS_ALNUM, false);
}

static value_ref isdecimal(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return all_are(r, v, IS_DECIMAL, false);
}

/* isdigit and isnumeric take more than decimals beyond ASCII; that is not done. */
static value_ref isdigit_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    for (size_t at = 0, length; at < v->bytes; at += length) {
        uint32_t c = utf8_decode(v->text + at, &length);

        if (c >= 0x80 && !answers(c, IS_DECIMAL))
            return jinja_fail(r, "isdigit and isnumeric are not done for text beyond ASCII");
    }
    return all_are(r, v, IS_DECIMAL, false);
}

static value_ref isspace_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return all_are(r, v, IS_SPACE, false);
}

static value_ref isascii_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return all_are(r, v, IS_ASCII, true);
}

static value_ref isprintable(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return all_are(r, v, IS_PRINTABLE, true);
}

static bool is_upper_letter(uint32_t c)
{
    return jinja_is_cased(c) && utf8proc_tolower((utf8proc_int32_t)c) != (utf8proc_int32_t)c
           && utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_LT;
}

/* Some letter has a case, and none has another than the one asked for. */
static value_ref one_case(struct jinja_run *r, value_ref v, bool wanted)
{
    bool some = false;

    if (!jinja_spend(r, v->bytes / 4))
        return NULL;
    for (size_t at = 0, length; at < v->bytes; at += length) {
        uint32_t c = utf8_decode(v->text + at, &length);
        bool large = is_upper_letter(c)
                     || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU;

        if (!jinja_is_cased(c))
            continue;
        if (large != wanted || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LT)
            return &jinja_false;
        some = true;
    }
    return jinja_bool(some);
}

static value_ref isupper_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return one_case(r, v, true);
}

static value_ref islower_(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return one_case(r, v, false);
}

/* Python's names; "." is a parameter without one. */
const struct jinja_builtin jinja_string_methods[] = {
    { .name = "strip", .params = ".", .call = strip },
    { .name = "lstrip", .params = ".", .call = lstrip },
    { .name = "rstrip", .params = ".", .call = rstrip },
    { .name = "split", .params = "sep maxsplit", .call = jinja_method_split },
    { .name = "rsplit", .params = "sep maxsplit", .call = jinja_method_rsplit },
    { .name = "startswith", .params = ". . .", .least = 1, .call = startswith },
    { .name = "endswith", .params = ". . .", .least = 1, .call = endswith },
    { .name = "replace", .params = ". . .", .least = 2, .call = jinja_method_replace },
    { .name = "join", .params = ".", .least = 1, .call = jinja_method_join },
    { .name = "upper", .params = "", .call = upper },
    { .name = "lower", .params = "", .call = lower },
    { .name = "title", .params = "", .call = title },
    { .name = "capitalize", .params = "", .call = capitalize },
    { .name = "swapcase", .params = "", .call = swapcase },
    { .name = "find", .params = ". . .", .least = 1, .call = find },
    { .name = "rfind", .params = ". . .", .least = 1, .call = rfind },
    { .name = "index", .params = ". . .", .least = 1, .call = index_of },
    { .name = "rindex", .params = ". . .", .least = 1, .call = rindex_of },
    { .name = "count", .params = ". . .", .least = 1, .call = count },
    { .name = "splitlines", .params = "keepends", .call = jinja_method_splitlines },
    { .name = "partition", .params = ".", .least = 1, .call = jinja_method_partition },
    { .name = "rpartition", .params = ".", .least = 1, .call = jinja_method_rpartition },
    { .name = "removeprefix", .params = ".", .least = 1, .call = removeprefix },
    { .name = "removesuffix", .params = ".", .least = 1, .call = removesuffix },
    { .name = "ljust", .params = ". .", .least = 1, .call = jinja_method_ljust },
    { .name = "rjust", .params = ". .", .least = 1, .call = jinja_method_rjust },
    { .name = "center", .params = ". .", .least = 1, .call = jinja_method_center },
    { .name = "zfill", .params = ".", .least = 1, .call = jinja_method_zfill },
    { .name = "format", .any = jinja_str_format },
    { .name = "isalpha", .params = "", .call = isalpha_ },
    { .name = "isalnum", .params = "", .call = isalnum_ },
    { .name = "isdecimal", .params = "", .call = isdecimal },
    { .name = "isdigit", .params = "", .call = isdigit_ },
    { .name = "isnumeric", .params = "", .call = isdigit_ },
    { .name = "isspace", .params = "", .call = isspace_ },
    { .name = "isascii", .params = "", .call = isascii_ },
    { .name = "isprintable", .params = "", .call = isprintable },
    { .name = "isupper", .params = "", .call = isupper_ },
    { .name = "islower", .params = "", .call = islower_ },
    { .name = "istitle", .state = JINJA_NOT_DONE },
    { .name = "isidentifier", .state = JINJA_NOT_DONE },
    { .name = "casefold", .state = JINJA_NOT_DONE },
    { .name = "encode", .state = JINJA_NOT_DONE },
    { .name = "expandtabs", .state = JINJA_NOT_DONE },
    { .name = "format_map", .state = JINJA_NOT_DONE },
    { .name = "maketrans", .state = JINJA_NOT_DONE },
    { .name = "translate", .state = JINJA_NOT_DONE },
    { 0 },
};
