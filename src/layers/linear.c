/* linear.c - column and row parallel products.
 *
 * Column: each rank owns some outputs of each stacked module, and its result
 * is its shard of the output. Row: each rank owns some inputs, its result is a
 * Partial sum. A pair of them (qkv and o, gate_up and down) communicates once. */
#include <stdio.h>

#include "layers/layers.h"

void linear_column(struct builder *b, int layer, const struct column_part *parts, int n_parts,
    uint32_t in_cols, bool bias, int in, int out)
{
    struct weight_part stack[4];
    struct weight_slice slice = {
        .parts = stack, .n_parts = n_parts, .cols = in_cols, .bias = bias};

    for (int i = 0; i < n_parts; i++)
        stack[i] = (struct weight_part){.module = parts[i].module, .all_rows = parts[i].all_rows,
            .all_cols = in_cols, .row = parts[i].rows.first, .rows = parts[i].rows.count};
    builder_op(b, (struct op){.kind = OP_LINEAR, .layer = layer, .in = {in, -1}, .out = out,
        .weight = builder_matrix(b, &slice)});
}

enum place partial_place(const struct builder *b)
{
    return b->size > 1 ? PLACE_PARTIAL : PLACE_REPLICATE;
}

void reduce_partial(struct builder *b, int layer, int buffer)
{
    if (b->size > 1)
        builder_op(b, (struct op){.kind = OP_ALL_REDUCE, .layer = layer, .in = {buffer, -1},
            .out = buffer});
}

void linear_row(struct builder *b, int layer, const char *module, uint32_t out_rows,
    uint32_t in_cols, struct range cols, bool bias, int in, int out)
{
    struct weight_part part = {
        .module = module, .all_rows = out_rows, .all_cols = in_cols, .rows = out_rows};
    /* Alone, the product adds the bias; otherwise every rank's part would. */
    struct weight_slice slice = {.parts = &part, .n_parts = 1, .col = cols.first,
        .cols = cols.count, .bias = bias && b->size == 1};
    char name[192];

    builder_op(b, (struct op){.kind = OP_LINEAR, .layer = layer, .in = {in, -1}, .out = out,
        .weight = builder_matrix(b, &slice)});
    reduce_partial(b, layer, out);
    if (!bias || b->size == 1)
        return;
    snprintf(name, sizeof(name), "%s.bias", module);
    builder_op(b, (struct op){.kind = OP_ADD_BIAS, .layer = layer, .in = {out, -1}, .out = out,
        .weight = builder_vector(b, name, out_rows, 0, out_rows)});
}
