/* norm_avx2.c - everything between the matrix products, with AVX2.
 *
 * These are bound by memory, so one file over v16 serves AVX-512 machines too.
 * A norm's sum of squares has one running sum per lane (columns 16 apart) and
 * v16's tree over lanes: a function of the width alone. Rows whose width is no
 * multiple of 16 end in a vector filled up with zeros. */
#include <math.h>

#include "kernels/cpu/kv.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/v16_avx2.h"

static uint32_t lanes_left(uint32_t n, uint32_t i)
{
    return n - i < 16 ? n - i : 16;
}

static float rms_scale(float squares, uint32_t n, float eps)
{
    return 1.0f / sqrtf(squares / (float)n + eps);
}

static void norm_row(float *out, float *x, const float *y, const float *w, float eps, uint32_t cols)
{
    v16 squares = v16_set1(0.0f);

    for (uint32_t i = 0; i < cols; i += 16) {
        uint32_t n = lanes_left(cols, i);
        v16 v = v16_load_n(x + i, n);

        if (y != NULL) {
            v = v16_add(v, v16_load_n(y + i, n));
            v16_store_n(x + i, v, n);
        }
        squares = v16_fma(v, v, squares);
    }

    v16 scale = v16_set1(rms_scale(v16_sum(squares), cols, eps));

    for (uint32_t i = 0; i < cols; i += 16) {
        uint32_t n = lanes_left(cols, i);

        v16_store_n(out + i, v16_mul(v16_mul(v16_load_n(x + i, n), scale), v16_load_n(w + i, n)),
            n);
    }
}

static void add_norm(float *out, float *x, const float *y, const float *w, float eps, uint32_t cols,
    uint32_t row0, uint32_t row1)
{
    for (size_t row = row0; row < row1; row++)
        norm_row(out + row * cols, x + row * cols, y != NULL ? y + row * cols : NULL, w, eps, cols);
}

static void silu_mul(float *out, const float *x, uint32_t cols, uint32_t row0, uint32_t row1)
{
    v16 zero = v16_set1(0.0f), one = v16_set1(1.0f);

    for (size_t row = row0; row < row1; row++) {
        const float *gate = x + row * 2 * cols, *up = gate + cols;

        for (uint32_t i = 0; i < cols; i += 16) {
            uint32_t n = lanes_left(cols, i);
            v16 g = v16_load_n(gate + i, n);
            v16 silu = v16_div(g, v16_add(one, v16_exp(v16_sub(zero, g))));

            v16_store_n(out + row * cols + i, v16_mul(silu, v16_load_n(up + i, n)), n);
        }
    }
}

static void sum_ranks(float *dst, const float *const *src, int ranks, size_t n)
{
    for (size_t i = 0; i < n; i += 16) {
        uint32_t lanes = n - i < 16 ? (uint32_t)(n - i) : 16;
        v16 sum = v16_set1(0.0f);

        for (int r = 0; r < ranks; r++)
            sum = v16_add(sum, v16_load_n(src[r] + i, lanes));
        v16_store_n(dst + i, sum, lanes);
    }
}

/* The bits of 8 floats, rounded to bf16, in the upper halves of the lanes: f32_to_bf16(). */
static __m256i round8(__m256 x)
{
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));

    return _mm256_and_si256(_mm256_blendv_epi8(up, quiet, nan),
        _mm256_set1_epi32((int)0xffff0000));
}

static void round_bf16(uint16_t *dst, const float *src, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i r = _mm256_srli_epi32(round8(_mm256_loadu_ps(src + i)), 16);

        _mm_storeu_si128((__m128i *)(dst + i),
            _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
    }
    for (; i < n; i++)
        dst[i] = f32_to_bf16(src[i]);
}

static void round_bf16_f32(float *dst, const float *src, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(round8(_mm256_loadu_ps(src + i))));
    for (; i < n; i++)
        dst[i] = bf16_round(src[i]);
}

static void round_f16(uint16_t *dst, const float *src, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(dst + i),
            _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        dst[i] = f32_to_f16(src[i]);
}

/* The largest |x| of n; a NaN, whose bits are above infinity's, if there is one. */
static float largest_size(const float *x, uint32_t n)
{
    __m256i most = _mm256_setzero_si256(), size = _mm256_set1_epi32(0x7fffffff);
    float lanes[8], largest = 0.0f;
    uint32_t i = 0;

    for (; i + 8 <= n; i += 8)
        most = _mm256_max_epi32(most,
            _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), size));
    _mm256_storeu_ps(lanes, _mm256_castsi256_ps(most));
    for (int lane = 0; lane < 8; lane++)
        if (lanes[lane] > largest || isnan(lanes[lane]))
            largest = lanes[lane];
    for (; i < n; i++)
        if (fabsf(x[i]) > largest || isnan(x[i]))
            largest = fabsf(x[i]);
    return largest;
}

