/* flag.h - one word of shared memory that a writer advances and peers wait for.
 *
 * Memory:   a `struct shm_flag` fills a 64-byte line of a segment or symmetric
 *           heap. Zero bytes are a flag at value 0.
 * Writers:  one at a time; values only advance (modulo 2^32: a wait for `value`
 *           is over once (int32_t)(now - value) >= 0, so up to 2^31 ahead).
 * Blocking: flag_wait() spins a little, yields a little, then sleeps in the
 *           kernel: ranks may outnumber cores, and a waiter must not burn the
 *           core its peer needs.
 * Death:    flag_wait() leaves when the abort word becomes non-zero (noticed
 *           within 50 ms asleep) or the deadline passes. */
#ifndef IPC_FLAG_H
#define IPC_FLAG_H

#include <stdatomic.h>
#include <stdint.h>

#include "quern/status.h"

struct shm_flag {
    _Alignas(64) _Atomic uint32_t value; /* the writer writes */
    _Atomic uint32_t sleepers;           /* waiters count themselves in and out */
};

/* Looks before a waiter yields its core; about 2000, and 0 when there are more
 * ranks than cores. Per process, set at start before other threads exist. */
extern unsigned flag_spin_iterations;

/* value 0, nobody waits. */
void flag_init(struct shm_flag *f);

/* Everything written before is visible to whoever sees `value`. A system call
 * only when somebody sleeps on this flag. */
void flag_publish(struct shm_flag *f, uint32_t value);

/* The value now; with acquire, so what was written before it may be read. */
uint32_t flag_value(const struct shm_flag *f);

/* OK once the flag has reached `value`; DEAD when *abort_word (may be NULL) is
 * not 0; TIMEOUT at deadline_ns (CLOCK_MONOTONIC; SPIN_FOREVER for none). The
 * last two are not logged: the caller knows what it waited for. */
enum status flag_wait(
    struct shm_flag *f, uint32_t value, const _Atomic uint32_t *abort_word, uint64_t deadline_ns);

#endif
