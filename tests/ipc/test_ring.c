/* test_ring.c - the message ring: alone, against a model, between threads and
 * between processes. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "ipc/ring.h"
#include "tests/ipc/ring_pump.h"

enum { GENERATION = 7, SLOTS = 8 };

struct pair {
    struct views views;
    struct ring producer, consumer;
};

static void pair_open(struct pair *p, uint32_t slots, uint32_t slot_bytes, uint32_t start)
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

static int setup(void **state)
{
    static struct pair p;

    pair_open(&p, SLOTS, sizeof(uint32_t), 0);
    *state = &p;
    return 0;
}

static int teardown(void **state)
{
    views_close(&((struct pair *)*state)->views);
    return 0;
}

static enum status send(struct pair *p, uint32_t value)
{
    void *slot;
    enum status s = ring_reserve(&p->producer, &slot);

    if (s != STATUS_OK)
        return s;
    memcpy(slot, &value, sizeof(value));
    ring_publish(&p->producer);
    return STATUS_OK;
}

static enum status receive(struct pair *p, uint32_t *value)
{
    const void *slot;
    enum status s = ring_peek(&p->consumer, &slot);

    if (s != STATUS_OK)
        return s;
    memcpy(value, slot, sizeof(*value));
    ring_release(&p->consumer);
    return STATUS_OK;
}

static void impossible_sizes_are_refused(void **state)
{
    _Alignas(64) static unsigned char mem[4096];

    (void)state;
    assert_int_equal(ring_bytes(0, 8), 0);
    assert_int_equal(ring_bytes(3, 8), 0);
    assert_int_equal(ring_bytes(8, 0), 0);
    assert_int_equal(ring_bytes(8, UINT32_MAX), 0);
    assert_int_equal(ring_init(mem, 12, 8, 1), STATUS_INVALID);
    assert_int_equal(ring_init(mem + 8, 8, 8, 1), STATUS_INVALID);
    assert_int_equal(ring_bytes(4, 13), ring_bytes(4, 16));
    assert_true(ring_bytes(1u << 31, INT32_MAX) > (size_t)1 << 61);
}

static void another_generation_cannot_attach(void **state)
{
    struct pair *p = *state;
    struct ring r = {.slots = 99};

    assert_int_equal(
        ring_attach(p->views.a.base, p->views.a.bytes, GENERATION + 1, &r), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation 7, this process to generation 8"));
    assert_int_equal(r.slots, 99);
}

static void header_that_lies_is_refused(void **state)
{
    struct pair *p = *state;
    struct ring_shared *shared = p->views.a.base;
    struct ring r;

    assert_int_equal(ring_attach(shared, ring_bytes(SLOTS, 4) - 1, GENERATION, &r), STATUS_INVALID);
    assert_int_equal(ring_attach(shared, 16, GENERATION, &r), STATUS_INVALID);
    shared->slots = 1u << 30;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    shared->slots = 7;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    shared->slots = SLOTS;
    shared->slot_bytes = UINT32_MAX;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    shared->slot_bytes = 4;
    shared->magic++;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "none at this place"));
}

static void later_changes_of_the_header_do_no_harm(void **state)
{
    struct pair *p = *state;
    struct ring_shared *shared = p->views.a.base;
    uint32_t got;

    shared->slots = 1u << 31;
    shared->slot_bytes = 1u << 30;
    for (uint32_t i = 0; i < 3 * SLOTS; i++) {
        assert_int_equal(send(p, i), STATUS_OK);
        assert_int_equal(receive(p, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
}

static void full_ring_says_again_until_released(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(p, i), STATUS_OK);
    assert_int_equal(send(p, 100), STATUS_AGAIN);
    assert_int_equal(ring_pending(&p->consumer), SLOTS);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 0);
    assert_int_equal(send(p, 100), STATUS_OK);
    assert_int_equal(send(p, 101), STATUS_AGAIN);
}

static void reserved_slot_is_unseen_until_published(void **state)
{
    struct pair *p = *state;
    const void *got;
    void *slot;

    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_AGAIN);
    assert_int_equal(ring_reserve(&p->producer, &slot), STATUS_OK);
    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_AGAIN);
    assert_int_equal(ring_pending(&p->producer), 0);
    ring_publish(&p->producer);
    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_OK);
    assert_int_equal(ring_pending(&p->producer), 1);
}

static void peeked_slot_is_not_overwritten(void **state)
{
    struct pair *p = *state;
    const void *got;
    uint32_t value;

    assert_int_equal(send(p, 1), STATUS_OK);
    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_OK);
    for (uint32_t i = 1; i < SLOTS; i++)
        assert_int_equal(send(p, 50 + i), STATUS_OK);
    assert_int_equal(send(p, 99), STATUS_AGAIN);
    memcpy(&value, got, sizeof(value));
    assert_int_equal(value, 1);
}

static void slots_are_aligned_to_8_bytes(void **state)
{
    struct pair p;

    (void)state;
    pair_open(&p, SLOTS, 13, 0);
    for (uint32_t i = 0; i < SLOTS; i++) {
        void *slot;

        assert_int_equal(ring_reserve_at(&p.producer, i, &slot), STATUS_OK);
        assert_int_equal((uintptr_t)slot % 8, 0);
    }
    views_close(&p.views);
}

static void many_become_readable_in_one_go(void **state)
{
    struct pair *p = *state;
    const void *seen;
    uint32_t got;
    void *slot;

    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(ring_reserve_at(&p->producer, i, &slot), STATUS_OK);
        *(uint32_t *)slot = 20 + i;
        assert_int_equal(ring_peek(&p->consumer, &seen), STATUS_AGAIN);
    }
    ring_publish_many(&p->producer, 5);
    assert_int_equal(ring_pending(&p->consumer), 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(receive(p, &got), STATUS_OK);
        assert_int_equal(got, 20 + i);
    }
    assert_int_equal(receive(p, &got), STATUS_AGAIN);
}

static void more_than_there_is_room_for_are_not_reserved(void **state)
{
    struct pair *p = *state;
    uint32_t got;
    void *slot;

    assert_int_equal(send(p, 1), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS - 2, &slot), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS - 1, &slot), STATUS_AGAIN);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS - 1, &slot), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS, &slot), STATUS_AGAIN);
    assert_int_equal(ring_reserve_at(&p->producer, UINT32_MAX, &slot), STATUS_AGAIN);
    ring_close(&p->producer);
    assert_int_equal(ring_reserve_at(&p->producer, 0, &slot), STATUS_CLOSED);
}

static void closed_ring_still_drains(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    assert_int_equal(send(p, 1), STATUS_OK);
    assert_int_equal(send(p, 2), STATUS_OK);
    ring_close(&p->producer);
    ring_close(&p->producer);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 2);
    assert_int_equal(receive(p, &got), STATUS_CLOSED);
}

static void closed_ring_takes_no_more(void **state)
{
    struct pair *p = *state;

    ring_close(&p->consumer);
    assert_int_equal(send(p, 1), STATUS_CLOSED);
}

static void indices_wrap_at_two_to_the_32(void **state)
{
    struct pair p;
    uint32_t got;

    (void)state;
    pair_open(&p, SLOTS, 4, UINT32_MAX - 2);
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(&p, i), STATUS_OK);
    assert_int_equal(send(&p, 99), STATUS_AGAIN);
    assert_int_equal(ring_pending(&p.consumer), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        assert_int_equal(receive(&p, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
    assert_int_equal(receive(&p, &got), STATUS_AGAIN);
    views_close(&p.views);
}

static void damaged_indices_are_reported(void **state)
{
    struct pair *p = *state;
    struct ring_shared *shared = p->views.a.base;
    uint32_t got;

    atomic_store_explicit(&shared->tail, 1000, memory_order_relaxed);
    assert_int_equal(receive(p, &got), STATUS_INTERNAL);
    assert_int_equal(send(p, 1), STATUS_INTERNAL);
    assert_non_null(strstr(log_last_error(), "damaged"));
}

static void late_end_goes_on_where_the_ring_stands(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(send(p, i), STATUS_OK);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.a.base, p->views.a.bytes, GENERATION, &p->consumer), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.b.base, p->views.b.bytes, GENERATION, &p->producer), STATUS_OK);
    assert_int_equal(send(p, 5), STATUS_OK);
    for (uint32_t i = 1; i < 6; i++) {
        assert_int_equal(receive(p, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
    assert_int_equal(receive(p, &got), STATUS_AGAIN);
}

static void late_producer_of_a_full_ring_finds_it_full(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(p, i), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.b.base, p->views.b.bytes, GENERATION, &p->producer), STATUS_OK);
    assert_int_equal(send(p, 100), STATUS_AGAIN);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 0);
}

/* As many as go, at most `wanted`, in one publish. */
static uint32_t send_several(struct pair *p, uint32_t first, uint32_t wanted)
{
    uint32_t n = 0;
    void *slot;

    while (n < wanted && ring_reserve_at(&p->producer, n, &slot) == STATUS_OK)
        *(uint32_t *)slot = first + n++;
    ring_publish_many(&p->producer, n);
    return n;
}

