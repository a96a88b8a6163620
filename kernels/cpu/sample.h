/* sample.h - from logits to an id, whole or in shards, with the same answer.
 *
 * The rule (FACTS 9.1): temperature < 1e-5 takes the largest logit. Otherwise
 * z = logit / temperature; min_p keeps z >= max + ln(min_p); top_k keeps
 * z >= the k-th largest of the kept, ties included; top_p sorts what is left
 * (descending, then ascending id), takes its softmax and keeps a token if the
 * probabilities before it sum to less than top_p, the first always. The id is
 * the largest z + its noise (philox.h) of the kept. All ties: the lowest id. Logits
 * that are not finite have no answer: SAMPLE_BROKEN where a NaN or plus infinity
 * is among them, or nothing but minus infinity.
 *
 * In shards: each rank makes a short list (its best tokens in order, and the
 * mass of all of its tokens), all ranks see all lists and decide alike. The
 * answer is that of the whole row, bit for bit, for any cut of the
 * vocabulary: lists are merged in one order, and masses are integers per
 * power of two, whose sum has no order. Where the lists do not reach far
 * enough, lists_decide() says so and the whole row is needed.
 *
 * Pure functions; the caller owns all memory. */
#ifndef QUERN_KERNELS_CPU_SAMPLE_H
#define QUERN_KERNELS_CPU_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/plan.h"

enum { SAMPLE_MAX_LISTS = 64 };
#define SAMPLE_BROKEN ((uint32_t)BROKEN_ID) /* in place of an id */

enum sample_mode {
    SAMPLE_GREEDY, /* the largest logit */
    SAMPLE_PLAIN,  /* the largest z + noise of all (with min_p: of those near the top) */
    SAMPLE_LIST,   /* some filter needs tokens in order */
};

/* A shard knows no global maximum, so min_p needs lists where there are several. */
enum sample_mode sample_mode(const struct sampling *s, uint32_t vocab, bool alone);

struct candidate {
    float z;
    uint32_t id;
};

/* The best of a shard by logit (greedy) or by z + noise; id UINT32_MAX when it is empty. The value
 * is a NaN where a NaN or plus infinity is among the logits, and that is better than any other. */
struct pick {
    float value;
    uint32_t id;
};

/* logits [n] of ids first .. first + n - 1. */
struct pick pick_greedy(const float *logits, uint32_t n, uint32_t first);
struct pick pick_plain(const float *logits, uint32_t n, uint32_t first, const struct sampling *s,
    uint32_t position);
/* The better one of two shards' picks. */
struct pick pick_best(struct pick a, struct pick b);
/* The id of the best of all shards, or SAMPLE_BROKEN. */
uint32_t pick_id(struct pick best);

/* Sums of exp(z), a bin a power of two: bins[i] counts those in
 * [0.7, 1.42) 2^(top - i), in units of 2^(top - i - MASS_BITS). */
enum { MASS_BINS = 64, MASS_BITS = 30 };
struct mass {
    int32_t top;
    uint32_t reserved;
    uint64_t bins[MASS_BINS];
};

/* Of logits [n] / temperature. All zero where they are not finite, or below every bin. */
void mass_of(struct mass *m, const float *logits, uint32_t n, float temperature);

struct list {
    uint32_t n;     /* candidates: sorted by z descending, then id ascending */
    uint32_t total; /* tokens of the shard; n = total: nothing is hidden */
    const struct candidate *candidates;
    const struct mass *mass;
};

/* Room for sorting; both arrays [n] of the largest n. */
struct sample_scratch {
    struct candidate *a, *b;
};

/* The `room` best of a shard into out [room], sorted. Returns how many: min(room, n); 1 and z a NaN
 * where a NaN or plus infinity is among the logits. */
uint32_t list_make(struct candidate *out, uint32_t room, const float *logits, uint32_t n,
    uint32_t first, const struct sampling *s, struct sample_scratch *scratch);
/* The whole shard's mass, if top_p alone filters; otherwise nothing reads it. */
void list_mass(struct mass *m, const float *logits, uint32_t n, const struct sampling *s,
    uint32_t vocab);

/* OK and *id (or SAMPLE_BROKEN), or AGAIN when the lists end before the decision. `lists` is one per
 * shard, SAMPLE_MAX_LISTS at most. */
enum status lists_decide(const struct list *lists, int n_lists, const struct sampling *s,
    uint32_t vocab, uint32_t position, uint32_t *id);

/* ln of the sum of exp(z) over all shards, whose largest z is `max`: the same for any cut. */
double masses_log_sum(const struct list *lists, int n_lists, float max);

/* The next ones in order of all lists. */
struct merge {
    const struct list *lists;
    int n_lists;
    uint32_t at[SAMPLE_MAX_LISTS];
};
/* OK and the next; CLOSED after the last; AGAIN when it may be one that a list left out. */
enum status merge_next(struct merge *m, struct candidate *next);

/* The whole row: logits [vocab] -> id, or SAMPLE_BROKEN. position: the one that the new token will have. */
uint32_t sample_row(const float *logits, uint32_t vocab, const struct sampling *s,
    uint32_t position, struct sample_scratch *scratch);

#endif
