/* test_ring_peers.c - the message ring with both ends at work: between threads, and between
 * processes. */
#include "tests/ipc/ring_pair.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>

#include "tests/ipc/ring_pump.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_threads_exchange_50000),
        cmocka_unit_test(two_threads_with_doorbells_lose_no_wakeup),
        cmocka_unit_test(last_message_is_never_lost_in_closing),
        cmocka_unit_test(two_processes_exchange_200000),
        ON_A_RING(killed_producer_leaves_what_it_published),
        cmocka_unit_test(one_slot_serves_two_processes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
