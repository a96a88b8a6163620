/* attention.c - q, k and v in one product, head norms, rotation, attention, o.
 *
 * A rank owns query heads and the KV heads that cover them; o's input is cut
 * like q's output, so nothing is communicated in between. */
#include <stdio.h>

#include "layers/layers.h"

enum { NAME = 160 };

static struct range head_columns(struct range heads, uint32_t head_dim)
{
    return (struct range){.first = heads.first * head_dim, .count = heads.count * head_dim};
}

static const struct weight *head_norm(struct builder *b, const char *module, const char *which,
    uint32_t head_dim)
{
    char name[NAME + 32];

    snprintf(name, sizeof(name), "%s.%s.weight", module, which);
    return builder_vector(b, name, head_dim, 0, head_dim);
}

void attention_layer(struct builder *b, int layer, const char *module,
    const struct attention_shape *shape, int in, int out)
{
    struct head_shard own = shard_heads(shape->heads, shape->kv_heads, b->rank, b->size);
    uint32_t d = shape->head_dim;
    struct range q = head_columns(own.q, d), kv = head_columns(own.kv, d);
    char names[4][NAME];
    static const char *const projections[] = {"q_proj", "k_proj", "v_proj", "o_proj"};

    for (int i = 0; i < 4; i++)
        snprintf(names[i], NAME, "%s.%s", module, projections[i]);
    linear_column(b, layer,
        (struct column_part[]){{names[0], shape->heads * d, q}, {names[1], shape->kv_heads * d, kv},
            {names[2], shape->kv_heads * d, kv}},
        3, shape->hidden, shape->bias, in, shape->qkv);
    builder_op(b, (struct op){.kind = OP_QK_ROPE, .layer = layer, .in = {shape->qkv, -1},
        .out = shape->qkv, .weight = head_norm(b, module, "q_norm", d),
        .weight2 = head_norm(b, module, "k_norm", d)});
    builder_op(b, (struct op){.kind = OP_ATTENTION, .layer = layer, .in = {shape->qkv, -1},
        .out = shape->attended});
    linear_row(b, layer, names[3], shape->hidden, shape->heads * d, q, shape->bias,
        shape->attended, out);
}
