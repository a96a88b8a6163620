/* test_quant_rows.c - products with quantised weights against their definition in double.
 *
 * Weight-only rows must also have the very bits of the float32 row on the weights written out. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/cpu/ref_quant.h"
#include "quern/backend.h"
#include "tests/kernels/quant_case.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const uint32_t sizes[][3] = { /* m, n, k */
    {1, 1, 1}, {2, 16, 8}, {3, 17, 7}, {33, 15, 130}, {1, 40, 512}, {4, 33, 513}, {65, 18, 1100},
    {2, 5, 2049},
};
static const enum weight_format formats[] = {WEIGHT_FP8, WEIGHT_INT8, WEIGHT_INT4};
static const struct scale_layout layouts[] = {
    {.group = 1u << 20}, {.group = 128}, {.group = 32, .zeros = true},
    {.group = 128, .first = 77, .zeros = true}, {.group = 40, .scattered = true, .zeros = true},
    {.group = 1u << 20, .first = 900},
};
static const struct activation_rule rules[] = {
    {.kind = ACTIVATION_PLAIN}, {.kind = ACTIVATION_INT8}, {.kind = ACTIVATION_FP8},
    {.kind = ACTIVATION_INT8, .group = 128}, {.kind = ACTIVATION_FP8, .group = 128, .first = 77},
    {.kind = ACTIVATION_FP8, .fixed = 0.5f}, {.kind = ACTIVATION_INT8, .group = 50, .first = 49},
};

static struct cpu_kernels kernels_at(enum cpu_isa isa)
{
    struct cpu_kernels k;

    assert_int_equal(cpu_kernels_select(cpu_isa_name(isa), &k), STATUS_OK);
    return k;
}

static void apply(const struct cpu_kernels *t, const struct quant_case *c)
{
    t->linear[c->weight.format][COMPUTE_F32].apply(&c->args, 0, (c->weight.n + 15) / 16);
}

static double input(const struct quant_case *c, size_t row, uint32_t col)
{
    const struct weight_quant *q = &c->weight.quant;
    uint32_t group = q->act_group == 0 ? 0
        : (q->act_first + col) / q->act_group - q->act_first / q->act_group;
    uint8_t code;

    if (q->activation == ACTIVATION_PLAIN)
        return c->x[row * c->weight.k + col];
    code = c->x_codes[row * c->args.ldx + col];
    return (q->activation == ACTIVATION_INT8 ? (double)(int8_t)code : (double)e4m3_to_f32(code)) *
        c->x_scales[row * c->args.ld_scales + group];
}

/* ||y - definition|| / sum of |products|: what rounding can do, however much cancels. */
static double error_of(const struct quant_case *c)
{
    double worst = 0;
    uint32_t n = c->weight.n, k = c->weight.k;

    for (size_t row = 0; row < c->args.m; row++)
        for (size_t out = 0; out < n; out++) {
            double sum = c->args.bias != NULL ? c->bias[out] : 0, size = fabs(sum), error;

            for (uint32_t col = 0; col < k; col++) {
                double term = input(c, row, col) * c->values[out * k + col];

                sum += term;
                size += fabs(term);
            }
            error = fabs(c->y[row * c->args.ldy + out] - sum) / (size + 1e-30);
            worst = error > worst || isnan(error) ? error : worst;
        }
    return worst;
}

static void check_case(const struct quant_case *c, const char *what)
{
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    double error;

    apply(&t, c);
    error = error_of(c);
    if (!(error < 2e-6))
        fail_msg("%s: m %u n %u k %u, format %d, activation %d: error %g", what, c->args.m,
            c->weight.n, c->weight.k, c->weight.format, c->weight.quant.activation, error);
    for (size_t i = 0; i < c->args.m * c->args.ldy; i++)
        if ((c->y[i] == MARK) != (i % c->args.ldy >= c->weight.n))
            fail_msg("%s: wrote beyond its columns", what);
}

