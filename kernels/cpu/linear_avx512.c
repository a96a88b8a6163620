/* linear_avx512.c - matrix products with AVX-512.
 *
 * Thirty-two registers: a tile of 8 rows by 2 panels keeps 16 of them as sums, and each
 * multiply-add may take its input straight from memory, spread over the lanes. The sums are
 * those of linear_avx2.c, bit for bit. */
#include "kernels/cpu/rows.h"
#include "kernels/cpu/v16_avx512.h"

#define LINEAR_TALLEST 8
#include "kernels/cpu/linear_v16.h"

void linear_rows_avx512(struct cpu_kernels *t)
{
    t->linear[WEIGHT_F32][COMPUTE_F32] =
        (struct linear_kernel){"avx512.f32", DTYPE_F32, f32_apply};
    t->linear[WEIGHT_F32][COMPUTE_BF16] = t->linear[WEIGHT_F32][COMPUTE_F32];
    t->linear[WEIGHT_BF16][COMPUTE_F32] =
        (struct linear_kernel){"avx512.bf16", DTYPE_F32, bf16_apply};
    t->linear[WEIGHT_BF16][COMPUTE_BF16] = t->linear[WEIGHT_BF16][COMPUTE_F32];
}
