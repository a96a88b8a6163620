/* columns.c - stripes of [groups, N] tensors: read in runs as wide as the stripe. */
#include "quant/columns.h"

#include "quant/words.h"
#include "quern/log.h"

#define FLOAT_TYPES (FILE_TYPE(FILE_F32) | FILE_TYPE(FILE_F16) | FILE_TYPE(FILE_BF16))

enum status columns_check(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    uint32_t per = word_codes(rule->bits);
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    enum status s;

    if (part->all_rows % per != 0)
        return log_fail(STATUS_INVALID, "%s has %u outputs: %d-bit words need a multiple of %u",
            part->module, part->all_rows, rule->bits, per);
    form->group = rule->group > 0 && rule->group < part->all_cols ? rule->group : part->all_cols;
    form->groups = (part->all_cols + form->group - 1) / form->group;
    s = source_check_stored(l->source, tensor_name(name, part->module, "scales"), FLOAT_TYPES,
        form->groups, part->all_rows, &stored);
    if (s == STATUS_OK)
        s = source_check_stored(l->source, tensor_name(name, part->module, "qzeros"),
            FILE_TYPE(FILE_I32), form->groups, part->all_rows / per, &stored);
    return s;
}

enum status columns_fill_scales(const struct weight_loader *l, const struct quant_block *b)
{
    uint32_t step = (uint32_t)(b->work_bytes / (b->rows * sizeof(float)));
    const float *values = b->work;
    char name[QUANT_NAME_BYTES];

    tensor_name(name, b->part->module, "scales");
    for (uint32_t g = 0; g < b->groups; g += step) {
        uint32_t take = b->groups - g < step ? b->groups - g : step;
        enum status s = source_read(l->source, name, b->group0 + g, take, b->row, b->rows,
            DTYPE_F32, b->work);

        if (s != STATUS_OK)
            return s;
        for (uint32_t i = 0; i < take; i++)
            for (uint32_t r = 0; r < b->rows; r++)
                b->scale[(g + i) * b->stride + r] = values[(size_t)i * b->rows + r];
    }
    return STATUS_OK;
}

enum status columns_fill_zeros(const struct weight_loader *l, const struct quant_block *b,
    int bits, columns_code *code_of, uint32_t add, int offset)
{
    uint32_t per = word_codes(bits), first = b->row / per;
    uint32_t words = (b->row + b->rows - 1) / per - first + 1;
    uint32_t step = (uint32_t)(b->work_bytes / (words * sizeof(uint32_t)));
    const uint32_t *stored = b->work;
    char name[QUANT_NAME_BYTES];

    if (b->zero == NULL)
        return STATUS_OK;
    tensor_name(name, b->part->module, "qzeros");
    for (uint32_t g = 0; g < b->groups; g += step) {
        uint32_t take = b->groups - g < step ? b->groups - g : step;
        enum status s = source_read_raw(l->source, name, b->group0 + g, take, first, words,
            b->work);

        if (s != STATUS_OK)
            return s;
        for (uint32_t i = 0; i < take; i++)
            for (uint32_t r = 0; r < b->rows; r++) {
                uint32_t n = b->row + r, word = stored[(size_t)i * words + n / per - first] + add;

                b->zero[(g + i) * b->stride + r] = (int16_t)(code_of(word, n % per) - offset);
            }
    }
    return STATUS_OK;
}
