/* options.c - getopt_long() driven by a table. */
#include "base/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum { MAX_ROWS = 48, HELP_ROW = MAX_ROWS, FIRST_CODE = 256, MAX_NAME = 63 };

static enum status wrong(const struct option_row *row, const char *text, const char *wants)
{
    return log_fail(STATUS_INVALID, "--%s %s: it wants %s", row->name, text, wants);
}

static enum status parse_int(const struct option_row *row, const char *text, void *value)
{
    char *end, wants[64];
    long n;

    errno = 0;
    n = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || (double)n < row->low ||
        (double)n > row->high) {
        snprintf(wants, sizeof(wants), "a whole number from %.0f to %.0f", row->low, row->high);
        return wrong(row, text, wants);
    }
    *(int *)value = (int)n;
    return STATUS_OK;
}

static enum status parse_real(const struct option_row *row, const char *text, void *value)
{
    char *end, wants[64];
    double x;

    errno = 0;
    x = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || !(x >= row->low && x <= row->high)) {
        snprintf(wants, sizeof(wants), "a number from %g to %g", row->low, row->high);
        return wrong(row, text, wants);
    }
    *(float *)value = (float)x;
    return STATUS_OK;
}

static enum status parse_seed(const struct option_row *row, const char *text, void *value)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 0);
    if (errno != 0 || end == text || *end != '\0' || strchr(text, '-') != NULL)
        return wrong(row, text, "a whole number from 0 to 18446744073709551615");
    *(uint64_t *)value = n;
    return STATUS_OK;
}

static enum status parse_bytes(const struct option_row *row, const char *text, void *value)
{
    static const char units[] = "KMGT";
    char *end;
    double x = strtod(text, &end), unit = 1;
    const char *u;

    if (*end != '\0' && (u = strchr(units, *end)) != NULL) {
        for (int i = 0; i <= u - units; i++)
            unit *= 1024;
        end++;
    }
    if (end == text || *end != '\0' || !(x * unit >= 1 && x * unit < 1e18))
        return wrong(row, text, "bytes, such as 800M or 16G");
    *(uint64_t *)value = (uint64_t)(x * unit);
    return STATUS_OK;
}

static enum status parse_choice(const struct option_row *row, const char *text, void *value)
{
    size_t n = strlen(text);
    char wants[128];

    /* A '|' in the text would match two words at once. */
    for (const char *word = row->argument; n > 0 && strchr(text, '|') == NULL && word != NULL;
         word = strchr(word, '|')) {
        word += *word == '|';
        if (strncmp(word, text, n) == 0 && (word[n] == '|' || word[n] == '\0')) {
            *(const char **)value = text;
            return STATUS_OK;
        }
    }
    snprintf(wants, sizeof(wants), "one of %s", row->argument);
    return wrong(row, text, wants);
}

static enum status set_value(const struct option_row *row, const char *text, void *values)
{
    void *value = (char *)values + row->offset;

    if (row->given != 0)
        *(bool *)((char *)values + row->given) = true;
    switch (row->kind) {
    case OPTION_FLAG: *(bool *)value = true; return STATUS_OK;
    case OPTION_TEXT: *(const char **)value = text; return STATUS_OK;
    case OPTION_CHOICE: return parse_choice(row, text, value);
    case OPTION_INT: return parse_int(row, text, value);
    case OPTION_REAL: return parse_real(row, text, value);
    case OPTION_SEED: return parse_seed(row, text, value);
    case OPTION_BYTES: return parse_bytes(row, text, value);
    }
    return STATUS_INTERNAL;
}

/* Changes of a letter (put in, left out, another) from one word to the other. */
static size_t distance(const char *a, const char *b)
{
    size_t row[MAX_NAME + 1], n = strlen(b);

    if (n > MAX_NAME || strlen(a) > MAX_NAME)
        return MAX_NAME;
    for (size_t i = 0; i <= n; i++)
        row[i] = i;
    for (; *a != '\0'; a++) {
        size_t corner = row[0]++;

        for (size_t i = 1; i <= n; i++) {
            size_t other = corner + (*a != b[i - 1]), near = row[i] < row[i - 1] ? row[i] : row[i - 1];

            corner = row[i];
            row[i] = other < near + 1 ? other : near + 1;
        }
    }
    return row[n];
}

/* The name that was meant, if one is near enough to be; or NULL. */
static const char *nearest(const struct option_row *rows, const char *name)
{
    const char *best = NULL;
    size_t least = strlen(name) / 3 + 2;

    for (; rows->name != NULL; rows++) {
        size_t d = distance(name, rows->name);

        if (d < least) {
            least = d;
            best = rows->name;
        }
    }
    return best;
}

/* "unknown option --WORD", and which one may have been meant; the caller says where to look. */
static enum status unknown(enum status s, const struct option_row *rows, const char *word,
    const char *look)
{
    char name[MAX_NAME + 1];
    const char *meant;

    word += strncmp(word, "--", 2) == 0 ? 2 : 0;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
    meant = nearest(rows, name);
    if (meant == NULL)
        return log_fail(s, "unknown option --%s%s", name, look);
    return log_fail(s, "unknown option --%s, perhaps --%s%s", name, meant, look);
}

