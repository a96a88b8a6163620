/* broadcast_dict.h - named tensors from one rank to all.
 *
 * Names, element types and shapes go through shared memory (`host`), so that
 * receivers can make room; the payload then goes through the group's channel
 * (`channel`), which for tensors on a device is another one and on the CPU the same.
 *
 * Ownership: the root keeps its dict; each receiver owns what it got and frees
 * it with dict_free(). Blocking and death: as comm.h says of its one-thread
 * calls. Refusals (too many, a bad shape, no memory on some rank) are the same
 * on all ranks, before any payload is sent, and leave the group usable. */
#ifndef QUERN_PARALLEL_BROADCAST_DICT_H
#define QUERN_PARALLEL_BROADCAST_DICT_H

#include <stdint.h>

#include "quern/comm.h"
#include "quern/dtype.h"

enum { DICT_NAME_BYTES = 64, DICT_MAX_DIMS = 6, DICT_MAX_ITEMS = 4096 };

struct dict_item {
    char name[DICT_NAME_BYTES]; /* ends with a zero byte */
    uint32_t dtype;             /* enum dtype */
    uint32_t n_dims;
    uint64_t shape[DICT_MAX_DIMS];
    void *data; /* row-major; 16-byte aligned where received */
};

struct dict {
    uint32_t n;
    struct dict_item *items;
};

/* Bytes of an item's data; SIZE_MAX for a type or shape that cannot be. */
size_t dict_item_bytes(const struct dict_item *item);

/* One thread of every rank. On place `root`, *d is read; elsewhere it is written, and only on
 * success. host or channel NULL: alone, nothing is done. INVALID, NOMEM, DEAD, TIMEOUT. */
enum status broadcast_dict(struct comm *host, struct comm *channel, int root, struct dict *d);

/* What broadcast_dict() made. A zeroed dict is ignored. */
void dict_free(struct dict *d);

#endif
