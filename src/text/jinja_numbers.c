/* jinja_numbers.c - the filters int, float, round and abs: text to numbers as
 * Python reads it, and rounding half to even of the exact binary value. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "text/jinja_ast.h"
#include "text/jinja_filters.h"
#include "text/json_write.h"

/* The text without white space around it. */
static void strip(value_ref v, const char **text, size_t *bytes)
{
    size_t start = jinja_skip_space(v->text, v->bytes, 0);

    *text = v->text + start;
    *bytes = jinja_trim_end(*text, v->bytes - start);
}

static int digit_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'z' ? c - 'a' + 10
           : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                  : 99;
}

/* Skips "0x" and the like, if the base has it. */
static size_t skip_prefix(const char *t, size_t n, int64_t *base)
{
    char mark = n > 1 && t[0] == '0' ? (char)(t[1] | 0x20) : '\0';
    int64_t named = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;

    if (named != 0 && (*base == named || *base == 0)) {
        *base = named;
        return 2;
    }
    if (*base == 0)
        *base = 10;
    return 0;
}

enum reading { READ_NUMBER, NO_NUMBER, TOO_LARGE };

static enum reading read_int(value_ref v, int64_t base, int64_t *x)
{
    const char *t;
    size_t n, at;
    bool negative, digit = false;

    strip(v, &t, &n);
    negative = n > 0 && t[0] == '-';
    at = n > 0 && (t[0] == '-' || t[0] == '+');
    at += skip_prefix(t + at, n - at, &base);
    *x = 0;
    for (; at < n; at++) {
        int d = digit_value(t[at]);

        if (t[at] == '_' && (digit || base != 10) && at + 1 < n && t[at + 1] != '_') {
            digit = false;
            continue;
        }
        if (d >= base)
            return NO_NUMBER;
        digit = true;
        if (__builtin_mul_overflow(*x, base, x)
            || __builtin_add_overflow(*x, negative ? -d : d, x))
            return TOO_LARGE;
    }
    return digit ? READ_NUMBER : NO_NUMBER;
}

static size_t digits_at(const char *t, size_t n, size_t at)
{
    size_t i = at;

    while (i < n && ((t[i] >= '0' && t[i] <= '9') || (t[i] == '_' && i > at && t[i - 1] != '_')))
        i++;
    return i - at;
}

static bool named_float(const char *t, size_t n, double *x)
{
    static const struct {
        const char *name;
        double value;
    } names[] = { { "inf", INFINITY }, { "infinity", INFINITY }, { "nan", NAN } };
    bool negative = n > 0 && t[0] == '-';
    size_t sign = n > 0 && (t[0] == '-' || t[0] == '+');

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (n - sign == strlen(names[i].name) && strncasecmp(t + sign, names[i].name, n - sign) == 0) {
            *x = negative ? -names[i].value : names[i].value;
            return true;
        }
    return false;
}

/* The text is a float as Python's float() takes it. */
static enum reading read_float(value_ref v, double *x)
{
    const char *t;
    size_t n, at, whole, fraction = 0, count = 0;
    char *plain;
    bool ok;

    strip(v, &t, &n);
    if (named_float(t, n, x))
        return READ_NUMBER;
    at = n > 0 && (t[0] == '-' || t[0] == '+');
    whole = digits_at(t, n, at);
    at += whole;
    if (at < n && t[at] == '.') {
        fraction = digits_at(t, n, at + 1);
        at += 1 + fraction;
    }
    if (at < n && (t[at] == 'e' || t[at] == 'E') && whole + fraction > 0) {
        at += 1 + (at + 1 < n && (t[at + 1] == '-' || t[at + 1] == '+'));
        at = digits_at(t, n, at) > 0 ? at + digits_at(t, n, at) : n + 1;
    }
    if (at != n || whole + fraction == 0 || (n > 0 && t[n - 1] == '_'))
        return NO_NUMBER;
    plain = malloc(n);
    if (plain == NULL)
        return TOO_LARGE;
    for (size_t i = 0; i < n; i++)
        if (t[i] != '_')
            plain[count++] = t[i];
    ok = json_text_to_double(plain, count, x);
    free(plain);
    return ok ? READ_NUMBER : TOO_LARGE;
}

static value_ref int_of(struct jinja_run *r, double x, value_ref otherwise, bool strict)
{
    if (isnan(x) || (isinf(x) && !strict))
        return otherwise;
    if (!(x > -9.2e18 && x < 9.2e18))
        return jinja_fail(r, "int: a whole number beyond 64 bits is not done");
    return jinja_int(r, (int64_t)x);
}

