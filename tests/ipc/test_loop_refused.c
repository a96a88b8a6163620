/* test_loop_refused.c - what the loop does where the system refuses something.
 *
 * Needs these linker options, which put the functions below before the real
 * ones: -Wl,--wrap=io_uring_queue_init_params,--wrap=io_uring_register_buf_ring
 *       -Wl,--wrap=io_uring_submit_and_wait_timeout,--wrap=epoll_pwait2
 * Requests are spoiled just before they are handed over, so that the refusal
 * itself is the kernel's. */
#include "loop_fixture.h"

#include <liburing.h>
#include <sys/epoll.h>

#include "tests/ipc/ipc_support.h"
#include "tests/support/refuse.h"

static int refuse_ring, refuse_buffers;
static bool refuse_deferred, refuse_multishot, refuse_waiting, refuse_pwait2;
static int lose_cancels, spoiled, waits;

int __wrap_io_uring_queue_init_params(unsigned, struct io_uring *, struct io_uring_params *);
int __real_io_uring_queue_init_params(unsigned, struct io_uring *, struct io_uring_params *);
int __wrap_io_uring_register_buf_ring(struct io_uring *, struct io_uring_buf_reg *, unsigned);
int __real_io_uring_register_buf_ring(struct io_uring *, struct io_uring_buf_reg *, unsigned);
int __wrap_io_uring_submit_and_wait_timeout(
    struct io_uring *, struct io_uring_cqe **, unsigned, struct __kernel_timespec *, sigset_t *);
int __real_io_uring_submit_and_wait_timeout(
    struct io_uring *, struct io_uring_cqe **, unsigned, struct __kernel_timespec *, sigset_t *);
int __wrap_epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);
int __real_epoll_pwait2(int, struct epoll_event *, int, const struct timespec *, const sigset_t *);

int __wrap_io_uring_queue_init_params(
    unsigned entries, struct io_uring *ring, struct io_uring_params *params)
{
    if (refuse_ring != 0)
        return refuse_ring;
    if (refuse_deferred && params->flags & IORING_SETUP_DEFER_TASKRUN)
        return -EINVAL;
    return __real_io_uring_queue_init_params(entries, ring, params);
}

int __wrap_io_uring_register_buf_ring(
    struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags)
{
    if (refuse_buffers != 0)
        return refuse_buffers;
    return __real_io_uring_register_buf_ring(ring, reg, flags);
}

static void spoil(struct io_uring_sqe *sqe)
{
    bool multishot = (sqe->opcode == IORING_OP_RECV && sqe->ioprio & IORING_RECV_MULTISHOT) ||
                     (sqe->opcode == IORING_OP_ACCEPT && sqe->ioprio & IORING_ACCEPT_MULTISHOT);
    bool transfer = sqe->opcode == IORING_OP_RECV || sqe->opcode == IORING_OP_SEND;

    if (multishot && refuse_multishot) {
        sqe->ioprio |= 1u << 15; /* no kernel knows this flag: -EINVAL */
        spoiled++;
    }
    if (transfer && refuse_waiting) {
        sqe->msg_flags |= MSG_DONTWAIT; /* -EAGAIN instead of waiting */
        spoiled++;
    }
    if (sqe->opcode == IORING_OP_ASYNC_CANCEL && lose_cancels > 0) {
        sqe->addr = 2; /* no op has this address: -ENOENT */
        lose_cancels--;
        spoiled++;
    }
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
    unsigned count, struct __kernel_timespec *limit, sigset_t *mask)
{
    for (unsigned i = ring->sq.sqe_head; i != ring->sq.sqe_tail; i++)
        spoil(&ring->sq.sqes[i & ring->sq.ring_mask]);
    waits++;
    return __real_io_uring_submit_and_wait_timeout(ring, cqe, count, limit, mask);
}

int __wrap_epoll_pwait2(int fd, struct epoll_event *events, int count, const struct timespec *limit,
    const sigset_t *mask)
{
    waits++;
    if (refuse_pwait2) {
        errno = ENOSYS;
        return -1;
    }
    return __real_epoll_pwait2(fd, events, count, limit, mask);
}

static int nothing_refused(void **state)
{
    refuse_ring = refuse_buffers = 0;
    refuse_deferred = refuse_multishot = refuse_waiting = refuse_pwait2 = false;
    lose_cancels = spoiled = waits = 0;
    return fixture_open(state);
}

#define ON_SPOILED(row, f)                                                                         \
    {                                                                                              \
#row "_" #f, f, nothing_refused, fixture_close, &fixture_##row                             \
    }

