/* fake_device.h - a device without tensors that notices every mistake of a scheduler.
 *
 * It obeys plans as a backend does: slots with a length, a last id and a block
 * table; a "KV cache" whose entry is the token that was put there. An id is
 * sampled from a hash of the sequence as it is read back out of the cache, so
 * that a block used twice, a lost change or a wrong position changes the ids;
 * what a sequence starts with must be there from an earlier step:
 * they must equal fake_answer(), which knows no slots and no blocks. Guesses are
 * put into the cache, too, and taken back by the length alone, as backends do.
 *
 * Used by one thread; plans are run when submitted. */
#ifndef TESTS_ENGINE_FAKE_DEVICE_H
#define TESTS_ENGINE_FAKE_DEVICE_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "quern/plan.h"

enum { FAKE_SLOTS = 8, FAKE_BLOCKS = 24, FAKE_BLOCK_SIZE = 4, FAKE_VOCAB = 40, FAKE_STEPS = 2,
    FAKE_OUTPUTS = 10 };

/* One sequence may take all blocks. */
static const struct plan_limits fake_limits = {
    .max_slots = FAKE_SLOTS,
    .max_tokens = 12,
    .max_outputs = FAKE_OUTPUTS,
    .max_blocks_per_slot = FAKE_BLOCKS,
    .n_blocks = FAKE_BLOCKS,
    .block_size = FAKE_BLOCK_SIZE,
    .vocab = FAKE_VOCAB,
};

struct fake_slot {
    bool started;
    uint32_t length;
    int32_t last;
    struct sampling sampling;
    uint32_t blocks[FAKE_BLOCKS];
    uint32_t n_blocks;
};

struct fake_step {
    uint64_t number;
    uint32_t n_outputs;
    int32_t ids[FAKE_OUTPUTS];
    struct token_logprob logprobs[FAKE_OUTPUTS][LOGPROBS_MOST + 1];
    uint32_t values[FAKE_OUTPUTS]; /* of pooled and logits rows: a hash of what is before */
};

struct fake_device {
    struct fake_slot slots[FAKE_SLOTS];
    int32_t cache[FAKE_BLOCKS][FAKE_BLOCK_SIZE];
    uint64_t written[FAKE_BLOCKS]; /* in which step last, and 1 */
    struct fake_step steps[FAKE_STEPS];
    uint64_t submitted, finished;
    uint64_t started[4096]; /* seeds of the sequences in the order they started */
    size_t n_started;
    const char *wrong; /* what a plan did wrong, first one */
};

static inline uint32_t fake_mix(uint32_t hash, int32_t token)
{
    hash = (hash ^ (uint32_t)token) * 0x9e3779b1u;
    return hash ^ hash >> 15;
}

static inline int32_t fake_sample(uint32_t hash)
{
    return (int32_t)(hash % FAKE_VOCAB);
}

/* How likely `id` is behind what has this hash. */
static inline float fake_logprob(uint32_t hash, int32_t id)
{
    return -(float)(fake_mix(hash, id) % 1000);
}

/* The ids that follow a prompt as its answer `choice`, computed alone. */
static inline void fake_answer(const int32_t *prompt, uint32_t n, uint32_t choice, int32_t *ids,
    uint32_t n_ids)
{
    uint32_t hash = 1;

    for (uint32_t i = 0; i < n; i++)
        hash = fake_mix(hash, prompt[i]);
    for (uint32_t i = 0; i < n_ids; i++) {
        ids[i] = fake_sample(hash + choice);
        hash = fake_mix(hash, ids[i]);
    }
}

static inline void fake_wrong(struct fake_device *d, const char *what)
{
    if (d->wrong == NULL)
        d->wrong = what;
}

static inline void fake_begin(struct fake_device *d, const struct plan *p)
{
    const struct slot_start *start = plan_starts(p);
    const struct block_change *change = plan_changes(p);

    for (uint32_t i = 0; i < p->n_starts; i++) {
        d->slots[start[i].slot] =
            (struct fake_slot){.started = true, .last = -1, .length = start[i].length,
                .sampling = start[i].sampling};
        if (d->n_started < sizeof(d->started) / sizeof(d->started[0]))
            d->started[d->n_started++] = start[i].sampling.seed;
    }
    for (uint32_t i = 0; i < p->n_changes; i++) {
        struct fake_slot *s = &d->slots[change[i].slot];

        s->blocks[change[i].index] = change[i].block;
        if (change[i].index != s->n_blocks)
            fake_wrong(d, "an entry of a table that is not the next");
        s->n_blocks = change[i].index + 1;
    }
    for (uint32_t i = 0; i < p->n_starts; i++)
        if (start[i].length > d->slots[start[i].slot].n_blocks * FAKE_BLOCK_SIZE)
            fake_wrong(d, "a start in positions without a block");
}

