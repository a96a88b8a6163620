/* test_order.c - an answer has the same bits whatever its batch, its place in it, the range it was
 * computed in, the chunk of the prompt, the size of a KV block; and AVX2's bits are AVX-512's. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/kernels/attention_case.h"

typedef void per_level(const struct cpu_kernels *t, uint64_t seed);

static void on_every_level(const char *test, per_level *check)
{
    uint64_t seed = seed_new(test);
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    for (int l = 0; l < n; l++) {
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
        check(&t, seed);
    }
}

static void assert_same_bits(const float *a, const float *b, size_t n, const char *what)
{
    if (memcmp(a, b, n * sizeof(*a)) != 0)
        fail_msg("%s: bits differ", what);
}

/* Row r of a batch of m against the same row alone. */
static void rows_alone(const struct linear_kernel *l, enum weight_format format, uint32_t m,
    uint32_t n, uint32_t k, uint64_t *seed)
{
    struct linear_case c = linear_case_make(format, l->x, m, n, k, true, seed);
    uint32_t panels = (n + PANEL - 1) / PANEL;
    float *alone = take_exact(n * sizeof(*alone));

    l->apply(&c.args, 0, panels);
    for (uint32_t r = 0; r < m; r++) {
        struct linear_args a = c.args;

        a.m = 1;
        a.y = alone;
        a.x = (const char *)a.x + r * a.ldx * dtype_bytes(l->x);
        l->apply(&a, 0, panels);
        assert_same_bits(alone, c.y + r * c.args.ldy, n, l->name);
    }
    free(alone);
    linear_case_free(&c);
}

static void check_rows_alone(const struct cpu_kernels *t, uint64_t seed)
{
    static const uint32_t heights[] = {2, 3, 4, 5, 6, 7, 8, 9, 15, 37, 101};

    for (int format = WEIGHT_F32; format <= WEIGHT_BF16; format++)
        for (int compute = COMPUTE_F32; compute <= COMPUTE_BF16; compute++)
            for (size_t h = 0; h < sizeof(heights) / sizeof(heights[0]); h++)
                rows_alone(&t->linear[format][compute], (enum weight_format)format, heights[h],
                    random_between(&seed, 1, 150), random_between(&seed, 500, 1600), &seed);
}

static void a_product_does_not_know_its_batch(void **state)
{
    (void)state;
    on_every_level(__func__, check_rows_alone);
}

static void check_ranges(const struct cpu_kernels *t, uint64_t seed)
{
    for (int compute = COMPUTE_F32; compute <= COMPUTE_BF16; compute++)
        for (uint32_t m = 1; m <= 20; m += 3) {
            const struct linear_kernel *l = &t->linear[WEIGHT_BF16][compute];
            struct linear_case c = linear_case_make(WEIGHT_BF16, l->x, m, 201, 777, true, &seed);
            size_t all = m * c.args.ldy;
            float *whole = take_exact(all * sizeof(*whole));
            uint32_t panels = 13, at = 0;

            l->apply(&c.args, 0, panels);
            memcpy(whole, c.y, all * sizeof(*whole));
            for (size_t i = 0; i < all; i++)
                if (c.y[i] != MARK)
                    c.y[i] = 0;
            while (at < panels) {
                uint32_t to = random_between(&seed, at, panels);

                l->apply(&c.args, at, to);
                at = to;
            }
            assert_same_bits(c.y, whole, all, l->name);
            free(whole);
            linear_case_free(&c);
        }
}

static void a_product_does_not_know_its_range(void **state)
{
    (void)state;
    on_every_level(__func__, check_ranges);
}

/* All tokens at once, one at a time, item by item; and with other blocks. */
static void check_chunks(const struct cpu_kernels *t, uint64_t seed)
{
    static const uint32_t block_sizes[] = {1, 7, 16, 64, 256};

    for (size_t i = 0; i < CACHE_TYPES; i++) {
        struct attention_shape s = {.length = 530, .heads = 6, .kv_heads = 2, .head_dim = 36,
            .block_size = 32, .tokens = 12, .dtype = cache_types[i]};
        struct attention_case c = attention_case_make(s, seed);
        float *whole = take_exact(c.out_floats * sizeof(*whole));

        t->attention(&c.args, 0, s.tokens * s.kv_heads);
        memcpy(whole, c.out, c.out_floats * sizeof(*whole));
        for (uint32_t token = 0; token < s.tokens; token++) {
            struct attention_args a = c.args;

            a.tokens = 1;
            a.q += token * a.ld_q;
            a.out += token * a.ld_out;
            a.position += token;
            a.blocks += token;
            memset(a.out, 0, sizeof(float) * s.heads * s.head_dim);
            t->attention(&a, 1, 2);
            t->attention(&a, 0, 1);
        }
        assert_same_bits(c.out, whole, c.out_floats, t->name);
        attention_case_free(&c);
        for (size_t b = 0; b < sizeof(block_sizes) / sizeof(block_sizes[0]); b++) {
            s.block_size = block_sizes[b];
            c = attention_case_make(s, seed);
            t->attention(&c.args, 0, s.tokens * s.kv_heads);
            assert_same_bits(c.out, whole, c.out_floats, t->name);
            attention_case_free(&c);
        }
        free(whole);
    }
}

