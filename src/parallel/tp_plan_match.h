/* tp_plan_match.h - patterns of a plan, behind tp_plan.h. Pure functions. */
#ifndef QUERN_PARALLEL_TP_PLAN_MATCH_H
#define QUERN_PARALLEL_TP_PLAN_MATCH_H

#include <stdbool.h>
#include <stddef.h>

/* The name without "model." in front. */
const char *plan_bare_name(const char *name);

/* Does the pattern match the whole name? Both with or without "model.". */
bool plan_pattern_matches(const char *pattern, const char *name);

/* How specific a pattern is: parts without '*', then its length. */
struct specificity {
    int literal_parts;
    size_t length;
};
struct specificity plan_specificity(const char *pattern);

/* "model.layers.3.mlp.up_proj" -> "layers.*.mlp.up_proj" in text [room]; returns it. */
char *plan_general_name(const char *name, char *text, size_t room);

#endif
