/* features.c - which rows this machine can run, and the table made of them.
 *
 * Levels are nested: a table is filled by the scalar reference and then by every
 * level up to the one asked for, each overwriting what it does faster. The CPU
 * is asked through the compiler's builtin, which counts a level only if the
 * operating system saves its registers; clang's has no name for F16C and
 * AVX-512 BF16, so for those bits cpuid itself is asked. */
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/rows.h"
#include "quern/log.h"

void cpu_rows_scalar(struct cpu_kernels *t)
{
    linear_rows_scalar(t);
    quant_rows_scalar(t);
    attention_rows_scalar(t);
    norm_rows_scalar(t);
}

#if defined(__x86_64__)

void cpu_rows_avx2(struct cpu_kernels *t)
{
    linear_rows_avx2(t);
    attention_rows_avx2(t);
    norm_rows_avx2(t);
}

/* Norms and the like are bound by memory: AVX2's serve here too. */
void cpu_rows_avx512(struct cpu_kernels *t)
{
    linear_rows_avx512(t);
    attention_rows_avx512(t);
}

void cpu_rows_avx512bf16(struct cpu_kernels *t)
{
    linear_rows_avx512bf16(t);
}

/* F16C's registers are AVX's: that they are saved is known. */
static bool has_avx2(void)
{
    unsigned a, b, c, d;

    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* Its registers are AVX-512's: that they are saved is known. */
static bool has_avx512bf16(void)
{
    unsigned a, b, c, d;

    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
}

#endif

static bool has_scalar(void)
{
    return true;
}

static const struct level {
    const char *name;
    bool (*present)(void);
    void (*fill)(struct cpu_kernels *t);
} levels_known[ISA_LEVELS] = {
    [ISA_SCALAR] = {.name = "scalar", .present = has_scalar, .fill = cpu_rows_scalar},
#if defined(__x86_64__)
    [ISA_AVX2] = {.name = "avx2", .present = has_avx2, .fill = cpu_rows_avx2},
    [ISA_AVX512] = {.name = "avx512", .present = has_avx512, .fill = cpu_rows_avx512},
    [ISA_AVX512BF16] =
        {.name = "avx512bf16", .present = has_avx512bf16, .fill = cpu_rows_avx512bf16},
#else
    [ISA_AVX2] = {.name = "avx2"},
    [ISA_AVX512] = {.name = "avx512"},
    [ISA_AVX512BF16] = {.name = "avx512bf16"},
#endif
};

const char *cpu_isa_name(enum cpu_isa isa)
{
    return levels_known[isa].name;
}

int cpu_isa_levels(enum cpu_isa levels[ISA_LEVELS])
{
    int n = 0;

    for (int i = 0; i < ISA_LEVELS; i++)
        if (levels_known[i].present != NULL && levels_known[i].present())
            levels[n++] = (enum cpu_isa)i;
    return n;
}

/* INVALID, with a line that names the levels there are. */
static enum status refuse(const char *isa, const char *why, const enum cpu_isa *levels, int n)
{
    char names[128] = "";
    size_t used = 0;

    for (int i = 0; i < n && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s",
            i == 0 ? "" : ", ", cpu_isa_name(levels[i]));
    return log_fail(STATUS_INVALID, "QUERN_CPU_ISA=%s: %s; set it to one of: %s", isa, why, names);
}

static enum status level_find(const char *isa, enum cpu_isa *level)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    if (isa == NULL || isa[0] == '\0') {
        *level = levels[n - 1];
        return STATUS_OK;
    }
    for (int i = 0; i < n; i++)
        if (strcmp(isa, cpu_isa_name(levels[i])) == 0) {
            *level = levels[i];
            return STATUS_OK;
        }
    for (int i = 0; i < ISA_LEVELS; i++)
        if (strcmp(isa, levels_known[i].name) == 0)
            return refuse(isa, "this CPU cannot run it", levels, n);
    if (strcmp(isa, "amx") == 0)
        return refuse(isa, "this build has no rows for it", levels, n);
    return refuse(isa, "no such instruction set", levels, n);
}

enum status cpu_kernels_select(const char *isa, struct cpu_kernels *table)
{
    enum cpu_isa level = ISA_SCALAR;
    enum status s = level_find(isa != NULL ? isa : getenv("QUERN_CPU_ISA"), &level);

    if (s != STATUS_OK)
        return s;
    *table = (struct cpu_kernels){.isa = level, .name = cpu_isa_name(level)};
    for (int i = 0; i <= (int)level; i++)
        levels_known[i].fill(table);
    return STATUS_OK;
}
