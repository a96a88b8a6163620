/* flag.h - one word that its writer advances and others wait for: how ranks wait
 * for each other in collectives and rendezvous, and a device's threads for
 * their jobs and for each other.
 *
 * Memory:   a `struct flag` fills a 64-byte line; between processes it lies in a
 *           segment or symmetric heap, where zero bytes are a flag at value 0.
 * Writers:  one at a time; values only advance (modulo 2^32: a wait for `value`
 *           is over once (int32_t)(now - value) >= 0, so up to 2^31 ahead).
 * Blocking: flag_wait() looks for at most flag_spin_ns, then sleeps in the
 *           kernel (a futex): where threads outnumber cores, a waiter must not
 *           burn the core that the one it waits for needs.
 * Death:    both waits leave when the abort word becomes non-zero (noticed
 *           within 50 ms asleep) or the deadline passes. */
#ifndef QUERN_FLAG_H
#define QUERN_FLAG_H

#include <stdatomic.h>
#include <stdint.h>

#include "quern/status.h"

/* Who waits: other processes, too, or threads of this one alone (whose sleep is
 * a little cheaper). */
enum flag_scope { FLAG_BETWEEN_PROCESSES = 0, FLAG_BETWEEN_THREADS = 128 };

struct flag {
    _Alignas(64) _Atomic uint32_t value; /* the writer writes */
    _Atomic uint32_t sleepers;           /* waiters count themselves in and out */
    uint32_t scope;                      /* flag_init() writes: enum flag_scope */
};

/* How long a waiter looks before it sleeps; 0 where threads that work at the same
 * time outnumber the cores. Per process, set at start before other threads exist. */
enum { FLAG_SPIN_NS = 15000 };
extern uint64_t flag_spin_ns;

/* value 0, nobody waits. */
void flag_init(struct flag *f, enum flag_scope scope);

/* Everything written before is visible to whoever sees `value`. A system call
 * only when somebody sleeps on this flag. */
void flag_publish(struct flag *f, uint32_t value);

/* The value now; with acquire, so what was written before it may be read. */
uint32_t flag_value(const struct flag *f);

/* OK once the flag has reached `value`; DEAD when *abort_word (may be NULL) is
 * not 0; TIMEOUT at deadline_ns (CLOCK_MONOTONIC; SPIN_FOREVER for none). The
 * last two are not logged: the caller knows what it waited for. */
enum status flag_wait(
    struct flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns);

/* The same without the spin: for a wait that is known to be long. */
enum status flag_sleep(
    struct flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns);

#endif
