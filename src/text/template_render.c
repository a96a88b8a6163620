/* template_render.c - the one template that all of Qwen3's are variants of.
 *
 * First every message is read into a struct message, and all that can be wrong
 * with the request is found there; after that, rendering cannot fail but for
 * memory. The rules (which answers keep their reasoning, where newlines are
 * stripped) are those of the checkpoint's own template, step by step. */
#include <stdlib.h>

#include "quern/log.h"
#include "text/json_write.h"
#include "text/template_internal.h"

static const char tools_head[] =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";

static const char tools_tail[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

struct span {
    const char *text;
    size_t bytes;
};

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, ROLE_OTHER };

struct message {
    enum role role;
    struct span content, reasoning; /* of an answer: already parted */
    const struct json_value *calls; /* NULL: none */
    char *joined;                   /* owned: the content, if it came in parts */
};

struct rendering {
    const char *origin; /* begins every error line */
    const struct chat_template *row;
    struct message *messages;
    size_t count;
    const struct json_value *tools; /* NULL: none */
    bool generate, no_thinking;
    struct text_buffer out;
};

static void put_span(struct text_buffer *out, struct span s)
{
    text_buffer_append(out, s.text, s.bytes);
}

static struct span strip_left(struct span s)
{
    while (s.bytes > 0 && s.text[0] == '\n') {
        s.text++;
        s.bytes--;
    }
    return s;
}

static struct span strip_right(struct span s)
{
    while (s.bytes > 0 && s.text[s.bytes - 1] == '\n')
        s.bytes--;
    return s;
}

static const char *find_first(struct span s, const char *mark)
{
    return memmem(s.text, s.bytes, mark, strlen(mark));
}

/* What follows the last `mark`; all of s if it is not there. */
static struct span after_last(struct span s, const char *mark)
{
    size_t length = strlen(mark);
    const char *hit;

    while ((hit = find_first(s, mark)) != NULL) {
        s.bytes -= (size_t)(hit - s.text) + length;
        s.text = hit + length;
    }
    return s;
}

/* An answer that holds its reasoning in its content: parts the two. */
static void part_reasoning(struct message *m)
{
    const char *end = find_first(m->content, "</think>");
    struct span before;

    if (end == NULL)
        return;
    before = strip_right((struct span){ m->content.text, (size_t)(end - m->content.text) });
    m->reasoning = strip_left(after_last(before, "<think>"));
    m->content = strip_left(after_last(m->content, "</think>"));
}

static enum status complain(const struct rendering *r, size_t index, const char *what,
    const struct json_value *found)
{
    return log_fail(STATUS_INVALID, "%s: messages[%zu]: %s, found %s", r->origin, index, what,
        json_type_name(found));
}

static enum status complain_of(const struct rendering *r, const char *what,
    const struct json_value *found)
{
    return log_fail(STATUS_INVALID, "%s: %s, found %s", r->origin, what, json_type_name(found));
}

/* OpenAI's list of parts: only text parts have a meaning here. */
static enum status join_parts(const struct rendering *r, const struct json_value *list,
    size_t index, struct message *m)
{
    struct text_buffer joined = { 0 };
    enum status s;

    for (const struct json_value *v = list->first; v != NULL; v = v->next) {
        const struct json_value *text = json_get(v, "text");

        if (!json_is_word(json_get(v, "type"), "text") || text == NULL
            || text->type != JSON_IS_STRING) {
            text_buffer_free(&joined);
            return log_fail(STATUS_INVALID,
                "%s: messages[%zu]: content may only have parts {\"type\": \"text\", \"text\": "
                "...}: the model reads nothing else", r->origin, index);
        }
        text_buffer_append(&joined, text->text, text->bytes);
    }
    s = text_buffer_take(&joined, &m->joined, &m->content.bytes);
    if (s == STATUS_OK)
        m->content.text = m->joined;
    return s;
}

