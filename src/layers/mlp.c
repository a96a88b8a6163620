/* mlp.c - gate and up in one product, silu and product, down. */
#include <stdio.h>

#include "layers/layers.h"
#include "layers/placement.h"

enum { MLP_UNIT = 16 }; /* a panel of outputs: cuts in between would leave panels half empty */

/* down's inputs are cut where gate's outputs are: at the edges of down's groups, where there are
 * enough of them for all ranks. A cut within one is right, too, and costs a maximum over ranks. */
static uint32_t cut_unit(const struct builder *b, const char *down, uint32_t intermediate)
{
    uint32_t group = quant_col_group(b->loader, down);
    bool enough = group > 0 && intermediate / group >= (uint32_t)b->size;

    return enough && group % MLP_UNIT == 0 ? group : MLP_UNIT;
}

int mlp_layer(struct builder *b, int layer, const char *module, uint32_t hidden,
    uint32_t intermediate, int in)
{
    char gate[MODULE_BYTES], up[MODULE_BYTES], down[MODULE_BYTES], merged[MODULE_BYTES];
    int gate_up, product, out;
    uint32_t unit;

    snprintf(gate, sizeof(gate), "%s.gate_proj", module);
    snprintf(up, sizeof(up), "%s.up_proj", module);
    snprintf(down, sizeof(down), "%s.down_proj", module);
    snprintf(merged, sizeof(merged), "%s.gate_up_proj", module);
    unit = cut_unit(b, down, intermediate);
    gate_up = linear_layer(b, layer, "gate_up",
        (struct linear_part[]){
            {.module = gate, .merged = merged, .rows = intermediate, .unit = unit},
            {.module = up, .merged = merged, .rows = intermediate, .unit = unit}},
        2, hidden, NULL, in);
    place_all_rows(b, layer, module, gate_up);
    if (b->status != STATUS_OK)
        return -1;
    product = builder_buffer(b, "product", EXTENT_TOKENS, b->program->buffers[gate_up].cols / 2);
    builder_op(b, (struct op){.kind = OP_SILU_MUL, .layer = layer, .in = {gate_up, -1},
        .out = product});
    place_part(b, gate_up, product, intermediate);
    out = linear_layer(b, layer, "y",
        &(struct linear_part){.module = down, .rows = hidden, .unit = 1}, 1, intermediate, NULL,
        product);
    place_module(b, layer, module, out);
    return out;
}
