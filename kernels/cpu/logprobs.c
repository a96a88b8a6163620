/* logprobs.c - a list and a mass for each shard, one logarithm for the row. */
#include "kernels/cpu/logprobs.h"

#include <math.h>

void logprob_shard_make(struct logprob_shard *out, const float *logits, uint32_t n, uint32_t first,
    uint32_t n_top, struct sample_scratch *scratch)
{
    const struct sampling plain = {.temperature = 1};

    out->total = n;
    out->n = list_make(out->top, n_top > 0 ? n_top : 1, logits, n, first, &plain, scratch);
    mass_of(&out->mass, logits, n, plain.temperature);
}

static float logprob_of(float logit, double log_sum)
{
    return (float)((double)logit - log_sum);
}

bool logprobs_merge(const struct logprob_shard *const *shards, int n_shards, int32_t id, float logit,
    uint32_t n_top, struct token_logprob *out)
{
    struct list lists[SAMPLE_MAX_LISTS];
    struct merge m = {.lists = lists, .n_lists = n_shards};
    struct candidate c;
    double log_sum;

    for (int r = 0; r < n_shards; r++) {
        const struct logprob_shard *s = shards[r];

        if (s->n > 0 && isnan(s->top[0].z))
            return false;
        lists[r] = (struct list){.n = s->n, .total = s->total, .candidates = s->top,
            .mass = &s->mass};
    }
    if (merge_next(&m, &c) != STATUS_OK || !(c.z > -INFINITY))
        return false;
    log_sum = masses_log_sum(lists, n_shards, c.z);
    out[0] = (struct token_logprob){id, logprob_of(logit, log_sum)};
    m = (struct merge){.lists = lists, .n_lists = n_shards};
    for (uint32_t i = 1; i <= n_top; i++) {
        bool there = merge_next(&m, &c) == STATUS_OK;

        out[i] = there ? (struct token_logprob){(int32_t)c.id, logprob_of(c.z, log_sum)}
                       : (struct token_logprob){NO_ID, -INFINITY};
    }
    return true;
}
