/* test_symheap.c - the symmetric heap, and the flags that live in it. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "ipc/symheap_shm.h"

enum { RANKS = 4, REGION = 16384 };

static const uint64_t ms = 1000000;

static int setup(void **state)
{
    static struct views v;

    views_open(&v, symheap_bytes(RANKS, REGION));
    *state = &v;
    return 0;
}

static int teardown(void **state)
{
    views_close(*state);
    return 0;
}

static struct symheap heap_in(const struct segment *s)
{
    struct symheap h = {0};

    assert_int_equal(symheap_attach(s->base, s->bytes, RANKS, REGION, &h), STATUS_OK);
    return h;
}

/* ---- the heap ---- */

static void same_steps_give_the_same_offsets(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t of_a, of_b;

    for (size_t bytes = 1; bytes < 2000; bytes *= 3) {
        assert_int_equal(symheap_alloc(&a, bytes, 64, &of_a), STATUS_OK);
        assert_int_equal(symheap_alloc(&b, bytes, 64, &of_b), STATUS_OK);
        assert_int_equal(of_a, of_b);
        assert_int_equal(of_a % 64, 0);
    }
    assert_int_equal(symheap_signature(&a), symheap_signature(&b));
}

static void other_steps_give_another_signature(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t offset;

    symheap_alloc(&a, 100, 64, &offset);
    symheap_alloc(&b, 101, 64, &offset); /* the same room, not the same size */
    assert_int_not_equal(symheap_signature(&a), symheap_signature(&b));
}

static void offset_means_one_place_per_rank(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t offset;

    assert_int_equal(symheap_alloc(&a, 8, 8, &offset), STATUS_OK);
    for (uint32_t r = 0; r < RANKS; r++)
        memcpy(symheap_at(&a, r, offset), &(uint64_t){1000 + r}, 8);
    for (uint32_t r = 0; r < RANKS; r++) {
        uint64_t got;

        memcpy(&got, symheap_at(&b, r, offset), 8);
        assert_int_equal(got, 1000 + r);
    }
}

static void places_outside_are_null(void **state)
{
    struct symheap h = heap_in(&((struct views *)*state)->a);

    assert_null(symheap_at(&h, RANKS, 0));
    assert_null(symheap_at(&h, 0, REGION));
    assert_ptr_equal(symheap_at(&h, RANKS - 1, REGION - 1), h.base + RANKS * REGION - 1);
}

static void full_region_is_an_error_with_numbers(void **state)
{
    struct symheap h = heap_in(&((struct views *)*state)->a);
    size_t offset = 99;

    assert_int_equal(symheap_alloc(&h, REGION - 64, 64, &offset), STATUS_OK);
    offset = 99;
    assert_int_equal(symheap_alloc(&h, 65, 64, &offset), STATUS_NOMEM);
    assert_non_null(strstr(log_last_error(), "65 bytes do not fit, 16320 of 16384"));
    assert_int_equal(symheap_alloc(&h, SIZE_MAX, 64, &offset), STATUS_NOMEM);
    assert_int_equal(symheap_alloc(&h, 1, 48, &offset), STATUS_INVALID);
    assert_int_equal(offset, 99);
    assert_int_equal(symheap_alloc(&h, 64, 64, &offset), STATUS_OK);
}

static void heap_that_does_not_fit_is_refused(void **state)
{
    struct views *v = *state;
    struct symheap h;

    assert_int_equal(symheap_attach(v->a.base, v->a.bytes - 1, RANKS, REGION, &h), STATUS_INVALID);
    assert_int_equal(symheap_attach(v->a.base, v->a.bytes, RANKS + 1, REGION, &h), STATUS_INVALID);
    assert_int_equal(symheap_attach(v->a.base, v->a.bytes, RANKS, SIZE_MAX, &h), STATUS_INVALID);
    assert_int_equal(symheap_bytes(0, 1), 0);
    assert_int_equal(symheap_bytes(UINT32_MAX, SIZE_MAX / 4), 0);
    assert_int_equal(symheap_bytes(2, 1), 2 * SYMHEAP_PAGE);
}

/* ---- flags ---- */

static void flag_fills_a_line(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct shm_flag), 64);
    assert_int_equal(_Alignof(struct shm_flag), 64);
}

static void reached_value_is_ok_also_past_it(void **state)
{
    struct shm_flag f;

    (void)state;
    flag_init(&f);
    assert_int_equal(flag_wait(&f, 0, NULL, 0), STATUS_OK);
    flag_publish(&f, 5);
    assert_int_equal(flag_value(&f), 5);
    assert_int_equal(flag_wait(&f, 3, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 5, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 6, NULL, 0), STATUS_TIMEOUT);
}

static void order_holds_across_the_wrap(void **state)
{
    struct shm_flag f;

    (void)state;
    flag_init(&f);
    flag_publish(&f, UINT32_MAX);
    assert_int_equal(flag_wait(&f, 1, NULL, 0), STATUS_TIMEOUT);
    flag_publish(&f, 1);
    assert_int_equal(flag_wait(&f, UINT32_MAX, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 1, NULL, 0), STATUS_OK);
    assert_int_equal(flag_wait(&f, 2, NULL, 0), STATUS_TIMEOUT);
}

static void deadline_ends_the_wait(void **state)
{
    struct shm_flag f;
    uint64_t deadline = spin_deadline_ns(20 * ms);

    (void)state;
    flag_init(&f);
    assert_int_equal(flag_wait(&f, 1, NULL, deadline), STATUS_TIMEOUT);
    assert_true(spin_now_ns() >= deadline);
    assert_int_equal(atomic_load(&f.sleepers), 0);
}

static void abort_word_ends_the_wait(void **state)
{
    struct shm_flag f;
    _Atomic uint32_t stop = 1;

    (void)state;
    flag_init(&f);
    assert_int_equal(flag_wait(&f, 1, &stop, SPIN_FOREVER), STATUS_DEAD);
    flag_publish(&f, 1);
    assert_int_equal(flag_wait(&f, 1, &stop, SPIN_FOREVER), STATUS_OK);
}

/* What children of one test share. */
struct board {
    struct shm_flag flags[RANKS];
    _Alignas(64) _Atomic uint32_t stop;
    uint32_t data[RANKS];
};

struct seat {
    struct board *board;
    uint32_t rank, rounds;
    bool ok;
};

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
    unsigned before = flag_spin_iterations;

    flag_spin_iterations = 0;
    processes_reduce(*state, 1000);
    flag_spin_iterations = before;
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

#define ON_A_HEAP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_HEAP(same_steps_give_the_same_offsets),
        ON_A_HEAP(other_steps_give_another_signature),
        ON_A_HEAP(offset_means_one_place_per_rank),
        ON_A_HEAP(places_outside_are_null),
        ON_A_HEAP(full_region_is_an_error_with_numbers),
        ON_A_HEAP(heap_that_does_not_fit_is_refused),
        cmocka_unit_test(flag_fills_a_line),
        cmocka_unit_test(reached_value_is_ok_also_past_it),
        cmocka_unit_test(order_holds_across_the_wrap),
        cmocka_unit_test(deadline_ends_the_wait),
        cmocka_unit_test(abort_word_ends_the_wait),
        ON_A_HEAP(sleeping_waiter_notices_the_abort_word),
        ON_A_HEAP(all_sleeping_waiters_wake),
        ON_A_HEAP(four_processes_reduce_1000_times),
        ON_A_HEAP(four_processes_reduce_without_spinning),
        ON_A_HEAP(four_threads_reduce_200_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