static enum status read_content(const struct rendering *r, const struct json_value *v,
    size_t index, struct message *m)
{
    m->content = (struct span){ "", 0 };
    if (json_is_nothing(v))
        return STATUS_OK;
    if (v->type == JSON_IS_ARRAY)
        return join_parts(r, v, index, m);
    if (v->type != JSON_IS_STRING)
        return complain(r, index, "content must be a string or a list of parts", v);
    m->content = (struct span){ v->text, v->bytes };
    return STATUS_OK;
}

static enum status read_role(const struct rendering *r, const struct json_value *v, size_t index,
    enum role *role)
{
    static const char *const names[] = {
        [ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant",
        [ROLE_TOOL] = "tool",
    };

    if (v == NULL || v->type != JSON_IS_STRING)
        return complain(r, index, "role must be a string", v);
    *role = ROLE_OTHER;
    for (int i = 0; i < ROLE_OTHER; i++)
        if (json_is_word(v, names[i]))
            *role = (enum role)i;
    return STATUS_OK;
}

/* A call is {"function": {name, arguments}} or {name, arguments} itself. */
static const struct json_value *call_body(const struct json_value *call)
{
    const struct json_value *inner = json_get(call, "function");

    return inner != NULL && inner->type == JSON_IS_OBJECT && inner->count > 0 ? inner : call;
}

static enum status read_calls(const struct rendering *r, const struct json_value *v,
    size_t index, struct message *m)
{
    if (json_is_nothing(v) || (v->type == JSON_IS_ARRAY && v->count == 0))
        return STATUS_OK;
    if (v->type != JSON_IS_ARRAY)
        return complain(r, index, "tool_calls must be a list", v);
    for (const struct json_value *call = v->first; call != NULL; call = call->next) {
        const struct json_value *name = json_get(call_body(call), "name");

        if (name == NULL || name->type != JSON_IS_STRING)
            return complain(r, index, "a tool call's name must be a string", name);
        if (json_get(call_body(call), "arguments") == NULL)
            return complain(r, index, "a tool call needs arguments (an object or a string)", NULL);
    }
    m->calls = v;
    return STATUS_OK;
}

static enum status read_answer(const struct rendering *r, const struct json_value *v,
    size_t index, struct message *m)
{
    const struct json_value *reasoning = json_get(v, "reasoning_content");

    m->reasoning = (struct span){ "", 0 };
    if (!json_is_nothing(reasoning) && reasoning->type != JSON_IS_STRING)
        return complain(r, index, "reasoning_content must be a string", reasoning);
    if (r->row->thinks && !json_is_nothing(reasoning))
        m->reasoning = (struct span){ reasoning->text, reasoning->bytes };
    else if (r->row->thinks)
        part_reasoning(m);
    return read_calls(r, json_get(v, "tool_calls"), index, m);
}

static enum status read_message(const struct rendering *r, const struct json_value *v,
    size_t index, struct message *m)
{
    enum status s;

    if (v->type != JSON_IS_OBJECT)
        return complain(r, index, "a message must be an object with role and content", v);
    s = read_role(r, json_get(v, "role"), index, &m->role);
    if (s == STATUS_OK)
        s = read_content(r, json_get(v, "content"), index, m);
    if (s == STATUS_OK && m->role == ROLE_ASSISTANT)
        s = read_answer(r, v, index, m);
    return s;
}

static enum status read_messages(struct rendering *r, const struct json_value *list)
{
    size_t i = 0;

