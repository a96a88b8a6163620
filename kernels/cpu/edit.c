/* edit.c - bias, bans and penalties.
 *
 * Penalties walk the ids of the sequence once, counting them in an array of the
 * shard's size that is cleared by the list of those touched: the cost follows
 * the ids, not the vocabulary. */
#include "kernels/cpu/edit.h"

#include <math.h>
#include <string.h>

enum { OUTPUT_ONE = 2, SEEN = 1 }; /* a count: of the output, doubled, and whether it is there at all */

static bool repeats(const struct sampling *s)
{
    return s->repetition != 0 && s->repetition != 1;
}

static bool penalises(const struct sampling *s)
{
    return repeats(s) || s->frequency != 0 || s->presence != 0;
}

static bool too_early(const struct sampling *s, uint32_t n_ids, uint32_t n_prompt)
{
    return s->n_ends > 0 && n_ids < (uint64_t)n_prompt + s->min_tokens;
}

bool edit_wanted(const struct sampling *s, uint32_t n_ids, uint32_t n_prompt)
{
    return penalises(s) || s->n_bias > 0 || s->n_bad > 0 || too_early(s, n_ids, n_prompt);
}

bool edit_reads_ids(const struct sampling *s)
{
    return penalises(s) || s->n_bad > 0;
}

/* Its place in the shard, or n. */
static uint32_t place_of(int32_t id, uint32_t n, uint32_t first)
{
    return (uint32_t)id - first < n ? (uint32_t)id - first : n;
}

static void add_bias(float *logits, uint32_t n, uint32_t first, const int32_t *pairs, uint32_t words)
{
    for (uint32_t i = 0; i < words; i += 2) {
        uint32_t at = place_of(pairs[i], n, first);
        float bias;

        memcpy(&bias, &pairs[i + 1], sizeof(bias));
        if (at < n)
            logits[at] += bias;
    }
}

static void ban(float *logits, uint32_t n, uint32_t first, int32_t id)
{
    uint32_t at = place_of(id, n, first);

    if (at < n)
        logits[at] = -INFINITY;
}

/* Returns how many are touched. */
static uint32_t count_ids(const struct edit *e, uint32_t n, uint32_t first,
    struct edit_scratch *scratch)
{
    uint32_t touched = 0;

    for (uint32_t i = 0; i < e->n_ids; i++) {
        uint32_t at = place_of(e->ids[i], n, first);

        if (at == n)
            continue;
        if (scratch->counts[at] == 0)
            scratch->touched[touched++] = at;
        scratch->counts[at] = (scratch->counts[at] | SEEN) + (i >= e->n_prompt ? OUTPUT_ONE : 0);
    }
    return touched;
}

static float penalised(float l, uint32_t count, const struct sampling *s)
{
    float of_output = (float)(count / OUTPUT_ONE);

    if (repeats(s))
        l = l > 0 ? l / s->repetition : l * s->repetition;
    if (count >= OUTPUT_ONE) {
        float frequent = s->frequency * of_output; /* apart: never one fused operation */

        l -= frequent;
        l -= s->presence;
    }
    return l;
}

static void penalise(float *logits, uint32_t n, uint32_t first, const struct edit *e,
    struct edit_scratch *scratch)
{
    uint32_t touched = count_ids(e, n, first, scratch);

    for (uint32_t i = 0; i < touched; i++) {
        uint32_t at = scratch->touched[i];

        logits[at] = penalised(logits[at], scratch->counts[at], e->sampling);
        scratch->counts[at] = 0;
    }
}

/* The output ends with run[n]. */
static bool output_ends_with(const struct edit *e, const int32_t *run, uint32_t n)
{
    return n <= e->n_ids - e->n_prompt &&
           (n == 0 || memcmp(e->ids + e->n_ids - n, run, n * sizeof(*run)) == 0);
}

static void ban_words(float *logits, uint32_t n, uint32_t first, const struct edit *e,
    const int32_t *words, uint32_t n_words)
{
    for (uint32_t i = 0, count; i < n_words; i += 1 + count) {
        count = (uint32_t)words[i];
        if (output_ends_with(e, words + i + 1, count - 1))
            ban(logits, n, first, words[i + count]);
    }
}

void edit_logits(float *logits, uint32_t n, uint32_t first, const struct edit *e,
    struct edit_scratch *scratch)
{
    const struct sampling *s = e->sampling;
    const int32_t *bad = e->words + s->n_bias, *ends = bad + s->n_bad;

    add_bias(logits, n, first, e->words, s->n_bias);
    if (too_early(s, e->n_ids, e->n_prompt))
        for (uint32_t i = 0; i < s->n_ends; i++)
            ban(logits, n, first, ends[i]);
    if (penalises(s))
        penalise(logits, n, first, e, scratch);
    ban_words(logits, n, first, e, bad, s->n_bad);
}
