/* test_jinja.c - the language of chat templates against jinja2 itself
 * (tests/golden/make_templates.py), and what bounds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/jinja.h"
#include "text_support.h"

/* Compiles and renders; *text is malloc'ed. */
static enum status render(const char *template, size_t count, const struct json_value *context,
    const struct jinja_limits *limits, char **text, size_t *bytes)
{
    struct jinja_program *p;
    enum status s = jinja_compile("piece", template, count, &p);

    if (s != STATUS_OK)
        return s;
    s = jinja_render(p, NULL, context, limits, text, bytes);
    jinja_free(p);
    return s;
}

static struct json_document parse(const char *json)
{
    struct json_document d;

    assert_int_equal(json_document_parse("test", json, strlen(json), &d), STATUS_OK);
    return d;
}

static enum status render_json(const char *template, const char *json,
    const struct jinja_limits *limits, char **text)
{
    struct json_document d = parse(json);
    size_t bytes;
    enum status s = render(template, strlen(template), d.root, limits, text, &bytes);

    json_document_free(&d);
    return s;
}

static void check(const char *template, const char *json, const char *want)
{
    char *text;

    if (render_json(template, json, NULL, &text) != STATUS_OK)
        fail_msg("%s: %s", template, log_last_error());
    assert_string_equal(text, want);
    free(text);
}

static void check_fails_within(const struct jinja_limits *limits, const char *template,
    const char *json, const char *why)
{
    char *text = NULL;

    if (render_json(template, json, limits, &text) != STATUS_INVALID)
        fail_msg("%.200s: is no error", template);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("%.200s: wanted %s, got %s", template, why, log_last_error());
    assert_null(text);
}

static void check_fails(const char *template, const char *json, const char *why)
{
    check_fails_within(NULL, template, json, why);
}

/* [template, what jinja2 made of it]; null: an error there, and so here. */
static void check_pieces(const char *which, size_t least)
{
    struct json_document d = support_golden_file("templates/language.json");
    const struct json_value *context = json_get(d.root, "context");
    const struct json_value *list = json_get(d.root, which);

    assert_true(list->count >= least);
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        const struct json_value *template = v->first, *want = template->next;
        char *text = NULL;
        size_t bytes = 0;
        enum status s = render(template->text, template->bytes, context, NULL, &text, &bytes);

        if (want->type == JSON_IS_NULL) {
            if (s != STATUS_INVALID)
                fail_msg("%s\nis an error in jinja2, and here %s", template->text, text);
            continue;
        }
        if (s != STATUS_OK)
            fail_msg("%s\nwanted %s\ngot %s", template->text, want->text, log_last_error());
        if (bytes != want->bytes || memcmp(text, want->text, bytes) != 0)
            fail_msg("%s\nwanted %s\ngot %s", template->text, want->text, text);
        free(text);
    }
    json_document_free(&d);
}

static void each_part_of_the_language_is_as_in_jinja2(void **state)
{
    (void)state;
    check_pieces("written", 180);
}

static void random_templates_are_as_in_jinja2(void **state)
{
    (void)state;
    check_pieces("random", 500);
}

static void what_is_not_done_is_an_error_that_names_its_line(void **state)
{
    struct json_document d = support_golden_file("templates/language.json");
    const struct json_value *context = json_get(d.root, "context");

    (void)state;
    assert_true(json_get(d.root, "refused")->count >= 20);
    for (const struct json_value *v = json_get(d.root, "refused")->first; v != NULL; v = v->next) {
        char *text = NULL;
        size_t bytes;

        if (render(v->text, v->bytes, context, NULL, &text, &bytes) != STATUS_INVALID)
            fail_msg("%s: is no error", v->text);
        if (strncmp(log_last_error(), "piece: line 2: ", 15) != 0)
            fail_msg("%s: %s", v->text, log_last_error());
    }
    json_document_free(&d);
}

static void errors_name_the_line_of_the_operation(void **state)
{
    (void)state;
    check_fails("a\n{{ 1 +\n 'x' }}\n", "{}", "line 2: '+' is not done between int and str");
    check_fails("a\n\n{{ zz.b\n }}\n", "{}", "line 3: 'zz' is undefined");
    check_fails("{% macro m() %}\n{{ none.a.b }}\n{% endmacro %}\n{{ m() }}", "{}",
        "line 2: a 'NoneType' has no 'a'");
    check_fails("{% macro m() %}{% endmacro %}\n\n{{ m() ~ m() + 1 }}", "{}", "line 3: ");
    check_fails("\n{# \n\n #}\n{% raw %}\n{% endraw %}{{ x", "{}", "line 6: the template ends");
    check_fails("{% if a %}\n\n", "{}", "line 2: the template ends where endif is expected");
    check_fails("\n{{ 'a\nb' }}{{ 1/0 }}", "{}", "line 3: division by zero");
    check_fails("\n\n{{- raise_exception('No ' ~ 'way') }}", "{}", "line 3: No way");
    check_fails("{%- if a -%}\n\n{%- endif -%}\n{{ b.c }}", "{\"a\":1}", "line 4: 'b' is undefined");
    check_fails("{{ d.append(1) }}", "{\"d\":[]}", "may not change lists");
    check_fails("{{ 0x }}", "{}", "line 1: 'x' stands where }} is expected");
    check_fails("\n{{ x|nope }}", "{}", "line 2: there is no filter 'nope'");
    check("{% if false %}{{ x|nope }}{% endif %}ok", "{}", "ok");
}

