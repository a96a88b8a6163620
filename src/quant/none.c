/* none.c - plain matrices: read a block of rows, hand it to the backend to pack.
 *
 * A block is 64 rows at most, so that a rank holds little more than its own
 * shard while it loads. Blocks are cut in the stacked matrix, not in its
 * parts: the backend packs 16 rows at a time, and a part may end anywhere. */
#include "quant/stored.h"

#include "quern/log.h"

enum { PLAIN_BLOCK_ROWS = 64 };

/* bf16 weights stay bf16; wider ones stay exact unless inputs are rounded to bf16 anyway. */
static enum weight_format format_of(enum dtype stored, enum compute compute)
{
    return stored == DTYPE_BF16 || compute == COMPUTE_BF16 ? WEIGHT_BF16 : WEIGHT_F32;
}

static enum status none_mergeable(const struct weight_loader *l, const struct weight_slice *slice,
    bool *merges)
{
    *merges = true;
    for (int i = 0; i < slice->n_parts; i++)
        *merges = *merges && quant_method_of(l, slice->parts[i].module) == &quant_none;
    return STATUS_OK;
}

static enum status none_measure(const struct weight_loader *l, const struct weight_slice *slice,
    struct weight_plan *plan)
{
    enum weight_format found = WEIGHT_BF16;
    uint32_t n = slice_rows(slice);
    enum status s = STATUS_OK;

    for (int i = 0; s == STATUS_OK && i < slice->n_parts; i++) {
        const struct weight_part *part = &slice->parts[i];
        char name[QUANT_NAME_BYTES];
        enum dtype stored;

        s = source_check(l->source, tensor_name(name, part->module, "weight"), part->all_rows,
            part->all_cols, &stored);
        if (s == STATUS_OK && format_of(stored, l->compute) == WEIGHT_F32)
            found = WEIGHT_F32;
    }
    if (s == STATUS_OK && slice->bias)
        s = bias_check(l, slice);
    if (s != STATUS_OK)
        return s;
    *plan = (struct weight_plan){
        .weight = {.n = n, .k = slice->cols, .format = found},
        .bytes = l->backend->weight_bytes(l->device, found, n, slice->cols) +
                 (slice->bias ? (size_t)n * sizeof(float) : 0),
    };
    return STATUS_OK;
}

/* Rows [n0, n0 + rows) of the stack into dst [rows, cols]. */
static enum status read_rows(const struct weight_loader *l, const struct weight_slice *slice,
    enum dtype as, uint32_t n0, uint32_t rows, char *dst)
{
    size_t row_bytes = (size_t)slice->cols * dtype_bytes(as);
    uint32_t at = 0; /* where the part begins in the stack */

    for (int i = 0; i < slice->n_parts && rows > 0; i++) {
        const struct weight_part *part = &slice->parts[i];
        uint32_t skip = n0 - at, take;
        char name[QUANT_NAME_BYTES];
        enum status s;

        at += part->rows;
        if (n0 >= at)
            continue;
        take = part->rows - skip < rows ? part->rows - skip : rows;
        tensor_name(name, part->module, "weight");
        s = source_read(l->source, name, part->row + skip, take, slice->col, slice->cols, as, dst);
        if (s != STATUS_OK)
            return s;
        dst += take * row_bytes;
        n0 += take;
        rows -= take;
    }
    return STATUS_OK;
}

static enum status load_matrix(struct weight_loader *l, const struct weight_slice *slice,
    struct weight *w)
{
    enum dtype as = w->format == WEIGHT_BF16 ? DTYPE_BF16 : DTYPE_F32;
    size_t row_bytes = (size_t)slice->cols * dtype_bytes(as);
    enum status s = grow_staging(l, PLAIN_BLOCK_ROWS * row_bytes);

    for (uint32_t n0 = 0; s == STATUS_OK && n0 < w->n; n0 += PLAIN_BLOCK_ROWS) {
        uint32_t rows = w->n - n0 < PLAIN_BLOCK_ROWS ? w->n - n0 : PLAIN_BLOCK_ROWS;

        s = read_rows(l, slice, as, n0, rows, l->staging);
        if (s != STATUS_OK)
            return s;
        l->backend->weight_pack(l->device, w, n0, rows, l->staging);
        l->progress(l->context, rows * row_bytes);
    }
    return s;
}

static enum status none_load(struct weight_loader *l, const struct weight_slice *slice,
    struct weight *w)
{
    struct weight_plan plan;
    enum status s = none_measure(l, slice, &plan);
    size_t bias_bytes;

    if (s != STATUS_OK)
        return s;
    w->n = plan.weight.n;
    w->k = plan.weight.k;
    w->format = plan.weight.format;
    bias_bytes = slice->bias ? (size_t)w->n * sizeof(float) : 0;
    w->data = l->backend->alloc(l->device, plan.bytes - bias_bytes);
    w->bias = bias_bytes ? l->backend->alloc(l->device, bias_bytes) : NULL;
    if (w->data == NULL || (bias_bytes && w->bias == NULL))
        return log_fail(STATUS_NOMEM, "no memory for %s: %zu bytes", slice->parts[0].module,
            plan.bytes);
    s = load_matrix(l, slice, w);
    if (s == STATUS_OK && slice->bias)
        s = bias_load(l, slice, w);
    return s;
}

const struct quant_method quant_none = {
    .name = "none",
    .mergeable = none_mergeable,
    .measure = none_measure,
    .load = none_load,
};
