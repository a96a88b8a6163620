/* coll_shm.h - collectives over shared memory, for ranks on one machine's CPU.
 *
 * `shm_oneshot`: every rank writes its part into its own region of the
 * symmetric heap, raises a flag, waits for its peers' flags and reads theirs.
 * One barrier a call: two buffers alternate, so a rank that writes call e + 2
 * knows from the flags of e + 1 that everyone has read e. Thread t of a rank
 * only meets the threads t of the others.
 *
 * Memory: the symmetric heap's, laid out alike on every rank. Blocking and
 * death: as comm.h says; the abort word is the group's. */
#ifndef QUERN_PARALLEL_COLL_SHM_H
#define QUERN_PARALLEL_COLL_SHM_H

#include <stdatomic.h>
#include <stdint.h>

#include "ipc/symheap_shm.h"
#include "quern/comm.h"

struct coll_shm_options {
    struct symheap *heap;       /* outlives the comm */
    _Atomic uint32_t *abort_word;
    int rank, size;
    int threads;                /* of each rank: the same on all */
    size_t reduce_floats;       /* the largest all_reduce */
    size_t gather_bytes;        /* the largest rank's part in all_gather and gather_rows */
    uint64_t deadline_ns;       /* how long a call may wait for its peers */
    /* dst[i] = +0.0 + src[0][i] + ...: the backend's row (kernels). */
    void (*sum_ranks)(float *dst, const float *const *src, int ranks, size_t n);
};

/* Bytes of a rank's region that coll_shm_open() takes. */
size_t coll_shm_heap_bytes(const struct coll_shm_options *o);

/* Every rank, with the same sizes, in the same order of allocations on the heap. */
enum status coll_shm_open(const struct coll_shm_options *o, struct comm **out);
void coll_shm_close(struct comm *c);

#endif
