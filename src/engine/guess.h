/* guess.h - what may come next: what came behind the last few ids when they were there before.
 *
 * Each run of GUESS_LONG and GUESS_SHORT ids leads to the place behind its latest occurrence, by a
 * table of the sequence's own size, so a guess costs the same however long the sequence is. */
#ifndef QUERN_ENGINE_GUESS_H
#define QUERN_ENGINE_GUESS_H

#include <stddef.h>
#include <stdint.h>

enum { GUESS_LONG = 3, GUESS_SHORT = 2, GUESS_TABLES = 2 };

struct guesser {
    uint32_t *places[GUESS_TABLES]; /* [mask + 1] the index behind a run; 0: none yet */
    uint32_t mask;
    uint32_t n_seen; /* ids whose runs are in the tables */
};

/* Bytes for a sequence of at most n ids; guesser_init() gets that much zeroed memory. */
size_t guesser_bytes(uint32_t n);
void guesser_init(struct guesser *g, uint32_t n, void *mem);

/* What may follow ids[n], at most `most`, into out; returns how many. ids may only grow from call to
 * call. */
uint32_t guess_next(struct guesser *g, const int32_t *ids, uint32_t n, int32_t *out, uint32_t most);

#endif
