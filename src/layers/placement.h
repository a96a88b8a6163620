/* placement.h - what a buffer is, what a module wants, and the operation in between.
 *
 * Partial  -> Replicate: all-reduce       Sequence  -> Replicate: gather rows
 * Partial  -> Sequence:  reduce-scatter   Replicate -> Sequence:  nothing moves
 * Shard    -> Replicate: gather columns, only where a strategy asks for it
 * Replicate -> Shard:    local columns,  only where a strategy asks for it
 * Everything else is two neighbours that do not fit together: an error that
 * names both modules and the lines of the plan that placed them. */
#ifndef QUERN_LAYERS_PLACEMENT_H
#define QUERN_LAYERS_PLACEMENT_H

#include "layers/layers.h"

/* After an operation that wrote `buffer` (map: PLACE_SHARD only). */
void place_set(struct builder *b, int buffer, const char *writer, enum place place, uint32_t cols,
    struct column_map *map);

/* After an operation that made `to` of `from`, row by row: it is placed as the first part of `from`
 * is (q of q, k, v; gate of gate, up), which has `cols` columns over all ranks. */
void place_part(struct builder *b, int from, int to, uint32_t cols);

/* Makes `buffer` Replicate, or Sequence, in place, for `module`. */
void place_whole(struct builder *b, int layer, const char *module, int buffer);
void place_sequence(struct builder *b, int layer, const char *module, int buffer);
/* Sequence -> Replicate; any other placement stays. */
void place_all_rows(struct builder *b, int layer, const char *module, int buffer);

/* As the strategy leaves its output: OUT_REPLICATE and OUT_SEQUENCE convert at once, the others
 * leave it to whoever reads the buffer. */
void place_as(struct builder *b, int layer, const struct strategy *strategy, const char *module,
    int buffer);
/* The same at the end of a container of modules, where the plan names it. */
void place_module(struct builder *b, int layer, const char *module, int buffer);

/* Shard -> Replicate in another buffer, called `name`, which is returned. */
int place_gather(struct builder *b, int layer, const char *name, int buffer);
/* Replicate -> Shard in another buffer, columns as in `map`. */
int place_split(struct builder *b, int layer, int buffer, struct column_map *map);

/* "o_proj (rowwise, line 5 of plan.json)": for messages, in text[256]. */
const char *place_who(const struct builder *b, const char *module, char text[256]);

/* An empty map that lives as long as the builder; NULL after a failure. */
struct column_map *place_map(struct builder *b);

/* What `rank` has of `total`, cut at multiples of `unit`: the strategy's own range, or an even
 * one. It fails, naming `module`, where that is nothing. */
void place_range(struct builder *b, const char *module, const struct strategy *strategy,
    uint32_t total, uint32_t unit, int rank, uint32_t *first, uint32_t *count);

/* A map of one part: `cols` cut into a range per rank by `strategy` (NULL: evenly). */
struct column_map *place_even_map(struct builder *b, const char *module,
    const struct strategy *strategy, uint32_t cols, uint32_t unit);

/* Of all maps so far, each with every rank's columns: the same on all ranks, or they disagree about
 * who has what. */
uint64_t place_hash(const struct builder *b);

/* With the builder. */
void place_free_maps(struct builder *b);

#endif
