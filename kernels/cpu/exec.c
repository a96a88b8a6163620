/* exec.c - a step: every thread walks the whole list, doing its part of each operation.
 *
 * No thread is told what to do; each works it out from the plan, and a barrier
 * keeps them together. Where two neighbouring operations cut the same rows in
 * the same way, a row's data stay with one thread and the barrier between them
 * is left out: "rowwise" in the table. Rowwise operations cannot fail; those
 * that can are always followed by a barrier, which tells all threads to leave
 * together when one of them failed. */
#include "kernels/cpu/exec.h"

#include <math.h>
#include <string.h>

#include "quern/dtype.h"

static enum status op_embed(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct weight *w = op->weight;
    struct part rows = rows_mine(s, op, op->out, thread);

    for (uint32_t r = rows.from; r < rows.to; r++) {
        uint32_t local = (uint32_t)x->tokens[r] - op->first_id; /* wraps below first */

        if (local < w->n)
            x->device->kernels.lookup(row_at(x, op->out, r), w, local);
        else
            memset(row_at(x, op->out, r), 0, w->k * sizeof(float));
    }
    return STATUS_OK;
}

enum status op_norm(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct part rows = rows_mine(s, op, op->out, thread);

    if (rows.from < rows.to)
        x->device->kernels.add_norm(x->buffers[op->out], x->buffers[op->in[0]],
            op->kind == OP_NORM ? NULL : x->buffers[op->in[1]], op->weight->data,
            x->program->shape.rms_eps, cols_of(x, op->out), rows.from, rows.to);
    return STATUS_OK;
}

static enum status op_add_bias(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct part rows = rows_mine(s, op, op->in[0], thread);
    const float *bias = op->weight->data;

    for (uint32_t r = rows.from; r < rows.to; r++) {
        float *row = row_at(x, op->in[0], r);

        for (uint32_t i = 0; i < cols_of(x, op->in[0]); i++)
            row[i] += bias[i];
    }
    return STATUS_OK;
}

/* Attention ------------------------------------------------------------------------------ */

static enum status op_qk_rope(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct program_shape *shape = &x->program->shape;
    struct part rows = rows_mine(s, op, op->in[0], thread);
    struct rope_args args = {
        .qkv = x->buffers[op->in[0]],
        .ld = cols_of(x, op->in[0]),
        .q_norm = op->weight->data,
        .k_norm = op->weight2->data,
        .eps = shape->rms_eps,
        .cos = x->cos,
        .sin = x->sin,
        .kv = cache_view(x, op->layer),
        .heads = shape->heads,
        .blocks = x->blocks,
        .position = x->positions,
    };

    if (rows.from < rows.to)
        x->device->kernels.qk_rope(&args, rows.from, rows.to);
    return STATUS_OK;
}

static enum status op_attention(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    const struct program_shape *shape = &x->program->shape;
    uint32_t from = x->attention_from[thread], to = x->attention_from[thread + 1];
    struct attention_args args = {
        .out = x->buffers[op->out],
        .ld_out = cols_of(x, op->out),
        .q = x->buffers[op->in[0]],
        .ld_q = cols_of(x, op->in[0]),
        .kv = cache_view(x, op->layer),
        .q_to_kv = shape->q_to_kv,
        .heads = shape->heads,
        .scale = (float)(1.0 / sqrt(shape->head_dim)),
        .blocks = x->blocks,
        .position = x->positions,
        .tokens = s->plan->n_tokens,
    };

    if (from < to)
        x->device->kernels.attention(&args, from, to);
    return STATUS_OK;
}

/* The rest ------------------------------------------------------------------------------- */

static enum status op_silu_mul(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct part rows = rows_mine(s, op, op->out, thread);

    if (rows.from < rows.to)
        x->device->kernels.silu_mul(x->buffers[op->out], x->buffers[op->in[0]],
            cols_of(x, op->out), rows.from, rows.to);
    return STATUS_OK;
}

static enum status op_pick(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    struct part rows = rows_mine(s, op, op->out, thread);

    for (uint32_t r = rows.from; r < rows.to; r++)
        memcpy(row_at(x, op->out, r), row_at(x, op->in[0], x->picked[r]),
            cols_of(x, op->out) * sizeof(float));
    return STATUS_OK;
}

