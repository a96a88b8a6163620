/* nearest.c - the usual table of edit distances, three rows of it at a time.
 *
 * Words are options and commands: what is longer than any of those is near none. */
#include "base/nearest.h"

#include <string.h>

enum { WORD_BYTES = 32 };

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* rows[i][j]: edits from the first i letters of a to the first j of b; rows are used in turn. */
static int count_edits(const char *a, size_t n, const char *b, size_t m)
{
    int rows[3][WORD_BYTES + 1];

    for (size_t j = 0; j <= m; j++)
        rows[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *row = rows[i % 3];
        const int *before = rows[(i + 2) % 3], *two_before = rows[(i + 1) % 3];

        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            row[j] = least(before[j - 1] + (a[i - 1] != b[j - 1]), least(before[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], two_before[j - 2] + 1);
        }
    }
    return rows[n % 3][m];
}

void nearest_offer(struct nearest *n, const char *name)
{
    size_t length = strlen(name);
    int edits;

    if (n->length > WORD_BYTES || length > WORD_BYTES)
        return;
    edits = count_edits(n->word, n->length, name, length);
    if (edits > (int)(n->length + 2) / 3 || (n->name != NULL && edits >= n->edits))
        return;
    n->name = name;
    n->edits = edits;
}
