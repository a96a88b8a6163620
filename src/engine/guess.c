/* guess.c - one entry a run, the latest wins; ids are compared, so a clash of hashes costs a guess
 * and nothing else. */
#include "engine/guess.h"

#include <stdbool.h>
#include <string.h>

static const uint32_t lengths[GUESS_TABLES] = {GUESS_LONG, GUESS_SHORT};

static uint32_t table_size(uint32_t n)
{
    uint32_t size = 16;

    while (size < n)
        size *= 2;
    return size;
}

size_t guesser_bytes(uint32_t n)
{
    return GUESS_TABLES * (size_t)table_size(n) * sizeof(uint32_t);
}

void guesser_init(struct guesser *g, uint32_t n, void *mem)
{
    uint32_t size = table_size(n);

    *g = (struct guesser){.mask = size - 1};
    for (int t = 0; t < GUESS_TABLES; t++)
        g->places[t] = (uint32_t *)mem + (size_t)t * size;
}

/* Of the run of `length` ids that ends before ids[end]. */
static uint32_t hash_of(const int32_t *ids, uint32_t end, uint32_t length)
{
    uint32_t hash = length;

    for (uint32_t i = end - length; i < end; i++)
        hash = (hash ^ (uint32_t)ids[i]) * 0x9e3779b1u;
    return hash ^ hash >> 15;
}

/* The runs that something follows. */
static void see(struct guesser *g, const int32_t *ids, uint32_t n)
{
    for (; g->n_seen < n; g->n_seen++)
        for (int t = 0; t < GUESS_TABLES; t++)
            if (g->n_seen >= lengths[t])
                g->places[t][hash_of(ids, g->n_seen, lengths[t]) & g->mask] = g->n_seen;
}

static bool runs_equal(const int32_t *ids, uint32_t a, uint32_t b, uint32_t length)
{
    return memcmp(ids + a - length, ids + b - length, length * sizeof(*ids)) == 0;
}

/* Behind the latest place where the last ids were before; 0: nowhere. */
static uint32_t find(const struct guesser *g, const int32_t *ids, uint32_t n)
{
    for (int t = 0; t < GUESS_TABLES; t++) {
        uint32_t length = lengths[t], at;

        if (n <= length)
            continue;
        at = g->places[t][hash_of(ids, n, length) & g->mask];
        if (at > 0 && runs_equal(ids, at, n, length))
            return at;
    }
    return 0;
}

uint32_t guess_next(struct guesser *g, const int32_t *ids, uint32_t n, int32_t *out, uint32_t most)
{
    uint32_t at;

    see(g, ids, n);
    at = find(g, ids, n);
    if (at == 0)
        return 0;
    for (uint32_t i = 0; i < most; i++) /* past the end: what repeats goes on repeating */
        out[i] = at + i < n ? ids[at + i] : out[at + i - n];
    return most;
}
