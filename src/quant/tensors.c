/* tensors.c - the tensors that many layouts have: scales by strategy, zeros, groups, biases.
 *
 * Scales come as whole tensors, rows, groups or blocks, in bf16, f16, f32 or
 * as exponents, and leave as float32 per row and group of inputs: one form, so
 * that a kernel knows one case and any rows may be cut or stacked. */
#include "quant/stored.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum { INDEX_CHUNK = 1024 };

#define FLOAT_TYPES (FILE_TYPE(FILE_F32) | FILE_TYPE(FILE_F16) | FILE_TYPE(FILE_BF16))
#define EXPONENT_TYPES (FILE_TYPE(FILE_F8_E8M0) | FILE_TYPE(FILE_U8))

const char *tensor_name(char name[QUANT_NAME_BYTES], const char *module, const char *what)
{
    snprintf(name, QUANT_NAME_BYTES, "%s.%s", module, what);
    return name;
}

bool quant_is_stored(const struct weight_loader *l, const char *module)
{
    static const char *const tensors[] = {"weight", "qweight", "weight_packed"};
    char name[QUANT_NAME_BYTES];

    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]); i++)
        if (source_has(l->source, tensor_name(name, module, tensors[i])))
            return true;
    return false;
}

uint32_t slice_rows(const struct weight_slice *slice)
{
    uint32_t n = 0;

    for (int i = 0; i < slice->n_parts; i++)
        n += slice->parts[i].rows;
    return n;
}

enum status grow_staging(struct weight_loader *l, size_t bytes)
{
    void *mem;

    if (bytes <= l->staging_bytes)
        return STATUS_OK;
    free(l->staging);
    l->staging = NULL;
    l->staging_bytes = 0;
    mem = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %zu bytes of weights on their way", bytes);
    l->staging = mem;
    l->staging_bytes = bytes;
    return STATUS_OK;
}

/* Biases --------------------------------------------------------------------------------------- */

enum status bias_check(const struct weight_loader *l, const struct weight_slice *slice)
{
    enum status s = STATUS_OK;

    for (int i = 0; s == STATUS_OK && i < slice->n_parts; i++) {
        const struct weight_part *part = &slice->parts[i];
        char name[QUANT_NAME_BYTES];
        enum dtype stored;

        s = source_check(l->source, tensor_name(name, part->module, "bias"), part->all_rows, 0,
            &stored);
    }
    return s;
}

enum status bias_load(struct weight_loader *l, const struct weight_slice *slice, struct weight *w)
{
    uint32_t at = 0;
    enum status s = grow_staging(l, (size_t)w->n * sizeof(float));

    for (int i = 0; s == STATUS_OK && i < slice->n_parts; i++) {
        const struct weight_part *part = &slice->parts[i];
        char name[QUANT_NAME_BYTES];

        s = source_read(l->source, tensor_name(name, part->module, "bias"), part->row, part->rows,
            0, 0, DTYPE_F32, (float *)l->staging + at);
        at += part->rows;
    }
    if (s == STATUS_OK)
        l->backend->vector_write(l->device, w->bias, l->staging, w->n);
    return s;
}

/* Scales --------------------------------------------------------------------------------------- */

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* The one-dimensional spelling of [n, 1] is taken, too. */
static enum status check_channel(const struct weight_loader *l, const char *name, uint32_t rows)
{
    struct source_tensor t;
    enum file_dtype stored;
    bool vector = source_find(l->source, name, &t) && t.view.ndim == 1;

    return source_check_stored(l->source, name, FLOAT_TYPES, rows, vector ? 0 : 1, &stored);
}

static enum status check_scales(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, const char *name, const struct quant_form *form)
{
    enum file_dtype stored;
    float one;

