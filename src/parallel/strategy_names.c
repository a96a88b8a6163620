/* strategy_names.c - words for people: kinds of modules, and which names are alike. */
#include <stdio.h>
#include <string.h>

#include "parallel/strategy.h"

static const struct {
    enum module_kind kind;
    const char *one, *many;
} words[] = {
    {KIND_LINEAR, "a linear layer", "linear layers"},
    {KIND_EMBEDDING, "an embedding", "embeddings"},
    {KIND_NORM, "a norm", "norms"},
    {KIND_MODULE, "a container of modules", "containers"},
    {KIND_HEAD_NORM, "a norm of heads", "norms of heads"},
    {KIND_FUSED, "a fused linear layer", "fused ones"},
};

enum { KINDS = sizeof(words) / sizeof(words[0]), LETTERS = 127 };

const char *module_kind_name(enum module_kind kind)
{
    for (int i = 0; i < KINDS; i++)
        if (words[i].kind == kind)
            return words[i].one;
    return "a module";
}

const char *module_kinds_text(unsigned kinds, char text[128])
{
    size_t n = 0;

    text[0] = '\0';
    for (int i = 0; i < KINDS; i++)
        if ((kinds & words[i].kind) != 0)
            n += (size_t)snprintf(text + n, 128 - n, "%s%s", n > 0 ? " and " : "", words[i].many);
    return text;
}

/* Levenshtein's rows, one kept: row[j] is the distance of a's first i letters to b's first j. */
int name_distance(const char *a, const char *b)
{
    int n = (int)strnlen(a, LETTERS), m = (int)strnlen(b, LETTERS), row[LETTERS + 1];

    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];

        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);

            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[m];
}
