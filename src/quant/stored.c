/* stored.c - one way to load every quantised layout: blocks of rows, bounded in memory.
 *
 * A block is as many stacked rows as have BLOCK_CODES codes, by 16s for the
 * backend's packing and by 128s where that many fit, so that the blocks of a
 * block-scaled matrix are read once. Each part fills its rows of the block;
 * codes are packed, and scales and zeros, which the backend keeps plain, are
 * written beside them. Whether a checkpoint keeps rows or columns together is
 * the layout's affair: a block of a column-major one is a stripe of columns. */
#include "quant/stored.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

static const struct quant_layout *layout_of(const struct quant_form *form)
{
    return form->rule->method->layout;
}

/* The parts' forms ----------------------------------------------------------------------------- */

static bool same_activation(const struct quant_form *a, const struct quant_form *b)
{
    const struct quant_activation *x = &a->rule->act, *y = &b->rule->act;

    return x->kind == y->kind && x->fixed == y->fixed && x->group == y->group &&
           x->divisor == y->divisor && x->least == y->least && a->act_scale == b->act_scale;
}

/* Do two modules give every input the same group? */
static enum status same_index(const struct weight_loader *l, const struct quant_layout *layout,
    const char *a, const char *b, bool *same)
{
    struct source_tensor x, y;
    char name[QUANT_NAME_BYTES];

    *same = false;
    if (!source_find(l->source, tensor_name(name, a, layout->index), &x) ||
        !source_find(l->source, tensor_name(name, b, layout->index), &y))
        return STATUS_OK;
    return tensor_same(&x.view, &y.view, same);
}

static enum status same_form(const struct weight_loader *l, const struct weight_slice *slice,
    const struct quant_form *forms, int i, bool *same)
{
    const struct quant_form *a = &forms[0], *b = &forms[i];

    *same = a->format == b->format && a->group == b->group && a->index == b->index &&
            same_activation(a, b);
    if (!*same || !a->index)
        return STATUS_OK;
    return same_index(l, layout_of(a), slice->parts[0].module, slice->parts[i].module, same);
}

static enum status form_parts(const struct weight_loader *l, const struct weight_slice *slice,
    struct quant_form forms[WEIGHT_PARTS_MAX])
{
    const struct quant_method *method = quant_method_of(l, slice->parts[0].module);

