/* runtime.c - --quant: a plain checkpoint, quantised while it loads.
 *
 * Scales are those of the whole matrix, whatever a rank's part of it is: a row
 * scaled whole is read whole, a block or group that the part cuts is read to
 * its end. So every number of ranks has the same weights, for a little more
 * reading. Formulas: formula.h. */
#include <string.h>

#include "quant/formula.h"
#include "quant/stored.h"

static enum status runtime_form(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, struct quant_form *form)
{
    char name[QUANT_NAME_BYTES];
    enum dtype stored;

    form->format = rule->floating ? WEIGHT_FP8 : rule->bits == 4 ? WEIGHT_INT4 : WEIGHT_INT8;
    form->group = rule->group > 0 ? rule->group : part->all_cols;
    form->groups = (part->all_cols + form->group - 1) / form->group;
    return source_check(l->source, tensor_name(name, part->module, "weight"), part->all_rows,
        part->all_cols, &stored);
}

/* The columns that the block's groups cover, and the work memory's use: rows of them. */
struct span {
    char name[QUANT_NAME_BYTES];
    enum dtype stored;
    uint32_t group, col, cols;
    uint32_t step;  /* rows read at once */
    float *rows;    /* [step, cols] */
    float *amax;    /* [groups] */
};

static enum status open_span(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b, struct span *sp)
{
    uint32_t end = (b->group0 + b->groups) * form->group, all = b->part->all_cols;
    size_t amax_bytes = b->groups * sizeof(float);

    tensor_name(sp->name, b->part->module, "weight");
    sp->group = form->group;
    sp->col = b->group0 * form->group;
    sp->cols = (end < all ? end : all) - sp->col;
    sp->amax = b->work;
    sp->rows = (float *)b->work + b->groups;
    sp->step = (uint32_t)((b->work_bytes - amax_bytes) / (sp->cols * sizeof(float)));
    return source_check(l->source, sp->name, b->part->all_rows, all, &sp->stored);
}

/* Group g of a row of the span. */
static const float *group_of_row(const struct span *sp, const float *row, uint32_t g, uint32_t *n)
{
    uint32_t first = g * sp->group;

    *n = sp->cols - first < sp->group ? sp->cols - first : sp->group;
    return row + first;
}

static void widen_amax(const struct span *sp, const float *row, uint32_t groups)
{
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t n;
        const float *x = group_of_row(sp, row, g, &n);

        sp->amax[g] = formula_amax(sp->amax[g], x, n);
    }
}

static float half_range(const struct quant_form *form)
{
    if (form->format == WEIGHT_FP8)
        return FORMULA_FP8;
    return form->format == WEIGHT_INT4 ? FORMULA_INT4 : FORMULA_INT8;
}

static void scales_from_amax(const struct quant_form *form, const struct quant_block *b,
    const struct span *sp, uint32_t r)
{
    for (uint32_t g = 0; g < b->groups; g++)
        b->scale[g * b->stride + r] = formula_scale(sp->amax[g], half_range(form), sp->stored);
}

static formula_codes *codes_for(enum weight_format format)
{
    if (format == WEIGHT_FP8)
        return formula_fp8_codes;
    return format == WEIGHT_INT4 ? formula_int4_codes : formula_int8_codes;
}

/* Codes of the block's row r, whose span is `row`: group by group, those within the block. */
static void codes_of_row(const struct quant_form *form, const struct quant_block *b,
    const struct span *sp, const float *row, uint32_t r)
{
    formula_codes *codes = codes_for(form->format);
    uint32_t skip = b->col - sp->col, end = skip + b->cols;

    for (uint32_t k = skip, next; k < end; k = next) {
        uint32_t g = k / sp->group;

        next = end - g * sp->group < sp->group ? end : (g + 1) * sp->group;
        codes(b->codes + (size_t)r * b->cols + (k - skip), row + k, next - k,
            b->scale[g * b->stride + r]);
    }
}

/* Scales that stand for whole blocks of rows: from every row of the block, ours or not. */
static enum status block_scales(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b, const struct span *sp, uint32_t r, uint32_t rows)
{
    uint32_t height = form->rule->block_rows, first = (b->row + r) / height * height;
    uint32_t end = first + height < b->part->all_rows ? first + height : b->part->all_rows;

    memset(sp->amax, 0, b->groups * sizeof(float));
    for (uint32_t n = first; n < end; n += sp->step) {
        uint32_t take = end - n < sp->step ? end - n : sp->step;
        enum status s = source_read(l->source, sp->name, n, take, sp->col, sp->cols, DTYPE_F32,
            sp->rows);

        if (s != STATUS_OK)
            return s;
        for (uint32_t i = 0; i < take; i++)
            widen_amax(sp, sp->rows + (size_t)i * sp->cols, b->groups);
    }
    for (uint32_t i = 0; i < rows; i++)
        scales_from_amax(form, b, sp, r + i);
    return STATUS_OK;
}

static enum status fill_block_scales(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b, const struct span *sp)
{
    uint32_t height = form->rule->block_rows;
    enum status s = STATUS_OK;

    for (uint32_t r = 0, rows; s == STATUS_OK && r < b->rows; r += rows) {
        rows = height - (b->row + r) % height;
        rows = rows < b->rows - r ? rows : b->rows - r;
        s = block_scales(l, form, b, sp, r, rows);
    }
    return s;
}

static enum status runtime_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    bool blocks = form->rule->strategy == STRATEGY_BLOCK;
    struct span sp;
    enum status s = open_span(l, form, b, &sp);

    if (s == STATUS_OK && blocks)
        s = fill_block_scales(l, form, b, &sp);
    for (uint32_t r = 0; s == STATUS_OK && r < b->rows; r += sp.step) {
        uint32_t take = b->rows - r < sp.step ? b->rows - r : sp.step;

        s = source_read(l->source, sp.name, b->row + r, take, sp.col, sp.cols, DTYPE_F32, sp.rows);
        for (uint32_t i = 0; s == STATUS_OK && i < take; i++) {
            const float *row = sp.rows + (size_t)i * sp.cols;

            if (!blocks) {
                memset(sp.amax, 0, b->groups * sizeof(float));
                widen_amax(&sp, row, b->groups);
                scales_from_amax(form, b, &sp, r + i);
            }
            codes_of_row(form, b, &sp, row, r + i);
        }
    }
    return s;
}

static const struct quant_layout runtime_layout = {.form = runtime_form, .fill = runtime_fill};

const struct quant_method quant_runtime = {
    .name = "quantised while loading",
    .layout = &runtime_layout,
    .mergeable = stored_mergeable,
    .measure = stored_measure,
    .load = stored_load,
};
