/* test_layouts.c - tensors that do not fit their configuration: each is refused, and named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/quant/quant_support.h"

#define Q "model.layers.0.self_attn.q_proj"
#define CT(format, weights, more) \
    "{\"quant_method\": \"compressed-tensors\", \"format\": \"" format "\", \"config_groups\": " \
    "{\"g\": {\"targets\": [\"Linear\"], \"weights\": " weights more "}}}"

static const char fp8_blocks[] = "{\"quant_method\": \"fp8\", \"weight_block_size\": [8, 8]}";
static const char fp8_static[] = "{\"quant_method\": \"fp8\", \"activation_scheme\": \"static\"}";
static const char awq[] = "{\"quant_method\": \"awq\", \"group_size\": 8}";
static const char gptq[] = "{\"quant_method\": \"gptq\", \"group_size\": 8, \"desc_act\": true}";
static const char int4[] = CT("pack-quantized", "{\"num_bits\": 4, \"group_size\": 8}", "");
static const char order[] =
    CT("pack-quantized", "{\"num_bits\": 4, \"group_size\": 8, \"actorder\": \"group\"}", "");
static const char asym[] =
    CT("pack-quantized", "{\"num_bits\": 4, \"group_size\": 8, \"symmetric\": false}", "");
static const char loose[] = CT("int-quantized", "{\"num_bits\": 4, \"group_size\": 8}", "");

static const int64_t shape_of_q[2] = {16, 16}, wrong_shape[2] = {16, 17};
static const int32_t groups_out_of_range[16] = {0, 1, 1, 0, 0, 2};
static const int32_t groups_half_unset[16] = {-1, -1, 1};
static const int32_t wrong_narrow_shape[2] = {17, 16};
static const int8_t code_out_of_range[256] = {7, -8, 9};
static const float scale_of_zero[1] = {0};

/* Q [16, 16] with these tensors; "" when it loads. */
static const char *message_of(const char *quantization, const struct made_tensor *tensors,
    size_t count)
{
    static char line[LOG_LINE_BYTES];
    struct quant_model m;
    struct temp_dir dir;
    struct loaded w;

    line[0] = '\0';
    temp_dir_make(&dir);
    write_checkpoint(dir.path, quantization, tensors, count);
    assert_int_equal(quant_model_open(&m, dir.path, NULL), STATUS_OK);
    if (loaded_part(&m, Q, 16, 16, 0, 16, 0, 16, &w) == STATUS_OK)
        loaded_free(&m, &w);
    else
        snprintf(line, sizeof(line), "%s", log_last_error());
    quant_model_close(&m);
    temp_dir_remove(&dir);
    return line;
}