static void every_row_is_its_definition(void **state)
{
    uint64_t seed = seed_new(__func__);
    char what[64];

    (void)state;
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t r = 0; r < COUNT(rules); r++)
            for (size_t l = 0; l < COUNT(layouts); l++)
                for (size_t s = 0; s < COUNT(sizes); s++) {
                    struct quant_case *c = case_make(formats[f], sizes[s][0], sizes[s][1],
                        sizes[s][2], &layouts[l], &rules[r], (s + l) % 2 == 0, &seed);

                    snprintf(what, sizeof(what), "rule %zu, layout %zu", r, l);
                    check_case(c, what);
                    case_free(c);
                }
}

static void weight_only_rows_have_the_bits_of_the_float_row(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels t = kernels_at(ISA_SCALAR);

    (void)state;
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t l = 0; l < COUNT(layouts); l++)
            for (size_t s = 0; s < COUNT(sizes); s++) {
                struct quant_case *c = case_make(formats[f], sizes[s][0], sizes[s][1], sizes[s][2],
                    &layouts[l], &rules[0], l % 2 == 0, &seed);
                size_t all = c->args.m * c->args.ldy;
                float *y = take_exact(all * sizeof(*y));
                void *packed = take(packed_bytes(WEIGHT_F32, c->weight.n, c->weight.k));
                struct linear_args plain = c->args;

                memcpy(y, c->y, all * sizeof(*y));
                pack(packed, WEIGHT_F32, c->values, c->weight.n, c->weight.k);
                plain.w = packed;
                plain.y = y;
                t.linear[WEIGHT_F32][COMPUTE_F32].apply(&plain, 0, (c->weight.n + 15) / 16);
                apply(&t, c);
                assert_memory_equal(c->y, y, all * sizeof(*y));
                free(packed);
                free(y);
                case_free(c);
            }
}

/* The sum of an element is the same alone, in a batch, and however panels are dealt out. */
static void neighbours_do_not_change_a_bit(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    enum { M = 70, N = 35, K = 1037 };

    (void)state;
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t r = 0; r < COUNT(rules); r++) {
            struct quant_case *c =
                case_make(formats[f], M, N, K, &layouts[3], &rules[r], true, &seed);
            float *y = take_exact(M * c->args.ldy * sizeof(*y));
            size_t each = c->weight.quant.activation == ACTIVATION_PLAIN ? sizeof(float) : 1;
            struct linear_args one = c->args;

            memcpy(y, c->y, M * c->args.ldy * sizeof(*y));
            apply(&t, c);
            one.m = 1;
            for (size_t row = 0; row < M; row += 23) {
                one.y = y + row * one.ldy;
                one.x = (const char *)c->args.x + row * one.ldx * each;
                one.x_scales = c->x_scales + row * one.ld_scales;
                for (uint32_t panel = 0; panel < 3; panel++)
                    t.linear[formats[f]][COMPUTE_BF16].apply(&one, panel, panel + 1);
                assert_memory_equal(one.y, c->y + row * one.ldy, N * sizeof(float));
            }
            free(y);
            case_free(c);
        }
}

static void a_cut_inside_a_group_sums_to_the_whole(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    enum { M = 5, N = 21, K = 700 };

    (void)state;
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t r = 1; r < COUNT(rules); r++)
            for (uint32_t at = 1; at < K; at += 93) {
                const struct scale_layout layout = {.group = 128, .first = 5};
                struct quant_case *c =
                    case_make(formats[f], M, N, K, &layout, &rules[r], false, &seed);
                struct quant_case *a = case_cut(c, 0, at), *b = case_cut(c, at, K);

                apply(&t, a);
                apply(&t, b);
                for (size_t i = 0; i < M * N; i++)
                    c->y[i / N * c->args.ldy + i % N] = a->y[i] + b->y[i];
                assert_true(error_of(c) < 2e-6);
                case_free(a);
                case_free(b);
                case_free(c);
            }
}

