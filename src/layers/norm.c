/* norm.c - root mean square norms, each fused with the residual sum before it. */
#include <stdio.h>

#include "layers/layers.h"

void norm_layer(struct builder *b, int layer, const char *module, uint32_t cols, int x, int y,
    int out)
{
    char name[192];

    snprintf(name, sizeof(name), "%s.weight", module);
    builder_op(b, (struct op){.kind = y < 0 ? OP_NORM : OP_ADD_NORM, .layer = layer, .in = {x, y},
        .out = out, .weight = builder_vector(b, name, cols, 0, cols)});
}
