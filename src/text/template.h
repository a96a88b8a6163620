/* template.h - a checkpoint's chat template, and the prompts it makes of requests.
 *
 * The template is a program in Jinja (jinja.h); a checkpoint without one gets
 * Qwen3's. Where it lies, the first that is there:
 *   chat_template.jinja, and others by name in additional_chat_templates/NAME.jinja
 *   tokenizer_config.json's chat_template: a string, or templates by name
 *   chat_template.json's chat_template
 * Of several by name, "tool_use" serves requests with tools, "default" all others.
 *
 * A request is what Transformers' apply_chat_template takes, as a JSON object:
 *   messages               a list of objects with a role; any other keys go to the template
 *   tools, documents       lists of objects
 *   enable_thinking        true or false; absent, the template decides
 *   add_generation_prompt  true: the prompt ends where an answer begins; false by default
 *   continue_final_message true: the last message's content stays open; or a string,
 *                          the key that is continued, such as "reasoning_content"
 *   chat_template_kwargs   an object of more variables, and of those above but messages,
 *                          over which it takes precedence
 * All but messages may be null, which is as absent. Unknown keys and wrong types are
 * errors. A message's content is given to the template as it is, but for templates
 * that have no loop over it: these get text parts joined, and "" for null. Other keys
 * of a message that are null are left out, and its reasoning stands under
 * reasoning_content and thinking, whichever of these or "reasoning" it came under.
 *
 * Ownership: a template is the caller's until template_close(); rendering does not
 * change it, so threads may share one. Blocking: only template_select(), on the disk. */
#ifndef QUERN_TEXT_TEMPLATE_H
#define QUERN_TEXT_TEMPLATE_H

#include "text/json_value.h"

struct chat_template;

/* Reads what `dir` has. STATUS_INVALID, logged, for a template with an error. */
enum status template_select(const char *dir, struct chat_template **out);
void template_close(struct chat_template *t);

/* *text is malloc'ed, the caller's, and 0-terminated besides. STATUS_INVALID, logged
 * as "ORIGIN: messages[2]: what is wrong" or "ORIGIN: TEMPLATE: line 7: ...". */
enum status template_render_from(const struct chat_template *t, const char *origin,
    const struct json_value *request, char **text, size_t *bytes);

/* The same, with the origin "chat request". */
enum status template_render(const struct chat_template *t, const struct json_value *request,
    char **text, size_t *bytes);

#endif
