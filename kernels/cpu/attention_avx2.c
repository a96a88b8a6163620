/* attention_avx2.c - attention_v16.h with AVX2, FMA and F16C: four positions' scores or four
 * vectors of v at once are the 8 independent sums that keep both multiply-add units busy. */
#include <math.h>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/v16_avx2.h"
#include "kernels/cpu/attention_v16.h"

void attention_rows_avx2(struct cpu_kernels *t)
{
    t->attention = attention;
}
