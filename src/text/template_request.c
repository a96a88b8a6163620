/* template_request.c - a request's keys, checked, as the variables of its template. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "quern/log.h"
#include "text/template_internal.h"

enum status chat_request_fail(const struct chat_request *r, const char *format, ...)
{
    char what[768];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    return log_fail(STATUS_INVALID, "%s: %s", r->origin, what);
}

struct json_value *chat_value(struct text_arena *a, const struct json_value *v, const char *key)
{
    struct json_value *copy = text_arena_take(a, sizeof(*copy));

    if (copy == NULL) {
        log_fail(STATUS_NOMEM, "out of memory for a chat request");
        return NULL;
    }
    *copy = *v;
    copy->next = NULL;
    copy->key = key;
    copy->key_bytes = key != NULL ? strlen(key) : 0;
    if (key != NULL && key == v->key)
        copy->key_bytes = v->key_bytes; /* which may hold zero bytes */
    return copy;
}

static bool same_key(const struct json_value *a, const struct json_value *b)
{
    return a->key_bytes == b->key_bytes && memcmp(a->key, b->key, a->key_bytes) == 0;
}

void chat_put(struct json_value *object, struct json_value *child)
{
    struct json_value **link = &object->first;

    while (*link != NULL && !same_key(*link, child))
        link = &(*link)->next;
    if (*link != NULL)
        child->next = (*link)->next;
    else
        object->count++;
    *link = child;
}

static const char *const known[] = { "messages", "tools", "documents", "enable_thinking",
    "add_generation_prompt", "continue_final_message", "chat_template_kwargs" };

static enum status check_keys(const struct chat_request *r, const struct json_value *request)
{
    for (const struct json_value *v = request->first; v != NULL; v = v->next) {
        struct nearest near = NEAREST_TO(v->key, v->key_bytes);
        bool found = false;

        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]) && !found; i++) {
            found = json_text_is(v->key, v->key_bytes, known[i]);
            nearest_offer(&near, known[i]);
        }
        if (found)
            continue;
        if (near.name != NULL)
            return chat_request_fail(r, "unknown key \"%s\": did you mean %s?", v->key, near.name);
        return chat_request_fail(r, "unknown key \"%s\": variables of the template's own belong "
            "into chat_template_kwargs", v->key);
    }
    return STATUS_OK;
}

static enum status check_kwargs(struct chat_request *r, const struct json_value *request)
{
    const struct json_value *kwargs = json_get(request, "chat_template_kwargs");

    if (json_is_nothing(kwargs))
        return STATUS_OK;
    if (kwargs->type != JSON_IS_OBJECT)
        return chat_request_fail(r, "chat_template_kwargs must be an object, found %s",
            json_type_name(kwargs));
    if (json_get(kwargs, "messages") != NULL)
        return chat_request_fail(r, "messages may not stand in chat_template_kwargs");
    r->kwargs = kwargs;
    return STATUS_OK;
}

static enum status check_messages(struct chat_request *r, const struct json_value *request)
{
    r->messages = json_get(request, "messages");
    if (r->messages == NULL || r->messages->type != JSON_IS_ARRAY)
        return chat_request_fail(r, "messages must be a list, found %s",
            json_type_name(r->messages));
    if (r->messages->count == 0)
        return chat_request_fail(r, "messages is empty: give at least one");
    return STATUS_OK;
}

/* The key's value: from chat_template_kwargs if it stands there. NULL for null, too. */
static const struct json_value *field(const struct chat_request *r,
    const struct json_value *request, const char *key)
{
    const struct json_value *v = json_get(r->kwargs, key);

    if (v == NULL)
        v = json_get(request, key);
    return json_is_nothing(v) ? NULL : v;
}

static enum status get_bool(const struct chat_request *r, const struct json_value *request,
    const char *key, const struct json_value **out)
{
    *out = field(r, request, key);
    if (*out == NULL || (*out)->type == JSON_IS_BOOL)
        return STATUS_OK;
    return chat_request_fail(r, "%s must be true or false, found %s", key, json_type_name(*out));
}

static enum status get_objects(const struct chat_request *r, const struct json_value *request,
    const char *key, const struct json_value **out)
{
    size_t i = 0;

    *out = field(r, request, key);
    if (*out == NULL)
        return STATUS_OK;
    if ((*out)->type != JSON_IS_ARRAY)
        return chat_request_fail(r, "%s must be a list, found %s", key, json_type_name(*out));
    for (const struct json_value *v = (*out)->first; v != NULL; v = v->next, i++)
        if (v->type != JSON_IS_OBJECT)
            return chat_request_fail(r, "%s[%zu] must be an object, found %s", key, i,
                json_type_name(v));
    return STATUS_OK;
}

static enum status get_continued(struct chat_request *r, const struct json_value *request)
{
    const struct json_value *v = field(r, request, "continue_final_message");