/* Each would take for ever, or all memory, or the whole stack. */
static void a_rendering_is_bounded(void **state)
{
    const struct jinja_limits limits = { 2000000, 4 << 20, (size_t)32 << 20 };
    static const struct {
        const char *template, *why;
    } cases[] = {
        { "{% set l = range(9999)|list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}",
            "steps" },
        { "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "MiB of memory" },
        { "{{ 'x' * 99999999999 }}", "a text of more than" },
        { "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}"
          "{% set ns.s = ns.s + ns.s %}{% endfor %}", "a text of more than" },
        { "{{ '%99999d' % 1 }}", "too large" },
        { "{{ 'x'.center(99999999) }}", "a text of more than" },
        { "{{ [1]|tojson(indent=999999999) }}", "a text of more than" },
        { "{{ 'a\nb'|indent(999999999) }}", "a text of more than" },
        { "{{ ('x' * 9999999).replace('', 'yyyyyyyyyyyy') }}", "a text of more than" },
        { "{{ [1] * 99999999999 }}", "too long" },
        { "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}"
          "{% set ns.s = ns.s + ns.s %}{% endfor %}", "more than" },
        { "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", "a text of more than" },
        { "{% for i in range(99999) %}{% set x = [1] * 9999 %}{% endfor %}", "more than" },
        { "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply" },
        { "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}", "nested too deeply" },
        { "{% set ns = namespace() %}{% set ns.a = ns %}{{ [ns] == [ns.a] }}{{ ns|tojson }}",
            "no JSON" },
        { "{% set ns = namespace(a=1) %}{% for i in range(9999) %}{% set ns.a = [ns.a] %}"
          "{% endfor %}{{ ns.a|tojson }}", "nested too deeply" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_fails_within(&limits, cases[i].template, "{}", cases[i].why);
    check_fails("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{}", "MiB of memory");
}

static void smaller_limits_hold_too(void **state)
{
    const struct jinja_limits few_steps = { 100, 1 << 20, 1 << 20 };
    const struct jinja_limits small_text = { 1 << 20, 10, 1 << 20 };
    const struct jinja_limits little_memory = { 1 << 20, 1 << 20, 64 << 10 };
    char *text = NULL;

    (void)state;
    assert_int_equal(render_json("{% for i in range(9) %}{% endfor %}", "{}", &few_steps, &text),
        STATUS_OK);
    free(text);
    text = NULL;
    assert_int_equal(render_json("{% for i in range(90) %}{% endfor %}", "{}", &few_steps, &text),
        STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "more than 100 steps"));
    assert_int_equal(render_json("1234567890", "{}", &small_text, &text), STATUS_OK);
    free(text);
    text = NULL;
    assert_int_equal(render_json("12345678901", "{}", &small_text, &text), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "more than 10 bytes"));
    assert_int_equal(render_json("{% for i in range(9999) %}{% set x = [i] %}{% endfor %}", "{}",
                         &little_memory, &text), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "of memory"));
    assert_null(text);
}

/* open * n, middle, close * n. */
static char *repeated(const char *open, size_t n, const char *middle, const char *close)
{
    struct text_buffer b = { 0 };
    char *text;
    size_t bytes;

    for (size_t i = 0; i < n; i++)
        text_buffer_put(&b, open);
    text_buffer_put(&b, middle);
    for (size_t i = 0; i < n; i++)
        text_buffer_put(&b, close);
    assert_int_equal(text_buffer_take(&b, &text, &bytes), STATUS_OK);
    return text;
}

static void check_repeated(const char *open, size_t n, const char *middle, const char *close,
    const char *why)
{
    char *text = repeated(open, n, middle, close);

    check_fails(text, "{}", why);
    free(text);
}

static void check_expression(const char *open, size_t n, const char *middle, const char *close)
{
    char *text = repeated(open, n, middle, close), *whole = repeated("{{", 1, text, "}}");

    check_fails(whole, "{}", "nested too deeply");
    free(text);
    free(whole);
}

static void templates_nested_too_deeply_are_refused(void **state)
{
    (void)state;
    check_expression("(", 50000, "1", ")");
    check_expression("[", 50000, "1", "]");
    check_expression("not ", 50000, "1", "");
    check_expression("-", 50000, "1", "");
    check_expression("1+", 50000, "1", "");
    check_expression("", 50000, "a", ".a");
    check_expression("", 50000, "a", "|e");
    check_expression("1 if 1 else ", 50000, "1", "");
    check_repeated("{% if 1 %}", 20000, "", "{% endif %}", "nested too deeply");
    check_repeated("{% for x in [1] %}", 20000, "", "{% endfor %}", "nested too deeply");
    check_repeated("{% filter e %}", 20000, "", "{% endfilter %}", "nested too deeply");
}

