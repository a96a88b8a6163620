/* ring_pair.h - a ring seen from both of its ends, for the tests of rings. */
#ifndef TESTS_IPC_RING_PAIR_H
#define TESTS_IPC_RING_PAIR_H

#include "tests/ipc/ipc_support.h"

#include <string.h>

#include "ipc/ring.h"

enum { GENERATION = 7, SLOTS = 8 };

struct pair {
    struct views views;
    struct ring producer, consumer;
};

static inline void pair_open(struct pair *p, uint32_t slots, uint32_t slot_bytes, uint32_t start)
{
    views_open(&p->views, ring_bytes(slots, slot_bytes));
    assert_int_equal(ring_init(p->views.a.base, slots, slot_bytes, GENERATION), STATUS_OK);
    struct ring_shared *shared = p->views.a.base;
    atomic_store_explicit(&shared->head, start, memory_order_relaxed);
    atomic_store_explicit(&shared->tail, start, memory_order_relaxed);
    assert_int_equal(
        ring_attach(p->views.a.base, p->views.a.bytes, GENERATION, &p->producer), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.b.base, p->views.b.bytes, GENERATION, &p->consumer), STATUS_OK);
}

static inline int setup(void **state)
{
    static struct pair p;

    pair_open(&p, SLOTS, sizeof(uint32_t), 0);
    *state = &p;
    return 0;
}

static inline int teardown(void **state)
{
    views_close(&((struct pair *)*state)->views);
    return 0;
}

static inline enum status send(struct pair *p, uint32_t value)
{
    void *slot;
    enum status s = ring_reserve(&p->producer, &slot);

    if (s != STATUS_OK)
        return s;
    memcpy(slot, &value, sizeof(value));
    ring_publish(&p->producer);
    return STATUS_OK;
}

static inline enum status receive(struct pair *p, uint32_t *value)
{
    const void *slot;
    enum status s = ring_peek(&p->consumer, &slot);

    if (s != STATUS_OK)
        return s;
    memcpy(value, slot, sizeof(*value));
    ring_release(&p->consumer);
    return STATUS_OK;
}

#define ON_A_RING(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif
