/* test_template.c - chat requests against what Transformers makes of them
 * (tests/golden/make_templates.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/template.h"
#include "text_support.h"

static struct chat_template *qwen3; /* as its checkpoints have it */

#define START "<|im_start|>"
#define END "<|im_end|>\n"

static enum status render_json(const struct chat_template *t, const char *json, char **text)
{
    struct json_document d;
    size_t bytes;
    enum status s;

    assert_int_equal(json_document_parse("test", json, strlen(json), &d), STATUS_OK);
    s = template_render(t, d.root, text, &bytes);
    if (s == STATUS_OK)
        assert_int_equal(bytes, strlen(*text));
    json_document_free(&d);
    return s;
}

static void check(const struct chat_template *t, const char *json, const char *want)
{
    char *text;

    if (render_json(t, json, &text) != STATUS_OK)
        fail_msg("%s: %s", json, log_last_error());
    assert_string_equal(text, want);
    free(text);
}

static void check_fails(const struct chat_template *t, const char *json, const char *why)
{
    char *text = NULL;

    assert_int_equal(render_json(t, json, &text), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("%s: wanted %s, got %s", json, why, log_last_error());
    assert_null(text);
}

static void write_text(const char *name, const char *text)
{
    support_write(name, text, strlen(text));
}

/* A template that lies in a checkpoint as chat_template.jinja. */
static struct chat_template *with_template(const char *text)
{
    struct chat_template *t;

    support_remove();
    write_text("chat_template.jinja", text);
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    support_remove();
    return t;
}

/* The request without what the golden file adds to it. */
static struct json_value without_answer(const struct json_value *v)
{
    static struct json_value copies[16];
    struct json_value request = { .type = JSON_IS_OBJECT }, **tail = &request.first;
    size_t n = 0;

    for (v = v->first; v != NULL; v = v->next) {
        if (strcmp(v->key, "rendered") == 0 || strcmp(v->key, "ids") == 0)
            continue;
        assert_true(n < 16);
        copies[n] = *v;
        copies[n].next = NULL;
        *tail = &copies[n];
        tail = &copies[n++].next;
        request.count++;
    }
    return request;
}

static void check_vectors(const struct chat_template *t)
{
    struct json_document d = support_golden("vectors.json");
    const struct json_value *list = json_get(d.root, "chat");

    assert_int_equal(list->count, 150);
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        const struct json_value *want = json_get(v, "rendered");
        struct json_value request = without_answer(v);
        char *text;
        size_t bytes;

        assert_int_equal(template_render(t, &request, &text, &bytes), STATUS_OK);
        assert_int_equal(bytes, want->bytes);
        assert_memory_equal(text, want->text, bytes);
        free(text);
    }
    json_document_free(&d);
}

static void every_chat_equals_the_reference(void **state)
{
    (void)state;
    check_vectors(qwen3);
}

static void a_checkpoint_without_a_template_gets_qwen3s(void **state)
{
    struct chat_template *t;

    (void)state;
    support_remove();
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    check_vectors(t);
    template_close(t);
    write_text("tokenizer_config.json", "{\"chat_template\": null}");
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    check(t, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}", START "user\nHi" END);
    template_close(t);
    support_remove();
}

/* The template of a case: one that the file has, or a file of its own. */
static struct chat_template *golden_template(const struct json_value *small, const char *name)
{
    const struct json_value *text = json_get(small, name);
    struct chat_template *t;
    char path[128], *file;
    size_t bytes;

    support_remove();
    if (text != NULL) {
        support_write("chat_template.jinja", text->text, text->bytes);
    } else {
        snprintf(path, sizeof(path), "templates/%s.jinja", name);
        file = support_golden_text(path, &bytes);
        support_write("chat_template.jinja", file, bytes);
        free(file);
    }
    write_text("tokenizer_config.json", "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": "
        "\"</s>\"}, \"pad_token\": null}");
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    support_remove();
    return t;
}

