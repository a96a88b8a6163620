/* json_numbers.c - one pass over the text, outside of strings.
 *
 * The mark is U+0001 in front of the number, which jansson writes as \u0001; a string of somebody
 * else's that begins so and goes on as a number would become one, and nobody has such. */
#include "checkpoint/json_numbers.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MARK "\"\\u0001"

enum { MARK_BYTES = sizeof(MARK) - 1 };

static size_t digits(const char *text, size_t n)
{
    size_t i = 0;

    while (i < n && isdigit((unsigned char)text[i]))
        i++;
    return i;
}

/* The length of a whole JSON number, 0 where text [n] does not begin with one. *whole: without
 * fraction and exponent. */
static size_t number_length(const char *text, size_t n, bool *whole)
{
    size_t at = n > 0 && text[0] == '-', first = digits(text + at, n - at), more;

    *whole = true;
    if (first == 0 || (first > 1 && text[at] == '0'))
        return 0;
    at += first;
    if (at < n && text[at] == '.') {
        *whole = false;
        more = digits(text + at + 1, n - at - 1);
        if (more == 0)
            return 0;
        at += 1 + more;
    }
    if (at < n && (text[at] == 'e' || text[at] == 'E')) {
        size_t sign = at + 1 < n && (text[at + 1] == '+' || text[at + 1] == '-');

        *whole = false;
        more = digits(text + at + 1 + sign, n - at - 1 - sign);
        if (more == 0)
            return 0;
        at += 1 + sign + more;
    }
    return at;
}

static bool too_large(const char *text, size_t n, bool whole)
{
    char *copy = strndup(text, n);
    bool large;

    if (copy == NULL)
        return false; /* jansson says then what is wrong */
    errno = 0;
    if (whole)
        large = (strtoll(copy, NULL, 10), errno == ERANGE);
    else
        large = isinf(strtod(copy, NULL));
    free(copy);
    return large;
}

/* The length of what text [n] begins with and is to be marked; 0: nothing. *passed: what may be
 * copied as it is. */
static size_t foreign_number(const char *text, size_t n, size_t *passed)
{
    static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
    bool whole;
    size_t length = number_length(text, n, &whole);

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (n >= strlen(words[i]) && memcmp(text, words[i], strlen(words[i])) == 0)
            return strlen(words[i]);
    *passed = length > 0 ? length : 1;
    return length > 0 && too_large(text, length, whole) ? length : 0;
}

static size_t string_length(const char *text, size_t n)
{
    size_t at = 1;

    while (at < n && text[at] != '"')
        at += text[at] == '\\' ? 2 : 1;
    return at < n ? at + 1 : n;
}

enum status json_numbers_mark(const char *text, size_t bytes, char **marked, size_t *marked_bytes)
{
    /* A marked number is at least three bytes long: "NaN" becomes 11. */
    char *out = malloc(bytes + bytes / 3 * (MARK_BYTES + 1) + 1), *to = out;

    if (out == NULL)
        return STATUS_NOMEM;
    for (size_t at = 0; at < bytes;) {
        size_t passed = 1, n = 0;

        if (text[at] == '"')
            passed = string_length(text + at, bytes - at);
        else
            n = foreign_number(text + at, bytes - at, &passed);
        if (n > 0) {
            memcpy(to, MARK, MARK_BYTES);
            memcpy(to + MARK_BYTES, text + at, n);
            to[MARK_BYTES + n] = '"';
            to += MARK_BYTES + n + 1;
            at += n;
        } else {
            memcpy(to, text + at, passed);
            to += passed;
            at += passed;
        }
    }
    *to = '\0';
    *marked = out;
    *marked_bytes = (size_t)(to - out);
    return STATUS_OK;
}

/* The length of the number that a marked string at `text` holds; 0: it is none. */
static size_t marked_number(const char *text)
{
    const char *end = strncmp(text, MARK, MARK_BYTES) == 0 ? strchr(text + MARK_BYTES, '"') : NULL;
    size_t n = end != NULL ? (size_t)(end - text) - MARK_BYTES : 0, passed = 0;

    return n > 0 && foreign_number(text + MARK_BYTES, n, &passed) == n ? n : 0;
}

void json_numbers_restore(char *text)
{
    char *to = text;

    while (*text != '\0') {
        size_t n = *text == '"' ? marked_number(text) : 0;
        size_t skip = n > 0 ? MARK_BYTES : 0;
        size_t take = n > 0 ? n : *text == '"' ? string_length(text, strlen(text)) : 1;

        memmove(to, text + skip, take);
        to += take;
        text += skip + take + (n > 0);
    }
    *to = '\0';
}
