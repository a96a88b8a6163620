/* mlp.c - gate and up in one column-parallel product, down in a row-parallel one. */
#include <stdio.h>

#include "layers/layers.h"

void mlp_layer(struct builder *b, int layer, const char *module, const struct mlp_shape *shape,
    int in, int out)
{
    struct range own = shard_range(shape->intermediate, MLP_UNIT, b->rank, b->size);
    char gate[160], up[160], down[160];

    snprintf(gate, sizeof(gate), "%s.gate_proj", module);
    snprintf(up, sizeof(up), "%s.up_proj", module);
    snprintf(down, sizeof(down), "%s.down_proj", module);
    linear_column(b, layer,
        (struct column_part[]){{gate, shape->intermediate, own}, {up, shape->intermediate, own}}, 2,
        shape->hidden, false, in, shape->gate_up);
    builder_op(b, (struct op){.kind = OP_SILU_MUL, .layer = layer, .in = {shape->gate_up, -1},
        .out = shape->product});
    linear_row(b, layer, down, shape->hidden, shape->intermediate, own, false, shape->product, out);
}