static void check_case(const struct chat_template *t, const struct json_value *request,
    const struct json_value *want)
{
    char *text = NULL;
    size_t bytes = 0;
    enum status s = template_render(t, request, &text, &bytes);

    if (want->type == JSON_IS_NULL) {
        if (s != STATUS_INVALID)
            fail_msg("an error in Transformers is here: %s", text);
        return;
    }
    if (s != STATUS_OK)
        fail_msg("wanted %s\ngot %s", want->text, log_last_error());
    if (bytes != want->bytes || memcmp(text, want->text, bytes) != 0)
        fail_msg("wanted %s\ngot    %s", want->text, text);
    free(text);
}

static void requests_are_rendered_as_in_transformers(void **state)
{
    struct json_document d = support_golden_file("templates/requests.json");
    const struct json_value *cases = json_get(d.root, "cases");
    struct chat_template *t = NULL;
    const char *name = "";

    (void)state;
    assert_true(cases->count >= 400);
    for (const struct json_value *v = cases->first; v != NULL; v = v->next) {
        if (strcmp(v->first->text, name) != 0) {
            template_close(t);
            name = v->first->text;
            t = golden_template(json_get(d.root, "templates"), name);
        }
        check_case(t, v->first->next, v->first->next->next);
    }
    template_close(t);
    json_document_free(&d);
}

static void published_examples_render_as_published(void **state)
{
    (void)state;
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                 "\"add_generation_prompt\":true}",
        START "user\nHi" END START "assistant\n");
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                 "\"add_generation_prompt\":true,\"enable_thinking\":false}",
        START "user\nHi" END START "assistant\n<think>\n\n</think>\n\n");
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                 "\"content\":\"<think>\\nr\\n</think>\\n\\nb\"},{\"role\":\"user\","
                 "\"content\":\"c\"}],\"add_generation_prompt\":true}",
        START "user\na" END START "assistant\nb" END START "user\nc" END START "assistant\n");
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                 "\"content\":\"t\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                 "\"arguments\":{}}}]},{\"role\":\"tool\",\"content\":\"R\"}]}",
        START "user\na" END START
              "assistant\nt\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>" END
        START
              "user\n<tool_response>\nR\n</tool_response>" END);
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                 "\"content\":\"\",\"reasoning_content\":\"think\",\"tool_calls\":["
                 "{\"name\":\"f\",\"arguments\":{\"x\":1.0}},"
                 "{\"name\":\"g\",\"arguments\":\"{\\\"y\\\":2}\"}]}]}",
        START "user\na" END START
              "assistant\n<think>\nthink\n</think>\n\n<tool_call>\n{\"name\": \"f\", "
              "\"arguments\": {\"x\": 1.0}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", "
              "\"arguments\": {\"y\":2}}\n</tool_call>" END);
}

/* Calls, runs of tool messages and the turns around them, where only one is wrong at a time. */
static void tool_turns_stand_where_they_belong(void **state)
{
    (void)state;
    check(qwen3, "{\"messages\":[{\"role\":\"tool\",\"content\":\"1\"},{\"role\":\"tool\","
                 "\"content\":\"2\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"tool\","
                 "\"content\":\"3\"}]}",
        START "user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"
        END START "user\nu" END START "user\n<tool_response>\n3\n</tool_response>" END);
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"<tool_response>a\"},"
                 "{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\"},"
                 "{\"role\":\"user\",\"content\":\"<tool_response>c</tool_response>\"},"
                 "{\"role\":\"assistant\",\"content\":\"d\",\"reasoning_content\":\"\"}]}",
        START "user\n<tool_response>a" END START "assistant\n<think>\nr\n</think>\n\nb" END
        START "user\n<tool_response>c</tool_response>" END
        START "assistant\n<think>\n\n</think>\n\nd" END);
}

static void parts_and_null_fit_templates_that_take_strings(void **state)
{
    (void)state;
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a"
                 "\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"content\":null}]}",
        START "user\nab" END START "user\n" END);
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":[]},{\"role\":\"narrator\"}]}",
        START "user\n" END);
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                 "\"content\":null,\"tool_calls\":[{\"name\":\"f\",\"arguments\":{}}]}]}",
        START "user\na" END START "assistant\n<think>\n\n</think>\n\n<tool_call>\n"
              "{\"name\": \"f\", \"arguments\": {}}\n</tool_call>" END);
    check_fails(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
        "messages[0]: content may only have parts");
}

