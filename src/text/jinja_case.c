/* jinja_case.c - upper, lower, title and capitalize as Python's strings do them.
 *
 * utf8proc maps one character to one. What becomes several (Unicode's
 * SpecialCasing.txt) stands in the table, and a capital sigma at a word's end is
 * the one letter whose lower case depends on its neighbours. */
#include "text/jinja_case.h"

#include <utf8proc.h>

#include "text/jinja_ast.h"
#include "text/utf8.h"

struct special {
    uint32_t c;
    uint32_t upper[3], title[3]; /* title empty: as upper */
};

/* Ascending. */
static const struct special specials[] = {
    { 0x00df, { 0x0053, 0x0053 }, { 0x0053, 0x0073 } }, { 0x0149, { 0x02bc, 0x004e }, { 0 } },
    { 0x01f0, { 0x004a, 0x030c }, { 0 } }, { 0x0390, { 0x0399, 0x0308, 0x0301 }, { 0 } },
    { 0x03b0, { 0x03a5, 0x0308, 0x0301 }, { 0 } },
    { 0x0587, { 0x0535, 0x0552 }, { 0x0535, 0x0582 } }, { 0x1e96, { 0x0048, 0x0331 }, { 0 } },
    { 0x1e97, { 0x0054, 0x0308 }, { 0 } }, { 0x1e98, { 0x0057, 0x030a }, { 0 } },
    { 0x1e99, { 0x0059, 0x030a }, { 0 } }, { 0x1e9a, { 0x0041, 0x02be }, { 0 } },
    { 0x1f50, { 0x03a5, 0x0313 }, { 0 } }, { 0x1f52, { 0x03a5, 0x0313, 0x0300 }, { 0 } },
    { 0x1f54, { 0x03a5, 0x0313, 0x0301 }, { 0 } }, { 0x1f56, { 0x03a5, 0x0313, 0x0342 }, { 0 } },
    { 0x1f80, { 0x1f08, 0x0399 }, { 0x1f88 } }, { 0x1f81, { 0x1f09, 0x0399 }, { 0x1f89 } },
    { 0x1f82, { 0x1f0a, 0x0399 }, { 0x1f8a } }, { 0x1f83, { 0x1f0b, 0x0399 }, { 0x1f8b } },
    { 0x1f84, { 0x1f0c, 0x0399 }, { 0x1f8c } }, { 0x1f85, { 0x1f0d, 0x0399 }, { 0x1f8d } },
    { 0x1f86, { 0x1f0e, 0x0399 }, { 0x1f8e } }, { 0x1f87, { 0x1f0f, 0x0399 }, { 0x1f8f } },
    { 0x1f88, { 0x1f08, 0x0399 }, { 0x1f88 } }, { 0x1f89, { 0x1f09, 0x0399 }, { 0x1f89 } },
    { 0x1f8a, { 0x1f0a, 0x0399 }, { 0x1f8a } }, { 0x1f8b, { 0x1f0b, 0x0399 }, { 0x1f8b } },
    { 0x1f8c, { 0x1f0c, 0x0399 }, { 0x1f8c } }, { 0x1f8d, { 0x1f0d, 0x0399 }, { 0x1f8d } },
    { 0x1f8e, { 0x1f0e, 0x0399 }, { 0x1f8e } }, { 0x1f8f, { 0x1f0f, 0x0399 }, { 0x1f8f } },
    { 0x1f90, { 0x1f28, 0x0399 }, { 0x1f98 } }, { 0x1f91, { 0x1f29, 0x0399 }, { 0x1f99 } },
    { 0x1f92, { 0x1f2a, 0x0399 }, { 0x1f9a } }, { 0x1f93, { 0x1f2b, 0x0399 }, { 0x1f9b } },
    { 0x1f94, { 0x1f2c, 0x0399 }, { 0x1f9c } }, { 0x1f95, { 0x1f2d, 0x0399 }, { 0x1f9d } },
    { 0x1f96, { 0x1f2e, 0x0399 }, { 0x1f9e } }, { 0x1f97, { 0x1f2f, 0x0399 }, { 0x1f9f } },
    { 0x1f98, { 0x1f28, 0x0399 }, { 0x1f98 } }, { 0x1f99, { 0x1f29, 0x0399 }, { 0x1f99 } },
    { 0x1f9a, { 0x1f2a, 0x0399 }, { 0x1f9a } }, { 0x1f9b, { 0x1f2b, 0x0399 }, { 0x1f9b } },
    { 0x1f9c, { 0x1f2c, 0x0399 }, { 0x1f9c } }, { 0x1f9d, { 0x1f2d, 0x0399 }, { 0x1f9d } },
    { 0x1f9e, { 0x1f2e, 0x0399 }, { 0x1f9e } }, { 0x1f9f, { 0x1f2f, 0x0399 }, { 0x1f9f } },
    { 0x1fa0, { 0x1f68, 0x0399 }, { 0x1fa8 } }, { 0x1fa1, { 0x1f69, 0x0399 }, { 0x1fa9 } },
    { 0x1fa2, { 0x1f6a, 0x0399 }, { 0x1faa } }, { 0x1fa3, { 0x1f6b, 0x0399 }, { 0x1fab } },
    { 0x1fa4, { 0x1f6c, 0x0399 }, { 0x1fac } }, { 0x1fa5, { 0x1f6d, 0x0399 }, { 0x1fad } },
    { 0x1fa6, { 0x1f6e, 0x0399 }, { 0x1fae } }, { 0x1fa7, { 0x1f6f, 0x0399 }, { 0x1faf } },
    { 0x1fa8, { 0x1f68, 0x0399 }, { 0x1fa8 } }, { 0x1fa9, { 0x1f69, 0x0399 }, { 0x1fa9 } },
    { 0x1faa, { 0x1f6a, 0x0399 }, { 0x1faa } }, { 0x1fab, { 0x1f6b, 0x0399 }, { 0x1fab } },
    { 0x1fac, { 0x1f6c, 0x0399 }, { 0x1fac } }, { 0x1fad, { 0x1f6d, 0x0399 }, { 0x1fad } },
    { 0x1fae, { 0x1f6e, 0x0399 }, { 0x1fae } }, { 0x1faf, { 0x1f6f, 0x0399 }, { 0x1faf } },
    { 0x1fb2, { 0x1fba, 0x0399 }, { 0x1fba, 0x0345 } }, { 0x1fb3, { 0x0391, 0x0399 }, { 0x1fbc } },
    { 0x1fb4, { 0x0386, 0x0399 }, { 0x0386, 0x0345 } }, { 0x1fb6, { 0x0391, 0x0342 }, { 0 } },
    { 0x1fb7, { 0x0391, 0x0342, 0x0399 }, { 0x0391, 0x0342, 0x0345 } },
    { 0x1fbc, { 0x0391, 0x0399 }, { 0x1fbc } }, { 0x1fc2, { 0x1fca, 0x0399 }, { 0x1fca, 0x0345 } },
    { 0x1fc3, { 0x0397, 0x0399 }, { 0x1fcc } }, { 0x1fc4, { 0x0389, 0x0399 }, { 0x0389, 0x0345 } },
    { 0x1fc6, { 0x0397, 0x0342 }, { 0 } },
    { 0x1fc7, { 0x0397, 0x0342, 0x0399 }, { 0x0397, 0x0342, 0x0345 } },
    { 0x1fcc, { 0x0397, 0x0399 }, { 0x1fcc } }, { 0x1fd2, { 0x0399, 0x0308, 0x0300 }, { 0 } },
    { 0x1fd3, { 0x0399, 0x0308, 0x0301 }, { 0 } }, { 0x1fd6, { 0x0399, 0x0342 }, { 0 } },
    { 0x1fd7, { 0x0399, 0x0308, 0x0342 }, { 0 } }, { 0x1fe2, { 0x03a5, 0x0308, 0x0300 }, { 0 } },
    { 0x1fe3, { 0x03a5, 0x0308, 0x0301 }, { 0 } }, { 0x1fe4, { 0x03a1, 0x0313 }, { 0 } },
    { 0x1fe6, { 0x03a5, 0x0342 }, { 0 } }, { 0x1fe7, { 0x03a5, 0x0308, 0x0342 }, { 0 } },
    { 0x1ff2, { 0x1ffa, 0x0399 }, { 0x1ffa, 0x0345 } }, { 0x1ff3, { 0x03a9, 0x0399 }, { 0x1ffc } },
    { 0x1ff4, { 0x038f, 0x0399 }, { 0x038f, 0x0345 } }, { 0x1ff6, { 0x03a9, 0x0342 }, { 0 } },
    { 0x1ff7, { 0x03a9, 0x0342, 0x0399 }, { 0x03a9, 0x0342, 0x0345 } },
    { 0x1ffc, { 0x03a9, 0x0399 }, { 0x1ffc } }, { 0xfb00, { 0x0046, 0x0046 }, { 0x0046, 0x0066 } },
    { 0xfb01, { 0x0046, 0x0049 }, { 0x0046, 0x0069 } },
    { 0xfb02, { 0x0046, 0x004c }, { 0x0046, 0x006c } },
    { 0xfb03, { 0x0046, 0x0046, 0x0049 }, { 0x0046, 0x0066, 0x0069 } },
    { 0xfb04, { 0x0046, 0x0046, 0x004c }, { 0x0046, 0x0066, 0x006c } },
    { 0xfb05, { 0x0053, 0x0054 }, { 0x0053, 0x0074 } },
    { 0xfb06, { 0x0053, 0x0054 }, { 0x0053, 0x0074 } },
    { 0xfb13, { 0x0544, 0x0546 }, { 0x0544, 0x0576 } },
    { 0xfb14, { 0x0544, 0x0535 }, { 0x0544, 0x0565 } },
    { 0xfb15, { 0x0544, 0x053b }, { 0x0544, 0x056b } },
    { 0xfb16, { 0x054e, 0x0546 }, { 0x054e, 0x0576 } },
    { 0xfb17, { 0x0544, 0x053d }, { 0x0544, 0x056d } },
};

