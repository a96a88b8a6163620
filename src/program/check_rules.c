/* check_rules.c - the operations' rules: shapes, what each reads, what it leaves behind. */
#include "program/check.h"

/* Shapes ----------------------------------------------------------------------------------- */

static bool same_shape(const struct walk *w, int a, int b)
{
    const struct buffer_spec *one = spec_of(w, a), *other = spec_of(w, b);

    return one->rows == other->rows && one->cols == other->cols;
}

static bool is_vector(const struct weight *weight, uint32_t n)
{
    return weight->k == 0 && weight->n == n;
}

static uint32_t qkv_cols(const struct program *p)
{
    return (p->shape.heads + 2 * p->shape.kv_heads) * p->shape.head_dim;
}

static bool layer_valid(const struct walk *w, const struct op *op)
{
    return op->layer >= 0 && (uint32_t)op->layer < w->p->shape.layers;
}

static const char *check_embed(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *out = spec_of(w, op->out);
    const struct weight *table = op->weight;
    uint32_t vocab = program_ids(&w->p->shape);

    if (out->rows != EXTENT_TOKENS || table->k != out->cols)
        return "the table's rows are not the buffer's";
    if (op->first_id > vocab || table->n > vocab - op->first_id)
        return "the table reaches past the vocabulary";
    if (table->n < vocab && out->place != PLACE_PARTIAL)
        return "a cut table gives a Partial sum, the buffer is declared otherwise";
    return out->place == PLACE_SEQUENCE ? "an embedding has all rows, not a sequence shard" : NULL;
}

static const char *check_norm(const struct walk *w, const struct op *op)
{
    if (!same_shape(w, op->in[0], op->out))
        return "the shapes differ";
    return is_vector(op->weight, spec_of(w, op->out)->cols) ? NULL
                                                            : "the norm's weight does not fit";
}

static const char *check_add_norm(const struct walk *w, const struct op *op)
{
    if (op->in[0] == op->in[1] || op->in[1] == op->out)
        return "three buffers are needed";
    if (!same_shape(w, op->in[0], op->in[1]))
        return "the shapes differ";
    return check_norm(w, op);
}

static const char *check_sum_norm(const struct walk *w, const struct op *op)
{
    if (!is_alone(w->p) && w->buffers[op->in[0]].place != w->buffers[op->in[1]].place)
        return "both summands must be placed alike";
    return check_add_norm(w, op);
}

static const char *check_add_bias(const struct walk *w, const struct op *op)
{
    return is_vector(op->weight, spec_of(w, op->in[0])->cols) ? NULL : "the bias does not fit";
}

static const char *check_qk_rope(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec_of(w, op->in[0]);
    uint32_t head_dim = w->p->shape.head_dim;

    if (!layer_valid(w, op))
        return "there is no such layer";
    if (in->rows != EXTENT_TOKENS || in->cols != qkv_cols(w->p))
        return "the columns are not this rank's q, k and v";
    return is_vector(op->weight, head_dim) && is_vector(op->weight2, head_dim)
               ? NULL
               : "a head norm's weight does not fit";
}

static const char *check_attention(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec_of(w, op->in[0]), *out = spec_of(w, op->out);

    if (!layer_valid(w, op))
        return "there is no such layer";
    if (in->rows != EXTENT_TOKENS || in->cols != qkv_cols(w->p))
        return "the columns are not this rank's q, k and v";
    return out->rows == EXTENT_TOKENS &&
                   out->cols == w->p->shape.heads * w->p->shape.head_dim
               ? NULL
               : "the output's columns are not this rank's heads";
}

static const char *check_silu_mul(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec_of(w, op->in[0]), *out = spec_of(w, op->out);

    return in->rows == out->rows && in->cols == 2 * out->cols ? NULL : "the shapes do not fit";
}

static const char *check_pick(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec_of(w, op->in[0]), *out = spec_of(w, op->out);

    return in->rows == EXTENT_TOKENS && out->rows == EXTENT_OUTPUTS && in->cols == out->cols
               ? NULL
               : "the shapes do not fit";
}

static const char *check_sample(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec_of(w, op->in[0]);
    const struct program_shape *s = &w->p->shape;

    if (in->rows != EXTENT_OUTPUTS || in->cols != s->vocab_rows)
        return "the columns are not this rank's part of the vocabulary";
    return is_alone(w->p) && s->vocab_rows != s->vocab
               ? "the vocabulary is cut, but there is one rank"
               : NULL;
}

/* Column maps ------------------------------------------------------------------------------ */

/* The first column from `from` on that is past every range which reaches `from`. */
static uint32_t covered_until(const struct column_map *map, int size, uint32_t from)
{
    uint32_t end = from;

    for (int p = 0; p < map->n_parts; p++)
        for (int r = 0; r < size; r++) {
            uint32_t first = map->parts[p].at + map->parts[p].first[r];
            uint32_t last = first + map->parts[p].count[r];

            if (first <= from && last > end)
                end = last;
        }
    return end;
}

static bool ranges_lie_within(const struct column_map *map, int size)
{
    for (int p = 0; p < map->n_parts; p++)
        for (int r = 0; r < size; r++)
            if ((uint64_t)map->parts[p].at + map->parts[p].first[r] + map->parts[p].count[r] >
                map->cols)
                return false;
    return true;
}

