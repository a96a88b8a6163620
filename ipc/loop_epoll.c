/* loop_epoll.c - the epoll row, for machines that refuse io_uring.
 *
 * epoll reports readiness of an fd and knows it once, while several ops may
 * sit on one fd (a recv and a send): so there is a table of watches by fd,
 * each with its ops and the events registered for them. It is kept in step
 * with the kernel at every change, never later: once an op is final its owner
 * may close the fd, and the number may come back as another file.
 *
 * Readiness is level-triggered and each op takes a bounded bite per turn; an op
 * that is on a watch always consumes what woke it, so nothing wakes for ever.
 * A bell is the exception: edge-triggered, its eventfd is never read (each
 * write is an edge), as in the io_uring row. */
#include "ipc/loop_row.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "quern/log.h"

enum { EVENTS_PER_TURN = 64, ACCEPTS_PER_TURN = 64, RECV_BYTES = 65536 };

enum { BROKEN = EPOLLHUP | EPOLLERR }; /* always reported; every op looks at it */

struct watch {
    struct loop_op *ops; /* through watch_next */
    uint32_t events;     /* registered; 0: the fd is not in the set */
    uint32_t generation; /* of the registration: an event of an older one is stale */
};

struct epoll_loop {
    struct loop base;
    int fd;
    bool coarse;           /* epoll_pwait2 is missing (before 5.11): whole milliseconds */
    struct watch *watches; /* [watch_count], by fd */
    size_t watch_count;
    struct loop_node fired; /* FLYING ops whose event came */
    unsigned char bytes[RECV_BYTES];
};

static struct epoll_loop *epoll_of(struct loop *loop)
{
    return (struct epoll_loop *)(void *)loop; /* base is its first member */
}

static int epoll_open(struct loop **out)
{
    struct epoll_loop *e = calloc(1, sizeof(*e));
    int error;

    if (e == NULL)
        return -ENOMEM;
    e->fd = epoll_create1(EPOLL_CLOEXEC);
    if (e->fd < 0) {
        error = -errno;
        free(e);
        return error;
    }
    loop_list_init(&e->fired);
    *out = &e->base;
    return 0;
}

static void epoll_close(struct loop *loop)
{
    struct epoll_loop *e = epoll_of(loop);

    close(e->fd);
    free(e->watches);
    free(e);
}

/* ---- watches ---- */

static uint32_t events_of(enum loop_kind kind)
{
    switch (kind) {
    case LOOP_ACCEPT:
    case LOOP_RECV:
    case LOOP_POLL_ONCE: return EPOLLIN;
    case LOOP_SEND: return EPOLLOUT;
    case LOOP_BELL: return EPOLLIN | EPOLLET;
    case LOOP_TIMER: break; /* loop.c keeps timers */
    }
    return 0;
}

/* Makes the kernel's set agree with the watch's ops. 0 or -errno. */
static int watch_sync(struct epoll_loop *e, int fd)
{
    struct watch *w = &e->watches[fd];
    struct epoll_event event = {0};
    int verb = w->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    for (const struct loop_op *op = w->ops; op != NULL; op = op->watch_next)
        event.events |= events_of(op->kind);
    if (event.events == w->events)
        return 0;
    if (event.events == 0)
        verb = EPOLL_CTL_DEL;
    if (verb == EPOLL_CTL_ADD)
        w->generation++;
    event.data.u64 = (uint64_t)w->generation << 32 | (uint32_t)fd;
    if (epoll_ctl(e->fd, verb, fd, &event) != 0 && verb != EPOLL_CTL_DEL)
        return -errno;
    w->events = event.events;
    return 0;
}

static int watches_grow(struct epoll_loop *e, int fd)
{
    size_t count = e->watch_count == 0 ? 64 : e->watch_count;
    struct watch *more;

    if ((size_t)fd < e->watch_count)
        return 0;
    while (count <= (size_t)fd)
        count *= 2;
    more = realloc(e->watches, count * sizeof(*more));
    if (more == NULL)
        return -ENOMEM;
    memset(more + e->watch_count, 0, (count - e->watch_count) * sizeof(*more));
    e->watches = more;
    e->watch_count = count;
    return 0;
}

static void watch_remove(struct epoll_loop *e, struct loop_op *op)
{
    struct loop_op **link = &e->watches[op->fd].ops;

    while (*link != op)
        link = &(*link)->watch_next;
    *link = op->watch_next;
    watch_sync(e, op->fd);
}

/* 0 or -errno; after a failure the op is on no watch. */
static int watch_add(struct epoll_loop *e, struct loop_op *op)
{
    struct loop_op **link;
    int error = watches_grow(e, op->fd);

    if (error != 0)
        return error;
    for (link = &e->watches[op->fd].ops; *link != NULL;)
        link = &(*link)->watch_next;
    op->watch_next = NULL;
    *link = op;
    error = watch_sync(e, op->fd);
    if (error != 0)
        watch_remove(e, op);
    return error;
}

