/* linear.c - products: replicated, column parallel, row parallel, merged.
 *
 * Column: each rank owns some outputs of each stacked module, and its result is
 * its shard of the output. Row: each rank owns some inputs, its result is a
 * Partial sum, reduced by whoever needs it whole (placement.h). A pair of them
 * (qkv and o, gate_up and down) communicates once. A row-parallel bias is added
 * once, after the sum, or left to the reader (skip_bias_add), so that the sum
 * can become one with the norm that follows. */
#include <stdio.h>
#include <string.h>

#include "layers/layers.h"
#include "layers/placement.h"

enum { INPUT_UNIT = 16 }; /* where a whole input is cut: as the modules that leave shards cut it */

struct product {
    struct builder *b;
    int layer;
    const char *name;
    const struct linear_part *parts;
    int n_parts;
    uint32_t in_cols;
    struct linear_bias *bias; /* never NULL */
    const struct strategy *strategy; /* of all parts: their cut, in, out and slice are the same */
    int in, out;
};

static const char *plan_name(const struct linear_part *part)
{
    return part->as != NULL ? part->as : part->module;
}

/* Modules of one product lie side by side: they must be cut alike. */
static void choose_strategy(struct product *p)
{
    struct builder *b = p->b;

    p->strategy = builder_strategy(b, plan_name(&p->parts[0]), KIND_LINEAR);
    for (int i = 1; i < p->n_parts && b->status == STATUS_OK; i++) {
        const struct strategy *s = builder_strategy(b, plan_name(&p->parts[i]), KIND_LINEAR);
        char first[256], other[256];

        if (s != NULL && (s->cut != p->strategy->cut || s->in != p->strategy->in ||
                             s->out != p->strategy->out || s->slice != p->strategy->slice))
            builder_fail(b, "%s is %s, but %s is %s: they belong to one product, place them alike",
                place_who(b, plan_name(&p->parts[0]), first), p->strategy->name,
                place_who(b, plan_name(&p->parts[i]), other), s->name);
    }
}

static uint32_t all_rows(const struct product *p)
{
    uint32_t n = 0;

    for (int i = 0; i < p->n_parts; i++)
        n += p->parts[i].rows;
    return n;
}

/* Where a part lies in the checkpoint: in a tensor of its own, or in its place in a merged one. */
static struct weight_part stored_part(const struct product *p, int index)
{
    const struct weight_loader *l = p->b->loader;
    const struct linear_part *part = &p->parts[index];
    struct weight_part own = {.module = part->module, .as = plan_name(part), .all_rows = part->rows,
        .all_cols = p->in_cols, .rows = part->rows};

    if (part->merged == NULL || quant_is_stored(l, part->module) ||
        !quant_is_stored(l, part->merged))
        return own;
    own.module = part->merged;
    own.all_rows = all_rows(p);
    for (int i = 0; i < index; i++)
        own.row += p->parts[i].rows;
    own.as_row = own.row;
    own.as_rows = part->rows;
    return own;
}

/* Parts [first, first + count) as a weight: rows as `map` has them for this rank (NULL: all). */
static struct weight_slice slice_of(const struct product *p, const struct column_map *map,
    int first, int count, struct range cols, bool bias, struct weight_part stack[WEIGHT_PARTS])
{
    for (int i = 0; i < count; i++) {
        stack[i] = stored_part(p, first + i);
        if (map != NULL) {
            stack[i].row += map->parts[first + i].first[p->b->rank];
            stack[i].rows = map->parts[first + i].count[p->b->rank];
        }
    }
    return (struct weight_slice){
        .parts = stack, .n_parts = count, .col = cols.first, .cols = cols.count, .bias = bias};
}

static bool merges(const struct product *p, const struct weight_slice *slice)
{
    const struct weight_loader *l = p->b->loader;
    bool one = true;

    if (slice->n_parts > 1 && p->b->status == STATUS_OK)
        p->b->status = quant_method_of(l, slice->parts[0].module)->mergeable(l, slice, &one);
    return one;
}

/* Do all ranks' inputs begin and end where groups of activations do? Then a group's maximum is
 * known without asking anybody. */
static bool groups_are_whole(const struct column_map *in, int size, uint32_t group, uint32_t all)
{
    for (int r = 0; group > 0 && r < size; r++) {
        uint32_t first = in->parts[0].first[r], last = first + in->parts[0].count[r];

        if (first % group != 0 || (last % group != 0 && last != all))
            return false;
    }
    return group > 0;
}

