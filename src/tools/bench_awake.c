/* bench_awake.c - there and back between processes that never sleep.
 *
 * Half a round trip is a hop: two clocks of two cores are never compared. A
 * ring's hop includes the doorbell, which finds its reader awake, because that
 * is what a sender pays. Local ends are static: after the fork each process
 * has its own. */
#include <string.h>

#include "ipc/doorbell.h"
#include "ipc/broadcast_ring.h"
#include "ipc/ring.h"
#include "tools/bench_ways.h"

enum { SLOTS = 64, LINE = 64, PONG_AT = 16 << 10, BELLS_AT = 32 << 10, WORDS_AT = 48 << 10 };

static struct ring ping, pong;
static struct broadcast_ring fan;
static struct doorbell bells[BENCH_PEERS];

/* Line i of the words that bare ways and the broadcast ring's readers use. */
static _Atomic uint32_t *word(const struct bench *b, int i)
{
    return (_Atomic uint32_t *)(void *)(b->work + WORDS_AT + i * LINE);
}

static enum status open_bells(struct bench *b, int n)
{
    struct doorbell_shared *shared = (struct doorbell_shared *)(void *)(b->work + BELLS_AT);
    enum status s = STATUS_OK;

    for (int i = 0; i < n && s == STATUS_OK; i++)
        s = doorbell_open(&shared[i], &bells[i]);
    return s;
}

static void close_bells(struct bench *b)
{
    (void)b;
    for (int i = 0; i < BENCH_PEERS; i++)
        doorbell_close(&bells[i]);
}

/* Rings ---------------------------------------------------------------------------------- */

static enum status open_ring(struct bench *b, size_t at, struct ring *r)
{
    enum status s = ring_init(b->work + at, SLOTS, BENCH_MESSAGE_BYTES, 1);

    return s == STATUS_OK ? ring_attach(b->work + at, PONG_AT, 1, r) : s;
}

static enum status ring_prepare(struct bench *b, const struct duel *d)
{
    enum status s = open_ring(b, 0, &ping);

    (void)d;
    if (s == STATUS_OK)
        s = open_ring(b, PONG_AT, &pong);
    return s == STATUS_OK ? open_bells(b, 2) : s;
}

static bool ring_send(struct ring *r, struct doorbell *bell, const unsigned char *message)
{
    void *slot;

    if (ring_reserve(r, &slot) != STATUS_OK)
        return false;
    memcpy(slot, message, BENCH_MESSAGE_BYTES);
    ring_publish(r);
    return doorbell_ring(bell) == STATUS_OK;
}

static bool ring_receive(const struct bench *b, struct ring *r, unsigned char *message)
{
    uint32_t turns = 0;
    const void *slot;

    while (ring_peek(r, &slot) != STATUS_OK)
        if (!bench_spin(b, &turns, true))
            return false;
    memcpy(message, slot, BENCH_MESSAGE_BYTES);
    ring_release(r);
    return true;
}

static void ring_peer(struct bench *b, const struct duel *d, int peer)
{
    unsigned char message[BENCH_MESSAGE_BYTES];

    (void)d;
    (void)peer;
    while (ring_receive(b, &ping, message) && ring_send(&pong, &bells[1], message))
        ;
}

static bool ring_shoot(struct bench *b, const struct duel *d, uint32_t *ns)
{
    unsigned char message[BENCH_MESSAGE_BYTES] = {0};
    uint64_t start = spin_now_ns();

    (void)d;
    if (!ring_send(&ping, &bells[0], message) || !ring_receive(b, &pong, message))
        return false;
    *ns = (uint32_t)(spin_now_ns() - start);
    return true;
}

const struct duel bench_ring_awake = {
    .name = "ring", .peers = 1, .hops = 2, .prepare = ring_prepare, .peer = ring_peer,
    .shoot = ring_shoot, .finish = close_bells};

/* Fanout: readers answer each in a word of their own ------------------------------------------ */

static enum status broadcast_ring_prepare(struct bench *b, const struct duel *d)
{
    enum status s = broadcast_ring_init(b->work, SLOTS, BENCH_MESSAGE_BYTES, (uint32_t)d->peers, 1);

    if (s == STATUS_OK)
        s = broadcast_ring_attach(b->work, BELLS_AT, 1, &fan);
    return s == STATUS_OK ? open_bells(b, d->peers) : s;
}

