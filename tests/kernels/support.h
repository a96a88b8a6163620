/* support.h - what the kernels' tests share: random data, packing, comparing.
 *
 * The generator is seeded; a test prints its seed before it draws, and QUERN_TEST_SEED replays
 * one. Memory comes from malloc at exact sizes, so that the address sanitizer sees a kernel
 * that reads or writes past an end. */
#ifndef QUERN_TESTS_KERNELS_SUPPORT_H
#define QUERN_TESTS_KERNELS_SUPPORT_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "quern/log.h"

#define SUPPORT static inline __attribute__((unused))

/* A new seed, printed as a TAP comment; $QUERN_TEST_SEED if set. */
SUPPORT uint64_t seed_new(const char *test)
{
    const char *forced = getenv("QUERN_TEST_SEED");
    struct timespec t;
    uint64_t seed;

    clock_gettime(CLOCK_REALTIME, &t);
    seed = forced != NULL ? strtoull(forced, NULL, 0)
                          : (uint64_t)t.tv_sec * 1000003u + (uint64_t)t.tv_nsec;
    printf("# %s: QUERN_TEST_SEED=%llu\n", test, (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

/* splitmix64 */
SUPPORT uint64_t random_bits(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* In [low, high]. */
SUPPORT uint32_t random_between(uint64_t *seed, uint32_t low, uint32_t high)
{
    return low + (uint32_t)(random_bits(seed) % (high - low + 1));
}

/* Near normal, mean 0, deviation 1. */
SUPPORT float random_float(uint64_t *seed)
{
    float sum = 0.0f;

    for (int i = 0; i < 4; i++)
        sum += (float)(random_bits(seed) >> 40) * 0x1p-24f;
    return (sum - 2.0f) * 1.7320508f;
}

SUPPORT void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);

    if (p == NULL)
        abort();
    return p;
}

SUPPORT void *take_exact(size_t bytes)
{
    void *p = malloc(bytes > 0 ? bytes : 1);

    if (p == NULL)
        abort();
    return p;
}

SUPPORT float *random_floats(size_t n, uint64_t *seed)
{
    float *x = take_exact(n * sizeof(*x));

    for (size_t i = 0; i < n; i++)
        x[i] = random_float(seed);
    return x;
}

/* ||a - b|| / ||b||; 0 for two zeros, infinite when a NaN is about. */
SUPPORT double relative_error(const float *a, const float *b, size_t n)
{
    double d = 0, r = 0;

    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        r += (double)b[i] * b[i];
    }
    if (d == 0)
        return 0;
    return r > 0 && !isnan(d) ? sqrt(d / r) : INFINITY;
}

SUPPORT size_t packed_bytes(enum weight_format format, uint32_t n, uint32_t k)
{
    size_t steps = format == WEIGHT_F32 ? k : (k + 1) / 2;

    return (size_t)((n + PANEL - 1) / PANEL) * steps * 64;
}

/* w [n, k] row major, packed as cpu.h says; bf16 weights are rounded from the floats. */
SUPPORT void pack(void *packed, enum weight_format format, const float *w, uint32_t n, uint32_t k)
{
    memset(packed, 0, packed_bytes(format, n, k));
    for (uint32_t row = 0; row < n; row++)
        for (uint32_t col = 0; col < k; col++) {
            float x = w[(size_t)row * k + col];

            if (format == WEIGHT_F32)
                ((float *)packed)[((size_t)(row / 16) * k + col) * 16 + row % 16] = x;
            else
                ((uint16_t *)packed)[((size_t)(row / 16) * ((k + 1) / 2) + col / 2) * 32 +
                    row % 16 * 2 + col % 2] = f32_to_bf16(x);
        }
}

/* Random x [m, k], w and bias for a product; y is set to a mark that no product gives. */
struct linear_case {
    struct linear_args args;
    float *y;       /* [m, ldy] */
    void *x, *w;
    float *bias;    /* [n], used when args.bias is not NULL */
};

static const float MARK = -12345.0f;

/* x, always of values bf16 can hold, as f32 or bf16. */
SUPPORT struct linear_case linear_case_make(enum weight_format format, enum dtype x_type,
    uint32_t m, uint32_t n, uint32_t k, bool bias, uint64_t *seed)
{
    size_t ldx = (k + 1) / 2 * 2 + random_between(seed, 0, 3), ldy = n + random_between(seed, 0, 3);
    struct linear_case c = {.x = take_exact(m * ldx * dtype_bytes(x_type)),
        .w = take(packed_bytes(format, n, k)), .y = take_exact(m * ldy * sizeof(float)),
        .bias = random_floats(n, seed)};
    float *w = random_floats((size_t)n * k, seed);

    memset(c.x, 0, m * ldx * dtype_bytes(x_type));
    for (size_t i = 0; i < (size_t)m * k; i++) {
        uint16_t x = f32_to_bf16(random_float(seed));

        if (x_type == DTYPE_BF16)
            ((uint16_t *)c.x)[i / k * ldx + i % k] = x;
        else
            ((float *)c.x)[i / k * ldx + i % k] = bf16_to_f32(x);
    }
    for (size_t i = 0; i < m * ldy; i++)
        c.y[i] = MARK;
    pack(c.w, format, w, n, k);
    free(w);
    c.args = (struct linear_args){.y = c.y, .ldy = ldy, .x = c.x, .ldx = ldx, .m = m, .n = n,
        .k = k, .w = c.w, .bias = bias ? c.bias : NULL};
    return c;
}

SUPPORT void linear_case_free(struct linear_case *c)
{
    free(c->x);
    free(c->w);
    free(c->y);
    free(c->bias);
}

#endif
