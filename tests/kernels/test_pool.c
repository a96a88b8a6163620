/* test_pool.c - the pool: every thread, every job, in order; its barrier and its sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "kernels/cpu/pool.h"

enum { MOST = 5 };

/* Plain ints: the pool's own edges must make them safe (thread sanitizer checks). */
struct tally {
    struct pool *pool;
    int calls[MOST];
    int rounds, wrong;
    int cells[MOST];
};

static void count_call(void *context, int thread)
{
    struct tally *t = context;

    t->calls[thread]++;
}

static struct pool *open_pool(int threads)
{
    struct pool *p = NULL;

    assert_int_equal(pool_open(threads, -1, &p), STATUS_OK);
    assert_int_equal(pool_threads(p), threads);
    return p;
}

static void each_job_is_run_once_by_every_thread(void **state)
{
    (void)state;
    for (int threads = 1; threads <= MOST; threads++) {
        struct pool *p = open_pool(threads);
        struct tally t = {0};
        uint32_t ticket = 0;

        for (int job = 0; job < 100; job++) {
            while (pool_post(p, count_call, &t, &ticket) == STATUS_AGAIN)
                pool_wait(p, ticket);
        }
        pool_wait(p, ticket);
        assert_true(pool_done(p, ticket));
        for (int i = 0; i < threads; i++)
            assert_int_equal(t.calls[i], 100);
        pool_close(p);
    }
}

/* Each thread writes its cell, then after the barrier reads all of them. */
static void write_and_read(void *context, int thread)
{
    struct tally *t = context;
    int threads = pool_threads(t->pool);

    for (int round = 1; round <= t->rounds; round++) {
        t->cells[thread] = round;
        pool_barrier(t->pool, false);
        for (int i = 0; i < threads; i++)
            if (t->cells[i] != round)
                t->wrong++; /* a race as well, but then the test has failed already */
        pool_barrier(t->pool, false);
    }
}

static void a_barrier_shows_what_all_wrote(void **state)
{
    (void)state;
    for (int threads = 1; threads <= MOST; threads++) {
        struct tally t = {.pool = open_pool(threads), .rounds = 300};
        uint32_t ticket;

        assert_int_equal(pool_post(t.pool, write_and_read, &t, &ticket), STATUS_OK);
        pool_wait(t.pool, ticket);
        assert_int_equal(t.wrong, 0);
        pool_close(t.pool);
    }
}

/* Thread `round % threads` says stop now and then; all must hear it in that very round. */
static void hear_stops(void *context, int thread)
{
    struct tally *t = context;
    int threads = pool_threads(t->pool), wrong = 0;

    for (int round = 0; round < t->rounds; round++) {
        bool stop = round % 7 == 3 && thread == round % threads;

        if (pool_barrier(t->pool, stop) != (round % 7 == 3))
            wrong++;
    }
    t->calls[thread] = wrong;
}

static void a_stop_is_heard_by_all_in_the_same_round(void **state)
{
    (void)state;
    for (int threads = 1; threads <= MOST; threads++) {
        struct tally t = {.pool = open_pool(threads), .rounds = 700};
        uint32_t ticket;

        assert_int_equal(pool_post(t.pool, hear_stops, &t, &ticket), STATUS_OK);
        pool_wait(t.pool, ticket);
        for (int i = 0; i < threads; i++)
            assert_int_equal(t.calls[i], 0);
        pool_close(t.pool);
    }
}

static void closing_runs_what_was_posted(void **state)
{
    struct tally t = {0};
    struct pool *p = open_pool(3);
    uint32_t ticket;

    (void)state;
    for (int i = 0; i < POOL_JOBS; i++)
        assert_int_equal(pool_post(p, count_call, &t, &ticket), STATUS_OK);
    pool_close(p);
    for (int i = 0; i < 3; i++)
        assert_int_equal(t.calls[i], POOL_JOBS);
    pool_close(NULL);
}

