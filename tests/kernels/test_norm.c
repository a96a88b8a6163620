/* test_norm.c - the operations between the products: norms, rope and the cache, silu, sums,
 * rounding, look-up, argmax. Every level, the reference among them, against the formula. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/kernels/cache_case.h"

typedef void per_level(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed);

static void on_every_level(const char *test, per_level *check)
{
    uint64_t seed = seed_new(test);
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);
    struct cpu_kernels ref, t;

    assert_int_equal(cpu_kernels_select("scalar", &ref), STATUS_OK);
    for (int l = 0; l < n; l++) {
        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
        check(&t, &ref, &seed);
    }
}

#define ERROR_BELOW(got, want, n, limit) \
    do { \
        double error_ = relative_error(got, want, n); \
        if (!(error_ <= (limit))) \
            fail_msg("%s: error %g", t->name, error_); \
    } while (0)

/* Rows 1 and 2 of 4: x + y, then the norm; other rows stay. */
static void check_norm(const struct cpu_kernels *t, uint32_t cols, bool add, uint64_t *seed)
{
    size_t n = (size_t)4 * cols;
    float *x = random_floats(n, seed), *y = random_floats(n, seed), *w = random_floats(cols, seed);
    float *out = random_floats(n, seed), *want = take_exact(n * sizeof(*want));
    float *sum = take_exact(n * sizeof(*sum));

    memcpy(want, out, n * sizeof(*want));
    memcpy(sum, x, n * sizeof(*sum));
    for (size_t r = 1; r < 3; r++) {
        double squares = 0;

        for (size_t i = r * cols; i < (r + 1) * cols; i++) {
            sum[i] = add ? x[i] + y[i] : x[i];
            squares += (double)sum[i] * sum[i];
        }
        for (size_t i = 0; i < cols; i++)
            want[r * cols + i] = (float)(sum[r * cols + i] / sqrt(squares / cols + 1e-6) * w[i]);
    }
    t->add_norm(out, x, add ? y : NULL, w, 1e-6f, cols, 1, 3);
    ERROR_BELOW(out, want, n, 1e-6);
    assert_memory_equal(x, sum, n * sizeof(*x));
    free(x);
    free(y);
    free(w);
    free(out);
    free(want);
    free(sum);
}

static void check_norms(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    static const uint32_t widths[] = {1, 2, 15, 16, 17, 31, 64, 100, 512, 1000, 2049, 5120};

    (void)ref;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        check_norm(t, widths[i], false, seed);
        check_norm(t, widths[i], true, seed);
    }
}

static void add_norm_is_the_formula(void **state)
{
    (void)state;
    on_every_level(__func__, check_norms);
}

static void check_silu(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    (void)ref;
    for (uint32_t cols = 1; cols < 200; cols += 13) {
        float *x = random_floats((size_t)cols * 6, seed);
        float *out = random_floats((size_t)cols * 3, seed);
        float *want = take_exact(cols * 3 * sizeof(*want));

        memcpy(want, out, cols * 3 * sizeof(*want));
        for (size_t r = 1; r < 3; r++)
            for (size_t i = 0; i < cols; i++) {
                double g = x[r * 2 * cols + i] *= 8.0f;

                want[r * cols + i] = (float)(g / (1.0 + exp(-g)) * x[r * 2 * cols + cols + i]);
            }
        t->silu_mul(out, x, cols, 1, 3);
        ERROR_BELOW(out, want, cols * 3, 1e-6);
        free(x);
        free(out);
        free(want);
    }
}

static void silu_mul_is_the_formula(void **state)
{
    (void)state;
    on_every_level(__func__, check_silu);
}

/* Element by element over the whole range, as silu shows it. */
static void check_exp(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    (void)ref;
    (void)seed;
    for (double g = -86.0; g < 90.0; g += 0.01) {
        float x[2] = {(float)g, 1.0f}, out;
        double want = (double)x[0] / (1.0 + exp(-(double)x[0]));

        t->silu_mul(&out, x, 1, 0, 1);
        if (fabs((double)out - want) > 4e-7 * fabs(want) + 1e-36)
            fail_msg("%s: silu(%g) = %.9g, not %.9g", t->name, (double)x[0], (double)out, want);
    }
}

