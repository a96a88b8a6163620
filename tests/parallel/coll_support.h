/* coll_support.h - ranks that are forked processes, with threads, for the tests of src/parallel;
 * or, where the thread sanitizer shall see them, threads of one process.
 *
 * A body is run by every thread of every rank and returns whether all was well;
 * it must not assert (it runs in a child). Each rank makes its inputs from
 * (rank, call, index), so that any rank can compute for itself what everybody
 * must get, bit for bit. */
#ifndef TESTS_PARALLEL_COLL_SUPPORT_H
#define TESTS_PARALLEL_COLL_SUPPORT_H

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "quern/flag.h"
#include "ipc/symheap_shm.h"
#include "parallel/coll_auto.h"
#include "parallel/coll_shm.h"
#include "tests/ipc/ipc_support.h"

enum {
    MOST_RANKS = 4,
    MOST_THREADS = 2,
    MOST_FLOATS = 5000,
    GATHER_BYTES = 4096,
    ROW_FLOATS = 700,
};

/* To measure every size in, on a busy machine too; it ends when all are measured. */
#define LONG_ENOUGH_NS (20 * UINT64_C(1000000000))

/* A segment with the abort word on its first page and the heap behind it. */
struct world {
    struct segment segment;
    _Atomic uint32_t *abort_word;
    struct coll_shm_options options; /* as for the whole world */
    size_t region;                   /* bytes per rank */
    uint64_t seed;
    uint64_t measure_ns;
    struct symheap heap; /* a rank's own view */
};

/* One rank, as its threads see it. */
struct team {
    struct world *w;
    int rank, size, threads;
    struct comm *comm;                         /* what the rank opened */
    struct comm *algorithms[COLL_ALGORITHMS];  /* if it opened each by itself */
    pthread_barrier_t barrier;
    bool (*body)(struct team *t, int thread);
    atomic_bool wrong;
};

static inline void sum_in_order(float *dst, const float *const *src, int ranks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = 0;

        for (int r = 0; r < ranks; r++)
            sum += src[r][i];
        dst[i] = sum;
    }
}

static inline void add_and_norm(float *out, float *x, const float *y, const float *w, float eps,
    uint32_t cols, uint32_t row0, uint32_t row1)
{
    for (size_t at = (size_t)row0 * cols; at < (size_t)row1 * cols; at += cols) {
        double squares = 0;
        float scale;

        for (uint32_t i = 0; i < cols; i++) {
            x[at + i] += y[at + i];
            squares += (double)x[at + i] * x[at + i];
        }
        scale = (float)(1.0 / sqrt(squares / cols + (double)eps));
        for (uint32_t i = 0; i < cols; i++)
            out[at + i] = x[at + i] * scale * w[i];
    }
}

/* Of many magnitudes, so that another order gives other bits. */
static inline float input(int rank, int call, size_t i)
{
    uint64_t x = (uint64_t)rank << 48 ^ (uint64_t)call << 24 ^ i;
    uint64_t r = test_random(&x);

    return (float)(int32_t)(uint32_t)r * (1.0f / (float)(1u << (r >> 32) % 30));
}

/* What every rank must hold after a sum. */
static inline float wanted_sum(int size, int call, size_t i)
{
    float want = 0;

    for (int r = 0; r < size; r++)
        want += input(r, call, i);
    return want;
}

static inline bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) == 0;
}

static inline void world_open(struct world *w, int size, int threads)
{
    *w = (struct world){.seed = 1};
    w->options = (struct coll_shm_options){.size = size, .threads = threads,
        .reduce_floats = MOST_FLOATS, .gather_bytes = GATHER_BYTES, .row_floats = ROW_FLOATS,
        .deadline_ns = TEST_PATIENCE_NS, .sum_ranks = sum_in_order, .add_norm = add_and_norm};
    /* Each algorithm alone, and all behind a dispatcher. */
    w->region = 2 * coll_auto_heap_bytes(&w->options);
    assert_int_equal(segment_create("test",
        SYMHEAP_PAGE + symheap_bytes((uint32_t)size, w->region), &w->segment), STATUS_OK);
    w->abort_word = w->segment.base;
    w->options.abort_word = w->abort_word;
    /* Waiters must not burn the cores their peers need. */
    flag_spin_ns = size * threads > 2 ? 0 : FLAG_SPIN_NS;
}

