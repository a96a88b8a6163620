/* text_table.h - columns that line up, for people.
 *
 * Lines are added, as words or whole, then printed with each column as wide as
 * its widest word. A failed allocation is kept and told by table_print().
 *
 * Ownership: words are copied; table_free() gives everything back. */
#ifndef QUERN_TOOLS_TEXT_TABLE_H
#define QUERN_TOOLS_TEXT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "quern/status.h"

enum { TABLE_COLUMNS = 12, TABLE_WORD = 240 };

struct printed_line;

struct table {
    struct printed_line *lines;
    size_t n, room;
    bool failed;
};

/* A word of the line that was begun last; the first word begins one. */
void table_begin(struct table *t);
void table_word(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line of one word that no column is widened for. */
void table_line(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* To standard output, no blanks at line ends. NOMEM (logged) where a line was lost. */
enum status table_print(const struct table *t);
void table_free(struct table *t);

/* "0 B", "640 B", "1.5 KB", "16.4 GB" (powers of 1000) into text[16]; returns it. */
const char *bytes_text(unsigned long long bytes, char text[16]);

#endif
