/* test_dtype.c - conversions, against the compiler's own type and against their definition.
 *
 * bf16 is checked against "the nearer neighbour, the even one of two as near",
 * computed in double, where every difference of two floats in question is exact. */
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <math.h>
#include <string.h>

#include "quern/dtype.h"
#include "tests/ipc/ipc_support.h"

enum { RANDOM_FLOATS = 2000000 };

static float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof(x));
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static void sizes_are_those_of_the_types(void **state)
{
    (void)state;
    assert_int_equal(dtype_bytes(DTYPE_F32), sizeof(float));
    assert_int_equal(dtype_bytes(DTYPE_BF16), 2);
    assert_int_equal(dtype_bytes(DTYPE_F16), 2);
    assert_int_equal(dtype_bytes(DTYPE_I32), sizeof(int32_t));
    assert_int_equal(dtype_bytes(DTYPE_U8), 1);
    assert_int_equal(dtype_bytes(DTYPE_I8), 1);
}

static void every_bf16_widens_to_its_bits(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++)
        assert_int_equal(bits_of(bf16_to_f32((uint16_t)code)), code << 16);
}

static void every_bf16_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t back = f32_to_bf16(bf16_to_f32((uint16_t)code));

        if (isnan(bf16_to_f32((uint16_t)code)))
            assert_int_equal(back, code | 0x40u);
        else
            assert_int_equal(back, code);
    }
}

/* Of a finite x: infinity counts as the float that would follow the largest one. */
static uint16_t nearest_bf16(float x)
{
    uint32_t low = bits_of(x) >> 16;
    double at = fabs((double)x), below = fabs((double)float_of(low << 16));
    double above = fabs((double)float_of((low + 1) << 16));

    if (isinf(above))
        above = 0x1p128;
    if (at - below < above - at || (at - below == above - at && low % 2 == 0))
        return (uint16_t)low;
    return (uint16_t)(low + 1);
}

static void check_bf16(float x)
{
    if (f32_to_bf16(x) != nearest_bf16(x))
        fail_msg("%a (%08x) became %04x, not %04x", (double)x, bits_of(x), f32_to_bf16(x),
            nearest_bf16(x));
}

static void narrowing_to_bf16_takes_the_nearest(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (uint32_t code = 0; code < 65536; code++) /* at each code, and at each middle */
        for (int32_t off = -2; off <= 2; off++)
            for (uint32_t half = 0; half <= 0x8000; half += 0x8000) {
                float x = float_of((code << 16) + half + (uint32_t)off);

                if (isfinite(x))
                    check_bf16(x);
            }
    for (int i = 0; i < RANDOM_FLOATS; i++) {
        float x = float_of((uint32_t)test_random(&seed));

        if (isfinite(x))
            check_bf16(x);
    }
}

static void no_nan_becomes_a_number(void **state)
{
    static const uint32_t nans[] = {
        0x7f800001, 0x7fc00000, 0x7fffffff, 0xff800001, 0xffffffff, 0x7f80ffff, 0xff808000,
    };

    (void)state;
    for (size_t i = 0; i < sizeof(nans) / sizeof(nans[0]); i++) {
        assert_true(isnan(bf16_to_f32(f32_to_bf16(float_of(nans[i])))));
        assert_true(isnan(f16_to_f32(f32_to_f16(float_of(nans[i])))));
        assert_int_equal(f32_to_bf16(float_of(nans[i])) >> 15, nans[i] >> 31);
        assert_int_equal(f32_to_f16(float_of(nans[i])) >> 15, nans[i] >> 31);
    }
}

static void rounding_to_bf16_is_there_and_back(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (int i = 0; i < 100000; i++) {
        float x = float_of((uint32_t)test_random(&seed));
        uint32_t once = bits_of(bf16_round(x));

        assert_int_equal(once & 0xffff, 0);
        assert_int_equal(bits_of(bf16_round(float_of(once))), once);
    }
}

/* (-1)^sign * 2^(e-15) * 1.m, or 2^-14 * 0.m. */
static double f16_value(uint32_t code)
{
    int e = (int)(code >> 10 & 31);
    double m = (double)(code & 1023) / 1024;
    double x = e == 0 ? ldexp(m, -14) : e == 31 ? HUGE_VAL : ldexp(1 + m, e - 15);

    return code >> 15 ? -x : x;
}

static void every_f16_widens_to_its_value(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        float x = f16_to_f32((uint16_t)code);

        if ((code & 0x7c00u) == 0x7c00u && (code & 1023u) != 0) {
            assert_true(isnan(x));
            continue;
        }
        assert_true((double)x == f16_value(code));
        assert_int_equal(signbit(x) != 0, code >> 15);
    }
}

static void every_f16_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t back = f32_to_f16(f16_to_f32((uint16_t)code));

        if ((code & 0x7c00u) == 0x7c00u && (code & 1023u) != 0)
            assert_int_equal(back, code | 0x200u);
        else
            assert_int_equal(back, code);
    }
}

/* What another narrows it to: the compiler's own type; the CPU's instruction where it has none
 * (clang before 15). */
#if defined(__FLT16_MANT_DIG__)
static uint16_t narrowed(float x)
{
    _Float16 theirs = (_Float16)x;
    uint16_t bits;

    memcpy(&bits, &theirs, sizeof(bits));
    return bits;
}
#elif defined(__x86_64__)
__attribute__((target("f16c"))) static uint16_t narrowed(float x)
{
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}
#else
#error "this compiler has no _Float16: use gcc 12 or clang 15 and later"
#endif

