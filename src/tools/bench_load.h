/* bench_load.h - many requests at a private runtime, as quern bench makes them.
 *
 * The field's offline test: prompts of random ids, all submitted at once, answers
 * of a length that is known before, past end tokens. Every answer is counted: one
 * of another length is a failure, not a figure. */
#ifndef QUERN_TOOLS_BENCH_LOAD_H
#define QUERN_TOOLS_BENCH_LOAD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern.h"
#include "quern/status.h"

/* What is asked. */
struct load {
    uint32_t conversations, turns;
    uint32_t shortest, longest; /* tokens of a prompt, and of an answer */
    uint32_t shared;            /* ids that all prompts begin with, before their own */
    uint64_t seed;
};

/* What came. */
struct load_result {
    uint64_t prompt_tokens, output_tokens;
    uint64_t context_tokens; /* that attention reads at least: for each id the positions before it */
    double seconds;
    double first_token_s;    /* mean over requests, from submission */
};

/* Waits for the model; lengths that do not fit its context are cut, which *load shows. INVALID
 * (logged): nothing fits. */
enum status load_fit(struct quern *q, struct load *load);

enum status load_run(struct quern *q, const struct load *load, struct load_result *result);

/* What a long prompt does to the time between two ids of answers that run. */
struct between {
    double median_s, p99_s;
};
struct disturb_result {
    uint32_t streams, long_prompt;         /* answers that run; tokens */
    struct between before, beside, after;  /* before it came, while it was computed, then */
    double prompt_s;                       /* from its submission to its first id */
};
enum status load_disturb(struct quern *q, uint32_t streams, uint32_t long_prompt, uint64_t seed,
    struct disturb_result *result);

/* The server's figures; NULL (logged). */
json_t *load_figures(struct quern *q);
/* What a number, or a member of a distribution, grew by. */
double load_grown(const json_t *before, const json_t *after, const char *name, const char *member);

/* Greedy, past end tokens, n_ids of prompt, `wanted` more. */
enum status load_submit(struct quern *q, const int32_t *ids, uint32_t n_ids, uint32_t wanted,
    uint64_t *id);
/* The next event; an ERROR is a failure (logged). */
enum status load_next(struct quern *q, const struct quern_event **event);
int32_t load_draw_id(struct quern *q, uint64_t *state);
uint32_t load_draw(uint64_t *state, uint32_t from, uint32_t to);
double load_now_s(void);

#endif
