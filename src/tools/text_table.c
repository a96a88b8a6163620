/* text_table.c - all rows first, so that the widths are known. */
#include "tools/text_table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

struct table_row {
    char *words[TABLE_COLUMNS];
    int n;
    bool line; /* one word, of any length */
};

void table_begin(struct table *t)
{
    if (t->n == t->room) {
        size_t room = t->room == 0 ? 64 : 2 * t->room;
        struct table_row *rows = realloc(t->rows, room * sizeof(*rows));

        if (rows == NULL) {
            t->failed = true;
            return;
        }
        t->rows = rows;
        t->room = room;
    }
    t->rows[t->n++] = (struct table_row){0};
}

static void add_word(struct table *t, const char *format, va_list args)
{
    struct table_row *row;
    char word[TABLE_WORD];

    if (t->failed || t->n == 0 || t->rows[t->n - 1].n == TABLE_COLUMNS)
        return;
    row = &t->rows[t->n - 1];
    vsnprintf(word, sizeof(word), format, args);
    row->words[row->n] = strdup(word);
    if (row->words[row->n] == NULL)
        t->failed = true;
    else
        row->n++;
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
        t->rows[t->n - 1].line = true;
}

static void find_widths(const struct table *t, int widths[TABLE_COLUMNS])
{
    for (size_t i = 0; i < t->n; i++)
        for (int k = 0; !t->rows[i].line && k < t->rows[i].n; k++) {
            int n = (int)strlen(t->rows[i].words[k]);

            if (n > widths[k])
                widths[k] = n;
        }
}

static int last_word(const struct table_row *row)
{
    int last = row->n - 1;

    while (last > 0 && row->words[last][0] == '\0')
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
        const struct table_row *row = &t->rows[i];
        int last = last_word(row);

        for (int k = 0; k <= last; k++)
            if (k == last)
                fputs(row->words[k], stdout);
            else
                printf("%-*s  ", widths[k], row->words[k]);
        putchar('\n');
    }
    return STATUS_OK;
}

void table_free(struct table *t)
{
    for (size_t i = 0; i < t->n; i++)
        for (int k = 0; k < t->rows[i].n; k++)
            free(t->rows[i].words[k]);
    free(t->rows);
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
