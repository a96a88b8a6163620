/* linear_avx2.c - matrix products with AVX2 and FMA.
 *
 * Sixteen registers: a tile of 6 rows by one panel keeps 12 of them as sums, one weight takes
 * two and one holds an input. One row runs over 4 panels at once, since a fused multiply-add
 * takes 4 cycles and two can start in each: 8 independent sums. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/v16_avx2.h"

#define LINEAR_TALLEST 6
#include "kernels/cpu/linear_v16.h"

void linear_rows_avx2(struct cpu_kernels *t)
{
    t->linear[WEIGHT_F32][COMPUTE_F32] = (struct linear_kernel){"avx2.f32", DTYPE_F32, f32_apply};
    t->linear[WEIGHT_F32][COMPUTE_BF16] = t->linear[WEIGHT_F32][COMPUTE_F32];
    t->linear[WEIGHT_BF16][COMPUTE_F32] =
        (struct linear_kernel){"avx2.bf16", DTYPE_F32, bf16_apply};
    t->linear[WEIGHT_BF16][COMPUTE_BF16] = t->linear[WEIGHT_BF16][COMPUTE_F32];
}
