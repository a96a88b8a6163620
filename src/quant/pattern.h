/* pattern.h - names of modules, as lists in quantised checkpoints write them.
 *
 * "re:REGEX" is matched as Python's re.match does: from the beginning, not
 * necessarily to the end. What only Python's syntax has is refused.
 * Other texts mean what their list says.
 * Ownership: a pattern owns its text and program; pattern_free(). */
#ifndef QUERN_QUANT_PATTERN_H
#define QUERN_QUANT_PATTERN_H

#include <stdbool.h>

#include "quern/status.h"

enum pattern_kind {
    PATTERN_NAME,  /* the whole name, or the class ("Linear"): compressed-tensors */
    PATTERN_PART,  /* whole components of the name: "lm_head", "mlp.gate": the other lists */
    PATTERN_REGEX, /* GPTQ's dynamic: without "re:" */
};

struct pattern;

/* INVALID (logged): not a regular expression; `origin` names the list in the message. */
enum status pattern_open(const char *origin, const char *text, enum pattern_kind kind,
    struct pattern **out);
void pattern_free(struct pattern *p);

bool pattern_is_regex(const struct pattern *p);
const char *pattern_text(const struct pattern *p); /* without "re:" */

/* Does it match the name, or the class that Transformers gives such a module: Embedding for the
 * embedding, Linear for the rest? */
bool pattern_matches_name(const struct pattern *p, const char *module);
bool pattern_matches_class(const struct pattern *p, const char *module);

#endif
