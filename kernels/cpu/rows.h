/* rows.h - the parts that an ISA's rows are gathered from (features.c).
 *
 * Private to kernels/cpu. Each overwrites entries of a table that is already filled; called
 * only where the CPU can run them. */
#ifndef QUERN_KERNELS_CPU_ROWS_H
#define QUERN_KERNELS_CPU_ROWS_H

#include "kernels/cpu/cpu.h"

void attention_rows_scalar(struct cpu_kernels *t);
void norm_rows_scalar(struct cpu_kernels *t); /* all but linear layers and attention */
void linear_rows_scalar(struct cpu_kernels *t);
void quant_rows_scalar(struct cpu_kernels *t); /* linear layers of quantised weights */

void linear_rows_avx2(struct cpu_kernels *t);
void attention_rows_avx2(struct cpu_kernels *t);
void norm_rows_avx2(struct cpu_kernels *t);

void linear_rows_avx512(struct cpu_kernels *t);
void attention_rows_avx512(struct cpu_kernels *t);

void linear_rows_avx512bf16(struct cpu_kernels *t);

#endif
