/* template.c - which of Qwen3's templates a checkpoint has.
 *
 * The hash settles it for texts that were compared byte by byte with what this
 * renders. Revisions of the same template differ in details that do not change
 * what they render, so an unknown text is judged by marks: the few places in
 * which the five differ. A ChatML template of another family has none of the
 * tool marks, or a default system prompt, and is refused. */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "quern/log.h"
#include "text/template_internal.h"
#include "text/text_file.h"

enum row { HYBRID, NONTHINKING, THINKING, INSTRUCT, CODER, ROW_COUNT };

static const struct chat_template rows[ROW_COUNT] = {
    [HYBRID] = { "qwen3-hybrid", ENDING_SWITCHED, true, true },
    [NONTHINKING] = { "qwen3-nonthinking", ENDING_EMPTY_THINK, true, true },
    [THINKING] = { "qwen3-thinking-2507", ENDING_OPEN_THINK, true, true },
    [INSTRUCT] = { "qwen3-instruct-2507", ENDING_PLAIN, false, true },
    [CODER] = { "qwen3-coder", ENDING_PLAIN, false, false },
};

static const struct {
    uint64_t hash; /* XXH3_64bits of the template's text */
    enum row row;
} known[] = {
    { UINT64_C(0x0283f874ff58d644), HYBRID },
};

static bool has(const char *text, size_t bytes, const char *mark)
{
    return memmem(text, bytes, mark, strlen(mark)) != NULL;
}

/* The row by marks; ROW_COUNT if it is none of Qwen3's. */
static enum row judge(const char *t, size_t n)
{
    if (!has(t, n, "<|im_start|>") || !has(t, n, "<|im_end|>") || !has(t, n, "<tool_call>")
        || !has(t, n, "<tool_response>"))
        return ROW_COUNT;
    if (has(t, n, "<function="))
        return CODER;
    if (has(t, n, "You are Qwen"))
        return ROW_COUNT;
    if (has(t, n, "enable_thinking"))
        return HYBRID;
    if (has(t, n, "assistant\\n<think>\\n\\n</think>"))
        return NONTHINKING;
    if (has(t, n, "assistant\\n<think>\\n"))
        return THINKING;
    return has(t, n, "<think>\\n\\n</think>\\n\\n") ? NONTHINKING : INSTRUCT;
}

static enum status choose(enum row row, struct chat_template **out)
{
    struct chat_template *t = malloc(sizeof(*t));

    if (t == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a chat template");
    *t = rows[row];
    *out = t;
    return STATUS_OK;
}

void template_close(struct chat_template *t)
{
    free(t);
}

enum status template_recognise(const char *origin, const char *text, size_t bytes,
    struct chat_template **out)
{
    uint64_t hash = XXH3_64bits(text, bytes);
    enum row row;

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].hash == hash)
            return choose(known[i].row, out);
    row = judge(text, bytes);
    if (row == ROW_COUNT)
        return log_fail(STATUS_INVALID,
            "%s: the chat template is none of Qwen3's (hash %016llx): send prompts as raw text",
            origin, (unsigned long long)hash);
    log_warn("%s: unknown chat template (hash %016llx), taken for %s by its marks", origin,
        (unsigned long long)hash, rows[row].name);
    return choose(row, out);
}

const char *template_name(const struct chat_template *t)
{
    return t->name;
}

/* chat_template is a string, or a list of {name, template} with a "default". */
static const struct json_value *find_text(const struct json_value *v)
{
    if (v->type != JSON_IS_ARRAY)
        return v;
    for (const struct json_value *each = v->first; each != NULL; each = each->next)
        if (json_is_word(json_get(each, "name"), "default"))
            return json_get(each, "template");
    return NULL;
}

static enum status select_from_config(const struct json_value *config,
    struct chat_template **out)
{
    const struct json_value *v = json_get(config, "chat_template");

    if (json_is_nothing(v))
        return choose(HYBRID, out);
    v = find_text(v);
    if (v == NULL || v->type != JSON_IS_STRING)
        return log_fail(STATUS_INVALID,
            "tokenizer_config.json: chat_template must be a string or hold a default one");
    return template_recognise("tokenizer_config.json", v->text, v->bytes, out);
}

enum status template_select(const char *dir, struct chat_template **out)
{
    struct text_file f;
    struct json_document d;
    enum status s = text_file_read(dir, "chat_template.jinja", TEXT_FILE_TEMPLATE, true, &f);

    if (s == STATUS_OK) {
        s = template_recognise("chat_template.jinja", f.bytes, f.count, out);
        text_file_free(&f);
        return s;
    }
    if (s == STATUS_CLOSED)
        s = text_file_read(dir, "tokenizer_config.json", TEXT_FILE_JSON, true, &f);
    if (s == STATUS_CLOSED)
        return choose(HYBRID, out);
    if (s != STATUS_OK)
        return s;
    s = json_document_parse("tokenizer_config.json", f.bytes, f.count, &d);
    text_file_free(&f);
    if (s != STATUS_OK)
        return s;
    s = select_from_config(d.root, out);
    json_document_free(&d);
    return s;
}
