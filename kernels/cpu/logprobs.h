/* logprobs.h - how likely ids are: natural logarithms of the softmax of logits as they are.
 *
 * Each rank tells of its shard the likeliest ids, the mass of all (sample.h), and the logit of the
 * one id that is asked for if it is its own. Merged, they are those of the whole row, bit for bit,
 * for any cut of the vocabulary. Pure functions. */
#ifndef QUERN_KERNELS_CPU_LOGPROBS_H
#define QUERN_KERNELS_CPU_LOGPROBS_H

#include "kernels/cpu/sample.h"

struct logprob_shard {
    struct mass mass;
    uint32_t n, total; /* as in struct list */
    struct candidate top[LOGPROBS_MOST];
};

/* logits [n] of ids first .. first + n - 1; the n_top likeliest, at least one. */
void logprob_shard_make(struct logprob_shard *out, const float *logits, uint32_t n, uint32_t first,
    uint32_t n_top, struct sample_scratch *scratch);

/* out[0]: of `id`, whose logit is given; out[1 .. n_top]: of the likeliest, in order, as many as
 * the vocabulary has; the rest NO_ID. False: the logits are not finite, nothing is written. */
bool logprobs_merge(const struct logprob_shard *const *shards, int n_shards, int32_t id, float logit,
    uint32_t n_top, struct token_logprob *out);

#endif
