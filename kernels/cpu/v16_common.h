/* v16_common.h - what follows from a v16's operations, whatever it is made of.
 *
 * Included by v16_avx2.h and v16_avx512.h alone, at their end. Every tree over
 * lanes is fixed: lanes 8 apart, neighbours, pairs of neighbours, halves. */
#ifndef QUERN_KERNELS_CPU_V16_COMMON_H
#define QUERN_KERNELS_CPU_V16_COMMON_H

#include <string.h>

/* n lanes (n <= 16); the others are zero and their memory is not touched. */
V16_FN v16 v16_load_n(const float *p, uint32_t n)
{
    float lanes[16] = {0};

    if (n == 16)
        return v16_load(p);
    memcpy(lanes, p, n * sizeof(*p));
    return v16_load(lanes);
}

V16_FN void v16_store_n(float *p, v16 a, uint32_t n)
{
    float lanes[16];

    if (n == 16) {
        v16_store(p, a);
        return;
    }
    v16_store(lanes, a);
    memcpy(p, lanes, n * sizeof(*p));
}

/* The sums of the lanes of four v16, each by the same tree, of which v16_fold_add() was the first
 * step. */
V16_FN __m128 v16_sum4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));

    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

V16_FN float v16_sum(v16 a)
{
    __m256 folded = v16_fold_add(a);

    return _mm_cvtss_f32(v16_sum4(folded, folded, folded, folded));
}

V16_FN float v16_largest(v16 a)
{
    __m256 m8 = v16_fold_max(a);
    __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));

    return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, the series of e^r up to r^7 / 7! (what is left
 * out is under 6e-9), times 2^n. Below -87.3 it stays 1.2e-38; above 88.8 it is infinite;
 * NaN stays NaN (min and max keep their second operand). ln 2 comes in two parts, the first
 * with so few bits that n times it is exact. */
V16_FN v16 v16_exp(v16 x)
{
    x = v16_min(v16_set1(89.0f), v16_max(v16_set1(-87.3f), x));

    v16 n = v16_round(v16_mul(x, v16_set1(0x1.715476p+0f)));
    v16 r = v16_fma(n, v16_set1(-0x1.62e4p-1f), x);

    r = v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), r);

    v16 p = v16_fma(v16_set1(1.0f / 5040), r, v16_set1(1.0f / 720));

    p = v16_fma(p, r, v16_set1(1.0f / 120));
    p = v16_fma(p, r, v16_set1(1.0f / 24));
    p = v16_fma(p, r, v16_set1(1.0f / 6));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_scale(v16_fma(p, r, v16_set1(1.0f)), n);
}

#endif