/* Random codes of one sign, and then all as far from zero as can be: sums far past 2^24. */
static void integers_are_summed_exactly(void **state)
{
    enum { K = 1 << 15, N = 5 };
    const struct scale_layout layout = {.group = K, .zeros = true};
    const struct activation_rule rule = {.kind = ACTIVATION_INT8};
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    uint64_t seed = seed_new(__func__);
    struct quant_case *c = case_make(WEIGHT_INT8, 1, N, K, &layout, &rule, false, &seed);

    (void)state;
    c->x_scales[0] = 1;
    for (int k = 0; k < K; k++)
        c->x_codes[k] |= 0x80;
    for (int extreme = 0; extreme < 2; extreme++) {
        if (extreme) {
            memset(c->codes, 0x80, (size_t)N * K);
            memset(c->x_codes, 0x80, K - 1);
            quant_pack(c->weight.data, WEIGHT_INT8, c->codes, N, K);
        }
        for (int n = 0; n < N; n++) {
            c->weight.quant.zero[n] = 127;
            c->weight.quant.scale[n] = 1;
        }
        apply(&t, c);
        for (size_t n = 0; n < N; n++) {
            int64_t sum = 0;

            for (size_t k = 0; k < K; k++)
                sum += (int64_t)(int8_t)c->x_codes[k] * ((int8_t)c->codes[n * K + k] - 127);
            assert_true(c->y[n] == (float)sum);
        }
    }
    case_free(c);
}

/* Activations -------------------------------------------------------------------------------- */

static void int8_codes_are_the_nearest(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    const float edges[] = {0.5f, 1.5f, -0.5f, -2.5f, 126.5f, 127.5f, 300, -128.4f, -128.5f, -1e30f};
    const int8_t want[] = {0, 2, 0, -2, 126, 127, 127, -128, -128, -128};
    uint8_t codes[1000];
    float *x = random_floats(1000, &seed);

    (void)state;
    t.quantize(codes, edges, COUNT(edges), 1, ACTIVATION_INT8, false);
    assert_memory_equal(codes, want, sizeof(want));
    t.quantize(codes, x, 1000, 0.0173f, ACTIVATION_INT8, false);
    for (int i = 0; i < 1000; i++) {
        float v = x[i] / 0.0173f;
        double off = fabs((double)v - (int8_t)codes[i]);

        assert_true(off <= 0.5 || (v > 127 && codes[i] == 127) || (v < -128 && codes[i] == 0x80));
        assert_true(off < 0.5 || codes[i] % 2 == 0 || off > 0.5);
    }
    free(x);
}

static void fp8_codes_divide_or_multiply(void **state)
{
    uint64_t seed = seed_new(__func__);
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    uint8_t quotient[4000], product[4000];
    float *x = random_floats(4000, &seed), scale = 0.003f, inverse = 1 / scale;

    (void)state;
    t.quantize(quotient, x, 4000, scale, ACTIVATION_FP8, false);
    t.quantize(product, x, 4000, scale, ACTIVATION_FP8, true);
    for (int i = 0; i < 4000; i++) {
        assert_int_equal(quotient[i], f32_to_e4m3(x[i] / scale));
        assert_int_equal(product[i], f32_to_e4m3(x[i] * inverse));
    }
    free(x);
}

/* Whole tokens alone, and only where the scale is made on the way: a stored one divides. */
static void fp8_tokens_alone_multiply(void **state)
{
    (void)state;
    assert_true(quant_by_inverse(&(struct weight_quant){.activation = ACTIVATION_FP8}));
    assert_false(quant_by_inverse(&(struct weight_quant){.activation = ACTIVATION_FP8,
        .activation_scale = 0.5f}));
    assert_false(quant_by_inverse(&(struct weight_quant){.activation = ACTIVATION_FP8,
        .act_group = 128}));
    assert_false(quant_by_inverse(&(struct weight_quant){.activation = ACTIVATION_INT8}));
}

static void the_largest_magnitude_is_found(void **state)
{
    struct cpu_kernels t = kernels_at(ISA_SCALAR);

    (void)state;
    assert_true(t.amax((float[]){1, -3, 2}, 3) == 3);
    assert_true(t.amax(NULL, 0) == 0);
    assert_true(isnan(t.amax((float[]){1, NAN, 2}, 3)));
    assert_true(isinf(t.amax((float[]){-INFINITY, 2}, 2)));
}

