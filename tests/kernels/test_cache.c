/* test_cache.c - what rows put into a cache of e4m3: each code and scale, and what is left alone.
 *
 * v goes into the cache as it is, so what must lie there is known to the bit (cache_case.h). The
 * same values must lie there whichever block and place in it they got, and beside whatever else. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/kernels/cache_case.h"

enum { HEADS = 1, KV_HEADS = 2, BLOCKS = 3, MOST = 256 };

/* One token at `position`, whose v is `v` [KV_HEADS, d]; its k is of no interest. */
static void store(const struct cpu_kernels *t, const struct kv_view *kv, uint32_t position,
    const float *v)
{
    static const uint32_t table[BLOCKS] = {2, 0, 1};
    const uint32_t *blocks = table, d = kv->head_dim;
    float qkv[(HEADS + 2 * KV_HEADS) * MOST], norms[MOST], turns[MOST];
    struct rope_args a = {.qkv = qkv, .ld = (HEADS + 2 * KV_HEADS) * d, .q_norm = norms,
        .k_norm = norms, .eps = 1e-6f, .cos = turns, .sin = turns + d / 2, .kv = *kv,
        .heads = HEADS, .blocks = &blocks, .position = &position};

    for (uint32_t i = 0; i < d; i++)
        norms[i] = turns[i] = 1.0f;
    for (uint32_t i = 0; i < (HEADS + KV_HEADS) * d; i++)
        qkv[i] = (float)(i % 7) - 3.0f;
    memcpy(qkv + (HEADS + KV_HEADS) * d, v, KV_HEADS * d * sizeof(*v));
    t->qk_rope(&a, 0, 1);
}

/* Values as far apart as e4m3 can tell and further; zeros; half-way between two codes. */
static float hard_value(uint64_t *seed)
{
    uint32_t bits = (uint32_t)random_bits(seed);
    uint8_t at = (uint8_t)(bits % 0x7e);
    float code = e4m3_to_f32(at), next = e4m3_to_f32(at + 1);

    switch (random_between(seed, 0, 7)) {
    case 0: return 0.0f;
    case 1: return -0.0f;
    case 2: return (bits & 0x100) ? code : -code;
    case 3: return (code + next) / 2;
    case 4: return nextafterf((code + next) / 2, (bits & 0x100) ? 0.0f : 1000.0f);
    default: return ldexpf(random_float(seed), -(int)random_between(seed, 0, 24));
    }
}

/* What one head gets: by `kind` its largest is 448 (scale 1), anything, or beyond any scale. */
static void hard_row(float *v, uint32_t d, int kind, uint64_t *seed)
{
    static const float factors[] = {1.0f, 0.37f, 0x1p-130f, 0x1p100f, 3e35f, 0.0f};

    for (uint32_t i = 0; i < d; i++)
        v[i] = hard_value(seed) * factors[kind];
    if (kind == 0)
        v[random_between(seed, 0, d - 1)] = 448.0f;
}

static void check_codes(const struct cpu_kernels *t, uint32_t d, uint32_t block_size,
    uint64_t *seed)
{
    struct kv_view kv = cache_make(DTYPE_E4M3, BLOCKS, KV_HEADS, block_size, d, 0x55);
    struct kv_view want = cache_make(DTYPE_E4M3, BLOCKS, KV_HEADS, block_size, d, 0x55);
    static const uint32_t table[BLOCKS] = {2, 0, 1};
    size_t half = kv.block_bytes / 2;
    float v[KV_HEADS * MOST];

    for (uint32_t position = 0; position < BLOCKS * block_size; position++) {
        for (uint32_t h = 0; h < KV_HEADS; h++)
            hard_row(v + h * d, d, (int)random_between(seed, 0, 5), seed);
        store(t, &kv, position, v);
        for (uint32_t h = 0; h < KV_HEADS; h++)
            cache_put(&want, want.v, table[position / block_size], h, position % block_size,
                v + h * d);
    }
    for (uint32_t b = 0; b < BLOCKS; b++)
        if (memcmp((char *)kv.v + b * kv.block_bytes, (char *)want.v + b * kv.block_bytes,
                half) != 0)
            fail_msg("%s: head_dim %u, blocks of %u: block %u has other codes", t->name, d,
                block_size, b);
    cache_free(&kv);
    cache_free(&want);
}

static void codes_are_those_of_dtype_h_on_every_level(void **state)
{
    static const uint32_t dims[] = {2, 6, 8, 10, 16, 18, 34, 64, 80, 128, 254, 256};
    static const uint32_t block_sizes[] = {1, 3, 16};
    uint64_t seed = seed_new(__func__);
    enum cpu_isa levels[ISA_LEVELS];

    (void)state;
    for (int l = 0, n = cpu_isa_levels(levels); l < n; l++) {
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
        for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++)
            for (int b = 0; b < 3; b++)
                check_codes(&t, dims[d], block_sizes[b], &seed);
    }
}

/* All that is read of such a head is NaN: the answer is told to be broken, not made of the rest. */
static void what_is_not_finite_stays_so(void **state)
{
    static const float broken[] = {NAN, -NAN, INFINITY, -INFINITY};
    enum cpu_isa levels[ISA_LEVELS];
    const uint32_t d = 22;

    (void)state;
    for (int l = 0, n = cpu_isa_levels(levels); l < n; l++)
        for (uint32_t at = 0; at < d; at++)
            for (int i = 0; i < 4; i++) {
                struct kv_view kv = cache_make(DTYPE_E4M3, BLOCKS, KV_HEADS, 4, d, 0);
                float v[KV_HEADS * MOST] = {0};
                struct cpu_kernels t;

                assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
                v[at] = broken[i];
                v[d] = 1.0f; /* the other head is whole */
                store(&t, &kv, 5, v);
                for (uint32_t lane = 0; lane < d; lane++) {
                    assert_true(isnan(cache_get(&kv, kv.v, 0, 0, 1, lane)));
                    assert_true(cache_get(&kv, kv.v, 0, 1, 1, lane) == (lane == 0 ? 1.0f : 0.0f));
                }
                cache_free(&kv);
            }
}

/* Attention over such a head is NaN as well, whichever lanes are read at once. */
static void attention_does_not_hide_what_is_not_finite(void **state)
{
    static const uint16_t q_to_kv[HEADS] = {0};
    static const uint32_t table[BLOCKS] = {2, 0, 1}, position = 5;
    const uint32_t *blocks = table, d = 22;
    enum cpu_isa levels[ISA_LEVELS];

    (void)state;
    for (int l = 0, n = cpu_isa_levels(levels); l < n; l++) {
        struct kv_view kv = cache_make(DTYPE_E4M3, BLOCKS, KV_HEADS, 4, d, 0);
        float v[KV_HEADS * MOST] = {0}, q[MOST] = {0}, out[MOST] = {0};
        const struct attention_args a = {.out = out, .ld_out = d, .q = q, .ld_q = d, .kv = kv,
            .q_to_kv = q_to_kv, .heads = HEADS, .scale = 1, .blocks = &blocks,
            .position = &position, .tokens = 1};
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
        store(&t, &kv, 5, v);
        t.attention(&a, 0, 1);
        assert_true(out[0] == 0.0f && out[d - 1] == 0.0f);
        v[7] = NAN;
        store(&t, &kv, 3, v);
        t.attention(&a, 0, 1);
        for (uint32_t i = 0; i < d; i++)
            assert_true(isnan(out[i]));
        cache_free(&kv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_those_of_dtype_h_on_every_level),
        cmocka_unit_test(what_is_not_finite_stays_so),
        cmocka_unit_test(attention_does_not_hide_what_is_not_finite),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
