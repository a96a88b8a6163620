/* pool.h - a device's threads: jobs in order, a barrier inside them.
 *
 * Every job is run by every thread, in the order it was posted (SPMD). One
 * caller thread posts and waits; it is not one of the pool's threads.
 *
 * Ownership: the pool owns its threads; a job's context is the poster's and
 *           must stay until pool_done().
 * Blocking: as flag.h says: threads that have a core each look for a moment
 *           before they sleep, the caller sleeps at once. Nothing spins while no
 *           job is there.
 * Death:    a thread never dies by itself. A job must end by itself, so what
 *           it waits for outside the pool needs a deadline. */
#ifndef QUERN_KERNELS_CPU_POOL_H
#define QUERN_KERNELS_CPU_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

enum {
    POOL_JOBS = 16,          /* posted and not done, at most */
    POOL_MAX_THREADS = 1024,
};

struct pool;
typedef void pool_work(void *context, int thread);

/* `threads` threads named quern/0, quern/1, ...; thread i runs on CPU first_cpu + i only,
 * unless first_cpu is -1 (a CPU that cannot be had is a warning). They take no signals.
 * INVALID, NOMEM, IO. */
enum status pool_open(int threads, int first_cpu, struct pool **out);

/* Runs what is posted, ends the threads, frees. NULL is left alone. */
void pool_close(struct pool *p);

int pool_threads(const struct pool *p);

/* Caller. Every thread will call work(context, thread). AGAIN when POOL_JOBS are not done. */
enum status pool_post(struct pool *p, pool_work *work, void *context, uint32_t *ticket);

/* Caller. Whether, or until, every thread has returned from the job; what they wrote is seen. */
bool pool_done(struct pool *p, uint32_t ticket);
void pool_wait(struct pool *p, uint32_t ticket);

/* Inside a job, by every thread: until all are here; what they wrote before is seen by all
 * after. True, for all of them alike, when any came with `stop`. */
bool pool_barrier(struct pool *p, bool stop);

#endif
