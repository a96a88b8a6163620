/* test_template.c - Qwen3's templates against what Jinja rendered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/template.h"
#include "text_support.h"

static struct chat_template *hybrid;

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

    assert_int_equal(render_json(t, json, &text), STATUS_OK);
    assert_string_equal(text, want);
    free(text);
}

static void every_chat_equals_the_reference(void **state)
{
    struct json_document d = support_golden("vectors.json");
    const struct json_value *list = json_get(d.root, "chat");

    (void)state;
    assert_int_equal(list->count, 150);
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        const struct json_value *want = json_get(v, "rendered");
        char *text;
        size_t bytes;

        assert_int_equal(template_render(hybrid, v, &text, &bytes), STATUS_OK);
        assert_int_equal(bytes, want->bytes);
        assert_memory_equal(text, want->text, bytes);
        free(text);
    }
    json_document_free(&d);
}

static void published_examples_render_as_published(void **state)
{
    (void)state;
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                  "\"add_generation_prompt\":true}",
        START "user\nHi" END START "assistant\n");
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                  "\"add_generation_prompt\":true,\"enable_thinking\":false}",
        START "user\nHi" END START "assistant\n<think>\n\n</think>\n\n");
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                  "\"content\":\"<think>\\nr\\n</think>\\n\\nb\"},{\"role\":\"user\","
                  "\"content\":\"c\"}],\"add_generation_prompt\":true}",
        START "user\na" END START "assistant\nb" END START "user\nc" END START "assistant\n");
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                  "{\"role\":\"assistant\",\"content\":\"b\"}]}",
        START "user\na" END START "assistant\n<think>\n\n</think>\n\nb" END);
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                  "\"content\":\"t\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
                  "\"arguments\":{}}}]},{\"role\":\"tool\",\"content\":\"R\"}]}",
        START "user\na" END START
              "assistant\nt\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>" END
        START
              "user\n<tool_response>\nR\n</tool_response>" END);
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
                  "\"content\":\"\",\"reasoning_content\":\"think\",\"tool_calls\":["
                  "{\"name\":\"f\",\"arguments\":{\"x\":1.0}},"
                  "{\"name\":\"g\",\"arguments\":\"{\\\"y\\\":2}\"}]}]}",
        START "user\na" END START
              "assistant\n<think>\nthink\n</think>\n\n<tool_call>\n{\"name\": \"f\", "
              "\"arguments\": {\"x\": 1.0}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", "
              "\"arguments\": {\"y\":2}}\n</tool_call>" END);
}

static void parts_are_joined_and_null_is_empty(void **state)
{
    (void)state;
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a"
                  "\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"content\":null}]}",
        START "user\nab" END START "user\n" END);
    check(hybrid, "{\"messages\":[{\"role\":\"user\",\"content\":[]},{\"role\":\"narrator\"}]}",
        START "user\n" END);
}

static void bad_requests_are_named(void **state)
{
    static const struct {
        const char *json, *why;
    } cases[] = {
        { "[]", "expected an object with messages" },
        { "{}", "messages must be a list, found nothing" },
        { "{\"messages\":\"hi\"}", "messages must be a list, found a string" },
        { "{\"messages\":[]}", "messages is empty" },
        { "{\"messages\":[\"hi\"]}", "messages[0]: a message must be an object" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"content\":\"b\"}]}",
            "messages[1]: role must be a string, found nothing" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":5}]}",
            "messages[0]: content must be a string" },
        { "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
            "messages[0]: content may only have parts" },
        { "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":{}}]}",
            "tool_calls must be a list" },
        { "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]}",
            "a tool call's name must be a string" },
        { "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"name\":\"f\"}]}]}",
            "a tool call needs arguments" },
        { "{\"messages\":[{\"role\":\"assistant\",\"reasoning_content\":1}]}",
            "reasoning_content must be a string" },
        { "{\"messages\":[{\"role\":\"user\"}],\"tools\":{}}", "tools must be a list" },
        { "{\"messages\":[{\"role\":\"user\"}],\"enable_thinking\":\"no\"}",
            "enable_thinking must be true or false" },
        { "{\"messages\":[{\"role\":\"user\"}],\"add_generation_prompt\":1}",
            "add_generation_prompt must be true or false" },
    };
    char *text = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(render_json(hybrid, cases[i].json, &text), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), cases[i].why));
    }
    assert_null(text);
}

#define MARKS "<|im_start|> <|im_end|> <tool_call> <tool_response> "

static struct chat_template *recognise(const char *text)
{
    struct chat_template *t = NULL;

    assert_int_equal(template_recognise("test", text, strlen(text), &t), STATUS_OK);
    return t;
}

static void each_template_ends_a_prompt_in_its_own_way(void **state)
{
    static const struct {
        const char *text, *name, *ending;
    } cases[] = {
        { MARKS "enable_thinking '<think>\\n\\n</think>\\n\\n'", "qwen3-hybrid", "" },
        { MARKS "'<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n'", "qwen3-nonthinking",
            "<think>\n\n</think>\n\n" },
        { MARKS "'<|im_start|>assistant\\n<think>\\n'", "qwen3-thinking-2507", "<think>\n" },
        { MARKS "'<|im_start|>assistant\\n'", "qwen3-instruct-2507", "" },
        { MARKS "<function=", "qwen3-coder", "" },
    };
    char want[128];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct chat_template *t = recognise(cases[i].text);

        assert_string_equal(template_name(t), cases[i].name);
        snprintf(want, sizeof(want), START "user\nHi" END START "assistant\n%s", cases[i].ending);
        check(t, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],"
                 "\"add_generation_prompt\":true}", want);
        template_close(t);
    }
}

static void instruct_keeps_answers_as_they_are(void **state)
{
    struct chat_template *t = recognise(MARKS);

    (void)state;
    check(t, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\","
             "\"content\":\"b\",\"reasoning_content\":\"r\"}]}",
        START "user\na" END START "assistant\nb" END);
    template_close(t);
}

static void coder_refuses_tools_by_name(void **state)
{
    static const char *const requests[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[{\"name\":\"f\"}]}",
        "{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}",
    };
    struct chat_template *t = recognise(MARKS "<function=");
    char *text;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(render_json(t, requests[i], &text), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "qwen3-coder"));
    }
    template_close(t);
}

static void foreign_templates_are_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "{{ messages }}",
        "[INST] {{ content }} [/INST]",
        "<|im_start|> <|im_end|>",
        MARKS "You are Qwen, created by Alibaba Cloud.",
    };
    struct chat_template *t = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(template_recognise("test", texts[i], strlen(texts[i]), &t),
            STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "none of Qwen3's"));
    }
    assert_null(t);
}

static void count_warning(void *context, enum log_level level, const char *line)
{
    (void)line;
    *(int *)context += level == LOG_LEVEL_WARN;
}

static void the_published_template_is_known_by_hash(void **state)
{
    struct chat_template *t;
    int warnings = 0;

    (void)state;
    log_set_sink(count_warning, &warnings);
    assert_int_equal(template_select(support_tokenizer_dir(), &t), STATUS_OK);
    assert_string_equal(template_name(t), "qwen3-hybrid");
    assert_int_equal(warnings, 0);
    template_close(t);
    template_close(recognise(MARKS "enable_thinking"));
    assert_int_equal(warnings, 1);
    log_set_sink(NULL, NULL);
}

static void check_selected(const char *name)
{
    struct chat_template *t;

    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    assert_string_equal(template_name(t), name);
    template_close(t);
}

static void support_write_text(const char *name, const char *text)
{
    support_write(name, text, strlen(text));
}

static void a_template_is_found_wherever_a_checkpoint_keeps_it(void **state)
{
    struct chat_template *t;

    (void)state;
    support_remove();
    check_selected("qwen3-hybrid"); /* no files at all */
    support_write_text("tokenizer_config.json", "{\"chat_template\": null}");
    check_selected("qwen3-hybrid");
    support_write_text("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", "
                                                "\"template\": \"" MARKS "\"}]}");
    check_selected("qwen3-instruct-2507");
    support_write_text("chat_template.jinja", MARKS "assistant\\n<think>\\n");
    check_selected("qwen3-thinking-2507");
    support_remove();
    support_write_text("tokenizer_config.json", "{\"chat_template\": 5}");
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_INVALID);
    support_write_text("tokenizer_config.json", "{\"chat_template\": ");
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "tokenizer_config.json: byte 18"));
    support_remove();
}

static int open_hybrid(void **state)
{
    (void)state;
    return template_select(support_tokenizer_dir(), &hybrid) == STATUS_OK ? 0 : -1;
}

static int close_hybrid(void **state)
{
    (void)state;
    template_close(hybrid);
    support_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chat_equals_the_reference),
        cmocka_unit_test(published_examples_render_as_published),
        cmocka_unit_test(parts_are_joined_and_null_is_empty),
        cmocka_unit_test(bad_requests_are_named),
        cmocka_unit_test(each_template_ends_a_prompt_in_its_own_way),
        cmocka_unit_test(instruct_keeps_answers_as_they_are),
        cmocka_unit_test(coder_refuses_tools_by_name),
        cmocka_unit_test(foreign_templates_are_refused),
        cmocka_unit_test(the_published_template_is_known_by_hash),
        cmocka_unit_test(a_template_is_found_wherever_a_checkpoint_keeps_it),
    };

    return cmocka_run_group_tests(tests, open_hybrid, close_hybrid);
}
