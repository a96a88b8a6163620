/* bench_asleep.c - a message for a reader that sleeps in the kernel.
 *
 * One way only, with CLOCK_MONOTONIC read on both sides (it is the same on all
 * cores): the sender stamps the message before publishing, the reader looks at
 * the clock when it has it. The sender shoots only once the reader has slept
 * for a while, so that each sample pays for a real wake-up. */
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/doorbell.h"
#include "ipc/proc.h"
#include "ipc/ring.h"
#include "quern/log.h"
#include "tools/bench_ways.h"

enum { SLOTS = 64, TALK_AT = 32 << 10 };
static const uint64_t settle_ns = 60 * 1000; /* from saying "asleep" to being it */

/* What reader and sender tell each other beside the message. */
struct talk {
    struct doorbell_shared bell;            /* the ring's reader */
    _Alignas(64) _Atomic uint32_t asleep;   /* reader: sleeps it has begun (bare ways) */
    _Alignas(64) _Atomic uint32_t got;      /* reader: messages it has */
    uint32_t ns;                            /* reader: how long the last one took */
    _Alignas(64) _Atomic uint32_t sent;     /* sender: messages; the futex */
    uint64_t stamp;                         /* sender: before the last one (bare ways) */
};

static struct ring ring;
static struct doorbell bell;
static int event = -1, death_keep = -1, death = -1;

static struct talk *talk_of(const struct bench *b)
{
    return (struct talk *)(void *)(b->work + TALK_AT);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void finish(struct bench *b)
{
    (void)b;
    doorbell_close(&bell);
    close_fd(&event);
    close_fd(&death_keep);
    close_fd(&death);
}

/* The reader has a message of time `stamp`. */
static void report(struct talk *t, uint64_t stamp)
{
    t->ns = (uint32_t)(spin_now_ns() - stamp);
    /* relaxed: ours. release: ns is written before; pairs with wait_for_answer() */
    uint32_t got = atomic_load_explicit(&t->got, memory_order_relaxed);
    atomic_store_explicit(&t->got, got + 1, memory_order_release);
}

static void settle(void)
{
    uint64_t end = spin_deadline_ns(settle_ns);

    while (spin_now_ns() < end)
        spin_pause();
}

/* The sender's: waits for answer `number` and takes its time. */
static bool wait_for_answer(struct bench *b, uint32_t number, uint32_t *ns)
{
    struct talk *t = talk_of(b);

    if (!bench_wait(b, &t->got, number, true))
        return false;
    *ns = t->ns;
    return true;
}

/* The runtime's own: ring and doorbell --------------------------------------------------------- */

static enum status bell_prepare(struct bench *b, const struct duel *d)
{
    enum status s = ring_init(b->work, SLOTS, BENCH_MESSAGE_BYTES, 1);