static void broadcast_ring_peer(struct bench *b, const struct duel *d, int peer)
{
    unsigned char message[BENCH_MESSAGE_BYTES];
    uint32_t turns = 0, number = 0;
    const void *slot;

    (void)d;
    for (;;) {
        while (broadcast_ring_peek(&fan, (uint32_t)peer, &slot) != STATUS_OK)
            if (!bench_spin(b, &turns, true))
                return;
        memcpy(message, slot, sizeof(message));
        broadcast_ring_release(&fan, (uint32_t)peer);
        /* release: pairs with bench_wait() in broadcast_ring_shoot() */
        atomic_store_explicit(word(b, peer), ++number, memory_order_release);
    }
}

static bool broadcast_ring_shoot(struct bench *b, const struct duel *d, uint32_t *ns)
{
    /* relaxed: a reader's last answer, which we have waited for */
    uint32_t number = atomic_load_explicit(word(b, 0), memory_order_relaxed) + 1;
    uint64_t start = spin_now_ns();
    void *slot;

    if (broadcast_ring_reserve(&fan, &slot) != STATUS_OK)
        return false;
    memset(slot, 0, BENCH_MESSAGE_BYTES);
    broadcast_ring_publish(&fan);
    for (int i = 0; i < d->peers; i++)
        doorbell_ring(&bells[i]);
    for (int i = 0; i < d->peers; i++)
        if (!bench_wait(b, word(b, i), number, true))
            return false;
    *ns = (uint32_t)(spin_now_ns() - start);
    return true;
}

const struct duel bench_broadcast_one = {
    .name = "broadcast_ring to 1", .peers = 1, .hops = 2, .prepare = broadcast_ring_prepare, .peer = broadcast_ring_peer,
    .shoot = broadcast_ring_shoot, .finish = close_bells};
const struct duel bench_broadcast_three = {
    .name = "broadcast_ring to 3", .peers = 3, .hops = 2, .prepare = broadcast_ring_prepare, .peer = broadcast_ring_peer,
    .shoot = broadcast_ring_shoot, .finish = close_bells};

/* Bare words: the limit. On one line, odd numbers are shots and even ones answers ------------ */

static enum status bare_prepare(struct bench *b, const struct duel *d)
{
    (void)b;
    (void)d;
    return STATUS_OK; /* words of zero are all there is */
}

static void bare_peer(struct bench *b, const struct duel *d, int peer)
{
    uint32_t shot = 1;

    for (;; shot += 2) {
        if (!bench_wait(b, word(b, 0), shot, d->pause))
            return;
        /* release: pairs with bench_wait() in bare_shoot() */
        atomic_store_explicit(word(b, d->one_line ? 0 : 1 + peer), shot + 1, memory_order_release);
    }
}

static bool bare_shoot(struct bench *b, const struct duel *d, uint32_t *ns)
{
    /* relaxed: the last answer, which we have waited for */
    uint32_t answer = atomic_load_explicit(word(b, d->one_line ? 0 : 1), memory_order_relaxed);
    uint64_t start = spin_now_ns();

    /* release: pairs with bench_wait() in bare_peer() */
    atomic_store_explicit(word(b, 0), answer + 1, memory_order_release);
    for (int i = 0; i < d->peers; i++)
        if (!bench_wait(b, word(b, d->one_line ? 0 : 1 + i), answer + 2, d->pause))
            return false;
    *ns = (uint32_t)(spin_now_ns() - start);
    return true;
}

#define BARE(what, n, one, pauses)                                                             \
    {.name = what, .peers = n, .hops = 2, .one_line = one, .pause = pauses,                    \
        .prepare = bare_prepare, .peer = bare_peer, .shoot = bare_shoot}

const struct duel bench_bare_one[BENCH_BARE_ONE] = {
    BARE("a word in one cache line", 1, true, false),
    BARE("a word in one cache line, with pause", 1, true, true),
    BARE("a word each way", 1, false, false),
    BARE("a word each way, with pause", 1, false, true),
};
const struct duel bench_bare_three[BENCH_BARE_THREE] = {
    BARE("a word to three readers", 3, false, false),
    BARE("a word to three readers, with pause", 3, false, true),
};
