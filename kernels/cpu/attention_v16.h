/* attention_v16.h - attention over v16, written once for AVX2 and AVX-512.
 *
 * A template: includes after a v16 and defines static attention(). One item is a token and a KV
 * head; all query heads of that KV head (at most GROUP at a time) go through the cache together,
 * TILE_POSITIONS positions at a time: their k, then their v. Values are widened to f32 in registers
 * and used there by as many heads as there are registers for sums; widening a tile into memory
 * first took 1.1 to 1.3 times as long. head_dim is any number up to MAX_HEAD_DIM.
 *
 * Order: a score is one running sum per lane over head_dim and then v16's tree; a split's sum has
 * one running sum per lane over positions (16 apart) and the same tree; its weighted v is one
 * running sum per element over positions ascending; splits are merged ascending. All of it
 * depends on the token's position alone. */
#include "kernels/cpu/kv.h"

enum { GROUP = 8, TILE_POSITIONS = 16, HEAD_ROOM = MAX_HEAD_DIM };

/* Rows of k or v, and where their scales lie, of E4M3. */
struct tile {
    const char *row[TILE_POSITIONS];
    const float *scale[TILE_POSITIONS];
};

/* What one item works on; about 32 KiB of stack. */
struct attend {
    const struct attention_args *args;
    const uint32_t *blocks;
    uint32_t length;         /* positions that the token attends to */
    uint32_t kv_head, group; /* query heads in hand, 1 .. GROUP */
    uint32_t wide;           /* head_dim rounded up to 16 */
    float max[GROUP], sum[GROUP];
    struct tile tiles[2], *tile, *next; /* in hand, and asked for meanwhile */
    _Alignas(64) float scale_256[TILE_POSITIONS]; /* of E4M3: what a 256th of a value is times */
    _Alignas(64) float q[GROUP][HEAD_ROOM];          /* zero past head_dim, as the next two */
    _Alignas(64) float out[GROUP][HEAD_ROOM];        /* all splits so far */
    _Alignas(64) float part[GROUP][HEAD_ROOM];       /* this split */
    _Alignas(64) float p[GROUP][ATTENTION_SPLIT];    /* scores, then weights */
};

/* Lanes [j, j + 16) of row i of the tile; zeros past head_dim. Of E4M3 without the scale, which
 * scores and weights are multiplied by: one number a row. */
V16_FN v16 load_lanes(const struct attend *s, uint32_t i, uint32_t j, enum dtype type)
{
    const char *from = s->tile->row[i] + j * dtype_bytes(type);
    uint32_t left = s->args->kv.head_dim - j;
    char end[16 * sizeof(float)];

    if (left < 16) {
        memset(end, 0, sizeof(end));
        memcpy(end, from, left * dtype_bytes(type));
        from = end;
    }
    switch (type) {
    case DTYPE_BF16: return v16_load_bf16((const uint16_t *)(const void *)from);
    case DTYPE_F16: return v16_load_f16((const uint16_t *)(const void *)from);
    case DTYPE_E4M3: return v16_load_e4m3_256th((const uint8_t *)from);
    default: return v16_load((const float *)(const void *)from);
    }
}

/* Positions from `from` on, of k or v, as a tile. A block's positions lie one after the other: the
 * table is asked once a block. Rows past the end are the first again, and of no use; false: all are
 * past it. */
static bool tile_set(const struct attend *s, struct tile *t, const void *base, uint32_t from)
{
    const struct kv_view *kv = &s->args->kv;
    size_t row_bytes = kv->head_dim * dtype_bytes(kv->dtype);
    uint32_t left = from < s->length ? s->length - from : 0;
    uint32_t n = left < TILE_POSITIONS ? left : TILE_POSITIONS;

    for (uint32_t i = 0; i < n;) {
        struct kv_place at = kv_at(kv, s->blocks, s->kv_head, from + i);
        const char *row = (const char *)base + at.row, *scale = (const char *)base + at.scale;
        uint32_t in_block = kv->block_size - (from + i) % kv->block_size;
        uint32_t end = n - i < in_block ? n : i + in_block;

        if (kv->dtype == DTYPE_E4M3)
            _mm_prefetch(scale, _MM_HINT_T0);
        for (; i < end; i++, row += row_bytes, scale += sizeof(float)) {
            t->row[i] = row;
            t->scale[i] = (const float *)(const void *)scale;
        }
    }
    for (uint32_t i = n; n > 0 && i < TILE_POSITIONS; i++) {
        t->row[i] = t->row[0];
        t->scale[i] = t->scale[0];
    }
    return n > 0;
}