static void random_batches_match_a_queue(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (uint32_t slots = 1; slots <= 64; slots *= 4) {
        uint32_t sent = 0, received = 0, got;
        struct pair p;

        pair_open(&p, slots, 4, UINT32_MAX - 500);
        for (int i = 0; i < 3000; i++) {
            uint32_t wanted = (uint32_t)(test_random(&seed) % (slots + 2));
            uint32_t room = slots - (sent - received), n = send_several(&p, sent, wanted);

            assert_int_equal(n, wanted < room ? wanted : room);
            sent += n;
            for (uint64_t k = test_random(&seed) % (slots + 2); k > 0 && received < sent; k--) {
                assert_int_equal(receive(&p, &got), STATUS_OK);
                assert_int_equal(got, received++);
            }
        }
        views_close(&p.views);
    }
}

static void random_steps_match_a_queue(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (uint32_t slots = 1; slots <= 64; slots *= 4) {
        uint32_t sent = 0, received = 0, got;
        struct pair p;

        pair_open(&p, slots, 4, UINT32_MAX - 500);
        for (int i = 0; i < 5000; i++)
            if (test_random(&seed) & 1) {
                enum status s = send(&p, sent);

                assert_int_equal(s, sent - received == slots ? STATUS_AGAIN : STATUS_OK);
                sent += s == STATUS_OK;
            } else {
                enum status s = receive(&p, &got);

                assert_int_equal(s, sent == received ? STATUS_AGAIN : STATUS_OK);
                if (s == STATUS_OK)
                    assert_int_equal(got, received++);
            }
        views_close(&p.views);
    }
}

