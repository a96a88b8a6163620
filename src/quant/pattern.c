/* pattern.c - three ways to name a module, one of them through PCRE2.
 *
 * Patterns are matched a few times per module while a model loads, so nothing
 * is kept from one match to the next. */
#include "quant/pattern.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "quern/log.h"

struct pattern {
    enum pattern_kind kind;
    char *text;
    pcre2_code *code; /* PATTERN_REGEX */
};

/* Does it have {,n}: to Python 0 to n times, to PCRE2 before 10.43 these very characters? */
static bool has_open_count(const char *text)
{
    for (const char *at = strstr(text, "{,"); at != NULL; at = strstr(at + 1, "{,")) {
        size_t digits = strspn(at + 2, "0123456789");

        if (digits > 0 && at[2 + digits] == '}')
            return true;
    }
    return false;
}

static enum status compile(const char *origin, struct pattern *p)
{
    PCRE2_SIZE offset;
    PCRE2_UCHAR reason[128];
    int error;

    if (has_open_count(p->text))
        return log_fail(STATUS_INVALID, "%s: \"%s\": {,n} is not read: write {0,n}", origin,
            p->text);
    p->code = pcre2_compile((PCRE2_SPTR)p->text, PCRE2_ZERO_TERMINATED,
        PCRE2_ANCHORED | PCRE2_UTF, &error, &offset, NULL);
    if (p->code != NULL)
        return STATUS_OK;
    pcre2_get_error_message(error, reason, sizeof(reason));
    return log_fail(STATUS_INVALID, "%s: \"%.200s\" is not a regular expression: %s", origin,
        p->text, (const char *)reason);
}

enum status pattern_open(const char *origin, const char *text, enum pattern_kind kind,
    struct pattern **out)
{
    bool regex = kind == PATTERN_REGEX || strncmp(text, "re:", 3) == 0;
    struct pattern *p = calloc(1, sizeof(*p));
    enum status s = STATUS_OK;

    if (p == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory", origin);
    p->kind = regex ? PATTERN_REGEX : kind;
    p->text = strdup(kind != PATTERN_REGEX && regex ? text + 3 : text);
    if (p->text == NULL)
        s = log_fail(STATUS_NOMEM, "%s: no memory", origin);
    else if (regex)
        s = compile(origin, p);
    if (s != STATUS_OK) {
        pattern_free(p);
        return s;
    }
    *out = p;
    return STATUS_OK;
}

void pattern_free(struct pattern *p)
{
    if (p == NULL)
        return;
    pcre2_code_free(p->code);
    free(p->text);
    free(p);
}

bool pattern_is_regex(const struct pattern *p)
{
    return p->kind == PATTERN_REGEX;
}

const char *pattern_text(const struct pattern *p)
{
    return p->text;
}

static bool regex_matches(const struct pattern *p, const char *module)
{
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    int found = -1;

    if (match != NULL)
        found = pcre2_match(p->code, (PCRE2_SPTR)module, strlen(module), 0, 0, match, NULL);
    pcre2_match_data_free(match);
    return found >= 0;
}

/* Does `part` stand in `module` between dots or ends? */
static bool has_part(const char *module, const char *part)
{
    size_t n = strlen(part);

    if (n == 0)
        return false;
    for (const char *at = strstr(module, part); at != NULL; at = strstr(at + 1, part))
        if ((at == module || at[-1] == '.') && (at[n] == '\0' || at[n] == '.'))
            return true;
    return false;
}

bool pattern_matches_name(const struct pattern *p, const char *module)
{
    switch (p->kind) {
    case PATTERN_NAME: return strcmp(p->text, module) == 0;
    case PATTERN_PART: return has_part(module, p->text);
    case PATTERN_REGEX: return regex_matches(p, module);
    }
    return false;
}

bool pattern_matches_class(const struct pattern *p, const char *module)
{
    size_t n = strlen(module), tail = sizeof("embed_tokens") - 1;
    bool embedding = n >= tail && strcmp(module + n - tail, "embed_tokens") == 0;

    return p->kind == PATTERN_NAME && strcmp(p->text, embedding ? "Embedding" : "Linear") == 0;
}