static void refused_ring_gives_epoll_unless_forced(void **state)
{
    static const int reasons[] = {-EPERM, -ENOSYS, -ENOMEM};
    int fds = open_fds();

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct loop *loop = NULL;

        refuse_ring = reasons[i];
        assert_int_equal(loop_open(NULL, &loop), STATUS_OK);
        assert_string_equal(loop_name(loop), "epoll");
        loop_close(loop);
        loop = NULL;
        assert_true(loop_open("uring", &loop) < 0);
        assert_non_null(strstr(log_last_error(), "uring"));
        assert_null(loop);
    }
    refuse_ring = 0;
    assert_int_equal(open_fds(), fds);
}

/* A kernel from before buffer rings. */
static void refused_buffer_ring_gives_epoll(void **state)
{
    int fds = open_fds();
    struct loop *loop;

    (void)state;
    refuse_buffers = -EINVAL;
    assert_int_equal(loop_open(NULL, &loop), STATUS_OK);
    assert_string_equal(loop_name(loop), "epoll");
    loop_close(loop);
    refuse_buffers = 0;
    assert_int_equal(open_fds(), fds);
}

static bool takes_epoll_without_enter(void *context)
{
    struct loop *loop = NULL;

    (void)context;
    if (!refuse_calls((const long[REFUSE_MOST]){SYS_io_uring_enter}, ENOSYS) ||
        loop_open("uring", &loop) >= 0 || loop_open(NULL, &loop) != STATUS_OK)
        return false;
    return strcmp(loop_name(loop), "epoll") == 0 && loop_turn(loop, 0) == STATUS_AGAIN;
}

/* A filter that lets a ring be made, and not be used. */
static void refused_enter_gives_epoll(void **state)
{
    (void)state;
    child_must_succeed(child_start(takes_epoll_without_enter, NULL));
}

enum { BYTES = 1 << 20 };

struct sink {
    struct loop_op op;
    size_t bytes;
    bool wrong, ended;
    int accepted[8], count;
};

static void sink_done(struct loop_op *op, int64_t result)
{
    struct sink *s = op->context;

    for (int64_t i = 0; i < result; i++)
        s->wrong = s->wrong || op->data[i] != (unsigned char)((s->bytes + (size_t)i) * 7 >> 3);
    s->bytes += result > 0 ? (size_t)result : 0;
    s->ended = result == 0;
}

static void carry_a_megabyte(struct loop *loop, int flags)
{
    struct sink sink = {.op = {.done = sink_done, .context = &sink}};
    unsigned char *payload = malloc(BYTES);
    struct probe sent;
    int pair[2];

    for (size_t i = 0; i < BYTES; i++)
        payload[i] = (unsigned char)(i * 7 >> 3);
    stream_pair(pair, flags);
    probe_init(&sent);
    loop_recv(loop, &sink.op, pair[1]);
    loop_turn(loop, 0);
    loop_send(loop, &sent.op, pair[0], payload, BYTES);
    turn_until_final(loop, &sent.op);
    assert_int_equal(sent.last, BYTES);
    shutdown(pair[0], SHUT_WR);
    turn_until_final(loop, &sink.op);
    assert_true(sink.ended);
    assert_false(sink.wrong);
    assert_int_equal(sink.bytes, BYTES);
    close_pair(pair);
    free(payload);
}

/* A kernel before 6.1 still gives a ring. */
static void refused_deferred_work_does_without(void **state)
{
    struct fixture *f = *state;

    row_loop(state);
    loop_close(f->loop);
    f->loop = NULL;
    refuse_deferred = true;
    assert_int_equal(loop_open("uring", &f->loop), STATUS_OK);
    carry_a_megabyte(f->loop, 0);
}

static void refused_multishot_recv_goes_one_by_one(void **state)
{
    struct loop *loop = row_loop(state);

    refuse_multishot = true;
    carry_a_megabyte(loop, 0);
    assert_true(spoiled > 0);
}

static void refused_waiting_is_done_by_polling(void **state)
{
    struct loop *loop = row_loop(state);

    refuse_waiting = true;
    carry_a_megabyte(loop, SOCK_NONBLOCK);
    assert_true(spoiled > 1);
    refuse_multishot = true;
    carry_a_megabyte(loop, 0);
}

static void accepted_done(struct loop_op *op, int64_t result)
{
    struct sink *s = op->context;

    if (result >= 0)
        s->accepted[s->count++] = (int)result;
}

static void refused_multishot_accept_goes_one_by_one(void **state)
{
    struct loop *loop = row_loop(state);
    struct sink s = {.op = {.done = accepted_done, .context = &s}};
    struct sockaddr_un name;
    socklen_t bytes;
    int listener = listen_at(&name, &bytes), clients[8];

    refuse_multishot = true;
    loop_accept(loop, &s.op, listener);
    for (int i = 0; i < 8; i++) {
        clients[i] = connect_to(&name, bytes);
        while (s.count <= i)
            assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
    }
    assert_int_equal(spoiled, 1);
    loop_cancel(loop, &s.op);
    turn_until_final(loop, &s.op);
    for (int i = 0; i < 8; i++) {
        close(clients[i]);
        close(s.accepted[i]);
    }
    close(listener);
}

