/* spin.h - what every wait begins with: a pause, the one full fence, the clock
 * that deadlines are measured with, and the loop that looks for a while before
 * its caller sleeps (on a word: flag.h; on an eventfd: ipc/doorbell.h). */
#ifndef QUERN_SPIN_H
#define QUERN_SPIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* A deadline that never comes. */
#define SPIN_FOREVER UINT64_MAX

/* Tells the core that this is a spin: its sibling runs, the exit is not mispredicted. */
static inline void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

/* Orders our earlier stores before our later loads: "I published, are you
 * asleep?" against "I sleep, did you publish?". Acquire and release cannot say
 * that. Data never depends on it (every byte travels over a release/acquire
 * pair), so it does no harm that thread sanitizer does not model fences. */
static inline void spin_fence(void)
{
#pragma GCC diagnostic push
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif
    atomic_thread_fence(memory_order_seq_cst);
#pragma GCC diagnostic pop
}

/* CLOCK_MONOTONIC in nanoseconds: the same in every process of the machine. */
static inline uint64_t spin_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* `ns` from now; a sum past the end of time is SPIN_FOREVER. */
static inline uint64_t spin_deadline_ns(uint64_t ns)
{
    uint64_t now = spin_now_ns();

    return ns > SPIN_FOREVER - now ? SPIN_FOREVER : now + ns;
}

/* Looks until ready(context) or for `ns`; 0: looks once. True when it was ready.
 * The clock is read once per 64 looks: it costs as much as several of them. */
static inline bool spin_until(bool (*ready)(void *context), void *context, uint64_t ns)
{
    uint64_t deadline;

    if (ready(context))
        return true;
    if (ns == 0)
        return false;
    deadline = spin_deadline_ns(ns);
    do
        for (int i = 0; i < 64; i++) {
            spin_pause();
            if (ready(context))
                return true;
        }
    while (spin_now_ns() < deadline);
    return false;
}

#endif
