/* attention_v16.h - attention over v16, written once for AVX2 and AVX-512.
 *
 * A template: includes after a v16 and defines static attention(). One item is a token and a KV
 * head; all query heads of that KV head (at most GROUP at a time) go through the cache together,
 * TILE_POSITIONS positions at a time: their k, then their v, are widened to f32 rows padded with
 * zeros, which every head then reads. head_dim is any number up to MAX_HEAD_DIM.
 *
 * Order: a score is one running sum per lane over head_dim and then v16's tree; a split's sum has
 * one running sum per lane over positions (16 apart) and the same tree; its weighted v is one
 * running sum per element over positions ascending; splits are merged ascending. All of it
 * depends on the token's position alone. */
#include "kernels/cpu/kv.h"

enum { GROUP = 8, TILE_POSITIONS = 16, HEAD_ROOM = MAX_HEAD_DIM };

/* What one item works on; about 60 KiB of stack. */
struct attend {
    const struct attention_args *args;
    const uint32_t *blocks;
    uint32_t kv_head, group; /* query heads in hand, 1 .. GROUP */
    uint32_t wide;           /* head_dim rounded up to 16 */
    float max[GROUP], sum[GROUP];
    _Alignas(64) float q[GROUP][HEAD_ROOM];
    _Alignas(64) float out[GROUP][HEAD_ROOM];        /* all splits so far */
    _Alignas(64) float part[GROUP][HEAD_ROOM];       /* this split */
    _Alignas(64) float p[GROUP][ATTENTION_SPLIT];    /* scores, then weights */
    _Alignas(64) float rows[TILE_POSITIONS][HEAD_ROOM]; /* k or v of a tile, zero past head_dim */
};

/* One row of d elements as f32, zeros up to a multiple of 16. `scale`: of E4M3 codes. */
V16_FN void widen_row(float *to, const void *from, enum dtype type, float scale, uint32_t d)
{
    const uint16_t *bits = from;
    const uint8_t *codes = from;
    v16 scale_256 = v16_set1(scale * 256);
    uint32_t i = 0, tail = d % 16;

    for (; i + 16 <= d; i += 16)
        v16_store(to + i, type == DTYPE_F32 ? v16_load((const float *)from + i)
                : type == DTYPE_BF16        ? v16_load_bf16(bits + i)
                : type == DTYPE_F16         ? v16_load_f16(bits + i)
                                            : v16_load_e4m3(codes + i, scale_256));
    if (tail == 0)
        return;
    v16_store(to + i, v16_set1(0.0f));
    for (; i < d; i++)
        to[i] = type == DTYPE_F32 ? ((const float *)from)[i]
            : type == DTYPE_BF16  ? bf16_to_f32(bits[i])
            : type == DTYPE_F16   ? f16_to_f32(bits[i])
                                  : e4m3_to_f32(codes[i]) * scale;
}

/* A block's positions lie one after the other: the table is asked once a block. */
V16_FN void widen_typed(struct attend *s, const void *base, enum dtype type, uint32_t from,
    uint32_t n)
{
    const struct kv_view *kv = &s->args->kv;
    size_t row_bytes = kv->head_dim * dtype_bytes(type);

    for (uint32_t i = 0; i < n;) {
        struct kv_place at = kv_at(kv, s->blocks, s->kv_head, from + i);
        const char *row = (const char *)base + at.row, *scale = (const char *)base + at.scale;
        uint32_t left = kv->block_size - (from + i) % kv->block_size;
        uint32_t end = n - i < left ? n : i + left;

        for (; i < end; i++, row += row_bytes, scale += sizeof(float))
            widen_row(s->rows[i], row, type,
                type == DTYPE_E4M3 ? *(const float *)scale : 1.0f, kv->head_dim);
    }
}

/* Positions [from, from + n) of k or v into s->rows; rows past n become zero. */
static void widen(struct attend *s, const void *base, uint32_t from, uint32_t n)
{
    switch (s->args->kv.dtype) {
    case DTYPE_BF16: widen_typed(s, base, DTYPE_BF16, from, n); break;
    case DTYPE_F16: widen_typed(s, base, DTYPE_F16, from, n); break;
    case DTYPE_E4M3: widen_typed(s, base, DTYPE_E4M3, from, n); break;
    default: widen_typed(s, base, DTYPE_F32, from, n);
    }
    for (uint32_t i = n; i < TILE_POSITIONS; i++)
        memset(s->rows[i], 0, s->wide * sizeof(float));
}

/* p[at .. at + 16) of every head = q . rows * scale. */
static void score_tile(struct attend *s, uint32_t at)
{
    __m128 scale = _mm_set1_ps(s->args->scale);

    for (uint32_t h = 0; h < s->group; h++)
        for (uint32_t i = 0; i < TILE_POSITIONS; i += 4) {
            const float *k = s->rows[i], *q = s->q[h];
            v16 a = v16_set1(0.0f), b = a, c = a, d = a;

            for (uint32_t j = 0; j < s->wide; j += 16) {
                v16 qj = v16_load(q + j);

                a = v16_fma(qj, v16_load(k + j), a);
                b = v16_fma(qj, v16_load(k + HEAD_ROOM + j), b);
                c = v16_fma(qj, v16_load(k + 2 * HEAD_ROOM + j), c);
                d = v16_fma(qj, v16_load(k + 3 * HEAD_ROOM + j), d);
            }
            _mm_storeu_ps(s->p[h] + at + i, _mm_mul_ps(v16_sum4(a, b, c, d), scale));
        }
}

