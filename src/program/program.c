/* program.c - the list, and the proof that its placements fit.
 *
 * program_check() runs the list once without data: for each buffer it keeps
 * how it is placed at this point (not written, Shard, Replicate, Partial) and
 * asks each operation's row of a table whether it may read and write that. A
 * missing reduce is found here, when the model is built, on any rank count
 * that declares Partial at all. */
#include "program/program.h"

#include <stdlib.h>

#include "quern/log.h"

const char *op_name(enum op_kind kind)
{
    static const char *const names[OP_KINDS] = {
        [OP_BEGIN] = "begin",
        [OP_EMBED] = "embed",
        [OP_NORM] = "norm",
        [OP_ADD_NORM] = "add_norm",
        [OP_LINEAR] = "linear",
        [OP_ADD_BIAS] = "add_bias",
        [OP_QK_ROPE] = "qk_rope",
        [OP_ATTENTION] = "attention",
        [OP_SILU_MUL] = "silu_mul",
        [OP_ALL_REDUCE] = "all_reduce",
        [OP_PICK] = "pick",
        [OP_SAMPLE] = "sample",
    };

    return (unsigned)kind < OP_KINDS ? names[kind] : "unknown";
}

const char *place_name(enum place place)
{
    static const char *const names[] = {
        [PLACE_REPLICATE] = "replicate",
        [PLACE_SHARD] = "shard",
        [PLACE_PARTIAL] = "partial",
    };

    return (unsigned)place < sizeof(names) / sizeof(names[0]) ? names[place] : "unknown";
}

size_t program_block_bytes(const struct program_shape *shape)
{
    return (size_t)2 * shape->kv_heads * shape->limits.block_size * shape->head_dim *
           dtype_bytes(shape->kv_dtype);
}

/* Building ------------------------------------------------------------------------------- */

void program_init(struct program *p, const struct program_shape *shape, struct comm *comm)
{
    *p = (struct program){.shape = *shape, .comm = comm};
}

void program_free(struct program *p)
{
    free(p->ops);
    p->ops = NULL;
    p->n_ops = p->ops_room = p->n_buffers = 0;
}

int program_buffer(struct program *p, const char *name, enum extent rows, uint32_t cols,
    enum place place)
{
    if (p->n_buffers == PROGRAM_MAX_BUFFERS || cols == 0) {
        log_fail(STATUS_INVALID, "program: buffer %s of %u columns is number %d, at most %d can be",
            name, cols, p->n_buffers + 1, PROGRAM_MAX_BUFFERS);
        return -1;
    }
    p->buffers[p->n_buffers] =
        (struct buffer_spec){.name = name, .rows = rows, .cols = cols, .place = place};
    return p->n_buffers++;
}

static bool buffer_number_valid(const struct program *p, int buffer)
{
    return buffer >= -1 && buffer < p->n_buffers;
}

static enum status grow(struct program *p)
{
    int room = p->ops_room == 0 ? 64 : 2 * p->ops_room;
    struct op *ops = realloc(p->ops, (size_t)room * sizeof(*ops));

    if (ops == NULL)
        return log_fail(STATUS_NOMEM, "program: no memory for %d operations", room);
    p->ops = ops;
    p->ops_room = room;
    return STATUS_OK;
}

enum status program_op(struct program *p, struct op op)
{
    if ((unsigned)op.kind >= OP_KINDS || !buffer_number_valid(p, op.in[0]) ||
        !buffer_number_valid(p, op.in[1]) || !buffer_number_valid(p, op.out))
        return log_fail(STATUS_INVALID, "program: %s of buffers %d and %d to %d, there are %d",
            op_name(op.kind), op.in[0], op.in[1], op.out, p->n_buffers);
    if (p->n_ops == p->ops_room && grow(p) != STATUS_OK)
        return STATUS_NOMEM;
    p->ops[p->n_ops++] = op;
    return STATUS_OK;
}

/* Checking ------------------------------------------------------------------------------- */

/* How each buffer is placed at a point of the list. */
struct walk {
    const struct program *p;
    bool written[PROGRAM_MAX_BUFFERS];
    enum place place[PROGRAM_MAX_BUFFERS];
};

/* What an operation takes; the rest of its rule is its check(). */
struct op_rule {
    bool in0, in1, out; /* buffers it must have (out: apart from in[0]) */
    bool in_place;      /* out is in[0] or -1 */
    bool weight, weight2;
    bool (*check)(const struct walk *w, const struct op *op);
};

static const struct buffer_spec *spec(const struct walk *w, int buffer)
{
    return &w->p->buffers[buffer];
}

static bool alone(const struct program *p)
{
    return p->comm == NULL || p->comm->size == 1;
}

/* Every rank has all of it (once a reduce that is due has been done). */
static bool whole(const struct walk *w, int buffer)
{
    return alone(w->p) || spec(w, buffer)->place != PLACE_SHARD;
}

static bool placed_alike(const struct walk *w, int in, int out)
{
    return alone(w->p) || w->place[in] == spec(w, out)->place;
}

