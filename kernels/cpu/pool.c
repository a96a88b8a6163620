/* pool.c - three flags: posted, phase, done.
 *
 * The pool's threads wait at `posted` for jobs and at `phase` for each other;
 * the caller waits at `done`, and sleeps at once: a job takes longer than any
 * spin, and it is the threads that need the cores.
 *
 * The barrier's verdict travels in the phase word itself (bit 0), put there by
 * the last to arrive. A flag read after the barrier would not do: a fast
 * thread could set it for the next barrier before a slow one has read it for
 * this, and one of them would leave the job alone.
 *
 * Edges:
 *   E1 pool_post --posted--> thread_main:     the job exists before its number
 *   E2 arrive --arrived--> the last arriver:  all wrote before the phase moves
 *   E3 last arriver --phase--> the others:    ... and they see it
 *   E4 leave --left--> the last to leave --done--> the caller: results, and the
 *      job's place, which may be used again
 * (where a flag's name stands between arrows, release and acquire are flag.c's). */
#include "kernels/cpu/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/flag.h"
#include "quern/log.h"
#include "quern/spin.h"

enum {
    PHASE_STOP = 1,
    PHASE_STEP = 2,
    ARRIVED_STOP = 1 << 16, /* above the count of threads */
};

struct job {
    pool_work *work;        /* caller writes, before E1 */
    void *context;
    _Atomic uint64_t left;  /* threads count themselves out, in every lap */
};

struct pool {
    struct flag posted;  /* caller writes: jobs ever posted */
    struct flag done;    /* the last thread to leave a job writes: jobs ever done */
    struct flag phase;   /* the last arriver writes */
    _Alignas(64) _Atomic uint32_t arrived; /* at the barrier: count, and who said stop */
    _Alignas(64) struct job jobs[POOL_JOBS];
    int threads;
    bool spins;          /* each thread has a core */
    int started;
    struct worker {
        struct pool *pool;
        pthread_t handle;
        int number, cpu;
    } workers[];
};

/* Waiting ------------------------------------------------------------------------------- */

/* Among the threads: they are at most a few microseconds apart, if each has a core. */
static void wait_for(const struct pool *p, struct flag *f, uint32_t value)
{
    if (p->spins)
        flag_wait(f, value, NULL, SPIN_FOREVER);
    else
        flag_sleep(f, value, NULL, SPIN_FOREVER);
}

/* Threads -------------------------------------------------------------------------------- */

/* `left` is never reset: who would, could be overtaken by the place's next job. */
static void leave_job(struct pool *p, struct job *job, uint32_t number)
{
    uint64_t before = atomic_fetch_add_explicit(&job->left, 1, memory_order_acq_rel); /* E4 */

    if ((before + 1) % (uint64_t)p->threads == 0)
        flag_publish(&p->done, number + 1);
}

static void *thread_main(void *context)
{
    struct worker *w = context;
    struct pool *p = w->pool;

    for (uint32_t next = 0;; next++) {
        struct job *job = &p->jobs[next % POOL_JOBS];

        /* Others may be posted already: the flag may be far ahead of `next`, never behind. */
        wait_for(p, &p->posted, next + 1); /* E1 */
        if (job->work == NULL)
            return NULL;
        job->work(job->context, w->number);
        leave_job(p, job, next);
    }
}

bool pool_barrier(struct pool *p, bool stop)
{
    uint32_t phase, before, all;

    if (p->threads == 1)
        return stop;
    /* relaxed: it cannot move before we arrive, and we saw its last move (E3) */
    phase = atomic_load_explicit(&p->phase.value, memory_order_relaxed);
    before = atomic_fetch_add_explicit(&p->arrived, 1u + (stop ? ARRIVED_STOP : 0u),
        memory_order_acq_rel); /* E2 */
    all = before + 1u + (stop ? ARRIVED_STOP : 0u);
    if (all % ARRIVED_STOP == (uint32_t)p->threads) {
        /* relaxed: all others wait for the phase (E3) before they arrive again */
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        phase = ((phase | PHASE_STOP) ^ PHASE_STOP) + PHASE_STEP;
        phase |= all >= ARRIVED_STOP ? PHASE_STOP : 0;
        flag_publish(&p->phase, phase); /* E3 */
    } else {
        wait_for(p, &p->phase, phase + 1); /* E3 */
        /* relaxed: it stays until we arrive again */
        phase = atomic_load_explicit(&p->phase.value, memory_order_relaxed);
    }
    return (phase & PHASE_STOP) != 0;
}

