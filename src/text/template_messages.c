/* template_messages.c - messages as Transformers hands them to a template.
 *
 * Every message becomes an object of its own whose values are shared with the
 * request: null keys are dropped, reasoning gets the names that templates know, and
 * content is brought into the form that the template takes. A message that is to
 * stay open gets a tag behind its text; where that comes out again, the prompt is
 * cut. */
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "text/jinja_text.h"
#include "text/template_internal.h"

static const char *const reasoning_keys[] = { "reasoning_content", "thinking", "reasoning" };
enum { REASONING_KEYS = sizeof(reasoning_keys) / sizeof(reasoning_keys[0]) };

static const char parts_hint[] = "content may only have parts {\"type\": \"text\", \"text\": \"...\"}"
    ", since the model's chat template takes no others";

/* The reasoning of a message, under whichever key it came; NULL if it has none. */
static const struct json_value *reasoning_of(const struct json_value *message)
{
    for (int i = 0; i < REASONING_KEYS; i++) {
        const struct json_value *v = json_get(message, reasoning_keys[i]);

        if (!json_is_nothing(v))
            return v;
    }
    return NULL;
}

static enum status put_copy(struct chat_request *r, struct json_value *object,
    const struct json_value *v, const char *key)
{
    struct json_value *copy = chat_value(&r->arena, v, key);

    if (copy == NULL)
        return STATUS_NOMEM;
    chat_put(object, copy);
    return STATUS_OK;
}

/* All keys that are not null, `thinking` first and `reasoning_content` if it reasons. */
static enum status copy_keys(struct chat_request *r, const struct json_value *message,
    struct json_value *out)
{
    const struct json_value *reasoning = reasoning_of(message);
    enum status s = STATUS_OK;

    if (reasoning != NULL)
        s = put_copy(r, out, reasoning, "thinking");
    for (const struct json_value *v = message->first; v != NULL && s == STATUS_OK; v = v->next)
        if (!json_is_nothing(v))
            s = put_copy(r, out, v, v->key);
    if (s == STATUS_OK && reasoning != NULL)
        s = put_copy(r, out, reasoning, "reasoning_content");
    return s;
}

