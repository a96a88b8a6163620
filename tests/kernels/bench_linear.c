/* bench_linear.c - how fast the linear rows run, on one thread.
 *
 *   bench_linear [isa] [n] [k]     (4096 x 4096 unless told)
 *
 * m = 1 is bound by reading w, so it is set against a plain read of the same memory in the same
 * run, taken in turn with it; larger m is arithmetic, in GFLOP/s. Each figure is the best of
 * many. Not part of make check: it asserts nothing. */
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/kernels/support.h"

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { PIECE = 1 << 19 }; /* what a plain read's streams share: four panels of k = 4096 */

/* Reads all of `bytes` in one stream or in four, as a product of one row does, asking for memory
 * `ahead` bytes before it is read (0: leaving that to the processor). */
static uint64_t read_all(const void *mem, size_t bytes, size_t streams, size_t ahead)
{
    size_t part = bytes / streams / sizeof(__m128i);
    const __m128i *p = mem;
    __m128i a = {0}, b = {0}, c = {0}, d = {0};

    for (size_t i = 0; i + 4 <= part; i += 4)
        for (size_t s = 0; s < streams; s++) {
            const __m128i *line = p + s * part + i;

            if (ahead > 0)
                _mm_prefetch((const char *)line + ahead, _MM_HINT_T0);
            a = _mm_xor_si128(a, _mm_load_si128(line));
            b = _mm_xor_si128(b, _mm_load_si128(line + 1));
            c = _mm_xor_si128(c, _mm_load_si128(line + 2));
            d = _mm_xor_si128(d, _mm_load_si128(line + 3));
        }
    a = _mm_xor_si128(_mm_xor_si128(a, b), _mm_xor_si128(c, d));
    return (uint64_t)_mm_cvtsi128_si64(a);
}

static double best_of(int times, const struct linear_kernel *l, const struct linear_args *a,
    const void *mem, size_t bytes, double *best_read)
{
    double best = 1e9;
    volatile uint64_t keep;

    *best_read = 1e9;
    for (int i = 0; i < times; i++) {
        double t0 = now(), t1, t2;

        l->apply(a, 0, (a->n + PANEL - 1) / PANEL);
        t1 = now();
        /* Four ways in turn, the best counts. */
        keep = 0;
        for (size_t at = 0; at < bytes; at += PIECE)
            keep ^= read_all((const char *)mem + at, bytes - at < PIECE ? bytes - at : PIECE,
                i % 4 < 2 ? 1 : 4, (size_t)(i % 2) * 1024);
        t2 = now();
        (void)keep;
        best = t1 - t0 < best ? t1 - t0 : best;
        *best_read = t2 - t1 < *best_read ? t2 - t1 : *best_read;
    }
    return best;
}

static void bench(const struct linear_kernel *l, enum weight_format format, uint32_t m, uint32_t n,
    uint32_t k, uint64_t *seed)
{
    struct linear_case c = linear_case_make(format, l->x, m, n, k, false, seed);
    size_t bytes = packed_bytes(format, n, k);
    double read, t = best_of(m == 1 ? 60 : 8, l, &c.args, c.args.w, bytes, &read);

    printf("%-16s m %4u  %8.1f us  %7.2f GB/s of weights (plain read %6.2f, ratio %.2f)  "
           "%7.1f GFLOP/s\n", l->name, m, t * 1e6, (double)bytes / t * 1e-9,
        (double)bytes / read * 1e-9, read / t, 2.0 * m * n * k / t * 1e-9);
    linear_case_free(&c);
}

int main(int argc, char **argv)
{
    static const uint32_t heights[] = {1, 2, 4, 8, 32, 128, 512};
    uint32_t n = argc > 2 ? (uint32_t)atoi(argv[2]) : 4096;
    uint32_t k = argc > 3 ? (uint32_t)atoi(argv[3]) : 4096;
    uint64_t seed = 1;
    struct cpu_kernels t;

    if (cpu_kernels_select(argc > 1 ? argv[1] : NULL, &t) != STATUS_OK)
        return fprintf(stderr, "%s\n", log_last_error()), 1;
    for (size_t i = 0; i < sizeof(heights) / sizeof(heights[0]); i++) {
        bench(&t.linear[WEIGHT_BF16][COMPUTE_F32], WEIGHT_BF16, heights[i], n, k, &seed);
        if (t.linear[WEIGHT_BF16][COMPUTE_BF16].x == DTYPE_BF16)
            bench(&t.linear[WEIGHT_BF16][COMPUTE_BF16], WEIGHT_BF16, heights[i], n, k, &seed);
    }
    bench(&t.linear[WEIGHT_F32][COMPUTE_F32], WEIGHT_F32, 1, n, k, &seed);
    bench(&t.linear[WEIGHT_F32][COMPUTE_F32], WEIGHT_F32, 512, n, k, &seed);
    return 0;
}
