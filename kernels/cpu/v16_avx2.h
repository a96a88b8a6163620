/* v16_avx2.h - sixteen floats as two AVX2 registers: one panel's outputs.
 *
 * The kernels are written once over v16 (linear_tile.h, attention_v16.h,
 * norm_avx2.c); this file and v16_avx512.h say what it is made of. Both do the
 * same operations lane by lane, fused multiply-add included, so that the rows
 * made from them agree in every bit. Include in files built with -mavx2 -mfma
 * -mf16c only. */
#ifndef QUERN_KERNELS_CPU_V16_AVX2_H
#define QUERN_KERNELS_CPU_V16_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define V16_FN static inline __attribute__((always_inline, unused))

typedef struct {
    __m256 lo, hi;
} v16;

/* Independent sums that keep both multiply-add units busy and leave registers for operands. */
enum { V16_SUMS = 4 };

V16_FN v16 v16_set1(float x)
{
    __m256 v = _mm256_set1_ps(x);

    return (v16){v, v};
}

V16_FN v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

V16_FN void v16_store(float *p, v16 a)
{
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

V16_FN v16 v16_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

V16_FN v16 v16_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

V16_FN v16 v16_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

/* a * b + c, rounded once. */
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

/* b where either is NaN. */
V16_FN v16 v16_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

V16_FN v16 v16_min(v16 a, v16 b)
{
    return (v16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

/* To the nearest integer, ties to even. */
V16_FN v16 v16_round(v16 a)
{
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };

    return (v16){_mm256_round_ps(a.lo, NEAREST), _mm256_round_ps(a.hi, NEAREST)};
}

/* x * 2^n for integers n in [-126, 128]: two halves, since 2^128 is no float. */
V16_FN __m256 v8_scale(__m256 x, __m256 n)
{
    __m256i e = _mm256_cvtps_epi32(n), e1 = _mm256_srai_epi32(e, 1), e2 = _mm256_sub_epi32(e, e1);
    __m256i bias = _mm256_set1_epi32(127);

    x = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e1, bias), 23)));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e2, bias), 23)));
}

V16_FN v16 v16_scale(v16 x, v16 n)
{
    return (v16){v8_scale(x.lo, n.lo), v8_scale(x.hi, n.hi)};
}

V16_FN __m256 v8_load_bf16(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));

    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    return (v16){v8_load_bf16(p), v8_load_bf16(p + 8)};
}

V16_FN v16 v16_load_f16(const uint16_t *p)
{
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
        _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}

/* 16 e4m3, each a 256th of its value: that is what a code's bits mean where f16 has them, subnormal
 * ones too. Moving them into f32 is 0.2 ns of 1.7 faster, but there subnormal ones would be slow on
 * some CPUs and lost where those are flushed; a table takes 9.7 ns. */
V16_FN v16 v16_load_e4m3_256th(const uint8_t *p)
{
    __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 8);
    __m256i half = _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbfff));

    return (v16){_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
        _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}

/* Of 16 pairs of bf16 [16][2]: the first of each (half 0) or the second (half 1). */
V16_FN __m256 v8_load_half(const void *p, int half)
{
    __m256i pairs = _mm256_loadu_si256(p);

    if (half == 0)
        return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

V16_FN v16 v16_load_half(const void *p, int half)
{
    return (v16){v8_load_half(p, half), v8_load_half((const char *)p + 32, half)};
}

/* Lane i and lane i + 8 together: the first step of every tree over lanes. */
V16_FN __m256 v16_fold_add(v16 a)
{
    return _mm256_add_ps(a.lo, a.hi);
}

V16_FN __m256 v16_fold_max(v16 a)
{
    return _mm256_max_ps(a.lo, a.hi);
}

#include "kernels/cpu/v16_common.h"

#endif
