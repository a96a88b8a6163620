/* check_linear.c - does a weight fit between its buffers, and can its activations be quantised?
 *
 * A scale of activations is of a token's whole group of inputs. Where a rank
 * has only a part of one, the maximum must come from all ranks, or codes would
 * depend on their number. */
#include "program/check.h"

static bool quantises(const struct weight *weight)
{
    return weight->format >= WEIGHT_FP8 && weight->quant.activation != ACTIVATION_PLAIN;
}

static bool dynamic(const struct weight *weight)
{
    return quantises(weight) && weight->quant.activation_scale <= 0;
}

/* Every activation group lies on this rank from end to end, so its maximum is known here. */
static bool owns_act_groups(const struct weight *weight)
{
    const struct weight_quant *q = &weight->quant;
    uint64_t end = (uint64_t)q->act_first + weight->k;

    return q->act_group > 0 && q->act_first % q->act_group == 0 &&
           (end % q->act_group == 0 || (end - 1) / q->act_group + 1 == q->act_groups);
}

static const char *check_activation(const struct weight *weight)
{
    const struct weight_quant *q = &weight->quant;
    uint64_t last = (uint64_t)q->act_first + weight->k - 1;

    if (!dynamic(weight))
        return NULL;
    if (!(q->act_divisor > 0) || !(q->act_least > 0))
        return "the rule for activation scales is incomplete";
    return (q->act_group == 0 ? 0 : last / q->act_group) < q->act_groups
               ? NULL
               : "inputs lie past the last activation group";
}

static const char *check_quant(const struct weight *weight)
{
    const struct weight_quant *q = &weight->quant;
    uint64_t last = (uint64_t)q->first + weight->k - 1;

    if (weight->format < WEIGHT_FP8)
        return NULL;
    if (q->groups == 0 ||
        (q->group_of == NULL && q->group > 0 && last / q->group >= q->groups))
        return "inputs lie past the last weight group";
    return check_activation(weight);
}

static const char *check_amax_input(const struct walk *w, const struct op *op)
{
    const struct weight *weight = op->weight;

    if (op->in[1] < 0)
        return dynamic(weight) && !is_alone(w->p) && !owns_act_groups(weight) &&
                       w->buffers[op->in[0]].place == PLACE_SHARD
                   ? "the scale needs each token's maximum over all ranks: amax and max_reduce"
                   : NULL;
    if (!dynamic(weight))
        return "activation maxima are given, but nothing asks for them";
    return spec_of(w, op->in[1])->rows == spec_of(w, op->in[0])->rows &&
                   spec_of(w, op->in[1])->cols == weight->quant.act_groups
               ? NULL
               : "the activation maxima have another shape";
}

/* A product of shards is Partial; otherwise the buffer is declared Shard or the product whole. */
int linear_result(const struct walk *w, const struct op *op)
{
    if (is_alone(w->p))
        return spec_of(w, op->out)->place;
    if (w->buffers[op->in[0]].place == PLACE_SHARD)
        return PLACE_PARTIAL;
    return spec_of(w, op->out)->place == PLACE_SHARD ? PLACE_SHARD : PLACE_REPLICATE;
}

const char *check_linear(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec_of(w, op->in[0]), *out = spec_of(w, op->out);
    const struct weight *weight = op->weight;
    const char *why;

    if (in->rows != out->rows || weight->k == 0 || weight->k != in->cols ||
        op->out_col > out->cols || weight->n > out->cols - op->out_col)
        return "the weight does not fit between the buffers";
    if (!is_alone(w->p) && weight->bias != NULL && linear_result(w, op) == PLACE_PARTIAL)
        return "every rank would add the bias to its Partial sum";
    why = check_quant(weight);
    return why != NULL ? why : check_amax_input(w, op);
}

const char *check_amax(const struct walk *w, const struct op *op)
{
    const struct weight *weight = op->weight;
    const char *why = check_quant(weight);

    if (why != NULL)
        return why;
    if (!dynamic(weight))
        return "the weight's activations need no maximum";
    return spec_of(w, op->in[0])->rows == spec_of(w, op->out)->rows &&
                   spec_of(w, op->in[0])->cols == weight->k &&
                   spec_of(w, op->out)->cols == weight->quant.act_groups
               ? NULL
               : "the shapes do not fit the weight";
}
