/* stats.h - what the ranks count, where the supervisor can read it.
 *
 * Writer: rank 0 alone, in its loop, so a count is a load and a store: no lock,
 * no read-modify-write. Readers copy each word with a relaxed load: every number
 * is right by itself, and two of them may be a step apart. A rank may have died
 * at any point, so a copy holds any numbers at all; they are only shown.
 *
 * One segment, and so one struct stats, per generation of the ranks. What a
 * server has counted is the sum over generations: the supervisor adds a dead
 * one's to its own (stats_add()) before it closes the segment. */
#ifndef QUERN_MSG_STATS_H
#define QUERN_MSG_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Those up to STAT_GAUGES are what is so now, the others since the ranks were started. */
enum stats_number {
    STAT_RUNNING,
    STAT_WAITING,
    STAT_KV_BLOCKS_USED, /* by sequences; what is kept for others counts as free */
    STAT_KV_BLOCKS,
    STAT_GAUGES,

    STAT_PREFIX_ASKED = STAT_GAUGES, /* tokens of prompts as they are admitted, also once more */
    STAT_PREFIX_HIT,                 /* of them: found, not computed */
    STAT_PREEMPTIONS,
    STAT_PROMPT_TOKENS,              /* of prompts whose first token has come */
    STAT_PREFILL_TOKENS,             /* computed for prompts, and for what had to go on anew */
    STAT_OUTPUT_TOKENS,              /* end tokens, too */
    STAT_DRAFT_TOKENS,               /* guessed */
    STAT_DRAFT_ACCEPTED,             /* of them: right */
    STAT_STEPS,
    STAT_NUMBERS
};

enum stats_distribution {
    STAT_FIRST_TOKEN, /* ns from a request's arrival at the server to its first token */
    STAT_QUEUE,       /* ns from its arrival to its first admission */
    STAT_BETWEEN,     /* ns between two tokens of one answer */
    STAT_STEP,        /* ns that a step takes the ranks */
    STAT_ENGINE,      /* ns of rank 0's own work for a step: all that is neither computing, waiting
                       * nor sleeping */
    STAT_STEP_TOKENS, /* tokens in a step */
    STAT_STEP_SEQS,   /* sequences in a step */
    STAT_DISTRIBUTIONS
};

enum { STATS_MOST_BOUNDS = 28 };

/* Values v with bound[i - 1] < v <= bound[i] are counted in counts[i], those above all bounds in
 * the last that is used. */
struct stats_histogram {
    _Atomic uint64_t counts[STATS_MOST_BOUNDS + 1], sum;
};

struct stats {
    _Atomic uint64_t numbers[STAT_NUMBERS];
    struct stats_histogram histograms[STAT_DISTRIBUTIONS];
};

/* The same, of one process alone. */
struct stats_copy {
    uint64_t numbers[STAT_NUMBERS];
    struct {
        uint64_t counts[STATS_MOST_BOUNDS + 1], sum;
    } histograms[STAT_DISTRIBUTIONS];
};

/* Rank 0. */
void stats_set(struct stats *s, enum stats_number which, uint64_t value);
void stats_count(struct stats *s, enum stats_number which, uint64_t more);
void stats_observe(struct stats *s, enum stats_distribution which, uint64_t value);

/* Readers. */
void stats_read(const struct stats *s, struct stats_copy *out);
/* What `more` counted on top of what `sum` did; what is so now is `more`'s. */
void stats_add(struct stats_copy *sum, const struct stats_copy *more);

/* All of them as the members of a JSON object, without its braces: "running":1,"waiting":0,...;
 * times in seconds. At most `room` bytes with the NUL; returns how many there are without it. */
enum { STATS_JSON_BYTES = 16 << 10 };
size_t stats_json(const struct stats_copy *s, char *text, size_t room);

#endif