    switch (rule->strategy) {
    case STRATEGY_TENSOR:
        return source_read_scalar(l->source, name, &one);
    case STRATEGY_CHANNEL:
        return check_channel(l, name, part->all_rows);
    case STRATEGY_GROUP:
        return source_check_stored(l->source, name, FLOAT_TYPES, part->all_rows, form->groups,
            &stored);
    case STRATEGY_BLOCK:
        return source_check_stored(l->source, name, FLOAT_TYPES | EXPONENT_TYPES,
            ceil_div(part->all_rows, rule->block_rows), form->groups, &stored);
    }
    return log_fail(STATUS_INTERNAL, "%s: no such strategy", name);
}

enum status scales_check(const struct weight_loader *l, const struct weight_part *part,
    const struct quant_rule *rule, const char *what, struct quant_form *form)
{
    bool grouped = rule->strategy == STRATEGY_GROUP || rule->strategy == STRATEGY_BLOCK;
    char name[QUANT_NAME_BYTES];

    form->group = grouped && rule->group > 0 ? rule->group : part->all_cols;
    form->groups = ceil_div(part->all_cols, form->group);
    snprintf(form->scale, sizeof(form->scale), "%s", what);
    return check_scales(l, part, rule, tensor_name(name, part->module, what), form);
}

/* [rows, cols] of a scale tensor; exponents e are 2^(e - 127), 255 is no number. */
static enum status read_scales(const struct weight_loader *l, const char *name, uint32_t row,
    uint32_t rows, uint32_t col, uint32_t cols, float *dst)
{
    size_t n = (size_t)rows * (cols ? cols : 1);
    uint8_t *exponents = (uint8_t *)dst + 3 * n; /* the last quarter: read before it is reached */
    struct source_tensor t;
    enum status s;

    if (!source_find(l->source, name, &t) || !(FILE_TYPE(t.view.dtype) & EXPONENT_TYPES))
        return source_read(l->source, name, row, rows, col, cols, DTYPE_F32, dst);
    s = source_read_raw(l->source, name, row, rows, col, cols, exponents);
    for (size_t i = 0; s == STATUS_OK && i < n; i++) {
        int e = exponents[i];

        dst[i] = e == 255 ? NAN : ldexpf(1.0f, e - 127);
    }
    return s;
}

static enum status fill_tensor(const struct weight_loader *l, const char *name,
    const struct quant_block *b)
{
    float one;
    enum status s = source_read_scalar(l->source, name, &one);

    for (uint32_t r = 0; s == STATUS_OK && r < b->rows; r++)
        b->scale[r] = one;
    return s;
}

static enum status fill_channel(const struct weight_loader *l, const char *name,
    const struct quant_block *b)
{
    struct source_tensor t;
    bool vector = source_find(l->source, name, &t) && t.view.ndim == 1;

    return read_scales(l, name, b->row, b->rows, 0, vector ? 0 : 1, b->scale);
}

static enum status fill_groups(const struct weight_loader *l, const char *name,
    const struct quant_block *b)
{
    uint32_t step = (uint32_t)(b->work_bytes / (b->groups * sizeof(float)));
    float *rows = b->work;

    for (uint32_t r = 0; r < b->rows; r += step) {
        uint32_t take = b->rows - r < step ? b->rows - r : step;
        enum status s = read_scales(l, name, b->row + r, take, b->group0, b->groups, rows);

        if (s != STATUS_OK)
            return s;
        for (uint32_t g = 0; g < b->groups; g++)
            for (uint32_t i = 0; i < take; i++)
                b->scale[g * b->stride + r + i] = rows[(size_t)i * b->groups + g];
    }
    return STATUS_OK;
}

static enum status fill_blocks(const struct weight_loader *l, const char *name,
    const struct quant_block *b, uint32_t block_rows)
{
    float *row = b->work;

    for (uint32_t r = 0; r < b->rows; r++) {
        if (r == 0 || (b->row + r) % block_rows == 0) {
            enum status s = read_scales(l, name, (b->row + r) / block_rows, 1, b->group0,
                b->groups, row);

            if (s != STATUS_OK)
                return s;
        }
        for (uint32_t g = 0; g < b->groups; g++)
            b->scale[g * b->stride + r] = row[g];
    }
    return STATUS_OK;
}

