/* formula.c - one scale and one code at a time; whoever calls knows which weights share a scale. */
#include "quant/formula.h"

#include <string.h>

/* Sizes are compared as their bits, which are in the same order. */
float formula_amax(float amax, const float *x, size_t n)
{
    uint32_t most;

    memcpy(&most, &amax, sizeof(most));
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &x[i], sizeof(bits));
        bits &= 0x7fffffffu;
        bits = bits > 0x7f800000u ? 0 : bits;
        most = bits > most ? bits : most;
    }
    memcpy(&amax, &most, sizeof(amax));
    return amax;
}

/* The steps of 1 in the type: what the library writes in place of a scale of zero. */
static float epsilon(enum dtype stored)
{
    if (stored == DTYPE_BF16)
        return 0x1p-7f;
    return stored == DTYPE_F16 ? 0x1p-10f : 0x1p-23f;
}

float formula_scale(float amax, float half_range, enum dtype stored)
{
    float scale = amax / half_range;

    if (stored == DTYPE_BF16)
        scale = bf16_round(scale);
    else if (stored == DTYPE_F16)
        scale = f16_to_f32(f32_to_f16(scale));
    return scale > 0 ? scale : epsilon(stored);
}

/* Added and taken away again, it rounds |x| < 2^22 to a whole number as the sum is rounded: to
 * nearest even. Written so, and not as rintf(), a loop over it is a few vector instructions. */
#define WHOLE 0x1.8p23f

/* Comparisons that a NaN fails leave the lowest code. */
static inline int rounded(float x, float scale, float least, float most)
{
    float y = x / scale;

    y = y > least ? y : least;
    y = y < most ? y : most;
    return (int)(y + WHOLE - WHOLE);
}

uint8_t formula_int8(float x, float scale)
{
    return (uint8_t)rounded(x, scale, -128, 127);
}

uint8_t formula_int4(float x, float scale)
{
    return (uint8_t)(rounded(x, scale, -8, 7) + 8);
}

uint8_t formula_fp8(float x, float scale)
{
    return f32_to_e4m3(x / scale);
}

void formula_int8_codes(uint8_t *codes, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = formula_int8(x[i], scale);
}

void formula_int4_codes(uint8_t *codes, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = formula_int4(x[i], scale);
}

void formula_fp8_codes(uint8_t *codes, const float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        codes[i] = formula_fp8(x[i], scale);
}