/* Scores p [n] of a head -> weights e^(p - max), zero up to a multiple of 16; their sum. */
static float weigh(float *p, uint32_t n, float *max)
{
    v16 largest = v16_set1(-INFINITY), sum = v16_set1(0.0f);
    uint32_t wide = (n + 15) / 16 * 16;

    for (uint32_t i = n; i < wide; i++)
        p[i] = -INFINITY;
    for (uint32_t i = 0; i < wide; i += 16)
        largest = v16_max(v16_load(p + i), largest);
    *max = v16_largest(largest);
    for (uint32_t i = 0; i < wide; i += 16)
        v16_store(p + i, v16_exp(v16_sub(v16_load(p + i), v16_set1(*max))));
    for (uint32_t i = n; i < wide; i++)
        p[i] = 0.0f;
    for (uint32_t i = 0; i < wide; i += 16)
        sum = v16_add(sum, v16_load(p + i));
    return v16_sum(sum);
}

/* part[j .. j + 16 * VECTORS) += the tile's v rows, weighted by p[0 .. 16). */
V16_FN void add_weighted(float *part, const float *rows, const float *p, const int vectors)
{
    v16 acc[4];

#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        acc[v] = v16_load(part + 16 * v);
    for (int i = 0; i < TILE_POSITIONS; i++) {
        v16 weight = v16_set1(p[i]);

#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            acc[v] = v16_fma(weight, v16_load(rows + i * HEAD_ROOM + 16 * v), acc[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        v16_store(part + 16 * v, acc[v]);
}

static void value_tile(struct attend *s, uint32_t at)
{
    for (uint32_t h = 0; h < s->group; h++) {
        uint32_t j = 0;

        for (; j + 64 <= s->wide; j += 64)
            add_weighted(s->part[h] + j, s->rows[0] + j, s->p[h] + at, 4);
        for (; j < s->wide; j += 16)
            add_weighted(s->part[h] + j, s->rows[0] + j, s->p[h] + at, 1);
    }
}

/* This split's max, sum and part joined to those before it. */
static void merge_split(struct attend *s, uint32_t h, float max, float sum)
{
    float lanes[16] = {s->max[h], max};
    v16 largest = v16_set1(max > s->max[h] ? max : s->max[h]), keep, add;

    v16_store(lanes, v16_exp(v16_sub(v16_load(lanes), largest)));
    keep = v16_set1(lanes[0]);
    add = v16_set1(lanes[1]);
    if (max > s->max[h])
        s->max[h] = max;
    s->sum[h] = s->sum[h] * lanes[0] + sum * lanes[1];
    for (uint32_t j = 0; j < s->wide; j += 16)
        v16_store(s->out[h] + j, v16_fma(v16_load(s->out[h] + j), keep,
            v16_mul(v16_load(s->part[h] + j), add)));
}

/* Positions [from, from + n), n <= ATTENTION_SPLIT. */
static void attend_split(struct attend *s, uint32_t from, uint32_t n)
{
    const struct kv_view *kv = &s->args->kv;
    float max[GROUP], sum[GROUP];

    for (uint32_t at = 0; at < n; at += TILE_POSITIONS) {
        widen(s, kv->k, from + at, n - at < TILE_POSITIONS ? n - at : TILE_POSITIONS);
        score_tile(s, at);
    }
    for (uint32_t h = 0; h < s->group; h++) {
        sum[h] = weigh(s->p[h], n, &max[h]);
        memset(s->part[h], 0, s->wide * sizeof(float));
    }
    for (uint32_t at = 0; at < n; at += TILE_POSITIONS) {
        widen(s, kv->v, from + at, n - at < TILE_POSITIONS ? n - at : TILE_POSITIONS);
        value_tile(s, at);
    }
    for (uint32_t h = 0; h < s->group; h++)
        if (from == 0) {
            s->max[h] = max[h];
            s->sum[h] = sum[h];
            memcpy(s->out[h], s->part[h], s->wide * sizeof(float));
        } else {
            merge_split(s, h, max[h], sum[h]);
        }
}

/* Query heads [head, head + s->group) of one token. */
static void attend_heads(struct attend *s, uint32_t token, uint32_t head)
{
    const struct attention_args *a = s->args;
    uint32_t d = a->kv.head_dim, length = a->position[token] + 1;
    const float *q = a->q + token * a->ld_q + (size_t)head * d;
    float *out = a->out + token * a->ld_out + (size_t)head * d;

    for (uint32_t h = 0; h < s->group; h++)
        widen_row(s->q[h], q + (size_t)h * d, DTYPE_F32, 1.0f, d);
    for (uint32_t from = 0; from < length; from += ATTENTION_SPLIT)
        attend_split(s, from,
            length - from < ATTENTION_SPLIT ? length - from : ATTENTION_SPLIT);
    for (uint32_t h = 0; h < s->group; h++)
        for (uint32_t j = 0; j < d; j += 16)
            v16_store_n(out + (size_t)h * d + j,
                v16_div(v16_load(s->out[h] + j), v16_set1(s->sum[h])), d - j < 16 ? d - j : 16);
}

static void attention(const struct attention_args *a, uint32_t item0, uint32_t item1)
{
    struct attend s;

    s.args = a;
    s.wide = (a->kv.head_dim + 15) / 16 * 16;
    for (uint32_t item = item0; item < item1; item++) {
        uint32_t token = item / a->kv.kv_heads, first, n;

        s.blocks = a->blocks[token];
        s.kv_head = item % a->kv.kv_heads;
        n = kv_query_heads(a->q_to_kv, a->heads, s.kv_head, &first);
        for (; n > 0; first += s.group, n -= s.group) {
            s.group = n < GROUP ? n : GROUP;
            attend_heads(&s, token, first);
        }
    }
}
