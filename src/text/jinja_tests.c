/* jinja_tests.c - what can stand behind `is`. */
#include "text/jinja_ast.h"

static value_ref is_defined(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind != JINJA_UNDEFINED);
}

static value_ref is_undefined(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_UNDEFINED);
}

static value_ref is_none(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_NONE);
}

static value_ref is_boolean(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_BOOL);
}

static value_ref is_true(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_BOOL && v->truth);
}

static value_ref is_false(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_BOOL && !v->truth);
}

static value_ref is_integer(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_INT || v->kind == JINJA_BIG);
}

static value_ref is_float(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_FLOAT);
}

static value_ref is_number(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_INT || v->kind == JINJA_BIG || v->kind == JINJA_FLOAT
                      || v->kind == JINJA_BOOL);
}

static value_ref is_string(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_STRING);
}

static value_ref is_mapping(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_DICT);
}

/* What has a length and items by key; undefined counts, too. */
static value_ref is_sequence(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int64_t length;

    (void)r;
    (void)argv;
    return jinja_bool(v->kind != JINJA_VIEW && jinja_length(v, &length));
}

static value_ref is_iterable(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(jinja_is_iterable(v));
}

static value_ref is_callable(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_METHOD || v->kind == JINJA_MACRO || v->kind == JINJA_JOINER
                      || v->kind == JINJA_LOOP || v->kind == JINJA_UNDEFINED);
}

static value_ref is_escaped(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_STRING && v->flavour == JINJA_MARKUP);
}

static value_ref remainder_is(struct jinja_run *r, value_ref v, value_ref divisor, int64_t wanted)
{
    value_ref rest, number = jinja_int(r, wanted);
    bool equal;

    if (v->kind == JINJA_STRING)
        return jinja_fail(r, "a string is not divisible");
    rest = jinja_binary(r, '%', v, divisor);
    if (rest == NULL || number == NULL || !jinja_equal(r, rest, number, &equal))
        return NULL;
    return jinja_bool(equal);
}

static value_ref is_odd(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref two = jinja_int(r, 2);

    (void)argv;
    return two != NULL ? remainder_is(r, v, two, 1) : NULL;
}

static value_ref is_even(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    value_ref two = jinja_int(r, 2);

    (void)argv;
    return two != NULL ? remainder_is(r, v, two, 0) : NULL;
}

static value_ref is_divisible(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    return remainder_is(r, v, argv[0], 0);
}

static value_ref has_case(struct jinja_run *r, value_ref v, const char *method)
{
    value_ref text = jinja_str(r, v);
    struct jinja_dict none = { 0 };
    struct jinja_args args = { .named = &none };

    if (text == NULL)
        return NULL;
    return jinja_call_builtin(r, jinja_find_method(text, method, strlen(method)), text, &args);
}

static value_ref is_lower(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return has_case(r, v, "islower");
}

static value_ref is_upper(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)argv;
    return has_case(r, v, "isupper");
}

static value_ref is_same(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool same;

    return jinja_same(r, v, argv[0], &same) ? jinja_bool(same) : NULL;
}

static value_ref is_in(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool in;

    return jinja_contains(r, argv[0], v, &in) ? jinja_bool(in) : NULL;
}

static value_ref is_equal(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool equal;

    return jinja_equal(r, v, argv[0], &equal) ? jinja_bool(equal) : NULL;
}

static value_ref is_different(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool equal;

    return jinja_equal(r, v, argv[0], &equal) ? jinja_bool(!equal) : NULL;
}

/* The order of v and the argument, in -1, 0, 1; 2 if there is none. -2: failed. */
static int order(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    bool ordered;
    int c = 0;

    if (!jinja_order(r, v, argv[0], &c, &ordered))
        return -2;
    return !ordered ? 2 : c < 0 ? -1 : c > 0;
}

static value_ref is_less(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int c = order(r, v, argv);

    return c == -2 ? NULL : jinja_bool(c == -1);
}

static value_ref is_greater(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int c = order(r, v, argv);

    return c == -2 ? NULL : jinja_bool(c == 1);
}

static value_ref is_at_most(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int c = order(r, v, argv);

    return c == -2 ? NULL : jinja_bool(c == -1 || c == 0);
}

static value_ref is_at_least(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    int c = order(r, v, argv);

    return c == -2 ? NULL : jinja_bool(c == 1 || c == 0);
}

static value_ref is_filter(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_STRING && jinja_find_filter(v->text, v->bytes) != NULL);
}

static value_ref is_test(struct jinja_run *r, value_ref v, const value_ref *argv)
{
    (void)r;
    (void)argv;
    return jinja_bool(v->kind == JINJA_STRING && jinja_find_test(v->text, v->bytes) != NULL);
}

#define PLAIN(word, function) { .name = word, .params = "", .call = function }
#define WITH_ONE(word, function) { .name = word, .params = ".", .least = 1, .call = function }

static const struct jinja_builtin tests[] = {
    PLAIN("defined", is_defined),
    PLAIN("undefined", is_undefined),
    PLAIN("none", is_none),
    PLAIN("boolean", is_boolean),
    PLAIN("true", is_true),
    PLAIN("false", is_false),
    PLAIN("integer", is_integer),
    PLAIN("float", is_float),
    PLAIN("number", is_number),
    PLAIN("string", is_string),
    PLAIN("mapping", is_mapping),
    PLAIN("sequence", is_sequence),
    PLAIN("iterable", is_iterable),
    PLAIN("callable", is_callable),
    PLAIN("escaped", is_escaped),
    PLAIN("odd", is_odd),
    PLAIN("even", is_even),
    PLAIN("lower", is_lower),
    PLAIN("upper", is_upper),
    PLAIN("filter", is_filter),
    PLAIN("test", is_test),
    { .name = "divisibleby", .params = "num", .least = 1, .call = is_divisible },
    { .name = "sameas", .params = "other", .least = 1, .call = is_same },
    { .name = "in", .params = "seq", .least = 1, .call = is_in },
    WITH_ONE("==", is_equal),
    WITH_ONE("eq", is_equal),
    WITH_ONE("equalto", is_equal),
    WITH_ONE("!=", is_different),
    WITH_ONE("ne", is_different),
    WITH_ONE(">", is_greater),
    WITH_ONE("gt", is_greater),
    WITH_ONE("greaterthan", is_greater),
    WITH_ONE("ge", is_at_least),
    WITH_ONE(">=", is_at_least),
    WITH_ONE("<", is_less),
    WITH_ONE("lt", is_less),
    WITH_ONE("lessthan", is_less),
    WITH_ONE("<=", is_at_most),
    WITH_ONE("le", is_at_most),
    { 0 },
};

const struct jinja_builtin *jinja_find_test(const char *name, size_t bytes)
{
    return jinja_find_in(tests, name, bytes);
}
