/* linear_v16.h - the two products in float32, f32 and bf16 weights, over v16.
 *
 * Included by linear_avx2.c and linear_avx512.c after their v16; LINEAR_TALLEST says how many
 * rows of sums the registers hold. A bf16 weight becomes f32 exactly, so both are one fused
 * multiply-add per weight, in ascending k. */
#define TILE_NAME(x) f32_##x
#define TILE_STEP 1
#define TILE_HALVES 1
#define TILE_X float
#define TILE_WEIGHT(w, half) v16_load((const float *)(w))
#define TILE_INPUT(x, half) v16_set1(*(x))
#define TILE_MADD(w, x, acc) v16_fma(w, x, acc)
#define TILE_TALLEST LINEAR_TALLEST
#include "kernels/cpu/linear_tile.h"

#define TILE_NAME(x) bf16_##x
#define TILE_STEP 2
#define TILE_HALVES 2
#define TILE_X float
#define TILE_WEIGHT(w, half) v16_load_half(w, half)
#define TILE_INPUT(x, half) v16_set1((x)[half])
#define TILE_MADD(w, x, acc) v16_fma(w, x, acc)
#define TILE_TALLEST LINEAR_TALLEST
#include "kernels/cpu/linear_tile.h"
