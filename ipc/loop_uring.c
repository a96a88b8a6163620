/* loop_uring.c - the io_uring row.
 *
 * Arming only puts an op on `submit`; the turn turns that queue into requests
 * and hands them over with the wait, in one system call. Accept, recv and bell
 * are multishot: one request, many completions, nothing to submit per step.
 *
 * Received bytes land in a ring of buffers shared by all sockets (a socket
 * that waits holds none); a buffer goes back as soon as done() returns, so a
 * slow caller makes the kernel say -ENOBUFS and the request is repeated.
 * Buffer rings came with Linux 5.19, and with them multishot accept and poll:
 * an older kernel takes the epoll row. What came later, or may be refused for
 * one kind of file, falls back per op:
 *   -EINVAL of a multishot request   once more as a single shot, then re-armed
 *   -EAGAIN (a non-blocking file)    wait with a poll request, then once more
 * A filter may allow a ring to be made and refuse io_uring_enter, with which
 * alone it is of use: so opening makes one such call, which has nothing to do.
 *
 * Stale pointers: a request's user_data is its op, and a cancel's is the op
 * with bit 0 set. The final completion is delivered only when every request
 * that names the op has been answered, so the kernel never holds the address
 * of an op that the caller may have freed. A cancel that finds its request in
 * no list (-ENOENT: it was between two) is repeated until the request ends.
 *
 * A bell's eventfd is never read: a multishot poll completes on each write. */
#include "ipc/loop_row.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "quern/log.h"

enum {
    SUBMIT_ENTRIES = 256,
    COMPLETION_ENTRIES = 1024,
    BUFFERS = 64, /* a power of two */
    BUFFER_BYTES = 16384,
    BUFFER_GROUP = 0,
    SEND_BYTES_MAX = 1 << 30, /* of one request: its length is 32 bits */
};

/* loop_op.row_flags */
enum {
    IN_KERNEL = 1,   /* the request's last answer is due */
    CANCEL_DUE = 2,  /* a cancel's answer is due */
    CANCELLED = 4,   /* whatever comes, the final result is -ECANCELED */
    SINGLE_SHOT = 8, /* this op's multishot form was refused */
    WAITING = 16,    /* the request in the kernel is the poll after -EAGAIN */
};

struct uring_loop {
    struct loop base;
    struct io_uring ring;
    struct loop_node submit;           /* QUEUED ops, and FLYING ones to be cancelled */
    struct io_uring_buf_ring *buffers; /* the ring, then BUFFERS * BUFFER_BYTES; one mapping */
};

static struct uring_loop *uring_of(struct loop *loop)
{
    return (struct uring_loop *)(void *)loop; /* base is its first member */
}

/* ---- the buffers ---- */

static size_t buffer_ring_bytes(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = BUFFERS * sizeof(struct io_uring_buf);

    return (bytes + page - 1) / page * page;
}

static size_t buffer_map_bytes(void)
{
    return buffer_ring_bytes() + (size_t)BUFFERS * BUFFER_BYTES;
}

static unsigned char *buffer_at(const struct uring_loop *u, unsigned id)
{
    return (unsigned char *)u->buffers + buffer_ring_bytes() + (size_t)id * BUFFER_BYTES;
}

static void buffer_add(struct uring_loop *u, unsigned id, int offset)
{
    io_uring_buf_ring_add(u->buffers, buffer_at(u, id), BUFFER_BYTES, (unsigned short)id,
        io_uring_buf_ring_mask(BUFFERS), offset);
}

static void buffer_return(struct uring_loop *u, unsigned cqe_flags)
{
    if (!(cqe_flags & IORING_CQE_F_BUFFER))
        return;
    buffer_add(u, cqe_flags >> IORING_CQE_BUFFER_SHIFT, 0);
    io_uring_buf_ring_advance(u->buffers, 1);
}

