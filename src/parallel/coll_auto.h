/* coll_auto.h - a group's dispatcher: one comm over all algorithms, choosing by bytes.
 *
 * It opens every algorithm that serves so many ranks, measures them or takes
 * the default table (choose.h), and compares the outcome on all ranks.
 * QUERN_COLL=NAME in the environment forces one: it runs where it can serve,
 * another one elsewhere, which is logged once (info) and counted.
 *
 * Ownership: owns its algorithms' comms. Blocking: opening waits for the other
 * ranks, who open theirs at the same time. Death: as comm.h says. */
#ifndef QUERN_PARALLEL_COLL_AUTO_H
#define QUERN_PARALLEL_COLL_AUTO_H

#include "parallel/choose.h"

/* What ran, by who served it: calls of this rank. Thread 0 writes. */
struct coll_counts {
    uint64_t calls[COLL_OPS][COLL_ALGORITHMS];
};

/* Bytes of a rank's region that coll_auto_open() takes. */
size_t coll_auto_heap_bytes(const struct coll_shm_options *o);

/* Every rank at the same time. measure_ns: how long to measure; 0: the default table. INVALID:
 * QUERN_COLL names no algorithm, or ranks differ. */
enum status coll_auto_open(const struct coll_shm_options *o, uint64_t measure_ns,
    struct comm **out);

/* Logs what ran (debug). NULL is ignored. */
void coll_auto_close(struct comm *c);

const struct coll_counts *coll_auto_counts(const struct comm *c);
const struct choice *coll_auto_choice(const struct comm *c);

/* One of its algorithms, NULL if it cannot serve the group: for measuring. Lent. */
struct comm *coll_auto_algorithm(const struct comm *c, int algorithm);

#endif
