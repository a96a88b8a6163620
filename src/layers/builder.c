/* builder.c - the list of weights that a model names first and loads later. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers/layers.h"
#include "layers/placement.h"
#include "quern/log.h"

void builder_init(struct builder *b, struct program *program, struct weight_loader *loader,
    const struct tp_plan *plan, int rank, int size)
{
    *b = (struct builder){
        .program = program, .loader = loader, .plan = plan, .rank = rank, .size = size};
    b->last = &b->first;
}

enum status builder_finish(struct builder *b)
{
    return b->status == STATUS_OK ? program_check(b->program) : b->status;
}

void builder_fail(struct builder *b, const char *format, ...)
{
    char line[LOG_LINE_BYTES];
    va_list args;

    if (b->status != STATUS_OK)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    b->status = log_fail(STATUS_INVALID, "%s", line);
}

int builder_buffer(struct builder *b, const char *name, enum extent rows, uint32_t cols)
{
    const struct program *p = b->program;
    int buffer;

    if (b->status != STATUS_OK)
        return -1;
    for (int i = 0; i < p->n_buffers; i++)
        if (strcmp(p->buffers[i].name, name) == 0 && p->buffers[i].rows == rows &&
            p->buffers[i].cols == cols)
            return i;
    buffer = program_buffer(b->program, name, rows, cols, PLACE_REPLICATE);
    if (buffer < 0)
        b->status = STATUS_INVALID;
    return buffer;
}

void builder_op(struct builder *b, struct op op)
{
    if (b->status == STATUS_OK)
        b->status = program_op(b->program, op);
}

const struct strategy *builder_strategy(struct builder *b, const char *module, int kind)
{
    const struct strategy *s;

    if (b->status != STATUS_OK)
        return NULL;
    s = tp_plan_strategy(b->plan, module, kind);
    if (s == NULL)
        b->status = STATUS_INVALID;
    return s;
}

static struct planned_weight *plan_weight(struct builder *b, const struct strategy *strategy)
{
    struct planned_weight *p;

    if (b->status != STATUS_OK)
        return NULL;
    p = calloc(1, sizeof(*p));
    if (p == NULL) {
        b->status = log_fail(STATUS_NOMEM, "no memory for the list of weights");
        return NULL;
    }
    p->strategy = strategy;
    p->slice.parts = p->parts;
    *b->last = p;
    b->last = &p->next;
    return p;
}

static void name_weight(struct planned_weight *p)
{
    size_t at = 0;

    for (int i = 0; i < p->slice.n_parts; i++)
        at += (size_t)snprintf(p->name + at, sizeof(p->name) - at, "%s%s", i > 0 ? "+" : "",
            p->modules[i]);
    p->weight.name = p->name;
}

static void set_part(struct planned_weight *p, int i, const struct weight_part *part)
{
    p->parts[i] = *part;
    snprintf(p->modules[i], MODULE_BYTES, "%s", part->module);
    p->parts[i].module = p->modules[i];
    snprintf(p->as[i], MODULE_BYTES, "%s", part->as != NULL ? part->as : part->module);
    p->parts[i].as = p->as[i];
    if (part->as_rows == 0) {
        p->parts[i].as_row = 0;
        p->parts[i].as_rows = part->all_rows;
    }
}

const struct weight *builder_matrix(struct builder *b, const struct weight_slice *slice,
    const struct strategy *strategy)
{
    struct planned_weight *p = plan_weight(b, strategy);
    struct weight_plan plan;

    if (p == NULL)
        return NULL;
    p->slice = *slice;
    p->slice.parts = p->parts;
    for (int i = 0; i < slice->n_parts; i++)
        set_part(p, i, &slice->parts[i]);
    p->method = quant_method_of(b->loader, p->modules[0]);
    b->status = p->method->measure(b->loader, &p->slice, &plan);
    if (b->status != STATUS_OK)
        return NULL;
    p->weight = plan.weight;
    p->bytes = plan.bytes;
    b->weight_bytes += plan.bytes;
    name_weight(p);
    return &p->weight;
}

const struct weight *builder_vector(struct builder *b, const char *name, uint32_t all,
    uint32_t first, uint32_t n, const struct strategy *strategy)
{
    struct planned_weight *p = plan_weight(b, strategy);
    enum dtype stored;

    if (p == NULL)
        return NULL;
    p->vector = true;
    p->slice.n_parts = 1;
    set_part(p, 0, &(struct weight_part){.module = name, .all_rows = all, .row = first, .rows = n});
    name_weight(p);
    p->weight.n = n;
    p->weight.format = WEIGHT_F32;
    p->bytes = n * sizeof(float);
    b->weight_bytes += p->bytes;
    b->status = source_check(b->loader->source, name, all, 0, &stored);
    return b->status == STATUS_OK ? &p->weight : NULL;
}

static enum status load_vector(struct weight_loader *l, struct planned_weight *p)
{
    float *values = malloc(p->bytes);
    enum status s;

    p->weight.data = l->backend->alloc(l->device, p->bytes);
    if (values == NULL || p->weight.data == NULL) {
        s = log_fail(STATUS_NOMEM, "no memory for %s: %zu bytes", p->weight.name, p->bytes);
        goto out;
    }
    s = source_read(l->source, p->weight.name, p->parts[0].row, p->weight.n, 0, 0, DTYPE_F32,
        values);
    if (s == STATUS_OK)
        l->backend->vector_write(l->device, p->weight.data, values, p->weight.n);
out:
    free(values);
    return s;
}

enum status builder_load(struct builder *b)
{
    enum status s = STATUS_OK;

    for (struct planned_weight *p = b->first; p != NULL && s == STATUS_OK; p = p->next) {
        s = p->vector ? load_vector(b->loader, p)
                      : p->method->load(b->loader, &p->slice, &p->weight);
        p->weight.name = p->name;
    }
    free(b->loader->staging);
    b->loader->staging = NULL;
    b->loader->staging_bytes = 0;
    return s;
}

static void release_weight(struct weight_loader *l, struct planned_weight *p)
{
    if (!p->vector)
        quant_release(l, &p->weight);
    else if (p->weight.data != NULL)
        l->backend->release(l->device, p->weight.data, p->bytes);
}

void builder_free(struct builder *b)
{
    while (b->first != NULL) {
        struct planned_weight *p = b->first;

        b->first = p->next;
        release_weight(b->loader, p);
        free(p);
    }
    place_free_maps(b);
}
