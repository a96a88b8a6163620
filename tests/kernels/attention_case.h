/* attention_case.h - a random cache behind scattered block tables, and questions to it.
 *
 * Used by test_attention.c and test_order.c. The same seed with another block size or table
 * gives the same k and v at the same positions. */
#ifndef QUERN_TESTS_KERNELS_ATTENTION_CASE_H
#define QUERN_TESTS_KERNELS_ATTENTION_CASE_H

#include "tests/kernels/support.h"

struct attention_case {
    struct attention_args args;
    float *keys, *values; /* [length, kv_heads, head_dim], as the cache holds them (rounded) */
    float *q, *out;
    uint32_t *table, *position;
    const uint32_t **blocks;
    uint16_t *q_to_kv;
    size_t out_floats;
};

struct attention_shape {
    uint32_t length, heads, kv_heads, head_dim, block_size, tokens;
    enum dtype dtype;
};

SUPPORT float rounded_to(enum dtype type, float x)
{
    return type == DTYPE_BF16 ? bf16_round(x) : type == DTYPE_F16 ? f16_to_f32(f32_to_f16(x)) : x;
}

SUPPORT void cache_put(void *base, enum dtype type, size_t at, float x)
{
    if (type == DTYPE_BF16)
        ((uint16_t *)base)[at] = f32_to_bf16(x);
    else if (type == DTYPE_F16)
        ((uint16_t *)base)[at] = f32_to_f16(x);
    else
        ((float *)base)[at] = x;
}

/* A permutation of 0 .. n - 1. */
SUPPORT uint32_t *shuffled(uint32_t n, uint64_t *seed)
{
    uint32_t *p = take_exact(n * sizeof(*p));

    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = random_between(seed, 0, i);

        p[i] = i;
        p[i] = p[j];
        p[j] = i;
    }
    return p;
}

/* Tokens are the last ones of the sequence: positions length - tokens .. length - 1. */
SUPPORT struct attention_case attention_case_make(struct attention_shape s, uint64_t seed)
{
    uint64_t table_seed = seed + s.block_size;
    uint32_t n_blocks = (s.length + s.block_size - 1) / s.block_size, ld = s.heads * s.head_dim;
    size_t cells = (size_t)s.length * s.kv_heads * s.head_dim;
    size_t room = (size_t)n_blocks * s.kv_heads * s.block_size * s.head_dim * dtype_bytes(s.dtype);
    struct attention_case c = {.keys = random_floats(cells, &seed),
        .values = random_floats(cells, &seed), .table = shuffled(n_blocks, &table_seed)};

    c.q = random_floats((size_t)s.tokens * ld, &seed);
    c.out_floats = (size_t)s.tokens * (ld + 3);
    c.out = random_floats(c.out_floats, &seed);
    c.position = take_exact(s.tokens * sizeof(*c.position));
    c.blocks = take_exact(s.tokens * sizeof(*c.blocks));
    c.q_to_kv = take_exact(s.heads * sizeof(*c.q_to_kv));
    c.args = (struct attention_args){.out = c.out, .ld_out = ld + 3, .q = c.q, .ld_q = ld,
        .kv = {.k = take_exact(room), .v = take_exact(room), .dtype = s.dtype,
            .kv_heads = s.kv_heads, .block_size = s.block_size, .head_dim = s.head_dim},
        .q_to_kv = c.q_to_kv, .heads = s.heads, .scale = 1.0f / sqrtf((float)s.head_dim),
        .blocks = c.blocks, .position = c.position, .tokens = s.tokens};
    memset(c.args.kv.k, 0xff, room); /* NaN: what lies past the end must never be used */
    memset(c.args.kv.v, 0xff, room);
    for (uint32_t t = 0; t < s.tokens; t++) {
        c.position[t] = s.length - s.tokens + t;
        c.blocks[t] = c.table;
    }
    for (uint32_t h = 0; h < s.heads; h++)
        c.q_to_kv[h] = (uint16_t)(h * s.kv_heads / s.heads);
    for (size_t i = 0; i < cells; i++) {
        uint32_t pos = (uint32_t)(i / s.head_dim / s.kv_heads);
        size_t head = i / s.head_dim % s.kv_heads, lane = i % s.head_dim;
        size_t at = ((c.table[pos / s.block_size] * (size_t)s.kv_heads + head) * s.block_size +
            pos % s.block_size) * s.head_dim + lane;

        c.keys[i] = rounded_to(s.dtype, c.keys[i]);
        c.values[i] = rounded_to(s.dtype, c.values[i]);
        cache_put(c.args.kv.k, s.dtype, at, c.keys[i]);
        cache_put(c.args.kv.v, s.dtype, at, c.values[i]);
    }
    return c;
}

SUPPORT void attention_case_free(struct attention_case *c)
{
    free(c->args.kv.k);
    free(c->args.kv.v);
    free(c->keys);
    free(c->values);
    free(c->q);
    free(c->out);
    free(c->table);
    free(c->position);
    free(c->blocks);
    free(c->q_to_kv);
}

#endif
