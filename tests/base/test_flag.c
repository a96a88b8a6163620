/* test_flag.c - flags: what a wait says, and that nobody is left asleep. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <stdbool.h>

#include "quern/flag.h"

enum { RANKS = 4 };

static const uint64_t ms = 1000000;

static void flag_fills_a_line(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct flag), 64);
    assert_int_equal(_Alignof(struct flag), 64);
}

static void reached_value_is_ok_also_past_it(void **state)
{
    struct flag f;

    (void)state;
    flag_init(&f, FLAG_BETWEEN_THREADS);
    assert_int_equal(flag_wait(&f, 0, NULL, 0), STATUS_OK);
    flag_publish(&f, 5);
    assert_int_equal(flag_value(&f), 5);
    assert_int_equal(flag_wait(&f, 3, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 5, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 6, NULL, 0), STATUS_TIMEOUT);
}

static void order_holds_across_the_wrap(void **state)
{
    struct flag f;

    (void)state;
    flag_init(&f, FLAG_BETWEEN_THREADS);
    flag_publish(&f, UINT32_MAX);
    assert_int_equal(flag_wait(&f, 1, NULL, 0), STATUS_TIMEOUT);
    flag_publish(&f, 1);
    assert_int_equal(flag_wait(&f, UINT32_MAX, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 1, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 2, NULL, 0), STATUS_TIMEOUT);
}

static void deadline_ends_the_wait(void **state)
{
    struct flag f;
    uint64_t deadline = spin_deadline_ns(20 * ms);

    (void)state;
    flag_init(&f, FLAG_BETWEEN_THREADS);
    assert_int_equal(flag_wait(&f, 1, NULL, deadline), STATUS_TIMEOUT);
    assert_true(spin_now_ns() >= deadline);
    assert_int_equal(atomic_load(&f.sleepers), 0);
}

static void abort_word_ends_the_wait(void **state)
{
    struct flag f;
    _Atomic uint32_t stop = 1;

    (void)state;
    flag_init(&f, FLAG_BETWEEN_THREADS);
    assert_int_equal(flag_wait(&f, 1, &stop, SPIN_FOREVER), STATUS_DEAD);
    flag_publish(&f, 1);
    assert_int_equal(flag_wait(&f, 1, &stop, SPIN_FOREVER), STATUS_OK);
}

/* What children of one test share. */
struct board {
    struct flag flags[RANKS];
    _Alignas(64) _Atomic uint32_t stop;
    uint32_t data[RANKS];
    bool slept;
};

struct seat {
    struct board *board;
    uint32_t rank, rounds;
    bool ok;
};

static int setup(void **state)
{
    static struct views v;

    views_open(&v, sizeof(struct board));
    *state = &v;
    return 0;
}

static int teardown(void **state)
{
    views_close(*state);
    return 0;
}

static bool waits_for_ever(void *context)
{
    struct board *b = context;

    return flag_wait(&b->flags[0], 1, &b->stop, SPIN_FOREVER) == STATUS_DEAD;
}

static void sleeping_waiter_notices_the_abort_word(void **state)
{
    struct board *b = ((struct views *)*state)->a.base;
    pid_t child = child_start(waits_for_ever, b);

    nap_ms(60);
    atomic_store_explicit(&b->stop, 1, memory_order_relaxed);
    child_must_succeed(child);
}

static bool waits_for_one(void *context)
{
    struct board *b = context;

    return flag_wait(&b->flags[0], 1, &b->stop, spin_deadline_ns(TEST_PATIENCE_NS)) == STATUS_OK &&
           b->data[0] == 42;
}

static void all_sleeping_waiters_wake(void **state)
{
    struct views *v = *state;
    struct board *b = v->a.base;
    pid_t children[8];

    for (int i = 0; i < 8; i++)
        children[i] = child_start(waits_for_one, v->b.base);
    while (atomic_load(&b->flags[0].sleepers) < 8)
        nap_ms(1);
    b->data[0] = 42;
    flag_publish(&b->flags[0], 1);
    for (int i = 0; i < 8; i++)
        child_must_succeed(children[i]);
    assert_int_equal(atomic_load(&b->flags[0].sleepers), 0);
}

/* The wake-up is told to whoever waits, in this process or another: a private one would not
 * reach another process. */
static void a_flag_in_zeroed_memory_wakes_other_processes(void **state)
{
    struct views *v = *state;
    struct board *b = v->a.base;
    pid_t child = child_start(waits_for_one, v->b.base);

    assert_int_equal(b->flags[0].scope, FLAG_BETWEEN_PROCESSES);
    while (atomic_load(&b->flags[0].sleepers) < 1)
        nap_ms(1);
    b->data[0] = 42;
    flag_publish(&b->flags[0], 1);
    child_must_succeed(child);
}

