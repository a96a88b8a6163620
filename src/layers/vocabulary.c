/* vocabulary.c - the embedding table and the head: one layout, so that tied weights are one.
 *
 * Both are cut by vocabulary rows. The embedding of an id that another rank
 * owns is zero here, and the sum over ranks makes it whole. Logits stay on
 * their rank: sampling works on shards. */
#include "layers/layers.h"

const struct weight *vocabulary_weight(struct builder *b, const char *module, uint32_t vocab,
    uint32_t hidden)
{
    struct range own = shard_range(vocab, VOCAB_UNIT, b->rank, b->size);
    struct weight_part part = {.module = module, .all_rows = vocab, .all_cols = hidden,
        .row = own.first, .rows = own.count};

    return builder_matrix(b,
        &(struct weight_slice){.parts = &part, .n_parts = 1, .cols = hidden});
}

void embedding_layer(struct builder *b, const struct weight *table, int out)
{
    builder_op(b, (struct op){.kind = OP_EMBED, .layer = -1, .in = {-1, -1}, .out = out,
        .weight = table});
    reduce_partial(b, -1, out);
}

void head_layer(struct builder *b, const struct weight *head, int in, int picked, int logits)
{
    builder_op(b, (struct op){.kind = OP_PICK, .layer = -1, .in = {in, -1}, .out = picked});
    builder_op(b, (struct op){.kind = OP_LINEAR, .layer = -1, .in = {picked, -1}, .out = logits,
        .weight = head});
    builder_op(b, (struct op){.kind = OP_SAMPLE, .layer = -1, .in = {logits, -1}, .out = -1});
}
