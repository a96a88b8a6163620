/* options.h - a command line as a table: one row an option, which is also its help.
 *
 * Values land in the caller's struct at the row's offset. A wrong one gets one
 * line that names the option, the value and what is allowed; an unknown option
 * the nearest that there is. */
#ifndef QUERN_BASE_OPTIONS_H
#define QUERN_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum option_kind {
    OPTION_FLAG,   /* bool: true when given */
    OPTION_TEXT,   /* const char *, borrowed from argv */
    OPTION_CHOICE, /* const char *: one of the words in `argument`, "a|b|c" */
    OPTION_INT,    /* int in [low, high] */
    OPTION_REAL,   /* float in [low, high] */
    OPTION_SEED,   /* uint64_t, all of them; *given says whether */
    OPTION_BYTES,  /* uint64_t: 512M, 8G, 1.5G (powers of 1024) or plain bytes */
    OPTION_TEXTS,  /* struct option_texts: one more, each borrowed from argv */
};

enum { OPTION_TEXTS_MOST = 64 };
struct option_texts {
    const char *texts[OPTION_TEXTS_MOST];
    int n;
};

struct option_row {
    const char *name;     /* without "--"; NULL ends the table */
    char letter;          /* 0: none */
    enum option_kind kind;
    size_t offset;        /* of the value in the struct */
    const char *argument; /* as help shows it; NULL for a flag */
    const char *help;     /* NULL: not for people, and not printed */
    double low, high;
    size_t given;         /* offset of a bool set when the option is given; 0: none wanted */
};

/* Parses argv[1 ..]; "--" ends the options. Words that are no options are moved behind them,
 * and *first is the index of the first. CLOSED when --help was given: the caller prints it.
 * INVALID (logged). */
enum status options_parse(const struct option_row *rows, int argc, char **argv, void *values,
    int *first);

/* Sets one by its long name, without "--", as options_parse() would. UNKNOWN (logged): no row has
 * it; INVALID (logged). */
enum status options_set(const struct option_row *rows, const char *name, const char *text,
    void *values);

/* The row's value as one would type it, at most `room` bytes with NUL; NULL when it is 0, NULL or
 * false, which is how values that were not given look. */
const char *options_value(const struct option_row *row, const void *values, char *text,
    size_t room);

/* The rows as help shows them, to standard output, in 80 columns. */
void options_print(const struct option_row *rows);

/* "1,2,3" -> *ids (malloc'ed), *count; blanks are allowed. INVALID (logged). */
enum status options_ids(const char *text, int32_t **ids, size_t *count);

#endif
