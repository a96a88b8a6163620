/* test_template_files.c - where a checkpoint keeps its chat templates and the special
 * tokens that they write. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "quern/log.h"
#include "text/template.h"
#include "text_support.h"

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

static void check_selected(const char *request, const char *want)
{
    struct chat_template *t;

    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    check(t, request, want);
    template_close(t);
}

#define PLAIN "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"
#define TOOLS "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"tools\":[]}"

static void a_template_is_found_wherever_a_checkpoint_keeps_it(void **state)
{
    (void)state;
    support_remove();
    write_text("chat_template.json", "{\"chat_template\": \"processor\"}");
    check_selected(PLAIN, "processor");
    write_text("tokenizer_config.json", "{\"chat_template\": \"config\"}");
    check_selected(PLAIN, "config");
    write_text("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", "
                                        "\"template\": \"d\"}, {\"name\": \"tool_use\", "
                                        "\"template\": \"{{ tools is none }}\"}]}");
    check_selected(PLAIN, "d");
    check_selected(TOOLS, "False");
    write_text("tokenizer_config.json", "{\"chat_template\": {\"default\": \"e\"}}");
    check_selected(TOOLS, "e");
    write_text("chat_template.jinja", "file\n");
    check_selected(TOOLS, "file");
    support_remove();
}

static void more_templates_lie_in_a_folder(void **state)
{
    struct chat_template *t;
    char path[600];

    (void)state;
    support_remove();
    snprintf(path, sizeof(path), "%s/additional_chat_templates", support_temp_dir());
    assert_int_equal(mkdir(path, 0700), 0);
    write_text("additional_chat_templates/tool_use.jinja", "tools");
    write_text("additional_chat_templates/notes.txt", "{{ 1 +");
    write_text("tokenizer_config.json", "{\"chat_template\": \"config\"}");
    check_selected(TOOLS, "tools");
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_OK);
    check_fails(t, PLAIN, "by name (tool_use), but none is called default");
    template_close(t);
    write_text("chat_template.jinja", "file");
    check_selected(PLAIN, "file");
    check_selected(TOOLS, "tools");
    snprintf(path, sizeof(path), "%s/additional_chat_templates/tool_use.jinja", support_temp_dir());
    unlink(path);
    snprintf(path, sizeof(path), "%s/additional_chat_templates/notes.txt", support_temp_dir());
    unlink(path);
    snprintf(path, sizeof(path), "%s/additional_chat_templates", support_temp_dir());
    assert_int_equal(rmdir(path), 0);
    support_remove();
}

static void check_refused(const char *file, const char *text, const char *why)
{
    struct chat_template *t = NULL;

    write_text(file, text);
    assert_int_equal(template_select(support_temp_dir(), &t), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("%s: wanted %s, got %s", text, why, log_last_error());
    assert_null(t);
}

static void broken_templates_are_refused_by_name_and_line(void **state)
{
    (void)state;
    support_remove();
    check_refused("tokenizer_config.json", "{\"chat_template\": 5}",
        "tokenizer_config.json: chat_template must be a string or templates by name, found a");
    check_refused("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}",
        "each template needs a name and a template");
    check_refused("tokenizer_config.json", "{\"chat_template\": {\"default\": 1}}",
        "\"default\" must be a string");
    check_refused("tokenizer_config.json", "{\"chat_template\": ", "tokenizer_config.json: byte 18");
    check_refused("tokenizer_config.json", "{\"chat_template\": \"a\\n{% endfor %}\"}",
        "tokenizer_config.json: line 2: ");
    check_refused("chat_template.jinja", "a\n\n{% include 'x' %}",
        "chat_template.jinja: line 3: the statement 'include' is not done");
    support_remove();
}

static void special_tokens_are_the_templates_to_write(void **state)
{
    const char *request = PLAIN;

    (void)state;
    support_remove();
    write_text("chat_template.jinja", "{{ bos_token }}|{{ eos_token }}|{{ pad_token is defined }}|"
        "{{ unk_token }}");
    check_selected(request, "||False|");
    write_text("tokenizer_config.json", "{\"bos_token\": {\"content\": \"<B>\", \"lstrip\": false},"
        "\"eos_token\": \"<E>\", \"pad_token\": null, \"unk_token\": 5}");
    check_selected(request, "<B>|<E>|False|");
    write_text("special_tokens_map.json", "{\"eos_token\": \"<M>\"}");
    check_selected(request, "<B>|<M>|False|");
    support_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_template_is_found_wherever_a_checkpoint_keeps_it),
        cmocka_unit_test(more_templates_lie_in_a_folder),
        cmocka_unit_test(broken_templates_are_refused_by_name_and_line),
        cmocka_unit_test(special_tokens_are_the_templates_to_write),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