/* 0 or -errno. Children do not inherit the mapping: its ring is pinned. */
static int buffers_open(struct uring_loop *u)
{
    struct io_uring_buf_reg reg = {.ring_entries = BUFFERS, .bgid = BUFFER_GROUP};
    void *map =
        mmap(NULL, buffer_map_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int error;

    if (map == MAP_FAILED)
        return -errno;
    madvise(map, buffer_map_bytes(), MADV_DONTFORK);
    u->buffers = map;
    reg.ring_addr = (uintptr_t)map;
    error = io_uring_register_buf_ring(&u->ring, &reg, 0);
    if (error != 0) {
        munmap(map, buffer_map_bytes());
        return error;
    }
    io_uring_buf_ring_init(u->buffers);
    for (unsigned i = 0; i < BUFFERS; i++)
        buffer_add(u, i, (int)i);
    io_uring_buf_ring_advance(u->buffers, BUFFERS);
    return 0;
}

/* ---- opening and closing ---- */

/* Deferred task work (6.1) lets completions be made inside our own wait, so
 * that none interrupts a callback; before, the next best. 0 or -errno. */
static int ring_open(struct io_uring *ring)
{
    static const unsigned wanted[] = {
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
    };
    int error = -EINVAL;

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]) && error == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = wanted[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
            .cq_entries = COMPLETION_ENTRIES,
        };
        error = io_uring_queue_init_params(SUBMIT_ENTRIES, ring, &params);
    }
    return error;
}

static bool ring_serves(struct io_uring *ring)
{
    static const unsigned char opcodes[] = {IORING_OP_ACCEPT, IORING_OP_RECV, IORING_OP_SEND,
        IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL};
    struct io_uring_probe *probe;
    bool all = true;

    if (!(ring->features & IORING_FEAT_EXT_ARG) || !(ring->features & IORING_FEAT_NODROP))
        return false; /* a wait with a deadline; answers are never lost */
    probe = io_uring_get_probe_ring(ring);
    if (probe == NULL)
        return false;
    for (size_t i = 0; i < sizeof(opcodes); i++)
        all = all && io_uring_opcode_supported(probe, opcodes[i]);
    io_uring_free_probe(probe);
    return all;
}

static int uring_open(struct loop **out)
{
    struct uring_loop *u = calloc(1, sizeof(*u));
    int error;

    if (u == NULL)
        return -ENOMEM;
    loop_list_init(&u->submit);
    error = ring_open(&u->ring);
    if (error != 0)
        goto err_free;
    error = ring_serves(&u->ring) ? io_uring_ring_dontfork(&u->ring) : -EOPNOTSUPP;
    if (error == 0)
        error = io_uring_get_events(&u->ring); /* io_uring_enter: nothing to submit or wait for */
    if (error < 0)
        goto err_exit;
    error = buffers_open(u);
    if (error != 0)
        goto err_exit;
    *out = &u->base;
    return 0;

err_exit:
    io_uring_queue_exit(&u->ring);
err_free:
    free(u);
    return error;
}

static void uring_close(struct loop *loop)
{
    struct uring_loop *u = uring_of(loop);

    io_uring_unregister_buf_ring(&u->ring, BUFFER_GROUP);
    io_uring_queue_exit(&u->ring);
    munmap(u->buffers, buffer_map_bytes());
    free(u);
}

/* ---- from the queue into the kernel ---- */

static void queue_op(struct uring_loop *u, struct loop_op *op)
{
    op->state = LOOP_QUEUED;
    loop_list_insert(&u->submit, &op->queue);
}

static void uring_arm(struct loop *loop, struct loop_op *op)
{
    queue_op(uring_of(loop), op);
}

static void uring_cancel(struct loop *loop, struct loop_op *op)
{
    struct uring_loop *u = uring_of(loop);

    if (op->row_flags & CANCELLED)
        return;
    if (op->state == LOOP_QUEUED) {
        loop_ready(loop, op, -ECANCELED);
        return;
    }
    op->row_flags |= CANCELLED;
    loop_list_insert(&u->submit, &op->queue);
}

static void prepare_recv(struct io_uring_sqe *sqe, const struct loop_op *op)
{
    if (op->row_flags & SINGLE_SHOT)
        io_uring_prep_recv(sqe, op->fd, NULL, BUFFER_BYTES, 0);
    else
        io_uring_prep_recv_multishot(sqe, op->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
}

static void prepare_accept(struct io_uring_sqe *sqe, const struct loop_op *op)
{
    int flags = SOCK_CLOEXEC | SOCK_NONBLOCK;

    if (op->row_flags & SINGLE_SHOT)
        io_uring_prep_accept(sqe, op->fd, NULL, NULL, flags);
    else
        io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, flags);
}

