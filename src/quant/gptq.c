/* gptq.c - GPTQ: qweight [K * bits / 32, N], words along the inputs; zeros along the outputs.
 *
 * FACTS 4d. Version 1 stores zeros less one, borrowed across a whole word. The
 * group of an input is g_idx's to say: with desc_act it is looked up, else it
 * must be input / group. A symmetric checkpoint whose zeros are all the middle
 * needs none in memory; that is looked at, not believed. */
#include "quant/columns.h"

#include "quant/words.h"
#include "quern/log.h"

enum { ZEROS_CHUNK = 1024 };

static uint8_t code4(uint32_t word, uint32_t i)
{
    return word_code(word, i, 4);
}

static uint8_t code8(uint32_t word, uint32_t i)
{
    return word_code(word, i, 8);
}

static uint32_t zeros_add(const struct quant_rule *rule)
{
    return rule->zeros_less_one ? word_zeros_v1(0, rule->bits) : 0;
}

/* Is any zero not the middle code? */
static enum status look_at_zeros(const struct weight_loader *l, const struct weight_part *part,
    struct quant_form *form)
{
    const struct quant_rule *rule = form->rule;
    uint32_t middle = rule->bits == 4 ? 0x88888888u : 0x80808080u, add = zeros_add(rule);
    uint32_t words = part->all_rows / word_codes(rule->bits), chunk[ZEROS_CHUNK];
    char name[QUANT_NAME_BYTES];

    tensor_name(name, part->module, "qzeros");
    form->zero = !rule->symmetric;
    for (uint32_t g = 0; !form->zero && g < form->groups; g++)
        for (uint32_t w = 0; !form->zero && w < words; w += ZEROS_CHUNK) {
            uint32_t n = words - w < ZEROS_CHUNK ? words - w : ZEROS_CHUNK;
            enum status s = source_read_raw(l->source, name, g, 1, w, n, chunk);

            if (s != STATUS_OK)
                return s;
            for (uint32_t i = 0; i < n; i++)
                form->zero = form->zero || chunk[i] + add != middle;
        }
    return STATUS_OK;
}

static enum status gptq_form(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    uint32_t per = word_codes(rule->bits);
    char name[QUANT_NAME_BYTES];
    enum file_dtype stored;
    enum status s;

    form->format = rule->bits == 4 ? WEIGHT_INT4 : WEIGHT_INT8;
    if (part->all_cols % per != 0)
        return log_fail(STATUS_INVALID, "%s has %u inputs: %d-bit words need a multiple of %u",
            part->module, part->all_cols, rule->bits, per);
    s = columns_check(l, part, rule, form);
    if (s == STATUS_OK)
        s = source_check_stored(l->source, tensor_name(name, part->module, "qweight"),
            FILE_TYPE(FILE_I32), part->all_cols / per, part->all_rows, &stored);
    if (s == STATUS_OK)
        s = look_at_zeros(l, part, form);
    if (s != STATUS_OK)
        return s;
    if (source_has(l->source, tensor_name(name, part->module, "g_idx")))
        return index_check(l, part, "g_idx", form);
    if (rule->indexed)
        return log_fail(STATUS_INVALID, "tensor %s is missing: desc_act is true", name);
    return STATUS_OK;
}

/* Words of inputs 8w .. 8w + 7 (or 4) x the stripe -> codes of those within the block. */
static void unpack(const struct quant_block *b, const uint32_t *words, uint32_t w0, uint32_t take,
    int bits)
{
    uint32_t per = word_codes(bits), from = w0 * per, end = (w0 + take) * per;
    uint8_t flip = bits == 8 ? 0x80 : 0;

    from = from > b->col ? from : b->col;
    end = end < b->col + b->cols ? end : b->col + b->cols;
    for (uint32_t r = 0; r < b->rows; r++) {
        uint8_t *to = b->codes + (size_t)r * b->cols;

        for (uint32_t k = from; k < end; k++)
            to[k - b->col] =
                word_code(words[(size_t)(k / per - w0) * b->rows + r], k % per, bits) ^ flip;
    }
}

static enum status gptq_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    int bits = form->rule->bits;
    uint32_t per = word_codes(bits), end = (b->col + b->cols + per - 1) / per;
    uint32_t step = (uint32_t)(b->work_bytes / (b->rows * sizeof(uint32_t)));
    char name[QUANT_NAME_BYTES];
    enum status s = columns_fill_scales(l, b);

    if (s == STATUS_OK)
        s = columns_fill_zeros(l, b, bits, bits == 4 ? code4 : code8, zeros_add(form->rule),
            bits == 4 ? 0 : 128);
    tensor_name(name, b->part->module, "qweight");
    for (uint32_t w = b->col / per; s == STATUS_OK && w < end; w += step) {
        uint32_t take = end - w < step ? end - w : step;

        s = source_read_raw(l->source, name, w, take, b->row, b->rows, b->work);
        if (s == STATUS_OK)
            unpack(b, b->work, w, take, bits);
    }
    return s;
}

static const struct quant_layout gptq_layout = {
    .form = gptq_form,
    .fill = gptq_fill,
    .index = "g_idx",
};

const struct quant_method quant_gptq = {
    .name = "gptq",
    .layout = &gptq_layout,
    .mergeable = stored_mergeable,
    .measure = stored_measure,
    .load = stored_load,
};
