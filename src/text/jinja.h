/* jinja.h - the Jinja that chat templates are written in, compiled and run.
 *
 * What jinja2 3.1 renders in the environment that Transformers gives chat
 * templates (sandboxed, trim_blocks, lstrip_blocks, loop controls, its own
 * tojson, no autoescape), this renders byte for byte. What is not done, such as
 * including other templates, is an error that names the line, never another text.
 *
 * Ownership: a program owns all it needs; the template's text and the context may
 *            go away. Rendering does not change it, so threads may share one.
 * Bounds:    a template is at most JINJA_TEMPLATE_MAX bytes; a rendering ends with
 *            an error past its limits, whatever the template does.
 * Errors:    STATUS_INVALID, logged as "NAME: line N: what is wrong"; STATUS_NOMEM.
 * Blocking:  never. */
#ifndef QUERN_TEXT_JINJA_H
#define QUERN_TEXT_JINJA_H

#include "text/json_value.h"

enum { JINJA_TEMPLATE_MAX = 1 << 20 };

struct jinja_program;

struct jinja_limits {
    uint64_t steps;       /* operations; long strings and lists count for several */
    size_t output_bytes;  /* of the rendered text, and of any string on the way */
    size_t memory_bytes;  /* of all values that the rendering makes */
};

/* Enough for every prompt that fits a context; a rendering that uses all of it
 * takes a few seconds. */
extern const struct jinja_limits jinja_default_limits;

/* `name` is what errors call the template; text[0, bytes) must be UTF-8. */
enum status jinja_compile(const char *name, const char *text, size_t bytes,
    struct jinja_program **out);
void jinja_free(struct jinja_program *p);

/* The program's text, 0-terminated, as it was compiled. */
const char *jinja_source(const struct jinja_program *p);

/* Some loop of the program runs over messages' content, so it can be a list of
 * parts; else the template takes it for a string. */
bool jinja_loops_over_content(const struct jinja_program *p);

/* Renders with the variables of `context`, a JSON object whose text must stay until
 * then. *text is malloc'ed, the caller's, and 0-terminated besides. `limits` NULL
 * means the default ones; errors begin with `origin` unless it is NULL. */
enum status jinja_render(const struct jinja_program *p, const char *origin,
    const struct json_value *context, const struct jinja_limits *limits, char **text,
    size_t *bytes);

#endif
