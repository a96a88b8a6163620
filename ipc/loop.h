/* loop.h - the one thing the supervisor waits on.
 *
 * Everything is a completion: a caller fills a loop_op, arms it with one of
 * the calls below, and its done() runs inside a later loop_turn(), never
 * inside the call that armed it. Two rows do the work: io_uring, and epoll
 * where io_uring is refused; what a caller sees is the same.
 *
 * Memory:   the caller owns the loop_op (inside its own object). From arming
 *           until its final completion it stays where it is, and so do the
 *           bytes of a send. When done() is called for the last time the loop
 *           has already let go of it: done() may free it or arm it again.
 *           Received bytes are lent until done() returns.
 * Fds:      the caller owns them, and closes one only when no op is active on
 *           it (cancel, wait for the final completion, close). On one fd at
 *           most one accept or recv, and one send, at a time; a bell has its
 *           eventfd to itself.
 * Finality: every armed op ends with exactly one final completion, at which
 *           loop_op_active() is false. After loop_cancel() done() runs once
 *           more, with -ECANCELED; what was under way is dropped (a fresh
 *           connection is closed, received bytes are lost, a send may have
 *           gone out in part).
 * Blocking: only loop_turn(). Idle it costs nothing: no timer ticks inside.
 * Threads:  one thread opens, arms, turns and closes a loop. A forked child
 *           must leave it alone (the descriptors are close-on-exec).
 * Death:    a peer's end shows as 0 (end of file), -ECONNRESET or -EPIPE; no
 *           SIGPIPE is raised. A process's end is loop_poll_once on a pidfd. */
#ifndef IPC_LOOP_H
#define IPC_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

struct loop;

/* A link of a ring list; both NULL while on none. The loop's own. */
struct loop_node {
    struct loop_node *next, *prev;
};

/* All zero before its first use, then `done` and `context` set. */
struct loop_op {
    /* result >= 0, or -errno. May call any loop_ function but turn and close. */
    void (*done)(struct loop_op *op, int64_t result);
    void *context;             /* the caller's */
    const unsigned char *data; /* loop_recv: `result` bytes, lent until done() returns */

    /* From here on the loop alone reads and writes. */
    struct loop_node active;     /* on the loop's list of active ops */
    struct loop_node queue;      /* waiting: to be submitted, to fire, or for a deadline */
    struct loop_op *watch_next;  /* epoll: the next op on the same fd */
    const unsigned char *unsent; /* loop_send: what is left */
    size_t unsent_bytes;
    int64_t result;   /* of a finished op in the ready list; bytes sent so far before */
    int64_t deadline; /* loop_timer: ns */
    int fd;
    unsigned char kind, state, row_flags;
};

/* force NULL: io_uring, else epoll. "uring" or "epoll": that one, and an error
 * if it cannot be had. STATUS_INVALID (another word), STATUS_IO, STATUS_NOMEM. */
enum status loop_open(const char *force, struct loop **out);

/* Completes every active op with -ECANCELED, waits until the kernel has let go
 * of them, frees the loop. An op armed by a callback meanwhile stays inactive
 * and gets no completion. NULL is allowed. Never from a callback. */
void loop_close(struct loop *loop);

/* "uring" or "epoll". */
const char *loop_name(const struct loop *loop);

/* Arming cannot fail: what the system refuses arrives as a completion
 * (-EBADF, -ENOMEM). Arming an op that is active is a mistake of the caller:
 * it is logged and changes nothing. */

/* Multishot. listen_fd is non-blocking. Each completion: a new connection,
 * non-blocking and close-on-exec, now the callee's. Final only with -errno
 * (-EMFILE: arm again when descriptors are free). */
void loop_accept(struct loop *loop, struct loop_op *op, int listen_fd);

/* Multishot. Each completion: result > 0 bytes at op->data. Final: 0 at end of
 * file, or -errno. */
void loop_recv(struct loop *loop, struct loop_op *op, int fd);

/* One completion: `bytes` when all of data has been handed to the socket, or
 * -errno. data stays put until then. Sent at once as far as it fits; only the rest
 * waits for the socket. */
void loop_send(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t bytes);

/* Multishot. Each completion (result 0): the eventfd was written at least once
 * since the last one. A write wakes by itself, whatever the counter is, so the
 * loop leaves the counter alone and a ring costs no read; who wants it at zero
 * drains it in done(), before looking for what the bell announced. Armed over
 * a counter above zero it completes at once. Final only with -errno. */
void loop_bell(struct loop *loop, struct loop_op *op, int eventfd);

/* One completion (result 0): fd is readable or hung up (pidfd, signalfd). */
void loop_poll_once(struct loop *loop, struct loop_op *op, int fd);

/* One completion (result 0) at or after deadline_ns of CLOCK_MONOTONIC; timers
 * due in the same turn complete in the order of their deadlines. */
void loop_timer(struct loop *loop, struct loop_op *op, int64_t deadline_ns);

/* Asynchronous: the final completion comes in a later turn (or later in this
 * one). An op that is inactive or already cancelled: no effect. */
void loop_cancel(struct loop *loop, struct loop_op *op);

/* False at the final completion, and before arming. */
bool loop_op_active(const struct loop_op *op);

/* True: something has completed already (a send that went out at once), and the next
 * turn will not wait. Who sleeps by a doorbell need not arm it then. */
bool loop_is_ready(const struct loop *loop);

/* Hands over all that was armed and waits, in one system call; then runs what
 * completed. Where something is ready it makes no system call, but not twice in
 * a row. timeout_ns < 0 waits without end, 0 does not wait. OK: at least
 * one done() ran. AGAIN: none did and the time is up (or the kernel is short of
 * memory for the moment). A signal handler does not end the wait, and a process
 * that ran io_uring may see -EINTR with no signal: wait for a signalfd.
 * STATUS_IO: the kernel refused to wait; STATUS_INTERNAL: called by done(). */
enum status loop_turn(struct loop *loop, int64_t timeout_ns);

#endif
