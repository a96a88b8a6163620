/* plan.h - what one step computes: the leader writes it, every rank obeys it.
 *
 * A plan is one flat message (it travels through the plan ring as it is):
 * this header, then its arrays at the offsets named. It holds indices only,
 * never pointers. Sequence state (last id, length, sampling parameters, block
 * table) lives in numbered slots on every rank's device; a plan changes it
 * only through `starts` and `changes`, applied before the rows run. So the
 * leader can plan step k+1 while step k runs: a token may be "the output of
 * slot s" instead of an id nobody knows yet.
 *
 * A row's positions are the slot's length at that moment and onward; when the
 * step is done the length has grown by the row's tokens (but wrong guesses), and
 * if the row's output is OUTPUT_TOKEN, the slot's last id is the id sampled.
 *
 * A KV block holds, beside K and V, the ids of its positions: what penalties
 * count is there wherever a sequence begins, so no id travels twice.
 *
 * Writer: the leader's scheduler. Readers: each rank's worker and backend.
 * plan_check() is for readers: a message is never trusted. */
#ifndef QUERN_PLAN_H
#define QUERN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum row_kind { ROW_PREFILL, ROW_DECODE };

/* A row's outputs are those of its last n_outputs tokens: what follows each. */
enum row_output {
    OUTPUT_NONE,   /* a chunk of a prompt that goes on */
    OUTPUT_TOKEN,  /* PREFILL: an id is sampled after the last token; outputs before it are scored.
                    * DECODE: an id is sampled after each token, and the tokens behind the first are
                    * guesses: see below */
    OUTPUT_LOGITS, /* gathered to the leader */
    OUTPUT_POOLED, /* the final hidden state, behind the last norm, to the leader */
    OUTPUT_SCORE,  /* of a prompt: how likely the id that follows each token was; next_id is the one
                    * behind the last */
};

/* What a step gives for an output in place of an id. */
enum {
    NO_ID = -1,     /* nothing was sampled: of logits and scores, and behind a wrong guess */
    BROKEN_ID = -2, /* the output's logits are not finite: a NaN or plus infinity among them, or
                     * nothing but minus infinity. The slot's last id is 0 then */
};

/* Guesses: a DECODE row of more than one token, each with an output. The first token is known; the
 * others are what may follow it. A guess that is the id sampled before it is right, and what is
 * sampled behind it counts; at the first wrong one the row ends, and the slot grows by the tokens
 * that were right alone. The ids are those of as many steps of one token. */
struct plan_row {
    uint32_t slot;
    uint32_t first_token; /* index into tokens[] */
    uint32_t n_tokens;    /* >= 1 */
    uint32_t n_outputs;   /* 0 with OUTPUT_NONE; all tokens of a DECODE row */
    int32_t next_id;      /* of OUTPUT_SCORE; else 0 */
    uint16_t kind;        /* enum row_kind: DECODE rows come first */
    uint16_t output;      /* enum row_output */
    uint16_t adapter;     /* 0: none; kept for LoRA */
    uint16_t mask;        /* 0: none; kept for grammar masks */
    uint16_t dp_section;  /* 0; kept for attention data parallelism */
    uint16_t reserved;
};

/* A token is an id >= 0, or the last id of a slot. */
static inline int32_t token_from_slot(uint32_t slot)
{
    return -1 - (int32_t)slot;
}
static inline uint32_t token_slot(int32_t token) /* token < 0 */
{
    return (uint32_t)(-1 - token);
}

/* How a sequence is sampled, in this order: logits are raised by their bias; ids that would end it
 * before min_tokens are out; penalties; words that may not come are out; then temperature (below
 * 1e-5: the largest logit), min_p, top_k, top_p, noise. FACTS 9.1.
 *
 * Penalties count ids as the cache has them: `repetition` those of prompt and output (a logit l
 * above 0 becomes l / repetition, else l * repetition), `frequency` (l -= frequency * count) and
 * `presence` (l -= presence) those of the output alone. */
struct sampling {
    float temperature;
    float top_p;   /* 1: off */
    float min_p;   /* 0: off */
    int32_t top_k; /* <= 0: off */
    uint64_t seed;
    uint32_t choice;   /* which of n answers to one prompt */
    uint32_t logprobs; /* 0: none are told; 1 + N: of each id, and of the N likeliest */
    float repetition;  /* 1 or 0: off */
    float frequency, presence; /* 0: off */
    uint32_t min_tokens;
    /* Words that follow each other: pairs of an id and its bias (a float's bits); ids that may not
     * come, a count before each run of them; ids that are out before min_tokens. */
    uint32_t n_bias, n_bad, n_ends; /* in words; pairs are two */
};

