/* json_write.c - a tree back into text, without recursion.
 *
 * The tree is no deeper than JSON_DEPTH_MAX (its reader saw to that), so a
 * stack of that size holds the way up. Numbers are converted by way of decimal
 * digits and an exponent, never a decimal point, which the C library would
 * spell and read as the locale says. */
#include "text/json_write.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_DIGITS = 17 }; /* of a double: always enough to read it back */

void json_write_string(struct text_buffer *out, const char *text, size_t bytes)
{
    static const char named[32] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'
    };
    size_t plain = 0;

    text_buffer_put(out, "\"");
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        char escape[8];

        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        if (c >= 0x20)
            snprintf(escape, sizeof(escape), "\\%c", c);
        else if (named[c] != 0)
            snprintf(escape, sizeof(escape), "\\%c", named[c]);
        else
            snprintf(escape, sizeof(escape), "\\u%04x", c);
        text_buffer_append(out, text + plain, i - plain);
        text_buffer_put(out, escape);
        plain = i + 1;
    }
    text_buffer_append(out, text + plain, bytes - plain);
    text_buffer_put(out, "\"");
}

struct decimal { /* digits[0].digits[1]... * 10^exponent */
    char digits[MOST_DIGITS + 2];
    int count, exponent;
};

/* x rounded to `count` digits; x finite and above 0. */
static void round_to(double x, int count, struct decimal *d)
{
    char text[40];
    const char *t = text;

    snprintf(text, sizeof(text), "%.*e", count - 1, x);
    d->count = 0;
    for (; *t != 'e'; t++)
        if (*t >= '0' && *t <= '9')
            d->digits[d->count++] = *t;
    d->digits[d->count] = '\0';
    d->exponent = atoi(t + 1);
}

static double value_of(const struct decimal *d)
{
    char text[48];

    snprintf(text, sizeof(text), "%se%d", d->digits, d->exponent - (d->count - 1));
    return strtod(text, NULL);
}

/* One more in the last place. */
static void increment(struct decimal *d)
{
    int i = d->count - 1;

    while (i >= 0 && d->digits[i] == '9')
        d->digits[i--] = '0';
    if (i >= 0) {
        d->digits[i]++;
        return;
    }
    d->digits[0] = '1'; /* 99 became 100: the zeros behind it are there */
    d->exponent++;
}

/* The fewest digits that read back as x, of these the nearest. Below a power of
 * two doubles lie closer, so there the nearest may miss where the next one
 * above hits. */
static void shortest(double x, struct decimal *d)
{
    int exponent;
    bool uneven = frexp(x, &exponent) == 0.5;

    for (int count = 1; count <= MOST_DIGITS; count++) {
        round_to(x, count, d);
        if (value_of(d) == x)
            break;
        if (!uneven)
            continue;
        increment(d);
        if (value_of(d) == x)
            break;
    }
    while (d->count > 1 && d->digits[d->count - 1] == '0')
        d->digits[--d->count] = '\0';
}

static void put_zeros(struct text_buffer *out, int count)
{
    while (count-- > 0)
        text_buffer_put(out, "0");
}

/* Python's repr: plain from 1e-4 up to below 1e16, with an exponent otherwise. */
static void write_decimal(struct text_buffer *out, const struct decimal *d)
{
    int point = d->exponent + 1; /* digits before the point */
    char exponent[16];

    if (d->exponent < -4 || d->exponent >= 16) {
        text_buffer_append(out, d->digits, 1);
        if (d->count > 1)
            text_buffer_put(out, ".");
        text_buffer_put(out, d->digits + 1);
        snprintf(exponent, sizeof(exponent), "e%c%02d", d->exponent < 0 ? '-' : '+',
            abs(d->exponent));
        text_buffer_put(out, exponent);
    } else if (point <= 0) {
        text_buffer_put(out, "0.");
        put_zeros(out, -point);
        text_buffer_put(out, d->digits);
    } else if (point >= d->count) {
        text_buffer_put(out, d->digits);
        put_zeros(out, point - d->count);
        text_buffer_put(out, ".0");
    } else {
        text_buffer_append(out, d->digits, (size_t)point);
        text_buffer_put(out, ".");
        text_buffer_put(out, d->digits + point);
    }
}

