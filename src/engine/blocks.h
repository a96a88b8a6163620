/* blocks.h - which KV blocks are free.
 *
 * Block numbers only; the memory is the backend's. One owner (the leader's
 * scheduler), no locks. Blocks are handed out lowest-recently-freed last, so
 * that a small load touches little memory. */
#ifndef QUERN_ENGINE_BLOCKS_H
#define QUERN_ENGINE_BLOCKS_H

#include <stdint.h>

#include "quern/status.h"

struct blocks {
    uint32_t *free; /* a stack: the top is handed out next */
    uint32_t n_free, n_blocks;
};

enum status blocks_init(struct blocks *b, uint32_t n_blocks);
void blocks_free(struct blocks *b);

/* OK and taken[0 .. n) filled, or AGAIN and nothing taken. */
enum status blocks_take(struct blocks *b, uint32_t n, uint32_t *taken);
void blocks_give(struct blocks *b, const uint32_t *taken, uint32_t n);

#endif