/* The buffer with each token's largest inputs over all ranks; -1 where it is known here. */
static int maxima(struct product *p, const struct weight *w)
{
    struct builder *b = p->b;
    const struct column_map *in;
    int amax;

    if (b->status != STATUS_OK || w->quant.activation == ACTIVATION_PLAIN ||
        w->quant.activation_scale > 0 || b->buffers[p->in].place != PLACE_SHARD)
        return -1;
    in = b->buffers[p->in].map;
    if (in->n_parts == 1 && groups_are_whole(in, b->size, w->quant.act_group, p->in_cols))
        return -1;
    amax = builder_buffer(b, "amax", b->program->buffers[p->in].rows, w->quant.act_groups);
    builder_op(b, (struct op){.kind = OP_AMAX, .layer = p->layer, .in = {p->in, -1}, .out = amax,
        .weight = w});
    builder_op(b, (struct op){.kind = OP_MAX_REDUCE, .layer = p->layer, .in = {amax, -1},
        .out = amax});
    return amax;
}

/* `part`: the first one in the slice. */
static uint32_t apply(struct product *p, const struct linear_part *part,
    const struct weight_slice *slice, uint32_t out_col)
{
    struct builder *b = p->b;
    const struct strategy *own = slice->n_parts == 1
                                     ? builder_strategy(b, plan_name(part), KIND_LINEAR)
                                     : p->strategy;
    const struct weight *w = builder_matrix(b, slice, own);
    int amax;

    if (w == NULL)
        return 0;
    amax = maxima(p, w);
    builder_op(b, (struct op){.kind = OP_LINEAR, .layer = p->layer, .in = {p->in, amax},
        .out = p->out, .out_col = out_col, .weight = w});
    return w->n;
}

/* One product of all parts, or one of each where their methods will not merge. */
static void multiply(struct product *p, const struct column_map *map, struct range cols, bool bias)
{
    struct weight_part stack[WEIGHT_PARTS];
    struct weight_slice all = slice_of(p, map, 0, p->n_parts, cols, bias, stack);
    uint32_t at = 0;

    if (merges(p, &all)) {
        apply(p, p->parts, &all, 0);
        return;
    }
    for (int i = 0; i < p->n_parts; i++) {
        struct weight_slice one = slice_of(p, map, i, 1, cols, bias, stack);

        at += apply(p, &p->parts[i], &one, at);
    }
}

/* Which outputs of each part every rank has. */
static struct column_map *row_map(struct product *p)
{
    struct builder *b = p->b;
    struct column_map *map = place_map(b);

    for (int i = 0; map != NULL && i < p->n_parts; i++) {
        const struct linear_part *part = &p->parts[i];

        map->parts[i].at = map->cols;
        map->cols += part->rows;
        map->n_parts = i + 1;
        for (int r = 0; r < b->size && b->status == STATUS_OK; r++) {
            uint32_t *first = &map->parts[i].first[r], *count = &map->parts[i].count[r];

            if (part->own != NULL) {
                *first = part->own[r].first;
                *count = part->own[r].count;
            } else {
                place_range(b, plan_name(part), p->strategy, part->rows, part->unit, r, first,
                    count);
            }
        }
    }
    return b->status == STATUS_OK ? map : NULL;
}

/* Elements `own` of the first module's bias. */
static const struct weight *bias_vector(struct product *p, struct range own)
{
    uint32_t all = p->parts[0].rows;
    char name[MODULE_BYTES + 16];

    snprintf(name, sizeof(name), "%s.bias", p->parts[0].module);
    return builder_vector(p->b, name, all, own.first, own.count, p->strategy);
}

/* For the caller to add, where it asked for that. */
static void skip_bias(struct product *p, struct range own)
{
    if (!p->bias->has || !p->bias->skip)
        return;
    if (p->n_parts != 1)
        builder_fail(p->b, "%s: only the bias of a single module can be skipped",
            p->parts[0].module);
    p->bias->skipped = bias_vector(p, own);
}

static enum extent extent_of(const struct builder *b, int buffer)
{
    return b->program->buffers[buffer].rows;
}

/* A whole product that is meant Partial (moe_identity_expert: the input over the ranks, then their
 * sum) is the whole one already: it stays so, and nothing is sent. */
static int replicated(struct product *p)
{
    struct builder *b = p->b;

    place_whole(b, p->layer, plan_name(&p->parts[0]), p->in);
    if (b->status != STATUS_OK)
        return -1;
    p->out = builder_buffer(b, p->name, extent_of(b, p->in), all_rows(p));
    multiply(p, NULL, (struct range){.count = p->in_cols}, p->bias->has && !p->bias->skip);
    skip_bias(p, (struct range){.count = p->parts[0].rows});
    place_set(b, p->out, plan_name(&p->parts[0]), PLACE_REPLICATE, all_rows(p), NULL);
    place_as(b, p->layer, p->strategy, plan_name(&p->parts[0]), p->out);
    return p->out;
}

