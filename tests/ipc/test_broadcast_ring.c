/* test_broadcast_ring.c - one writer, many readers. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>

#include "ipc/broadcast_ring.h"

enum { GENERATION = 3, SLOTS = 8, READERS = 3 };

struct shared {
    struct views views;
    struct broadcast_ring writer, reader; /* one handle for all readers serves a single thread */
};

static void group_open(struct shared *g, uint32_t slots, uint32_t readers, uint32_t start)
{
    struct broadcast_ring_shared *shared;

    views_open(&g->views, broadcast_ring_bytes(slots, 4));
    shared = g->views.a.base;
    assert_int_equal(broadcast_ring_init(shared, slots, 4, readers, GENERATION), STATUS_OK);
    atomic_store_explicit(&shared->tail, start, memory_order_relaxed);
    for (uint32_t i = 0; i < readers; i++)
        atomic_store_explicit(&shared->heads[i].released, start, memory_order_relaxed);
    assert_int_equal(
        broadcast_ring_attach(g->views.a.base, g->views.a.bytes, GENERATION, &g->writer), STATUS_OK);
    assert_int_equal(
        broadcast_ring_attach(g->views.b.base, g->views.b.bytes, GENERATION, &g->reader), STATUS_OK);
}

static int setup(void **state)
{
    static struct shared g;

    group_open(&g, SLOTS, READERS, UINT32_MAX - 3); /* every test crosses the wrap */
    *state = &g;
    return 0;
}

static int teardown(void **state)
{
    views_close(&((struct shared *)*state)->views);
    return 0;
}

static enum status send(struct broadcast_ring *f, uint32_t value)
{
    void *slot;
    enum status s = broadcast_ring_reserve(f, &slot);

    if (s != STATUS_OK)
        return s;
    memcpy(slot, &value, sizeof(value));
    broadcast_ring_publish(f);
    return STATUS_OK;
}

static enum status receive(struct broadcast_ring *f, uint32_t reader, uint32_t *value)
{
    const void *slot;
    enum status s = broadcast_ring_peek(f, reader, &slot);

    if (s != STATUS_OK)
        return s;
    memcpy(value, slot, sizeof(*value));
    broadcast_ring_release(f, reader);
    return STATUS_OK;
}

static void drain(struct shared *g, uint32_t reader, uint32_t from, uint32_t to)
{
    uint32_t got;

    for (uint32_t i = from; i < to; i++) {
        assert_int_equal(receive(&g->reader, reader, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
    assert_int_equal(receive(&g->reader, reader, &got), STATUS_AGAIN);
}

static void slots_are_aligned_to_8_bytes(void **state)
{
    _Alignas(64) static unsigned char mem[4096];
    struct broadcast_ring f;
    void *slot;

    (void)state;
    for (uint32_t slot_bytes = 1; slot_bytes <= 17; slot_bytes++) {
        assert_int_equal(broadcast_ring_init(mem, SLOTS, slot_bytes, 0, GENERATION), STATUS_OK);
        assert_int_equal(broadcast_ring_attach(mem, sizeof(mem), GENERATION, &f), STATUS_OK);
        for (int i = 0; i < SLOTS; i++) {
            assert_int_equal(broadcast_ring_reserve(&f, &slot), STATUS_OK);
            assert_int_equal((uintptr_t)slot % 8, 0);
            broadcast_ring_publish(&f);
        }
    }
}

static void every_reader_gets_every_message(void **state)
{
    struct shared *g = *state;

    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(send(&g->writer, i), STATUS_OK);
    for (uint32_t r = 0; r < READERS; r++) {
        assert_int_equal(broadcast_ring_pending(&g->reader, r), 6);
        drain(g, r, 0, 6);
        assert_int_equal(broadcast_ring_pending(&g->reader, r), 0);
    }
}

static void slowest_reader_holds_the_writer_back(void **state)
{
    struct shared *g = *state;
    uint32_t got;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(&g->writer, i), STATUS_OK);
    drain(g, 0, 0, SLOTS);
    drain(g, 2, 0, SLOTS);
    assert_int_equal(send(&g->writer, SLOTS), STATUS_AGAIN);
    assert_int_equal(receive(&g->reader, 1, &got), STATUS_OK);
    assert_int_equal(send(&g->writer, SLOTS), STATUS_OK);
    assert_int_equal(send(&g->writer, SLOTS + 1), STATUS_AGAIN);
}

static void late_writer_of_a_full_ring_finds_it_full(void **state)
{
    struct shared *g = *state;
    uint32_t got;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(&g->writer, i), STATUS_OK);
    drain(g, 0, 0, SLOTS);
    drain(g, 2, 0, SLOTS);
    assert_int_equal(
        broadcast_ring_attach(g->views.b.base, g->views.b.bytes, GENERATION, &g->writer), STATUS_OK);
    assert_int_equal(send(&g->writer, SLOTS), STATUS_AGAIN);
    assert_int_equal(receive(&g->reader, 1, &got), STATUS_OK);
    assert_int_equal(got, 0);
    assert_int_equal(send(&g->writer, SLOTS), STATUS_OK);
}

static void dropped_reader_no_longer_holds_the_writer_back(void **state)
{
    struct shared *g = *state;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(&g->writer, i), STATUS_OK);
    drain(g, 0, 0, SLOTS);
    drain(g, 2, 0, SLOTS);
    assert_int_equal(send(&g->writer, SLOTS), STATUS_AGAIN);
    assert_int_equal(broadcast_ring_drop(&g->reader, 1), STATUS_OK);
    assert_int_equal(send(&g->writer, SLOTS), STATUS_OK);
    drain(g, 0, SLOTS, SLOTS + 1);
    assert_int_equal(broadcast_ring_drop(&g->reader, READERS), STATUS_INVALID);
}

