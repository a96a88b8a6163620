/* test_values.c - what stored codes, zeros and scales stand for, at the edges of what they can say. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/quant/quant_support.h"

#define Q "model.layers.0.self_attn.q_proj"
#define K "model.layers.0.self_attn.k_proj"

enum { SIDE = 16 };

struct opened {
    struct temp_dir dir;
    struct quant_model model;
};

static void open_with(struct opened *o, const char *quantization, const struct made_tensor *tensors,
    size_t count)
{
    temp_dir_make(&o->dir);
    write_checkpoint(o->dir.path, quantization, tensors, count);
    if (quant_model_open(&o->model, o->dir.path, NULL) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
}

static void close_it(struct opened *o)
{
    quant_model_close(&o->model);
    temp_dir_remove(&o->dir);
    assert_int_equal(backend_bytes_held(), 0);
}

/* The values of Q [16, 16]. */
static struct loaded load_q(struct opened *o)
{
    struct loaded w;

    if (loaded_part(&o->model, Q, SIDE, SIDE, 0, SIDE, 0, SIDE, &w) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    return w;
}

/* FACTS 4a: 2^(e - 127), and 255 is no number. */
static void exponents_are_powers_of_two_and_the_last_is_no_number(void **state)
{
    static const uint8_t exponents[4] = {0, 127, 128, 255};
    uint8_t ones[SIDE * SIDE];
    const struct made_tensor tensors[] = {
        {Q ".weight", FILE_F8_E4M3, 2, {SIDE, SIDE}, ones},
        {Q ".weight_scale_inv", FILE_U8, 2, {2, 2}, exponents},
    };
    struct opened o;
    struct loaded w;

    (void)state;
    memset(ones, 0x38, sizeof(ones)); /* 1.0 */
    open_with(&o, "{\"quant_method\": \"fp8\", \"weight_block_size\": [8, 8]}", tensors, 2);
    w = load_q(&o);
    assert_true(w.value[0] == 0x1p-127f);
    assert_true(w.value[8] == 1.0f);
    assert_true(w.value[8 * SIDE] == 2.0f);
    assert_true(isnan(w.value[8 * SIDE + 8]));
    loaded_free(&o.model, &w);
    close_it(&o);
}

#define UNPACKED "{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", " \
    "\"config_groups\": {\"g\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 4, " \
    "\"group_size\": 8, \"symmetric\": %s}}}}"

static const float scales_of_one[SIDE * 2] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static void unpacked_four_bits_go_from_minus_8_to_7(void **state)
{
    int8_t codes[SIDE * SIDE] = {7, -8, -1};
    const struct made_tensor tensors[] = {
        {Q ".weight", FILE_I8, 2, {SIDE, SIDE}, codes},
        {Q ".weight_scale", FILE_F32, 2, {SIDE, 2}, scales_of_one},
    };
    static const int8_t beyond[] = {8, -9};
    char json[512];
    struct opened o;
    struct loaded w;

    (void)state;
    snprintf(json, sizeof(json), UNPACKED, "true");
    open_with(&o, json, tensors, 2);
    w = load_q(&o);
    assert_true(w.value[0] == 7 && w.value[1] == -8 && w.value[2] == -1 && w.value[3] == 0);
    loaded_free(&o.model, &w);
    close_it(&o);
    for (int i = 0; i < 2; i++) {
        codes[5] = beyond[i];
        open_with(&o, json, tensors, 2);
        assert_int_equal(loaded_part(&o.model, Q, SIDE, SIDE, 0, SIDE, 0, SIDE, &w),
            STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), i == 0 ? "has 8 where" : "has -9 where"));
        close_it(&o);
    }
}

static void zeros_of_unpacked_four_bits_are_subtracted(void **state)
{
    int8_t codes[SIDE * SIDE] = {7, -8}, zeros[SIDE * 2] = {3, -8, 7};
    const struct made_tensor tensors[] = {
        {Q ".weight", FILE_I8, 2, {SIDE, SIDE}, codes},
        {Q ".weight_scale", FILE_F32, 2, {SIDE, 2}, scales_of_one},
        {Q ".weight_zero_point", FILE_I8, 2, {SIDE, 2}, zeros},
    };
    char json[512];
    struct opened o;
    struct loaded w;

    (void)state;
    snprintf(json, sizeof(json), UNPACKED, "false");
    open_with(&o, json, tensors, 3);
    w = load_q(&o);
    assert_true(w.value[0] == 4 && w.value[1] == -11);
    assert_true(w.value[2] == -3 && w.value[8] == 8 && w.value[SIDE] == -7);
    loaded_free(&o.model, &w);
    close_it(&o);
}