static void check_f16(float x)
{
    uint16_t want = narrowed(x);

    if (f32_to_f16(x) != want)
        fail_msg("%a (%08x) became %04x, not %04x", (double)x, bits_of(x), f32_to_f16(x), want);
}

static void narrowing_to_f16_is_the_compilers_or_the_cpus(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (uint32_t code = 0; code < 65536; code++) {
        float here = f16_to_f32((uint16_t)code), next = f16_to_f32((uint16_t)(code + 1));
        float middle = (here + next) / 2;

        if (!isfinite(here) || !isfinite(next))
            continue;
        check_f16(middle);
        check_f16(nextafterf(middle, -INFINITY));
        check_f16(nextafterf(middle, INFINITY));
    }
    for (int i = 0; i < RANDOM_FLOATS; i++) {
        /* Exponents that f16 has, and some on both sides. */
        uint64_t r = test_random(&seed);
        float x = float_of((uint32_t)(r & 0x807fffffu) | (uint32_t)(96 + (r >> 32) % 56) << 23);

        check_f16(x);
    }
}

static void f16_overflows_at_65520(void **state)
{
    (void)state;
    assert_int_equal(f32_to_f16(65504), 0x7bff);
    assert_int_equal(f32_to_f16(nextafterf(65520, 0)), 0x7bff);
    assert_int_equal(f32_to_f16(65520), 0x7c00);
    assert_int_equal(f32_to_f16(-65520), 0xfc00);
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(0x1p-25f), 0);
    assert_int_equal(f32_to_f16(nextafterf(0x1p-25f, 1)), 1);
    assert_int_equal(f32_to_f16(-0.0f), 0x8000);
}

/* (-1)^sign * 2^(e-7) * 1.m, or 2^-6 * 0.m; 0x7f and 0xff are no number. */
static double e4m3_value(uint32_t code)
{
    int e = (int)(code >> 3 & 15);
    double m = (double)(code & 7) / 8, x = e == 0 ? ldexp(m, -6) : ldexp(1 + m, e - 7);

    return code >> 7 ? -x : x;
}

static void every_e4m3_widens_to_its_value(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++) {
        float x = e4m3_to_f32((uint8_t)code);

        if ((code & 0x7fu) == 0x7fu) {
            assert_true(isnan(x));
            continue;
        }
        assert_true((double)x == e4m3_value(code));
        assert_int_equal(signbit(x) != 0, code >> 7);
    }
    assert_true(e4m3_to_f32(0x7e) == 448.0f && e4m3_to_f32(0x01) == 0x1p-9f);
}

static void every_e4m3_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t code = 0; code < 256; code++)
        assert_int_equal(f32_to_e4m3(e4m3_to_f32((uint8_t)code)), code);
}

/* By search: the nearer of two neighbours, the even one of two as near; 448 at the end. */
static uint8_t nearest_e4m3(float x)
{
    double at = fabs((double)x);
    uint32_t low = 0;

    while (low < 0x7e && e4m3_value(low + 1) <= at)
        low++;
    if (low < 0x7e) {
        double below = at - e4m3_value(low), above = e4m3_value(low + 1) - at;

        low += above < below || (above == below && low % 2 == 1);
    }
    return (uint8_t)(low | (signbit(x) ? 0x80u : 0));
}

/* All upper halves, each with lower halves around which rounding can turn: every float32 lies
 * between two that are tried and that become the same code, or is a neighbour of a middle. */
static void narrowing_to_e4m3_takes_the_nearest(void **state)
{
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};

    (void)state;
    for (uint32_t high = 0; high < 65536; high++)
        for (size_t i = 0; i < sizeof(low) / sizeof(low[0]); i++) {
            float x = float_of(high << 16 | low[i]);

            if (isnan(x))
                assert_int_equal(f32_to_e4m3(x), 0x7fu | (high >> 8 & 0x80u));
            else if (f32_to_e4m3(x) != nearest_e4m3(x))
                fail_msg("%a became %02x, not %02x", (double)x, f32_to_e4m3(x), nearest_e4m3(x));
        }
}

static void e4m3_saturates_at_448(void **state)
{
    (void)state;
    assert_int_equal(f32_to_e4m3(432), 0x7e); /* a middle, to the even one */
    assert_int_equal(f32_to_e4m3(nextafterf(432, 0)), 0x7d);
    assert_int_equal(f32_to_e4m3(464), 0x7e);
    assert_int_equal(f32_to_e4m3(1e30f), 0x7e);
    assert_int_equal(f32_to_e4m3(-INFINITY), 0xfe);
    assert_int_equal(f32_to_e4m3(0x1p-10f), 0);
    assert_int_equal(f32_to_e4m3(nextafterf(0x1p-10f, 1)), 1);
    assert_int_equal(f32_to_e4m3(-0.0f), 0x80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_the_types),
        cmocka_unit_test(every_bf16_widens_to_its_bits),
        cmocka_unit_test(every_bf16_survives_the_round_trip),
        cmocka_unit_test(narrowing_to_bf16_takes_the_nearest),
        cmocka_unit_test(no_nan_becomes_a_number),
        cmocka_unit_test(rounding_to_bf16_is_there_and_back),
        cmocka_unit_test(every_f16_widens_to_its_value),
        cmocka_unit_test(every_f16_survives_the_round_trip),
        cmocka_unit_test(narrowing_to_f16_is_the_compilers_or_the_cpus),
        cmocka_unit_test(f16_overflows_at_65520),
        cmocka_unit_test(every_e4m3_widens_to_its_value),
        cmocka_unit_test(every_e4m3_survives_the_round_trip),
        cmocka_unit_test(narrowing_to_e4m3_takes_the_nearest),
        cmocka_unit_test(e4m3_saturates_at_448),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