static void the_exponential_is_right_everywhere(void **state)
{
    (void)state;
    on_every_level(__func__, check_exp);
}

static void check_extremes(const struct cpu_kernels *t, const struct cpu_kernels *ref,
    uint64_t *seed)
{
    float x[8] = {-1e4f, 1e4f, NAN, 0.0f, 1.0f, 1.0f, 1.0f, 1.0f}, out[4];

    (void)ref;
    (void)seed;
    t->silu_mul(out, x, 4, 0, 1);
    assert_true(fabsf(out[0]) < 1e-30f && out[1] == 1e4f && isnan(out[2]) && out[3] == 0.0f);
}

static void silu_keeps_nan_and_survives_large_values(void **state)
{
    (void)state;
    on_every_level(__func__, check_extremes);
}

static void check_sum(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    for (size_t n = 0; n < 70; n += 3)
        for (int ranks = 1; ranks <= 5; ranks++) {
            float *src[5], want[70];
            const float *parts[5];

            for (int r = 0; r < ranks; r++)
                parts[r] = src[r] = random_floats(n, seed);
            ref->sum_ranks(want, parts, ranks, n);
            t->sum_ranks(src[ranks / 2], parts, ranks, n); /* in place */
            if (n > 0)
                assert_memory_equal(src[ranks / 2], want, n * sizeof(float));
            for (int r = 0; r < ranks; r++)
                free(src[r]);
        }
}

static void ranks_are_summed_in_order_to_the_same_bits(void **state)
{
    const float big = 1e8f, one = 1.0f, minus = -1e8f, minus_zero = -0.0f;
    const float *order[3] = {&big, &one, &minus}, *zero[1] = {&minus_zero};
    struct cpu_kernels ref;
    float sum;

    (void)state;
    assert_int_equal(cpu_kernels_select("scalar", &ref), STATUS_OK);
    ref.sum_ranks(&sum, order, 3, 1);
    assert_true(sum == 0.0f); /* (1e8 + 1) - 1e8 in float32 */
    ref.sum_ranks(&sum, zero, 1, 1);
    assert_false(signbit(sum)); /* +0.0 + -0.0 */
    on_every_level(__func__, check_sum);
}

static void check_rounding(const struct cpu_kernels *t, const struct cpu_kernels *ref,
    uint64_t *seed)
{
    enum { N = 40003 };
    uint32_t *bits = take_exact(N * sizeof(*bits));
    uint16_t *narrow = take_exact(N * sizeof(*narrow));
    float *x = take_exact(N * sizeof(*x));

    (void)ref;
    for (size_t i = 0; i < N; i++) /* any bits: NaNs, infinities, subnormals; every fourth a tie */
        bits[i] = i % 4 == 0 ? (uint32_t)random_bits(seed) << 15 : (uint32_t)random_bits(seed);
    memcpy(bits, (const uint32_t[]){0x7f800001u, 0xffffffffu, 0x7f7fffffu, 0x80000000u}, 16);
    memcpy(x, bits, N * sizeof(*x));
    t->round_bf16(narrow, x, N);
    t->round_bf16_f32(x, x, N);
    for (size_t i = 0; i < N; i++) {
        float was;
        uint32_t is;

        memcpy(&was, &bits[i], sizeof(was));
        memcpy(&is, &x[i], sizeof(is));
        assert_int_equal(narrow[i], f32_to_bf16(was));
        assert_int_equal(is, (uint32_t)f32_to_bf16(was) << 16);
    }
    free(bits);
    free(narrow);
    free(x);
}

static void rounding_has_the_bits_of_dtype_h(void **state)
{
    (void)state;
    on_every_level(__func__, check_rounding);
}