/* A product that a NaN went into is no number, as it would be without codes. */
static void a_nan_is_not_hidden(void **state)
{
    const struct scale_layout layout = {.group = 8};
    struct cpu_kernels t = kernels_at(ISA_SCALAR);
    uint64_t seed = 1;

    (void)state;
    for (size_t r = 1; r < 3; r++) {
        struct quant_case *c = case_make(WEIGHT_INT8, 1, 1, 8, &layout, &rules[r], false, &seed);
        float x[8] = {1, 2, NAN, 3};

        c->x_scales[0] = t.amax(x, 8);
        t.quantize(c->x_codes, x, 8, c->x_scales[0], rules[r].kind, false);
        apply(&t, c);
        assert_true(isnan(c->y[0]));
        case_free(c);
    }
}

/* Packing and lookups ------------------------------------------------------------------------ */

static void the_backend_packs_as_the_header_says(void **state)
{
    const struct backend_options options = {.threads = 2, .first_cpu = -1};
    uint64_t seed = seed_new(__func__);
    struct device *d;

    (void)state;
    assert_int_equal(cpu_backend.open(&options, &d), STATUS_OK);
    for (size_t f = 0; f < COUNT(formats); f++)
        for (size_t s = 0; s < COUNT(sizes); s++) {
            uint32_t n = sizes[s][1] + 30, k = sizes[s][2];
            size_t bytes = quant_bytes(formats[f], n, k);
            struct quant_case *c =
                case_make(formats[f], 1, n, k, &layouts[1], &rules[0], false, &seed);
            struct weight w = c->weight;

            assert_int_equal(cpu_backend.weight_bytes(d, w.format, n, k), bytes);
            w.data = take_exact(bytes);
            memset(w.data, 0xa5, bytes);
            cpu_backend.weight_pack(d, &w, 0, 16, c->codes);
            cpu_backend.weight_pack(d, &w, 16, n - 16, c->codes + (size_t)16 * k);
            assert_memory_equal(w.data, c->weight.data, bytes);
            free(w.data);
            case_free(c);
        }
    cpu_backend.close(d);
}

static void lookup_finds_the_row_at_every_level(void **state)
{
    uint64_t seed = seed_new(__func__);
    enum cpu_isa levels[ISA_LEVELS];
    enum { N = 37, K = 71 };

    (void)state;
    for (int i = 0, count = cpu_isa_levels(levels); i < count; i++) {
        struct cpu_kernels t = kernels_at(levels[i]);

        for (size_t f = 0; f < COUNT(formats); f++) {
            struct quant_case *c =
                case_make(formats[f], 1, N, K, &layouts[3], &rules[0], false, &seed);
            float out[K];

            assert_non_null(t.linear[formats[f]][COMPUTE_F32].apply);
            assert_non_null(t.linear[formats[f]][COMPUTE_BF16].apply);
            for (uint32_t row = 0; row < N; row++) {
                t.lookup(out, &c->weight, row);
                assert_memory_equal(out, c->values + (size_t)row * K, sizeof(out));
            }
            case_free(c);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_its_definition),
        cmocka_unit_test(weight_only_rows_have_the_bits_of_the_float_row),
        cmocka_unit_test(neighbours_do_not_change_a_bit),
        cmocka_unit_test(a_cut_inside_a_group_sums_to_the_whole),
        cmocka_unit_test(integers_are_summed_exactly),
        cmocka_unit_test(int8_codes_are_the_nearest),
        cmocka_unit_test(fp8_codes_divide_or_multiply),
        cmocka_unit_test(fp8_tokens_alone_multiply),
        cmocka_unit_test(the_largest_magnitude_is_found),
        cmocka_unit_test(a_nan_is_not_hidden),
        cmocka_unit_test(the_backend_packs_as_the_header_says),
        cmocka_unit_test(lookup_finds_the_row_at_every_level),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
