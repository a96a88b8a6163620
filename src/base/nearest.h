/* nearest.h - what a mistyped word may have been meant to be.
 *
 * Start with NEAREST_TO(word), offer every name, and `name` is the first of those with the
 * fewest edits (a letter more, less, other, or two swapped), or NULL when all need more than a
 * third of the word's letters. Nothing is owned, nothing fails. */
#ifndef QUERN_BASE_NEAREST_H
#define QUERN_BASE_NEAREST_H

#include <stddef.h>

struct nearest {
    const char *word;
    size_t length;    /* of `word` that counts */
    const char *name; /* borrowed from who offered it; NULL: none is near */
    int edits;
};

#define NEAREST_TO(text, bytes) {.word = (text), .length = (bytes)}

void nearest_offer(struct nearest *n, const char *name);

#endif
