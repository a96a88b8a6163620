/* ring_pump.c - the two ends of a stress.
 *
 * Waiting with doorbells goes step by step, not through doorbell_await(), to
 * put a time limit on each sleep: one that ends by its limit while there was
 * something to do is a lost wake-up. */
#include "tests/ipc/ring_pump.h"

#include <sched.h>

#include "quern/spin.h"

enum { SLEEP_LIMIT_MS = 2000 };

static bool sender_ready(const struct pump *p)
{
    return ring_pending(&p->ring) < p->ring.slots;
}

static bool receiver_ready(const struct pump *p)
{
    /* closed before pending, as ring_peek() does */
    return atomic_load_explicit(&p->ring.shared->closed, memory_order_acquire) != 0 ||
           ring_pending(&p->ring) != 0;
}

static bool sleep_once(struct pump *p, bool (*ready)(const struct pump *p))
{
    enum status s = STATUS_OK;

    doorbell_arm(p->mine);
    if (!ready(p)) {
        s = doorbell_wait(p->mine, -1, SLEEP_LIMIT_MS);
        if (s == STATUS_AGAIN && ready(p)) /* it may have come just now, with the bell behind it */
            s = doorbell_wait(p->mine, -1, SLEEP_LIMIT_MS) == STATUS_OK ? STATUS_OK : STATUS_DEAD;
    }
    doorbell_disarm(p->mine);
    return s == STATUS_OK || s == STATUS_AGAIN;
}

static bool wait_until(struct pump *p, bool (*ready)(const struct pump *p))
{
    while (!ready(p)) {
        for (unsigned i = 0; i < p->spins && !ready(p); i++)
            spin_pause();
        if (ready(p))
            break;
        if (spin_now_ns() > p->deadline_ns)
            return false;
        if (p->mine == NULL)
            sched_yield();
        else if (!sleep_once(p, ready))
            return false;
    }
    return true;
}

static void notify(struct pump *p)
{
    if (p->theirs != NULL)
        doorbell_ring(p->theirs);
}

static uint64_t word_of(uint64_t message, int i)
{
    return (message + (uint64_t)i) * 0x9e3779b97f4a7c15u;
}

bool pump_send(struct pump *p)
{
    for (uint64_t n = 0; n < p->messages;) {
        void *slot;
        enum status s = ring_reserve(&p->ring, &slot);

        if (s == STATUS_AGAIN && wait_until(p, sender_ready))
            continue;
        if (s != STATUS_OK)
            return false;
        for (int i = 0; i < PUMP_WORDS; i++)
            ((uint64_t *)slot)[i] = word_of(n, i);
        ring_publish(&p->ring);
        notify(p);
        n++;
    }
    ring_close(&p->ring);
    notify(p);
    return true;
}

bool pump_receive(struct pump *p)
{
    for (uint64_t n = 0;;) {
        const void *slot;
        enum status s = ring_peek(&p->ring, &slot);

        if (s == STATUS_AGAIN && wait_until(p, receiver_ready))
            continue;
        if (s != STATUS_OK)
            return s == STATUS_CLOSED && n == p->messages;
        for (int i = 0; i < PUMP_WORDS; i++)
            if (((const uint64_t *)slot)[i] != word_of(n, i))
                return false;
        ring_release(&p->ring);
        notify(p);
        n++;
    }
}
