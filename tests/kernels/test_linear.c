/* test_linear.c - every linear row against the reference of the same rounding, on odd sizes, and
 * the memory it may touch. Bit equality is test_order.c's. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/kernels/support.h"

static const uint32_t sizes[][2] = { /* n, k */
    {1, 1}, {16, 2}, {15, 3}, {17, 31}, {33, 64}, {48, 511}, {64, 512}, {65, 513}, {80, 514},
    {100, 1023}, {130, 1025}, {96, 2048}, {37, 1537},
};
static const uint32_t heights[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17, 31, 37, 97};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* x as the reference wants it: f32. */
static float *widened(const struct linear_case *c, enum dtype type)
{
    size_t n = c->args.m * c->args.ldx;
    float *x = take_exact(n * sizeof(*x));

    for (size_t i = 0; i < n; i++)
        x[i] = type == DTYPE_BF16 ? bf16_to_f32(((uint16_t *)c->x)[i]) : ((float *)c->x)[i];
    return x;
}

static void check(const struct linear_kernel *fast, const struct linear_kernel *ref,
    enum weight_format format, uint32_t m, uint32_t n, uint32_t k, bool bias, uint64_t *seed)
{
    struct linear_case c = linear_case_make(format, fast->x, m, n, k, bias, seed);
    size_t all = m * c.args.ldy;
    float *x = widened(&c, fast->x), *y = take_exact(all * sizeof(*y));
    struct linear_args a = c.args;
    double error;

    memcpy(y, c.y, all * sizeof(*y));
    a.x = x;
    a.y = y;
    ref->apply(&a, 0, (n + PANEL - 1) / PANEL);
    fast->apply(&c.args, 0, (n + PANEL - 1) / PANEL);
    error = relative_error(c.y, y, all); /* marks beyond column n count as well */
    if (!(error <= 1e-5))
        fail_msg("%s m %u n %u k %u bias %d: error %g", fast->name, m, n, k, bias, error);
    for (size_t i = 0; i < all; i++)
        if ((c.y[i] == MARK) != (i % c.args.ldy >= n))
            fail_msg("%s m %u n %u k %u: wrote beyond its columns", fast->name, m, n, k);
    free(x);
    free(y);
    linear_case_free(&c);
}

static void check_rows(enum weight_format format, enum compute compute)
{
    uint64_t seed = seed_new(__func__);
    enum cpu_isa levels[ISA_LEVELS];
    int n_levels = cpu_isa_levels(levels);
    struct cpu_kernels ref, fast;

    assert_int_equal(cpu_kernels_select("scalar", &ref), STATUS_OK);
    for (int l = 1; l < n_levels; l++) {
        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &fast), STATUS_OK);
        printf("# %s\n", fast.linear[format][compute].name);
        for (size_t s = 0; s < COUNT(sizes); s++)
            for (size_t h = 0; h < COUNT(heights); h++)
                check(&fast.linear[format][compute], &ref.linear[format][compute], format,
                    heights[h], sizes[s][0], sizes[s][1], (s + h) % 2 == 0, &seed);
    }
}

static void f32_weights_agree_with_the_reference(void **state)
{
    (void)state;
    check_rows(WEIGHT_F32, COMPUTE_F32);
    check_rows(WEIGHT_F32, COMPUTE_BF16);
}

static void bf16_weights_agree_with_the_reference(void **state)
{
    (void)state;
    check_rows(WEIGHT_BF16, COMPUTE_F32);
}

static void bf16_weights_and_inputs_agree_with_the_reference(void **state)
{
    (void)state;
    check_rows(WEIGHT_BF16, COMPUTE_BF16);
}

/* The reference itself, against sums in double from weights that were never packed. */
static void reference_is_the_product(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels ref;

    (void)state;
    assert_int_equal(cpu_kernels_select("scalar", &ref), STATUS_OK);
    for (int format = WEIGHT_F32; format <= WEIGHT_BF16; format++) {
        enum { M = 3, N = 37, K = 1029 };
        struct linear_case c = linear_case_make((enum weight_format)format, DTYPE_F32, M, N, K,
            true, &seed);
        float *w = random_floats((size_t)N * K, &seed), want[M * N], got[M * N];

        pack(c.w, (enum weight_format)format, w, N, K);
        ref.linear[format][COMPUTE_F32].apply(&c.args, 0, (N + PANEL - 1) / PANEL);
        for (size_t i = 0; i < M * N; i++) {
            double sum = c.bias[i % N];

            for (size_t j = 0; j < K; j++) {
                float v = w[i % N * K + j];

                sum += (double)((float *)c.x)[i / N * c.args.ldx + j] *
                    (format == WEIGHT_BF16 ? bf16_round(v) : v);
            }
            want[i] = (float)sum;
            got[i] = c.y[i / N * c.args.ldy + i % N];
        }
        assert_true(relative_error(got, want, M * N) < 2e-6);
        free(w);
        linear_case_free(&c);
    }
}

static void an_empty_range_or_batch_writes_nothing(void **state)
{
    uint64_t seed = seed_new(__func__);
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int l = 0; l < n; l++) {
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
        for (int compute = COMPUTE_F32; compute <= COMPUTE_BF16; compute++) {
            const struct linear_kernel *row = &t.linear[WEIGHT_BF16][compute];
            struct linear_case c = linear_case_make(WEIGHT_BF16, row->x, 9, 40, 33, true, &seed);
            struct linear_args none = c.args;

            none.m = 0;
            row->apply(&c.args, 2, 2);
            row->apply(&none, 0, 3);
            for (size_t i = 0; i < c.args.m * c.args.ldy; i++)
                assert_true(c.y[i] == MARK);
            linear_case_free(&c);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_is_the_product),
        cmocka_unit_test(f32_weights_agree_with_the_reference),
        cmocka_unit_test(bf16_weights_agree_with_the_reference),
        cmocka_unit_test(bf16_weights_and_inputs_agree_with_the_reference),
        cmocka_unit_test(an_empty_range_or_batch_writes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
