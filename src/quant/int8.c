/* int8.c - weights that are a byte each: int8, and int4 that its writer left unpacked.
 *
 * W8A8, block int8 and compressed-tensors' int-quantized: FACTS 4b and 4e. A
 * four-bit code is kept as four bits here all the same, so a byte outside
 * -8..7 is refused: it would become another number. */
#include "quant/stored.h"

#include "quern/log.h"

static const char *scale_of(const struct weight_loader *l, const char *module)
{
    char name[QUANT_NAME_BYTES];

    return source_has(l->source, tensor_name(name, module, "weight_scale_inv")) ? "weight_scale_inv"
                                                                                : "weight_scale";
}

static enum status int8_form(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    static const char *const act_scales[2] = {"input_scale", "activation_scale"};
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    enum status s = source_check_stored(l->source, tensor_name(name, part->module, "weight"),
        FILE_TYPE(FILE_I8), part->all_rows, part->all_cols, &stored);

    form->format = rule->bits == 4 ? WEIGHT_INT4 : WEIGHT_INT8;
    form->zero = !rule->symmetric;
    if (s == STATUS_OK)
        s = scales_check(l, part, rule, scale_of(l, part->module), form);
    if (s == STATUS_OK && form->zero)
        s = source_check_stored(l->source, tensor_name(name, part->module, "weight_zero_point"),
            FILE_TYPE(FILE_I8), part->all_rows, form->groups, &stored);
    return s == STATUS_OK ? act_scale_read(l, part, act_scales, form) : s;
}

/* -8..7 -> 0..15 */
static enum status narrow(const char *name, uint8_t *codes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int q = (int8_t)codes[i];

        if (q < -8 || q > 7)
            return log_fail(STATUS_INVALID, "tensor %s has %d where config.json promises 4 bits: "
                "-8 to 7", name, q);
        codes[i] = (uint8_t)(q + 8);
    }
    return STATUS_OK;
}

static enum status fill_zeros(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    int16_t offset = form->format == WEIGHT_INT4 ? 8 : 0;
    uint32_t step = (uint32_t)(b->work_bytes / b->groups);
    const int8_t *stored = b->work;
    char name[QUANT_NAME_BYTES];

    tensor_name(name, b->part->module, "weight_zero_point");
    for (uint32_t r = 0; r < b->rows; r += step) {
        uint32_t rows = b->rows - r < step ? b->rows - r : step;
        enum status s = source_read_raw(l->source, name, b->row + r, rows, b->group0, b->groups,
            b->work);

        if (s != STATUS_OK)
            return s;
        for (uint32_t i = 0; i < rows; i++)
            for (uint32_t g = 0; g < b->groups; g++)
                b->zero[g * b->stride + r + i] =
                    (int16_t)(stored[(size_t)i * b->groups + g] + offset);
    }
    return STATUS_OK;
}

static enum status int8_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    char name[QUANT_NAME_BYTES];
    enum status s = source_read_raw(l->source, tensor_name(name, b->part->module, "weight"),
        b->row, b->rows, b->col, b->cols, b->codes);

    if (s == STATUS_OK && form->format == WEIGHT_INT4)
        s = narrow(name, b->codes, (size_t)b->rows * b->cols);
    if (s == STATUS_OK)
        s = scales_fill(l, form, b);
    if (s == STATUS_OK && form->zero)
        return fill_zeros(l, form, b);
    zeros_fill_plain(form, b);
    return s;
}

static const struct quant_layout int8_layout = {.form = int8_form, .fill = int8_fill};

const struct quant_method quant_int8 = {
    .name = "int8",
    .layout = &int8_layout,
    .mergeable = stored_mergeable,
    .measure = stored_measure,
    .load = stored_load,
};
