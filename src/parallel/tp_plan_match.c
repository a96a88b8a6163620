/* tp_plan_match.c - `*` within a part, and how much a pattern pins down. */
#include "parallel/tp_plan_match.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char prefix[] = "model.";

const char *plan_bare_name(const char *name)
{
    return strncmp(name, prefix, sizeof(prefix) - 1) == 0 ? name + sizeof(prefix) - 1 : name;
}

/* The usual two pointers: at a mismatch, the last star takes one more character, but no dot. */
static bool glob(const char *pattern, const char *name)
{
    const char *star = NULL, *resume = NULL;

    while (*name != '\0') {
        if (*pattern == '*') {
            star = pattern++;
            resume = name;
        } else if (*pattern == *name) {
            pattern++;
            name++;
        } else if (star != NULL && *resume != '.') {
            pattern = star + 1;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

bool plan_pattern_matches(const char *pattern, const char *name)
{
    const char *bare = plan_bare_name(name);

    return glob(pattern, name) || (bare != name && glob(pattern, bare));
}

struct specificity plan_specificity(const char *pattern)
{
    const char *part = plan_bare_name(pattern);
    struct specificity s = {.length = strlen(part)};

    while (*part != '\0') {
        size_t n = strcspn(part, ".");

        if (n > 0 && memchr(part, '*', n) == NULL)
            s.literal_parts++;
        part += n + (part[n] == '.');
    }
    return s;
}

static bool is_number(const char *part, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isdigit((unsigned char)part[i]))
            return false;
    return n > 0;
}

char *plan_general_name(const char *name, char *text, size_t room)
{
    const char *part = plan_bare_name(name);
    size_t at = 0;

    text[0] = '\0';
    while (*part != '\0' && at < room) {
        size_t n = strcspn(part, ".");
        bool number = is_number(part, n);

        at += (size_t)snprintf(text + at, room - at, "%.*s%s", number ? 1 : (int)n,
            number ? "*" : part, part[n] == '.' ? "." : "");
        part += n + (part[n] == '.');
    }
    return text;
}