    if (list == NULL || list->type != JSON_IS_ARRAY)
        return complain_of(r, "messages must be a list", list);
    if (list->count == 0)
        return log_fail(STATUS_INVALID, "%s: messages is empty: there is nothing to render",
            r->origin);
    r->messages = calloc(list->count, sizeof(*r->messages));
    if (r->messages == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for %zu messages", list->count);
    r->count = list->count;
    for (const struct json_value *v = list->first; v != NULL; v = v->next, i++) {
        enum status s = read_message(r, v, i, &r->messages[i]);

        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

/* A switch that may be absent; `truth` is left alone then. */
static enum status read_switch(const struct rendering *r, const struct json_value *request,
    const char *key, bool *truth)
{
    const struct json_value *v = json_get(request, key);

    if (json_is_nothing(v))
        return STATUS_OK;
    if (v->type != JSON_IS_BOOL)
        return log_fail(STATUS_INVALID, "%s: %s must be true or false, found %s", r->origin, key,
            json_type_name(v));
    *truth = v->truth;
    return STATUS_OK;
}

static enum status read_tools(struct rendering *r, const struct json_value *v)
{
    if (json_is_nothing(v))
        return STATUS_OK;
    if (v->type != JSON_IS_ARRAY)
        return complain_of(r, "tools must be a list", v);
    if (v->count > 0)
        r->tools = v;
    return STATUS_OK;
}

static enum status refuse_tools(const struct rendering *r)
{
    bool used = r->tools != NULL;

    for (size_t i = 0; i < r->count && !used; i++)
        used = r->messages[i].calls != NULL || r->messages[i].role == ROLE_TOOL;
    if (!used || r->row->tools)
        return STATUS_OK;
    return log_fail(STATUS_INVALID,
        "%s: the template %s has a tool format that is not supported: leave out tools, tool_calls "
        "and tool messages", r->origin, r->row->name);
}

static enum status read_request(struct rendering *r, const struct json_value *request)
{
    bool thinking = true;
    enum status s;

    if (request->type != JSON_IS_OBJECT)
        return complain_of(r, "expected an object with messages", request);
    s = read_messages(r, json_get(request, "messages"));
    if (s == STATUS_OK)
        s = read_tools(r, json_get(request, "tools"));
    if (s == STATUS_OK)
        s = read_switch(r, request, "add_generation_prompt", &r->generate);
    if (s == STATUS_OK)
        s = read_switch(r, request, "enable_thinking", &thinking);
    r->no_thinking = !thinking;
    return s == STATUS_OK ? refuse_tools(r) : s;
}

/* The system turn that leads: the tools, the first message, or both. */
static void put_preamble(struct rendering *r)
{
    bool system = r->messages[0].role == ROLE_SYSTEM;

    if (r->tools == NULL && !system)
        return;
    text_buffer_put(&r->out, "<|im_start|>system\n");
    if (system)
        put_span(&r->out, r->messages[0].content);
    if (r->tools == NULL) {
        text_buffer_put(&r->out, "<|im_end|>\n");
        return;
    }
    text_buffer_put(&r->out, system ? "\n\n" : "");
    text_buffer_put(&r->out, tools_head);
    for (const struct json_value *tool = r->tools->first; tool != NULL; tool = tool->next) {
        text_buffer_put(&r->out, "\n");
        json_write_value(&r->out, tool);
    }
    text_buffer_put(&r->out, tools_tail);
}

static bool begins(struct span s, const char *word)
{
    return s.bytes >= strlen(word) && memcmp(s.text, word, strlen(word)) == 0;
}

static bool ends(struct span s, const char *word)
{
    size_t n = strlen(word);

    return s.bytes >= n && memcmp(s.text + s.bytes - n, word, n) == 0;
}

/* The last thing a user really asked, not the result of a tool in a user's
 * turn; answers after it keep their reasoning. The last message if there is none. */
static size_t last_query(const struct rendering *r)
{
    for (size_t i = r->count; i-- > 0;) {
        const struct message *m = &r->messages[i];

        if (m->role == ROLE_USER
            && !(begins(m->content, "<tool_response>") && ends(m->content, "</tool_response>")))
            return i;
    }
    return r->count - 1;
}

static void put_calls(struct rendering *r, const struct message *m)
{
    bool newline = m->content.bytes > 0;

    for (const struct json_value *call = m->calls->first; call != NULL; call = call->next) {
        const struct json_value *body = call_body(call), *name = json_get(body, "name");
        const struct json_value *arguments = json_get(body, "arguments");

        text_buffer_put(&r->out, newline ? "\n" : "");
        text_buffer_put(&r->out, "<tool_call>\n{\"name\": \"");
        text_buffer_append(&r->out, name->text, name->bytes);
        text_buffer_put(&r->out, "\", \"arguments\": ");
        if (arguments->type == JSON_IS_STRING)
            text_buffer_append(&r->out, arguments->text, arguments->bytes);
        else
            json_write_value(&r->out, arguments);
        text_buffer_put(&r->out, "}\n</tool_call>");
        newline = true;
    }
}

static void put_answer(struct rendering *r, size_t i, size_t query)
{
    const struct message *m = &r->messages[i];
    bool last = i + 1 == r->count;

    text_buffer_put(&r->out, "<|im_start|>assistant\n");
    if (r->row->thinks && i > query && (last || m->reasoning.bytes > 0)) {
        text_buffer_put(&r->out, "<think>\n");
        put_span(&r->out, strip_left(strip_right(m->reasoning)));
        text_buffer_put(&r->out, "\n</think>\n\n");
        put_span(&r->out, strip_left(m->content));
    } else {
        put_span(&r->out, m->content);
    }
    if (m->calls != NULL)
        put_calls(r, m);
    text_buffer_put(&r->out, "<|im_end|>\n");
}

/* Tool messages that follow each other are one user turn. */
static void put_tool(struct rendering *r, size_t i)
{
    if (i == 0 || r->messages[i - 1].role != ROLE_TOOL)
        text_buffer_put(&r->out, "<|im_start|>user");
    text_buffer_put(&r->out, "\n<tool_response>\n");
    put_span(&r->out, r->messages[i].content);
    text_buffer_put(&r->out, "\n</tool_response>");
    if (i + 1 == r->count || r->messages[i + 1].role != ROLE_TOOL)
        text_buffer_put(&r->out, "<|im_end|>\n");
}

static void put_turn(struct rendering *r, const char *role, struct span content)
{
    text_buffer_put(&r->out, "<|im_start|>");
    text_buffer_put(&r->out, role);
    text_buffer_put(&r->out, "\n");
    put_span(&r->out, content);
    text_buffer_put(&r->out, "<|im_end|>\n");
}

static void put_messages(struct rendering *r)
{
    size_t query = last_query(r);

    for (size_t i = 0; i < r->count; i++) {
        const struct message *m = &r->messages[i];

        switch (m->role) {
        case ROLE_SYSTEM:
            if (i > 0) /* the first one is in the preamble */
                put_turn(r, "system", m->content);
            break;
        case ROLE_USER: put_turn(r, "user", m->content); break;
        case ROLE_ASSISTANT: put_answer(r, i, query); break;
        case ROLE_TOOL: put_tool(r, i); break;
        case ROLE_OTHER: break; /* as in the templates */
        }
    }
}

static void put_ending(struct rendering *r)
{
    enum template_ending ending = r->row->ending;

    if (!r->generate)
        return;
    text_buffer_put(&r->out, "<|im_start|>assistant\n");
    if (ending == ENDING_OPEN_THINK)
        text_buffer_put(&r->out, "<think>\n");
    if (ending == ENDING_EMPTY_THINK || (ending == ENDING_SWITCHED && r->no_thinking))
        text_buffer_put(&r->out, "<think>\n\n</think>\n\n");
}

enum status template_render_from(const struct chat_template *t, const char *origin,
    const struct json_value *request, char **text, size_t *bytes)
{
    struct rendering r = { .origin = origin, .row = t };
    enum status s = read_request(&r, request);

    if (s == STATUS_OK) {
        put_preamble(&r);
        put_messages(&r);
        put_ending(&r);
        s = text_buffer_take(&r.out, text, bytes);
    }
    for (size_t i = 0; i < r.count; i++)
        free(r.messages[i].joined);
    free(r.messages);
    return s;
}

enum status template_render(const struct chat_template *t, const struct json_value *request,
    char **text, size_t *bytes)
{
    return template_render_from(t, "chat request", request, text, bytes);
}
