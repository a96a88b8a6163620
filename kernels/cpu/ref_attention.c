/* ref_attention.c - the scalar reference of attention and of what fills its cache.
 *
 * One token and one query head at a time. Within a split of ATTENTION_SPLIT
 * positions: scores, their maximum, exponentials, their sum, weighted v; splits
 * are merged ascending. Nothing but the token's own position and cache enters,
 * so prefill, decode and any chunking give the same bits. */
#include <math.h>

#include "kernels/cpu/kv.h"
#include "kernels/cpu/rows.h"

/* x [d] = what one head holds at one position, of k or v from `base` on. */
static void load_head(float *x, const struct kv_view *kv, const void *base, struct kv_place at)
{
    const void *row = (const char *)base + at.row;
    float scale = kv->dtype == DTYPE_E4M3 ? *(const float *)((const char *)base + at.scale) : 1.0f;

    for (uint32_t i = 0; i < kv->head_dim; i++)
        switch (kv->dtype) {
        case DTYPE_BF16: x[i] = bf16_to_f32(((const uint16_t *)row)[i]); break;
        case DTYPE_F16: x[i] = f16_to_f32(((const uint16_t *)row)[i]); break;
        case DTYPE_E4M3: x[i] = e4m3_to_f32(((const uint8_t *)row)[i]) * scale; break;
        default: x[i] = ((const float *)row)[i];
        }
}

/* A NaN is the largest of all. */
static float scale_of(const float *x, uint32_t d)
{
    float amax = 0.0f;

    for (uint32_t i = 0; i < d; i++)
        if (fabsf(x[i]) > amax || isnan(x[i]))
            amax = fabsf(x[i]);
    return kv_scale(amax);
}

static void store_head(const struct kv_view *kv, void *base, struct kv_place at, const float *x)
{
    void *row = (char *)base + at.row;
    float scale = 1.0f;

    if (kv->dtype == DTYPE_E4M3)
        *(float *)((char *)base + at.scale) = scale = scale_of(x, kv->head_dim);
    for (uint32_t i = 0; i < kv->head_dim; i++)
        switch (kv->dtype) {
        case DTYPE_BF16: ((uint16_t *)row)[i] = f32_to_bf16(x[i]); break;
        case DTYPE_F16: ((uint16_t *)row)[i] = f32_to_f16(x[i]); break;
        case DTYPE_E4M3: ((uint8_t *)row)[i] = f32_to_e4m3(x[i] / scale); break;
        default: ((float *)row)[i] = x[i];
        }
}

/* Softmax over some positions, not yet divided: out = sum of e^(score - max) * v. */
struct partial {
    float max, sum;
    float out[MAX_HEAD_DIM];
};

/* One split: positions [from, to). q [head_dim]. */
static void attend_split(struct partial *part, const struct attention_args *a, uint32_t token,
    uint32_t kv_head, const float *q, uint32_t from, uint32_t to)
{
    const struct kv_view *kv = &a->kv;
    float p[ATTENTION_SPLIT], row[MAX_HEAD_DIM];

    *part = (struct partial){.max = -INFINITY};
    for (uint32_t pos = from; pos < to; pos++) {
        float dot = 0.0f;

        load_head(row, kv, kv->k, kv_at(kv, a->blocks[token], kv_head, pos));
        for (uint32_t i = 0; i < kv->head_dim; i++)
            dot += q[i] * row[i];
        p[pos - from] = dot * a->scale;
        part->max = fmaxf(part->max, p[pos - from]);
    }
    for (uint32_t pos = from; pos < to; pos++) {
        float weight = expf(p[pos - from] - part->max);

        load_head(row, kv, kv->v, kv_at(kv, a->blocks[token], kv_head, pos));
        part->sum += weight;
        for (uint32_t i = 0; i < kv->head_dim; i++)
            part->out[i] += weight * row[i];
    }
}

static void merge(struct partial *total, const struct partial *part, uint32_t head_dim)
{
    float max = fmaxf(total->max, part->max);
    float keep = expf(total->max - max), add = expf(part->max - max);

    total->max = max;
    total->sum = total->sum * keep + part->sum * add;
    for (uint32_t i = 0; i < head_dim; i++)
        total->out[i] = total->out[i] * keep + part->out[i] * add;
}

static void attend(const struct attention_args *a, uint32_t token, uint32_t kv_head, uint32_t head)
{
    uint32_t d = a->kv.head_dim, length = a->position[token] + 1;
    const float *q = a->q + token * a->ld_q + (size_t)head * d;
    float *out = a->out + token * a->ld_out + (size_t)head * d;
    struct partial total, part;

    for (uint32_t from = 0; from < length; from += ATTENTION_SPLIT) {
        uint32_t to = length - from < ATTENTION_SPLIT ? length : from + ATTENTION_SPLIT;

        attend_split(from == 0 ? &total : &part, a, token, kv_head, q, from, to);
        if (from > 0)
            merge(&total, &part, d);
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] = total.out[i] / total.sum;
}

static void attention(const struct attention_args *a, uint32_t item0, uint32_t item1)
{
    for (uint32_t item = item0; item < item1; item++) {
        uint32_t token = item / a->kv.kv_heads, kv_head = item % a->kv.kv_heads, first;
        uint32_t n = kv_query_heads(a->q_to_kv, a->heads, kv_head, &first);

        for (uint32_t h = first; h < first + n; h++)
            attend(a, token, kv_head, h);
    }
}

/* x [d]: rms norm with weight w, then lanes i and i + d/2 turned by angle i. */
static void norm_and_turn(float *x, const float *w, float eps, const float *cosine,
    const float *sine, uint32_t d)
{
    double squares = 0;

    for (uint32_t i = 0; i < d; i++)
        squares += (double)x[i] * x[i];

    float scale = (float)(1.0 / sqrt(squares / d + (double)eps));

    for (uint32_t i = 0; i < d / 2; i++) {
        float a = x[i] * scale * w[i], b = x[i + d / 2] * scale * w[i + d / 2];

        x[i] = a * cosine[i] - b * sine[i];
        x[i + d / 2] = b * cosine[i] + a * sine[i];
    }
}

static void rope_token(const struct rope_args *a, uint32_t token)
{
    const struct kv_view *kv = &a->kv;
    uint32_t d = kv->head_dim;
    size_t angles = (size_t)token * (d / 2);
    const float *cosine = a->cos + angles, *sine = a->sin + angles;
    float *q = a->qkv + token * a->ld, *k = q + (size_t)a->heads * d;
    const float *v = k + (size_t)kv->kv_heads * d;

    for (uint32_t h = 0; h < a->heads; h++)
        norm_and_turn(q + (size_t)h * d, a->q_norm, a->eps, cosine, sine, d);
    for (uint32_t h = 0; h < kv->kv_heads; h++, k += d, v += d) {
        struct kv_place at = kv_at(kv, a->blocks[token], h, a->position[token]);

        norm_and_turn(k, a->k_norm, a->eps, cosine, sine, d);
        store_head(kv, kv->k, at, k);
        store_head(kv, kv->v, at, v);
    }
}

static void qk_rope(const struct rope_args *a, uint32_t row0, uint32_t row1)
{
    for (uint32_t token = row0; token < row1; token++)
        rope_token(a, token);
}

void attention_rows_scalar(struct cpu_kernels *t)
{
    t->attention = attention;
    t->qk_rope = qk_rope;
}