    (void)d;
    if (s == STATUS_OK)
        s = ring_attach(b->work, TALK_AT, 1, &ring);
    if (s == STATUS_OK)
        s = doorbell_open(&talk_of(b)->bell, &bell);
    return s == STATUS_OK ? proc_death_pipe(&death_keep, &death) : s;
}

/* The wait loop of doorbell.h, as a worker has it. */
static void bell_peer(struct bench *b, const struct duel *d, int peer)
{
    unsigned char message[BENCH_MESSAGE_BYTES];
    const void *slot;
    uint64_t stamp;

    (void)d;
    (void)peer;
    while (spin_now_ns() < b->deadline_ns) {
        while (ring_peek(&ring, &slot) == STATUS_OK) {
            memcpy(message, slot, sizeof(message));
            ring_release(&ring);
            memcpy(&stamp, message, sizeof(stamp));
            report(talk_of(b), stamp);
        }
        doorbell_arm(&bell);
        if (ring_pending(&ring) == 0 && doorbell_wait(&bell, death, -1) < 0)
            return;
        doorbell_disarm(&bell);
    }
}

static bool bell_shoot(struct bench *b, const struct duel *d, uint32_t *ns)
{
    struct talk *t = talk_of(b);
    /* relaxed: we have waited for it */
    uint32_t number = atomic_load_explicit(&t->got, memory_order_relaxed) + 1;
    unsigned char message[BENCH_MESSAGE_BYTES] = {0};
    uint64_t stamp;
    void *slot;

    (void)d;
    if (!bench_wait(b, &t->bell.sleeping, 1, true))
        return false;
    settle();
    stamp = spin_now_ns();
    memcpy(message, &stamp, sizeof(stamp));
    if (ring_reserve(&ring, &slot) != STATUS_OK)
        return false;
    memcpy(slot, message, sizeof(message));
    ring_publish(&ring);
    return doorbell_ring(&bell) == STATUS_OK && wait_for_answer(b, number, ns);
}

const struct duel bench_ring_asleep = {
    .name = "ring and doorbell", .peers = 1, .hops = 1, .prepare = bell_prepare,
    .peer = bell_peer, .shoot = bell_shoot, .finish = finish};

/* Bare wakes: the limit ---------------------------------------------------------------------- */

static enum status event_prepare(struct bench *b, const struct duel *d)
{
    (void)b;
    (void)d;
    event = eventfd(0, EFD_CLOEXEC);
    return event >= 0 ? STATUS_OK : log_fail(STATUS_IO, "bench: no eventfd: raise ulimit -n");
}

static enum status futex_prepare(struct bench *b, const struct duel *d)
{
    (void)b;
    (void)d;
    return STATUS_OK; /* a word of zero is all there is */
}

static bool sleep_in_read(struct talk *t, uint32_t seen)
{
    uint64_t count;

    (void)t;
    (void)seen;
    return read(event, &count, sizeof(count)) == (ssize_t)sizeof(count);
}

static bool sleep_in_poll(struct talk *t, uint32_t seen)
{
    struct pollfd p = {.fd = event, .events = POLLIN};

    return poll(&p, 1, -1) == 1 && sleep_in_read(t, seen);
}

static bool sleep_in_futex(struct talk *t, uint32_t seen)
{
    syscall(SYS_futex, &t->sent, FUTEX_WAIT, seen, NULL, NULL, 0);
    return true;
}

static void sleep_and_report(struct bench *b, bool (*sleep_once)(struct talk *, uint32_t))
{
    struct talk *t = talk_of(b);

    for (uint32_t seen = 0; spin_now_ns() < b->deadline_ns;) {
        /* relaxed: the sender waits a while after it */
        atomic_store_explicit(&t->asleep, seen + 1, memory_order_relaxed);
        if (!sleep_once(t, seen))
            return;
        /* acquire: the stamp is written before; pairs with send_word() */
        if (atomic_load_explicit(&t->sent, memory_order_acquire) == seen)
            continue;
        seen++;
        report(t, t->stamp);
    }
}

static void read_peer(struct bench *b, const struct duel *d, int peer)
{
    (void)d;
    (void)peer;
    sleep_and_report(b, sleep_in_read);
}

static void poll_peer(struct bench *b, const struct duel *d, int peer)
{
    (void)d;
    (void)peer;
    sleep_and_report(b, sleep_in_poll);
}

static void futex_peer(struct bench *b, const struct duel *d, int peer)
{
    (void)d;
    (void)peer;
    sleep_and_report(b, sleep_in_futex);
}

/* Once the reader sleeps: stamps and stores the next number; it is *number. */
static bool send_word(struct bench *b, uint32_t *number)
{
    struct talk *t = talk_of(b);

    /* relaxed: ours */
    *number = atomic_load_explicit(&t->sent, memory_order_relaxed) + 1;
    if (!bench_wait(b, &t->asleep, *number, true))
        return false;
    settle();
    t->stamp = spin_now_ns();
    /* release: pairs with sleep_and_report() */
    atomic_store_explicit(&t->sent, *number, memory_order_release);
    return true;
}

static bool event_shoot(struct bench *b, const struct duel *d, uint32_t *ns)
{
    static const uint64_t one = 1;
    uint32_t number;

    (void)d;
    return send_word(b, &number) && write(event, &one, sizeof(one)) == (ssize_t)sizeof(one) &&
           wait_for_answer(b, number, ns);
}

static bool futex_shoot(struct bench *b, const struct duel *d, uint32_t *ns)
{
    uint32_t number;

    (void)d;
    if (!send_word(b, &number))
        return false;
    syscall(SYS_futex, &talk_of(b)->sent, FUTEX_WAKE, 1, NULL, NULL, 0);
    return wait_for_answer(b, number, ns);
}

const struct duel bench_bare_wakes[BENCH_BARE_WAKES] = {
    {.name = "eventfd, read", .peers = 1, .hops = 1, .prepare = event_prepare, .peer = read_peer,
        .shoot = event_shoot, .finish = finish},
    {.name = "eventfd, poll and read", .peers = 1, .hops = 1, .prepare = event_prepare,
        .peer = poll_peer, .shoot = event_shoot, .finish = finish},
    {.name = "futex", .peers = 1, .hops = 1, .prepare = futex_prepare, .peer = futex_peer,
        .shoot = futex_shoot, .finish = finish},
};
