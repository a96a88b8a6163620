/* bench_attention.c - how fast attention of one token reads its cache, on one thread.
 *
 *   bench_attention [isa] [length] [heads] [kv_heads] [head_dim]     (32768, 16, 8, 128: a layer of
 *                                                                     Qwen3-0.6B)
 *
 * Decoding is bound by reading k and v, so each type is set against a plain read of the same memory
 * in the same run, taken in turn with it; the length is one that no cache of the CPU holds. Each
 * figure is the best of many. Not part of make check: it asserts nothing. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/kernels/attention_case.h"

enum { TIMES = 20, BLOCK_SIZE = 16 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t read_all(const char *mem, size_t bytes)
{
    __m128i a = {0}, b = {0};

    for (size_t i = 0; i + 64 <= bytes; i += 64) {
        a = _mm_xor_si128(a, _mm_xor_si128(_mm_loadu_si128((const __m128i *)(mem + i)),
            _mm_loadu_si128((const __m128i *)(mem + i + 16))));
        b = _mm_xor_si128(b, _mm_xor_si128(_mm_loadu_si128((const __m128i *)(mem + i + 32)),
            _mm_loadu_si128((const __m128i *)(mem + i + 48))));
    }
    return (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(a, b));
}

/* Seconds; bf16: its own, 0 when it is bf16's turn. */
static double bench(const struct cpu_kernels *t, struct attention_shape s, double bf16)
{
    static const char *const names[DTYPE_COUNT] = {
        [DTYPE_F32] = "f32", [DTYPE_BF16] = "bf16", [DTYPE_F16] = "f16", [DTYPE_E4M3] = "e4m3"};
    struct attention_case c = attention_case_make(s, 1);
    size_t bytes = (s.length + BLOCK_SIZE - 1) / BLOCK_SIZE * c.args.kv.block_bytes;
    double best = 1e9, read = 1e9;
    volatile uint64_t keep = 0;

    for (int i = 0; i < TIMES; i++) {
        double t0 = now(), t1, t2;

        t->attention(&c.args, 0, s.kv_heads);
        t1 = now();
        keep ^= read_all(c.args.kv.k, bytes);
        t2 = now();
        best = t1 - t0 < best ? t1 - t0 : best;
        read = t2 - t1 < read ? t2 - t1 : read;
    }
    (void)keep;
    printf("%-10s %-5s length %6u  %8.1f us  %6.2f GB/s (plain read %6.2f, ratio %.2f)", t->name,
        names[s.dtype], s.length, best * 1e6, (double)bytes / best * 1e-9,
        (double)bytes / read * 1e-9, read / best);
    if (bf16 > 0)
        printf("  bf16 takes %.2f times as long", bf16 / best);
    printf("\n");
    attention_case_free(&c);
    return best;
}

int main(int argc, char **argv)
{
    struct attention_shape s = {.length = argc > 2 ? (uint32_t)atoi(argv[2]) : 32768,
        .heads = argc > 3 ? (uint32_t)atoi(argv[3]) : 16,
        .kv_heads = argc > 4 ? (uint32_t)atoi(argv[4]) : 8,
        .head_dim = argc > 5 ? (uint32_t)atoi(argv[5]) : 128,
        .block_size = BLOCK_SIZE, .tokens = 1, .dtype = DTYPE_BF16};
    static const enum dtype others[] = {DTYPE_F32, DTYPE_F16, DTYPE_E4M3};
    struct cpu_kernels t;
    double bf16;

    if (cpu_kernels_select(argc > 1 ? argv[1] : NULL, &t) != STATUS_OK)
        return fprintf(stderr, "%s\n", log_last_error()), 1;
    bf16 = bench(&t, s, 0);
    for (int i = 0; i < 3; i++) {
        s.dtype = others[i];
        bench(&t, s, bf16);
    }
    return 0;
}