static void check_lookup(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    enum { N = 37, K = 71 };

    (void)ref;
    for (int format = WEIGHT_F32; format <= WEIGHT_BF16; format++) {
        float *w = random_floats(N * K, seed), *out = take_exact(K * sizeof(*out));
        void *packed = take(packed_bytes((enum weight_format)format, N, K));
        const struct weight table = {
            .n = N, .k = K, .format = (enum weight_format)format, .data = packed};

        pack(packed, (enum weight_format)format, w, N, K);
        for (uint32_t row = 0; row < N; row++) {
            t->lookup(out, &table, row);
            for (size_t i = 0; i < K; i++) {
                float v = w[row * K + i];

                assert_true(out[i] == (format == WEIGHT_BF16 ? bf16_round(v) : v));
            }
        }
        free(w);
        free(out);
        free(packed);
    }
}

static void lookup_finds_the_row(void **state)
{
    (void)state;
    on_every_level(__func__, check_lookup);
}

static void check_argmax(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    const float odd[20] = {NAN, -INFINITY, NAN, -3.0f, -2.0f, -2.0f, NAN};
    float none[40];

    for (uint32_t n = 1; n < 400; n += 7) {
        float *x = random_floats(n, seed);
        uint32_t first = random_between(seed, 0, n - 1), again = random_between(seed, first, n - 1);

        assert_int_equal(t->argmax(x, n), ref->argmax(x, n));
        x[first] = x[again] = 100.0f;
        assert_int_equal(t->argmax(x, n), first);
        free(x);
    }
    assert_int_equal(t->argmax(odd, 7), 4);
    assert_int_equal(t->argmax(odd, 20), 7); /* zeros behind */
    for (int i = 0; i < 40; i++)
        none[i] = NAN;
    assert_int_equal(t->argmax(none, 40), 0);
    for (int i = 0; i < 40; i++)
        none[i] = -INFINITY;
    assert_int_equal(t->argmax(none, 40), 0);
}

static void argmax_takes_the_first_of_equals_and_never_a_nan(void **state)
{
    (void)state;
    on_every_level(__func__, check_argmax);
}

/* One token's rows as they must become; d lanes, in double. */
static void rope_formula(float *x, const float *w, const float *cosine, const float *sine,
    uint32_t d)
{
    double squares = 0, normed[256];

    for (uint32_t i = 0; i < d; i++)
        squares += (double)x[i] * x[i];
    for (uint32_t i = 0; i < d; i++)
        normed[i] = x[i] / sqrt(squares / d + 1e-6) * w[i];
    for (uint32_t i = 0; i < d / 2; i++) {
        x[i] = (float)(normed[i] * cosine[i] - normed[i + d / 2] * sine[i]);
        x[i + d / 2] = (float)(normed[i + d / 2] * cosine[i] + normed[i] * sine[i]);
    }
}

enum { TOKENS = 5, HEADS = 4, KV_HEADS = 2, BLOCK = 4, BLOCKS = 6 };

/* Values of the whole cache that are not 0. */
static size_t cache_stored(const struct kv_view *kv, const void *k_or_v)
{
    size_t stored = 0;

    for (uint32_t row = 0; row < BLOCKS * KV_HEADS * BLOCK; row++)
        for (uint32_t i = 0; i < kv->head_dim; i++)
            stored += cache_get(kv, k_or_v, row / BLOCK / KV_HEADS, row / BLOCK % KV_HEADS,
                row % BLOCK, i) != 0.0f;
    return stored;
}

/* One head at one position: each value is near, E4M3's by half of its last bit, which is a
 * sixteenth, or half of the smallest code's. */
static void check_head(const struct kv_view *kv, const void *k_or_v, uint32_t block, uint32_t h,
    uint32_t at, const float *want)
{
    const float limit = kv->dtype == DTYPE_BF16 ? 0x1p-8f
        : kv->dtype == DTYPE_F16 ? 0x1p-11f
        : kv->dtype == DTYPE_F32 ? 4e-6f
                                 : 0x1.001p-4f;
    float least = kv->dtype == DTYPE_E4M3 ? 0x1.001p-10f * scale_wanted(want, kv->head_dim) : limit;

    for (uint32_t i = 0; i < kv->head_dim; i++)
        assert_float_equal(cache_get(kv, k_or_v, block, h, at, i), want[i],
            fmaxf(least, limit * fabsf(want[i])));
}

