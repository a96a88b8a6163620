/* jinja_ops.c - arithmetic as Python does it.
 *
 * Whole numbers have 64 bits; what would leave them is an error. Division and
 * remainder go towards minus infinity; + joins strings and lists, * repeats them,
 * and a string's % formats. */
#include <math.h>

#include "text/jinja_ast.h"

static value_ref fail_types(struct jinja_run *r, const char *op, value_ref a, value_ref b)
{
    return jinja_fail(r, "'%s' is not done between %s and %s", op, jinja_type_name(a),
        jinja_type_name(b));
}

static value_ref fail_range(struct jinja_run *r)
{
    return jinja_fail(r, "a whole number is beyond 64 bits, which is not done");
}

static value_ref fail_zero(struct jinja_run *r)
{
    return jinja_fail(r, "division by zero");
}

value_ref jinja_escape(struct jinja_run *r, value_ref v)
{
    struct text_buffer b = { 0 };
    struct jinja_value *marked;
    value_ref text;

    if (v->flavour == JINJA_MARKUP)
        return v;
    for (size_t i = 0; i < v->bytes; i++)
        switch (v->text[i]) {
        case '&': text_buffer_put(&b, "&amp;"); break;
        case '<': text_buffer_put(&b, "&lt;"); break;
        case '>': text_buffer_put(&b, "&gt;"); break;
        case '"': text_buffer_put(&b, "&#34;"); break;
        case '\'': text_buffer_put(&b, "&#39;"); break;
        default: text_buffer_append(&b, v->text + i, 1); break;
        }
    text = jinja_spend(r, v->bytes / 8) ? jinja_string_take(r, &b) : NULL;
    text_buffer_free(&b);
    marked = text != NULL ? jinja_make(r, JINJA_STRING) : NULL;
    if (marked == NULL)
        return NULL;
    *marked = *text;
    marked->flavour = JINJA_MARKUP;
    return marked;
}

/* Two strings behind each other; Markup escapes what it is joined with. */
value_ref jinja_concat(struct jinja_run *r, value_ref a, value_ref b)
{
    bool markup = a->flavour == JINJA_MARKUP || b->flavour == JINJA_MARKUP;
    struct jinja_value *v;
    char *text;

    if (markup) {
        a = jinja_escape(r, a);
        b = a != NULL ? jinja_escape(r, b) : NULL;
        if (b == NULL)
            return NULL;
    }
    if (!jinja_may_hold(r, (uint64_t)a->bytes + b->bytes)
        || !jinja_spend(r, (a->bytes + b->bytes) / 64))
        return NULL;
    text = text_arena_take(&r->arena, a->bytes + b->bytes);
    v = jinja_make(r, JINJA_STRING);
    if (text == NULL || v == NULL)
        return jinja_out_of_memory(r);
    memcpy(text, a->text, a->bytes);
    memcpy(text + a->bytes, b->text, b->bytes);
    v->text = text;
    v->bytes = a->bytes + b->bytes;
    v->flavour = markup ? JINJA_MARKUP : JINJA_PLAIN;
    return v;
}

static value_ref join_lists(struct jinja_run *r, value_ref a, value_ref b)
{
    size_t count = a->list.count + b->list.count;
    value_ref *items = jinja_spend(r, count / 8) ? jinja_array(r, count) : NULL;

    if (items == NULL)
        return NULL;
    if (a->list.count > 0)
        memcpy(items, a->list.items, a->list.count * sizeof(*items));
    if (b->list.count > 0)
        memcpy(items + a->list.count, b->list.items, b->list.count * sizeof(*items));
    return jinja_sequence(r, a->kind, items, count);
}

static value_ref repeat_string(struct jinja_run *r, value_ref v, int64_t times)
{
    struct text_buffer b = { 0 };

    if (v->flavour == JINJA_MARKUP)
        return jinja_fail(r, "repeating escaped text is not done");
    if (jinja_put_times(r, &b, v->text, v->bytes, times))
        return jinja_string_take(r, &b);
    text_buffer_free(&b);
    return NULL;
}

static value_ref repeat(struct jinja_run *r, value_ref v, int64_t times)
{
    size_t count;
    value_ref *items;

    if (v->kind == JINJA_STRING)
        return repeat_string(r, v, times);
    if (times < 0)
        times = 0;
    if (v->list.count > 0 && (uint64_t)times > r->limits.steps / v->list.count)
        return jinja_fail(r, "the template makes a list that is too long");
    count = v->list.count * (size_t)times;
    items = jinja_spend(r, count) ? jinja_array(r, count) : NULL;
    if (items == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++)
        items[i] = v->list.items[i % v->list.count];
    return jinja_sequence(r, v->kind, items, count);
}

static bool repeats(value_ref v)
{
    return v->kind == JINJA_STRING || v->kind == JINJA_LIST || v->kind == JINJA_TUPLE;
}

