/* formula.h - how weights are quantised here: at load (--quant) and by `quern quantize`, alike.
 *
 * The formulas are compressed-tensors' (FACTS 4b): scale = amax / half of the
 * code range, rounded to the type it is stored in before any code is made of
 * it, so that a checkpoint written and one quantised at load are the same bits.
 * Pure functions. */
#ifndef QUERN_QUANT_FORMULA_H
#define QUERN_QUANT_FORMULA_H

#include <stddef.h>
#include <stdint.h>

#include "quern/dtype.h"

/* Half of the code range: -8..7, -128..127, and the most of e4m3. */
#define FORMULA_INT4 7.5f
#define FORMULA_INT8 127.5f
#define FORMULA_FP8 448.0f

/* The larger of `amax` and the largest |x|; NaN is passed over. */
float formula_amax(float amax, const float *x, size_t n);

/* The scale for values up to amax, as `stored` (F32, BF16 or F16) can hold it; never 0. */
float formula_scale(float amax, float half_range, enum dtype stored);

/* Codes of x / scale, to nearest even, saturated: int8; int4 as 0..15; e4m3 bits. A NaN becomes
 * the lowest whole code, and a NaN of e4m3. */
uint8_t formula_int8(float x, float scale);
uint8_t formula_int4(float x, float scale);
uint8_t formula_fp8(float x, float scale);

/* The same for x [n] with one scale. */
typedef void formula_codes(uint8_t *codes, const float *x, size_t n, float scale);
formula_codes formula_int8_codes, formula_int4_codes, formula_fp8_codes;

#endif
