/* symheap_shm.h - symmetric heap over one segment: the same offset names the
 * same buffer in every rank's region.
 *
 * Memory:   the segment's; `struct symheap` is local and owns nothing. Regions
 *           are of one size and start on pages, so that each rank can touch its
 *           own first (NUMA).
 * Agreement: nothing is sent. Every rank makes the same allocations in the same
 *           order; symheap_signature() lets them check that they did (ranks
 *           compare it at a rendezvous).
 * Blocking: never. Waiting for a peer's data: flag.h, flags lie in the heap.
 * Death:    see flag.h; the heap of a dead group goes with its segment. */
#ifndef IPC_SYMHEAP_SHM_H
#define IPC_SYMHEAP_SHM_H

#include <stddef.h>
#include <stdint.h>

#include "quern/flag.h"
#include "quern/status.h"

enum { SYMHEAP_PAGE = 4096 };

struct symheap {
    unsigned char *base;
    size_t region_bytes; /* per rank, whole pages */
    uint32_t ranks;
    size_t used;        /* of each region */
    uint64_t signature; /* of the allocations so far */
};

/* Bytes for `ranks` regions of at least `region_bytes`; 0 when the numbers are
 * impossible. */
size_t symheap_bytes(uint32_t ranks, size_t region_bytes);

/* A heap in zeroed memory at `mem` (page aligned), of which `available` bytes
 * may be used. INVALID when it does not fit. */
enum status symheap_attach(
    void *mem, size_t available, uint32_t ranks, size_t region_bytes, struct symheap *out);

/* `bytes` at `align` (a power of two up to 4096) in every rank's region. Memory
 * is zero at first and lives as long as the heap. NOMEM names both sizes;
 * INVALID for a bad alignment. */
enum status symheap_alloc(struct symheap *h, size_t bytes, size_t align, size_t *offset);

/* `offset` in the region of `rank` (0 <= rank < ranks, offset from
 * symheap_alloc()); NULL outside. */
void *symheap_at(const struct symheap *h, uint32_t rank, size_t offset);

/* Equal on two ranks iff (but for 2^-64) they allocated alike. */
uint64_t symheap_signature(const struct symheap *h);

#endif
