/* loop.c - the choice of a row, and all that needs no kernel.
 *
 * Timers live here, in one sorted list whose first deadline bounds the wait:
 * then both rows have the same timers, cancelling one is unlinking it, and
 * neither needs a system call for them. The list is short (a few deadlines
 * per runtime), so insertion walks it from the far end.
 *
 * A send is tried when it is armed: nearly always the socket has room, and then
 * it costs one system call instead of a turn's two.
 *
 * Results that are known without waiting (such a send, an op cancelled before it
 * was submitted) wait in `ready`: done() only ever runs from a turn, so a
 * caller's state never changes under its own call. A turn that has such results
 * leaves the kernel alone, unless the last one did: a caller that always has
 * something to send must still hear the others. */
#include "ipc/loop.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "ipc/loop_row.h"
#include "quern/log.h"

static const struct loop_row *const rows[] = {&loop_row_uring, &loop_row_epoll};

enum { ROWS = sizeof(rows) / sizeof(rows[0]) };

static void loop_init(struct loop *loop, const struct loop_row *row)
{
    loop->row = row;
    loop_list_init(&loop->active);
    loop_list_init(&loop->ready);
    loop_list_init(&loop->timers);
    loop->ran = 0;
    loop->turning = loop->closing = loop->passed_over = false;
}

static enum status open_any(struct loop **out)
{
    int error = 0;

    for (size_t i = 0; i < ROWS; i++) {
        error = rows[i]->open(out);
        if (error == 0) {
            loop_init(*out, rows[i]);
            return STATUS_OK;
        }
        log_info("the %s loop is refused here (%s)", rows[i]->name, strerror(-error));
    }
    if (error == -EPERM || error == -ENOSYS)
        return log_call_failed(-error, "epoll_create1", "cannot open an event loop");
    return log_fail(error == -ENOMEM ? STATUS_NOMEM : STATUS_IO,
        "cannot open an event loop: %s; check the limits on open files and memory",
        strerror(-error));
}

static enum status open_forced(const struct loop_row *row, struct loop **out)
{
    int error = row->open(out);

    if (error == 0) {
        loop_init(*out, row);
        return STATUS_OK;
    }
    return log_fail(error == -ENOMEM ? STATUS_NOMEM : STATUS_IO,
        "the %s loop was asked for but is refused here (%s): %s", row->name, strerror(-error),
        row == &loop_row_uring
            ? "allow io_uring (kernel 5.19 or later, kernel.io_uring_disabled=0, "
              "the container's seccomp profile) or leave the choice to quern"
            : "check the limits on open files and memory");
}

enum status loop_open(const char *force, struct loop **out)
{
    if (force == NULL)
        return open_any(out);
    for (size_t i = 0; i < ROWS; i++)
        if (strcmp(force, rows[i]->name) == 0)
            return open_forced(rows[i], out);
    return log_fail(STATUS_INVALID, "there is no loop \"%s\": use uring or epoll", force);
}

const char *loop_name(const struct loop *loop)
{
    return loop->row->name;
}

bool loop_op_active(const struct loop_op *op)
{
    return op->state != LOOP_IDLE;
}

void loop_ready(struct loop *loop, struct loop_op *op, int64_t result)
{
    loop_list_remove(&op->queue);
    op->state = LOOP_READY;
    op->result = result;
    loop_list_insert(&loop->ready, &op->queue);
}

void loop_finish(struct loop *loop, struct loop_op *op, int64_t result)
{
    loop_list_remove(&op->queue);
    loop_list_remove(&op->active);
    op->state = LOOP_IDLE;
    loop->ran++;
    op->done(op, result);
}

void loop_progress(struct loop *loop, struct loop_op *op, int64_t result)
{
    loop->ran++;
    op->done(op, result);
}

/* False: this op may not be armed now. */
static bool op_begin(struct loop *loop, struct loop_op *op, enum loop_kind kind, int fd)
{
    if (op->state != LOOP_IDLE) {
        log_fail(STATUS_INTERNAL,
            "an operation of the %s loop was armed while it is active: "
            "wait for its final completion",
            loop->row->name);
        return false;
    }
    if (loop->closing)
        return false;
    op->kind = (unsigned char)kind;
    op->state = LOOP_FLYING;
    op->row_flags = 0;
    op->result = 0;
    op->fd = fd;
    op->data = NULL;
    op->watch_next = NULL;
    op->queue = (struct loop_node){0};
    loop_list_insert(&loop->active, &op->active);
    return true;
}

static void op_arm(struct loop *loop, struct loop_op *op, enum loop_kind kind, int fd)
{
    if (!op_begin(loop, op, kind, fd))
        return;
    if (fd < 0)
        loop_ready(loop, op, -EBADF);
    else
        loop->row->arm(loop, op);
}

void loop_accept(struct loop *loop, struct loop_op *op, int listen_fd)
{
    op_arm(loop, op, LOOP_ACCEPT, listen_fd);
}

void loop_recv(struct loop *loop, struct loop_op *op, int fd)
{
    op_arm(loop, op, LOOP_RECV, fd);
}

void loop_bell(struct loop *loop, struct loop_op *op, int eventfd)
{
    op_arm(loop, op, LOOP_BELL, eventfd);
}

