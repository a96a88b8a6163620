/* plan_ops.c - operations: how their buffers are placed, and what they communicate.
 *
 * A program's operations say what they do to placements by their kind, and a
 * product by the cut of its weight, so one walk over rank 0's list is enough:
 * the lists of the others differ in sizes only. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/exec.h"
#include "quern/log.h"
#include "tools/plan_list.h"

struct walk {
    const struct plan_model *m;
    const struct program *program;
    enum place place[PROGRAM_MAX_BUFFERS];
};

static const struct planned_weight *planned(const struct plan_model *m, const struct weight *w)
{
    const struct planned_weight *p = m->ranks[0].model.builder.first;

    while (p != NULL && &p->weight != w)
        p = p->next;
    return p;
}

/* A linear weight's product: cut outputs leave a shard, cut inputs a debt. */
static enum place product_place(const struct walk *w, const struct weight *weight)
{
    const struct planned_weight *p = planned(w->m, weight);

    if (w->m->size == 1 || p == NULL)
        return PLACE_REPLICATE;
    if (p->slice.cols != p->parts[0].all_cols)
        return PLACE_PARTIAL;
    for (int i = 0; i < p->slice.n_parts; i++)
        if (p->parts[i].rows != p->parts[i].as_rows)
            return PLACE_SHARD;
    return PLACE_REPLICATE;
}

static enum place table_place(const struct walk *w, const struct weight *weight)
{
    enum place place = product_place(w, weight);

    return place == PLACE_SHARD ? PLACE_PARTIAL : place == PLACE_PARTIAL ? PLACE_SHARD : place;
}

static enum place place_behind(const struct walk *w, const struct op *op)
{
    enum place in = op->in[0] >= 0 ? w->place[op->in[0]] : PLACE_REPLICATE;

    switch (op->kind) {
    case OP_EMBED: return table_place(w, op->weight);
    case OP_LINEAR: return product_place(w, op->weight);
    case OP_ALL_REDUCE:
    case OP_GATHER_ROWS:
    case OP_GATHER_COLS:
    case OP_MAX_REDUCE:
    case OP_REDUCE_ADD_NORM: return PLACE_REPLICATE;
    case OP_REDUCE_SCATTER:
    case OP_SLICE_ROWS: return PLACE_SEQUENCE;
    case OP_SLICE_COLS: return PLACE_SHARD;
    case OP_AMAX: return w->m->size > 1 ? PLACE_PARTIAL : PLACE_REPLICATE;
    default: return in; /* element by element, or row by row */
    }
}

static uint64_t row_bytes(const struct walk *w, int buffer)
{
    return (uint64_t)w->program->buffers[buffer].cols * sizeof(float);
}

/* Each rank's record of its shard: the best token alone, or a list of them. */
static void count_sample(const struct walk *w, struct op_item *item)
{
    item->moved = (uint64_t)w->m->size * sizeof(struct pick);
    item->moved_most = (uint64_t)w->m->size * sizeof(struct shard_record);
    item->per_output = true;
}

static void count_moved(const struct walk *w, struct op_item *item)
{
    const struct op *op = item->op;

    if (w->m->size == 1)
        return;
    switch (op->kind) {
    case OP_ALL_REDUCE:
    case OP_REDUCE_SCATTER:
    case OP_GATHER_ROWS:
    case OP_MAX_REDUCE: item->moved = row_bytes(w, op->in[0]); break;
    case OP_REDUCE_ADD_NORM: item->moved = row_bytes(w, op->in[1]); break;
    case OP_GATHER_COLS: item->moved = (uint64_t)op->map->cols * sizeof(float); break;
    case OP_SAMPLE: count_sample(w, item); return;
    default: return;
    }
    item->moved_most = item->moved;
    item->per_output = w->program->buffers[op->in[0]].rows == EXTENT_OUTPUTS;
}

static void fill_op(struct walk *w, struct op_item *item, const struct op *op)
{
    enum place behind = place_behind(w, op);

    item->op = op;
    item->weight = op->weight != NULL ? op->weight->name : "";
    for (int n = 0; n < 2; n++)
        item->in[n] = op->in[n] >= 0 ? w->place[op->in[n]] : PLACE_REPLICATE;
    item->out = behind;
    count_moved(w, item);
    if (op->kind == OP_REDUCE_ADD_NORM)
        w->place[op->in[1]] = PLACE_REPLICATE;
    if (op->out >= 0)
        w->place[op->out] = behind;
    else if (op->in[0] >= 0)
        w->place[op->in[0]] = behind;
}

/* Each layer ends with the norm that the next one reads, so the first norm stands before them all
 * (layer 0 is then like the others). */
static void set_sections(struct plan_list *list)
{
    bool begun = false;

    for (size_t i = 0; i < list->n_ops; i++) {
        const struct op *op = list->ops[i].op;

        list->ops[i].section = !begun ? SECTION_BEGIN : op->layer < 0 ? SECTION_END : op->layer;
        begun = begun || op->kind == OP_NORM;
    }
}

enum status plan_list_ops(struct plan_list *list)
{
    const struct program *p = &list->model->ranks[0].model.program;
    struct walk w = {.m = list->model, .program = p};

    list->ops = calloc((size_t)p->n_ops, sizeof(*list->ops));
    if (list->ops == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a list of %d operations", p->n_ops);
    for (int i = 0; i < p->n_ops; i++)
        fill_op(&w, &list->ops[list->n_ops++], &p->ops[i]);
    set_sections(list);
    return STATUS_OK;
}

uint64_t plan_list_moved(const struct plan_list *list, int section)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < list->n_ops; i++)
        if (!list->ops[i].per_output &&
            (section == SECTION_ALL || list->ops[i].section == section))
            bytes += list->ops[i].moved;
    return bytes;
}

static bool same_op(const struct op_item *a, const struct op_item *b)
{
    return a->op->kind == b->op->kind && a->op->in[0] == b->op->in[0] &&
           a->op->in[1] == b->op->in[1] && a->op->out == b->op->out && a->in[0] == b->in[0] &&
           a->in[1] == b->in[1] && a->out == b->out && a->moved == b->moved;
}

static size_t first_op(const struct plan_list *list, int section)
{
    size_t i = 0;

    while (i < list->n_ops && list->ops[i].section != section)
        i++;
    return i;
}

bool plan_same_ops(const struct plan_list *list, int a, int b)
{
    size_t i = first_op(list, a), k = first_op(list, b), n = list->n_ops;

    while (i < n && k < n && list->ops[i].section == a && list->ops[k].section == b)
        if (!same_op(&list->ops[i++], &list->ops[k++]))
            return false;
    return (i == n || list->ops[i].section != a) && (k == n || list->ops[k].section != b);
}