static inline bool world_attach(struct world *w, int rank)
{
    if (symheap_attach((char *)w->segment.base + SYMHEAP_PAGE, w->segment.bytes - SYMHEAP_PAGE,
            (uint32_t)w->options.size, w->region, &w->heap) != STATUS_OK)
        return false;
    w->options.heap = &w->heap;
    w->options.rank = rank;
    return true;
}

struct team_member {
    struct team *team;
    int thread;
};

static inline void *team_member_run(void *context)
{
    struct team_member *m = context;

    /* A thread that gives up leaves others in a barrier: the rank ends. */
    if (!m->team->body(m->team, m->thread))
        _exit(2);
    return NULL;
}

static inline bool team_run(struct team *t)
{
    struct team_member members[MOST_THREADS];
    pthread_t threads[MOST_THREADS];

    pthread_barrier_init(&t->barrier, NULL, (unsigned)t->threads);
    for (int i = 0; i < t->threads; i++) {
        members[i] = (struct team_member){t, i};
        if (i > 0 && pthread_create(&threads[i], NULL, team_member_run, &members[i]) != 0)
            return false;
    }
    team_member_run(&members[0]);
    for (int i = 1; i < t->threads; i++)
        pthread_join(threads[i], NULL);
    /* relaxed: joining ordered it */
    return !atomic_load_explicit(&t->wrong, memory_order_relaxed);
}

/* A rank's life with each algorithm by itself (t->algorithms) and a dispatcher (t->comm). */
static inline bool team_live(struct world *w, int rank, bool (*body)(struct team *, int))
{
    struct team t = {.w = w, .rank = rank, .size = w->options.size,
        .threads = w->options.threads, .body = body};
    bool good = world_attach(w, rank);

    for (int a = 0; good && a < COLL_ALGORITHMS; a++)
        good = coll_shm_open(coll_algorithms[a], &w->options, &t.algorithms[a]) == STATUS_OK;
    good = good && coll_auto_open(&w->options, w->measure_ns, &t.comm) == STATUS_OK && team_run(&t);
    coll_auto_close(t.comm);
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        coll_shm_close(t.algorithms[a]);
    return good;
}

static inline pid_t rank_start(struct world *w, int rank, bool (*body)(struct team *, int))
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(team_live(w, rank, body) ? 0 : 1);
    assert_true(pid > 0);
    return pid;
}

/* All ranks of a new world, to their end. */
static inline void world_run(struct world *w, bool (*body)(struct team *, int))
{
    pid_t pids[MOST_RANKS];

    for (int r = 0; r < w->options.size; r++)
        pids[r] = rank_start(w, r, body);
    for (int r = 0; r < w->options.size; r++)
        child_must_succeed(pids[r]);
}

struct rank_thread {
    struct world world; /* its own copy, as a forked rank has one */
    int rank;
    bool (*body)(struct team *, int);
    bool good;
};

static inline void *rank_thread_run(void *context)
{
    struct rank_thread *r = context;

    r->good = team_live(&r->world, r->rank, r->body);
    return NULL;
}

/* All ranks of a new world in this process: what they share is one mapping. A body that is not
 * well ends the process. */
static inline void world_run_in_threads(struct world *w, bool (*body)(struct team *, int))
{
    struct rank_thread ranks[MOST_RANKS];
    pthread_t threads[MOST_RANKS];

    for (int r = 0; r < w->options.size; r++) {
        ranks[r] = (struct rank_thread){.world = *w, .rank = r, .body = body};
        assert_int_equal(pthread_create(&threads[r], NULL, rank_thread_run, &ranks[r]), 0);
    }
    for (int r = 0; r < w->options.size; r++)
        pthread_join(threads[r], NULL);
    for (int r = 0; r < w->options.size; r++)
        assert_true(ranks[r].good);
}

/* Ranks 2 to 4, threads 1 and 2. */
static inline void worlds_run(bool (*body)(struct team *, int), uint64_t seed, uint64_t measure_ns)
{
    for (int size = 2; size <= MOST_RANKS; size++)
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            struct world w;

            world_open(&w, size, threads);
            w.seed = seed;
            w.measure_ns = measure_ns;
            world_run(&w, body);
            segment_close(&w.segment);
        }
}

#endif