static inline void fake_store(struct fake_device *d, struct fake_slot *s, int32_t token,
    uint64_t number)
{
    uint32_t index = s->length / FAKE_BLOCK_SIZE;

    if (token < 0)
        token = d->slots[token_slot(token)].last;
    if (token < 0)
        fake_wrong(d, "a token that nobody has sampled yet");
    if (index >= s->n_blocks) {
        fake_wrong(d, "a position without a block");
        return;
    }
    d->written[s->blocks[index]] = number + 1;
    d->cache[s->blocks[index]][s->length++ % FAKE_BLOCK_SIZE] = token;
}

/* Of its first `length` positions. */
static inline uint32_t fake_read(const struct fake_device *d, const struct fake_slot *s,
    uint32_t length)
{
    uint32_t hash = 1;

    for (uint32_t i = 0; i < length; i++)
        hash = fake_mix(hash, d->cache[s->blocks[i / FAKE_BLOCK_SIZE]][i % FAKE_BLOCK_SIZE]);
    return hash;
}

/* Output behind position length - 1; returns the id sampled, NO_ID: it is known already. */
static inline int32_t fake_output(struct fake_device *d, const struct fake_slot *s, uint32_t length,
    int32_t known, struct fake_step *step)
{
    uint32_t hash = fake_read(d, s, length), at = step->n_outputs++;
    int32_t id = known >= 0 ? known : fake_sample(hash + s->sampling.choice);

    step->ids[at] = known >= 0 ? NO_ID : id;
    if (s->sampling.logprobs > 0)
        step->logprobs[at][0] = (struct token_logprob){id, fake_logprob(hash, id)};
    return step->ids[at];
}

static inline void fake_row(struct fake_device *d, const struct plan *p, const struct plan_row *row,
    struct fake_step *step)
{
    struct fake_slot *s = &d->slots[row->slot];
    const int32_t *tokens = plan_tokens(p) + row->first_token;
    uint32_t from = s->length;
    bool wrong = false;

    for (uint32_t i = 0; i < row->n_tokens; i++)
        fake_store(d, s, tokens[i], p->number);
    for (uint32_t i = row->n_tokens - row->n_outputs; i < row->n_tokens; i++) {
        int32_t known = row->kind == ROW_DECODE ? -1
                        : i + 1 < row->n_tokens ? tokens[i + 1]
                        : row->output == OUTPUT_SCORE ? row->next_id
                                                      : -1;

        if (row->output == OUTPUT_POOLED || row->output == OUTPUT_LOGITS) {
            step->values[step->n_outputs] = fake_read(d, s, from + i + 1) + row->output;
            step->ids[step->n_outputs++] = NO_ID;
            continue;
        }
        if (wrong) {
            step->ids[step->n_outputs++] = NO_ID;
            continue;
        }
        s->last = fake_output(d, s, from + i + 1, known, step);
        if (row->kind == ROW_DECODE) {
            s->length = from + i + 1;
            wrong = i + 1 < row->n_tokens && s->last != tokens[i + 1];
        }
    }
}

static inline void fake_rows(struct fake_device *d, const struct plan *p, struct fake_step *step)
{
    const struct plan_row *row = plan_rows(p);

    for (uint32_t r = 0; r < p->n_rows; r++) {
        if (!d->slots[row[r].slot].started)
            fake_wrong(d, "a row of a slot that has no sequence");
        fake_row(d, p, &row[r], step);
    }
}

/* A step may not write into what another row of it starts with: their order is the backend's. */
static inline void fake_check_starts(struct fake_device *d, const struct plan *p)
{
    const struct slot_start *start = plan_starts(p);

    for (uint32_t i = 0; i < p->n_starts; i++)
        for (uint32_t b = 0; b * FAKE_BLOCK_SIZE < start[i].length; b++)
            if (d->written[d->slots[start[i].slot].blocks[b]] > p->number)
                fake_wrong(d, "a start with what the same step writes");
}

static inline bool fake_has_room(const struct fake_device *d)
{
    return d->submitted - d->finished < FAKE_STEPS;
}

static inline void fake_submit(struct fake_device *d, const struct plan *p)
{
    struct fake_step *step = &d->steps[p->number % FAKE_STEPS];

    if (plan_check(p, p->bytes, &fake_limits, 1) != STATUS_OK)
        fake_wrong(d, "a plan that plan_check() refuses");
    if (p->number != d->submitted++)
        fake_wrong(d, "a step out of order");
    if (d->wrong != NULL)
        return;
    *step = (struct fake_step){.number = p->number};
    fake_begin(d, p);
    fake_rows(d, p, step);
    fake_check_starts(d, p);
}

/* The oldest step under way. */
static inline const struct fake_step *fake_finish(struct fake_device *d)
{
    return &d->steps[d->finished++ % FAKE_STEPS];
}

#endif
