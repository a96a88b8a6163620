/* check.c - the proof that a program's shapes and placements fit.
 *
 * program_check() runs the list once without data. For each buffer it keeps how
 * it is placed at this point of the list, which operations in place may change,
 * and asks each operation's rule (check_rules.c) which placements it reads,
 * whether shapes fit, and what it leaves behind. A missing reduce is found
 * here, when the model is built, on any rank count that declares Partial at
 * all. */
#include <stdio.h>

#include "program/check.h"
#include "quern/log.h"

static const char *placement_name(int place)
{
    return place == PLACE_MAXIMUM ? "partial maximum" : place_name((enum place)place);
}

static size_t describe_buffer(const struct walk *w, int buffer, const char *before, char *text,
    size_t room)
{
    const struct buffer_walk *b = &w->buffers[buffer];

    return (size_t)snprintf(text, room, "%s%s [%s, %u] %s", before, spec_of(w, buffer)->name,
        spec_of(w, buffer)->rows == EXTENT_TOKENS ? "tokens" : "outputs", spec_of(w, buffer)->cols,
        b->written ? placement_name(b->place) : "unwritten");
}

/* "x [tokens, 8] shard, y [tokens, 8] partial to h [tokens, 8] unwritten" */
static void describe_buffers(const struct walk *w, const struct op *op, char text[512])
{
    const char *before = "";
    size_t at = 0;

    for (int i = 0; i < 2 && at < 512; i++)
        if (op->in[i] >= 0) {
            at += describe_buffer(w, op->in[i], before, text + at, 512 - at);
            before = ", ";
        }
    if (op->out >= 0 && op->out != op->in[0] && at < 512)
        describe_buffer(w, op->out, at > 0 ? " to " : "", text + at, 512 - at);
}

static enum status refuse(const struct walk *w, int i, const char *buffer, const char *why)
{
    const struct op *op = &w->p->ops[i];
    char buffers[512] = "";

    describe_buffers(w, op, buffers);
    return log_fail(STATUS_INVALID, "program: operation %d (%s, layer %d): %s%s%s; buffers: %s", i,
        op_name(op->kind), op->layer, buffer, buffer[0] != '\0' ? " " : "", why, buffers);
}

static bool operands_fit(const struct op_rule *rule, const struct op *op)
{
    bool apart = op->out >= 0 && op->out != op->in[0];
    bool in1 = op->in[1] >= 0 || rule->in1_optional;

    return (rule->in0 != 0) == (op->in[0] >= 0) && (rule->in1 != 0) == in1 &&
           rule->out == apart && rule->weight == (op->weight != NULL) &&
           rule->weight2 == (op->weight2 != NULL) && rule->map == (op->map != NULL);
}

static bool takes(const struct walk *w, unsigned set, int place)
{
    if (place == PLACE_PARTIAL || !is_alone(w->p))
        return (set & 1u << place) != 0;
    return (set & ~(unsigned)PARTIAL) != 0;
}

static enum status check_read(const struct walk *w, int i, int buffer, unsigned set)
{
    const struct buffer_walk *b = &w->buffers[buffer];
    const char *name = spec_of(w, buffer)->name;
    char why[96];

    if (!b->written)
        return refuse(w, i, name, "is read before it is written");
    if (b->covered != spec_of(w, buffer)->cols)
        return refuse(w, i, name, "is read before all its columns are written");
    if (takes(w, set, b->place))
        return STATUS_OK;
    if (b->place == PLACE_PARTIAL)
        return refuse(w, i, name, "is Partial here: only all_reduce, reduce_scatter and "
            "reduce_add_norm may read it");
    if (set == PARTIAL)
        return refuse(w, i, name, "is not Partial: reducing it would count it once per rank");
    snprintf(why, sizeof(why), "is %s here, which %s cannot read", placement_name(b->place),
        op_name(w->p->ops[i].kind));
    return refuse(w, i, name, why);
}

/* Products may fill a buffer in parts, from its first column on. */
static enum status check_part(struct walk *w, int i, int place)
{
    const struct op *op = &w->p->ops[i];
    struct buffer_walk *b = &w->buffers[op->out];
    const char *name = spec_of(w, op->out)->name;

    if (!b->written || b->covered != op->out_col)
        return refuse(w, i, name, "is written in parts that do not follow each other");
    if (b->place != place)
        return refuse(w, i, name, "has parts that are not placed alike");
    b->covered += op->weight->n;
    return STATUS_OK;
}