static const struct bad_case {
    const char *quantization, *why; /* why "": it is right */
    struct made_tensor tensors[5];
} cases[] = {
    {fp8_blocks, "", {{Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
        {Q ".weight_scale_inv", FILE_F16, 2, {2, 2}, NULL}}},
    {fp8_blocks, "q_proj.weight is missing", {{"x", FILE_F32, 1, {1}, NULL}}},
    {fp8_blocks, "q_proj.weight is stored as F8_E5M2, it must be F8_E4M3",
        {{Q ".weight", FILE_F8_E5M2, 2, {16, 16}, NULL}}},
    {fp8_blocks, "q_proj.weight has shape [16,8], this model needs [16,16]",
        {{Q ".weight", FILE_F8_E4M3, 2, {16, 8}, NULL}}},
    {fp8_blocks, "q_proj.weight_scale is missing",
        {{Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL}}},
    {fp8_blocks, "q_proj.weight_scale_inv has shape [2,3], this model needs [2,2]",
        {{Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
            {Q ".weight_scale_inv", FILE_BF16, 2, {2, 3}, NULL}}},
    {fp8_static, "q_proj.weight_scale has shape [2], it must have one element",
        {{Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
            {Q ".weight_scale", FILE_F32, 1, {2}, NULL}}},
    {fp8_static, "q_proj.input_scale is missing",
        {{Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
            {Q ".weight_scale", FILE_F32, 1, {1}, NULL}}},
    {fp8_static, "q_proj.input_scale is 0, a scale is more than 0",
        {{Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
            {Q ".weight_scale", FILE_F32, 0, {0}, NULL},
            {Q ".input_scale", FILE_F32, 1, {1}, scale_of_zero}}},
    {awq, "q_proj.scales is missing", {{Q ".qweight", FILE_I32, 2, {16, 2}, NULL}}},
    {awq, "q_proj.qzeros is stored as F32, it must be I32",
        {{Q ".qweight", FILE_I32, 2, {16, 2}, NULL}, {Q ".scales", FILE_F16, 2, {2, 16}, NULL},
            {Q ".qzeros", FILE_F32, 2, {2, 2}, NULL}}},
    {awq, "q_proj.qweight has shape [2,16], this model needs [16,2]",
        {{Q ".qweight", FILE_I32, 2, {2, 16}, NULL}, {Q ".scales", FILE_F16, 2, {2, 16}, NULL},
            {Q ".qzeros", FILE_I32, 2, {2, 2}, NULL}}},
    {"{\"quant_method\": \"awq\", \"group_size\": 7}", "16 inputs, which group_size 7 does not",
        {{Q ".qweight", FILE_I32, 2, {16, 2}, NULL}, {Q ".scales", FILE_F16, 2, {3, 16}, NULL},
            {Q ".qzeros", FILE_I32, 2, {3, 2}, NULL}}},
    {gptq, "q_proj.g_idx is missing: desc_act is true",
        {{Q ".qweight", FILE_I32, 2, {2, 16}, NULL}, {Q ".scales", FILE_F16, 2, {2, 16}, NULL},
            {Q ".qzeros", FILE_I32, 2, {2, 2}, NULL}}},
    {gptq, "q_proj.g_idx puts input 5 into group 2, there are 2",
        {{Q ".qweight", FILE_I32, 2, {2, 16}, NULL}, {Q ".scales", FILE_F16, 2, {2, 16}, NULL},
            {Q ".qzeros", FILE_I32, 2, {2, 2}, NULL},
            {Q ".g_idx", FILE_I32, 1, {16}, groups_out_of_range}}},
    {gptq, "q_proj.g_idx puts input 0 into group -1 and input 2 into 1",
        {{Q ".qweight", FILE_I32, 2, {2, 16}, NULL}, {Q ".scales", FILE_F16, 2, {2, 16}, NULL},
            {Q ".qzeros", FILE_I32, 2, {2, 2}, NULL},
            {Q ".g_idx", FILE_I32, 1, {16}, groups_half_unset}}},
    {int4, "q_proj.weight_shape says [17,16], this model needs [16,16]",
        {{Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
            {Q ".weight_scale", FILE_BF16, 2, {16, 2}, NULL},
            {Q ".weight_shape", FILE_I32, 1, {2}, wrong_narrow_shape}}},
    {int4, "", {{Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
        {Q ".weight_scale", FILE_BF16, 2, {16, 2}, NULL},
        {Q ".weight_shape", FILE_I64, 1, {2}, shape_of_q}}},
    {int4, "q_proj.weight_shape says [16,17], this model needs [16,16]",
        {{Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
            {Q ".weight_scale", FILE_BF16, 2, {16, 2}, NULL},
            {Q ".weight_shape", FILE_I64, 1, {2}, wrong_shape}}},
    {int4, "q_proj.weight_packed is stored as I64, it must be I32",
        {{Q ".weight_packed", FILE_I64, 2, {16, 2}, NULL}}},
    {int4, "q_proj.weight_scale has shape [16,1], this model needs [16,2]",
        {{Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
            {Q ".weight_scale", FILE_BF16, 2, {16, 1}, NULL}}},
    {order, "q_proj.weight_g_idx is missing: actorder is \"group\"",
        {{Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
            {Q ".weight_scale", FILE_BF16, 2, {16, 2}, NULL}}},
    {asym, "q_proj.weight_zero_point is missing",
        {{Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
            {Q ".weight_scale", FILE_BF16, 2, {16, 2}, NULL}}},
    {loose, "q_proj.weight has 9 where config.json promises 4 bits: -8 to 7",
        {{Q ".weight", FILE_I8, 2, {16, 16}, code_out_of_range},
            {Q ".weight_scale", FILE_F32, 2, {16, 2}, NULL}}},
    {"{\"quant_method\": \"w8a8_int8\"}", "q_proj.weight_scale has shape [8,1]",
        {{Q ".weight", FILE_I8, 2, {16, 16}, NULL},
            {Q ".weight_scale", FILE_F32, 2, {8, 1}, NULL}}},
};

static void tensors_that_do_not_fit_are_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct bad_case *c = &cases[i];
        const char *line;
        size_t count = 0;

        while (count < 5 && c->tensors[count].name != NULL)
            count++;
        line = message_of(c->quantization, c->tensors, count);
        if (strstr(line, c->why) == NULL || (c->why[0] == '\0') != (line[0] == '\0'))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, line, c->why);
    }
    assert_int_equal(backend_bytes_held(), 0);
}

static void codes_of_no_group_mean_that_there_is_no_order(void **state)
{
    int32_t unset[16];
    const struct made_tensor tensors[] = {
        {Q ".weight_packed", FILE_I32, 2, {16, 2}, NULL},
        {Q ".weight_scale", FILE_BF16, 2, {16, 2}, NULL},
        {Q ".weight_g_idx", FILE_I32, 1, {16}, unset},
    };

    (void)state;
    memset(unset, 0xff, sizeof(unset));
    assert_string_equal(message_of(int4, tensors, 3), "");
}

/* Two modules of [16, 16] whose activations have static scales `a` and `b`. */
static bool merge_with_scales(float a, float b)
{
#define OTHER "model.layers.0.self_attn.x_proj"
    const struct made_tensor tensors[] = {
        {Q ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
        {Q ".weight_scale", FILE_F32, 1, {1}, NULL},
        {Q ".input_scale", FILE_F32, 1, {1}, &a},
        {OTHER ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
        {OTHER ".weight_scale", FILE_F32, 1, {1}, NULL},
        {OTHER ".input_scale", FILE_F32, 1, {1}, &b},
    };
    const struct weight_part parts[2] = {
        {.module = Q, .all_rows = 16, .all_cols = 16, .rows = 16},
        {.module = OTHER, .all_rows = 16, .all_cols = 16, .rows = 16}};
    const struct weight_slice slice = {.parts = parts, .n_parts = 2, .cols = 16};
    struct quant_model m;
    struct temp_dir dir;
    struct loaded w;
    bool answer;

    temp_dir_make(&dir);
    write_checkpoint(dir.path, fp8_static, tensors, 6);
    assert_int_equal(quant_model_open(&m, dir.path, NULL), STATUS_OK);
    assert_int_equal(quant_method_of(&m.loader, Q)->mergeable(&m.loader, &slice, &answer),
        STATUS_OK);
    if (!answer)
        assert_int_equal(loaded_slice(&m, &slice, &w), STATUS_INVALID);
    quant_model_close(&m);
    temp_dir_remove(&dir);
    return answer;
}

static void different_static_scales_keep_modules_apart(void **state)
{
    (void)state;
    assert_true(merge_with_scales(0.5f, 0.5f));
    assert_false(merge_with_scales(0.5f, 0.25f));
    assert_non_null(strstr(log_last_error(), "are not quantised alike"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_that_do_not_fit_are_named),
        cmocka_unit_test(codes_of_no_group_mean_that_there_is_no_order),
        cmocka_unit_test(different_static_scales_keep_modules_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
