/* norm.c - root mean square norms, each with the residual sum before it.
 *
 * Where a Partial sum meets a norm, reduce, sum and norm are one operation.
 * Under sequence_parallel the residual stream and the norm's output are cut by
 * rows: the sum over ranks becomes a reduce-scatter, and the product that
 * follows gathers the rows. A bias that y's module left out is added to the
 * stream, which no sum over ranks counts twice. */
#include <stdio.h>

#include "layers/layers.h"
#include "layers/placement.h"

static void add_norm(struct builder *b, int layer, int x, int y, int out, const struct weight *w,
    enum op_kind kind)
{
    builder_op(b, (struct op){.kind = kind, .layer = layer, .in = {x, y}, .out = out, .weight = w});
}

static void add_bias(struct builder *b, int layer, const struct norm_input *in)
{
    if (in->bias != NULL)
        builder_op(b, (struct op){.kind = OP_ADD_BIAS, .layer = layer, .in = {in->x, -1},
            .out = in->x, .weight = in->bias});
}

static void norm_rows(struct builder *b, int layer, const char *module,
    const struct norm_input *in, int out, const struct weight *w)
{
    place_sequence(b, layer, module, in->x);
    if (in->y >= 0)
        place_sequence(b, layer, module, in->y);
    add_bias(b, layer, in);
    add_norm(b, layer, in->x, in->y, out, w, in->y >= 0 ? OP_ADD_NORM : OP_NORM);
}

static void norm_whole(struct builder *b, int layer, const char *module,
    const struct norm_input *in, int out, const struct weight *w)
{
    place_whole(b, layer, module, in->x);
    add_bias(b, layer, in);
    if (in->y >= 0 && b->status == STATUS_OK && b->buffers[in->y].place == PLACE_PARTIAL) {
        add_norm(b, layer, in->x, in->y, out, w, OP_REDUCE_ADD_NORM);
        return;
    }
    if (in->y >= 0)
        place_whole(b, layer, module, in->y);
    add_norm(b, layer, in->x, in->y, out, w, in->y >= 0 ? OP_ADD_NORM : OP_NORM);
}

int norm_layer(struct builder *b, int layer, const char *module, uint32_t cols,
    struct norm_input in)
{
    const struct strategy *strategy = builder_strategy(b, module, KIND_NORM);
    const struct weight *w;
    char name[MODULE_BYTES + 16];
    bool by_rows;
    int out;

    if (b->status != STATUS_OK)
        return -1;
    by_rows = b->size > 1 && strategy->in == IN_SEQUENCE;
    snprintf(name, sizeof(name), "%s.weight", module);
    w = builder_vector(b, name, cols, 0, cols, strategy);
    out = builder_buffer(b, "h", EXTENT_TOKENS, cols);
    (by_rows ? norm_rows : norm_whole)(b, layer, module, &in, out, w);
    place_set(b, out, module, by_rows ? PLACE_SEQUENCE : PLACE_REPLICATE, cols, NULL);
    place_as(b, layer, strategy, module, out);
    return out;
}
