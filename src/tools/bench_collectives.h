/* bench_collectives.h - forked ranks that time every way to reduce, for quern bench allreduce.
 *
 * Memory:   a segment with the group's abort word, the figures and the heap.
 * Blocking: for as long as the measuring takes; each wait has a deadline.
 * Death:    a rank that fails sets the abort word; ranks die with this process. */
#ifndef QUERN_TOOLS_BENCH_COLLECTIVES_H
#define QUERN_TOOLS_BENCH_COLLECTIVES_H

#include <stddef.h>
#include <stdint.h>

#include "parallel/choose.h"

enum {
    BENCH_LEAST_BYTES = 1 << 10,
    BENCH_REDUCE_SIZES = 13, /* up to 4 MiB */
    BENCH_NORM_COLS = 1024,  /* of the fused ways, where a size is that long */
    BENCH_MOST_EFFORT = 1000,
};

/* Reduce by each algorithm and by the dispatcher; the same with residual and norm. */
enum bench_way {
    BENCH_REDUCE,                                /* + index of coll_algorithms */
    BENCH_AUTO = BENCH_REDUCE + COLL_ALGORITHMS, /* the dispatcher */
    BENCH_UNFUSED,                               /* the dispatcher's reduce, then the norm's row */
    BENCH_FUSED,                                 /* + index of coll_algorithms */
    BENCH_FUSED_AUTO = BENCH_FUSED + COLL_ALGORITHMS,
    BENCH_WAYS,
};

struct bench_reduce {
    double us[BENCH_WAYS]; /* a call, the median of all rounds; 0: cannot serve the size */
    double copy_us; /* a memcpy of so many bytes in a rank's own memory, the best round */
    double peer_us; /* reading so many bytes that another core has just written, the best round */
};

struct bench_group {
    int ranks, cores; /* cores: that this process may use */
    double round_trip_us; /* of a flag between two ranks */
    struct choice choice;
    struct bench_reduce sizes[BENCH_REDUCE_SIZES];
};

static inline size_t bench_reduce_bytes(int size)
{
    return (size_t)BENCH_LEAST_BYTES << size;
}

/* Measures a group of `ranks` ranks (2 to COMM_MAX_RANKS), one thread each. `effort`: rounds, 1 to
 * BENCH_MOST_EFFORT, in which each way has a batch, at each size. IO, NOMEM, TIMEOUT, INVALID
 * (QUERN_COLL). */
enum status bench_group_measure(int ranks, int effort, struct bench_group *out);

#endif