    if (v == NULL || (v->type == JSON_IS_BOOL && !v->truth))
        return STATUS_OK;
    if (v->type != JSON_IS_BOOL && v->type != JSON_IS_STRING)
        return chat_request_fail(r,
            "continue_final_message must be true, false or a message's key, found %s",
            json_type_name(v));
    if (v->type == JSON_IS_STRING && v->bytes == 0)
        return STATUS_OK;
    r->continued = v->type == JSON_IS_STRING ? v->text : "content";
    return STATUS_OK;
}

static const struct jinja_program *named(const struct chat_template *t, const char *name)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->list[i].name, name) == 0)
            return t->list[i].program;
    return NULL;
}

static enum status choose_program(struct chat_request *r, bool tools)
{
    char names[512] = "";

    r->program = tools ? named(r->t, "tool_use") : NULL;
    if (r->program == NULL)
        r->program = named(r->t, "default");
    if (r->program != NULL)
        return STATUS_OK;
    for (size_t i = 0; i < r->t->count && strlen(names) < 400; i++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%.64s",
            i > 0 ? ", " : "", r->t->list[i].name);
    return chat_request_fail(r, "the model has chat templates by name (%s), but none is called "
        "default", names);
}

static enum status put_variable(struct chat_request *r, struct json_value *context,
    const char *key, const struct json_value *v)
{
    static const struct json_value nothing = { .type = JSON_IS_NULL };
    struct json_value *copy = chat_value(&r->arena, v != NULL ? v : &nothing, key);

    if (copy == NULL)
        return STATUS_NOMEM;
    chat_put(context, copy);
    return STATUS_OK;
}

static enum status put_all(struct chat_request *r, struct json_value *context,
    const struct json_value *object)
{
    enum status s = STATUS_OK;

    for (const struct json_value *v = object->first; v != NULL && s == STATUS_OK; v = v->next)
        s = put_variable(r, context, v->key, v);
    return s;
}

/* Special tokens, then the caller's variables over them, then those of a chat. */
static enum status build(struct chat_request *r, const struct json_value *request,
    struct json_value *context)
{
    static const struct json_value no = { .type = JSON_IS_BOOL };
    const struct json_value *tools, *documents, *thinking, *prompt;
    struct json_value *messages;
    enum status s = get_objects(r, request, "tools", &tools);

    if (s == STATUS_OK)
        s = get_objects(r, request, "documents", &documents);
    if (s == STATUS_OK)
        s = get_bool(r, request, "enable_thinking", &thinking);
    if (s == STATUS_OK)
        s = get_bool(r, request, "add_generation_prompt", &prompt);
    if (s == STATUS_OK)
        s = get_continued(r, request);
    if (s == STATUS_OK && r->continued != NULL && prompt != NULL && prompt->truth)
        s = chat_request_fail(r, "continue_final_message and add_generation_prompt exclude each "
            "other: the answer either goes on or begins");
    if (s == STATUS_OK)
        s = choose_program(r, tools != NULL);
    if (s == STATUS_OK)
        s = chat_messages(r, &messages);
    if (s == STATUS_OK)
        s = put_all(r, context, &r->t->tokens);
    if (s == STATUS_OK && r->kwargs != NULL)
        s = put_all(r, context, r->kwargs);
    if (s == STATUS_OK && thinking != NULL)
        s = put_variable(r, context, "enable_thinking", thinking);
    if (s == STATUS_OK)
        s = put_variable(r, context, "tools", tools);
    if (s == STATUS_OK)
        s = put_variable(r, context, "documents", documents);
    if (s == STATUS_OK)
        s = put_variable(r, context, "add_generation_prompt", prompt != NULL ? prompt : &no);
    if (s == STATUS_OK)
        chat_put(context, messages);
    return s;
}

static enum status render(struct chat_request *r, const struct json_value *request, char **text,
    size_t *bytes)
{
    struct json_value context = { .type = JSON_IS_OBJECT };
    char *rendered = NULL;
    enum status s = check_keys(r, request);

    if (s == STATUS_OK)
        s = check_kwargs(r, request);
    if (s == STATUS_OK)
        s = check_messages(r, request);
    if (s == STATUS_OK)
        s = build(r, request, &context);
    if (s == STATUS_OK)
        s = jinja_render(r->program, r->origin, &context, NULL, &rendered, bytes);
    if (s == STATUS_OK && r->continued != NULL)
        s = chat_cut_open(r, rendered, bytes);
    if (s == STATUS_OK)
        *text = rendered;
    else
        free(rendered);
    return s;
}

enum status template_render_from(const struct chat_template *t, const char *origin,
    const struct json_value *request, char **text, size_t *bytes)
{
    struct chat_request r = { .t = t, .origin = origin };
    size_t count;
    enum status s;

    if (request == NULL || request->type != JSON_IS_OBJECT)
        return chat_request_fail(&r, "expected an object with messages, found %s",
            json_type_name(request));
    s = render(&r, request, text, &count);
    text_arena_free(&r.arena);
    if (s == STATUS_OK)
        *bytes = count;
    return s;
}

enum status template_render(const struct chat_template *t, const struct json_value *request,
    char **text, size_t *bytes)
{
    return template_render_from(t, "chat request", request, text, bytes);
}
