/* template_internal.h - what the file that finds templates (template.c) and those that
 * render them (template_request.c, template_messages.c) share. */
#ifndef QUERN_TEXT_TEMPLATE_INTERNAL_H
#define QUERN_TEXT_TEMPLATE_INTERNAL_H

#include "text/jinja.h"
#include "text/template.h"

struct named_template {
    const char *name; /* in the template's arena */
    struct jinja_program *program;
};

struct chat_template {
    struct named_template *list; /* [count] */
    size_t count;
    struct json_value tokens; /* an object: bos_token, eos_token, ... as strings */
    struct text_arena arena;
};

/* A request on its way to the template. What it makes lies in the arena; values of
 * the request are shared, and copied where they change. */
struct chat_request {
    const struct chat_template *t;
    const struct jinja_program *program;
    const char *origin;
    struct text_arena arena;
    const struct json_value *messages, *kwargs;
    const char *continued; /* the key of the last message that stays open, or NULL */
    const char *open_text; /* what it held, 0-terminated */
};

/* "ORIGIN: ..."; STATUS_INVALID. */
enum status chat_request_fail(const struct chat_request *r, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A node of its own: v's value under another key. NULL: out of memory, logged. */
struct json_value *chat_value(struct text_arena *a, const struct json_value *v, const char *key);

/* Puts it into the object, in the place of one with the same key. */
void chat_put(struct json_value *object, struct json_value *child);

/* Behind the messages, and how the last one is continued. */
enum { CONTINUE_TAG_BYTES = 26 };
#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG"

/* template_messages.c: the messages as the template gets them. */
enum status chat_messages(struct chat_request *r, struct json_value **out);

/* Cuts the rendered text where the continued message ends. */
enum status chat_cut_open(const struct chat_request *r, char *text, size_t *bytes);

#endif