static void writer_without_readers_is_never_held_back(void **state)
{
    struct shared g;

    (void)state;
    group_open(&g, SLOTS, 0, 0);
    for (uint32_t i = 0; i < 5 * SLOTS; i++)
        assert_int_equal(send(&g.writer, i), STATUS_OK);
    views_close(&g.views);
}

static void closed_broadcast_ring_still_drains(void **state)
{
    struct shared *g = *state;
    uint32_t got;

    assert_int_equal(send(&g->writer, 5), STATUS_OK);
    broadcast_ring_close(&g->writer);
    assert_int_equal(send(&g->writer, 6), STATUS_CLOSED);
    for (uint32_t r = 0; r < READERS; r++) {
        assert_int_equal(receive(&g->reader, r, &got), STATUS_OK);
        assert_int_equal(receive(&g->reader, r, &got), STATUS_CLOSED);
    }
}

static void reader_that_is_none_is_refused(void **state)
{
    struct shared *g = *state;
    const void *slot;

    assert_int_equal(broadcast_ring_peek(&g->reader, READERS, &slot), STATUS_INVALID);
}

static void damaged_indices_are_reported(void **state)
{
    struct shared *g = *state;
    struct broadcast_ring_shared *shared = g->views.a.base;
    uint32_t got;

    atomic_store_explicit(&shared->heads[1].released, 5000, memory_order_relaxed);
    assert_int_equal(receive(&g->reader, 1, &got), STATUS_INTERNAL);
    for (uint32_t i = 0; i < SLOTS; i++) /* the writer looks at the heads once per lap */
        if (send(&g->writer, i) != STATUS_OK)
            break;
    assert_int_equal(send(&g->writer, 0), STATUS_INTERNAL);
}

