/* placement.c - conversions between placements, appended where two modules meet. */
#include "layers/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "quern/log.h"

struct kept_map {
    struct kept_map *next;
    struct column_map map;
};

struct column_map *place_map(struct builder *b)
{
    struct kept_map *kept;

    if (b->status != STATUS_OK)
        return NULL;
    kept = calloc(1, sizeof(*kept));
    if (kept == NULL) {
        b->status = log_fail(STATUS_NOMEM, "no memory for a map of columns");
        return NULL;
    }
    kept->next = b->maps;
    b->maps = kept;
    return &kept->map;
}

void place_range(struct builder *b, const char *module, const struct strategy *strategy,
    uint32_t total, uint32_t unit, int rank, uint32_t *first, uint32_t *count)
{
    if (b->status == STATUS_OK)
        b->status = strategy_range(strategy, total, unit, rank, b->size, first, count);
    if (b->status == STATUS_OK && *count == 0)
        builder_fail(b, "%s has %u to cut over %d ranks, which leaves one without any: use at most "
            "%u", module, total, b->size, total);
}

struct column_map *place_even_map(struct builder *b, const char *module,
    const struct strategy *strategy, uint32_t cols, uint32_t unit)
{
    struct column_map *map = place_map(b);

    if (map == NULL)
        return NULL;
    map->n_parts = 1;
    map->cols = cols;
    for (int r = 0; r < b->size; r++)
        place_range(b, module, strategy, cols, unit, r, &map->parts[0].first[r],
            &map->parts[0].count[r]);
    return b->status == STATUS_OK ? map : NULL;
}

void place_set(struct builder *b, int buffer, const char *writer, enum place place, uint32_t cols,
    struct column_map *map)
{
    struct buffer_state *s;

    if (b->status != STATUS_OK)
        return;
    s = &b->buffers[buffer];
    if (s->writer[0] == '\0') /* what the program declares is what the first writer leaves */
        b->program->buffers[buffer].place = place;
    *s = (struct buffer_state){.place = place, .cols = cols, .map = map};
    snprintf(s->writer, sizeof(s->writer), "%s", writer);
}

void place_part(struct builder *b, int from, int to, uint32_t cols)
{
    const struct buffer_state *s;
    struct column_map *map = NULL;
    char writer[MODULE_BYTES];

    if (b->status != STATUS_OK)
        return;
    s = &b->buffers[from];
    if (s->place == PLACE_SHARD && (map = place_map(b)) != NULL) {
        map->n_parts = 1;
        map->cols = cols;
        map->parts[0] = s->map->parts[0];
    }
    memcpy(writer, s->writer, sizeof(writer));
    place_set(b, to, writer, s->place, cols, map);
}

const char *place_who(const struct builder *b, const char *module, char text[256])
{
    int line = tp_plan_line(b->plan, module);

    if (line > 0)
        snprintf(text, 256, "%s (line %d of %s)", module, line, tp_plan_name(b->plan));
    else
        snprintf(text, 256, "%s", module);
    return text;
}

static void do_not_fit(struct builder *b, const char *module, int buffer, const char *wants)
{
    char reader[256], writer[256];

    builder_fail(b, "%s wants its input %s, but %s leaves it %s: choose strategies that fit "
        "together", place_who(b, module, reader), wants,
        place_who(b, b->buffers[buffer].writer, writer), place_name(b->buffers[buffer].place));
}

static void convert(struct builder *b, int layer, enum op_kind kind, int buffer, enum place to)
{
    builder_op(b, (struct op){.kind = kind, .layer = layer, .in = {buffer, -1}, .out = buffer});
    if (b->status == STATUS_OK)
        b->buffers[buffer].place = to;
}

void place_whole(struct builder *b, int layer, const char *module, int buffer)
{
    if (b->status != STATUS_OK)
        return;
    switch (b->buffers[buffer].place) {
    case PLACE_REPLICATE: return;
    case PLACE_PARTIAL: convert(b, layer, OP_ALL_REDUCE, buffer, PLACE_REPLICATE); return;
    case PLACE_SEQUENCE: convert(b, layer, OP_GATHER_ROWS, buffer, PLACE_REPLICATE); return;
    case PLACE_SHARD: do_not_fit(b, module, buffer, "whole"); return;
    }
}

void place_sequence(struct builder *b, int layer, const char *module, int buffer)
{
    if (b->status != STATUS_OK)
        return;
    switch (b->buffers[buffer].place) {
    case PLACE_SEQUENCE: return;
    case PLACE_PARTIAL: convert(b, layer, OP_REDUCE_SCATTER, buffer, PLACE_SEQUENCE); return;
    case PLACE_REPLICATE: convert(b, layer, OP_SLICE_ROWS, buffer, PLACE_SEQUENCE); return;
    case PLACE_SHARD: do_not_fit(b, module, buffer, "cut by rows"); return;
    }
}

void place_all_rows(struct builder *b, int layer, const char *module, int buffer)
{
    if (b->status == STATUS_OK && b->buffers[buffer].place == PLACE_SEQUENCE)
        place_whole(b, layer, module, buffer);
}

void place_as(struct builder *b, int layer, const struct strategy *strategy, const char *module,
    int buffer)
{
    if (b->status != STATUS_OK || b->size == 1)
        return;
    if (strategy->out == OUT_REPLICATE)
        place_whole(b, layer, module, buffer);
    else if (strategy->out == OUT_SEQUENCE)
        place_sequence(b, layer, module, buffer);
}

void place_module(struct builder *b, int layer, const char *module, int buffer)
{
    const struct strategy *strategy = builder_strategy(b, module, KIND_MODULE);

    if (strategy != NULL && tp_plan_line(b->plan, module) > 0)
        place_as(b, layer, strategy, module, buffer);
}

int place_gather(struct builder *b, int layer, const char *name, int buffer)
{
    const struct buffer_spec *spec;
    char writer[MODULE_BYTES];
    struct column_map *map;
    int out;

    if (b->status != STATUS_OK)
        return -1;
    spec = &b->program->buffers[buffer];
    map = b->buffers[buffer].map;
    out = builder_buffer(b, name, spec->rows, map->cols);
    builder_op(b, (struct op){.kind = OP_GATHER_COLS, .layer = layer, .in = {buffer, -1},
        .out = out, .map = map});
    memcpy(writer, b->buffers[buffer].writer, sizeof(writer));
    place_set(b, out, writer, PLACE_REPLICATE, map->cols, NULL);
    return out;
}

int place_split(struct builder *b, int layer, int buffer, struct column_map *map)
{
    char writer[MODULE_BYTES];
    int out;

    if (b->status != STATUS_OK)
        return -1;
    out = builder_buffer(b, "split", b->program->buffers[buffer].rows,
        column_map_own(map, b->rank));
    builder_op(b, (struct op){.kind = OP_SLICE_COLS, .layer = layer, .in = {buffer, -1},
        .out = out, .map = map});
    memcpy(writer, b->buffers[buffer].writer, sizeof(writer));
    place_set(b, out, writer, PLACE_SHARD, map->cols, map);
    return out;
}

uint64_t place_hash(const struct builder *b)
{
    uint64_t hash = 0;

    for (const struct kept_map *kept = b->maps; kept != NULL; kept = kept->next)
        hash = XXH3_64bits_withSeed(&kept->map, sizeof(kept->map), hash); /* no padding; zeroed */
    return hash;
}

void place_free_maps(struct builder *b)
{
    while (b->maps != NULL) {
        struct kept_map *kept = b->maps;

        b->maps = kept->next;
        free(kept);
    }
}