/* Holds every thread until the caller opens the gate. */
static void hold(void *context, int thread)
{
    pthread_mutex_t *gate = context;

    (void)thread;
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
}

static void a_full_queue_answers_again(void **state)
{
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct pool *p = open_pool(2);
    uint32_t ticket, first;

    (void)state;
    pthread_mutex_lock(&gate);
    assert_int_equal(pool_post(p, hold, &gate, &first), STATUS_OK);
    for (int i = 1; i < POOL_JOBS; i++)
        assert_int_equal(pool_post(p, hold, &gate, &ticket), STATUS_OK);
    assert_int_equal(pool_post(p, hold, &gate, &ticket), STATUS_AGAIN);
    assert_false(pool_done(p, first));
    pthread_mutex_unlock(&gate);
    pool_wait(p, ticket);
    assert_true(pool_done(p, first));
    assert_int_equal(pool_post(p, hold, &gate, &ticket), STATUS_OK);
    pool_close(p);
}

static double cpu_seconds(void)
{
    struct rusage use;

    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
           1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
}

static void idle_threads_use_no_cpu(void **state)
{
    struct pool *p = open_pool(4);
    struct tally t = {0};
    uint32_t ticket;
    double before;

    (void)state;
    assert_int_equal(pool_post(p, count_call, &t, &ticket), STATUS_OK);
    pool_wait(p, ticket);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    before = cpu_seconds();
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    assert_true(cpu_seconds() - before < 0.03); /* 4 spinning threads would use 0.6 or more */
    pool_close(p);
}

static void look_at_signals(void *context, int thread)
{
    struct tally *t = context;
    sigset_t blocked;

    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    t->cells[thread] = sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM);
}

static void threads_take_no_signals(void **state)
{
    struct pool *p = open_pool(2);
    struct tally t = {0};
    uint32_t ticket;
    sigset_t mine;

    (void)state;
    assert_int_equal(pool_post(p, look_at_signals, &t, &ticket), STATUS_OK);
    pool_wait(p, ticket);
    assert_true(t.cells[0] && t.cells[1]);
    pthread_sigmask(SIG_SETMASK, NULL, &mine);
    assert_false(sigismember(&mine, SIGINT));
    pool_close(p);
}

static void a_thread_is_bound_where_it_can_be(void **state)
{
    cpu_set_t mine;
    struct pool *p = NULL;
    struct tally t = {0};
    uint32_t ticket;
    int first = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(mine), &mine), 0);
    while (!CPU_ISSET(first, &mine))
        first++;
    assert_int_equal(pool_open(1, first, &p), STATUS_OK);
    assert_int_equal(pool_post(p, count_call, &t, &ticket), STATUS_OK);
    pool_wait(p, ticket);
    pool_close(p);
    /* No such CPU: a warning, and the thread runs all the same. */
    assert_int_equal(pool_open(1, CPU_SETSIZE + 5, &p), STATUS_OK);
    assert_int_equal(pool_post(p, count_call, &t, &ticket), STATUS_OK);
    pool_close(p);
    assert_int_equal(t.calls[0], 2);
}

static void impossible_numbers_are_refused(void **state)
{
    struct pool *p = NULL;

    (void)state;
    assert_int_equal(pool_open(0, -1, &p), STATUS_INVALID);
    assert_int_equal(pool_open(POOL_MAX_THREADS + 1, -1, &p), STATUS_INVALID);
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_job_is_run_once_by_every_thread),
        cmocka_unit_test(a_barrier_shows_what_all_wrote),
        cmocka_unit_test(a_stop_is_heard_by_all_in_the_same_round),
        cmocka_unit_test(closing_runs_what_was_posted),
        cmocka_unit_test(a_full_queue_answers_again),
        cmocka_unit_test(idle_threads_use_no_cpu),
        cmocka_unit_test(threads_take_no_signals),
        cmocka_unit_test(a_thread_is_bound_where_it_can_be),
        cmocka_unit_test(impossible_numbers_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