void json_write_double(struct text_buffer *out, double x)
{
    struct decimal d;

    if (isnan(x)) {
        text_buffer_put(out, "NaN");
        return;
    }
    if (signbit(x))
        text_buffer_put(out, "-");
    x = fabs(x);
    if (isinf(x)) {
        text_buffer_put(out, "Infinity");
    } else if (x == 0) {
        text_buffer_put(out, "0.0");
    } else {
        shortest(x, &d);
        write_decimal(out, &d);
    }
}

/* The number's digits without its point, and the exponent that makes up for it. */
bool json_text_to_double(const char *text, size_t bytes, double *x)
{
    char *plain = malloc(bytes + 32);
    size_t count = 0, i = 0;
    long shift = 0, exponent = 0;

    if (plain == NULL)
        return false;
    for (bool fraction = false; i < bytes && text[i] != 'e' && text[i] != 'E'; i++) {
        if (text[i] == '.') {
            fraction = true;
            continue;
        }
        plain[count++] = text[i];
        shift += fraction;
    }
    if (i < bytes) {
        char digits[24];
        size_t n = bytes - i - 1 < sizeof(digits) - 1 ? bytes - i - 1 : sizeof(digits) - 1;

        memcpy(digits, text + i + 1, n);
        digits[n] = '\0';
        exponent = strtol(digits, NULL, 10); /* saturates */
    }
    if (exponent > 1000000000L)
        exponent = 1000000000L;
    if (exponent < -1000000000L)
        exponent = -1000000000L;
    snprintf(plain + count, 32, "e%ld", exponent - shift);
    *x = strtod(plain, NULL);
    free(plain);
    return true;
}

static void write_number(struct text_buffer *out, const struct json_value *v)
{
    bool whole = true;
    double x;

    for (size_t i = 0; i < v->bytes && whole; i++)
        whole = v->text[i] == '-' || (v->text[i] >= '0' && v->text[i] <= '9');
    if (!whole && !json_text_to_double(v->text, v->bytes, &x))
        out->failed = true;
    else if (!whole)
        json_write_double(out, x);
    else if (json_text_is(v->text, v->bytes, "-0"))
        text_buffer_put(out, "0");
    else
        text_buffer_append(out, v->text, v->bytes);
}

static void write_start(struct text_buffer *out, const struct json_value *v)
{
    switch (v->type) {
    case JSON_IS_NULL: text_buffer_put(out, "null"); break;
    case JSON_IS_BOOL: text_buffer_put(out, v->truth ? "true" : "false"); break;
    case JSON_IS_NUMBER: write_number(out, v); break;
    case JSON_IS_STRING: json_write_string(out, v->text, v->bytes); break;
    case JSON_IS_ARRAY: text_buffer_put(out, "["); break;
    case JSON_IS_OBJECT: text_buffer_put(out, "{"); break;
    }
}

static void write_key(struct text_buffer *out, const struct json_value *parent,
    const struct json_value *child)
{
    if (parent->type != JSON_IS_OBJECT)
        return;
    json_write_string(out, child->key, child->key_bytes);
    text_buffer_put(out, ": ");
}

void json_write_value(struct text_buffer *out, const struct json_value *v)
{
    const struct json_value *open[JSON_DEPTH_MAX], *next[JSON_DEPTH_MAX];
    unsigned depth = 0;

    for (;;) {
        write_start(out, v);
        if (v->type == JSON_IS_ARRAY || v->type == JSON_IS_OBJECT) {
            open[depth] = v;
            next[depth++] = v->first;
        }
        while (depth > 0 && next[depth - 1] == NULL)
            text_buffer_put(out, open[--depth]->type == JSON_IS_ARRAY ? "]" : "}");
        if (depth == 0)
            return;
        v = next[depth - 1];
        next[depth - 1] = v->next;
        if (v != open[depth - 1]->first)
            text_buffer_put(out, ", ");
        write_key(out, open[depth - 1], v);
    }
}