value_ref jinja_filter_int(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref otherwise = argv[0] != NULL ? argv[0] : jinja_int(r, 0);
    int64_t base = 10, x;
    enum reading reading;
    double real;
    char room[256];

    if (otherwise == NULL)
        return NULL;
    if (argv[1] != NULL && (!jinja_as_int(argv[1], &base) || base < 0 || base == 1 || base > 36))
        return jinja_fail(r, "int: the base must be 0 or 2 to 36");
    if (v->kind == JINJA_UNDEFINED)
        return jinja_fail(r, "%s", jinja_why_undefined(v, room, sizeof(room)));
    if (v->kind == JINJA_FLOAT)
        return int_of(r, v->real, otherwise, true);
    if (v->kind == JINJA_BIG)
        return v;
    if (jinja_as_int(v, &x))
        return jinja_int(r, x);
    if (v->kind != JINJA_STRING)
        return otherwise;
    reading = read_int(v, base, &x);
    if (reading == TOO_LARGE)
        return jinja_fail(r, "int: a whole number beyond 64 bits is not done");
    if (reading == READ_NUMBER)
        return jinja_int(r, x);
    reading = read_float(v, &real);
    if (reading == TOO_LARGE)
        return jinja_out_of_memory(r);
    return reading == READ_NUMBER ? int_of(r, real, otherwise, false) : otherwise;
}

value_ref jinja_filter_float(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref otherwise = argv[0] != NULL ? argv[0] : jinja_float(r, 0);
    enum reading reading;
    double x;
    char room[256];

    if (v->kind == JINJA_UNDEFINED)
        return jinja_fail(r, "%s", jinja_why_undefined(v, room, sizeof(room)));
    if (v->kind == JINJA_BIG)
        return json_text_to_double(v->text, v->bytes, &x) ? jinja_float(r, x)
                                                           : jinja_out_of_memory(r);
    if (jinja_as_float(v, &x))
        return jinja_float(r, x);
    if (v->kind != JINJA_STRING)
        return otherwise;
    reading = read_float(v, &x);
    if (reading == TOO_LARGE)
        return jinja_out_of_memory(r);
    return reading == READ_NUMBER ? jinja_float(r, x) : otherwise;
}

/* x to `places` decimals: its exact value in decimal, cut by the C library. */
static bool round_float(double x, int64_t places, double *out)
{
    char text[800], digits[820];
    size_t count = 0;

    if (!isfinite(x) || places > 340) {
        *out = x;
        return true;
    }
    snprintf(text, sizeof(text), "%.*f", (int)places, x);
    for (const char *t = text; *t != '\0'; t++) /* without the point, however it is spelt */
        if ((*t >= '0' && *t <= '9') || *t == '-')
            digits[count++] = *t;
    count += (size_t)snprintf(digits + count, sizeof(digits) - count, "e-%d", (int)places);
    return json_text_to_double(digits, count, out);
}

static value_ref round_to_floor(struct jinja_run *r, double x, int64_t places, bool up)
{
    double scale = pow(10, (double)places), y = x * scale;

    if (!isfinite(y))
        return jinja_fail(r, "round: the number is too large");
    return jinja_float(r, (up ? ceil(y) : floor(y)) / scale);
}

value_ref jinja_filter_round(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int64_t places = 0, whole;
    double x, rounded;

    if (argv[0] != NULL && !jinja_as_int(argv[0], &places))
        return jinja_fail(r, "round: the precision must be a whole number");
    if (places < 0 || places > 1000)
        return jinja_fail(r, "round: a precision below 0 or above 1000 is not done");
    if (v->kind == JINJA_BIG && (argv[1] == NULL || jinja_is_word(argv[1], "common")))
        return v;
    if (!jinja_as_float(v, &x))
        return jinja_fail(r, "round needs a number, not a %s", jinja_type_name(v));
    if (argv[1] != NULL && jinja_is_word(argv[1], "ceil"))
        return round_to_floor(r, x, places, true);
    if (argv[1] != NULL && jinja_is_word(argv[1], "floor"))
        return round_to_floor(r, x, places, false);
    if (argv[1] != NULL && !jinja_is_word(argv[1], "common"))
        return jinja_fail(r, "round: the method must be common, ceil or floor");
    if (jinja_as_int(v, &whole))
        return jinja_int(r, whole);
    return round_float(x, places, &rounded) ? jinja_float(r, rounded) : jinja_out_of_memory(r);
}

value_ref jinja_filter_abs(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int64_t x;

    (void)argv;
    if (v->kind == JINJA_FLOAT)
        return jinja_float(r, fabs(v->real));
    if (!jinja_as_int(v, &x) || x == INT64_MIN)
        return jinja_fail(r, "abs of a %s is not done", jinja_type_name(v));
    return jinja_int(r, x < 0 ? -x : x);
}
