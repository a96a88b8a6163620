/* test_philox.c - Random123's known answers, our logarithm, and the noise at its ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "kernels/cpu/philox.h"

#define NOISE_HASH 0x6ee4ba96u

static void random123_known_answers_are_given(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
            {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
            {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        struct philox_block b = philox(known[i].counter, known[i].key);

        for (int w = 0; w < 4; w++)
            assert_int_equal(b.word[w], known[i].out[w]);
    }
}

static uint32_t next_word(uint32_t *i)
{
    const uint32_t counter[4] = {(*i)++}, key[2] = {20261122, 0};

    return philox(counter, key).word[0];
}

static void the_logarithm_is_good_to_2e_7(void **state)
{
    uint32_t counter = 0;
    double worst = 0;

    (void)state;
    for (int i = 0; i < 300000; i++) {
        /* mantissas of all kinds, exponents of which the noise meets most near 1 */
        double m = 1 + ldexp(next_word(&counter) >> 9, -23);
        int e = i % 3 == 0 ? -1 : i % 3 == 1 ? 0 : (int)(next_word(&counter) % 60) - 30;
        float x = (float)ldexp(m, e);
        double want = log((double)x), error = fabs(portable_log(x) - want);

        if (want != 0 && error / fabs(want) > worst)
            worst = error / fabs(want);
    }
    print_message("# worst relative error %.3g\n", worst);
    assert_true(worst < 2e-7);
    assert_true(portable_log(1.0f) == 0.0f);
}

static void the_noise_is_that_of_a_25_bit_uniform(void **state)
{
    uint32_t counter = 0;
    double worst = 0;

    (void)state;
    for (int i = 0; i < 300000; i++) {
        uint32_t word = next_word(&counter);
        double u, error;

        if (i % 4 == 1)
            word |= 0xfff00000u; /* where u in float32 would lose its last bit */
        if (i % 4 == 2)
            word &= 0x000fffffu;
        u = ((double)(word >> 8) + 0.5) * 0x1p-24;
        error = fabs(gumbel_noise(word) + log(-log(u)));
        assert_true(gumbel_noise(word) < gumbel_bound(word));
        if (error > worst)
            worst = error;
    }
    print_message("# worst error %.3g\n", worst);
    assert_true(worst < 2e-6);
}

static void the_noise_is_finite_and_bounded(void **state)
{
    (void)state;
    assert_true(fabs(gumbel_noise(0) - -2.852362904) < 1e-6);
    assert_true(fabs(gumbel_noise(0x7fffffff) - 0.366512835) < 1e-6);
    assert_true(fabs(gumbel_noise(0x80000000) - 0.366513007) < 1e-6);
    assert_true(fabs(gumbel_noise(0xffffffff) - 17.328679499) < 2e-6);
    assert_true(gumbel_noise(0xffffffff) < GUMBEL_MAX);
}

static uint32_t word_of(uint64_t seed, uint32_t position, uint32_t choice, uint32_t token)
{
    struct noise n = {.seed = seed, .position = position, .choice = choice};

    return noise_word(&n, token);
}

static void a_token_s_noise_names_seed_position_choice_and_id(void **state)
{
    const uint32_t counter[4] = {7, 2, 24, 0}, key[2] = {0x9abcdef0, 0x12345678};
    const uint64_t seed = 0x123456789abcdef0;
    uint32_t word = word_of(seed, 7, 2, 99); /* token 99 is the last of block 24 */

    (void)state;
    assert_true(word == philox(counter, key).word[3]);
    assert_true(word != word_of(seed, 8, 2, 99));
    assert_true(word != word_of(seed, 7, 3, 99));
    assert_true(word != word_of(seed, 7, 2, 98));
    assert_true(word != word_of(0x023456789abcdef0, 7, 2, 99));
}

static void words_do_not_depend_on_those_drawn_before(void **state)
{
    struct noise n = {.seed = 11, .position = 3};

    (void)state;
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t token = i % 3 == 0 ? next_word(&i) % 5000 : i / 2;

        assert_int_equal(noise_word(&n, token), word_of(11, 3, 0, token));
    }
}

/* The same on every machine and compiler, or a seed would mean nothing: a sum over bits. */
static void the_bits_never_change(void **state)
{
    uint32_t counter = 0, hash = 2166136261u;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        union {
            float f;
            uint32_t u;
        } g = {.f = gumbel_noise(next_word(&counter))};

        hash = (hash ^ g.u) * 16777619u;
    }
    assert_true(hash == NOISE_HASH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random123_known_answers_are_given),
        cmocka_unit_test(the_logarithm_is_good_to_2e_7),
        cmocka_unit_test(the_noise_is_that_of_a_25_bit_uniform),
        cmocka_unit_test(the_noise_is_finite_and_bounded),
        cmocka_unit_test(a_token_s_noise_names_seed_position_choice_and_id),
        cmocka_unit_test(words_do_not_depend_on_those_drawn_before),
        cmocka_unit_test(the_bits_never_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
