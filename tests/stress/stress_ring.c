/* stress_ring.c - ten million messages through a ring between two processes;
 * then with both ends going to sleep whenever they can, through a large ring
 * and through one slot, where a lost wake-up has nobody to repair it. Every
 * word of every message is checked. The nanoseconds printed are for a person:
 * nothing depends on them. Not part of `make check`. */
#include "tests/ipc/ipc_support.h"

#include <stdbool.h>

#include "ipc/doorbell.h"
#include "ipc/ring.h"
#include "tests/ipc/ring_pump.h"

enum { SLOT_BYTES = PUMP_WORDS * 8, PATIENCE_S = 600 };

struct drill {
    uint32_t slots;
    uint64_t messages;
    bool bells;     /* sleep when there is nothing to do; else yield */
    unsigned spins; /* looks before that */
    const char *name;
};

/* The segment: a ring, then one word per doorbell. */
struct table {
    struct segment segment;
    size_t ring_at;
    struct doorbell producer_bell, consumer_bell;
};

static void table_open(struct table *t, uint32_t slots)
{
    struct segment_cursor c = {0};
    size_t bytes, bell_at[2];

    t->ring_at = segment_carve(&c, ring_bytes(slots, SLOT_BYTES), 64);
    for (int i = 0; i < 2; i++)
        bell_at[i] = segment_carve(&c, sizeof(struct doorbell_shared), 64);
    assert_int_equal(segment_carved(&c, &bytes), STATUS_OK);
    assert_int_equal(segment_create("stress", bytes, &t->segment), STATUS_OK);
    assert_int_equal(
        ring_init(segment_at(&t->segment, t->ring_at, 0), slots, SLOT_BYTES, 1), STATUS_OK);
    assert_int_equal(
        doorbell_open(segment_at(&t->segment, bell_at[0], 0), &t->producer_bell), STATUS_OK);
    assert_int_equal(
        doorbell_open(segment_at(&t->segment, bell_at[1], 0), &t->consumer_bell), STATUS_OK);
}

static void table_close(struct table *t)
{
    doorbell_close(&t->producer_bell);
    doorbell_close(&t->consumer_bell);
    segment_close(&t->segment);
}

static struct pump end_of(
    struct table *t, const struct drill *d, struct doorbell *mine, struct doorbell *theirs)
{
    struct pump p = {
        .mine = d->bells ? mine : NULL,
        .theirs = d->bells ? theirs : NULL,
        .spins = d->spins,
        .messages = d->messages,
        .deadline_ns = spin_deadline_ns(PATIENCE_S * UINT64_C(1000000000)),
    };
    void *ring = segment_at(&t->segment, t->ring_at, 0);

    assert_int_equal(ring_attach(ring, t->segment.bytes - t->ring_at, 1, &p.ring), STATUS_OK);
    return p;
}

static bool sending_child(void *context)
{
    return pump_send(context);
}

static void exchange(const struct drill *d)
{
    struct table t;
    struct pump sender, receiver;
    uint64_t started;
    bool received;
    pid_t child;

    table_open(&t, d->slots);
    sender = end_of(&t, d, &t.producer_bell, &t.consumer_bell);
    receiver = end_of(&t, d, &t.consumer_bell, &t.producer_bell);
    started = spin_now_ns();
    child = child_start(sending_child, &sender);
    received = pump_receive(&receiver);
    started = spin_now_ns() - started;
    child_must_succeed(child);
    assert_true(received);
    print_message("# %s: %llu messages of %d bytes through %u slots, %.1f ns each\n", d->name,
        (unsigned long long)d->messages, SLOT_BYTES, d->slots,
        (double)started / (double)d->messages);
    table_close(&t);
}

static void ten_million_messages_arrive_whole_and_in_order(void **state)
{
    (void)state;
    exchange(&(struct drill){
        .slots = 1024, .messages = 10 * 1000 * 1000, .spins = 100, .name = "yielding"});
}

static void sleepers_lose_no_wakeup(void **state)
{
    (void)state;
    exchange(&(struct drill){
        .slots = 1024, .messages = 1000 * 1000, .bells = true, .name = "sleeping at once"});
}

static void one_slot_loses_no_wakeup(void **state)
{
    (void)state;
    for (unsigned spins = 0; spins <= 20; spins += 4)
        exchange(&(struct drill){.slots = 1,
            .messages = 100 * 1000,
            .bells = true,
            .spins = spins,
            .name = "hand-over"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_million_messages_arrive_whole_and_in_order),
        cmocka_unit_test(sleepers_lose_no_wakeup),
        cmocka_unit_test(one_slot_loses_no_wakeup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
