/* coll_shm.h - collectives over shared memory, for ranks on one machine's CPU: a table.
 *
 * `shm_oneshot`: every rank writes its part into its own region of the symmetric
 * heap, all meet once, each reads everybody's. Does every operation.
 * `shm_twoshot`: every rank sums one range of the elements, all meet, each reads
 * the sums: two meetings, but a rank reads 2n instead of n * ranks. Pays from
 * three ranks and large n.
 * Both do the fused sum + residual + norm (coll_fused.c), and sum each element
 * in rank order from +0.0: which one runs never shows in the bits.
 *
 * Ownership: a comm opened here owns its channels and heap offsets; heap, abort
 * word and functions are lent and outlive it. Blocking and death: as comm.h says. */
#ifndef QUERN_PARALLEL_COLL_SHM_H
#define QUERN_PARALLEL_COLL_SHM_H

#include <stdatomic.h>
#include <stdint.h>

#include "ipc/symheap_shm.h"
#include "quern/comm.h"

enum coll_op {
    COLL_ALL_REDUCE,
    COLL_MAX_REDUCE,
    COLL_REDUCE_SCATTER,
    COLL_ALL_GATHER_ROWS,
    COLL_ALL_GATHER_COLS,
    COLL_FUSED_NORM,
    COLL_ALL_GATHER,
    COLL_GATHER_ROWS,
    COLL_BROADCAST,
    COLL_OPS,
};

/* "all_reduce", "fused_norm", ... */
const char *coll_op_name(enum coll_op op);

struct coll_shm_options {
    struct symheap *heap; /* of the world: a region per rank */
    _Atomic uint32_t *abort_word;
    int rank, size;       /* our place in the group, and how many places */
    const int *ranks;     /* [size] the world rank of each place, copied; NULL: places are ranks */
    int threads;          /* of each rank: the same on all */
    size_t reduce_floats; /* the largest x of an every-thread operation */
    size_t gather_bytes;  /* the largest rank's part in all_gather and gather_rows, but for what
                           * the group tells itself */
    size_t row_floats;    /* the longest row of one rank in all_gather_cols; 0: it is not called */
    size_t norm_cols;     /* columns of fused_all_reduce_norm, to be measured with; 0: any */
    uint64_t deadline_ns; /* how long a call may wait for its peers */

    /* The backend's rows (kernels), so that fused and plain give the same bits.
     * dst[i] = +0.0 + src[0][i] + ...; dst may be one of the sources. */
    void (*sum_ranks)(float *dst, const float *const *src, int ranks, size_t n);
    /* Rows [row0, row1): x += y; out = rms_norm(x) * w. NULL: nothing is fused. */
    void (*add_norm)(float *out, float *x, const float *y, const float *w, float eps,
        uint32_t cols, uint32_t row0, uint32_t row1);
};

struct coll_algorithm {
    const char *name;
    uint32_t ops; /* bit 1 << enum coll_op: what it can do */
    int min_ranks, max_ranks;
    /* The most bytes of x (of a rank's part, in gathers) that it serves; 0: not at all. */
    size_t (*max_bytes)(const struct coll_shm_options *o, enum coll_op op);
    /* Of the two buffers of each of its channels (coll_channel.h); 0, 0: no such channel. */
    void (*buffers)(const struct coll_shm_options *o, size_t every[2], size_t single[2]);
    const struct comm_row *row;
};

/* Ascending in meetings per call: where costs are equal the earlier one is preferred. */
enum { COLL_SHM_ONESHOT, COLL_SHM_TWOSHOT, COLL_ALGORITHMS };
extern const struct coll_algorithm *const coll_algorithms[COLL_ALGORITHMS];

/* OK and its index; INVALID (logged) with the names there are. */
enum status coll_algorithm_find(const char *name, int *index);

/* Bytes of a rank's region that coll_shm_open() takes. */
size_t coll_shm_heap_bytes(const struct coll_algorithm *algorithm,
    const struct coll_shm_options *o);

/* One algorithm's comm. Every rank of the world with the same sizes, in the same order of
 * allocations on the heap. INVALID: so many ranks, or no functions; NOMEM. */
enum status coll_shm_open(const struct coll_algorithm *algorithm,
    const struct coll_shm_options *o, struct comm **out);
void coll_shm_close(struct comm *c);

/* After calls with threads = 1 on a group of several threads, before the first with all: every
 * rank, with no call under way (coll_channel.h). */
void coll_shm_align(struct comm *c);

#endif
