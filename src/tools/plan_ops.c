/* plan_ops.c - operations: how their buffers are placed, and what they communicate.
 *
 * A program's operations say what they do to placements by their kind, and a
 * product by the cut of its weight, so one walk over rank 0's list is enough:
 * the lists of the others differ in sizes only. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/exec.h"
#include "quern/log.h"
#include "tools/plan_rows.h"

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
static void count_sample(const struct walk *w, struct op_row *row)
{
    row->moved = (uint64_t)w->m->size * sizeof(struct pick);
    row->moved_most = (uint64_t)w->m->size * sizeof(struct shard_record);
    row->per_output = true;
}

static void count_moved(const struct walk *w, struct op_row *row)
{
    const struct op *op = row->op;

    if (w->m->size == 1)
        return;
    switch (op->kind) {
    case OP_ALL_REDUCE:
    case OP_REDUCE_SCATTER:
    case OP_GATHER_ROWS:
    case OP_MAX_REDUCE: row->moved = row_bytes(w, op->in[0]); break;
    case OP_REDUCE_ADD_NORM: row->moved = row_bytes(w, op->in[1]); break;
    case OP_GATHER_COLS: row->moved = (uint64_t)op->map->cols * sizeof(float); break;
    case OP_SAMPLE: count_sample(w, row); return;
    default: return;
    }
    row->moved_most = row->moved;
    row->per_output = w->program->buffers[op->in[0]].rows == EXTENT_OUTPUTS;
}

static void fill_op(struct walk *w, struct op_row *row, const struct op *op)
{
    enum place behind = place_behind(w, op);

    row->op = op;
    row->weight = op->weight != NULL ? op->weight->name : "";
    for (int n = 0; n < 2; n++)
        row->in[n] = op->in[n] >= 0 ? w->place[op->in[n]] : PLACE_REPLICATE;
    row->out = behind;
    count_moved(w, row);
    if (op->kind == OP_REDUCE_ADD_NORM)
        w->place[op->in[1]] = PLACE_REPLICATE;
    if (op->out >= 0)
        w->place[op->out] = behind;
    else if (op->in[0] >= 0)
        w->place[op->in[0]] = behind;
}

/* Each layer ends with the norm that the next one reads, so the first norm stands before them all
 * (layer 0 is then like the others). */
static void set_sections(struct plan_rows *rows)
{
    bool begun = false;

    for (size_t i = 0; i < rows->n_ops; i++) {
        const struct op *op = rows->ops[i].op;

        rows->ops[i].section = !begun ? SECTION_BEGIN : op->layer < 0 ? SECTION_END : op->layer;
        begun = begun || op->kind == OP_NORM;
    }
}

enum status plan_rows_ops(struct plan_rows *rows)
{
    const struct program *p = &rows->model->ranks[0].model.program;
    struct walk w = {.m = rows->model, .program = p};

    rows->ops = calloc((size_t)p->n_ops, sizeof(*rows->ops));
    if (rows->ops == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a list of %d operations", p->n_ops);
    for (int i = 0; i < p->n_ops; i++)
        fill_op(&w, &rows->ops[rows->n_ops++], &p->ops[i]);
    set_sections(rows);
    return STATUS_OK;
}

uint64_t plan_rows_moved(const struct plan_rows *rows, int section)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < rows->n_ops; i++)
        if (!rows->ops[i].per_output &&
            (section == SECTION_ALL || rows->ops[i].section == section))
            bytes += rows->ops[i].moved;
    return bytes;
}

static bool same_op(const struct op_row *a, const struct op_row *b)
{
    return a->op->kind == b->op->kind && a->op->in[0] == b->op->in[0] &&
           a->op->in[1] == b->op->in[1] && a->op->out == b->op->out && a->in[0] == b->in[0] &&
           a->in[1] == b->in[1] && a->out == b->out && a->moved == b->moved;
}

static size_t first_op(const struct plan_rows *rows, int section)
{
    size_t i = 0;

    while (i < rows->n_ops && rows->ops[i].section != section)
        i++;
    return i;
}

bool plan_same_ops(const struct plan_rows *rows, int a, int b)
{
    size_t i = first_op(rows, a), k = first_op(rows, b), n = rows->n_ops;

    while (i < n && k < n && rows->ops[i].section == a && rows->ops[k].section == b)
        if (!same_op(&rows->ops[i++], &rows->ops[k++]))
            return false;
    return (i == n || rows->ops[i].section != a) && (k == n || rows->ops[k].section != b);
}
