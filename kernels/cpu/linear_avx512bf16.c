/* linear_avx512bf16.c - bf16 by bf16 products with VDPBF16PS.
 *
 * One instruction multiplies 16 pairs of weights with one pair of inputs and adds both
 * products to float32 sums: the packed panels are its operand as they lie, with no decoding.
 * The processor treats subnormal inputs and sums as zero here. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/v16_avx512.h"

/* A pair of bf16, in all lanes. */
V16_FN v16 load_pair(const uint16_t *x)
{
    int pair;

    memcpy(&pair, x, sizeof(pair));
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
}

#define TILE_NAME(x) dot_##x
#define TILE_STEP 2
#define TILE_HALVES 1
#define TILE_X uint16_t
#define TILE_WEIGHT(w, half) _mm512_loadu_ps(w)
#define TILE_INPUT(x, half) load_pair(x)
#define TILE_MADD(w, x, acc) \
    _mm512_dpbf16_ps(acc, (__m512bh)_mm512_castps_si512(w), (__m512bh)_mm512_castps_si512(x))
#define TILE_TALLEST 8
#include "kernels/cpu/linear_tile.h"

void linear_rows_avx512bf16(struct cpu_kernels *t)
{
    t->linear[WEIGHT_BF16][COMPUTE_BF16] =
        (struct linear_kernel){"avx512bf16.bf16", DTYPE_BF16, dot_apply};
}