static void *sleeps_for_one(void *context)
{
    struct board *b = context;

    b->slept = flag_sleep(&b->flags[0], 1, NULL, SPIN_FOREVER) == STATUS_OK && b->data[0] == 42;
    return NULL;
}

/* No deadline and no abort word: only the wake-up ends it. */
static void sleeping_threads_wake_without_a_slice(void **state)
{
    static struct board b;
    pthread_t sleeper;

    (void)state;
    flag_init(&b.flags[0], FLAG_BETWEEN_THREADS);
    assert_int_equal(pthread_create(&sleeper, NULL, sleeps_for_one, &b), 0);
    while (atomic_load(&b.flags[0].sleepers) < 1)
        nap_ms(1);
    nap_ms(5); /* until it sleeps in the kernel */
    b.data[0] = 42;
    flag_publish(&b.flags[0], 1);
    pthread_join(sleeper, NULL);
    assert_true(b.slept);
}

static void a_damaged_scope_is_no_other_operation(void **state)
{
    struct views *v = *state;
    struct board *b = v->a.base;
    uint64_t deadline = spin_deadline_ns(20 * ms);

    b->flags[0].scope = UINT32_MAX - 128;
    assert_int_equal(flag_sleep(&b->flags[0], 1, &b->stop, deadline), STATUS_TIMEOUT);
    assert_true(spin_now_ns() >= deadline);
}

/* Every rank tells its number, then checks everybody's: twice the ranks of a
 * small machine's cores, so that waiting must give way. */
static bool all_reduce(void *context)
{
    struct seat *s = context;
    struct board *b = s->board;
    uint64_t deadline = spin_deadline_ns(TEST_PATIENCE_NS);

    for (uint32_t round = 1; round <= s->rounds; round++) {
        uint32_t sum = 0;

        b->data[s->rank] = round * (s->rank + 1);
        flag_publish(&b->flags[s->rank], 2 * round - 1);
        for (uint32_t r = 0; r < RANKS; r++) {
            if (flag_wait(&b->flags[r], 2 * round - 1, &b->stop, deadline) != STATUS_OK)
                return false;
            sum += b->data[r];
        }
        if (sum != round * (RANKS * (RANKS + 1) / 2))
            return false;
        flag_publish(&b->flags[s->rank], 2 * round); /* I have read all */
        for (uint32_t r = 0; r < RANKS; r++)
            if (flag_wait(&b->flags[r], 2 * round, &b->stop, deadline) != STATUS_OK)
                return false;
    }
    return true;
}

static void processes_reduce(struct views *v, uint32_t rounds)
{
    pid_t children[RANKS];

    for (uint32_t r = 0; r < RANKS; r++) {
        struct seat s = {.board = r & 1 ? v->b.base : v->a.base, .rank = r, .rounds = rounds};

        children[r] = child_start(all_reduce, &s);
    }
    for (int r = 0; r < RANKS; r++)
        child_must_succeed(children[r]);
}

static void four_processes_reduce_1000_times(void **state)
{
    processes_reduce(*state, 1000);
}

static void four_processes_reduce_without_spinning(void **state)
{
    uint64_t before = flag_spin_ns;

    flag_spin_ns = 0;
    processes_reduce(*state, 1000);
    flag_spin_ns = before;
}

static void *reducing_thread(void *context)
{
    struct seat *s = context;

    s->ok = all_reduce(s);
    return NULL;
}

static void four_threads_reduce_200_times(void **state)
{
    struct views *v = *state;
    struct seat seats[RANKS];
    pthread_t threads[RANKS];

    for (uint32_t r = 0; r < RANKS; r++) {
        seats[r] = (struct seat){.board = v->a.base, .rank = r, .rounds = 200};
        assert_int_equal(pthread_create(&threads[r], NULL, reducing_thread, &seats[r]), 0);
    }
    for (int r = 0; r < RANKS; r++) {
        pthread_join(threads[r], NULL);
        assert_true(seats[r].ok);
    }
}

#define ON_A_BOARD(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flag_fills_a_line),
        cmocka_unit_test(reached_value_is_ok_also_past_it),
        cmocka_unit_test(order_holds_across_the_wrap),
        cmocka_unit_test(deadline_ends_the_wait),
        cmocka_unit_test(abort_word_ends_the_wait),
        ON_A_BOARD(sleeping_waiter_notices_the_abort_word),
        ON_A_BOARD(all_sleeping_waiters_wake),
        ON_A_BOARD(a_flag_in_zeroed_memory_wakes_other_processes),
        cmocka_unit_test(sleeping_threads_wake_without_a_slice),
        ON_A_BOARD(a_damaged_scope_is_no_other_operation),
        ON_A_BOARD(four_processes_reduce_1000_times),
        ON_A_BOARD(four_processes_reduce_without_spinning),
        ON_A_BOARD(four_threads_reduce_200_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
