/* kv.h - where a position's k and v lie in the cache, and which query heads read them.
 *
 * Private to kernels/cpu. Layout: cpu.h, struct kv_view. */
#ifndef QUERN_KERNELS_CPU_KV_H
#define QUERN_KERNELS_CPU_KV_H

#include <float.h>
#include <math.h>

#include "kernels/cpu/cpu.h"

enum { MAX_HEAD_DIM = PROGRAM_MAX_HEAD_DIM };

/* Where head `head` at `position` lies: bytes from kv->k or kv->v, the same in both. */
struct kv_place {
    size_t row;   /* [head_dim] of the cache's type */
    size_t scale; /* f32, with E4M3 */
};

static inline struct kv_place kv_at(const struct kv_view *kv, const uint32_t *blocks,
    uint32_t head, uint32_t position)
{
    size_t start = blocks[position / kv->block_size] * kv->block_bytes + head * kv->head_bytes;
    uint32_t at = position % kv->block_size;

    return (struct kv_place){
        .row = start + at * kv->head_dim * dtype_bytes(kv->dtype),
        .scale = start + kv->head_bytes - (kv->block_size - at) * sizeof(float),
    };
}

/* The scale of codes whose largest value is `amax`: it becomes 448, the largest code. Small ones
 * share the smallest normal scale, so that no quotient overflows. NaN, and so is all that is read,
 * where a value is not finite. */
static inline float kv_scale(float amax)
{
    const float scale = amax / 448.0f, least = 0x1p-126f;

    if (!(amax <= FLT_MAX))
        return NAN;
    return scale < least ? least : scale;
}

/* The first query head that reads KV head `head`, and how many follow it (0: none). */
static inline uint32_t kv_query_heads(const uint16_t *q_to_kv, uint32_t heads, uint32_t head,
    uint32_t *first)
{
    uint32_t n = 0;

    *first = 0;
    while (*first < heads && q_to_kv[*first] != head)
        ++*first;
    while (*first + n < heads && q_to_kv[*first + n] == head)
        n++;
    return n;
}

#endif