static void cancel_that_missed_is_repeated(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int pair[2];

    stream_pair(pair, 0);
    probe_init(&p);
    loop_recv(loop, &p.op, pair[0]);
    turn_until_quiet(loop);
    lose_cancels = 3;
    loop_cancel(loop, &p.op);
    turn_until_final(loop, &p.op);
    assert_int_equal(lose_cancels, 0);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.last, -ECANCELED);
    close_pair(pair);
}

/* One step: a bell rings, an answer goes out, a request comes in. The answer asks for no wait,
 * and the rest comes with one. */
static void one_step_is_one_wait(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe bell, in, out;
    int pair[2], fd = eventfd(0, EFD_CLOEXEC);

    stream_pair(pair, 0);
    probe_init(&bell);
    probe_init(&in);
    probe_init(&out);
    loop_bell(loop, &bell.op, fd);
    loop_recv(loop, &in.op, pair[0]);
    turn_until_quiet(loop);
    for (int step = 1; step <= 50; step++) {
        assert_false(loop_is_ready(loop));
        loop_send(loop, &out.op, pair[0], "token", 5);
        assert_true(loop_is_ready(loop));
        assert_int_equal(out.finals, step - 1); /* never inside the call that armed it */
        ring_bell(fd);
        assert_int_equal(write(pair[1], "?", 1), 1);
        waits = 0;
        assert_int_equal(loop_turn(loop, SECOND), STATUS_OK);
        assert_int_equal(waits, 0);
        assert_int_equal(out.finals, step);
        assert_int_equal(out.last, 5);
        assert_int_equal(loop_turn(loop, SECOND), STATUS_OK);
        assert_int_equal(waits, 1);
        assert_int_equal(bell.calls, step);
        assert_int_equal(in.calls, step);
    }
    loop_cancel(loop, &bell.op);
    loop_cancel(loop, &in.op);
    turn_until_final(loop, &bell.op);
    turn_until_final(loop, &in.op);
    close_pair(pair);
    close(fd);
}

struct chatter {
    struct loop_op op;
    struct loop *loop;
    int fd;
    bool ends;
};

static void chatter_on(struct loop_op *op, int64_t result)
{
    struct chatter *c = op->context;

    if (result > 0 && !c->ends)
        loop_send(c->loop, op, c->fd, "x", 1);
}

static void who_always_sends_still_hears_the_others(void **state)
{
    struct loop *loop = row_loop(state);
    struct chatter c = {.op = {.done = chatter_on, .context = &c}, .loop = loop};
    struct probe bell;
    int pair[2], fd = eventfd(0, EFD_CLOEXEC);

    stream_pair(pair, 0);
    probe_init(&bell);
    c.fd = pair[0];
    loop_bell(loop, &bell.op, fd);
    turn_until_quiet(loop);
    loop_send(loop, &c.op, c.fd, "x", 1);
    for (int i = 1; i <= 20; i++) {
        ring_bell(fd);
        assert_int_equal(loop_turn(loop, SECOND), STATUS_OK);
        assert_int_equal(loop_turn(loop, SECOND), STATUS_OK);
        assert_int_equal(bell.calls, i);
    }
    c.ends = true;
    turn_until_final(loop, &c.op);
    loop_cancel(loop, &bell.op);
    turn_until_final(loop, &bell.op);
    close_pair(pair);
    close(fd);
}

static void whole_milliseconds_do_where_pwait2_is_missing(void **state)
{
    struct loop *loop = row_loop(state);
    int64_t start = now_ns();
    struct probe p;

    refuse_pwait2 = true;
    probe_init(&p);
    loop_timer(loop, &p.op, start + 5 * MS / 2);
    turn_until_final(loop, &p.op);
    assert_true(now_ns() >= start + 5 * MS / 2);
    carry_a_megabyte(loop, SOCK_NONBLOCK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refused_ring_gives_epoll_unless_forced),
        cmocka_unit_test(refused_buffer_ring_gives_epoll),
        cmocka_unit_test(refused_enter_gives_epoll),
        ON_SPOILED(uring, refused_deferred_work_does_without),
        ON_SPOILED(uring, refused_multishot_recv_goes_one_by_one),
        ON_SPOILED(uring, refused_multishot_accept_goes_one_by_one),
        ON_SPOILED(uring, refused_waiting_is_done_by_polling),
        ON_SPOILED(uring, cancel_that_missed_is_repeated),
        ON_SPOILED(uring, one_step_is_one_wait),
        ON_SPOILED(epoll, one_step_is_one_wait),
        ON_SPOILED(uring, who_always_sends_still_hears_the_others),
        ON_SPOILED(epoll, who_always_sends_still_hears_the_others),
        ON_SPOILED(epoll, whole_milliseconds_do_where_pwait2_is_missing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
