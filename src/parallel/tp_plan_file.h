/* tp_plan_file.h - the rules of a plan, and reading them from a file; behind tp_plan.h. */
#ifndef QUERN_PARALLEL_TP_PLAN_FILE_H
#define QUERN_PARALLEL_TP_PLAN_FILE_H

#include "parallel/strategy.h"
#include "parallel/tp_plan_match.h"

struct plan_rule {
    char *pattern;      /* as written, for messages */
    char *module;       /* the same without ".weight" */
    bool parameter;     /* it ended in ".weight" */
    struct specificity specificity;
    const struct strategy *strategy;
    int line;           /* in the file, from 1; 0: not from a file */
};

struct tp_plan {
    char name[256]; /* the file's, without its folders, or "auto" */
    struct plan_rule *rules;
    int n_rules, room;
};

/* Appends a rule, copying the pattern. `where` begins messages. */
enum status plan_add_rule(struct tp_plan *plan, const char *where, int line, const char *pattern,
    const char *strategy);

/* Appends the rules of a JSON file. Errors as tp_plan_open(). */
enum status plan_read_file(struct tp_plan *plan, const char *path);

#endif
