/* tp_plan_file.c - a plan's file, with a line number for every rule.
 *
 * jansson says on which line a file is no JSON, but not on which line a key
 * stands. So the file is parsed twice: by jansson, which decides whether it is
 * an object of strings, and then, known to be one, by a scan for its strings,
 * which come in turn as key and value; jansson decodes each. */
#include "parallel/tp_plan_file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "quern/log.h"

enum { MOST_BYTES = 1 << 20, WHERE_BYTES = 300 };

enum status plan_add_rule(struct tp_plan *plan, const char *where, int line, const char *pattern,
    const char *strategy)
{
    static const char weight[] = ".weight";
    const struct strategy *found = strategy_find_at(where, strategy);
    size_t n = strlen(pattern), tail = sizeof(weight) - 1;
    struct plan_rule r = {.strategy = found, .line = line};

    if (found == NULL)
        return STATUS_INVALID;
    if (plan->n_rules == plan->room) {
        int room = plan->room == 0 ? 32 : 2 * plan->room;
        struct plan_rule *more = realloc(plan->rules, (size_t)room * sizeof(*more));

        if (more == NULL)
            return log_fail(STATUS_NOMEM, "%sno memory for %d rules", where, room);
        plan->rules = more;
        plan->room = room;
    }
    r.parameter = n > tail && strcmp(pattern + n - tail, weight) == 0;
    r.pattern = strdup(pattern);
    r.module = strndup(pattern, r.parameter ? n - tail : n);
    if (r.pattern == NULL || r.module == NULL) {
        free(r.pattern);
        free(r.module);
        return log_fail(STATUS_NOMEM, "%sno memory for a rule", where);
    }
    r.specificity = plan_specificity(r.module);
    plan->rules[plan->n_rules++] = r;
    return STATUS_OK;
}

/* Reading -------------------------------------------------------------------------------- */

/* Where the scan is; `line` counts from 1. */
struct scan {
    const char *at, *end;
    int line;
};

/* The next string, quotes included; false when something else is next. */
static bool next_string(struct scan *c, const char **token, size_t *n)
{
    while (c->at < c->end && strchr(" \t\r\n,:", *c->at) != NULL)
        if (*c->at++ == '\n')
            c->line++;
    if (c->at == c->end || *c->at != '"')
        return false;
    *token = c->at++;
    while (c->at < c->end && *c->at != '"')
        c->at += *c->at == '\\' && c->at + 1 < c->end ? 2 : 1;
    *n = (size_t)(++c->at - *token);
    return true;
}

/* No blanks, no control characters: names are told to people in one line. */
static bool is_plain(const char *name)
{
    while (*name != '\0' && (unsigned char)*name > ' ' && *name != 0x7f)
        name++;
    return *name == '\0';
}

static enum status check_names(const char *where, const char *pattern, const char *strategy)
{
    size_t n = strlen(pattern);

    if (!is_plain(pattern) || !is_plain(strategy))
        return log_fail(STATUS_INVALID, "%sa blank or a control character is in no name of a "
            "module or a strategy", where);
    if (n == 0 || pattern[0] == '.' || pattern[n - 1] == '.' || strstr(pattern, "..") != NULL)
        return log_fail(STATUS_INVALID, "%spattern \"%s\" is no module's name: its parts are "
            "separated by one dot each", where, pattern);
    if (n > 5 && strcmp(pattern + n - 5, ".bias") == 0)
        return log_fail(STATUS_INVALID, "%spattern %s: a bias goes with its weight; name the "
            "module, %.*s", where, pattern, (int)(n - 5), pattern);
    return STATUS_OK;
}

static enum status add_tokens(struct tp_plan *plan, int line, const char *key, size_t key_bytes,
    const char *value, size_t value_bytes)
{
    json_t *pattern = json_loadb(key, key_bytes, JSON_DECODE_ANY, NULL);
    json_t *strategy = json_loadb(value, value_bytes, JSON_DECODE_ANY, NULL);
    char where[WHERE_BYTES];
    enum status s;

    snprintf(where, sizeof(where), "%s:%d: ", plan->name, line);
    if (!json_is_string(pattern) || !json_is_string(strategy)) {
        s = log_fail(STATUS_NOMEM, "%sno memory for a rule", where);
    } else {
        s = check_names(where, json_string_value(pattern), json_string_value(strategy));
        if (s == STATUS_OK)
            s = plan_add_rule(plan, where, line, json_string_value(pattern),
                json_string_value(strategy));
    }
    json_decref(pattern);
    json_decref(strategy);
    return s;
}

/* The text is known to be a JSON object. */
static enum status scan_rules(struct tp_plan *plan, const char *text, size_t bytes)
{
    struct scan c = {.at = text, .end = text + bytes, .line = 1};
    const char *key, *value;
    size_t key_bytes, value_bytes;
    enum status s = STATUS_OK;

    while (c.at < c.end && *c.at != '{')
        if (*c.at++ == '\n')
            c.line++;
    c.at++;
    while (s == STATUS_OK && next_string(&c, &key, &key_bytes)) {
        int line = c.line;

        if (!next_string(&c, &value, &value_bytes))
            return log_fail(STATUS_INVALID, "%s:%d: %.*s wants the name of a strategy, a string",
                plan->name, line, key_bytes > 200 ? 200 : (int)key_bytes, key);
        s = add_tokens(plan, line, key, key_bytes, value, value_bytes);
    }
    return s;
}

static enum status check_json(const struct tp_plan *plan, const char *text, size_t bytes)
{
    json_error_t error;
    json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    enum status s = STATUS_OK;

    if (object == NULL)
        return log_fail(STATUS_INVALID, "%s:%d: %s", plan->name, error.line, error.text);
    if (!json_is_object(object))
        s = log_fail(STATUS_INVALID, "%s:1: a plan is an object of patterns and strategies, such "
            "as {\"layers.*.mlp.up_proj\": \"colwise\"}", plan->name);
    else if (json_object_size(object) == 0)
        s = log_fail(STATUS_INVALID, "%s:1: the plan is empty: leave --tp-plan out for Qwen3's own",
            plan->name);
    json_decref(object);
    return s;
}

enum status plan_read_file(struct tp_plan *plan, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *text = NULL;
    size_t bytes = 0;
    enum status s = file_read_whole(path, false, MOST_BYTES, &text, &bytes);

    if (s != STATUS_OK)
        return s;
    snprintf(plan->name, sizeof(plan->name), "%s", slash != NULL ? slash + 1 : path);
    s = check_json(plan, text, bytes);
    if (s == STATUS_OK)
        s = scan_rules(plan, text, bytes);
    free(text);
    return s;
}