static int64_t floor_division(int64_t a, int64_t b)
{
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

static value_ref power_of_ints(struct jinja_run *r, int64_t a, int64_t b)
{
    int64_t result = 1;

    if (b < 0 && a == 0)
        return fail_zero(r);
    if (b < 0)
        return jinja_float(r, pow((double)a, (double)b));
    if (a == 0 || a == 1 || a == -1)
        return jinja_int(r, b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a);
    for (; b > 0; b--)
        if (__builtin_mul_overflow(result, a, &result))
            return fail_range(r);
    return jinja_int(r, result);
}

static value_ref divide_ints(struct jinja_run *r, int64_t a, int64_t b)
{
    const int64_t exact = INT64_C(1) << 53;

    if (a > exact || a < -exact || b > exact || b < -exact)
        return jinja_fail(r, "dividing numbers beyond 53 bits is not done");
    return jinja_float(r, (double)a / (double)b);
}

static value_ref int_operation(struct jinja_run *r, char op, int64_t a, int64_t b)
{
    int64_t x = 0;
    bool over = false;

    if (b == 0 && (op == '/' || op == '%' || op == OP_FLOOR))
        return fail_zero(r);
    switch (op) {
    case '+': over = __builtin_add_overflow(a, b, &x); break;
    case '-': over = __builtin_sub_overflow(a, b, &x); break;
    case '*': over = __builtin_mul_overflow(a, b, &x); break;
    case '/': return divide_ints(r, a, b);
    case OP_POWER: return power_of_ints(r, a, b);
    case OP_FLOOR:
        over = a == INT64_MIN && b == -1;
        x = over ? 0 : floor_division(a, b);
        break;
    default: x = b == -1 ? 0 : a - floor_division(a, b) * b; break;
    }
    return over ? fail_range(r) : jinja_int(r, x);
}

/* Python's float remainder: the sign of b, and a zero of b's sign. */
static double float_remainder(double a, double b)
{
    double m = fmod(a, b);

    if (m == 0)
        return copysign(0.0, b);
    return (b < 0) != (m < 0) ? m + b : m;
}

static double float_floor(double a, double b)
{
    double m = fmod(a, b), q = (a - m) / b, whole;

    if (m != 0 && (b < 0) != (m < 0))
        q -= 1.0;
    if (q == 0)
        return copysign(0.0, a / b);
    whole = floor(q);
    return q - whole > 0.5 ? whole + 1.0 : whole;
}

static value_ref float_power(struct jinja_run *r, double a, double b)
{
    double x = pow(a, b);

    if (a == 0 && b < 0)
        return fail_zero(r);
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return jinja_fail(r, "a negative number's root is not done");
    if (isinf(x) && isfinite(a) && isfinite(b))
        return jinja_fail(r, "a power is too large for a float");
    return jinja_float(r, x);
}

static value_ref float_operation(struct jinja_run *r, char op, double a, double b)
{
    if (b == 0 && (op == '/' || op == '%' || op == OP_FLOOR))
        return fail_zero(r);
    switch (op) {
    case '+': return jinja_float(r, a + b);
    case '-': return jinja_float(r, a - b);
    case '*': return jinja_float(r, a * b);
    case '/': return jinja_float(r, a / b);
    case OP_POWER: return float_power(r, a, b);
    case OP_FLOOR: return jinja_float(r, float_floor(a, b));
    default: return jinja_float(r, float_remainder(a, b));
    }
}

static value_ref undefined_operand(struct jinja_run *r, value_ref v)
{
    char room[256];

    return jinja_fail(r, "%s", jinja_why_undefined(v, room, sizeof(room)));
}

value_ref jinja_binary(struct jinja_run *r, char op, value_ref a, value_ref b)
{
    const char name[3] = { op == OP_FLOOR ? '/' : op == OP_POWER ? '*' : op,
        op == OP_FLOOR ? '/' : op == OP_POWER ? '*' : '\0', '\0' };
    int64_t i, j;
    double x, y;

    if (op == '%' && a->kind == JINJA_STRING)
        return jinja_format(r, a, b);
    if (a->kind == JINJA_UNDEFINED)
        return undefined_operand(r, a);
    if (b->kind == JINJA_UNDEFINED)
        return undefined_operand(r, b);
    if (a->kind == JINJA_BIG || b->kind == JINJA_BIG)
        return fail_range(r);
    if (jinja_as_int(a, &i) && jinja_as_int(b, &j))
        return int_operation(r, op, i, j);
    if (jinja_as_float(a, &x) && jinja_as_float(b, &y))
        return float_operation(r, op, x, y);
    if (op == '+' && a->kind == JINJA_STRING && b->kind == JINJA_STRING)
        return jinja_concat(r, a, b);
    if (op == '+' && a->kind == b->kind && repeats(a))
        return join_lists(r, a, b);
    if (op == '*' && repeats(a) && jinja_as_int(b, &j))
        return repeat(r, a, j);
    if (op == '*' && repeats(b) && jinja_as_int(a, &i))
        return repeat(r, b, i);
    return fail_types(r, name, a, b);
}

value_ref jinja_negate(struct jinja_run *r, value_ref v)
{
    int64_t i;

    if (v->kind == JINJA_UNDEFINED)
        return undefined_operand(r, v);
    if (v->kind == JINJA_FLOAT)
        return jinja_float(r, -v->real);
    if (v->kind == JINJA_BIG || (v->kind == JINJA_INT && v->integer == INT64_MIN))
        return fail_range(r);
    return jinja_as_int(v, &i) ? jinja_int(r, -i)
                               : jinja_fail(r, "a %s has no negative", jinja_type_name(v));
}

value_ref jinja_plus(struct jinja_run *r, value_ref v)
{
    int64_t i;

    if (v->kind == JINJA_UNDEFINED)
        return undefined_operand(r, v);
    if (v->kind == JINJA_FLOAT || v->kind == JINJA_BIG)
        return v;
    return jinja_as_int(v, &i) ? jinja_int(r, i)
                               : jinja_fail(r, "+ before a %s is not done", jinja_type_name(v));
}
