/* attention_case.h - a random cache behind scattered block tables, and questions to it.
 *
 * Used by test_attention.c and test_order.c. The same seed with another block size or table
 * gives the same k and v at the same positions. */
#ifndef QUERN_TESTS_KERNELS_ATTENTION_CASE_H
#define QUERN_TESTS_KERNELS_ATTENTION_CASE_H

#include "tests/kernels/cache_case.h"

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
    struct attention_case c = {.keys = random_floats(cells, &seed),
        .values = random_floats(cells, &seed), .table = shuffled(n_blocks, &table_seed)};

    c.q = random_floats((size_t)s.tokens * ld, &seed);
    c.out_floats = (size_t)s.tokens * (ld + 3);
    c.out = random_floats(c.out_floats, &seed);
    c.position = take_exact(s.tokens * sizeof(*c.position));
    c.blocks = take_exact(s.tokens * sizeof(*c.blocks));
    c.q_to_kv = take_exact(s.heads * sizeof(*c.q_to_kv));
    c.args = (struct attention_args){.out = c.out, .ld_out = ld + 3, .q = c.q, .ld_q = ld,
        /* NaN: what lies past the end must never be used */
        .kv = cache_make(s.dtype, n_blocks, s.kv_heads, s.block_size, s.head_dim, 0xff),
        .q_to_kv = c.q_to_kv, .heads = s.heads, .scale = 1.0f / sqrtf((float)s.head_dim),
        .blocks = c.blocks, .position = c.position, .tokens = s.tokens};
    for (uint32_t t = 0; t < s.tokens; t++) {
        c.position[t] = s.length - s.tokens + t;
        c.blocks[t] = c.table;
    }
    for (uint32_t h = 0; h < s.heads; h++)
        c.q_to_kv[h] = (uint16_t)(h * s.kv_heads / s.heads);
    for (size_t i = 0; i < cells; i += s.head_dim) {
        uint32_t pos = (uint32_t)(i / s.head_dim / s.kv_heads), block = c.table[pos / s.block_size];
        uint32_t head = (uint32_t)(i / s.head_dim % s.kv_heads), at = pos % s.block_size;

        cache_put(&c.args.kv, c.args.kv.k, block, head, at, c.keys + i);
        cache_put(&c.args.kv, c.args.kv.v, block, head, at, c.values + i);
    }
    return c;
}

SUPPORT void attention_case_free(struct attention_case *c)
{
    cache_free(&c->args.kv);
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
