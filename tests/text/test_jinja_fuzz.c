/* test_jinja_fuzz.c - broken templates and requests: an error or a text, within the
 * limits, and never anything else. The seed is printed; QUERN_TEST_SEED repeats it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/jinja.h"
#include "text/template.h"
#include "text/utf8.h"
#include "text_support.h"

enum { ROUNDS = 4000, MOST_BYTES = 1 << 14 };

static const struct jinja_limits limits = { 100000, 1 << 18, 16 << 20 };
static uint64_t seed;

static size_t below(size_t n)
{
    return n == 0 ? 0 : (size_t)(support_random(&seed) % n);
}

static void splice(char *text, size_t *bytes, size_t at, const char *piece, size_t count)
{
    if (*bytes + count >= MOST_BYTES)
        return;
    memmove(text + at + count, text + at, *bytes - at);
    memcpy(text + at, piece, count);
    *bytes += count;
}

static void cut(char *text, size_t *bytes, size_t at, size_t count)
{
    if (count > *bytes - at)
        count = *bytes - at;
    memmove(text + at, text + at + count, *bytes - at - count);
    *bytes -= count;
}

/* A few changes of a kind that keeps most of the text meaningful. */
static void mutate(char *text, size_t *bytes, const char *const *words, size_t count)
{
    char piece[64];

    for (size_t changes = 1 + below(4); changes > 0; changes--) {
        size_t at = below(*bytes + 1), from = below(*bytes + 1), length = below(40);
        const char *word = words[below(count)];

        switch (below(5)) {
        case 0: cut(text, bytes, at, length); break;
        case 1: splice(text, bytes, at, word, strlen(word)); break;
        case 2:
            if (at < *bytes)
                text[at] = (char)support_random(&seed);
            break;
        case 3:
            if (length > *bytes - from)
                length = *bytes - from;
            memcpy(piece, text + from, length);
            splice(text, bytes, at, piece, length);
            break;
        default:
            cut(text, bytes, at, strlen(word));
            splice(text, bytes, at < *bytes ? at : *bytes, word, strlen(word));
            break;
        }
    }
}

static const char *const template_words[] = { "{{", "}}", "{%", "%}", "{#", "#}", "-%}", "{%-",
    "(", ")", "[", "]", "{", "}", "'", "\"", "\\", "\n", "|", ".", ",", ":", "~", "==", "//", "**",
    "%", " in ", " is ", " not ", " if ", " else ", "for x in ", "endfor", "endif", "set x = ",
    "macro m(a)", "endmacro", "raw", "endraw", "loop.last", "loop.length", "messages", "m",
    "|tojson", "|list", "|map('upper')", "|selectattr('role')", "|sort", "|first", ".split('a')",
    "[::-1]", "[-1]", "namespace(a=1)", "range(9)", "0", "1e999", "9223372036854775807", "none",
    "\xc3\xa9", "\xff", "|replace('', 'ab')", " * 99", "|groupby('role')", "|batch(2)",
    "{% break %}", "{% generation %}", "{% endgeneration %}", "|format(m)", ".format(m)" };

static const char *const json_words[] = { "{", "}", "[", "]", "\"", ":", ",", "null", "true",
    "1e999", "0.1", "-1", "\\u0000", "\\ud83d", "\"role\"", "\"content\"", "\"messages\"",
    "\"tools\"", "\"tool_calls\"", "[[[[", "{\"a\":", "\"continue_final_message\": true, ",
    "\"chat_template_kwargs\": {\"x\": 1}, ", "\"thinking\": \"t\", ", "\xc3\xa9", "\xff" };

#define WORDS(list) list, sizeof(list) / sizeof(list[0])

/* One template that is right, in text[0, *bytes). */
static void pick_template(const struct json_value *pieces, char *text, size_t *bytes)
{
    static const char *const files[] = { "qwen3", "qwen3_instruct_2507", "qwen2_5", "history" };
    const struct json_value *v = pieces->first;
    char name[64], *file;

    if (below(3) > 0) {
        for (size_t i = below(pieces->count); i > 0; i--)
            v = v->next;
        *bytes = v->first->bytes < MOST_BYTES / 2 ? v->first->bytes : 0;
        memcpy(text, v->first->text, *bytes);
        return;
    }
    snprintf(name, sizeof(name), "templates/%s.jinja", files[below(4)]);
    file = support_golden_text(name, bytes);
    memcpy(text, file, *bytes);
    free(file);
}

static void check_outcome(enum status s, char *text, size_t bytes)
{
    if (s == STATUS_OK) {
        assert_true(bytes <= limits.output_bytes);
        assert_int_equal(utf8_valid_prefix(text, bytes), bytes);
        free(text);
        return;
    }
    assert_int_equal(s, STATUS_INVALID);
    assert_true(strlen(log_last_error()) > 0);
}

static void mutated_templates_render_or_fail(void **state)
{
    struct json_document d = support_golden_file("templates/language.json");
    struct json_value context = *json_get(d.root, "context");
    struct json_value messages = *json_get(&context, "m");
    static char text[MOST_BYTES + 64];

    (void)state;
    messages.key = "messages";
    messages.key_bytes = 8;
    messages.next = context.first;
    context.first = &messages;
    context.count++;
    for (int i = 0; i < ROUNDS; i++) {
        struct jinja_program *p = NULL;
        size_t bytes, count = 0;
        char *out = NULL;
        enum status s;

        pick_template(json_get(d.root, "written"), text, &bytes);
        mutate(text, &bytes, WORDS(template_words));
        s = jinja_compile("t", text, bytes, &p);
        if (s == STATUS_OK)
            s = jinja_render(p, NULL, &context, &limits, &out, &count);
        check_outcome(s, out, count);
        jinja_free(p);
    }
    json_document_free(&d);
}

static void mutated_requests_render_or_fail(void **state)
{
    static const char *const requests[] = {
        "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
        "[{\"type\": \"text\", \"text\": \"a\"}]}, {\"role\": \"assistant\", \"content\": null, "
        "\"reasoning\": \"r\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1.0}}}]}, "
        "{\"role\": \"tool\", \"content\": \"R\"}], \"tools\": [{\"name\": \"f\"}], \"enable_thinking\": false}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}], "
        "\"continue_final_message\": true, \"chat_template_kwargs\": {\"documents\": []}}",
    };
    static char text[MOST_BYTES + 64];
    struct chat_template *t;

    (void)state;
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    for (int i = 0; i < ROUNDS; i++) {
        const char *request = requests[below(2)];
        size_t bytes = strlen(request), count = 0;
        struct json_document d = { 0 };
        char *out = NULL;
        enum status s;

        memcpy(text, request, bytes);
        mutate(text, &bytes, WORDS(json_words));
        s = json_document_parse("request", text, bytes, &d);
        if (s == STATUS_OK)
            s = template_render(t, d.root, &out, &count);
        check_outcome(s, out, count);
        json_document_free(&d);
    }
    template_close(t);
    support_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_templates_render_or_fail),
        cmocka_unit_test(mutated_requests_render_or_fail),
    };

    seed = support_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