static enum status check_write(struct walk *w, int i, int place)
{
    const struct op *op = &w->p->ops[i];
    struct buffer_walk *b = &w->buffers[op->out];
    const struct buffer_spec *s = spec_of(w, op->out);

    if (op->kind == OP_LINEAR && op->out_col > 0)
        return check_part(w, i, place);
    if (b->written && b->place == PLACE_PARTIAL)
        return refuse(w, i, s->name, "is Partial and overwritten: a reduce is missing before it");
    if (b->covered == 0 && op->kind != OP_AMAX && place != (int)s->place && !is_alone(w->p)) {
        char why[96];

        snprintf(why, sizeof(why), "is declared %s, but first written as %s", place_name(s->place),
            placement_name(place));
        return refuse(w, i, s->name, why);
    }
    *b = (struct buffer_walk){.written = true, .place = place,
        .covered = op->kind == OP_LINEAR ? op->weight->n : s->cols};
    return STATUS_OK;
}

static enum status check_order(const struct walk *w, int i)
{
    enum op_kind kind = w->p->ops[i].kind;

    if ((kind == OP_BEGIN) != (i == 0))
        return refuse(w, i, "", "begin comes first and once");
    if (kind == OP_SAMPLE && i != w->p->n_ops - 1)
        return refuse(w, i, "", "sample comes last");
    return STATUS_OK;
}

static enum status check_operands(const struct walk *w, int i)
{
    const struct op *op = &w->p->ops[i];
    const struct op_rule *rule = &op_rules[op->kind];
    const unsigned sets[2] = {rule->in0, rule->in1};
    const char *why;

    if (!operands_fit(rule, op))
        return refuse(w, i, "", "buffers, weights or maps are missing, too many, or the same");
    for (int n = 0; n < 2; n++)
        if (op->in[n] >= 0) {
            enum status s = check_read(w, i, op->in[n], sets[n]);

            if (s != STATUS_OK)
                return s;
        }
    why = rule->check != NULL ? rule->check(w, op) : NULL;
    return why == NULL ? STATUS_OK : refuse(w, i, "", why);
}

static enum status check_op(struct walk *w, int i)
{
    const struct op *op = &w->p->ops[i];
    const struct op_rule *rule = &op_rules[op->kind];
    enum status s = check_order(w, i);

    if (s == STATUS_OK)
        s = check_operands(w, i);
    if (s != STATUS_OK || rule->result == NULL)
        return s;
    if (!rule->out) {
        w->buffers[op->in[0]].place = rule->result(w, op);
        return STATUS_OK;
    }
    s = check_write(w, i, rule->result(w, op));
    if (op->kind == OP_REDUCE_ADD_NORM)
        w->buffers[op->in[1]].written = false; /* it was scratch; `covered` still tells that it was
                                                * written before */
    return s;
}

static bool shape_valid(const struct program_shape *s)
{
    if (s->heads > PROGRAM_MAX_HEADS || s->head_dim % 2 != 0 ||
        s->head_dim > PROGRAM_MAX_HEAD_DIM ||
        s->limits.block_size == 0 || s->limits.n_blocks > BLOCK_MOST ||
        s->limits.max_tokens == 0 || s->limits.max_slots == 0 ||
        s->vocab_first > s->vocab || s->vocab_rows > s->vocab - s->vocab_first ||
        s->vocab > INT32_MAX || s->limits.vocab > program_ids(s))
        return false;
    for (uint32_t h = 0; h < s->heads; h++)
        if (s->q_to_kv[h] >= s->kv_heads)
            return false;
    return plan_max_bytes(&s->limits) != 0;
}

static bool cache_valid(enum dtype type)
{
    return type == DTYPE_F32 || type == DTYPE_BF16 || type == DTYPE_F16 || type == DTYPE_E4M3;
}

enum status program_check(const struct program *p)
{
    struct walk w = {.p = p};

    if (!cache_valid(p->shape.kv_dtype))
        return log_fail(STATUS_INVALID, "program: no rows read a KV cache of type %d, only f32, "
            "bf16, f16 and e4m3", (int)p->shape.kv_dtype);

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
        if (w.buffers[b].written && w.buffers[b].place == PLACE_PARTIAL)
            return refuse(&w, p->n_ops - 1, spec_of(&w, b)->name,
                "is left Partial: a reduce is missing");
    return p->n_ops > 0 ? STATUS_OK : log_fail(STATUS_INVALID, "program: it is empty");
}
