/* awq.c - AWQ's gemm layout: qweight [K, N/8], eight outputs in a word, in an order of its own.
 *
 * FACTS 4c. Codes and zeros are unsigned, and there is no "+1". Groups divide
 * K. The other layouts of this family (gemv, marlin) are refused by the scheme. */
#include "quant/columns.h"

#include "quant/words.h"
#include "quern/log.h"

static enum status awq_form(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    enum status s = columns_check(l, part, rule, form);

    form->format = WEIGHT_INT4;
    form->zero = true;
    if (s != STATUS_OK)
        return s;
    if (part->all_cols % form->group != 0)
        return log_fail(STATUS_INVALID, "%s has %u inputs, which group_size %u does not divide",
            part->module, part->all_cols, form->group);
    return source_check_stored(l->source, tensor_name(name, part->module, "qweight"),
        FILE_TYPE(FILE_I32), part->all_cols, part->all_rows / 8, &stored);
}

static void unpack(const struct quant_block *b, const uint32_t *words, uint32_t n_words,
    uint32_t k0, uint32_t take)
{
    uint32_t first = b->row / 8;

    for (uint32_t r = 0; r < b->rows; r++) {
        const uint32_t *word = words + ((b->row + r) / 8 - first);
        uint8_t *to = b->codes + (size_t)r * b->cols + k0;

        for (uint32_t i = 0; i < take; i++)
            to[i] = word_code_awq(word[(size_t)i * n_words], (b->row + r) % 8);
    }
}

static enum status awq_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    uint32_t first = b->row / 8, words = (b->row + b->rows - 1) / 8 - first + 1;
    uint32_t step = (uint32_t)(b->work_bytes / (words * sizeof(uint32_t)));
    char name[QUANT_NAME_BYTES];
    enum status s = columns_fill_scales(l, b);

    (void)form;
    if (s == STATUS_OK)
        s = columns_fill_zeros(l, b, 4, word_code_awq, 0, 0);
    tensor_name(name, b->part->module, "qweight");
    for (uint32_t k = 0; s == STATUS_OK && k < b->cols; k += step) {
        uint32_t take = b->cols - k < step ? b->cols - k : step;

        s = source_read_raw(l->source, name, b->col + k, take, first, words, b->work);
        if (s == STATUS_OK)
            unpack(b, b->work, words, k, take);
    }
    return s;
}

static const struct quant_layout awq_layout = {.form = awq_form, .fill = awq_fill};

const struct quant_method quant_awq = {
    .name = "awq",
    .layout = &awq_layout,
    .mergeable = stored_mergeable,
    .measure = stored_measure,
    .load = stored_load,
};