static void parts_reach_templates_that_loop_over_them(void **state)
{
    struct chat_template *t = with_template("{% for m in messages %}{% for p in m.content %}"
        "{{ p.type }}={{ p.text }};{% endfor %}{{ m.content is defined }}{% endfor %}");

    (void)state;
    check(t, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
             "{\"type\":\"image\"}]},{\"role\":\"user\",\"content\":null}]}",
        "text=a;image=;TrueFalse");
    template_close(t);
}

static void bad_requests_are_named(void **state)
{
    static const struct {
        const char *json, *why;
    } cases[] = {
        { "[]", "expected an object with messages, found an array" },
        { "{}", "messages must be a list, found nothing" },
        { "{\"messages\":\"hi\"}", "messages must be a list, found a string" },
        { "{\"messages\":[]}", "messages is empty" },
        { "{\"messages\":[\"hi\"]}", "messages[0]: a message must be an object" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"content\":\"b\"}]}",
            "messages[1]: role must be a string, found nothing" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":5}]}",
            "messages[0]: content must be a string, a list of parts or null, found a number" },
        { "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":{}}]}",
            "messages[0]: tool_calls must be a list" },
        { "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{},5]}]}",
            "messages[0]: tool_calls[1] must be an object, found a number" },
        { "{\"messages\":[{\"role\":\"assistant\",\"reasoning_content\":1}]}",
            "reasoning_content must be a string" },
        { "{\"messages\":[{\"role\":\"assistant\",\"thinking\":[]}]}", "thinking must be a string" },
        { "{\"messages\":[{\"role\":\"user\"}],\"tools\":{}}", "tools must be a list" },
        { "{\"messages\":[{\"role\":\"user\"}],\"tools\":[{},1]}",
            "tools[1] must be an object, found a number" },
        { "{\"messages\":[{\"role\":\"user\"}],\"documents\":[\"x\"]}",
            "documents[0] must be an object" },
        { "{\"messages\":[{\"role\":\"user\"}],\"enable_thinking\":\"no\"}",
            "enable_thinking must be true or false" },
        { "{\"messages\":[{\"role\":\"user\"}],\"add_generation_prompt\":1}",
            "add_generation_prompt must be true or false" },
        { "{\"messages\":[{\"role\":\"user\"}],\"continue_final_message\":1}",
            "continue_final_message must be true, false or a message's key" },
        { "{\"messages\":[{\"role\":\"user\"}],\"add_generation_promt\":true}",
            "unknown key \"add_generation_promt\": did you mean add_generation_prompt?" },
        { "{\"messages\":[{\"role\":\"user\"}],\"temperature\":1}",
            "unknown key \"temperature\": variables of the template's own belong into" },
        { "{\"messages\":[{\"role\":\"user\"}],\"chat_template_kwargs\":[]}",
            "chat_template_kwargs must be an object" },
        { "{\"messages\":[{\"role\":\"user\"}],\"chat_template_kwargs\":{\"messages\":[]}}",
            "messages may not stand in chat_template_kwargs" },
        { "{\"messages\":[{\"role\":\"user\"}],\"chat_template_kwargs\":{\"enable_thinking\":0}}",
            "enable_thinking must be true or false" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_fails(qwen3, cases[i].json, cases[i].why);
}

static void null_is_as_absent(void **state)
{
    (void)state;
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"name\":null}],\"tools\":null,"
                 "\"documents\":null,\"enable_thinking\":null,\"add_generation_prompt\":null,"
                 "\"continue_final_message\":null,\"chat_template_kwargs\":null}",
        START "user\na" END);
}

static void template_variables_take_precedence(void **state)
{
    struct chat_template *t = with_template("{{ enable_thinking }}|{{ style }}|{{ eos_token }}|"
        "{{ add_generation_prompt }}|{{ tools }}|{{ documents }}");

    (void)state;
    check(t, "{\"messages\":[{\"role\":\"user\"}],\"enable_thinking\":true,"
             "\"chat_template_kwargs\":{\"enable_thinking\":false,\"style\":[1,\"a\"],"
             "\"add_generation_prompt\":true,\"tools\":[{}]}}",
        "False|[1, 'a']||True|[{}]|None");
    check(t, "{\"messages\":[{\"role\":\"user\"}],\"chat_template_kwargs\":{\"eos_token\":\"E\","
             "\"enable_thinking\":null},\"enable_thinking\":true}", "None||E|False|None|None");
    template_close(t);
}

