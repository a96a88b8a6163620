/* finite.c - the first operation whose output is not finite, looked for with QUERN_CHECK_FINITE=1.
 *
 * At the end of a step every buffer has been written over many times: whose
 * fault it is that logits are not finite can only be seen while the step runs.
 * So thread 0 reads what each operation wrote while the others wait, which
 * costs a barrier and a pass over the buffer for each. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu/exec.h"
#include "quern/log.h"

bool finite_wanted(void)
{
    const char *value = getenv("QUERN_CHECK_FINITE");

    return value != NULL && value[0] != '\0' && value[0] != '0';
}

/* Of the operation's buffer those rows that hold values on this rank. */
static struct comm_rows rows_written(const struct step *s, const struct op *op, int buffer)
{
    const struct executable *x = s->x;
    size_t rows = rows_of(s, buffer);
    bool own = x->own_rows[op - x->program->ops] || op->kind == OP_REDUCE_SCATTER ||
               op->kind == OP_SLICE_ROWS;

    return own && !is_alone(x) ? comm_own_rows(rows, x->comm->rank, x->comm->size)
                               : (struct comm_rows){.count = rows};
}

static bool row_is_finite(const float *row, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(row[i]))
            return false;
    return true;
}

void finite_check(struct step *s, int i)
{
    const struct executable *x = s->x;
    const struct op *op = &x->program->ops[i];
    int buffer = op->out >= 0 ? op->out : op->in[0];
    struct comm_rows rows;

    if (buffer < 0 || s->suspect_op >= 0)
        return;
    rows = rows_written(s, op, buffer);
    for (size_t r = rows.first; r < rows.first + rows.count; r++) {
        bool part = op->kind == OP_LINEAR; /* of the columns */

        if (row_is_finite(row_at(x, buffer, (uint32_t)r) + (part ? op->out_col : 0),
                part ? op->weight->n : cols_of(x, buffer)))
            continue;
        s->suspect_op = i;
        s->suspect_row = (uint32_t)r;
        return;
    }
}

void finite_tell(struct executable *x, const struct step *s)
{
    const struct op *op;
    char layer[32] = "";

    if (s->suspect_op < 0 || x->suspect_told)
        return;
    op = &x->program->ops[s->suspect_op];
    if (op->layer >= 0)
        snprintf(layer, sizeof(layer), " of layer %d", op->layer);
    log_warn("step %llu: the output of %s%s%s%s is not finite, first in row %u",
        (unsigned long long)s->number, op_name(op->kind), layer, op->weight != NULL ? ", " : "",
        op->weight != NULL ? op->weight->name : "", s->suspect_row);
    x->suspect_told = true;
}