static bool same_shape(const struct buffer_spec *a, const struct buffer_spec *b)
{
    return a->rows == b->rows && a->cols == b->cols;
}

static bool is_vector(const struct weight *weight, uint32_t n)
{
    return weight->k == 0 && weight->n == n;
}

static uint32_t qkv_cols(const struct program *p)
{
    return (p->shape.heads + 2 * p->shape.kv_heads) * p->shape.head_dim;
}

static bool check_embed(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *out = spec(w, op->out);
    bool cut = w->p->shape.vocab_rows != w->p->shape.vocab;

    return out->rows == EXTENT_TOKENS && op->weight->k == out->cols &&
           op->weight->n == w->p->shape.vocab_rows &&
           (cut ? out->place == PLACE_PARTIAL : whole(w, op->out));
}

static bool check_norm(const struct walk *w, const struct op *op)
{
    return same_shape(spec(w, op->in[0]), spec(w, op->out)) && whole(w, op->in[0]) &&
           spec(w, op->out)->place != PLACE_PARTIAL && whole(w, op->out) &&
           is_vector(op->weight, spec(w, op->in[0])->cols);
}

static bool check_add_norm(const struct walk *w, const struct op *op)
{
    return check_norm(w, op) && op->in[0] != op->in[1] && op->in[1] != op->out &&
           whole(w, op->in[1]) && same_shape(spec(w, op->in[0]), spec(w, op->in[1]));
}

static bool check_linear(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec(w, op->in[0]), *out = spec(w, op->out);
    const struct weight *weight = op->weight;

    if (in->rows != out->rows || weight->k == 0 || weight->k != in->cols || weight->n != out->cols)
        return false;
    if (out->place == PLACE_PARTIAL && weight->bias != NULL && !alone(w->p))
        return false;
    return alone(w->p) || (in->place == PLACE_SHARD) == (out->place == PLACE_PARTIAL);
}

static bool check_add_bias(const struct walk *w, const struct op *op)
{
    return is_vector(op->weight, spec(w, op->in[0])->cols);
}

static bool check_qk_rope(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec(w, op->in[0]);

    return in->rows == EXTENT_TOKENS && in->cols == qkv_cols(w->p) && op->layer >= 0 &&
           (uint32_t)op->layer < w->p->shape.layers &&
           is_vector(op->weight, w->p->shape.head_dim) &&
           is_vector(op->weight2, w->p->shape.head_dim);
}

static bool check_attention(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec(w, op->in[0]), *out = spec(w, op->out);

    return in->rows == EXTENT_TOKENS && out->rows == EXTENT_TOKENS && in->cols == qkv_cols(w->p) &&
           out->cols == w->p->shape.heads * w->p->shape.head_dim &&
           placed_alike(w, op->in[0], op->out) && op->layer >= 0 &&
           (uint32_t)op->layer < w->p->shape.layers;
}

static bool check_silu_mul(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec(w, op->in[0]), *out = spec(w, op->out);

    return in->rows == out->rows && in->cols == 2 * out->cols &&
           placed_alike(w, op->in[0], op->out);
}

static bool check_pick(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec(w, op->in[0]), *out = spec(w, op->out);

    return in->rows == EXTENT_TOKENS && out->rows == EXTENT_OUTPUTS && in->cols == out->cols &&
           placed_alike(w, op->in[0], op->out);
}

static bool check_sample(const struct walk *w, const struct op *op)
{
    const struct buffer_spec *in = spec(w, op->in[0]);

    return in->rows == EXTENT_OUTPUTS && in->cols == w->p->shape.vocab_rows &&
           (w->p->shape.vocab_rows == w->p->shape.vocab ||
               (in->place == PLACE_SHARD && !alone(w->p)));
}

static const struct op_rule rules[OP_KINDS] = {
    [OP_BEGIN] = {.check = NULL},
    [OP_EMBED] = {.out = true, .weight = true, .check = check_embed},
    [OP_NORM] = {.in0 = true, .out = true, .weight = true, .check = check_norm},
    [OP_ADD_NORM] = {.in0 = true, .in1 = true, .out = true, .weight = true,
        .check = check_add_norm},
    [OP_LINEAR] = {.in0 = true, .out = true, .weight = true, .check = check_linear},
    [OP_ADD_BIAS] = {.in0 = true, .in_place = true, .weight = true, .check = check_add_bias},
    [OP_QK_ROPE] = {.in0 = true, .in_place = true, .weight = true, .weight2 = true,
        .check = check_qk_rope},
    [OP_ATTENTION] = {.in0 = true, .out = true, .check = check_attention},
    [OP_SILU_MUL] = {.in0 = true, .out = true, .check = check_silu_mul},
    [OP_ALL_REDUCE] = {.in0 = true, .in_place = true},
    [OP_PICK] = {.in0 = true, .out = true, .check = check_pick},
    [OP_SAMPLE] = {.in0 = true, .check = check_sample},
};