/* Each token is where its table says, and nothing else was written. */
static void check_cache(const struct rope_args *a, const float *want)
{
    uint32_t d = a->kv.head_dim;

    assert_in_range(cache_stored(&a->kv, a->kv.k), 1, (TOKENS - 2) * KV_HEADS * d);
    assert_in_range(cache_stored(&a->kv, a->kv.v), 1, (TOKENS - 2) * KV_HEADS * d);
    for (uint32_t t = 1; t < TOKENS - 1; t++)
        for (uint32_t h = 0; h < KV_HEADS; h++) {
            uint32_t block = a->blocks[t][a->position[t] / BLOCK], at = a->position[t] % BLOCK;
            const float *k = want + t * a->ld + (HEADS + h) * d;

            check_head(&a->kv, a->kv.k, block, h, at, k);
            check_head(&a->kv, a->kv.v, block, h, at, k + KV_HEADS * d);
        }
}

static void check_rope(const struct cpu_kernels *t, uint32_t d, enum dtype type, uint64_t *seed)
{
    static const uint32_t table[BLOCKS] = {3, 5, 0, 2, 1, 4}, position[TOKENS] = {0, 7, 8, 21, 3};
    const uint32_t *blocks[TOKENS] = {table, table, table, table, table};
    size_t ld = (size_t)(HEADS + 2 * KV_HEADS) * d + 5;
    float *qkv = random_floats(TOKENS * ld, seed), *want = take_exact(TOKENS * ld * sizeof(*want));
    float *norms = random_floats(2 * (size_t)d, seed);
    float *turns = random_floats(TOKENS * (size_t)d, seed);
    struct rope_args a = {.qkv = qkv, .ld = ld, .q_norm = norms, .k_norm = norms + d, .eps = 1e-6f,
        .cos = turns, .sin = turns + (size_t)TOKENS * (d / 2),
        .kv = cache_make(type, BLOCKS, KV_HEADS, BLOCK, d, 0),
        .heads = HEADS, .blocks = blocks, .position = position};

    memcpy(want, qkv, TOKENS * ld * sizeof(*want));
    for (size_t row = 1; row < TOKENS - 1; row++)
        for (uint32_t h = 0; h < HEADS + KV_HEADS; h++)
            rope_formula(want + row * ld + (size_t)h * d, h < HEADS ? a.q_norm : a.k_norm,
                a.cos + row * (d / 2), a.sin + row * (d / 2), d);
    t->qk_rope(&a, 1, TOKENS - 1); /* not the first row, not the last */
    ERROR_BELOW(qkv, want, TOKENS * ld, 1e-6);
    check_cache(&a, want);
    free(qkv);
    free(want);
    free(norms);
    free(turns);
    cache_free(&a.kv);
}

static void check_ropes(const struct cpu_kernels *t, const struct cpu_kernels *ref, uint64_t *seed)
{
    static const uint32_t sizes[] = {2, 6, 16, 18, 30, 64, 80, 128, 254, 256};

    (void)ref;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (int type = 0; type < CACHE_TYPES; type++)
            check_rope(t, sizes[i], cache_types[type], seed);
}

static void heads_are_normed_turned_and_stored(void **state)
{
    (void)state;
    on_every_level(__func__, check_ropes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_norm_is_the_formula),
        cmocka_unit_test(silu_mul_is_the_formula),
        cmocka_unit_test(the_exponential_is_right_everywhere),
        cmocka_unit_test(silu_keeps_nan_and_survives_large_values),
        cmocka_unit_test(ranks_are_summed_in_order_to_the_same_bits),
        cmocka_unit_test(rounding_has_the_bits_of_dtype_h),
        cmocka_unit_test(lookup_finds_the_row),
        cmocka_unit_test(argmax_takes_the_first_of_equals_and_never_a_nan),
        cmocka_unit_test(heads_are_normed_turned_and_stored),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