/* `cut` and `whole`: the buffers on both sides of the map. Without a group there is no telling
 * whose part of it this is; loading looks again. */
static const char *check_map(const struct walk *w, const struct op *op, int cut, int whole)
{
    const struct column_map *map = op->map;
    const struct comm *c = program_comm(w->p);

    if (map->n_parts < 1 || map->n_parts > COMM_MAX_PARTS || spec_of(w, whole)->cols != map->cols ||
        spec_of(w, cut)->rows != spec_of(w, whole)->rows)
        return "the buffers are not those of the column map";
    if (c == NULL)
        return NULL;
    if (c->size > COMM_MAX_RANKS || !ranges_lie_within(map, c->size))
        return "the column map reaches past its columns or has too few ranks";
    return column_map_own(map, c->rank) == spec_of(w, cut)->cols
               ? NULL
               : "the column map gives this rank another number of columns";
}

static const char *check_gather_cols(const struct walk *w, const struct op *op)
{
    const char *why = check_map(w, op, op->in[0], op->out);
    uint32_t at = 0, next;

    if (why != NULL || program_comm(w->p) == NULL)
        return why;
    while ((next = covered_until(op->map, program_comm(w->p)->size, at)) > at)
        at = next;
    return at == op->map->cols ? NULL : "some columns of the map belong to no rank";
}

static const char *check_slice_cols(const struct walk *w, const struct op *op)
{
    return check_map(w, op, op->out, op->in[0]);
}

/* Results ---------------------------------------------------------------------------------- */

static int as_input(const struct walk *w, const struct op *op)
{
    return is_alone(w->p) ? (int)spec_of(w, op->out)->place : w->buffers[op->in[0]].place;
}

static int as_declared(const struct walk *w, const struct op *op)
{
    return (int)spec_of(w, op->out)->place;
}

static int replicated(const struct walk *w, const struct op *op)
{
    (void)w;
    (void)op;
    return PLACE_REPLICATE;
}

static int sharded(const struct walk *w, const struct op *op)
{
    (void)w;
    (void)op;
    return PLACE_SHARD;
}

static int by_rows(const struct walk *w, const struct op *op)
{
    (void)w;
    (void)op;
    return PLACE_SEQUENCE;
}

static int maximum(const struct walk *w, const struct op *op)
{
    return w->buffers[op->in[0]].place == PLACE_SHARD ? PLACE_MAXIMUM : PLACE_REPLICATE;
}

const struct op_rule op_rules[OP_KINDS] = {
    [OP_BEGIN] = {.check = NULL},
    [OP_EMBED] = {.out = true, .weight = true, .check = check_embed, .result = as_declared},
    [OP_NORM] = {.in0 = REPLICATE | SEQUENCE, .out = true, .weight = true, .check = check_norm,
        .result = as_input},
    [OP_ADD_NORM] = {.in0 = REPLICATE | SEQUENCE, .in1 = REPLICATE | SEQUENCE, .out = true,
        .weight = true, .check = check_sum_norm, .result = as_input},
    [OP_LINEAR] = {.in0 = REPLICATE | SHARD, .in1 = REPLICATE, .in1_optional = true, .out = true,
        .weight = true, .check = check_linear, .result = linear_result},
    [OP_ADD_BIAS] = {.in0 = REPLICATE | SHARD | SEQUENCE, .weight = true, .check = check_add_bias},
    [OP_QK_ROPE] = {.in0 = REPLICATE | SHARD, .weight = true, .weight2 = true,
        .check = check_qk_rope},
    [OP_ATTENTION] = {.in0 = REPLICATE | SHARD, .out = true, .check = check_attention,
        .result = as_input},
    [OP_SILU_MUL] = {.in0 = REPLICATE | SHARD, .out = true, .check = check_silu_mul,
        .result = as_input},
    [OP_ALL_REDUCE] = {.in0 = PARTIAL, .result = replicated},
    [OP_REDUCE_SCATTER] = {.in0 = PARTIAL, .result = by_rows},
    [OP_GATHER_ROWS] = {.in0 = SEQUENCE, .result = replicated},
    [OP_GATHER_COLS] = {.in0 = SHARD, .out = true, .map = true, .check = check_gather_cols,
        .result = replicated},
    [OP_SLICE_COLS] = {.in0 = REPLICATE, .out = true, .map = true, .check = check_slice_cols,
        .result = sharded},
    [OP_SLICE_ROWS] = {.in0 = REPLICATE, .result = by_rows},
    [OP_REDUCE_ADD_NORM] = {.in0 = REPLICATE, .in1 = PARTIAL, .out = true, .weight = true,
        .check = check_add_norm, .result = replicated},
    [OP_AMAX] = {.in0 = REPLICATE | SHARD, .out = true, .weight = true, .check = check_amax,
        .result = maximum},
    [OP_MAX_REDUCE] = {.in0 = REPLICATE | MAXIMUM, .result = replicated},
    [OP_PICK] = {.in0 = REPLICATE | SHARD, .out = true, .check = check_pick, .result = as_input},
    [OP_SAMPLE] = {.in0 = SHARD, .in1 = REPLICATE, .in1_optional = true, .check = check_sample},
};
