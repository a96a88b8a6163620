/* text_table.c - all lines first, so that the widths are known. */
#include "tools/text_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

struct printed_line {
    char *words[TABLE_COLUMNS];
    int n;
    bool whole; /* one word, of any length */
};

void table_begin(struct table *t)
{
    if (t->n == t->room) {
        size_t room = t->room == 0 ? 64 : 2 * t->room;
        struct printed_line *lines = realloc(t->lines, room * sizeof(*lines));

        if (lines == NULL) {
            t->failed = true;
            return;
        }
        t->lines = lines;
        t->room = room;
    }
    t->lines[t->n++] = (struct printed_line){0};
}

static void add_word(struct table *t, const char *format, va_list args)
{
    struct printed_line *line;
    char word[TABLE_WORD];

    if (t->failed || t->n == 0 || t->lines[t->n - 1].n == TABLE_COLUMNS)
        return;
    line = &t->lines[t->n - 1];
    vsnprintf(word, sizeof(word), format, args);
    line->words[line->n] = strdup(word);
    if (line->words[line->n] == NULL)
        t->failed = true;
    else
        line->n++;
}

void table_word(struct table *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    add_word(t, format, args);
    va_end(args);
}

void table_line(struct table *t, const char *format, ...)
{
    va_list args;

    table_begin(t);
    va_start(args, format);
    add_word(t, format, args);
    va_end(args);
    if (!t->failed)
        t->lines[t->n - 1].whole = true;
}

static void find_widths(const struct table *t, int widths[TABLE_COLUMNS])
{
    for (size_t i = 0; i < t->n; i++)
        for (int k = 0; !t->lines[i].whole && k < t->lines[i].n; k++) {
            int n = (int)strlen(t->lines[i].words[k]);

            if (n > widths[k])
                widths[k] = n;
        }
}

static int last_word(const struct printed_line *line)
{
    int last = line->n - 1;

    while (last > 0 && line->words[last][0] == '\0')
        last--;
    return last;
}

enum status table_print(const struct table *t)
{
    int widths[TABLE_COLUMNS] = {0};

    if (t->failed)
        return log_fail(STATUS_NOMEM, "no memory for a table");
    find_widths(t, widths);
    for (size_t i = 0; i < t->n; i++) {
        const struct printed_line *line = &t->lines[i];
        int last = last_word(line);

        for (int k = 0; k <= last; k++)
            if (k == last)
                fputs(line->words[k], stdout);
            else
                printf("%-*s  ", widths[k], line->words[k]);
        putchar('\n');
    }
    return STATUS_OK;
}

void table_free(struct table *t)
{
    for (size_t i = 0; i < t->n; i++)
        for (int k = 0; k < t->lines[i].n; k++)
            free(t->lines[i].words[k]);
    free(t->lines);
    *t = (struct table){0};
}

const char *bytes_text(unsigned long long bytes, char text[16])
{
    static const char *const units[] = {"KB", "MB", "GB", "TB", "PB"};
    double x = (double)bytes / 1e3;
    int unit = 0;

    if (bytes < 1000) {
        snprintf(text, 16, "%llu B", bytes);
        return text;
    }
    while (x >= 999.95 && unit < 4) {
        x /= 1e3;
        unit++;
    }
    snprintf(text, 16, "%.1f %s", x, units[unit]);
    return text;
}
