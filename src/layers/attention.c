/* attention.c - q, k and v in one product, head norms, rotation, attention, o.
 *
 * Column-parallel q, k, v give a rank query heads and the KV heads that cover
 * them; row-parallel o's input is cut like q's output, so nothing is
 * communicated in between. Where the plan leaves q, k and v whole (or gathers
 * them), every rank attends with all heads. */
#include <stdio.h>
#include <string.h>

#include "layers/layers.h"
#include "layers/placement.h"

enum { NAME = MODULE_BYTES };

static const struct weight *head_norm(struct builder *b, const char *module, const char *which,
    uint32_t head_dim)
{
    const struct strategy *strategy;
    char name[NAME + 32], norm[NAME + 16], who[256];

    snprintf(norm, sizeof(norm), "%s.%s", module, which);
    snprintf(name, sizeof(name), "%s.weight", norm);
    strategy = builder_strategy(b, norm, KIND_HEAD_NORM);
    if (strategy != NULL && strategy->in == IN_SEQUENCE)
        builder_fail(b, "%s is %s: a norm of heads cannot be cut by rows",
            place_who(b, norm, who), strategy->name);
    return builder_vector(b, name, head_dim, 0, head_dim, strategy);
}

/* Heads of each rank where q, k and v are cut; a strategy's own ranges are of whole KV groups, or,
 * on more ranks than there are, of query heads. */
static void cut_heads(struct builder *b, const char *module, const struct strategy *strategy,
    const struct attention_shape *shape, struct range q[COMM_MAX_RANKS],
    struct range kv[COMM_MAX_RANKS])
{
    uint32_t group = shape->heads / shape->kv_heads;

    for (int r = 0; r < b->size; r++) {
        struct head_shard s = shard_heads(shape->heads, shape->kv_heads, r, b->size);

        if (strategy->slice != NULL && (uint32_t)b->size <= shape->kv_heads) {
            place_range(b, module, strategy, shape->kv_heads, 1, r, &s.kv.first, &s.kv.count);
            s.q = (struct range){.first = s.kv.first * group, .count = s.kv.count * group};
        } else if (strategy->slice != NULL) {
            place_range(b, module, strategy, shape->heads, 1, r, &s.q.first, &s.q.count);
            s.kv = shard_cover(s.q, group);
        }
        q[r] = s.q;
        kv[r] = s.kv;
    }
}

static uint32_t most_heads(const struct range *heads, int size)
{
    uint32_t most = 0;

    for (int r = 0; r < size; r++)
        if (heads[r].count > most)
            most = heads[r].count;
    return most;
}

static void in_columns(struct range *heads, int size, uint32_t head_dim)
{
    for (int r = 0; r < size; r++) {
        heads[r].first *= head_dim;
        heads[r].count *= head_dim;
    }
}

/* The program has one shape: all layers attend with the same heads. */
static void set_heads(struct builder *b, const char *q_proj, const struct attention_shape *shape,
    struct range q, struct range kv)
{
    struct program_shape *s = &b->program->shape;
    uint32_t group = shape->heads / shape->kv_heads;
    char who[256];

    if (b->status != STATUS_OK)
        return;
    if (s->heads != 0 && (s->heads != q.count || s->kv_heads != kv.count))
        builder_fail(b, "%s, k and v are placed unlike those of the layers before: all layers "
            "attend alike", place_who(b, q_proj, who));
    if (q.count == 0 || kv.count == 0)
        builder_fail(b, "%s: rank %d has no head: use a smaller tp", place_who(b, q_proj, who),
            b->rank);
    if (q.count > PROGRAM_MAX_HEADS)
        builder_fail(b, "%s: %u query heads are too many for one rank, which takes %d: use tp %u",
            place_who(b, q_proj, who), q.count, PROGRAM_MAX_HEADS,
            (shape->heads + PROGRAM_MAX_HEADS - 1) / PROGRAM_MAX_HEADS);
    if (b->status != STATUS_OK)
        return;
    s->heads = q.count;
    s->kv_heads = kv.count;
    for (uint32_t i = 0; i < q.count; i++)
        s->q_to_kv[i] = (uint16_t)((q.first + i) / group - kv.first);
}

static int project(struct builder *b, int layer, const char *module,
    const struct attention_shape *shape, int in, char names[4][NAME])
{
    const struct strategy *strategy = builder_strategy(b, names[0], KIND_LINEAR);
    struct range q[COMM_MAX_RANKS], kv[COMM_MAX_RANKS];
    struct linear_bias bias = {.has = shape->bias};
    uint32_t d = shape->head_dim;
    char merged[NAME + 16], who[256];
    bool cut;

    if (strategy == NULL)
        return -1;
    cut = b->size > 1 && strategy->cut == CUT_ROWS && strategy->out != OUT_GATHER;
    if (b->size > 1 && strategy->cut == CUT_COLS)
        builder_fail(b, "%s is %s: heads are cut by outputs (colwise) or not at all",
            place_who(b, names[0], who), strategy->name);
    cut_heads(b, module, strategy, shape, q, kv);
    b->kv_heads_most = cut ? most_heads(kv, b->size) : shape->kv_heads;
    if (cut)
        set_heads(b, names[0], shape, q[b->rank], kv[b->rank]);
    else
        set_heads(b, names[0], shape, (struct range){.count = shape->heads},
            (struct range){.count = shape->kv_heads});
    in_columns(q, b->size, d);
    in_columns(kv, b->size, d);
    snprintf(merged, sizeof(merged), "%s.qkv_proj", module);
    return linear_layer(b, layer, "qkv",
        (struct linear_part[]){
            {.module = names[0], .merged = merged, .rows = shape->heads * d, .unit = d, .own = q},
            {.module = names[1], .merged = merged, .rows = shape->kv_heads * d, .unit = d,
                .own = kv},
            {.module = names[2], .merged = merged, .rows = shape->kv_heads * d, .unit = d,
                .own = kv}},
        3, shape->hidden, &bias, in);
}

int attention_layer(struct builder *b, int layer, const char *module,
    const struct attention_shape *shape, int in, const struct weight **bias)
{
    static const char *const projections[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    struct linear_bias o_bias = {.has = shape->bias, .skip = true};
    char names[4][NAME];
    int qkv, attended, out;

    for (int i = 0; i < 4; i++)
        snprintf(names[i], NAME, "%s.%s", module, projections[i]);
    qkv = project(b, layer, module, shape, in, names);
    place_all_rows(b, layer, module, qkv);
    builder_op(b, (struct op){.kind = OP_QK_ROPE, .layer = layer, .in = {qkv, -1}, .out = qkv,
        .weight = head_norm(b, module, "q_norm", shape->head_dim),
        .weight2 = head_norm(b, module, "k_norm", shape->head_dim)});
    attended = builder_buffer(b, "attended", EXTENT_TOKENS,
        b->program->shape.heads * shape->head_dim);
    builder_op(b, (struct op){.kind = OP_ATTENTION, .layer = layer, .in = {qkv, -1},
        .out = attended});
    place_part(b, qkv, attended, shape->heads * shape->head_dim);
    out = linear_layer(b, layer, "y",
        &(struct linear_part){.module = names[3], .rows = shape->hidden, .unit = 1}, 1,
        shape->heads * shape->head_dim, &o_bias, attended);
    place_module(b, layer, module, out);
    *bias = o_bias.skipped;
    return out;
}