    if (slice->n_parts > WEIGHT_PARTS_MAX)
        return log_fail(STATUS_INTERNAL, "%s: %d parts in one weight", slice->parts[0].module,
            slice->n_parts);
    for (int i = 0; i < slice->n_parts; i++) {
        const struct weight_part *part = &slice->parts[i];
        enum status s;

        forms[i] = (struct quant_form){.rule = quant_rule_of(l, part->module)};
        if (forms[i].rule == NULL || forms[i].rule->method != method)
            return log_fail(STATUS_INVALID, "%s and %s are not quantised alike: they cannot be one "
                "product", slice->parts[0].module, part->module);
        s = method->layout->form(l, part, forms[i].rule, &forms[i]);
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

enum status stored_mergeable(const struct weight_loader *l, const struct weight_slice *slice,
    bool *merges)
{
    struct quant_form forms[WEIGHT_PARTS_MAX];
    const struct quant_method *method = quant_method_of(l, slice->parts[0].module);
    enum status s;

    *merges = false;
    for (int i = 1; i < slice->n_parts; i++)
        if (quant_method_of(l, slice->parts[i].module) != method)
            return STATUS_OK;
    s = form_parts(l, slice, forms);
    *merges = s == STATUS_OK;
    for (int i = 1; *merges && i < slice->n_parts; i++) {
        s = same_form(l, slice, forms, i, merges);
        *merges = *merges && s == STATUS_OK;
    }
    return s;
}

/* Measuring ------------------------------------------------------------------------------------ */

static void plan_groups(const struct quant_form *form, const struct weight_slice *slice,
    struct weight_quant *q)
{
    uint32_t first = slice->col / form->group;

    q->group = form->group;
    q->groups = form->groups;
    q->first = 0;
    if (form->index || slice->cols == 0)
        return;
    q->groups = (slice->col + slice->cols - 1) / form->group - first + 1;
    q->first = slice->col - first * form->group;
}

static void plan_activation(const struct quant_form *form, const struct weight_slice *slice,
    struct weight_quant *q)
{
    const struct quant_activation *act = &form->rule->act;

    q->activation = act->kind;
    if (act->kind == ACTIVATION_PLAIN)
        return;
    q->activation_scale = form->act_scale;
    q->act_group = act->group;
    q->act_first = slice->col;
    q->act_groups = act->group ? (slice->parts[0].all_cols + act->group - 1) / act->group : 1;
    q->act_divisor = act->divisor;
    q->act_least = act->least;
}

static size_t scale_bytes(const struct weight *w)
{
    return (size_t)w->quant.groups * w->n * sizeof(float);
}

static size_t zero_bytes(const struct weight *w)
{
    return (size_t)w->quant.groups * w->n * sizeof(int16_t);
}

static size_t index_bytes(const struct weight *w)
{
    return (size_t)w->k * sizeof(uint32_t);
}

static enum status plan_stored(const struct weight_loader *l, const struct weight_slice *slice,
    struct quant_form forms[WEIGHT_PARTS_MAX], struct weight_plan *plan, bool *zero)
{
    struct weight *w = &plan->weight;
    enum status s = form_parts(l, slice, forms);

    if (s == STATUS_OK && slice->bias)
        s = bias_check(l, slice);
    if (s != STATUS_OK)
        return s;
    *plan = (struct weight_plan){
        .weight = {.n = slice_rows(slice), .k = slice->cols, .format = forms[0].format}};
    plan_groups(&forms[0], slice, &w->quant);
    plan_activation(&forms[0], slice, &w->quant);
    *zero = false;
    for (int i = 0; i < slice->n_parts; i++) {
        bool same;

        s = same_form(l, slice, forms, i, &same);
        if (s != STATUS_OK)
            return s;
        if (!same)
            return log_fail(STATUS_INVALID, "%s and %s are not quantised alike: they cannot be one "
                "product", slice->parts[0].module, slice->parts[i].module);
        *zero = *zero || forms[i].zero;
    }
    plan->bytes = l->backend->weight_bytes(l->device, w->format, w->n, w->k) + scale_bytes(w) +
                  (*zero ? zero_bytes(w) : 0) + (forms[0].index ? index_bytes(w) : 0) +
                  (slice->bias ? w->n * sizeof(float) : 0);
    return STATUS_OK;
}

enum status stored_measure(const struct weight_loader *l, const struct weight_slice *slice,
    struct weight_plan *plan)
{
    struct quant_form forms[WEIGHT_PARTS_MAX];
    struct weight_plan found;
    bool zero;
    enum status s = plan_stored(l, slice, forms, &found, &zero);

    if (s == STATUS_OK)
        *plan = found;
    return s;
}

/* Loading -------------------------------------------------------------------------------------- */

/* What a load has at hand: staging memory, cut up. */
struct stage {
    const struct weight_slice *slice;
    const struct quant_form *forms;
    uint32_t rows;     /* in a block */
    uint32_t group0;   /* the slice's first */
    uint8_t *codes;    /* [rows, cols] */
    float *scale;      /* [groups, rows] */
    int16_t *zero;     /* [groups, rows] or NULL */
    void *work;
    size_t work_bytes;
};

static uint32_t block_rows(uint32_t cols, uint32_t n)
{
    uint32_t rows = BLOCK_CODES / (cols ? cols : 1);

    rows = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
    rows -= rows % (rows >= 128 ? 128 : 16);
    if (rows == 0)
        rows = 16;
    return rows < n ? rows : (n + 15) / 16 * 16;
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static enum status cut_stage(struct weight_loader *l, const struct weight *w, struct stage *st)
{
    size_t rows = st->rows, groups = w->quant.groups;
    size_t work = 16 * (size_t)st->slice->parts[0].all_cols;
    size_t codes = aligned(rows * w->k), scale = aligned(groups * rows * sizeof(float));
    size_t zero = w->quant.zero != NULL ? aligned(groups * rows * sizeof(int16_t)) : 0;
    enum status s;

    st->work_bytes = aligned(work > WORK_BYTES ? work : WORK_BYTES);
    s = grow_staging(l, st->work_bytes + codes + scale + zero);
    if (s != STATUS_OK)
        return s;
    st->work = l->staging;
    st->scale = (float *)((char *)st->work + st->work_bytes);
    st->zero = zero ? (int16_t *)((char *)st->scale + scale) : NULL;
    st->codes = (uint8_t *)st->scale + scale + zero;
    return STATUS_OK;
}

/* Rows [n0, n0 + rows) of the stack, part by part. */
static enum status fill_block(const struct weight_loader *l, const struct stage *st,
    const struct weight *w, uint32_t n0, uint32_t rows)
{
    uint32_t at = 0, done = 0; /* where the part begins in the stack; rows filled */

    for (int i = 0; i < st->slice->n_parts && done < rows; i++) {
        const struct weight_part *part = &st->slice->parts[i];
        uint32_t skip = n0 + done - at;
        struct quant_block b = {.part = part, .row = part->row + skip, .col = st->slice->col,
            .cols = w->k, .group0 = st->group0, .groups = w->quant.groups, .stride = st->rows,
            .codes = st->codes + (size_t)done * w->k, .scale = st->scale + done,
            .zero = st->zero ? st->zero + done : NULL, .work = st->work,
            .work_bytes = st->work_bytes};
        enum status s;

        at += part->rows;
        if (n0 + done >= at)
            continue;
        b.rows = part->rows - skip < rows - done ? part->rows - skip : rows - done;
        s = layout_of(&st->forms[i])->fill(l, &st->forms[i], &b);
        if (s != STATUS_OK)
            return s;
        done += b.rows;
    }
    return STATUS_OK;
}

static void write_block(const struct weight_loader *l, const struct stage *st, struct weight *w,
    uint32_t n0, uint32_t rows)
{
    const struct backend *b = l->backend;

    b->weight_pack(l->device, w, n0, rows, st->codes);
    b->write_rows(l->device, w->quant.scale + n0, w->n * sizeof(float), st->scale,
        st->rows * sizeof(float), rows * sizeof(float), w->quant.groups);
    if (w->quant.zero != NULL)
        b->write_rows(l->device, w->quant.zero + n0, w->n * sizeof(int16_t), st->zero,
            st->rows * sizeof(int16_t), rows * sizeof(int16_t), w->quant.groups);
}

static enum status load_blocks(struct weight_loader *l, struct stage *st, struct weight *w)
{
    enum status s = cut_stage(l, w, st);

    if (w->k == 0) /* a rank without inputs of this layer */
        return s;
    for (uint32_t n0 = 0; s == STATUS_OK && n0 < w->n; n0 += st->rows) {
        uint32_t rows = w->n - n0 < st->rows ? w->n - n0 : st->rows;

        s = fill_block(l, st, w, n0, rows);
        if (s != STATUS_OK)
            return s;
        write_block(l, st, w, n0, rows);
        l->progress(l->context, (uint64_t)rows * w->k / (w->format == WEIGHT_INT4 ? 2 : 1));
    }
    return s;
}

static enum status load_index(struct weight_loader *l, const struct stage *st, struct weight *w)
{
    const struct quant_form *form = &st->forms[0];
    char name[QUANT_NAME_BYTES];
    enum status s = grow_staging(l, index_bytes(w));

    tensor_name(name, st->slice->parts[0].module, layout_of(form)->index);
    if (s == STATUS_OK)
        s = source_read_raw(l->source, name, st->slice->col, w->k, 0, 0, l->staging);
    if (s == STATUS_OK)
        l->backend->write_rows(l->device, w->quant.group_of, 0, l->staging, 0, index_bytes(w), 1);
    return s;
}

static enum status alloc_weight(const struct weight_loader *l, bool bias, bool zero, bool index,
    struct weight *w)
{
    const struct backend *b = l->backend;
    size_t bytes = b->weight_bytes(l->device, w->format, w->n, w->k);
    bool ok;

    w->data = b->alloc(l->device, bytes);
    w->quant.scale = b->alloc(l->device, scale_bytes(w));
    ok = w->data != NULL && w->quant.scale != NULL;
    if (zero)
        ok = (w->quant.zero = b->alloc(l->device, zero_bytes(w))) != NULL && ok;
    if (index)
        ok = (w->quant.group_of = b->alloc(l->device, index_bytes(w))) != NULL && ok;
    if (bias)
        ok = (w->bias = b->alloc(l->device, w->n * sizeof(float))) != NULL && ok;
    return ok ? STATUS_OK : STATUS_NOMEM;
}

enum status stored_load(struct weight_loader *l, const struct weight_slice *slice,
    struct weight *w)
{
    struct quant_form forms[WEIGHT_PARTS_MAX];
    const char *name = w->name;
    struct weight_plan plan;
    struct stage st;
    bool zero;
    enum status s = plan_stored(l, slice, forms, &plan, &zero);

    if (s != STATUS_OK)
        return s;
    *w = plan.weight;
    w->name = name;
    s = alloc_weight(l, slice->bias, zero, forms[0].index, w);
    if (s != STATUS_OK)
        return log_fail(s, "no memory for %s: %zu bytes", slice->parts[0].module, plan.bytes);
    st = (struct stage){.slice = slice, .forms = forms, .rows = block_rows(w->k, w->n),
        .group0 = forms[0].index ? 0 : slice->col / forms[0].group};
    s = load_blocks(l, &st, w);
    if (s == STATUS_OK && forms[0].index)
        s = load_index(l, &st, w);
    if (s == STATUS_OK && slice->bias)
        s = bias_load(l, slice, w);
    return s;
}

void quant_release(const struct weight_loader *l, struct weight *w)
{
    const struct backend *b = l->backend;

    if (w->data != NULL)
        b->release(l->device, w->data, b->weight_bytes(l->device, w->format, w->n, w->k));
    if (w->quant.scale != NULL)
        b->release(l->device, w->quant.scale, scale_bytes(w));
    if (w->quant.zero != NULL)
        b->release(l->device, w->quant.zero, zero_bytes(w));
    if (w->quant.group_of != NULL)
        b->release(l->device, w->quant.group_of, index_bytes(w));
    if (w->bias != NULL)
        b->release(l->device, w->bias, w->n * sizeof(float));
    w->data = NULL;
    w->bias = NULL;
    w->quant.scale = NULL;
    w->quant.zero = NULL;
    w->quant.group_of = NULL;
}