/* MSG_WAITALL: the kernel itself resumes a short send. */
static void prepare_send(struct io_uring_sqe *sqe, const struct loop_op *op)
{
    size_t bytes = op->unsent_bytes < SEND_BYTES_MAX ? op->unsent_bytes : SEND_BYTES_MAX;

    io_uring_prep_send(sqe, op->fd, op->unsent, bytes, MSG_NOSIGNAL | MSG_WAITALL);
}

static void prepare(struct io_uring_sqe *sqe, const struct loop_op *op)
{
    if (op->row_flags & WAITING) {
        io_uring_prep_poll_add(sqe, op->fd, op->kind == LOOP_SEND ? POLLOUT : POLLIN);
        return;
    }
    switch ((enum loop_kind)op->kind) {
    case LOOP_ACCEPT: prepare_accept(sqe, op); break;
    case LOOP_RECV: prepare_recv(sqe, op); break;
    case LOOP_SEND: prepare_send(sqe, op); break;
    case LOOP_BELL: io_uring_prep_poll_multishot(sqe, op->fd, POLLIN); break;
    case LOOP_POLL_ONCE: io_uring_prep_poll_add(sqe, op->fd, POLLIN); break;
    case LOOP_TIMER: break; /* loop.c keeps timers */
    }
}

static void submit_op(struct io_uring_sqe *sqe, struct loop_op *op)
{
    if (op->row_flags & CANCELLED) {
        io_uring_prep_cancel64(sqe, (uintptr_t)op, 0);
        io_uring_sqe_set_data64(sqe, (uintptr_t)op | 1);
        op->row_flags |= CANCEL_DUE;
        return;
    }
    prepare(sqe, op);
    io_uring_sqe_set_data64(sqe, (uintptr_t)op);
    op->row_flags |= IN_KERNEL;
    op->state = LOOP_FLYING;
}

/* Fills requests from the queue; only when more wait than the ring holds does
 * this hand some over early. False: some are still waiting. */
static bool submit_all(struct uring_loop *u)
{
    while (!loop_list_empty(&u->submit)) {
        struct loop_op *op = LOOP_OP_OF(u->submit.next, queue);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

        if (sqe == NULL && io_uring_submit(&u->ring) > 0)
            sqe = io_uring_get_sqe(&u->ring);
        if (sqe == NULL)
            return false;
        loop_list_remove(&op->queue);
        submit_op(sqe, op);
    }
    return true;
}

/* ---- from the kernel to done() ---- */

/* No buffer was free when bytes came (by now some are), or a connection was
 * gone before it was accepted: ask again. */
static bool transient(const struct loop_op *op, int result)
{
    return result == -EINTR || (op->kind == LOOP_RECV && result == -ENOBUFS) ||
           (op->kind == LOOP_ACCEPT && result == -ECONNABORTED);
}

/* True: the request failed in a way that another form of it may not. */
static bool retry(struct uring_loop *u, struct loop_op *op, int result)
{
    bool multishot = op->kind == LOOP_ACCEPT || op->kind == LOOP_RECV;

    if (op->row_flags & WAITING) {
        op->row_flags &= (unsigned char)~WAITING;
        if (result < 0)
            return false;
    } else if (result == -EINVAL && multishot && !(op->row_flags & SINGLE_SHOT))
        op->row_flags |= SINGLE_SHOT;
    else if (result == -EAGAIN)
        op->row_flags |= WAITING;
    else if (!transient(op, result))
        return false;
    queue_op(u, op);
    return true;
}

static void send_answered(struct uring_loop *u, struct loop_op *op, int result)
{
    op->result += result;
    op->unsent += result;
    op->unsent_bytes -= (size_t)result;
    if (op->unsent_bytes == 0)
        loop_finish(&u->base, op, op->result);
    else
        queue_op(u, op);
}

/* One answer of a request that goes on; re-armed first where the kernel ended
 * it, so that done() may cancel it like any other. */
static void progress(struct uring_loop *u, struct loop_op *op, int64_t result)
{
    if (!(op->row_flags & IN_KERNEL))
        queue_op(u, op);
    loop_progress(&u->base, op, result);
}

