/* builder.c - the list of weights that a model names first and loads later. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers/layers.h"
#include "quern/log.h"

enum { MAX_PARTS = 4, MODULE_BYTES = 160 };

struct planned_weight {
    struct planned_weight *next;
    struct weight weight;
    size_t data_bytes;
    bool vector;
    /* matrix */
    struct weight_slice slice;
    struct weight_part parts[MAX_PARTS];
    char modules[MAX_PARTS][MODULE_BYTES];
    /* vector: modules[0] is its full name */
    uint32_t vector_first;
};

void builder_init(struct builder *b, struct program *program, struct weight_loader *loader,
    const struct quant_method *method, int rank, int size)
{
    *b = (struct builder){
        .program = program, .loader = loader, .method = method, .rank = rank, .size = size};
    b->last = &b->first;
}

enum status builder_finish(struct builder *b)
{
    return b->status == STATUS_OK ? program_check(b->program) : b->status;
}

int builder_buffer(struct builder *b, const char *name, enum extent rows, uint32_t cols,
    enum place place)
{
    int buffer;

    if (b->status != STATUS_OK)
        return -1;
    buffer = program_buffer(b->program, name, rows, cols, place);
    if (buffer < 0)
        b->status = STATUS_INVALID;
    return buffer;
}

void builder_op(struct builder *b, struct op op)
{
    if (b->status == STATUS_OK)
        b->status = program_op(b->program, op);
}

static struct planned_weight *plan_weight(struct builder *b)
{
    struct planned_weight *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        b->status = log_fail(STATUS_NOMEM, "no memory for the list of weights");
        return NULL;
    }
    *b->last = p;
    b->last = &p->next;
    return p;
}

const struct weight *builder_matrix(struct builder *b, const struct weight_slice *slice)
{
    struct planned_weight *p;

    if (b->status != STATUS_OK || (p = plan_weight(b)) == NULL)
        return NULL;
    p->slice = *slice;
    p->slice.parts = p->parts;
    for (int i = 0; i < slice->n_parts; i++) {
        p->parts[i] = slice->parts[i];
        snprintf(p->modules[i], MODULE_BYTES, "%s", slice->parts[i].module);
        p->parts[i].module = p->modules[i];
        p->weight.n += slice->parts[i].rows;
    }
    p->weight.name = p->modules[0];
    p->weight.k = slice->cols;
    b->status = b->method->measure(b->loader, &p->slice, &p->weight.format, &p->data_bytes);
    b->weight_bytes += p->data_bytes;
    return b->status == STATUS_OK ? &p->weight : NULL;
}

const struct weight *builder_vector(struct builder *b, const char *name, uint32_t all,
    uint32_t first, uint32_t n)
{
    struct planned_weight *p;
    enum dtype stored;

    if (b->status != STATUS_OK || (p = plan_weight(b)) == NULL)
        return NULL;
    snprintf(p->modules[0], MODULE_BYTES, "%s", name);
    p->vector = true;
    p->vector_first = first;
    p->weight = (struct weight){.name = p->modules[0], .n = n, .format = WEIGHT_F32};
    p->data_bytes = n * sizeof(float);
    b->weight_bytes += p->data_bytes;
    b->status = source_check(b->loader->source, name, all, 0, &stored);
    return b->status == STATUS_OK ? &p->weight : NULL;
}

static enum status load_vector(struct weight_loader *l, struct planned_weight *p)
{
    float *values = malloc(p->weight.n * sizeof(float));
    enum status s;

    p->weight.data = l->backend->alloc(l->device, p->data_bytes);
    if (values == NULL || p->weight.data == NULL) {
        s = log_fail(STATUS_NOMEM, "no memory for %s: %zu bytes", p->weight.name, p->data_bytes);
        goto out;
    }
    s = source_read(l->source, p->weight.name, p->vector_first, p->weight.n, 0, 0, DTYPE_F32,
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

    for (struct planned_weight *p = b->first; p != NULL && s == STATUS_OK; p = p->next)
        s = p->vector ? load_vector(b->loader, p) : b->method->load(b->loader, &p->slice, &p->weight);
    free(b->loader->staging);
    b->loader->staging = NULL;
    b->loader->staging_bytes = 0;
    return s;
}

static void release_weight(struct weight_loader *l, struct planned_weight *p)
{
    size_t bias_bytes = p->slice.bias ? p->weight.n * sizeof(float) : 0;

    if (p->weight.bias != NULL)
        l->backend->release(l->device, p->weight.bias, bias_bytes);
    if (p->weight.data != NULL)
        l->backend->release(l->device, p->weight.data, p->data_bytes - bias_bytes);
}

void builder_free(struct builder *b)
{
    while (b->first != NULL) {
        struct planned_weight *p = b->first;

        b->first = p->next;
        release_weight(b->loader, p);
        free(p);
    }
}