static void the_last_message_stays_open(void **state)
{
    struct chat_template *trims = with_template("{% for m in messages %}<{{ m.content|trim }}>"
        "{% endfor %}");
    struct chat_template *hides = with_template("{% for m in messages %}{% if m.content %}x"
        "{% endif %}{% endfor %}");

    (void)state;
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\","
                 "\"content\":\"y  \"}],\"continue_final_message\":true}",
        START "user\nx" END START "assistant\n<think>\n\n</think>\n\ny  ");
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x \"},"
                 "{\"type\":\"text\",\"text\":\"y\"}]}],\"continue_final_message\":true}",
        START "user\nx y");
    check(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\","
                 "\"content\":\"c\",\"reasoning\":\"so \"}],\"continue_final_message\":"
                 "\"reasoning_content\"}",
        START "user\nx" END START "assistant\n<think>\nso ");
    check(trims, "{\"messages\":[{\"role\":\"user\",\"content\":\" a \"},{\"role\":\"user\","
                 "\"content\":\" b \"}],\"continue_final_message\":true}", "<a><b");
    check_fails(hides, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
                       "\"continue_final_message\":true}", "does not stand in the prompt");
    check_fails(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],"
                       "\"continue_final_message\":true,\"add_generation_prompt\":true}",
        "exclude each other");
    check_fails(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":null}],"
                       "\"continue_final_message\":true}", "has no \"content\" to continue");
    check_fails(qwen3, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"zz\":\"b\"}],"
                       "\"continue_final_message\":\"zz\"}", "does not use \"zz\"");
    template_close(trims);
    template_close(hides);
}

/* In a template with a loop over parts, the last one with a text is continued. */
static void the_last_text_part_stays_open(void **state)
{
    struct chat_template *t = with_template("{% for m in messages %}{% for p in m.content %}"
        "[{{ p.text }}{{ p.id }}]{% endfor %}{% endfor %}");

    (void)state;
    check(t, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"a\",\"id\":1},"
             "{\"text\":\"b\",\"id\":2},{\"id\":3}]}],\"continue_final_message\":true}", "[a1][b");
    check_fails(t, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"id\":3}]}],"
                   "\"continue_final_message\":true}", "the last message has no text");
    template_close(t);
}

#define PLAIN "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"

static void errors_of_a_template_name_request_file_and_line(void **state)
{
    struct chat_template *t = with_template("a\n{{ messages[0].content.x.y }}");
    struct json_document d;
    char *text = NULL;
    size_t bytes;

    (void)state;
    assert_int_equal(json_document_parse("test", PLAIN, strlen(PLAIN), &d), STATUS_OK);
    assert_int_equal(template_render_from(t, "line 7", d.root, &text, &bytes), STATUS_INVALID);
    assert_string_equal(log_last_error(),
        "line 7: chat_template.jinja: line 2: a 'str' has no 'x'");
    assert_null(text);
    json_document_free(&d);
    template_close(t);
}

static int open_qwen3(void **state)
{
    int opened = template_select(support_tokenizer_dir(), &qwen3) == STATUS_OK ? 0 : -1;

    (void)state;
    support_remove();
    return opened;
}

static int close_qwen3(void **state)
{
    (void)state;
    template_close(qwen3);
    support_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chat_equals_the_reference),
        cmocka_unit_test(a_checkpoint_without_a_template_gets_qwen3s),
        cmocka_unit_test(requests_are_rendered_as_in_transformers),
        cmocka_unit_test(published_examples_render_as_published),
        cmocka_unit_test(tool_turns_stand_where_they_belong),
        cmocka_unit_test(parts_and_null_fit_templates_that_take_strings),
        cmocka_unit_test(parts_reach_templates_that_loop_over_them),
        cmocka_unit_test(bad_requests_are_named),
        cmocka_unit_test(null_is_as_absent),
        cmocka_unit_test(template_variables_take_precedence),
        cmocka_unit_test(the_last_message_stays_open),
        cmocka_unit_test(the_last_text_part_stays_open),
        cmocka_unit_test(errors_of_a_template_name_request_file_and_line),
    };

    return cmocka_run_group_tests(tests, open_qwen3, close_qwen3);
}