/* The next tile is the one in hand, and behind it comes that at `from`; where there is none, what
 * is in hand is asked for once more. */
static void tile_next(struct attend *s, const void *base, uint32_t from)
{
    struct tile *last = s->tile;

    s->tile = s->next;
    s->next = last;
    if (!tile_set(s, s->next, base, from))
        *s->next = *s->tile;
    for (int i = 0; i < TILE_POSITIONS && s->args->kv.dtype == DTYPE_E4M3; i++)
        s->scale_256[i] = 256 * *s->tile->scale[i];
}

/* Asks for row i of the next tile where lanes [j, j + 16) begin a line of it: spread over the work on
 * the tile in hand, since the processor has few such requests open at once. Blocks lie anywhere, so
 * it begins anew at each; without this, a cache in memory took 1.5 to 2 times as long. */
V16_FN void fetch_lanes(const struct attend *s, uint32_t i, uint32_t j, enum dtype type)
{
    if (j * dtype_bytes(type) % 64 == 0)
        _mm_prefetch(s->next->row[i] + j * dtype_bytes(type), _MM_HINT_T0);
}

/* folded[g][first + i] = q of head h + g times row at + first + i, lanes folded once, for so many
 * of both. */
V16_FN void dot_rows(const struct attend *s, uint32_t h, uint32_t at, const int first,
    enum dtype type, const int heads, const int rows, __m256 folded[][4])
{
    v16 acc[4][8];

#pragma GCC unroll 4
    for (int g = 0; g < heads; g++)
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            acc[g][i] = v16_set1(0.0f);
    for (uint32_t j = 0; j < s->wide; j += 16) {
        v16 k[8];

#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            k[i] = load_lanes(s, at + (uint32_t)(first + i), j, type);
        if (h == 0)
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++)
                fetch_lanes(s, at + (uint32_t)(first + i), j, type);
#pragma GCC unroll 4
        for (int g = 0; g < heads; g++)
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++)
                acc[g][i] = v16_fma(v16_load(s->q[h + (uint32_t)g] + j), k[i], acc[g][i]);
    }
#pragma GCC unroll 4
    for (int g = 0; g < heads; g++)
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
            folded[g][first + i] = v16_fold_add(acc[g][i]);
}

/* p[at .. at + 16) of heads [h, h + heads) = q . k * scale. */
V16_FN void score_heads(struct attend *s, uint32_t h, uint32_t at, enum dtype type,
    const int heads)
{
    const int rows = V16_SUMS / heads < 4 ? V16_SUMS / heads : 4;
    __m128 scale = _mm_set1_ps(s->args->scale);

    for (uint32_t i = 0; i < TILE_POSITIONS; i += 4) {
        __m256 folded[4][4];
        __m128 by = scale;

#pragma GCC unroll 4
        for (int first = 0; first < 4; first += rows)
            dot_rows(s, h, i, first, type, heads, rows, folded);
        if (type == DTYPE_E4M3)
            by = _mm_mul_ps(scale, _mm_load_ps(s->scale_256 + i));
#pragma GCC unroll 4
        for (int g = 0; g < heads; g++)
            _mm_storeu_ps(s->p[h + (uint32_t)g] + at + i, _mm_mul_ps(v16_sum4(folded[g][0],
                folded[g][1], folded[g][2], folded[g][3]), by));
    }
}

V16_FN void score_typed(struct attend *s, uint32_t at, enum dtype type)
{
    uint32_t h = 0;

    for (; h + 4 <= s->group; h += 4)
        score_heads(s, h, at, type, 4);
    for (; h + 2 <= s->group; h += 2)
        score_heads(s, h, at, type, 2);
    if (h < s->group)
        score_heads(s, h, at, type, 1);
}

