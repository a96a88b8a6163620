/* formula.c - one scale and one code at a time; whoever calls knows which weights share a scale. */
#include "quant/formula.h"

#include <math.h>

float formula_amax(float amax, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) > amax)
            amax = fabsf(x[i]);
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

/* NaN becomes the lowest code: fmaxf() takes the number. */
static int rounded(float x, float scale, float least, float most)
{
    return (int)rintf(fminf(fmaxf(x / scale, least), most));
}

uint8_t formula_int8(float x, float scale)
{
    return (uint8_t)(int8_t)rounded(x, scale, -128, 127);
}

uint8_t formula_int4(float x, float scale)
{
    return (uint8_t)(rounded(x, scale, -8, 7) + 8);
}

uint8_t formula_fp8(float x, float scale)
{
    return f32_to_e4m3(x / scale);
}