/* How an operation begins and ends; its rows are in[0]'s (begin) and out's (end). */
static const struct {
    op_row *row;
    bool rowwise_begin, rowwise_end;
} table[OP_KINDS] = {
    [OP_BEGIN] = {op_begin, false, false},
    [OP_EMBED] = {op_embed, true, true},
    [OP_NORM] = {op_norm, true, true},
    [OP_ADD_NORM] = {op_norm, true, true},
    [OP_LINEAR] = {op_linear, true, false}, /* begins by rounding rows, if it rounds */
    [OP_ADD_BIAS] = {op_add_bias, true, true},
    [OP_QK_ROPE] = {op_qk_rope, true, true},
    [OP_ATTENTION] = {op_attention, false, false},
    [OP_SILU_MUL] = {op_silu_mul, true, true},
    [OP_ALL_REDUCE] = {op_all_reduce, false, false},
    [OP_REDUCE_SCATTER] = {op_reduce_scatter, false, false},
    [OP_GATHER_ROWS] = {op_gather_rows, false, false},
    [OP_GATHER_COLS] = {op_gather_cols, false, false},
    [OP_SLICE_COLS] = {op_slice_cols, true, true},
    [OP_SLICE_ROWS] = {op_slice_rows, true, false}, /* from here on others own the rows */
    [OP_REDUCE_ADD_NORM] = {op_reduce_add_norm, false, false},
    [OP_AMAX] = {op_amax, true, true},
    [OP_MAX_REDUCE] = {op_max_reduce, false, false},
    [OP_PICK] = {op_pick, false, true},
    [OP_SAMPLE] = {op_sample, false, false},
};

/* Which operations see a sequence shard: follows the buffers that are made one, and unmade. */
static void mark_own_rows(struct executable *x)
{
    const struct program *p = x->program;
    bool cut[PROGRAM_MAX_BUFFERS] = {false};

    for (int i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];

        if (op->kind == OP_REDUCE_SCATTER || op->kind == OP_SLICE_ROWS)
            cut[op->in[0]] = !is_alone(x);
        else if (op->kind == OP_GATHER_ROWS)
            cut[op->in[0]] = false;
        else
            x->own_rows[i] = op->in[0] >= 0 && cut[op->in[0]];
        if (op->out >= 0 && op->out != op->in[0])
            cut[op->out] = x->own_rows[i];
    }
}

static enum extent extent_of(const struct program *p, const struct op *op)
{
    int buffer = op->out >= 0 ? op->out : op->in[0];

    return buffer >= 0 ? p->buffers[buffer].rows : EXTENT_TOKENS;
}

void plan_barriers(struct executable *x)
{
    const struct program *p = x->program;

    mark_own_rows(x);
    for (int i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i], *next = op + 1;
        bool last = i == p->n_ops - 1;

        x->barrier_after[i] = last || x->checks_finite || !table[op->kind].rowwise_end ||
                              !table[next->kind].rowwise_begin ||
                              extent_of(p, op) != extent_of(p, next) ||
                              x->own_rows[i] != x->own_rows[i + 1] ||
                              (next->kind == OP_LINEAR && linear_reads_in_place(x, next->weight));
    }
}

/* Thread 0, behind the step's last barrier. */
static void step_end(struct step *s, int op)
{
    struct executable *x = s->x;

    for (int t = 0; t < x->threads && s->status == STATUS_OK; t++)
        if (s->told[t] < 0)
            s->status = s->told[t];
    if (s->status == STATUS_OK) {
        step_commit(s);
        return;
    }
    s->failed_op = op;
    x->failed = s->status;
}

/* relaxed: it is only looked at whether it moves */
static void note_progress(const struct step *s)
{
    if (s->x->device->progress != NULL)
        atomic_fetch_add_explicit(s->x->device->progress, 1, memory_order_relaxed);
}

void step_run(void *context, int thread)
{
    struct step *s = context;
    struct executable *x = s->x;
    const struct program *p = x->program;
    int i;

    for (i = 0; i < p->n_ops; i++) {
        enum status status = table[p->ops[i].kind].row(s, &p->ops[i], thread);

        if (status != STATUS_OK)
            s->told[thread] = status;
        if (thread == 0)
            note_progress(s);
        if (x->barrier_after[i] && pool_barrier(x->device->pool, status != STATUS_OK))
            break;
        if (x->checks_finite) {
            if (thread == 0)
                finite_check(s, i);
            pool_barrier(x->device->pool, false);
        }
    }
    if (thread == 0)
        step_end(s, i);
}