static void answered(struct uring_loop *u, struct loop_op *op, int result, unsigned cqe_flags)
{
    bool last = !(op->row_flags & IN_KERNEL);

    if (result < 0 || (op->row_flags & WAITING)) {
        /* A multishot request that fails has ended; only then is it repeated. */
        if (last && !retry(u, op, result))
            loop_finish(&u->base, op, result);
        return;
    }
    switch ((enum loop_kind)op->kind) {
    case LOOP_ACCEPT: progress(u, op, result); break;
    case LOOP_RECV:
        if (result == 0) {
            loop_finish(&u->base, op, 0);
            break;
        }
        op->data = buffer_at(u, cqe_flags >> IORING_CQE_BUFFER_SHIFT);
        progress(u, op, result);
        break;
    case LOOP_SEND: send_answered(u, op, result); break;
    case LOOP_BELL: progress(u, op, 0); break;
    case LOOP_POLL_ONCE: loop_finish(&u->base, op, 0); break;
    case LOOP_TIMER: break;
    }
}

/* A cancelled op gets its one -ECANCELED when no request names it any more. */
static void settle(struct uring_loop *u, struct loop_op *op)
{
    if (!(op->row_flags & (IN_KERNEL | CANCEL_DUE)))
        loop_finish(&u->base, op, -ECANCELED);
}

static void cancel_answered(struct uring_loop *u, struct loop_op *op, int result)
{
    op->row_flags &= (unsigned char)~CANCEL_DUE;
    if (result == -ENOENT && (op->row_flags & IN_KERNEL))
        loop_list_insert(&u->submit, &op->queue);
    else
        settle(u, op);
}

static void request_answered(
    struct uring_loop *u, struct loop_op *op, int result, unsigned cqe_flags)
{
    if (!(cqe_flags & IORING_CQE_F_MORE))
        op->row_flags &= (unsigned char)~IN_KERNEL;
    if (!(op->row_flags & CANCELLED)) {
        answered(u, op, result, cqe_flags);
        return;
    }
    if (op->kind == LOOP_ACCEPT && result >= 0 && !(op->row_flags & WAITING))
        close(result);
    settle(u, op);
}

static enum status wait_failed(int error)
{
    switch (-error) {
    case ETIME:
    case EINTR: return STATUS_OK;
    case EBUSY: return STATUS_OK;     /* the answers that wait must be taken first */
    case EAGAIN: return STATUS_AGAIN; /* short of memory now: the caller decides */
    }
    return log_fail(STATUS_IO, "io_uring refused to wait (%s): set QUERN_LOOP=epoll to do without",
        strerror(-error));
}

static enum status submit_and_wait(struct uring_loop *u, int64_t timeout_ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec limit;
    int error;

    if (!submit_all(u))
        timeout_ns = 0;
    limit = (struct __kernel_timespec){
        .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    error =
        io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_ns < 0 ? NULL : &limit, NULL);
    return error < 0 ? wait_failed(error) : STATUS_OK;
}

/* Takes the answers that are there now; those that come meanwhile are the next
 * turn's. */
static enum status uring_turn(struct loop *loop, int64_t timeout_ns)
{
    struct uring_loop *u = uring_of(loop);
    enum status s = submit_and_wait(u, timeout_ns);

    for (unsigned n = io_uring_cq_ready(&u->ring); n > 0; n--) {
        struct io_uring_cqe *next, cqe;
        struct loop_op *op;

        if (io_uring_peek_cqe(&u->ring, &next) != 0)
            break;
        cqe = (struct io_uring_cqe){
            .user_data = next->user_data, .res = next->res, .flags = next->flags};
        io_uring_cqe_seen(&u->ring, next);
        op = (struct loop_op *)(uintptr_t)(cqe.user_data & ~(uint64_t)1);
        if (cqe.user_data & 1)
            cancel_answered(u, op, cqe.res);
        else
            request_answered(u, op, cqe.res, cqe.flags);
        buffer_return(u, cqe.flags);
    }
    return s;
}

const struct loop_row loop_row_uring = {
    .name = "uring",
    .open = uring_open,
    .close = uring_close,
    .arm = uring_arm,
    .cancel = uring_cancel,
    .turn = uring_turn,
};
