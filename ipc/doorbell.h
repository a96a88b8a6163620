/* doorbell.h - wakes the reader of a ring, or a writer that waits for room, and
 * costs nothing while it is awake.
 *
 * Memory:   the `sleeping` word lies in a segment, one per reader; the eventfd
 *           is inherited by the workers (proc_spawn) or waited on by a loop.
 * Blocking: doorbell_ring() never. doorbell_wait() and doorbell_await() sleep
 *           in poll() until rung, the timeout, or the death of the supervisor.
 * Death:    `death_fd` is the read end of proc_death_pipe(): it hangs up when
 *           the supervisor is gone. -1 where there is nothing to watch.
 *
 * Any number of ringers, one sleeper. Rings coalesce: any number of them while
 * the reader is awake cost no system call, while it sleeps one. A wake-up says
 * only "look": there may be nothing.
 *
 * The only correct wait loop:
 *
 *     for (;;) {
 *         while (ring_peek(r, &message) == STATUS_OK) { use it; ring_release(r); }
 *         doorbell_arm(d);                        // sleeping = 1; full fence
 *         if (ring_pending(r) != 0) {             // look again
 *             doorbell_disarm(d);
 *             continue;
 *         }
 *         s = doorbell_wait(d, death_fd, -1);     // sleep
 *         doorbell_disarm(d);                     // sleeping = 0; drain if rung
 *         if (s == STATUS_DEAD) return s;
 *     }
 *
 * and the ringer's half: ring_publish(r); doorbell_ring(d). A ring's closing is
 * rung too, and "look again" must count it as something (ring_peek() does). A
 * reader that sleeps in an event loop has the loop wait on `fd` (loop_bell()) in the
 * place of doorbell_wait(), and calls doorbell_awake() in that of doorbell_disarm():
 * to the loop each write is an event of its own, so nothing is ever drained.
 * It arms only when it would sleep: while it is awake, rings cost nothing.
 *
 * A writer that finds the ring (or ring buffer, or broadcast ring) full waits in
 * the same way on a bell of its own, the room bell:
 *
 *     while ((s = ring_reserve(r, &slot)) == STATUS_AGAIN) {
 *         // what was reserved before is published, and its reader rung
 *         s = doorbell_await(room, death_fd, has_room, r, 0);
 *         if (s != STATUS_OK) return s;
 *     }
 *
 * where has_room() reserves and counts whatever is not AGAIN as something. The
 * reader's half: ring_release(r) as often as there is something, and before it
 * sleeps doorbell_ring(room). That costs it a fence, and a system call only if
 * somebody waits for room. What else ends the wait (an abort word) has to be
 * looked at by has_room(), and whoever sets it rings. */
#ifndef IPC_DOORBELL_H
#define IPC_DOORBELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

struct doorbell_shared {
    _Alignas(64) _Atomic uint32_t sleeping; /* sleeper sets 1; sleeper or a ringer sets 0 */
};

struct doorbell {
    struct doorbell_shared *shared; /* in a segment, not owned */
    int fd;                         /* eventfd, non-blocking, close-on-exec; owned */
};

/* Is there something to do? Must look at shared memory afresh and not block. */
typedef bool doorbell_ready(void *context);

/* Makes the eventfd; `shared` starts awake. The creator calls this. IO. */
enum status doorbell_open(struct doorbell_shared *shared, struct doorbell *out);

/* The other processes' way: takes the inherited `fd` over. INVALID when it is
 * not open (it stays the caller's). */
enum status doorbell_attach(struct doorbell_shared *shared, int fd, struct doorbell *out);

/* Another word for the same sleeper and eventfd: a process that sleeps either
 * for work or for room needs one eventfd for both. It is armed on one of them
 * at a time, and rings of the other then cost nothing. Zero bytes at `shared`
 * are awake. *out is not closed: the eventfd stays `of`'s, which outlives it. */
void doorbell_share(
    struct doorbell_shared *shared, const struct doorbell *of, struct doorbell *out);

void doorbell_close(struct doorbell *d);

/* After publishing. Wakes the reader if it sleeps. IO when the eventfd is broken. */
enum status doorbell_ring(struct doorbell *d);

/* The sleeper's steps, see above. Disarming makes a system call only when it was rung. */
void doorbell_arm(struct doorbell *d);
void doorbell_disarm(struct doorbell *d);

/* Disarms without draining. True when it was not armed any more: rung, or never armed. */
bool doorbell_awake(struct doorbell *d);

/* OK: rung. AGAIN: timeout_ms (-1: none) passed, or a signal came; look and
 * decide. DEAD (not logged): death_fd hung up, whether rung or not. IO. */
enum status doorbell_wait(struct doorbell *d, int death_fd, int timeout_ms);

/* The whole loop: returns OK once ready(context) says so, DEAD or IO as above.
 * Spins for at most spin_ns before it sleeps (0: sleeps at once), and asks
 * again after each wake-up, a signal's included. */
enum status doorbell_await(
    struct doorbell *d, int death_fd, doorbell_ready *ready, void *context, uint64_t spin_ns);

#endif
