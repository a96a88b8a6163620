/* fp8.c - e4m3 weights: blocks of 128 x 128, whole rows, whole tensors; FACTS 4a, 4b.
 *
 * Three families write them: "fp8" (weight_scale_inv, in spite of its name a
 * multiplier), its older form without blocks, and compressed-tensors
 * (weight_scale). Which one it is shows in the tensor's name; what its scales
 * cover is the rule's strategy. */
#include "quant/stored.h"

static const char *scale_of(const struct weight_loader *l, const char *module)
{
    char name[QUANT_NAME_BYTES];

    return source_has(l->source, tensor_name(name, module, "weight_scale_inv")) ? "weight_scale_inv"
                                                                                : "weight_scale";
}

static enum status fp8_form(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    static const char *const act_scales[2] = {"input_scale", "activation_scale"};
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    enum status s = source_check_stored(l->source, tensor_name(name, part->module, "weight"),
        FILE_TYPE(FILE_F8_E4M3), part->all_rows, part->all_cols, &stored);

    form->format = WEIGHT_FP8;
    if (s == STATUS_OK)
        s = scales_check(l, part, rule, scale_of(l, part->module), form);
    return s == STATUS_OK ? act_scale_read(l, part, act_scales, form) : s;
}

static enum status fp8_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    char name[QUANT_NAME_BYTES];
    enum status s = source_read_raw(l->source, tensor_name(name, b->part->module, "weight"),
        b->row, b->rows, b->col, b->cols, b->codes);

    return s == STATUS_OK ? scales_fill(l, form, b) : s;
}

static const struct quant_layout fp8_layout = {.form = fp8_form, .fill = fp8_fill};

const struct quant_method quant_fp8 = {
    .name = "fp8",
    .layout = &fp8_layout,
    .mergeable = stored_mergeable,
    .measure = stored_measure,
    .load = stored_load,
};