static bool operands_fit(const struct op_rule *rule, const struct op *op)
{
    bool apart = op->out >= 0 && op->out != op->in[0];

    return rule->in0 == (op->in[0] >= 0) && rule->in1 == (op->in[1] >= 0) && rule->out == apart &&
           (rule->in_place || rule->out || op->out < 0) &&
           rule->weight == (op->weight != NULL) && rule->weight2 == (op->weight2 != NULL);
}

static enum status refuse(const struct walk *w, int i, int buffer, const char *why)
{
    const struct op *op = &w->p->ops[i];

    return log_fail(STATUS_INVALID, "program: operation %d (%s, layer %d), buffer %s: %s", i,
        op_name(op->kind), op->layer, buffer < 0 ? "-" : w->p->buffers[buffer].name, why);
}

static enum status check_read(const struct walk *w, int i, int buffer)
{
    if (!w->written[buffer])
        return refuse(w, i, buffer, "is read before it is written");
    if (w->place[buffer] == PLACE_PARTIAL && w->p->ops[i].kind != OP_ALL_REDUCE)
        return refuse(w, i, buffer, "is Partial here: only all_reduce may read it");
    if (w->place[buffer] != PLACE_PARTIAL && w->p->ops[i].kind == OP_ALL_REDUCE)
        return refuse(w, i, buffer, "is not Partial: reducing it would count it once per rank");
    return STATUS_OK;
}

static enum status check_write(struct walk *w, int i, int buffer)
{
    if (w->written[buffer] && w->place[buffer] == PLACE_PARTIAL)
        return refuse(w, i, buffer, "is Partial and overwritten: a reduce is missing before it");
    w->written[buffer] = true;
    w->place[buffer] = w->p->buffers[buffer].place;
    return STATUS_OK;
}

static enum status check_op(struct walk *w, int i)
{
    const struct op *op = &w->p->ops[i];
    const struct op_rule *rule = &rules[op->kind];
    enum status s;

    if ((op->kind == OP_BEGIN) != (i == 0))
        return refuse(w, i, -1, "begin comes first and once");
    if (op->kind == OP_SAMPLE && i != w->p->n_ops - 1)
        return refuse(w, i, -1, "sample comes last");
    if (!operands_fit(rule, op))
        return refuse(w, i, op->in[0], "buffers or weights are missing, too many, or the same");
    for (int n = 0; n < 2; n++)
        if (op->in[n] >= 0 && (s = check_read(w, i, op->in[n])) != STATUS_OK)
            return s;
    if (rule->check != NULL && !rule->check(w, op))
        return refuse(w, i, op->in[0] >= 0 ? op->in[0] : op->out,
            "shape or placement does not fit the operation");
    if (rule->out)
        return check_write(w, i, op->out);
    if (op->kind == OP_ALL_REDUCE)
        w->place[op->in[0]] = PLACE_REPLICATE;
    return STATUS_OK;
}

static bool shape_valid(const struct program_shape *s)
{
    size_t heads_room = sizeof(s->q_to_kv) / sizeof(s->q_to_kv[0]);
    size_t lanes_room = sizeof(s->inv_freq) / sizeof(s->inv_freq[0]);

    if (s->heads > heads_room || s->head_dim % 2 != 0 || s->head_dim / 2 > lanes_room ||
        s->limits.block_size == 0 || s->limits.max_tokens == 0 || s->limits.max_slots == 0 ||
        s->vocab_first > s->vocab || s->vocab_rows > s->vocab - s->vocab_first ||
        s->vocab > INT32_MAX || s->limits.vocab > s->vocab)
        return false;
    for (uint32_t h = 0; h < s->heads; h++)
        if (s->q_to_kv[h] >= s->kv_heads)
            return false;
    return plan_max_bytes(&s->limits) != 0;
}

enum status program_check(const struct program *p)
{
    struct walk w = {.p = p};

    if (!shape_valid(&p->shape))
        return log_fail(STATUS_INVALID,
            "program: impossible shape: %u heads, %u KV heads, head_dim %u, vocabulary %u from %u "
            "of %u, %u slots of %u blocks of %u, %u tokens",
            p->shape.heads, p->shape.kv_heads, p->shape.head_dim, p->shape.vocab_rows,
            p->shape.vocab_first, p->shape.vocab, p->shape.limits.max_slots,
            p->shape.limits.max_blocks_per_slot, p->shape.limits.block_size,
            p->shape.limits.max_tokens);
    for (int i = 0; i < p->n_ops; i++) {
        enum status s = check_op(&w, i);

        if (s != STATUS_OK)
            return s;
    }
    for (int b = 0; b < p->n_buffers; b++)
        if (w.written[b] && w.place[b] == PLACE_PARTIAL)
            return refuse(&w, p->n_ops - 1, b, "is left Partial: a reduce is missing");
    return p->n_ops > 0 ? STATUS_OK : log_fail(STATUS_INVALID, "program: it is empty");
}
