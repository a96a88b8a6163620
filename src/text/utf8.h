/* utf8.h - the one place that knows what well-formed UTF-8 is.
 *
 * Well-formed means Unicode's table 3-7: no overlong forms, no surrogates,
 * nothing above U+10FFFF. Errors are counted in maximal subparts, as every
 * lossy decoder does: the longest prefix of a character that could still have
 * become one counts as one error. Nothing here allocates or logs. */
#ifndef QUERN_TEXT_UTF8_H
#define QUERN_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum utf8_kind {
    UTF8_WHOLE,  /* a character of *length bytes */
    UTF8_BROKEN, /* *length bytes (1 to 3) that no continuation can repair */
    UTF8_CUT,    /* the input ends within a character that was well-formed so far */
};

/* Looks at the character that starts at text[0]; bytes must be at least 1. */
static inline enum utf8_kind utf8_step(const unsigned char *text, size_t bytes, size_t *length)
{
    unsigned lead = text[0], low = 0x80, high = 0xbf;
    size_t need, i;

    *length = 1;
    if (lead < 0x80)
        return UTF8_WHOLE;
    if (lead < 0xc2 || lead > 0xf4)
        return UTF8_BROKEN;
    need = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    for (i = 1; i < need; i++) {
        *length = i;
        if (i == bytes)
            return UTF8_CUT;
        if (text[i] < low || text[i] > high)
            return UTF8_BROKEN;
        low = 0x80;
        high = 0xbf;
    }
    *length = need;
    return UTF8_WHOLE;
}

/* The length of the leading ASCII run. */
static inline size_t utf8_ascii_run(const char *text, size_t bytes)
{
    size_t i = 0;

    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;

        memcpy(&word, text + i, sizeof(word));
        if ((word & UINT64_C(0x8080808080808080)) != 0)
            break;
    }
    while (i < bytes && (unsigned char)text[i] < 0x80)
        i++;
    return i;
}

/* The offset of the first byte that is not part of a whole character; `bytes` if all are. */
static inline size_t utf8_valid_prefix(const char *text, size_t bytes)
{
    size_t at = 0, length;

    for (;;) {
        at += utf8_ascii_run(text + at, bytes - at);
        if (at == bytes)
            return bytes;
        do {
            if (utf8_step((const unsigned char *)text + at, bytes - at, &length) != UTF8_WHOLE)
                return at;
            at += length;
        } while (at < bytes && (unsigned char)text[at] >= 0x80);
    }
}

/* The code point at text[0] of well-formed UTF-8, and its length. */
static inline uint32_t utf8_decode(const char *text, size_t *length)
{
    const unsigned char *t = (const unsigned char *)text;

    if (t[0] < 0x80) {
        *length = 1;
        return t[0];
    }
    if (t[0] < 0xe0) {
        *length = 2;
        return (t[0] & 0x1fu) << 6 | (t[1] & 0x3fu);
    }
    if (t[0] < 0xf0) {
        *length = 3;
        return (t[0] & 0x0fu) << 12 | (t[1] & 0x3fu) << 6 | (t[2] & 0x3fu);
    }
    *length = 4;
    return (t[0] & 0x07u) << 18 | (t[1] & 0x3fu) << 12 | (t[2] & 0x3fu) << 6 | (t[3] & 0x3fu);
}

/* Writes code point c (a scalar value) to out (room for 4); returns the length. */
static inline size_t utf8_encode(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

#endif