enum { SIGMA = 0x3a3, SMALL_SIGMA = 0x3c3, FINAL_SIGMA = 0x3c2, DOTTED_I = 0x130,
    DOT_ABOVE = 0x307 };

static const struct special *find_special(uint32_t c)
{
    size_t low = 0, high = sizeof(specials) / sizeof(specials[0]);

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (specials[middle].c < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof(specials) / sizeof(specials[0]) && specials[low].c == c ? &specials[low]
                                                                                : NULL;
}

static void put(struct text_buffer *b, uint32_t c)
{
    char out[4];

    text_buffer_append(b, out, utf8_encode(c, out));
}

static void put_all(struct text_buffer *b, const uint32_t *list)
{
    for (int i = 0; i < 3 && list[i] != 0; i++)
        put(b, list[i]);
}

static void put_upper(struct text_buffer *b, uint32_t c)
{
    const struct special *s = c < 0x80 ? NULL : find_special(c);

    if (s != NULL)
        put_all(b, s->upper);
    else
        put(b, (uint32_t)utf8proc_toupper((utf8proc_int32_t)c));
}

static void put_title(struct text_buffer *b, uint32_t c)
{
    const struct special *s = c < 0x80 ? NULL : find_special(c);

    if (s != NULL)
        put_all(b, s->title[0] != 0 ? s->title : s->upper);
    else
        put(b, (uint32_t)utf8proc_totitle((utf8proc_int32_t)c));
}

bool jinja_is_cased(uint32_t c)
{
    return utf8proc_toupper((utf8proc_int32_t)c) != (utf8proc_int32_t)c
           || utf8proc_tolower((utf8proc_int32_t)c) != (utf8proc_int32_t)c
           || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU
           || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LL
           || utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LT;
}

static bool case_ignorable(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default:
        return c == '\'' || c == '.' || c == ':' || c == 0xb7 || c == 0x2018 || c == 0x2019
               || c == 0x2024 || c == 0x2027;
    }
}