/* Of all heads and the tile, which is k. */
static void score_tile(struct attend *s, uint32_t at)
{
    switch (s->args->kv.dtype) {
    case DTYPE_BF16: score_typed(s, at, DTYPE_BF16); break;
    case DTYPE_F16: score_typed(s, at, DTYPE_F16); break;
    case DTYPE_E4M3: score_typed(s, at, DTYPE_E4M3); break;
    default: score_typed(s, at, DTYPE_F32);
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

/* part[j .. j + 16 * vectors) of heads [h, h + heads) += the tile's first n rows, weighted by
 * weights[head]. */
V16_FN void add_weighted(struct attend *s, uint32_t h, float weights[][TILE_POSITIONS], uint32_t n,
    uint32_t j, enum dtype type, const int heads, const int vectors)
{
    v16 acc[4][8];

#pragma GCC unroll 4
    for (int g = 0; g < heads; g++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            acc[g][v] = v16_load(s->part[h + (uint32_t)g] + j + 16 * v);
    for (uint32_t i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            v16 x = load_lanes(s, i, j + 16 * (uint32_t)v, type);

            if (h == 0)
                fetch_lanes(s, i, j + 16 * (uint32_t)v, type);

#pragma GCC unroll 4
            for (int g = 0; g < heads; g++)
                acc[g][v] = v16_fma(v16_set1(weights[g][i]), x, acc[g][v]);
        }
#pragma GCC unroll 4
    for (int g = 0; g < heads; g++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            v16_store(s->part[h + (uint32_t)g] + j + 16 * v, acc[g][v]);
}

V16_FN void value_heads(struct attend *s, uint32_t h, uint32_t at, uint32_t n, enum dtype type,
    const int heads)
{
    const int vectors = V16_SUMS / heads;
    uint32_t j = 0, step = 16 * (uint32_t)vectors;
    float weights[4][TILE_POSITIONS];

#pragma GCC unroll 4
    for (int g = 0; g < heads; g++) {
        v16 p = v16_load(s->p[h + (uint32_t)g] + at);

        v16_store(weights[g], type == DTYPE_E4M3 ? v16_mul(p, v16_load(s->scale_256)) : p);
    }
    for (; j + step <= s->wide; j += step)
        add_weighted(s, h, weights, n, j, type, heads, vectors);
    for (; j < s->wide; j += 16)
        add_weighted(s, h, weights, n, j, type, heads, 1);
}

V16_FN void value_typed(struct attend *s, uint32_t at, uint32_t n, enum dtype type)
{
    uint32_t h = 0;

    for (; h + 4 <= s->group; h += 4)
        value_heads(s, h, at, n, type, 4);
    for (; h + 2 <= s->group; h += 2)
        value_heads(s, h, at, n, type, 2);
    if (h < s->group)
        value_heads(s, h, at, n, type, 1);
}

/* Of all heads and n rows of the tile, which is v. */
static void value_tile(struct attend *s, uint32_t at, uint32_t n)
{
    switch (s->args->kv.dtype) {
    case DTYPE_BF16: value_typed(s, at, n, DTYPE_BF16); break;
    case DTYPE_F16: value_typed(s, at, n, DTYPE_F16); break;
    case DTYPE_E4M3: value_typed(s, at, n, DTYPE_E4M3); break;
    default: value_typed(s, at, n, DTYPE_F32);
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
        bool last = at + TILE_POSITIONS >= n;

        tile_next(s, last ? kv->v : kv->k, last ? from : from + at + TILE_POSITIONS);
        score_tile(s, at);
    }
    for (uint32_t h = 0; h < s->group; h++) {
        sum[h] = weigh(s->p[h], n, &max[h]);
        memset(s->part[h], 0, s->wide * sizeof(float));
    }
    for (uint32_t at = 0; at < n; at += TILE_POSITIONS) {
        uint32_t rows = n - at < TILE_POSITIONS ? n - at : TILE_POSITIONS;

        tile_next(s, at + TILE_POSITIONS < n ? kv->v : kv->k, from + at + TILE_POSITIONS);
        value_tile(s, at, rows);
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
    uint32_t d = a->kv.head_dim, length = s->length;
    const float *q = a->q + token * a->ld_q + (size_t)head * d;
    float *out = a->out + token * a->ld_out + (size_t)head * d;

    for (uint32_t h = 0; h < s->group; h++)
        for (uint32_t j = 0; j < d; j += 16)
            v16_store(s->q[h] + j, v16_load_n(q + (size_t)h * d + j, d - j < 16 ? d - j : 16));
    s->tile = &s->tiles[0];
    s->next = &s->tiles[1];
    tile_set(s, s->next, a->kv.k, 0);
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
        s.length = a->position[token] + 1;
        s.kv_head = item % a->kv.kv_heads;
        n = kv_query_heads(a->q_to_kv, a->heads, s.kv_head, &first);
        for (; n > 0; first += s.group, n -= s.group) {
            s.group = n < GROUP ? n : GROUP;
            attend_heads(&s, token, first);
        }
    }
}
