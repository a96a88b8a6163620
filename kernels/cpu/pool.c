/* pool.c - three gates: posted, phase, done.
 *
 * A gate is one word that only moves on, and a count of those asleep on it:
 * whoever waits for it to move looks, yields, sleeps; whoever moves it makes a
 * system call only if someone sleeps. The pool's threads wait at `posted` for
 * jobs and at `phase` for each other; the caller waits at `done`.
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
 *   E5 move / sleep: both sides seq_cst on word and sleepers; either the mover
 *      sees the sleeper or the sleeper (or the kernel, for it) sees the move. */
#include "kernels/cpu/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "quern/log.h"

enum {
    SPINS = 150,  /* pauses: 3 to 7 us */
    YIELDS = 40,  /* about as long when no one else wants the core */
    PHASE_STOP = 1,
    PHASE_STEP = 2,
    ARRIVED_STOP = 1 << 16, /* above the count of threads */
};

struct gate {
    _Alignas(64) _Atomic uint32_t word;
    _Atomic uint32_t sleepers; /* each sleeper writes */
};

struct job {
    pool_work *work;        /* caller writes, before E1 */
    void *context;
    _Atomic uint32_t left;  /* threads count themselves out */
};

struct pool {
    struct gate posted;  /* caller writes: jobs ever posted */
    struct gate done;    /* the last thread to leave a job writes: jobs ever done */
    struct gate phase;   /* the last arriver writes */
    _Alignas(64) _Atomic uint32_t arrived; /* at the barrier: count, and who said stop */
    _Alignas(64) struct job jobs[POOL_JOBS];
    int threads, spins;
    int started;
    struct worker {
        struct pool *pool;
        pthread_t handle;
        int number, cpu;
    } workers[];
};

/* The gate ------------------------------------------------------------------------------- */

static void pause_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

static void futex_sleep(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Sets the word, waking who sleeps. One mover at a time. */
static void gate_move(struct gate *g, uint32_t value)
{
    atomic_store_explicit(&g->word, value, memory_order_seq_cst); /* E1 E3 E4, E5 */
    if (atomic_load_explicit(&g->sleepers, memory_order_seq_cst) != 0) /* E5 */
        futex_wake(&g->word);
}

static uint32_t gate_look(struct gate *g)
{
    return atomic_load_explicit(&g->word, memory_order_acquire); /* E1 E3 E4 */
}

/* Until the word is not `seen`; returns what it is. */
static uint32_t gate_wait(struct gate *g, uint32_t seen, int spins)
{
    uint32_t now = gate_look(g);

    for (int i = 0; now == seen && i < spins; i++) {
        pause_core();
        now = gate_look(g);
    }
    for (int i = 0; now == seen && i < YIELDS; i++) {
        sched_yield();
        now = gate_look(g);
    }
    if (now != seen)
        return now;
    atomic_fetch_add_explicit(&g->sleepers, 1, memory_order_seq_cst); /* E5 */
    while ((now = atomic_load_explicit(&g->word, memory_order_seq_cst)) == seen) /* E5, E1 E3 E4 */
        futex_sleep(&g->word, seen);
    /* relaxed: at worst one wake too many */
    atomic_fetch_sub_explicit(&g->sleepers, 1, memory_order_relaxed);
    return now;
}

/* Threads -------------------------------------------------------------------------------- */

static void leave_job(struct pool *p, struct job *job, uint32_t number)
{
    uint32_t before = atomic_fetch_add_explicit(&job->left, 1, memory_order_acq_rel); /* E4 */

    if (before + 1 != (uint32_t)p->threads)
        return;
    /* relaxed: E4's gate and E1's order it before the place is used again */
    atomic_store_explicit(&job->left, 0, memory_order_relaxed);
    gate_move(&p->done, number + 1);
}

static void *thread_main(void *context)
{
    struct worker *w = context;
    struct pool *p = w->pool;

    for (uint32_t next = 0;; next++) {
        struct job *job = &p->jobs[next % POOL_JOBS];

        /* Others may be posted already: the word may be far ahead of `next`, never behind. */
        gate_wait(&p->posted, next, p->spins);
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
    phase = atomic_load_explicit(&p->phase.word, memory_order_relaxed);
    before = atomic_fetch_add_explicit(&p->arrived, 1u + (stop ? ARRIVED_STOP : 0u),
        memory_order_acq_rel); /* E2 */
    all = before + 1u + (stop ? ARRIVED_STOP : 0u);
    if (all % ARRIVED_STOP == (uint32_t)p->threads) {
        /* relaxed: all others wait for the phase (E3) before they arrive again */
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        phase = ((phase | PHASE_STOP) ^ PHASE_STOP) + PHASE_STEP;
        phase |= all >= ARRIVED_STOP ? PHASE_STOP : 0;
        gate_move(&p->phase, phase);
    } else {
        phase = gate_wait(&p->phase, phase, p->spins);
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
        if (error != 0)
            return log_fail(error == EAGAIN ? STATUS_NOMEM : STATUS_IO,
                "cannot start thread %d of %d: %s; use fewer --threads", i, p->threads,
                strerror(error));
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
static int spins_for(int threads)
{
    cpu_set_t cpus;

    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) < threads)
        return 0;
    return SPINS;
}

static struct pool *pool_new(int threads)
{
    size_t bytes = sizeof(struct pool) + (size_t)threads * sizeof(struct worker);
    struct pool *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

    if (p != NULL) {
        memset(p, 0, bytes);
        p->threads = threads;
        p->spins = spins_for(threads);
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
    return (int32_t)(gate_look(&p->done) - ticket) >= 0;
}

void pool_wait(struct pool *p, uint32_t ticket)
{
    uint32_t done = gate_look(&p->done);

    while ((int32_t)(done - ticket) < 0)
        done = gate_wait(&p->done, done, p->spins);
}

enum status pool_post(struct pool *p, pool_work *work, void *context, uint32_t *ticket)
{
    /* relaxed: posted is ours */
    uint32_t posted = atomic_load_explicit(&p->posted.word, memory_order_relaxed);
    struct job *job = &p->jobs[posted % POOL_JOBS];

    if (posted - gate_look(&p->done) == POOL_JOBS)
        return STATUS_AGAIN;
    job->work = work;
    job->context = context;
    gate_move(&p->posted, posted + 1);
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
        pool_wait(p, atomic_load_explicit(&p->posted.word, memory_order_relaxed));
    for (int i = 0; i < p->started; i++)
        pthread_join(p->workers[i].handle, NULL);
    free(p);
}