static void attention_does_not_know_its_chunk_or_blocks(void **state)
{
    (void)state;
    on_every_level(__func__, check_chunks);
}

/* A rank that owns one KV head and its query heads has the bits of one that owns them all. */
static void check_shards(const struct cpu_kernels *t, uint64_t seed)
{
    struct attention_shape s = {.length = 300, .heads = 20, .kv_heads = 2, .head_dim = 48,
        .block_size = 16, .tokens = 3, .dtype = DTYPE_BF16};
    struct attention_case c = attention_case_make(s, seed);
    float *whole = take_exact(c.out_floats * sizeof(*whole));
    static const uint16_t to_second[1] = {1};

    t->attention(&c.args, 0, s.tokens * s.kv_heads);
    memcpy(whole, c.out, c.out_floats * sizeof(*whole));
    for (uint32_t h = s.heads / 2; h < s.heads; h++) {
        struct attention_args a = c.args;

        a.q += (size_t)h * s.head_dim;
        a.out += (size_t)h * s.head_dim;
        a.heads = 1;
        a.q_to_kv = to_second;
        t->attention(&a, 0, s.tokens * s.kv_heads);
    }
    assert_same_bits(c.out, whole, c.out_floats, t->name);
    free(whole);
    attention_case_free(&c);
}

static void attention_does_not_know_its_shard(void **state)
{
    (void)state;
    on_every_level(__func__, check_shards);
}

static void check_norm(const struct cpu_kernels *t, uint64_t seed)
{
    enum { ROWS = 5, COLS = 1037 };
    float *x = random_floats(ROWS * COLS, &seed), *y = random_floats(ROWS * COLS, &seed);
    float *w = random_floats(COLS, &seed), *all = random_floats(ROWS * COLS, &seed), one[COLS];
    float *copy = take_exact(ROWS * COLS * sizeof(*copy));

    memcpy(copy, x, ROWS * COLS * sizeof(*copy));
    t->add_norm(all, x, y, w, 1e-6f, COLS, 0, ROWS);
    for (size_t r = 0; r < ROWS; r++) {
        t->add_norm(one, copy + r * COLS, y + r * COLS, w, 1e-6f, COLS, 0, 1);
        assert_same_bits(one, all + r * COLS, COLS, t->name);
        assert_same_bits(copy + r * COLS, x + r * COLS, COLS, t->name);
    }
    free(x);
    free(y);
    free(w);
    free(all);
    free(copy);
}

static void a_norm_does_not_know_its_batch(void **state)
{
    (void)state;
    on_every_level(__func__, check_norm);
}

/* Float32 products and attention are the same fused operations in both. */
static void avx512_has_the_bits_of_avx2(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels t[2];
    enum cpu_isa levels[ISA_LEVELS];

    (void)state;
    if (cpu_isa_levels(levels) <= ISA_AVX512) {
        print_message("# this CPU has no AVX-512: there is nothing to compare\n");
        skip();
    }
    assert_int_equal(cpu_kernels_select("avx2", &t[0]), STATUS_OK);
    assert_int_equal(cpu_kernels_select("avx512", &t[1]), STATUS_OK);
    for (uint32_t m = 1; m < 30; m += 4) {
        struct linear_case c = linear_case_make(WEIGHT_BF16, DTYPE_F32, m, 90, 1301, true, &seed);
        float *first = take_exact(m * c.args.ldy * sizeof(*first));

        t[0].linear[WEIGHT_BF16][COMPUTE_F32].apply(&c.args, 0, 6);
        memcpy(first, c.y, m * c.args.ldy * sizeof(*first));
        t[1].linear[WEIGHT_BF16][COMPUTE_F32].apply(&c.args, 0, 6);
        assert_same_bits(c.y, first, m * c.args.ldy, "linear");
        free(first);
        linear_case_free(&c);
    }
    for (size_t i = 0; i < CACHE_TYPES; i++) {
        struct attention_shape s = {.length = 700, .heads = 4, .kv_heads = 2, .head_dim = 72,
            .block_size = 16, .tokens = 5, .dtype = cache_types[i]};
        struct attention_case a = attention_case_make(s, seed), b = attention_case_make(s, seed);

        t[0].attention(&a.args, 0, s.tokens * s.kv_heads);
        t[1].attention(&b.args, 0, s.tokens * s.kv_heads);
        assert_same_bits(a.out, b.out, a.out_floats, "attention");
        attention_case_free(&a);
        attention_case_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_product_does_not_know_its_batch),
        cmocka_unit_test(a_product_does_not_know_its_range),
        cmocka_unit_test(attention_does_not_know_its_chunk_or_blocks),
        cmocka_unit_test(attention_does_not_know_its_shard),
        cmocka_unit_test(a_norm_does_not_know_its_batch),
        cmocka_unit_test(avx512_has_the_bits_of_avx2),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