static void a_template_has_a_size_that_is_bounded(void **state)
{
    char *large = repeated("x", JINJA_TEMPLATE_MAX, "", "");
    struct text_buffer b = { 0 };
    struct jinja_program *p;
    char *text, *names;
    size_t bytes;

    (void)state;
    check(large, "{}", large);
    text = repeated(large, 1, "x", "");
    check_fails(text, "{}", "is more than 1048576");
    free(text);
    free(large);
    for (int i = 0; i < 2001; i++) {
        char name[32];

        snprintf(name, sizeof(name), "{{ v%d }}", i);
        text_buffer_put(&b, name);
    }
    assert_int_equal(text_buffer_take(&b, &names, &bytes), STATUS_OK);
    check_fails(names, "{}", "more than 2000 names");
    free(names);
    assert_int_equal(jinja_compile("t", "a\xff", 2, &p), STATUS_INVALID);
    assert_string_equal(log_last_error(), "t: byte 1 is not UTF-8");
}

static void numbers_of_a_request_stay_as_they_were(void **state)
{
    const char *json = "{\"a\": [1.0, 12345678901234567890, -98765432109876543210, 1e16, 0.1, -0, "
        "9223372036854775807, -9223372036854775808, 1E400]}";

    (void)state;
    check("{{ a|tojson }}", json, "[1.0, 12345678901234567890, -98765432109876543210, 1e+16, 0.1, "
        "0, 9223372036854775807, -9223372036854775808, Infinity]");
    check("{{ a[1] }} {{ a[2] is integer }} {{ a }}", json, "12345678901234567890 True [1.0, "
        "12345678901234567890, -98765432109876543210, 1e+16, 0.1, 0, 9223372036854775807, "
        "-9223372036854775808, inf]");
}

static void one_program_serves_many_renderings(void **state)
{
    static const char template[] = "{% set ns = namespace(n=0) %}{% for x in l %}"
        "{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}";
    struct json_document one = parse("{\"l\": [1, 2]}"), two = parse("{\"l\": [5]}");
    struct jinja_program *p;
    char *text;
    size_t bytes;

    (void)state;
    assert_int_equal(jinja_compile("t", template, strlen(template), &p), STATUS_OK);
    for (int i = 0; i < 4; i++) {
        const struct json_value *context = i % 2 == 0 ? one.root : two.root;

        assert_int_equal(jinja_render(p, NULL, context, NULL, &text, &bytes), STATUS_OK);
        assert_string_equal(text, i % 2 == 0 ? "3" : "5");
        free(text);
    }
    assert_string_equal(jinja_source(p), template);
    jinja_free(p);
    json_document_free(&one);
    json_document_free(&two);
}

static void a_loop_over_content_is_seen(void **state)
{
    static const struct {
        const char *template;
        bool loops;
    } cases[] = {
        { "{% for m in messages %}{{ m.content }}{% endfor %}", false },
        { "{% for m in messages %}{% for p in m.content %}{% endfor %}{% endfor %}", true },
        { "{% for m in messages %}{% if m %}{% for p in m['content'] %}{% endfor %}{% endif %}"
          "{% endfor %}", true },
        { "{% macro r(content) %}{% for p in content %}{% endfor %}{% endmacro %}", true },
        { "{% for p in m.content|selectattr('type') %}{% endfor %}", true },
        { "{% for line in m.content.split('\\n') %}{% endfor %}", false },
        { "{% for m in messages[::-1] %}{% for c in m.tool_calls %}{{ c }}{% endfor %}{% endfor %}",
            false },
    };
    struct jinja_program *p;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(jinja_compile("t", cases[i].template, strlen(cases[i].template), &p),
            STATUS_OK);
        assert_int_equal(jinja_loops_over_content(p), cases[i].loops);
        jinja_free(p);
    }
}

static void now_is_told_in_the_format_asked_for(void **state)
{
    char want[64], *text;
    time_t now;

    (void)state;
    for (int tries = 0; tries < 2; tries++) { /* midnight may lie between the two */
        now = time(NULL);
        strftime(want, sizeof(want), "%d %b %Y", localtime(&now));
        assert_int_equal(render_json("{{ strftime_now('%d %b %Y') }}", "{}", NULL, &text),
            STATUS_OK);
        if (strcmp(text, want) == 0 || tries == 1)
            break;
        free(text);
    }
    assert_string_equal(text, want);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_part_of_the_language_is_as_in_jinja2),
        cmocka_unit_test(random_templates_are_as_in_jinja2),
        cmocka_unit_test(what_is_not_done_is_an_error_that_names_its_line),
        cmocka_unit_test(errors_name_the_line_of_the_operation),
        cmocka_unit_test(a_rendering_is_bounded),
        cmocka_unit_test(smaller_limits_hold_too),
        cmocka_unit_test(templates_nested_too_deeply_are_refused),
        cmocka_unit_test(a_template_has_a_size_that_is_bounded),
        cmocka_unit_test(numbers_of_a_request_stay_as_they_were),
        cmocka_unit_test(one_program_serves_many_renderings),
        cmocka_unit_test(a_loop_over_content_is_seen),
        cmocka_unit_test(now_is_told_in_the_format_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
