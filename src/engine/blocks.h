/* blocks.h - the KV cache's blocks: who uses them, and what those hold that nobody uses.
 *
 * Purpose:  a block of block_size positions is used by any number of sequences, counted. A full
 *           block may be kept: it is found again by the ids it holds and by the block before it,
 *           so a sequence that begins alike shares it. A kept block that nobody uses stays until
 *           its place is needed: the one used longest ago goes first, but none before a block that
 *           continues it.
 * Exact:    a kept block has a content number, drawn once, never again. A child names its parent's,
 *           and its ids are compared, so equal hashes alone find nothing.
 * Numbers:  of the device's tier (quern/plan.h), where a number is the index.
 * Owns:     all of it; one owner, no locks; memory is taken in blocks_open() alone, and every call
 *           takes constant time (and block_size). */
#ifndef QUERN_ENGINE_BLOCKS_H
#define QUERN_ENGINE_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/plan.h"

struct blocks;

/* What the blocks of a sequence hold up to some block's end. All zero: nothing, the beginning. */
struct content {
    uint64_t number; /* 0: the beginning */
    uint32_t block;
    uint64_t step;   /* that computes it */
};

/* n_blocks <= BLOCK_MOST. NOMEM (logged). */
enum status blocks_open(uint32_t n_blocks, uint32_t block_size, struct blocks **out);
void blocks_close(struct blocks *b);

/* That can be taken: used by nobody, kept or not. */
uint32_t blocks_available(const struct blocks *b);

/* For one user; false when none is available. What it held is forgotten. */
bool block_take(struct blocks *b, uint32_t *block);

/* One more user, one less. */
void block_share(struct blocks *b, uint32_t block);
void block_give(struct blocks *b, uint32_t block);

/* Of ids[block_size] behind what has the hash `before` (0: the beginning). */
uint64_t block_hash(const struct blocks *b, uint64_t before, const int32_t *ids);

/* The content `ids`, whose hash is `hash`, behind `before`. False: not kept. */
bool block_find(const struct blocks *b, const struct content *before, uint64_t hash,
    const int32_t *ids, struct content *found);

/* `block`, in use, holds ids[block_size] behind `before` once `step` is done: keeps it, unless
 * another block with the same is kept. *at becomes what is kept. False: `before` is kept no longer,
 * and *at is left. */
bool block_keep(struct blocks *b, uint32_t block, const struct content *before, uint64_t hash,
    const int32_t *ids, uint64_t step, struct content *at);

/* It is not to be found any more. Not kept: no effect. */
void block_forget(struct blocks *b, uint32_t block);

#endif
