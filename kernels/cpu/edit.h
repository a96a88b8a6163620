/* edit.h - what a request changes in its logits before an id is sampled.
 *
 * In this order (plan.h, struct sampling): bias, ids that are out before min_tokens, penalties,
 * words that may not come. Each id's logit is changed by itself, so shards of the vocabulary are
 * edited apart with the same bits as the whole.
 *
 * Pure functions; the caller owns all memory. */
#ifndef QUERN_KERNELS_CPU_EDIT_H
#define QUERN_KERNELS_CPU_EDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/plan.h"

/* One sequence at one position. */
struct edit {
    const struct sampling *sampling;
    const int32_t *words; /* its lists, as in the plan */
    const int32_t *ids;   /* [n_ids] prompt and output so far; NULL unless edit_reads_ids() */
    uint32_t n_ids, n_prompt;
};

/* Both [n] of the shard; counts are zero between calls. */
struct edit_scratch {
    uint32_t *counts, *touched;
};

/* Anything is changed at position n_ids. */
bool edit_wanted(const struct sampling *s, uint32_t n_ids, uint32_t n_prompt);
bool edit_reads_ids(const struct sampling *s);

/* logits [n] of ids first .. first + n - 1. */
void edit_logits(float *logits, uint32_t n, uint32_t first, const struct edit *e,
    struct edit_scratch *scratch);

#endif