enum status options_set(const struct option_row *rows, const char *name, const char *text,
    void *values)
{
    for (const struct option_row *row = rows; row->name != NULL; row++)
        if (strcmp(row->name, name) == 0)
            return set_value(row, text, values);
    return unknown(STATUS_UNKNOWN, rows, name, "");
}

const char *options_value(const struct option_row *row, const void *values, char *text, size_t room)
{
    const void *value = (const char *)values + row->offset;
    uint64_t whole = 0;

    switch (row->kind) {
    case OPTION_FLAG: return *(const bool *)value ? "" : NULL;
    case OPTION_TEXT:
    case OPTION_CHOICE: return *(const char *const *)value;
    case OPTION_REAL:
        snprintf(text, room, "%.9g", (double)*(const float *)value);
        return *(const float *)value != 0 ? text : NULL;
    case OPTION_INT:
        snprintf(text, room, "%d", *(const int *)value);
        return *(const int *)value != 0 ? text : NULL;
    case OPTION_SEED:
    case OPTION_BYTES: whole = *(const uint64_t *)value; break;
    }
    snprintf(text, room, "%llu", (unsigned long long)whole);
    return whole != 0 ? text : NULL;
}

/* The rows in getopt's two forms. */
static void to_getopt(const struct option_row *rows, char *letters, struct option *longs)
{
    int n = 0;

    *letters++ = ':'; /* a missing argument is told apart from an unknown option */
    for (; rows[n].name != NULL; n++) {
        bool argument = rows[n].kind != OPTION_FLAG;

        longs[n] = (struct option){rows[n].name, argument, NULL, FIRST_CODE + n};
        if (rows[n].letter == 0)
            continue;
        *letters++ = rows[n].letter;
        if (argument)
            *letters++ = ':';
    }
    *letters++ = 'h';
    *letters = '\0';
    longs[n++] = (struct option){"help", 0, NULL, FIRST_CODE + HELP_ROW};
    longs[n] = (struct option){0};
}

static const struct option_row *row_of(const struct option_row *rows, int code)
{
    if (code >= FIRST_CODE)
        return &rows[code - FIRST_CODE];
    while (rows->letter != code)
        rows++;
    return rows;
}

enum status options_parse(const struct option_row *rows, int argc, char **argv, void *values,
    int *first)
{
    char letters[2 * MAX_ROWS + 4];
    struct option longs[MAX_ROWS + 2];
    int code;

    to_getopt(rows, letters, longs);
    opterr = 0;
    optind = 0; /* GNU: start afresh */
    while ((code = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        enum status s;

        if (code == 'h' || code == FIRST_CODE + HELP_ROW)
            return STATUS_CLOSED;
        if (code == ':')
            return log_fail(STATUS_INVALID, "%s needs a value: see quern %s --help",
                argv[optind - 1], argv[0]);
        if (code == '?' && optopt > 0 && optopt < FIRST_CODE) /* a letter, perhaps amid others */
            return log_fail(STATUS_INVALID, "unknown option -%c: see quern %s --help", optopt,
                argv[0]);
        if (code == '?') {
            char look[96];

            snprintf(look, sizeof(look), ": see quern %s --help", argv[0]);
            return unknown(STATUS_INVALID, rows, argv[optind - 1], look);
        }
        s = set_value(row_of(rows, code), optarg, values);
        if (s != STATUS_OK)
            return s;
    }
    *first = optind;
    return STATUS_OK;
}

void options_print(const struct option_row *rows)
{
    for (; rows->name != NULL; rows++) {
        char left[64];
        int n = snprintf(left, sizeof(left), "--%s", rows->name);

        if (rows->letter != 0)
            n = snprintf(left, sizeof(left), "-%c, --%s", rows->letter, rows->name);
        if (rows->argument != NULL)
            snprintf(left + n, sizeof(left) - (size_t)n, " %s", rows->argument);
        printf("  %-32s %s\n", left, rows->help);
    }
    printf("  %-32s %s\n", "-h, --help", "print this and end");
}

enum status options_ids(const char *text, int32_t **ids, size_t *count)
{
    size_t n = 0, room = strlen(text) / 2 + 1;
    int32_t *list = malloc(room * sizeof(*list));

    if (list == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %zu ids", room);
    for (const char *at = text; *at != '\0';) {
        char *end;
        long id;

        errno = 0;
        id = strtol(at, &end, 10);
        while (*end == ' ')
            end++;
        if (errno != 0 || end == at || (*end != ',' && *end != '\0') || id < 0 || id > INT32_MAX ||
            (*end == ',' && end[1] == '\0')) {
            free(list);
            return log_fail(STATUS_INVALID, "--ids %s: it wants token ids, such as 1,2,3", text);
        }
        list[n++] = (int32_t)id;
        at = *end == ',' ? end + 1 : end;
    }
    *ids = list;
    *count = n;
    return STATUS_OK;
}
