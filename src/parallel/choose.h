/* choose.h - which algorithm serves which size: measured by the leader, the same on every rank.
 *
 * Choices made per rank could differ, and then some ranks would wait in one
 * algorithm and some in another for ever. So the leader (place 0) has all ranks
 * run what it wants timed, keeps the times, and publishes one table; every rank
 * compares a hash of what it holds, and of how it was built and configured,
 * with its peers' before the first real call.
 *
 * Sizes are bytes per thread: the measuring is done by one thread of each rank. */
#ifndef QUERN_PARALLEL_CHOOSE_H
#define QUERN_PARALLEL_CHOOSE_H

#include <stdbool.h>
#include <stdint.h>

#include "parallel/coll_shm.h"

enum {
    CHOICE_LEAST = 1024, /* bytes of index 0; each next is twice as large */
    CHOICE_SIZES = 22,
    /* Of measuring. All sizes of a large model over two ranks take some 150 ms. */
    CHOICE_LEAST_NS = 15000000,
    CHOICE_MOST_NS = 250000000,
};

/* What is chosen for: sums and maxima alike, and the fused sum + norm. */
enum choice_kind { CHOICE_REDUCE, CHOICE_FUSED, CHOICE_KINDS };

/* Sent as bytes: no padding, and zero where there is nothing. */
struct choice {
    uint8_t algorithm[CHOICE_KINDS][CHOICE_SIZES]; /* indices of coll_algorithms */
    float us[CHOICE_KINDS][COLL_ALGORITHMS][CHOICE_SIZES]; /* a call took so long; 0: not run */
    uint32_t measured; /* how many sizes were, the least first; 0: the default table */
};

/* The index whose size is nearest to `bytes`. */
int choice_index(size_t bytes);

/* Of n > 0 times, which it sorts. */
float choice_median(float *us, int n);

/* The table that needs no measuring: by ranks and bytes alone. */
void choice_default(const struct coll_shm_options *o, struct choice *out);

/* Takes the fastest algorithm for each size that `us` has times of. One with more meetings must be
 * faster by a twentieth; a size without a time keeps what it has, but for more meetings that paid at
 * a smaller one. */
void choice_take_fastest(struct choice *c);

/* Every rank: measures through `comms` (NULL: cannot serve this group) for about `measure_ns` in
 * all, small sizes first, and gives the leader's table. What that time does not reach is as by
 * default. The comms are aligned for all threads afterwards. */
enum status choice_measure(struct comm *const comms[COLL_ALGORITHMS],
    const struct coll_shm_options *o, uint64_t measure_ns, struct choice *out);

/* Every rank: INVALID (logged, names the rank) where a peer's table or sizes differ from ours. */
enum status choice_agree(struct comm *comm, const struct coll_shm_options *o,
    const struct choice *choice);

#endif