static enum status put_text(struct chat_request *r, struct json_value *object, const char *key,
    const char *text, size_t bytes)
{
    struct json_value string = { .type = JSON_IS_STRING, .bytes = bytes };

    string.text = text_arena_copy(&r->arena, text, bytes);
    if (string.text == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a message");
    return put_copy(r, object, &string, key);
}

/* The text of one part; NULL if it has another type. */
static const struct json_value *part_text(const struct json_value *part)
{
    const struct json_value *text = json_get(part, "text");

    if (part->type == JSON_IS_STRING)
        return part;
    return json_is_word(json_get(part, "type"), "text") && text != NULL
                   && text->type == JSON_IS_STRING
               ? text
               : NULL;
}

static enum status join_parts(struct chat_request *r, size_t i, struct json_value *out,
    const struct json_value *parts)
{
    struct text_buffer b = { 0 };
    enum status s = STATUS_OK;

    for (const struct json_value *part = parts->first; part != NULL; part = part->next) {
        const struct json_value *text = part_text(part);

        if (text == NULL) {
            text_buffer_free(&b);
            return chat_request_fail(r, "messages[%zu]: %s", i, parts_hint);
        }
        text_buffer_append(&b, text->text, text->bytes);
    }
    s = b.failed ? log_fail(STATUS_NOMEM, "out of memory for a message")
                 : put_text(r, out, "content", b.count > 0 ? b.bytes : "", b.count);
    text_buffer_free(&b);
    return s;
}

/* Templates without a loop over content take it for a string. */
static enum status fit_content(struct chat_request *r, size_t i, struct json_value *out)
{
    const struct json_value *content = json_get(out, "content");

    if (jinja_loops_over_content(r->program))
        return STATUS_OK;
    if (content == NULL)
        return put_text(r, out, "content", "", 0);
    return content->type == JSON_IS_ARRAY ? join_parts(r, i, out, content) : STATUS_OK;
}

static enum status check_type(const struct chat_request *r, size_t i,
    const struct json_value *message, const char *key, unsigned types, const char *wanted)
{
    const struct json_value *v = json_get(message, key);

    if (json_is_nothing(v) || (types >> v->type & 1) != 0)
        return STATUS_OK;
    return chat_request_fail(r, "messages[%zu]: %s must be %s, found %s", i, key, wanted,
        json_type_name(v));
}

static enum status check_calls(const struct chat_request *r, size_t i,
    const struct json_value *calls)
{
    size_t k = 0;

    if (json_is_nothing(calls))
        return STATUS_OK;
    for (const struct json_value *call = calls->first; call != NULL; call = call->next, k++)
        if (call->type != JSON_IS_OBJECT)
            return chat_request_fail(r, "messages[%zu]: tool_calls[%zu] must be an object, found "
                "%s", i, k, json_type_name(call));
    return STATUS_OK;
}

static enum status check_message(const struct chat_request *r, size_t i,
    const struct json_value *message)
{
    const unsigned string = 1u << JSON_IS_STRING, array = 1u << JSON_IS_ARRAY;
    const struct json_value *role = json_get(message, "role");
    enum status s;

    if (message->type != JSON_IS_OBJECT)
        return chat_request_fail(r, "messages[%zu]: a message must be an object, found %s", i,
            json_type_name(message));
    if (role == NULL || role->type != JSON_IS_STRING)
        return chat_request_fail(r, "messages[%zu]: role must be a string, found %s", i,
            json_type_name(role));
    s = check_type(r, i, message, "content", string | array | 1u << JSON_IS_OBJECT,
        "a string, a list of parts or null");
    for (int k = 0; k < REASONING_KEYS && s == STATUS_OK; k++)
        s = check_type(r, i, message, reasoning_keys[k], string, "a string");
    if (s == STATUS_OK)
        s = check_type(r, i, message, "tool_calls", array, "a list");
    return s == STATUS_OK ? check_calls(r, i, json_get(message, "tool_calls")) : s;
}

/* A string with the tag and a space behind it. */
static enum status tag_text(struct chat_request *r, struct json_value *string)
{
    char *tagged = text_arena_take(&r->arena, string->bytes + CONTINUE_TAG_BYTES + 2);

    if (tagged == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a message");
    memcpy(tagged, string->text, string->bytes);
    memcpy(tagged + string->bytes, CONTINUE_TAG " ", CONTINUE_TAG_BYTES + 2);
    r->open_text = string->text;
    string->text = tagged;
    string->bytes += CONTINUE_TAG_BYTES + 1;
    return STATUS_OK;
}

/* The list as one of its own, so that its parts can change; *last: the last one that
 * has a text, NULL if none has. */
static enum status copy_parts(struct chat_request *r, struct json_value *list,
    struct json_value **last)
{
    struct json_value *first = NULL, **tail = &first;

    *last = NULL;
    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        *tail = chat_value(&r->arena, v, NULL);
        if (*tail == NULL)
            return STATUS_NOMEM;
        if (json_get(v, "text") != NULL)
            *last = *tail;
        tail = &(*tail)->next;
    }
    list->first = first;
    return STATUS_OK;
}

/* The last part with a text gets the tag. */
static enum status tag_parts(struct chat_request *r, struct json_value *list)
{
    struct json_value part = { .type = JSON_IS_OBJECT }, *last, *text;
    enum status s = copy_parts(r, list, &last);

    if (s == STATUS_OK && (last == NULL || json_get(last, "text")->type != JSON_IS_STRING))
        s = chat_request_fail(r, "continue_final_message: the last message has no text");
    for (const struct json_value *v = s == STATUS_OK ? last->first : NULL;
         v != NULL && s == STATUS_OK; v = v->next)
        s = put_copy(r, &part, v, v->key);
    if (s != STATUS_OK)
        return s;
    text = (struct json_value *)json_get(&part, "text"); /* ours: a copy */
    last->first = part.first;
    return tag_text(r, text);
}

static bool is_reasoning(const char *key)
{
    for (int i = 0; i < REASONING_KEYS; i++)
        if (strcmp(key, reasoning_keys[i]) == 0)
            return true;
    return false;
}

static bool same_text(const struct json_value *a, const struct json_value *b)
{
    return a != NULL && a->type == JSON_IS_STRING && b->type == JSON_IS_STRING
           && a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
}

/* Tags the key and, for reasoning, its copies under other names. The template must
 * know one of them. */
static enum status tag_message(struct chat_request *r, struct json_value *message)
{
    struct json_value *open = (struct json_value *)json_get(message, r->continued);
    const struct json_value original = *open;
    bool known = strstr(jinja_source(r->program), r->continued) != NULL;
    enum status s;

    if (open->type != JSON_IS_STRING && open->type != JSON_IS_ARRAY)
        return chat_request_fail(r, "continue_final_message: %s of the last message is %s and has "
            "no end to continue", r->continued, json_type_name(open));
    s = open->type == JSON_IS_ARRAY ? tag_parts(r, open) : tag_text(r, open);
    for (int i = 0; i < REASONING_KEYS && s == STATUS_OK && is_reasoning(r->continued); i++) {
        struct json_value *twin = (struct json_value *)json_get(message, reasoning_keys[i]);

        if (twin == NULL || twin == open || !same_text(twin, &original))
            continue;
        s = tag_text(r, twin);
        known = known || strstr(jinja_source(r->program), reasoning_keys[i]) != NULL;
    }
    if (s == STATUS_OK && !known)
        s = chat_request_fail(r, "continue_final_message: the chat template does not use \"%s\"",
            r->continued);
    return s;
}

static enum status convert(struct chat_request *r, size_t i, const struct json_value *message,
    struct json_value *out)
{
    bool open = r->continued != NULL && message->next == NULL;
    enum status s = check_message(r, i, message);

    if (s != STATUS_OK)
        return s;
    s = copy_keys(r, message, out);
    if (s == STATUS_OK && open && json_get(out, r->continued) == NULL)
        return chat_request_fail(r, "continue_final_message: the last message has no \"%s\" to "
            "continue", r->continued);
    if (s == STATUS_OK)
        s = fit_content(r, i, out);
    return s == STATUS_OK && open ? tag_message(r, out) : s;
}

enum status chat_messages(struct chat_request *r, struct json_value **out)
{
    struct json_value empty = { .type = JSON_IS_OBJECT }, list = { .type = JSON_IS_ARRAY };
    struct json_value **tail = &list.first;

    for (const struct json_value *v = r->messages->first; v != NULL; v = v->next) {
        struct json_value *message = chat_value(&r->arena, &empty, NULL);
        enum status s = message != NULL ? convert(r, list.count, v, message) : STATUS_NOMEM;

        if (s != STATUS_OK)
            return s;
        *tail = message;
        tail = &message->next;
        list.count++;
    }
    *out = chat_value(&r->arena, &list, "messages");
    return *out != NULL ? STATUS_OK : STATUS_NOMEM;
}

static bool appears(const char *text, size_t bytes, const char *what)
{
    size_t n = strlen(what), start = jinja_skip_space(what, n, 0);

    return memmem(text, bytes, what + start, jinja_trim_end(what + start, n - start)) != NULL;
}

enum status chat_cut_open(const struct chat_request *r, char *text, size_t *bytes)
{
    const char *tag = NULL, *at = text;
    size_t end;

    while ((at = memmem(at, *bytes - (size_t)(at - text), CONTINUE_TAG, CONTINUE_TAG_BYTES))
           != NULL)
        tag = at++;
    if (tag == NULL || !appears(text, *bytes, r->open_text))
        return chat_request_fail(r, "continue_final_message: the last message does not stand in "
            "the prompt as it is, so it cannot be continued with this chat template");
    end = (size_t)(tag - text);
    if (tag[CONTINUE_TAG_BYTES] != ' ') /* trimmed, and so is what was before it */
        end = jinja_trim_end(text, end);
    text[end] = '\0';
    *bytes = end;
    return STATUS_OK;
}
