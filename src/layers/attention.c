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
    char name[NAME + 32], norm[NAME + 16];

    snprintf(norm, sizeof(norm), "%s.%s", module, which);
    snprintf(name, sizeof(name), "%s.weight", norm);
    strategy = builder_strategy(b, norm, KIND_HEAD_NORM);
    if (strategy != NULL && strategy->in == IN_SEQUENCE)
        builder_fail(b, "%s is %s: a norm of heads cannot be cut by rows", norm, strategy->name);
    return builder_vector(b, name, head_dim, 0, head_dim, strategy);
}

/* Heads of each rank where q, k and v are cut; a strategy's own ranges are of whole KV groups. */
static void cut_heads(struct builder *b, const struct strategy *strategy,
    const struct attention_shape *shape, struct range q[COMM_MAX_RANKS],
    struct range kv[COMM_MAX_RANKS])
{
    uint32_t group = shape->heads / shape->kv_heads;

    for (int r = 0; r < b->size; r++) {
        struct head_shard s = shard_heads(shape->heads, shape->kv_heads, r, b->size);

        if (strategy->slice != NULL && (uint32_t)b->size <= shape->kv_heads) {
            place_range(b, strategy, shape->kv_heads, 1, r, &s.kv.first, &s.kv.count);
            s.q = (struct range){.first = s.kv.first * group, .count = s.kv.count * group};
        }
        q[r] = s.q;
        kv[r] = s.kv;
    }
}

static void in_columns(struct range *heads, int size, uint32_t head_dim)
{
    for (int r = 0; r < size; r++) {
        heads[r].first *= head_dim;
        heads[r].count *= head_dim;
    }
}

/* The program has one shape: all layers attend with the same heads. */
static void set_heads(struct builder *b, const char *module, const struct attention_shape *shape,
    struct range q, struct range kv)
{
    struct program_shape *s = &b->program->shape;
    uint32_t group = shape->heads / shape->kv_heads;

    if (b->status != STATUS_OK)
        return;
    if (s->heads != 0 && (s->heads != q.count || s->kv_heads != kv.count))
        builder_fail(b, "%s: q, k and v are placed unlike those of the layers before: all layers "
            "attend alike", module);
    if (q.count == 0 || kv.count == 0)
        builder_fail(b, "%s: rank %d has no head: use a smaller tp", module, b->rank);
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
    char merged[NAME + 16];
    bool cut;

    if (strategy == NULL)
        return -1;
    cut = b->size > 1 && strategy->cut == CUT_ROWS;
    if (b->size > 1 && strategy->cut == CUT_COLS)
        builder_fail(b, "%s is %s: heads are cut by outputs (colwise) or not at all", names[0],
            strategy->name);
    cut_heads(b, strategy, shape, q, kv);
    if (cut && strategy->out != OUT_GATHER)
        set_heads(b, module, shape, q[b->rank], kv[b->rank]);
    else
        set_heads(b, module, shape, (struct range){.count = shape->heads},
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

/* The heads' outputs: cut like q's, or whole. */
static void place_attended(struct builder *b, int qkv, int attended,
    const struct attention_shape *shape)
{
    const struct buffer_state *from;
    struct column_map *map = NULL;

    if (b->status != STATUS_OK)
        return;
    from = &b->buffers[qkv];
    if (from->place == PLACE_SHARD && (map = place_map(b)) != NULL) {
        map->n_parts = 1;
        map->cols = shape->heads * shape->head_dim;
        map->parts[0] = from->map->parts[0];
    }
    place_set(b, attended, from->writer, from->place, shape->heads * shape->head_dim, map);
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
    place_attended(b, qkv, attended, shape);
    out = linear_layer(b, layer, "y",
        &(struct linear_part){.module = names[3], .rows = shape->hidden, .unit = 1}, 1,
        shape->heads * shape->head_dim, &o_bias, attended);
    place_module(b, layer, module, out);
    *bias = o_bias.skipped;
    return out;
}