/* A sigma at text[at] that has a letter before it and none behind it. */
static bool sigma_is_final(const char *text, size_t bytes, size_t at)
{
    size_t length, i = at;
    uint32_t c = 0;
    bool before = false;

    while (i > 0 && !before) {
        for (i--; i > 0 && ((unsigned char)text[i] & 0xc0) == 0x80; i--)
            ;
        c = utf8_decode(text + i, &length);
        if (!case_ignorable(c))
            break;
    }
    before = i < at && !case_ignorable(c) && jinja_is_cased(c);
    for (i = at + 2; before && i < bytes; i += length) {
        c = utf8_decode(text + i, &length);
        if (!case_ignorable(c))
            return !jinja_is_cased(c);
    }
    return before;
}

static void put_lower(struct text_buffer *b, const char *text, size_t bytes, size_t at, uint32_t c)
{
    if (c == SIGMA) {
        put(b, sigma_is_final(text, bytes, at) ? FINAL_SIGMA : SMALL_SIGMA);
    } else if (c == DOTTED_I) {
        put(b, 'i');
        put(b, DOT_ABOVE);
    } else {
        put(b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
    }
}

void jinja_put_case(struct text_buffer *b, enum jinja_case to, const char *text, size_t bytes)
{
    bool in_word = false;

    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t c = utf8_decode(text + at, &length);

        switch (to) {
        case JINJA_UPPER: put_upper(b, c); break;
        case JINJA_LOWER: put_lower(b, text, bytes, at, c); break;
        case JINJA_CAPITALIZED:
        case JINJA_TITLE:
            if (to == JINJA_TITLE ? !in_word : at == 0)
                put_title(b, c);
            else
                put_lower(b, text, bytes, at, c);
            in_word = jinja_is_cased(c);
            break;
        case JINJA_SWAPPED:
            if (utf8proc_tolower((utf8proc_int32_t)c) != (utf8proc_int32_t)c)
                put_lower(b, text, bytes, at, c);
            else
                put_upper(b, c);
            break;
        }
    }
}

value_ref jinja_cased(struct jinja_run *r, value_ref v, enum jinja_case to)
{
    struct text_buffer b = { 0 };
    struct jinja_value *out = jinja_make(r, JINJA_STRING);
    value_ref text;

    if (out == NULL || !jinja_spend(r, v->bytes / 4))
        return NULL;
    jinja_put_case(&b, to, v->text, v->bytes);
    text = jinja_string_take(r, &b);
    if (text == NULL)
        return NULL;
    *out = *text;
    out->flavour = v->flavour;
    return out;
}
