/* bench_flow.c - how many messages of 64 bytes go through a ring in a second.
 *
 * Both ends are awake and no bell is rung: a sender with many messages rings
 * once for all of them. The bare way has the number inside of the message's
 * own cache line, so that one line moves per message, and returns space 64
 * messages at a time: no queue can do with less. */
#include <string.h>

#include "ipc/ring.h"
#include "quern/log.h"
#include "tools/bench_ways.h"

enum { SLOTS = 256, LINE = 64, HEAD_AT = 32 << 10, BATCH = 64, CLOCK_EVERY = 1024 };

static struct ring ring;
static volatile unsigned char sink; /* what was read is used */

/* Sends one; false when it waited past the deadline. */
typedef bool send_one(struct bench *b, uint32_t number);

static enum status no_prepare(struct bench *b, const struct duel *d)
{
    (void)b;
    (void)d;
    return STATUS_OK;
}

static enum status run(struct bench *b, const struct duel *d, uint64_t ns, send_one *send,
    double *per_second)
{
    uint64_t start, now;
    uint32_t sent = 0;
    enum status s;

    bench_prepare(b, ns);
    s = d->prepare(b, d);
    if (s != STATUS_OK)
        return s;
    s = bench_peers_start(b, d);
    start = now = spin_now_ns();
    while (s == STATUS_OK && now - start < ns) {
        for (int i = 0; i < CLOCK_EVERY && s == STATUS_OK; i++)
            if (!send(b, sent++))
                s = log_fail(STATUS_TIMEOUT, "bench: a peer stopped reading (%s)", d->name);
        now = spin_now_ns();
    }
    bench_peers_end(b);
    if (s == STATUS_OK)
        *per_second = sent / ((double)(now - start) * 1e-9);
    return s;
}

/* The ring --------------------------------------------------------------------------------- */

static enum status ring_prepare(struct bench *b, const struct duel *d)
{
    enum status s = ring_init(b->work, SLOTS, BENCH_MESSAGE_BYTES, 1);

    (void)d;
    return s == STATUS_OK ? ring_attach(b->work, HEAD_AT, 1, &ring) : s;
}

static bool ring_send_one(struct bench *b, uint32_t number)
{
    uint32_t turns = 0;
    void *slot;

    while (ring_reserve(&ring, &slot) != STATUS_OK)
        if (!bench_spin(b, &turns, true))
            return false;
    memset(slot, (int)(number & 0xff), BENCH_MESSAGE_BYTES);
    ring_publish(&ring);
    return true;
}

static void ring_reader(struct bench *b, const struct duel *d, int peer)
{
    unsigned char message[BENCH_MESSAGE_BYTES];
    uint32_t turns = 0;
    const void *slot;

    (void)d;
    (void)peer;
    for (;;) {
        while (ring_peek(&ring, &slot) != STATUS_OK)
            if (!bench_spin(b, &turns, true))
                return;
        memcpy(message, slot, sizeof(message));
        ring_release(&ring);
        sink = message[LINE - 1];
    }
}

enum status bench_flow_ring(struct bench *b, uint64_t ns, double *per_second)
{
    static const struct duel way = {
        .name = "ring", .peers = 1, .prepare = ring_prepare, .peer = ring_reader};

    return run(b, &way, ns, ring_send_one, per_second);
}

/* Bare lines --------------------------------------------------------------------------------- */

struct line {
    _Alignas(LINE) _Atomic uint32_t number; /* sender: 1 + the message's number */
    unsigned char payload[LINE - sizeof(uint32_t)];
};

static struct line *line_of(const struct bench *b, uint32_t number)
{
    return (struct line *)(void *)b->work + number % SLOTS;
}

/* Reader: messages it has returned the space of. */
static _Atomic uint32_t *head_of(const struct bench *b)
{
    return (_Atomic uint32_t *)(void *)(b->work + HEAD_AT);
}

static bool bare_send_one(struct bench *b, uint32_t number)
{
    static uint32_t head; /* a past value: it only grows, but for a new run */
    struct line *l = line_of(b, number);
    uint32_t turns = 0;

    if (number == 0)
        head = 0;
    while (number - head >= SLOTS) {
        /* acquire: the reader was done with the line; pairs with bare_reader() */
        head = atomic_load_explicit(head_of(b), memory_order_acquire);
        if (!bench_spin(b, &turns, false))
            return false;
    }
    memset(l->payload, (int)(number & 0xff), sizeof(l->payload));
    /* release: the payload is written before; pairs with bench_wait() in bare_reader() */
    atomic_store_explicit(&l->number, number + 1, memory_order_release);
    return true;
}

static void bare_reader(struct bench *b, const struct duel *d, int peer)
{
    unsigned char payload[LINE - sizeof(uint32_t)];

    (void)d;
    (void)peer;
    for (uint32_t number = 0;; number++) {
        struct line *l = line_of(b, number);

        if (!bench_wait(b, &l->number, number + 1, false))
            return;
        memcpy(payload, l->payload, sizeof(payload));
        sink = payload[sizeof(payload) - 1];
        if ((number + 1) % BATCH == 0)
            /* release: we have read it all; pairs with bare_send_one() */
            atomic_store_explicit(head_of(b), number + 1, memory_order_release);
    }
}

enum status bench_flow_bare(struct bench *b, uint64_t ns, double *per_second)
{
    static const struct duel way = {
        .name = "bare lines", .peers = 1, .prepare = no_prepare, .peer = bare_reader};

    return run(b, &way, ns, bare_send_one, per_second);
}
