/* test_words.c - packed words and formulas, against the vectors of the formats' own tools. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "quant/formula.h"
#include "quant/words.h"

static void awq_words_interleave_their_columns(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(word_code_awq(0x86427531u, i), i + 1);
}

static void gptq_words_are_sequential(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(word_code(0x87654321u, i, 4), i + 1);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(word_code(0x04030201u, i, 8), i + 1);
}

static void compressed_words_have_eight_added(void **state)
{
    static const int codes[8] = {-8, -7, -1, 0, 1, 2, 6, 7};

    (void)state;
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(word_code(0xFEA98710u, i, 4) - 8, codes[i]);
}

static void zeros_of_version_one_carry_across_a_word(void **state)
{
    (void)state;
    assert_int_equal(word_zeros_v1(0x77777777u, 4), 0x88888888u);
    assert_int_equal(word_zeros_v1(0x7f7f7f7fu, 8), 0x80808080u);
    /* zeros 0, 5: the writer borrows from the 5; adding one to each digit would give 0, 4 */
    assert_int_equal(word_zeros_v1(0x00000050u - 0x11111111u, 4), 0x00000050u);
    assert_int_equal(word_zeros_v1(0x00000500u - 0x01010101u, 8), 0x00000500u);
}

static void scales_are_half_the_code_range(void **state)
{
    (void)state;
    assert_true(formula_scale(1.0f, FORMULA_INT8, DTYPE_F32) == 1.0f / 127.5f);
    assert_true(formula_scale(1.0f, FORMULA_INT4, DTYPE_BF16) == bf16_round(1.0f / 7.5f));
    assert_true(formula_scale(448.0f, FORMULA_FP8, DTYPE_F16) == 1.0f);
    /* no amax: the steps of 1 in the stored type */
    assert_true(formula_scale(0, FORMULA_INT8, DTYPE_BF16) == 0x1p-7f);
    assert_true(formula_scale(0, FORMULA_INT8, DTYPE_F16) == 0x1p-10f);
    assert_true(formula_scale(0, FORMULA_INT8, DTYPE_F32) == 0x1p-23f);
}

static void codes_round_to_even_and_saturate(void **state)
{
    (void)state;
    assert_int_equal((int8_t)formula_int8(2.5f, 1), 2);
    assert_int_equal((int8_t)formula_int8(3.5f, 1), 4);
    assert_int_equal((int8_t)formula_int8(127.6f, 1), 127);
    assert_int_equal((int8_t)formula_int8(-1000, 1), -128);
    assert_int_equal(formula_int4(-8, 1), 0);
    assert_int_equal(formula_int4(7.5f, 1), 15);
    assert_int_equal(formula_int4(0, 1), 8);
    assert_int_equal(formula_fp8(448, 1), 0x7e);
    assert_int_equal(formula_fp8(1e9f, 1), 0x7e);
    assert_int_equal(formula_fp8(-1, 1), 0xb8);
}

static void what_is_no_number_still_gives_a_code(void **state)
{
    static const float values[] = {1, NAN, -2};

    (void)state;
    assert_int_equal((int8_t)formula_int8(NAN, 1), -128);
    assert_int_equal((int8_t)formula_int8(INFINITY, 1), 127);
    assert_true(formula_amax(0, values, 3) == 2);
    assert_true(formula_amax(5, values, 3) == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(awq_words_interleave_their_columns),
        cmocka_unit_test(gptq_words_are_sequential),
        cmocka_unit_test(compressed_words_have_eight_added),
        cmocka_unit_test(zeros_of_version_one_carry_across_a_word),
        cmocka_unit_test(scales_are_half_the_code_range),
        cmocka_unit_test(codes_round_to_even_and_saturate),
        cmocka_unit_test(what_is_no_number_still_gives_a_code),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
