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
    PARAM_KEYS,                                  /* one more than the last */
};

enum param_type { PARAM_NONE, PARAM_U32, PARAM_U64, PARAM_F32, PARAM_I32 };

struct param_header {
    uint16_t key;
    uint16_t reserved; /* 0 */
    uint32_t bytes;    /* of the value */
};

struct params {
    uint64_t given; /* bit `key`: it was */
    uint32_t max_tokens, top_k, ignore_eos, keep_s, tell_pauses;
    int32_t priority;
    float temperature, top_p, min_p;
    uint64_t seed, key;
};

enum { PRIORITY_LEAST = -1000, PRIORITY_MOST = 1000 };

enum { PARAMS_FIRST_BYTES = PARAM_KEYS * (sizeof(struct param_header) + 8) }; /* all of today's */

static inline bool params_has(const struct params *p, enum param_key key)
{
    return (p->given >> key & 1) != 0;
}

/* INVALID (logged): broken, twice, or out of its bounds. UNKNOWN (logged): a key that this
 * version does not have. */
enum status params_read(const void *bytes, size_t n, struct params *out);

/* What is given, as bytes for the wire; returns how many, at most PARAMS_FIRST_BYTES. */
size_t params_write(const struct params *p, void *bytes);

/* Checks and sets one from the value as it goes over the wire. As params_read(). */
enum status params_set(struct params *p, enum param_key key, const void *value, size_t bytes);

/* NONE: this version has no such key. */
enum param_type params_type(unsigned key);

#endif