enum status scales_fill(const struct weight_loader *l, const struct quant_form *form,
    const struct quant_block *b)
{
    char name[QUANT_NAME_BYTES];

    tensor_name(name, b->part->module, form->scale);
    switch (form->rule->strategy) {
    case STRATEGY_TENSOR: return fill_tensor(l, name, b);
    case STRATEGY_CHANNEL: return fill_channel(l, name, b);
    case STRATEGY_GROUP: return fill_groups(l, name, b);
    case STRATEGY_BLOCK: return fill_blocks(l, name, b, form->rule->block_rows);
    }
    return STATUS_INTERNAL;
}

/* Zeros, groups, activations ------------------------------------------------------------------- */

void zeros_fill_plain(const struct quant_form *form, const struct quant_block *b)
{
    int16_t plain = form->format == WEIGHT_INT4 ? 8 : 0;

    if (b->zero == NULL)
        return;
    for (uint32_t g = 0; g < b->groups; g++)
        for (uint32_t r = 0; r < b->rows; r++)
            b->zero[g * b->stride + r] = plain;
}

/* One piece of the index: does it say more than input / group? All -1 is compressed-tensors' way
 * to say that it is not used: *unset counts them, and says so once another number was there. */
static enum status check_groups(const char *name, const int32_t *groups, uint32_t first,
    uint32_t n, struct quant_form *form, uint32_t *unset)
{
    for (uint32_t i = 0; i < n; i++) {
        if (groups[i] == -1 && *unset == first + i) {
            *unset += 1;
            continue;
        }
        if (*unset > 0)
            return log_fail(STATUS_INVALID, "tensor %s puts input 0 into group -1 and input %u "
                "into %d: the checkpoint is damaged", name, first + i, groups[i]);
        if (groups[i] < 0 || (uint32_t)groups[i] >= form->groups)
            return log_fail(STATUS_INVALID, "tensor %s puts input %u into group %d, there are %u: "
                "the checkpoint is damaged", name, first + i, groups[i], form->groups);
        form->index = form->index || (uint32_t)groups[i] != (first + i) / form->group;
    }
    return STATUS_OK;
}

enum status index_check(const struct weight_loader *l, const struct weight_part *part,
    const char *what, struct quant_form *form)
{
    char name[QUANT_NAME_BYTES];
    int32_t groups[INDEX_CHUNK];
    enum file_dtype stored;
    uint32_t unset = 0;
    enum status s = source_check_stored(l->source, tensor_name(name, part->module, what),
        FILE_TYPE(FILE_I32), part->all_cols, 0, &stored);

    form->index = false;
    for (uint32_t k = 0; s == STATUS_OK && k < part->all_cols; k += INDEX_CHUNK) {
        uint32_t n = part->all_cols - k < INDEX_CHUNK ? part->all_cols - k : INDEX_CHUNK;

        s = source_read_raw(l->source, name, k, n, 0, 0, groups);
        if (s == STATUS_OK)
            s = check_groups(name, groups, k, n, form, &unset);
    }
    return s;
}

enum status act_scale_read(const struct weight_loader *l, const struct weight_part *part,
    const char *const names[2], struct quant_form *form)
{
    char name[QUANT_NAME_BYTES];
    float scale;
    enum status s;

    form->act_scale = 0;
    if (!form->rule->act.fixed)
        return STATUS_OK;
    tensor_name(name, part->module, names[0]);
    if (!source_has(l->source, name) &&
        source_has(l->source, tensor_name(name, part->module, names[1])) == false)
        tensor_name(name, part->module, names[0]);
    s = source_read_scalar(l->source, name, &scale);
    if (s != STATUS_OK)
        return s;
    if (!(scale > 0 && isfinite(scale)))
        return log_fail(STATUS_INVALID, "tensor %s is %g, a scale is more than 0", name,
            (double)scale);
    form->act_scale = scale;
    return STATUS_OK;
}
