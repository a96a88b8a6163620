/* blocks.c - a stack of free block numbers: constant time, and warm blocks come back first. */
#include "engine/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum status blocks_init(struct blocks *b, uint32_t n_blocks)
{
    uint32_t *list = malloc((size_t)n_blocks * sizeof(*list));

    if (list == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a list of %u KV blocks", n_blocks);
    for (uint32_t i = 0; i < n_blocks; i++)
        list[i] = n_blocks - 1 - i;
    *b = (struct blocks){.free = list, .n_free = n_blocks, .n_blocks = n_blocks};
    return STATUS_OK;
}

void blocks_free(struct blocks *b)
{
    free(b->free);
    *b = (struct blocks){0};
}

enum status blocks_take(struct blocks *b, uint32_t n, uint32_t *taken)
{
    if (n > b->n_free)
        return STATUS_AGAIN;
    for (uint32_t i = 0; i < n; i++)
        taken[i] = b->free[--b->n_free];
    return STATUS_OK;
}

void blocks_give(struct blocks *b, const uint32_t *taken, uint32_t n)
{
    for (uint32_t i = n; i > 0; i--)
        b->free[b->n_free++] = taken[i - 1];
}
