/* options.c - getopt_long() driven by a table. */
#include "base/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/nearest.h"
#include "quern/log.h"

enum { MAX_ROWS = 64, HELP_ROW = MAX_ROWS, FIRST_CODE = 256 };
enum { HELP_COLUMN = 28, HELP_WIDTH = 80 };

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

static enum status add_text(const struct option_row *row, const char *text, void *value)
{
    struct option_texts *t = value;

    if (t->n == OPTION_TEXTS_MOST)
        return log_fail(STATUS_INVALID, "--%s is given more than %d times", row->name,
            OPTION_TEXTS_MOST);
    t->texts[t->n++] = text;
    return STATUS_OK;
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
    case OPTION_TEXTS: return add_text(row, text, value);
    }
    return STATUS_INTERNAL;
}

/* The likeliest of the options that a person is told of; NULL: none is near. */
static const char *nearest_option(const struct option_row *rows, const char *word, size_t length)
{
    struct nearest n = NEAREST_TO(word, length);

    for (; rows->name != NULL; rows++)
        if (rows->help != NULL)
            nearest_offer(&n, rows->name);
    nearest_offer(&n, "help");
    return n.name;
}

enum status options_set(const struct option_row *rows, const char *name, const char *text,
    void *values)
{
    const char *meant;

    for (const struct option_row *row = rows; row->name != NULL; row++)
        if (strcmp(row->name, name) == 0)
            return set_value(row, text, values);
    meant = nearest_option(rows, name, strlen(name));
    if (meant == NULL)
        return log_fail(STATUS_UNKNOWN, "unknown option --%s", name);
    return log_fail(STATUS_UNKNOWN, "unknown option --%s: did you mean --%s?", name, meant);
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
    case OPTION_TEXTS: return NULL; /* not one value */
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

static enum status unknown_option(const struct option_row *rows, const char *word,
    const char *command)
{
    const char *meant = nearest_option(rows, word + 2, strcspn(word + 2, "="));

    if (meant != NULL)
        return log_fail(STATUS_INVALID, "unknown option %s: did you mean --%s? See quern %s --help",
            word, meant, command);
    return log_fail(STATUS_INVALID, "unknown option %s: see quern %s --help", word, command);
}

/* What getopt_long() stopped at; `word` is the one it has just read. */
static enum status refuse(const struct option_row *rows, int code, const char *word,
    const char *command)
{
    if (code == ':')
        return log_fail(STATUS_INVALID, "%s needs a value: see quern %s --help", word, command);
    if (optopt >= FIRST_CODE)
        return log_fail(STATUS_INVALID, "%.*s takes no value: see quern %s --help",
            (int)strcspn(word, "="), word, command);
    if (optopt > 0) /* a letter, perhaps amid others */
        return log_fail(STATUS_INVALID, "unknown option -%c: see quern %s --help", optopt, command);
    return unknown_option(rows, word, command);
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
        if (code == ':' || code == '?')
            return refuse(rows, code, argv[optind - 1], argv[0]);
        s = set_value(row_of(rows, code), optarg, values);
        if (s != STATUS_OK)
            return s;
    }
    *first = optind;
    return STATUS_OK;
}

/* From HELP_COLUMN on, broken at blanks. */
static void print_text(const char *text)
{
    int at = HELP_COLUMN;

    while (*text != '\0') {
        int n = (int)strcspn(text, " ");

        if (at > HELP_COLUMN && at + 1 + n > HELP_WIDTH)
            at = printf("\n%*s", HELP_COLUMN, "") - 1;
        else if (at > HELP_COLUMN)
            at += printf(" ");
        at += printf("%.*s", n, text);
        text += n + (text[n] == ' ');
    }
    putchar('\n');
}

static void print_row(char letter, const char *name, const char *argument, const char *text)
{
    int at = printf("  ");

    if (letter != 0)
        at += printf("-%c, ", letter);
    at += printf("--%s%s%s", name, argument != NULL ? " " : "", argument != NULL ? argument : "");
    if (at > HELP_COLUMN - 2) {
        putchar('\n');
        at = 0;
    }
    printf("%*s", HELP_COLUMN - at, "");
    print_text(text);
}

void options_print(const struct option_row *rows)
{
    for (; rows->name != NULL; rows++)
        if (rows->help != NULL)
            print_row(rows->letter, rows->name, rows->argument, rows->help);
    print_row('h', "help", NULL, "print this and end");
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