static void header_that_lies_is_refused(void **state)
{
    struct shared *g = *state;
    struct broadcast_ring_shared *shared = g->views.a.base;
    struct broadcast_ring f;

    assert_int_equal(broadcast_ring_attach(shared, g->views.a.bytes, GENERATION + 1, &f), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation 3, this process to generation 4"));
    assert_int_equal(
        broadcast_ring_attach(shared, broadcast_ring_bytes(SLOTS, 4) - 1, GENERATION, &f), STATUS_INVALID);
    shared->readers = BROADCAST_RING_READERS + 1;
    assert_int_equal(broadcast_ring_attach(shared, g->views.a.bytes, GENERATION, &f), STATUS_INVALID);
    shared->readers = READERS;
    shared->slots = 1u << 31;
    assert_int_equal(broadcast_ring_attach(shared, g->views.a.bytes, GENERATION, &f), STATUS_INVALID);
    shared->slots = SLOTS;
    shared->magic++;
    assert_int_equal(broadcast_ring_attach(shared, g->views.a.bytes, GENERATION, &f), STATUS_INVALID);
    assert_int_equal(broadcast_ring_init(shared, SLOTS, 4, BROADCAST_RING_READERS + 1, 1), STATUS_INVALID);
    assert_int_equal(broadcast_ring_init(shared, 5, 4, 1, 1), STATUS_INVALID);
}

static void random_steps_match_a_queue(void **state)
{
    struct shared *g = *state;
    uint64_t seed = test_seed();
    uint32_t sent = 0, received[READERS] = {0}, got;

    for (int i = 0; i < 20000; i++) {
        uint32_t r = (uint32_t)(test_random(&seed) % (READERS + 1)), slowest = UINT32_MAX;
        enum status s;

        if (r < READERS) {
            s = receive(&g->reader, r, &got);
            assert_int_equal(s, received[r] == sent ? STATUS_AGAIN : STATUS_OK);
            if (s == STATUS_OK)
                assert_int_equal(got, received[r]++);
            continue;
        }
        for (uint32_t k = 0; k < READERS; k++)
            slowest = received[k] < slowest ? received[k] : slowest;
        s = send(&g->writer, sent);
        assert_int_equal(s, sent - slowest == SLOTS ? STATUS_AGAIN : STATUS_OK);
        sent += s == STATUS_OK;
    }
}

/* ---- all ends at once ---- */

struct end {
    struct broadcast_ring f;
    uint32_t reader, messages;
    uint64_t deadline_ns;
    bool ok;
};

static bool write_all(struct end *e)
{
    for (uint32_t i = 0; i < e->messages;) {
        enum status s = send(&e->f, i);

        if (s == STATUS_AGAIN && spin_now_ns() < e->deadline_ns)
            sched_yield();
        else if (s != STATUS_OK)
            return false;
        else
            i++;
    }
    broadcast_ring_close(&e->f);
    return true;
}

static bool read_all(void *context)
{
    struct end *e = context;

    for (uint32_t i = 0, got;;) {
        enum status s = receive(&e->f, e->reader, &got);

        if (s == STATUS_AGAIN && spin_now_ns() < e->deadline_ns)
            sched_yield();
        else if (s != STATUS_OK)
            return s == STATUS_CLOSED && i == e->messages;
        else if (got != i++)
            return false;
    }
}

static void *reading_thread(void *context)
{
    struct end *e = context;

    e->ok = read_all(e);
    return NULL;
}

static struct end end_of(struct shared *g, uint32_t reader, uint32_t messages)
{
    return (struct end){
        .f = g->reader,
        .reader = reader,
        .messages = messages,
        .deadline_ns = spin_deadline_ns(TEST_PATIENCE_NS),
    };
}

static void four_threads_read_20000(void **state)
{
    struct shared g;
    struct end ends[5];
    pthread_t threads[4];

    (void)state;
    group_open(&g, 64, 4, UINT32_MAX - 100);
    for (uint32_t i = 0; i < 5; i++)
        ends[i] = end_of(&g, i, 20000);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reading_thread, &ends[i]), 0);
    bool written = write_all(&ends[4]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_true(written);
    for (int i = 0; i < 4; i++)
        assert_true(ends[i].ok);
    views_close(&g.views);
}

static void sixteen_processes_read_20000(void **state)
{
    struct shared g;
    struct end writer;
    pid_t pids[BROADCAST_RING_READERS];
    bool written;

    (void)state;
    group_open(&g, 256, BROADCAST_RING_READERS, UINT32_MAX - 100);
    for (uint32_t i = 0; i < BROADCAST_RING_READERS; i++) {
        struct end e = end_of(&g, i, 20000);

        pids[i] = child_start(read_all, &e);
    }
    writer = end_of(&g, 0, 20000);
    written = write_all(&writer);
    for (int i = 0; i < BROADCAST_RING_READERS; i++)
        child_must_succeed(pids[i]);
    assert_true(written);
    views_close(&g.views);
}

#define ON_A_GROUP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_aligned_to_8_bytes),
        ON_A_GROUP(every_reader_gets_every_message),
        ON_A_GROUP(slowest_reader_holds_the_writer_back),
        ON_A_GROUP(late_writer_of_a_full_ring_finds_it_full),
        ON_A_GROUP(dropped_reader_no_longer_holds_the_writer_back),
        cmocka_unit_test(writer_without_readers_is_never_held_back),
        ON_A_GROUP(closed_broadcast_ring_still_drains),
        ON_A_GROUP(reader_that_is_none_is_refused),
        ON_A_GROUP(damaged_indices_are_reported),
        ON_A_GROUP(header_that_lies_is_refused),
        ON_A_GROUP(random_steps_match_a_queue),
        cmocka_unit_test(four_threads_read_20000),
        cmocka_unit_test(sixteen_processes_read_20000),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
