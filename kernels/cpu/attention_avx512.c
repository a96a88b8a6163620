/* attention_avx512.c - attention_v16.h with AVX-512. The answers are those of
 * attention_avx2.c, bit for bit. */
#include <math.h>

#include "kernels/cpu/rows.h"
#include "kernels/cpu/v16_avx512.h"
#include "kernels/cpu/attention_v16.h"

void attention_rows_avx512(struct cpu_kernels *t)
{
    t->attention = attention;
}