/* ---- two ends at once ---- */

struct duel {
    struct pair pair;
    struct segment words;     /* what the bells share */
    struct doorbell bells[2]; /* of the producer and of the consumer */
    struct pump sender, receiver;
};

static void duel_open(struct duel *d, uint32_t slots, uint64_t messages, bool bells)
{
    uint64_t deadline = spin_deadline_ns(TEST_PATIENCE_NS);

    pair_open(&d->pair, slots, PUMP_WORDS * 8, UINT32_MAX - 1000);
    assert_int_equal(segment_create("bells", 128, &d->words), STATUS_OK);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(doorbell_open(segment_at(&d->words, 64 * i, 64), &d->bells[i]), STATUS_OK);
    d->sender = (struct pump){
        .ring = d->pair.producer,
        .mine = bells ? &d->bells[0] : NULL,
        .theirs = bells ? &d->bells[1] : NULL,
        .spins = bells ? 1 : 100,
        .messages = messages,
        .deadline_ns = deadline,
    };
    d->receiver = (struct pump){
        .ring = d->pair.consumer,
        .mine = bells ? &d->bells[1] : NULL,
        .theirs = bells ? &d->bells[0] : NULL,
        .spins = bells ? 1 : 100,
        .messages = messages,
        .deadline_ns = deadline,
    };
}

static void duel_close(struct duel *d)
{
    for (int i = 0; i < 2; i++)
        doorbell_close(&d->bells[i]);
    segment_close(&d->words);
    views_close(&d->pair.views);
}

static void *sending_thread(void *context)
{
    return pump_send(context) ? context : NULL;
}

static void threads(uint64_t messages, bool bells)
{
    struct duel d;
    pthread_t sender;
    void *sent;

    duel_open(&d, 64, messages, bells);
    d.receiver.ring = d.sender.ring; /* one mapping: thread sanitizer goes by addresses */
    assert_int_equal(pthread_create(&sender, NULL, sending_thread, &d.sender), 0);
    bool received = pump_receive(&d.receiver);
    assert_int_equal(pthread_join(sender, &sent), 0);
    assert_true(received);
    assert_non_null(sent);
    duel_close(&d);
}

static void two_threads_exchange_50000(void **state)
{
    (void)state;
    threads(50000, false);
}

static void two_threads_with_doorbells_lose_no_wakeup(void **state)
{
    (void)state;
    threads(20000, true);
}

/* The reader looks just while the last message and the end come in. */
enum { ENDINGS = 20000 };

struct ending {
    struct pair pair;
    _Alignas(64) _Atomic uint32_t round; /* reader writes */
};

