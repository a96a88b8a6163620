/* blocks.c - a list of empty blocks, a list of kept ones, a table of hashes.
 *
 * The list of kept blocks that nobody uses is in order of their last use. Users give their blocks
 * back from the end to the beginning, so a block that continues another stands before it. Where
 * that is not so (two computed the same, and one's copy was kept), the block that has children is
 * moved to the young end when its turn comes: no chain loses its beginning. */
#include "engine/blocks.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/list.h"
#include "quern/log.h"

enum { NONE = UINT32_MAX };

struct block {
    struct list_node place; /* used by nobody: in `empty` or `kept` */
    uint32_t users, n_children;
    uint32_t parent;         /* whose number was parent_number */
    uint32_t next;           /* in its bucket */
    uint64_t number;         /* its content's; 0: not kept */
    uint64_t parent_number, hash, step;
};

struct blocks {
    struct block *blocks;    /* [n_blocks] */
    int32_t *ids;            /* [n_blocks, block_size], of kept ones */
    uint32_t *buckets;       /* [mask + 1]; NONE: empty */
    uint32_t n_blocks, block_size, mask, n_available;
    struct list_node empty, kept;
    uint64_t numbers;        /* drawn so far */
};

enum status blocks_open(uint32_t n_blocks, uint32_t block_size, struct blocks **out)
{
    struct blocks *b = calloc(1, sizeof(*b));
    uint32_t n_buckets = 16;

    while (n_buckets < n_blocks && n_buckets < 1u << 31)
        n_buckets *= 2;
    if (b == NULL)
        goto err;
    b->blocks = calloc(n_blocks, sizeof(*b->blocks));
    b->ids = malloc((size_t)n_blocks * block_size * sizeof(*b->ids));
    b->buckets = malloc(n_buckets * sizeof(*b->buckets));
    if (b->blocks == NULL || b->ids == NULL || b->buckets == NULL)
        goto err;
    memset(b->buckets, 0xff, n_buckets * sizeof(*b->buckets));
    b->mask = n_buckets - 1;
    b->n_blocks = b->n_available = n_blocks;
    b->block_size = block_size;
    list_init(&b->empty);
    list_init(&b->kept);
    for (uint32_t i = 0; i < n_blocks; i++)
        list_append(&b->empty, &b->blocks[i].place);
    *out = b;
    return STATUS_OK;
err:
    blocks_close(b);
    return log_fail(STATUS_NOMEM, "no memory for a list of %u KV blocks", n_blocks);
}

void blocks_close(struct blocks *b)
{
    if (b == NULL)
        return;
    free(b->blocks);
    free(b->ids);
    free(b->buckets);
    free(b);
}

uint32_t blocks_available(const struct blocks *b)
{
    return b->n_available;
}

/* Keeping --------------------------------------------------------------------------------- */

static int32_t *ids_of(const struct blocks *b, uint32_t block)
{
    return b->ids + (size_t)block * b->block_size;
}

uint64_t block_hash(const struct blocks *b, uint64_t before, const int32_t *ids)
{
    return XXH64(ids, b->block_size * sizeof(*ids), before);
}

static bool is_kept(const struct blocks *b, const struct content *c)
{
    return c->number == 0 || b->blocks[c->block].number == c->number;
}

bool block_find(const struct blocks *b, const struct content *before, uint64_t hash,
    const int32_t *ids, struct content *found)
{
    for (uint32_t i = b->buckets[hash & b->mask]; i != NONE; i = b->blocks[i].next) {
        const struct block *k = &b->blocks[i];

        if (k->hash == hash && k->parent_number == before->number &&
            memcmp(ids_of(b, i), ids, b->block_size * sizeof(*ids)) == 0) {
            *found = (struct content){.number = k->number, .block = i, .step = k->step};
            return true;
        }
    }
    return false;
}

bool block_keep(struct blocks *b, uint32_t block, const struct content *before, uint64_t hash,
    const int32_t *ids, uint64_t step, struct content *at)
{
    struct block *k = &b->blocks[block];

    if (!is_kept(b, before))
        return false;
    if (block_find(b, before, hash, ids, at))
        return true;
    block_forget(b, block); /* it held something else: there is none such, but then none is found */
    k->number = ++b->numbers;
    k->hash = hash;
    k->step = step;
    k->parent = before->block;
    k->parent_number = before->number;
    if (before->number != 0)
        b->blocks[before->block].n_children++;
    memcpy(ids_of(b, block), ids, b->block_size * sizeof(*ids));
    k->next = b->buckets[hash & b->mask];
    b->buckets[hash & b->mask] = block;
    *at = (struct content){.number = k->number, .block = block, .step = step};
    return true;
}

void block_forget(struct blocks *b, uint32_t block)
{
    struct block *k = &b->blocks[block];
    uint32_t *at = &b->buckets[k->hash & b->mask];

    if (k->number == 0)
        return;
    while (*at != block)
        at = &b->blocks[*at].next;
    *at = k->next;
    if (k->parent_number != 0 && b->blocks[k->parent].number == k->parent_number)
        b->blocks[k->parent].n_children--;
    k->number = 0;
    k->n_children = 0; /* they are found by nobody now, and go in their turn */
    if (k->users == 0) {
        list_remove(&k->place);
        list_prepend(&b->empty, &k->place);
    }
}

/* Using ----------------------------------------------------------------------------------- */

/* The kept block that was used longest ago and that no other continues; after a whole round the
 * oldest, for all are continued by blocks in use. */
static struct block *oldest_leaf(struct blocks *b)
{
    struct block *first = NULL, *k;

    while ((k = LIST_OF(b->kept.next, struct block, place))->n_children > 0 && k != first) {
        if (first == NULL)
            first = k;
        list_remove(&k->place);
        list_append(&b->kept, &k->place);
    }
    return k;
}

bool block_take(struct blocks *b, uint32_t *block)
{
    struct block *k;

    if (b->n_available == 0)
        return false;
    if (list_empty(&b->empty))
        block_forget(b, (uint32_t)(oldest_leaf(b) - b->blocks));
    k = LIST_OF(b->empty.next, struct block, place);
    list_remove(&k->place);
    k->users = 1;
    b->n_available--;
    *block = block_number(BLOCK_TIER_DEVICE, (uint32_t)(k - b->blocks));
    return true;
}

void block_share(struct blocks *b, uint32_t block)
{
    struct block *k = &b->blocks[block];

    if (k->users++ > 0)
        return;
    list_remove(&k->place);
    b->n_available--;
}

void block_give(struct blocks *b, uint32_t block)
{
    struct block *k = &b->blocks[block];

    if (--k->users > 0)
        return;
    if (k->number != 0)
        list_append(&b->kept, &k->place);
    else
        list_prepend(&b->empty, &k->place);
    b->n_available++;
}