/* f32_to_e4m3() of 8 floats that round to 448 at most, a code in each 32-bit lane. Below 2^-6, where
 * codes lie 2^-9 apart, adding 2^14 rounds to such steps: what is added to its bits is the code. */
static __m256i e4m3_8(__m256 x)
{
    const __m256 shift = _mm256_set1_ps(0x1p14f);
    __m256i bits = _mm256_castps_si256(x);
    __m256i size = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(size, 20), _mm256_set1_epi32(1));
    __m256i normal = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(size, odd),
        _mm256_set1_epi32(0x7ffff - (120 << 23))), 20);
    __m256i small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(size),
        shift)), _mm256_castps_si256(shift));
    __m256i code = _mm256_blendv_epi8(small, normal,
        _mm256_cmpgt_epi32(size, _mm256_set1_epi32(0x3c7fffff)));

    return _mm256_or_si256(code,
        _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80)));
}

static void round_e4m3(uint8_t *dst, const float *src, size_t n, float scale)
{
    __m256 by = _mm256_set1_ps(scale);
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i codes = e4m3_8(_mm256_div_ps(_mm256_loadu_ps(src + i), by));
        __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes),
            _mm256_extracti128_si256(codes, 1));

        _mm_storel_epi64((__m128i *)(dst + i), _mm_packus_epi16(words, words));
    }
    for (; i < n; i++)
        dst[i] = f32_to_e4m3(src[i] / scale);
}

/* x [head_dim] into one of k and v. */
static void store_head(const struct kv_view *kv, void *base, struct kv_place at, const float *x)
{
    void *row = (char *)base + at.row;
    float scale;

    switch (kv->dtype) {
    case DTYPE_BF16: round_bf16(row, x, kv->head_dim); break;
    case DTYPE_F16: round_f16(row, x, kv->head_dim); break;
    case DTYPE_E4M3:
        scale = kv_scale(largest_size(x, kv->head_dim));
        *(float *)((char *)base + at.scale) = scale;
        round_e4m3(row, x, kv->head_dim, scale);
        break;
    default: memcpy(row, x, kv->head_dim * sizeof(*x));
    }
}

/* x [d]: rms norm with weight w, then lanes i and i + d/2 turned by angle i. */
static void norm_and_turn(float *x, const float *w, float eps, const float *cosine,
    const float *sine, uint32_t d)
{
    float normed[MAX_HEAD_DIM];
    uint32_t half = d / 2;

    norm_row(normed, x, NULL, w, eps, d);
    for (uint32_t i = 0; i < half; i += 16) {
        uint32_t n = lanes_left(half, i);
        v16 a = v16_load_n(normed + i, n), b = v16_load_n(normed + half + i, n);
        v16 c = v16_load_n(cosine + i, n), s = v16_load_n(sine + i, n);

        v16_store_n(x + i, v16_sub(v16_mul(a, c), v16_mul(b, s)), n);
        v16_store_n(x + half + i, v16_add(v16_mul(b, c), v16_mul(a, s)), n);
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

/* The largest value first, NaNs passed over, then the first place that has it. */
static uint32_t argmax(const float *x, uint32_t n)
{
    v16 best = v16_set1(-INFINITY);
    uint32_t i = 0;
    float largest;

    for (; i + 16 <= n; i += 16)
        best = v16_max(v16_load(x + i), best);
    largest = v16_largest(best);
    for (; i < n; i++)
        if (x[i] > largest)
            largest = x[i];
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 same = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(largest), _CMP_EQ_OQ);
        int lanes = _mm256_movemask_ps(same);

        if (lanes != 0)
            return i + (uint32_t)__builtin_ctz((unsigned)lanes);
    }
    for (; i < n; i++)
        if (x[i] == largest)
            return i;
    return 0;
}

void norm_rows_avx2(struct cpu_kernels *t)
{
    t->add_norm = add_norm;
    t->qk_rope = qk_rope;
    t->silu_mul = silu_mul;
    t->sum_ranks = sum_ranks;
    t->round_bf16 = round_bf16;
    t->round_bf16_f32 = round_bf16_f32;
    t->argmax = argmax;
}