static void *ending_thread(void *context)
{
    struct ending *e = context;

    for (uint32_t i = 1; i <= ENDINGS; i++) {
        for (unsigned n = 1; atomic_load_explicit(&e->round, memory_order_acquire) != i; n++)
            if (n % 1000 == 0) /* the other one may need our core */
                sched_yield();
        send(&e->pair, i);
        ring_close(&e->pair.producer);
    }
    return NULL;
}

static void last_message_is_never_lost_in_closing(void **state)
{
    struct ending e;
    uint32_t lost = 0, got = 0;
    pthread_t other;

    (void)state;
    pair_open(&e.pair, SLOTS, 4, 0);
    e.pair.consumer = e.pair.producer; /* one mapping: thread sanitizer goes by addresses */
    atomic_init(&e.round, 0);
    assert_int_equal(pthread_create(&other, NULL, ending_thread, &e), 0);
    for (uint32_t i = 1; i <= ENDINGS; i++) {
        enum status s;
        unsigned looks = 0;

        atomic_store_explicit(&e.pair.producer.shared->closed, 0, memory_order_relaxed);
        atomic_store_explicit(&e.round, i, memory_order_release);
        while ((s = receive(&e.pair, &got)) != STATUS_CLOSED)
            if (s == STATUS_AGAIN && ++looks % 1000 == 0)
                sched_yield();
        lost += got != i;
        receive(&e.pair, &got); /* a lost one would be in the next round's way */
    }
    pthread_join(other, NULL);
    assert_int_equal(lost, 0);
    views_close(&e.pair.views);
}

static bool sending_child(void *context)
{
    return pump_send(context);
}

static bool receiving_child(void *context)
{
    return pump_receive(context);
}

static void two_processes_exchange_200000(void **state)
{
    struct duel d;
    pid_t sender;
    bool received;

    (void)state;
    duel_open(&d, 256, 200000, false);
    sender = child_start(sending_child, &d.sender);
    received = pump_receive(&d.receiver);
    child_must_succeed(sender);
    assert_true(received);
    duel_close(&d);
}

static void killed_producer_leaves_what_it_published(void **state)
{
    struct pair *p = *state;
    uint32_t got;
    pid_t child = fork();
    int status;

    if (child == 0) {
        send(p, 11);
        send(p, 12);
        raise(SIGKILL);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    ring_close(&p->consumer); /* the supervisor, after reaping */
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 12);
    assert_int_equal(receive(p, &got), STATUS_CLOSED);
}

/* With a single slot a lost wake-up has nobody to repair it. */
static void one_slot_serves_two_processes(void **state)
{
    (void)state;
    for (int bells = 0; bells < 2; bells++) {
        struct duel d;
        pid_t receiver;
        bool sent;

        duel_open(&d, 1, 5000, bells != 0);
        receiver = child_start(receiving_child, &d.receiver);
        sent = pump_send(&d.sender);
        child_must_succeed(receiver);
        assert_true(sent);
        duel_close(&d);
    }
}

#define ON_A_RING(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impossible_sizes_are_refused),
        ON_A_RING(another_generation_cannot_attach),
        ON_A_RING(header_that_lies_is_refused),
        ON_A_RING(later_changes_of_the_header_do_no_harm),
        ON_A_RING(full_ring_says_again_until_released),
        ON_A_RING(reserved_slot_is_unseen_until_published),
        ON_A_RING(peeked_slot_is_not_overwritten),
        cmocka_unit_test(slots_are_aligned_to_8_bytes),
        ON_A_RING(many_become_readable_in_one_go),
        ON_A_RING(more_than_there_is_room_for_are_not_reserved),
        ON_A_RING(closed_ring_still_drains),
        ON_A_RING(closed_ring_takes_no_more),
        cmocka_unit_test(indices_wrap_at_two_to_the_32),
        ON_A_RING(damaged_indices_are_reported),
        ON_A_RING(late_end_goes_on_where_the_ring_stands),
        ON_A_RING(late_producer_of_a_full_ring_finds_it_full),
        cmocka_unit_test(random_batches_match_a_queue),
        cmocka_unit_test(random_steps_match_a_queue),
        cmocka_unit_test(two_threads_exchange_50000),
        cmocka_unit_test(two_threads_with_doorbells_lose_no_wakeup),
        cmocka_unit_test(last_message_is_never_lost_in_closing),
        cmocka_unit_test(two_processes_exchange_200000),
        ON_A_RING(killed_producer_leaves_what_it_published),
        cmocka_unit_test(one_slot_serves_two_processes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