static int column_parallel(struct product *p)
{
    struct builder *b = p->b;
    struct column_map *map;
    uint32_t own;

    place_whole(b, p->layer, plan_name(&p->parts[0]), p->in);
    map = row_map(p);
    if (map == NULL)
        return -1;
    own = column_map_own(map, b->rank);
    p->out = builder_buffer(b, p->name, extent_of(b, p->in), own);
    multiply(p, map, (struct range){.count = p->in_cols}, p->bias->has && !p->bias->skip);
    if (p->strategy->out == OUT_GATHER)
        skip_bias(p, (struct range){.count = p->parts[0].rows});
    else
        skip_bias(p, (struct range){.first = map->parts[0].first[b->rank], .count = own});
    place_set(b, p->out, plan_name(&p->parts[0]), PLACE_SHARD, map->cols, map);
    return p->out;
}

/* The inputs this rank multiplies: those its shard of the input buffer has. */
static struct range own_inputs(struct product *p)
{
    struct builder *b = p->b;
    const char *module = plan_name(&p->parts[0]);
    const struct column_map *map;

    if (p->strategy->in == IN_SPLIT && b->status == STATUS_OK &&
        b->buffers[p->in].place != PLACE_SHARD) {
        place_whole(b, p->layer, module, p->in);
        p->in = place_split(b, p->layer, p->in,
            place_even_map(b, module, p->strategy, p->in_cols, INPUT_UNIT));
    }
    if (b->status != STATUS_OK)
        return (struct range){0};
    map = b->buffers[p->in].map;
    if (b->buffers[p->in].place != PLACE_SHARD || map->n_parts != 1 || map->cols != p->in_cols) {
        char reader[256], writer[256];

        builder_fail(b, "%s is %s and wants its input cut into columns, but %s leaves it whole: "
            "use rowwise_split_input, or cut both", place_who(b, module, reader), p->strategy->name,
            place_who(b, b->buffers[p->in].writer, writer));
        return (struct range){0};
    }
    return (struct range){
        .first = map->parts[0].first[b->rank], .count = map->parts[0].count[b->rank]};
}

/* Behind the sum, or every rank would add it. */
static void add_bias(struct product *p)
{
    struct builder *b = p->b;

    place_whole(b, p->layer, plan_name(&p->parts[0]), p->out);
    builder_op(b, (struct op){.kind = OP_ADD_BIAS, .layer = p->layer, .in = {p->out, -1},
        .out = p->out, .weight = bias_vector(p, (struct range){.count = p->parts[0].rows})});
}

static int row_parallel(struct product *p)
{
    struct builder *b = p->b;
    struct range cols = {0};
    uint32_t rows = p->parts[0].rows;
    char who[256];

    if (p->n_parts != 1)
        builder_fail(b, "%s is %s: it is one product with %s, which is cut by outputs (colwise) or "
            "not at all", place_who(b, plan_name(&p->parts[0]), who), p->strategy->name,
            plan_name(&p->parts[1]));
    cols = own_inputs(p);
    if (b->status != STATUS_OK)
        return -1;
    p->out = builder_buffer(b, p->name, extent_of(b, p->in), rows);
    multiply(p, NULL, cols, false);
    place_set(b, p->out, plan_name(&p->parts[0]), PLACE_PARTIAL, rows, NULL);
    if (p->bias->has && !p->bias->skip)
        add_bias(p);
    skip_bias(p, (struct range){.count = rows});
    place_as(b, p->layer, p->strategy, plan_name(&p->parts[0]), p->out);
    return p->out;
}

int linear_layer(struct builder *b, int layer, const char *name, const struct linear_part *parts,
    int n_parts, uint32_t in_cols, struct linear_bias *bias, int in)
{
    struct linear_bias none = {0};
    struct product p = {.b = b, .layer = layer, .name = name, .parts = parts, .n_parts = n_parts,
        .in_cols = in_cols, .bias = bias != NULL ? bias : &none, .in = in};

    choose_strategy(&p);
    if (b->status != STATUS_OK)
        return -1;
    if (b->size == 1)
        return replicated(&p);
    switch (p.strategy->cut) {
    case CUT_NONE: return replicated(&p);
    case CUT_ROWS:
        p.out = column_parallel(&p);
        return p.strategy->out == OUT_GATHER ? place_gather(b, layer, "gathered", p.out) : p.out;
    case CUT_COLS: return row_parallel(&p);
    }
    return -1;
}

int linear_cut(struct builder *b, int layer, const char *name, const struct linear_part *part,
    uint32_t in_cols, int in)
{
    struct linear_bias none = {0};
    struct product p = {.b = b, .layer = layer, .name = name, .parts = part, .n_parts = 1,
        .in_cols = in_cols, .bias = &none, .in = in};

    choose_strategy(&p);
    return b->status == STATUS_OK ? column_parallel(&p) : -1;
}