void loop_poll_once(struct loop *loop, struct loop_op *op, int fd)
{
    op_arm(loop, op, LOOP_POLL_ONCE, fd);
}

/* 0: all is out; -EAGAIN: the socket is full; else -errno. */
int loop_send_some(struct loop_op *op)
{
    while (op->unsent_bytes > 0) {
        ssize_t n = send(op->fd, op->unsent, op->unsent_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        op->result += n;
        op->unsent += n;
        op->unsent_bytes -= (size_t)n;
    }
    return 0;
}

void loop_send(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t bytes)
{
    int error;

    if (!op_begin(loop, op, LOOP_SEND, fd))
        return;
    op->unsent = data;
    op->unsent_bytes = bytes;
    error = fd < 0 ? -EBADF : loop_send_some(op);
    if (error == -EAGAIN)
        loop->row->arm(loop, op);
    else
        loop_ready(loop, op, error == 0 ? op->result : error);
}

bool loop_is_ready(const struct loop *loop)
{
    return !loop_list_empty(&loop->ready);
}

void loop_timer(struct loop *loop, struct loop_op *op, int64_t deadline_ns)
{
    struct loop_node *place = &loop->timers;

    if (!op_begin(loop, op, LOOP_TIMER, -1))
        return;
    op->deadline = deadline_ns;
    while (place->prev != &loop->timers && LOOP_OP_OF(place->prev, queue)->deadline > deadline_ns)
        place = place->prev;
    loop_list_insert(place, &op->queue);
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
    if (op->state == LOOP_IDLE)
        return;
    if (op->state == LOOP_READY)
        op->result = -ECANCELED;
    else if (op->kind == LOOP_TIMER)
        loop_ready(loop, op, -ECANCELED);
    else
        loop->row->cancel(loop, op);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Due timers join the ready list, ascending. */
static void timers_expire(struct loop *loop)
{
    int64_t now;

    if (loop_list_empty(&loop->timers))
        return;
    now = now_ns();
    while (!loop_list_empty(&loop->timers)) {
        struct loop_op *op = LOOP_OP_OF(loop->timers.next, queue);

        if (op->deadline > now)
            return;
        loop_ready(loop, op, 0);
    }
}

/* Delivers what is ready now; what becomes ready meanwhile waits for the next
 * turn, so that an op that re-arms itself cannot hold this one for ever. */
static void ready_deliver(struct loop *loop)
{
    struct loop_node batch;

    loop_list_take(&batch, &loop->ready);
    while (!loop_list_empty(&batch)) {
        struct loop_op *op = LOOP_OP_OF(batch.next, queue);

        loop_finish(loop, op, op->result);
    }
}

/* How long a wait may last: until `deadline` (INT64_MAX: no end) or the first
 * timer; 0 when something is ready. */
static int64_t wait_ns(const struct loop *loop, int64_t deadline)
{
    int64_t now;

    if (!loop_list_empty(&loop->ready))
        return 0;
    if (!loop_list_empty(&loop->timers)) {
        int64_t first = LOOP_OP_OF(loop->timers.next, queue)->deadline;

        deadline = first < deadline ? first : deadline;
    }
    if (deadline == INT64_MAX)
        return -1;
    now = now_ns();
    return deadline > now ? deadline - now : 0;
}

/* A row may wake with nothing for a caller (the kernel's answer to a cancel, a
 * request that has to be repeated, -EINTR): then the wait goes on. */
static enum status turn_until(struct loop *loop, int64_t deadline)
{
    for (;;) {
        enum status s = STATUS_OK;

        loop->passed_over = loop_is_ready(loop) && !loop->passed_over;
        if (!loop->passed_over)
            s = loop->row->turn(loop, wait_ns(loop, deadline));
        timers_expire(loop);
        ready_deliver(loop);
        if (s < 0)
            return s;
        if (loop->ran > 0)
            return STATUS_OK;
        if (s == STATUS_AGAIN || (deadline != INT64_MAX && now_ns() >= deadline))
            return STATUS_AGAIN;
    }
}

enum status loop_turn(struct loop *loop, int64_t timeout_ns)
{
    int64_t deadline = INT64_MAX, now;
    enum status s;

    if (loop->turning)
        return log_fail(STATUS_INTERNAL, "loop_turn was called by a completion: return instead");
    if (timeout_ns == 0)
        deadline = INT64_MIN;
    else if (timeout_ns > 0) {
        now = now_ns();
        deadline = timeout_ns < INT64_MAX - now ? now + timeout_ns : INT64_MAX;
    }
    loop->turning = true;
    loop->ran = 0;
    s = turn_until(loop, deadline);
    loop->turning = false;
    return s;
}

void loop_close(struct loop *loop)
{
    if (loop == NULL)
        return;
    loop->closing = true;
    for (struct loop_node *n = loop->active.next; n != &loop->active; n = n->next)
        loop_cancel(loop, LOOP_OP_OF(n, active));
    loop->turning = true;
    while (!loop_list_empty(&loop->active)) {
        loop->ran = 0;
        if (turn_until(loop, INT64_MAX) < 0)
            break;
    }
    /* Only if the kernel refuses to wait: then the ring's end releases the rest. */
    while (!loop_list_empty(&loop->active))
        loop_finish(loop, LOOP_OP_OF(loop->active.next, active), -ECANCELED);
    loop->row->close(loop);
}
