/* kv.h - where a position's k and v lie in the cache, and which query heads read them.
 *
 * Private to kernels/cpu. Layout: cpu.h, struct kv_view. */
#ifndef QUERN_KERNELS_CPU_KV_H
#define QUERN_KERNELS_CPU_KV_H

#include "kernels/cpu/cpu.h"

enum { MAX_HEAD_DIM = PROGRAM_MAX_HEAD_DIM };

/* Element index of head `head` at `position`, the same in k and v. */
static inline size_t kv_at(const struct kv_view *kv, const uint32_t *blocks, uint32_t head,
    uint32_t position)
{
    size_t block = blocks[position / kv->block_size];

    return ((block * kv->kv_heads + head) * kv->block_size + position % kv->block_size) *
        kv->head_dim;
}

static inline const void *kv_address(const void *base, enum dtype type, size_t element)
{
    return (const char *)base + element * dtype_bytes(type);
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
