/* vocabulary.c - the embedding table and the head: one layout, so that tied weights are one.
 *
 * Both are cut by vocabulary rows as a rule. The embedding of an id that
 * another rank owns is zero here, and the sum over ranks makes it whole. Logits
 * stay on their rank: sampling works on shards. */
#include <stdio.h>
#include <string.h>

#include "layers/layers.h"
#include "layers/placement.h"

enum { VOCAB_UNIT = 16 };

/* What the plan calls the table: a checkpoint may have it as lm_head.weight alone. */
static const char embed_tokens[] = "model.embed_tokens";

static const struct weight *table_weight(struct builder *b, const char *module, uint32_t vocab,
    uint32_t hidden, struct range rows, struct range cols, const struct strategy *strategy)
{
    struct weight_part part = {.module = module, .all_rows = vocab, .all_cols = hidden,
        .row = rows.first, .rows = rows.count};

    return builder_matrix(b,
        &(struct weight_slice){
            .parts = &part, .n_parts = 1, .col = cols.first, .cols = cols.count},
        strategy);
}

static struct range own_range(const struct builder *b, const struct column_map *map)
{
    if (map == NULL)
        return (struct range){0};
    return (struct range){
        .first = map->parts[0].first[b->rank], .count = map->parts[0].count[b->rank]};
}

static int embed(struct builder *b, uint32_t hidden, const struct weight *table,
    uint32_t first_id, uint32_t cols, enum place place, struct column_map *map)
{
    int out = builder_buffer(b, place == PLACE_SHARD ? "lanes" : "x", EXTENT_TOKENS, cols);

    builder_op(b, (struct op){.kind = OP_EMBED, .layer = -1, .in = {-1, -1}, .out = out,
        .weight = table, .first_id = first_id});
    place_set(b, out, embed_tokens, place, hidden, map);
    return out;
}

int embedding_layer(struct builder *b, const char *module, uint32_t vocab, uint32_t hidden,
    struct embedding *own)
{
    const struct strategy *strategy = builder_strategy(b, embed_tokens, KIND_EMBEDDING);
    struct range rows = {.count = vocab}, cols = {.count = hidden};
    struct column_map *map = NULL;
    enum place place = PLACE_REPLICATE;
    int out;

    *own = (struct embedding){0};
    if (strategy == NULL)
        return -1;
    if (b->size > 1 && strategy->cut == CUT_ROWS) {
        own->map = place_even_map(b, module, strategy, vocab, VOCAB_UNIT);
        rows = own_range(b, own->map);
        place = PLACE_PARTIAL;
    } else if (b->size > 1 && strategy->cut == CUT_COLS) {
        map = place_even_map(b, module, strategy, hidden, VOCAB_UNIT);
        cols = own_range(b, map);
        place = PLACE_SHARD;
    }
    own->table = table_weight(b, module, vocab, hidden, rows, cols, strategy);
    if (place != PLACE_SHARD)
        own->rows = rows;
    out = embed(b, hidden, own->table, rows.first, cols.count, place, map);
    if (place == PLACE_SHARD)
        out = place_gather(b, -1, "x", out); /* the residual stream: no other gather's buffer */
    place_as(b, -1, strategy, embed_tokens, out);
    return out;
}

/* Logits as shards of the vocabulary, however the head is placed. */
static int shard_logits(struct builder *b, const char *as, int logits, uint32_t vocab)
{
    if (b->status != STATUS_OK || b->size == 1 || b->buffers[logits].place == PLACE_SHARD)
        return logits;
    place_whole(b, -1, as, logits);
    return place_split(b, -1, logits, place_even_map(b, as, NULL, vocab, VOCAB_UNIT));
}

static void set_vocabulary(struct builder *b, int logits, uint32_t vocab)
{
    struct program_shape *s = &b->program->shape;
    const struct column_map *map;

    if (b->status != STATUS_OK)
        return;
    map = b->buffers[logits].place == PLACE_SHARD ? b->buffers[logits].map : NULL;
    s->vocab_first = map != NULL ? map->parts[0].first[b->rank] : 0;
    s->vocab_rows = map != NULL ? map->parts[0].count[b->rank] : vocab;
    b->vocab_longest = s->vocab_rows;
    for (int r = 0; map != NULL && r < b->size; r++)
        if (map->parts[0].count[r] > b->vocab_longest)
            b->vocab_longest = map->parts[0].count[r];
}

/* The tied table as it lies, where the head is cut as the embedding was: on all ranks, so that
 * all of them have the same weights. */
static bool shares_table(struct builder *b, const struct strategy *strategy,
    const struct embedding *tied, uint32_t vocab)
{
    const struct column_map *map = NULL;

    if (tied == NULL || tied->rows.count == 0)
        return false;
    if (b->size > 1 && strategy->cut == CUT_COLS)
        return false;
    if (b->size > 1 && strategy->cut == CUT_ROWS)
        map = place_even_map(b, "lm_head", strategy, vocab, VOCAB_UNIT);
    if (map == NULL || tied->map == NULL)
        return map == tied->map;
    return memcmp(map, tied->map, sizeof(*map)) == 0;
}

static int tied_logits(struct builder *b, const struct strategy *strategy,
    const struct embedding *tied, uint32_t vocab, int picked)
{
    bool cut = b->size > 1 && strategy->cut == CUT_ROWS;
    int out = builder_buffer(b, "logits", EXTENT_OUTPUTS, tied->rows.count);

    builder_op(b, (struct op){.kind = OP_LINEAR, .layer = -1, .in = {picked, -1}, .out = out,
        .weight = tied->table});
    place_set(b, out, "lm_head", cut ? PLACE_SHARD : PLACE_REPLICATE, vocab,
        cut ? tied->map : NULL); /* the same: shares_table() has compared them */
    return out;
}

/* Sampling needs no whole logits: a head that would gather them leaves them cut. */
static int own_logits(struct builder *b, const struct strategy *strategy, const char *as,
    const char *module, uint32_t vocab, uint32_t hidden, int picked)
{
    const struct linear_part part = {
        .module = module, .as = as, .rows = vocab, .unit = VOCAB_UNIT};

    if (b->size > 1 && strategy->cut == CUT_ROWS && strategy->out == OUT_GATHER)
        return linear_cut(b, -1, "logits", &part, hidden, picked);
    return linear_layer(b, -1, "logits", &part, 1, hidden, NULL, picked);
}

void head_layer(struct builder *b, const char *as, const char *module, uint32_t vocab,
    uint32_t hidden, const struct embedding *tied, int in)
{
    const struct strategy *strategy = builder_strategy(b, as, KIND_LINEAR);
    int picked, logits;

    place_whole(b, -1, as, in);
    picked = builder_buffer(b, "picked", EXTENT_OUTPUTS, hidden);
    builder_op(b, (struct op){.kind = OP_PICK, .layer = -1, .in = {in, -1}, .out = picked});
    if (b->status == STATUS_OK)
        place_set(b, picked, b->buffers[in].writer, PLACE_REPLICATE, hidden, NULL);
    if (b->status != STATUS_OK)
        return;
    if (shares_table(b, strategy, tied, vocab))
        logits = tied_logits(b, strategy, tied, vocab, picked);
    else
        logits = own_logits(b, strategy, as, module, vocab, hidden, picked);
    logits = shard_logits(b, as, logits, vocab);
    set_vocabulary(b, logits, vocab);
    builder_op(b, (struct op){.kind = OP_SAMPLE, .layer = -1, .in = {logits, picked},
        .out = -1});
}