/* Lets go of an op that is on a watch, then tells its owner. */
static void finish(struct epoll_loop *e, struct loop_op *op, int64_t result)
{
    watch_remove(e, op);
    loop_finish(&e->base, op, result);
}

/* ---- what each kind does when its event came ---- */

static void send_more(struct epoll_loop *e, struct loop_op *op)
{
    int error = loop_send_some(op);

    if (error != -EAGAIN)
        finish(e, op, error == 0 ? op->result : error);
}

static void recv_some(struct epoll_loop *e, struct loop_op *op)
{
    ssize_t n = recv(op->fd, e->bytes, sizeof(e->bytes), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        finish(e, op, n == 0 ? 0 : -errno);
        return;
    }
    op->data = e->bytes;
    loop_progress(&e->base, op, n);
}

/* done() may cancel the op: then it is no longer FLYING. */
static void accept_some(struct epoll_loop *e, struct loop_op *op)
{
    for (int n = 0; n < ACCEPTS_PER_TURN && op->state == LOOP_FLYING; n++) {
        int fd = accept4(op->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0) {
            loop_progress(&e->base, op, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN)
            finish(e, op, -errno);
        return;
    }
}

static void serve(struct epoll_loop *e, struct loop_op *op)
{
    switch ((enum loop_kind)op->kind) {
    case LOOP_ACCEPT: accept_some(e, op); break;
    case LOOP_RECV: recv_some(e, op); break;
    case LOOP_SEND: send_more(e, op); break;
    case LOOP_BELL: loop_progress(&e->base, op, 0); break;
    case LOOP_POLL_ONCE: finish(e, op, 0); break;
    case LOOP_TIMER: break;
    }
}

/* ---- the row ---- */

static void epoll_arm(struct loop *loop, struct loop_op *op)
{
    int error = watch_add(epoll_of(loop), op);

    if (error != 0)
        loop_ready(loop, op, error);
}

static void epoll_cancel(struct loop *loop, struct loop_op *op)
{
    watch_remove(epoll_of(loop), op);
    loop_ready(loop, op, -ECANCELED);
}

static int wait_whole_ms(struct epoll_loop *e, struct epoll_event *events, int64_t timeout_ns)
{
    int64_t ms = timeout_ns < 0 ? -1 : timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);

    return epoll_wait(e->fd, events, EVENTS_PER_TURN, ms > INT32_MAX ? INT32_MAX : (int)ms);
}

/* The number of events, or -errno. */
static int wait_events(struct epoll_loop *e, struct epoll_event *events, int64_t timeout_ns)
{
    struct timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    int n = -1;

    if (!e->coarse) {
        n = epoll_pwait2(e->fd, events, EVENTS_PER_TURN, timeout_ns < 0 ? NULL : &limit, NULL);
        e->coarse = n < 0 && (errno == ENOSYS || errno == EPERM);
    }
    if (e->coarse)
        n = wait_whole_ms(e, events, timeout_ns);
    return n < 0 ? -errno : n;
}

/* Queues the ops that an event concerns. */
static void fire(struct epoll_loop *e, const struct epoll_event *event)
{
    uint32_t fd = (uint32_t)event->data.u64;
    const struct watch *w = &e->watches[fd];

    if (w->generation != event->data.u64 >> 32)
        return;
    for (struct loop_op *op = w->ops; op != NULL; op = op->watch_next)
        if (event->events & (events_of(op->kind) | BROKEN) && op->queue.next == NULL)
            loop_list_insert(&e->fired, &op->queue);
}

/* All events are spread over their ops before the first done() runs: from then
 * on ops come and go, and a cancelled one leaves `fired` by itself. */
static enum status epoll_turn(struct loop *loop, int64_t timeout_ns)
{
    struct epoll_loop *e = epoll_of(loop);
    struct epoll_event events[EVENTS_PER_TURN];
    int n = wait_events(e, events, timeout_ns);

    if (n == -EINTR)
        return STATUS_OK;
    if (n < 0)
        return log_call_failed(-n, "epoll_wait", "the event loop cannot wait");
    for (int i = 0; i < n; i++)
        fire(e, &events[i]);
    while (!loop_list_empty(&e->fired)) {
        struct loop_op *op = LOOP_OP_OF(e->fired.next, queue);

        loop_list_remove(&op->queue);
        serve(e, op);
    }
    return STATUS_OK;
}

const struct loop_row loop_row_epoll = {
    .name = "epoll",
    .open = epoll_open,
    .close = epoll_close,
    .arm = epoll_arm,
    .cancel = epoll_cancel,
    .turn = epoll_turn,
};