static void pin(const struct worker *w)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    if (w->cpu < CPU_SETSIZE)
        CPU_SET(w->cpu, &one);
    if (pthread_setaffinity_np(w->handle, sizeof(one), &one) != 0)
        log_warn("thread %d cannot be bound to CPU %d: it runs on any", w->number, w->cpu);
}

static enum status start(struct pool *p, int first_cpu)
{
    char name[24]; /* POOL_MAX_THREADS keeps it below the kernel's 16 */

    for (int i = 0; i < p->threads; i++) {
        struct worker *w = &p->workers[i];
        int error;

        *w = (struct worker){.pool = p, .number = i, .cpu = first_cpu + i};
        error = pthread_create(&w->handle, NULL, thread_main, w);
        if (error == EAGAIN)
            return log_fail(STATUS_NOMEM,
                "cannot start thread %d of %d: %s; use fewer --threads", i, p->threads,
                strerror(error));
        if (error != 0)
            return log_call_failed(error, "clone3", "cannot start thread %d of %d", i, p->threads);
        p->started++;
        snprintf(name, sizeof(name), "quern/%d", i);
        pthread_setname_np(w->handle, name);
        if (first_cpu >= 0)
            pin(w);
    }
    return STATUS_OK;
}

/* The caller ----------------------------------------------------------------------------- */

/* With fewer cores than threads, to spin is to keep the one that is waited for from running. */
static bool has_cores_for(int threads)
{
    cpu_set_t cpus;

    return sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) >= threads;
}

static struct pool *pool_new(int threads)
{
    size_t bytes = sizeof(struct pool) + (size_t)threads * sizeof(struct worker);
    struct pool *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

    if (p != NULL) {
        memset(p, 0, bytes);
        p->threads = threads;
        p->spins = has_cores_for(threads);
        flag_init(&p->posted, FLAG_BETWEEN_THREADS);
        flag_init(&p->done, FLAG_BETWEEN_THREADS);
        flag_init(&p->phase, FLAG_BETWEEN_THREADS);
    }
    return p;
}

enum status pool_open(int threads, int first_cpu, struct pool **out)
{
    sigset_t all, before;
    struct pool *p;
    enum status s;

    if (threads < 1 || threads > POOL_MAX_THREADS)
        return log_fail(STATUS_INVALID, "%d threads: use 1 to %d", threads, POOL_MAX_THREADS);
    p = pool_new(threads);
    if (p == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a pool of %d threads", threads);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* threads inherit it */
    s = start(p, first_cpu);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (s != STATUS_OK) {
        pool_close(p);
        return s;
    }
    *out = p;
    return STATUS_OK;
}

int pool_threads(const struct pool *p)
{
    return p->threads;
}

bool pool_done(struct pool *p, uint32_t ticket)
{
    return (int32_t)(flag_value(&p->done) - ticket) >= 0;
}

void pool_wait(struct pool *p, uint32_t ticket)
{
    flag_sleep(&p->done, ticket, NULL, SPIN_FOREVER); /* E4 */
}

enum status pool_post(struct pool *p, pool_work *work, void *context, uint32_t *ticket)
{
    /* relaxed: posted is ours */
    uint32_t posted = atomic_load_explicit(&p->posted.value, memory_order_relaxed);
    struct job *job = &p->jobs[posted % POOL_JOBS];

    if (posted - flag_value(&p->done) == POOL_JOBS)
        return STATUS_AGAIN;
    job->work = work;
    job->context = context;
    flag_publish(&p->posted, posted + 1); /* E1 */
    *ticket = posted + 1;
    return STATUS_OK;
}

/* A job without work ends the threads. When start() failed, those that are there were
 * never given any other. */
void pool_close(struct pool *p)
{
    uint32_t ticket;

    if (p == NULL)
        return;
    while (pool_post(p, NULL, NULL, &ticket) == STATUS_AGAIN)
        /* relaxed: posted is ours */
        pool_wait(p, atomic_load_explicit(&p->posted.value, memory_order_relaxed));
    for (int i = 0; i < p->started; i++)
        pthread_join(p->workers[i].handle, NULL);
    free(p);
}