/* GPTQ ------------------------------------------------------------------------------------------ */

#define GPTQ "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 8, \"sym\": true}"

enum { MIDDLE = 0x77777777 }; /* stored less one: zeros of 8 */

static const uint16_t half_ones[2 * SIDE] = { /* f16 */
    0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00,
    0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00,
    0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00, 0x3c00};

/* Two modules [16, 16] of codes 9; their zeros [2 groups, 2 words]. */
static void open_gptq(struct opened *o, const int32_t q_zeros[4], const int32_t k_zeros[4])
{
    static int32_t nines[2 * SIDE];
    const struct made_tensor tensors[] = {
        {Q ".qweight", FILE_I32, 2, {2, SIDE}, nines},
        {Q ".scales", FILE_F16, 2, {2, SIDE}, half_ones},
        {Q ".qzeros", FILE_I32, 2, {2, 2}, q_zeros},
        {K ".qweight", FILE_I32, 2, {2, SIDE}, nines},
        {K ".scales", FILE_F16, 2, {2, SIDE}, half_ones},
        {K ".qzeros", FILE_I32, 2, {2, 2}, k_zeros},
    };

    memset(nines, 0x99, sizeof(nines));
    open_with(o, GPTQ, tensors, 6);
}

/* "sym" is what the writer meant; one zero that is not the middle, wherever it stands, counts. */
static void any_zero_that_is_not_the_middle_counts(void **state)
{
    (void)state;
    for (int word = 0; word < 4; word++) {
        int32_t zeros[4] = {MIDDLE, MIDDLE, MIDDLE, MIDDLE};
        struct opened o;
        struct loaded w;

        zeros[word] = MIDDLE - 2; /* of its first output: 6 */
        open_gptq(&o, zeros, zeros);
        w = load_q(&o);
        for (int n = 0; n < SIDE; n++)
            for (int k = 0; k < SIDE; k++)
                assert_true(w.value[n * SIDE + k] ==
                            (n == word % 2 * 8 && k / 8 == word / 2 ? 3.0f : 1.0f));
        loaded_free(&o.model, &w);
        close_it(&o);
    }
}

/* Stacked modules of which one alone needs its zeros, in either order. */
static void a_stack_has_zeros_when_any_of_its_parts_has(void **state)
{
    static const int32_t middle[4] = {MIDDLE, MIDDLE, MIDDLE, MIDDLE};
    static const int32_t other[4] = {MIDDLE - 2, MIDDLE, MIDDLE, MIDDLE};

    (void)state;
    for (int first = 0; first < 2; first++) {
        const struct weight_part parts[2] = {
            {.module = first ? K : Q, .all_rows = SIDE, .all_cols = SIDE, .rows = SIDE},
            {.module = first ? Q : K, .all_rows = SIDE, .all_cols = SIDE, .rows = SIDE}};
        const struct weight_slice slice = {.parts = parts, .n_parts = 2, .cols = SIDE};
        struct opened o;
        struct loaded w;
        bool merges;

        open_gptq(&o, other, middle);
        assert_int_equal(quant_method_of(&o.model.loader, Q)->mergeable(&o.model.loader, &slice,
                             &merges), STATUS_OK);
        assert_true(merges);
        assert_int_equal(loaded_slice(&o.model, &slice, &w), STATUS_OK);
        for (int n = 0; n < 2 * SIDE; n++)
            assert_true(w.value[n * SIDE] == (n == first * SIDE ? 3.0f : 1.0f));
        loaded_free(&o.model, &w);
        close_it(&o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponents_are_powers_of_two_and_the_last_is_no_number),
        cmocka_unit_test(unpacked_four_bits_go_from_minus_8_to_7),
        cmocka_unit_test(zeros_of_unpacked_four_bits_are_subtracted),
        cmocka_unit_test(any_zero_that_is_not_the_middle_counts),
        cmocka_unit_test(a_stack_has_zeros_when_any_of_its_parts_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
