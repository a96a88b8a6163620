/* packed.c - compressed-tensors' pack-quantized: codes of 4 or 8 bits, packed along a row.
 *
 * FACTS 4b. Codes are stored with 2^(b-1) added, so four bits stay as they are
 * (0..15, zero 8) and eight lose it again. Zero points are packed down the
 * rows: a word has those of 8 (or 4) rows of one group, and words that a cut
 * goes through are read by both sides. */
#include "quant/stored.h"

#include "quant/words.h"
#include "quern/log.h"

static enum status check_shape(const struct weight_loader *l, const struct weight_part *part)
{
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    int64_t shape[2];
    int32_t narrow[2];
    enum status s;

    if (!source_has(l->source, tensor_name(name, part->module, "weight_shape")))
        return STATUS_OK;
    s = source_check_stored(l->source, name, FILE_TYPE(FILE_I64) | FILE_TYPE(FILE_I32), 2, 0,
        &stored);
    if (s == STATUS_OK)
        s = source_read_raw(l->source, name, 0, 2, 0, 0,
            stored == FILE_I64 ? (void *)shape : narrow);
    for (int i = 0; s == STATUS_OK && stored == FILE_I32 && i < 2; i++)
        shape[i] = narrow[i];
    if (s == STATUS_OK && (shape[0] != part->all_rows || shape[1] != part->all_cols))
        return log_fail(STATUS_INVALID, "tensor %s says [%lld,%lld], this model needs [%u,%u]",
            name, (long long)shape[0], (long long)shape[1], part->all_rows, part->all_cols);
    return s;
}

static uint32_t words_for(uint32_t codes, int bits)
{
    return (codes + word_codes(bits) - 1) / word_codes(bits);
}

static enum status packed_form(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    static const char *const act_scales[2] = {"input_scale", "input_scale"};
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    enum status s = source_check_stored(l->source, tensor_name(name, part->module, "weight_packed"),
        FILE_TYPE(FILE_I32), part->all_rows, words_for(part->all_cols, rule->bits), &stored);

    form->format = rule->bits == 4 ? WEIGHT_INT4 : WEIGHT_INT8;
    form->zero = !rule->symmetric;
    if (s == STATUS_OK)
        s = check_shape(l, part);
    if (s == STATUS_OK)
        s = scales_check(l, part, rule, "weight_scale", form);
    if (s == STATUS_OK && form->zero)
        s = source_check_stored(l->source, tensor_name(name, part->module, "weight_zero_point"),
            FILE_TYPE(FILE_I32), words_for(part->all_rows, rule->bits), form->groups, &stored);
    if (s == STATUS_OK && source_has(l->source, tensor_name(name, part->module, "weight_g_idx")))
        s = index_check(l, part, "weight_g_idx", form);
    else if (s == STATUS_OK && rule->indexed)
        s = log_fail(STATUS_INVALID, "tensor %s is missing: actorder is \"group\"", name);
    return s == STATUS_OK ? act_scale_read(l, part, act_scales, form) : s;
}

static void unpack_row(const uint32_t *words, uint32_t skip, uint32_t n, int bits, uint8_t *codes)
{
    uint32_t per = word_codes(bits);
    uint8_t flip = bits == 8 ? 0x80 : 0; /* unsigned with 128 added -> signed */

    for (uint32_t i = 0; i < n; i++)
        codes[i] = word_code(words[(skip + i) / per], (skip + i) % per, bits) ^ flip;
}

static enum status fill_codes(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    int bits = form->rule->bits;
    uint32_t per = word_codes(bits), first = b->col / per, skip = b->col % per;
    uint32_t words = words_for(skip + b->cols, bits);
    uint32_t step = (uint32_t)(b->work_bytes / (words * sizeof(uint32_t)));
    const uint32_t *rows = b->work;
    char name[QUANT_NAME_BYTES];

    tensor_name(name, b->part->module, "weight_packed");
    for (uint32_t r = 0; r < b->rows; r += step) {
        uint32_t take = b->rows - r < step ? b->rows - r : step;
        enum status s = source_read_raw(l->source, name, b->row + r, take, first, words, b->work);

        if (s != STATUS_OK)
            return s;
        for (uint32_t i = 0; i < take; i++)
            unpack_row(rows + (size_t)i * words, skip, b->cols, bits,
                b->codes + (size_t)(r + i) * b->cols);
    }
    return STATUS_OK;
}

static enum status fill_zeros(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    int bits = form->rule->bits, offset = bits == 8 ? 128 : 0;
    uint32_t per = word_codes(bits), loaded = UINT32_MAX;
    const uint32_t *words = b->work;
    char name[QUANT_NAME_BYTES];

    tensor_name(name, b->part->module, "weight_zero_point");
    for (uint32_t r = 0; r < b->rows; r++) {
        uint32_t row = (b->row + r) / per;

        if (row != loaded) {
            enum status s = source_read_raw(l->source, name, row, 1, b->group0, b->groups, b->work);

            if (s != STATUS_OK)
                return s;
            loaded = row;
        }
        for (uint32_t g = 0; g < b->groups; g++)
            b->zero[g * b->stride + r] =
                (int16_t)(word_code(words[g], (b->row + r) % per, bits) - offset);
    }
    return STATUS_OK;
}

static enum status packed_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    enum status s = fill_codes(l, form, b);

    if (s == STATUS_OK)
        s = scales_fill(l, form, b);
    if (s == STATUS_OK && form->zero)
        return fill_zeros(l, form, b);
    zeros_fill_plain(form, b);
    return s;
}

static const struct quant_layout packed_layout = {
    .form = packed_form,
    .fill = packed_fill,
    .index = "weight_g_idx",
};

const struct quant_method quant_packed = {
    .name = "pack-quantized",
    .layout = &packed_layout,
    .mergeable = stored_mergeable,
    .measure = stored_measure,
    .load = stored_load,
};
