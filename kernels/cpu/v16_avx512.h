/* v16_avx512.h - sixteen floats as one AVX-512 register: one panel's outputs.
 *
 * The same operations as v16_avx2.h (see there), lane by lane. Include in files
 * built with -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl only. */
#ifndef QUERN_KERNELS_CPU_V16_AVX512_H
#define QUERN_KERNELS_CPU_V16_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define V16_FN static inline __attribute__((always_inline, unused))

typedef __m512 v16;

/* Independent sums that keep both multiply-add units busy and leave registers for operands. */
enum { V16_SUMS = 8 };

V16_FN v16 v16_set1(float x)
{
    return _mm512_set1_ps(x);
}

V16_FN v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

V16_FN void v16_store(float *p, v16 a)
{
    _mm512_storeu_ps(p, a);
}

V16_FN v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

V16_FN v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

V16_FN v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

V16_FN v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c, rounded once. */
V16_FN v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* b where either is NaN. */
V16_FN v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

V16_FN v16 v16_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

/* To the nearest integer, ties to even. */
V16_FN v16 v16_round(v16 a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* x * 2^n for integers n in [-126, 128]. */
V16_FN v16 v16_scale(v16 x, v16 n)
{
    return _mm512_scalef_ps(x, n);
}

V16_FN v16 v16_load_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));

    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

V16_FN v16 v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* 16 e4m3, each a 256th of its value: see v16_avx2.h. */
V16_FN v16 v16_load_e4m3_256th(const uint8_t *p)
{
    __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p)), 8);
    __m256i half = _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbfff));

    return _mm512_cvtph_ps(half);
}

/* Of 16 pairs of bf16 [16][2]: the first of each (half 0) or the second (half 1). */
V16_FN v16 v16_load_half(const void *p, int half)
{
    __m512i pairs = _mm512_loadu_si512(p);

    if (half == 0)
        return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
}

/* Lane i and lane i + 8 together: the first step of every tree over lanes. */
V16_FN __m256 v16_fold_add(v16 a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

V16_FN __m256 v16_fold_max(v16 a)
{
    return _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

#include "kernels/cpu/v16_common.h"

#endif
