/* params.h - the parameters of a SUBMIT: what may be added by anybody at any time.
 *
 * On the wire a list of {u16 key, u16 0, u32 bytes, value}, in any order, each
 * key at most once, nothing between them. What is not given is as the model
 * (generation_config.json) or the server has it. A key is never used again for
 * anything else; one that a server does not know is refused by its number.
 *
 * One table (params.c) names each key, its type and its bounds; reading,
 * writing and messages follow from it. */
#ifndef QUERN_MSG_PARAMS_H
#define QUERN_MSG_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern.h"
#include "quern/status.h"

/* The numbers are those of enum quern_param, which programs were compiled with. */
enum param_key {
    PARAM_MAX_TOKENS = QUERN_PARAM_MAX_TOKENS,   /* u32: new tokens at most, 1 and more; 256 */
    PARAM_TEMPERATURE = QUERN_PARAM_TEMPERATURE, /* f32: 0 (greedy) to 100 */
    PARAM_TOP_K = QUERN_PARAM_TOP_K,             /* u32: 0: all */
    PARAM_TOP_P = QUERN_PARAM_TOP_P,             /* f32: above 0, up to 1 */
    PARAM_MIN_P = QUERN_PARAM_MIN_P,             /* f32: 0 to 1 */
    PARAM_SEED = QUERN_PARAM_SEED,               /* u64: drawn when not given */
    PARAM_IGNORE_EOS = QUERN_PARAM_IGNORE_EOS,   /* u32, 0 or 1: go on past an end token */
    PARAM_KEY = QUERN_PARAM_KEY, /* u64, not 0: the request's key, chosen by the client; drawn */
    PARAM_KEEP = QUERN_PARAM_KEEP, /* u32: seconds that the request outlives its connection by; 0 */
    PARAM_TELL_PAUSES = QUERN_PARAM_TELL_PAUSES, /* u32, 0 or 1: PAUSED frames are wanted */
    PARAM_PRIORITY = QUERN_PARAM_PRIORITY, /* i32, -1000 to 1000: lower goes first; 0 */
    PARAM_REPETITION_PENALTY = QUERN_PARAM_REPETITION_PENALTY, /* f32, 0.001 to 100; 1: off */
    PARAM_FREQUENCY_PENALTY = QUERN_PARAM_FREQUENCY_PENALTY,   /* f32, -2 to 2; 0 */
    PARAM_PRESENCE_PENALTY = QUERN_PARAM_PRESENCE_PENALTY,     /* f32, -2 to 2; 0 */
    PARAM_MIN_TOKENS = QUERN_PARAM_MIN_TOKENS, /* u32: nothing ends the answer before so many; 0 */
    PARAM_LOGIT_BIAS = QUERN_PARAM_LOGIT_BIAS, /* {i32 id, f32 -100 to 100} x n */
    PARAM_BAD_WORDS = QUERN_PARAM_BAD_WORDS,   /* {u32 bytes, UTF-8} x n: may not come */
    PARAM_BAD_IDS = QUERN_PARAM_BAD_IDS,       /* {u32 n, i32 x n} x m: may not come */
    PARAM_STOP = QUERN_PARAM_STOP,             /* {u32 bytes, UTF-8} x n: the answer ends before */
    PARAM_STOP_IDS = QUERN_PARAM_STOP_IDS,     /* i32 x n: end it beside the model's own */
    PARAM_INCLUDE_STOP = QUERN_PARAM_INCLUDE_STOP, /* u32, 0 or 1: ... behind the stop text; 0 */
    PARAM_CHOICES = QUERN_PARAM_CHOICES,       /* u32, 1 to 128: answers to the prompt; 1 */
    PARAM_LOGPROBS = QUERN_PARAM_LOGPROBS,     /* u32, 0 to 20: of each id and so many likeliest */
    PARAM_PROMPT_LOGPROBS = QUERN_PARAM_PROMPT_LOGPROBS, /* u32, 0 to 20: the same of the prompt */
    PARAM_ECHO = QUERN_PARAM_ECHO,             /* u32, 0 or 1: the prompt is told, too; 0 */
    PARAM_SPECULATE = QUERN_PARAM_SPECULATE,   /* u32, 0 to 16: ids guessed in a step; 0 */
    PARAM_DIMENSIONS = QUERN_PARAM_DIMENSIONS, /* u32: an embedding's length; 0: the model's */
    PARAM_LAST = QUERN_PARAM_LAST,             /* u32, 1 and more: logits behind so many last ids; 1 */
    PARAM_VALUE_IDS = QUERN_PARAM_VALUE_IDS,   /* i32 x n: the logits of these alone */
    PARAM_KEYS,                                  /* one more than the last */
};

enum {
    MOST_CHOICES = 128,
    MOST_STOPS = 32,       /* texts */
    MOST_STOP_BYTES = 1024, /* of one */
    MOST_STOP_IDS = 128,
    MOST_GUESSES = 16,
    MOST_VALUE_IDS = 1024,
};

enum param_type { PARAM_NONE, PARAM_U32, PARAM_U64, PARAM_F32, PARAM_I32, PARAM_BYTES };

struct param_header {
    uint16_t key;
    uint16_t reserved; /* 0 */
    uint32_t bytes;    /* of the value */
};

/* A value that is a list: lent by whoever gave the bytes, not aligned (param_lists.h reads it). */
struct param_bytes {
    const unsigned char *at;
    uint32_t n;
};

struct params {
    uint64_t given; /* bit `key`: it was */
    uint32_t max_tokens, top_k, ignore_eos, keep_s, tell_pauses;
    int32_t priority;
    float temperature, top_p, min_p;
    uint64_t seed, key;
    float repetition_penalty, frequency_penalty, presence_penalty;
    uint32_t min_tokens, include_stop, choices, logprobs, prompt_logprobs, echo, speculate, dimensions, last;
    struct param_bytes logit_bias, bad_words, bad_ids, stop, stop_ids, value_ids;
};

enum { PRIORITY_LEAST = -1000, PRIORITY_MOST = 1000 };

/* All that are no lists. */
enum { PARAMS_FIRST_BYTES = PARAM_KEYS * (sizeof(struct param_header) + 8) };

static inline bool params_has(const struct params *p, enum param_key key)
{
    return (p->given >> key & 1) != 0;
}

/* INVALID (logged): broken, twice, or out of its bounds. UNKNOWN (logged): a key that this
 * version does not have. Lists point into `bytes`. */
enum status params_read(const void *bytes, size_t n, struct params *out);

/* What is given, as bytes for the wire; returns how many, at most PARAMS_FIRST_BYTES and the lists'. */
size_t params_write(const struct params *p, void *bytes);

/* Checks and sets one from the value as it goes over the wire. As params_read(). */
enum status params_set(struct params *p, enum param_key key, const void *value, size_t bytes);

/* NONE: this version has no such key. */
enum param_type params_type(unsigned key);

#endif
