/* template.h - Qwen3's chat templates, in C.
 *
 * A checkpoint's template is a program in Jinja; this runtime knows Qwen3's and
 * runs none. template_select() recognises which one a checkpoint has by the
 * hash of its text or, failing that, by its marks (with a warning); a
 * checkpoint without one gets the hybrid.
 *
 *   row                   recognised by marks as      ends a prompt with
 *   qwen3-hybrid          enable_thinking             an empty think block if enable_thinking
 *                                                     is false
 *   qwen3-nonthinking     an empty think block        an empty think block
 *   qwen3-thinking-2507   "assistant\n<think>\n"      "<think>\n"
 *   qwen3-instruct-2507   none of these               nothing
 *   qwen3-coder           "<function="                nothing; tools are refused: its calls
 *                                                     have a format of their own
 *
 * Ownership: a chosen template is the caller's until template_close(); rendering
 * does not change it, so threads may share one. Rendered text is malloc'ed and
 * the caller's. Blocking: only template_select(), on the disk. */
#ifndef QUERN_TEXT_TEMPLATE_H
#define QUERN_TEXT_TEMPLATE_H

#include "text/json_value.h"

struct chat_template;

/* Reads dir/chat_template.jinja or else the chat_template of
 * dir/tokenizer_config.json. STATUS_INVALID, logged, for a template that is
 * none of Qwen3's. */
enum status template_select(const char *dir, struct chat_template **out);
void template_close(struct chat_template *t);

/* The same for a template's text; `origin` begins messages. */
enum status template_recognise(const char *origin, const char *text, size_t bytes,
    struct chat_template **out);

/* "qwen3-hybrid", ... */
const char *template_name(const struct chat_template *t);

/* Renders request = {messages, tools, enable_thinking, add_generation_prompt};
 * all but messages may be absent or null, other keys mean nothing here. A
 * message's content is a string, null (as empty), or a list of text parts,
 * which are joined. *text is 0-terminated besides. STATUS_INVALID, logged as
 * "ORIGIN: messages[2]: what is wrong". */
enum status template_render_from(const struct chat_template *t, const char *origin,
    const struct json_value *request, char **text, size_t *bytes);

/* The same, with the origin "chat request". */
enum status template_render(const struct chat_template *t, const struct json_value *request,
    char **text, size_t *bytes);

#endif