/* Most of each. */
enum {
    LOGPROBS_MOST = 20,
    BIAS_WORDS = 2 * 1024,
    BAD_WORDS = 2048,
    END_WORDS = 256,
    SAMPLING_WORDS = BIAS_WORDS + BAD_WORDS + END_WORDS,
};

static inline uint32_t sampling_words(const struct sampling *s)
{
    return s->n_bias + s->n_bad + s->n_ends;
}

/* What an id's logprob is told as: of the logits as the model gives them, nothing changed. */
struct token_logprob {
    int32_t id;
    float logprob;
};

/* A slot begins a new sequence. Its first `length` positions are in the cache already, written by
 * earlier steps, ids included: the same plan's changes name their blocks. */
struct slot_start {
    uint32_t slot;
    uint32_t length;
    uint32_t n_prompt;   /* the first position of the output */
    uint32_t first_word; /* of sampling_words() in words[] */
    struct sampling sampling;
};

/* A block's number: its tier, where the block lies, above its index there. A plan may only name
 * tiers that the device reads from; that is its own memory so far. */
enum block_tier { BLOCK_TIER_DEVICE, BLOCK_TIERS };
enum { BLOCK_INDEX_BITS = 28, BLOCK_MOST = 1 << BLOCK_INDEX_BITS }; /* blocks of one tier */

static inline uint32_t block_number(uint32_t tier, uint32_t index)
{
    return tier << BLOCK_INDEX_BITS | index;
}
static inline uint32_t block_tier(uint32_t block)
{
    return block >> BLOCK_INDEX_BITS;
}
static inline uint32_t block_index(uint32_t block)
{
    return block & (BLOCK_MOST - 1);
}

/* Entry `index` of the slot's block table becomes `block`, a block's number. */
struct block_change {
    uint32_t slot;
    uint32_t index;
    uint32_t block;
};

struct plan {
    uint32_t bytes;      /* of the whole message */
    uint32_t generation; /* of the group */
    uint64_t number;     /* 0, 1, 2, ...: the step */
    uint32_t n_starts, n_changes, n_rows, n_tokens, n_outputs;
    uint32_t n_decode;   /* rows: the first so many are DECODE, the others PREFILL */
    uint32_t n_words;
    uint32_t flags;      /* enum plan_flag */
    uint32_t starts_at, changes_at, rows_at, tokens_at, words_at; /* bytes from the plan's start */
    uint32_t reserved;
};

enum plan_flag {
    PLAN_STOP = 1, /* the group ends in good order: nothing runs, no plan follows */
};

static inline struct slot_start *plan_starts(const struct plan *p)
{
    return (struct slot_start *)((char *)p + p->starts_at);
}
static inline struct block_change *plan_changes(const struct plan *p)
{
    return (struct block_change *)((char *)p + p->changes_at);
}
static inline struct plan_row *plan_rows(const struct plan *p)
{
    return (struct plan_row *)((char *)p + p->rows_at);
}
static inline int32_t *plan_tokens(const struct plan *p)
{
    return (int32_t *)((char *)p + p->tokens_at);
}
/* The lists of sequences that start: as many as one of them may have, over all. */
static inline int32_t *plan_words(const struct plan *p)
{
    return (int32_t *)((char *)p + p->words_at);
}

/* What bounds a plan; the same on every rank. */
struct plan_limits {
    uint32_t max_slots;           /* sequences at once */
    uint32_t max_tokens;          /* tokens in one step */
    uint32_t max_outputs;         /* output rows in one step */
    uint32_t max_blocks_per_slot; /* ceil(max_model_len / block_size) */
    uint32_t n_blocks;            /* of the device's tier, at most BLOCK_MOST */
    uint32_t block_size;          /* tokens in a KV block */
    uint32_t vocab;               /* ids are below it */
};

/* Most block changes in one plan: the whole table of one slot, two blocks for every slot, and the
 * blocks that its tokens fill. So a plan's size does not grow with slots x blocks. */
uint64_t plan_max_changes(const struct plan_limits *limits);

/* Bytes of the largest plan within `limits`. */
size_t plan_max_bytes(const struct plan_limits *limits);

/* Lays out an empty plan in `mem` (plan_max_bytes() long): counts 0, arrays at
 * their places with room for the limits. The writer fills arrays and counts,
 * and then calls plan_pack(), which moves the arrays together. */
void plan_begin(struct plan *mem, const struct plan_limits *limits, uint32_t generation,
    uint64_t number);
void plan_pack(struct plan *p);

/* OK, or INVALID (logged) when anything in the message is out of its bounds. */
enum status plan_check(const struct plan *p, size_t bytes, const struct plan_limits *limits,
    uint32_t generation);

#endif
