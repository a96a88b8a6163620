/* philox.c - a counter-based generator and a logarithm of our own.
 *
 * libm's logf may differ between versions and does between CPU and GPU, and
 * one differing bit can pick another token. So the logarithm is spelled out:
 * exponent and mantissa apart, a polynomial by fused multiply-adds (the
 * coefficients: a weighted minimax fit of (ln(1 + f) - f) / f^2 on
 * [-1/3, 1/3], error 5e-9).
 *
 * u has 25 significant bits, one more than a float: rounded, the largest words
 * would give u = 1 and infinite noise. Above one half, 1 - u is exact instead. */
#include "kernels/cpu/philox.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 10 };

struct philox_block philox(const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int i = 0; i < ROUNDS; i++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;

        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return (struct philox_block){{c0, c1, c2, c3}};
}

/* exponent ln 2 + ln(1 + f), |f| <= 1/3. */
static float log_of_parts(int exponent, float f)
{
    float e = (float)exponent, square = f * f, p = -0x1.0931dcp-3f;

    p = fmaf(p, f, 0x1.1ed142p-3f);
    p = fmaf(p, f, -0x1.f25ddcp-4f);
    p = fmaf(p, f, 0x1.1ebe68p-3f);
    p = fmaf(p, f, -0x1.55a754p-3f);
    p = fmaf(p, f, 0x1.99d1f2p-3f);
    p = fmaf(p, f, -0x1.fffe84p-3f);
    p = fmaf(p, f, 0x1.555502p-2f);
    p = fmaf(p, f, -0.5f);
    p = fmaf(p, square, f);
    p = fmaf(e, -0x1.05c610p-29f, p); /* ln 2 - its float */
    return fmaf(e, 0x1.62e430p-1f, p);
}

float portable_log(float x)
{
    const int32_t two_thirds = 0x3f2aaaab;
    int32_t bits, exponent;
    float mantissa;

    memcpy(&bits, &x, sizeof(bits));
    exponent = (bits - two_thirds) >> 23;
    bits -= exponent * (1 << 23); /* now in [2/3, 4/3) */
    memcpy(&mantissa, &bits, sizeof(mantissa));
    return log_of_parts(exponent, mantissa - 1.0f);
}

/* -ln u. Integers below are exact as floats, and so are 1 - u and 1 - 2 (1 - u). */
static float minus_log_uniform(uint32_t word)
{
    uint32_t half = word >> 8; /* u = (2 half + 1) 2^-25 */
    float rest;

    if (half < 1u << 23)
        return -portable_log((float)(2 * half + 1) * 0x1p-25f);
    rest = (float)(2 * (0xffffffu - half) + 1) * 0x1p-25f; /* 1 - u */
    if (rest <= 0x1.555554p-2f)
        return -log_of_parts(0, -rest);
    return -log_of_parts(-1, 1.0f - 2.0f * rest);
}

float gumbel_noise(uint32_t word)
{
    return -portable_log(minus_log_uniform(word));
}

/* -ln(-ln u) <= -ln(1 - u), and 1 - u >= 2^-(ones + 1); the rest is for rounding. */
float gumbel_bound(uint32_t word)
{
    int ones = __builtin_clz((~word & 0xffffff00u) | 0xffu);

    return (float)(ones + 1) * 0.6932f + 1e-4f;
}

uint32_t noise_word(struct noise *n, uint32_t token)
{
    if (!n->drawn || n->quad != token / 4) {
        const uint32_t counter[4] = {n->position, n->choice, token / 4, 0};
        const uint32_t key[2] = {(uint32_t)n->seed, (uint32_t)(n->seed >> 32)};

        n->block = philox(counter, key);
        n->quad = token / 4;
        n->drawn = true;
    }
    return n->block.word[token % 4];
}
