/* test_loop.c - the choice of a row; bytes and connections through both rows. */
#include "loop_fixture.h"

#include <sys/resource.h>

static void named_row_is_the_one_that_runs(void **state)
{
    assert_string_equal(loop_name(row_loop(state)), ((struct fixture *)*state)->row);
}

static void unknown_row_is_refused(void **state)
{
    struct loop *loop = NULL;

    (void)state;
    assert_int_equal(loop_open("kqueue", &loop), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "kqueue"));
    assert_null(loop);
}

/* One end: what came in, and what of it has been sent back. */
struct end {
    struct loop *loop;
    struct loop_op recv, send;
    int fd;
    unsigned char *got;
    size_t got_bytes, sent_bytes, capacity;
    bool echoes, eof;
};

static void end_echo(struct end *e)
{
    if (!e->echoes || loop_op_active(&e->send) || e->sent_bytes == e->got_bytes)
        return;
    loop_send(e->loop, &e->send, e->fd, e->got + e->sent_bytes, e->got_bytes - e->sent_bytes);
}

static void end_sent(struct loop_op *op, int64_t result)
{
    struct end *e = op->context;

    assert_true(result > 0);
    e->sent_bytes += (size_t)result;
    end_echo(e);
}

static void end_received(struct loop_op *op, int64_t result)
{
    struct end *e = op->context;

    assert_true(result >= 0);
    e->eof = result == 0;
    assert_int_equal(e->eof, !loop_op_active(op));
    assert_true(e->got_bytes + (size_t)result <= e->capacity);
    if (result > 0)
        memcpy(e->got + e->got_bytes, op->data, (size_t)result);
    e->got_bytes += (size_t)result;
    end_echo(e);
}

static void end_init(struct end *e, struct loop *loop, int fd, size_t capacity)
{
    *e = (struct end){.loop = loop, .fd = fd, .capacity = capacity, .got = malloc(capacity)};
    assert_non_null(e->got);
    e->recv = (struct loop_op){.done = end_received, .context = e};
    e->send = (struct loop_op){.done = end_sent, .context = e};
}

static void megabytes_are_echoed_through_short_writes(void **state)
{
    enum { BYTES = 5 << 20 };
    struct loop *loop = row_loop(state);
    unsigned char *payload = malloc(BYTES);
    struct end near, far;
    int pair[2], small = 4096;

    for (unsigned i = 0; i < BYTES; i++)
        payload[i] = (unsigned char)(i * 2654435761u >> 24);
    stream_pair(pair, 0);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    end_init(&near, loop, pair[0], BYTES);
    end_init(&far, loop, pair[1], BYTES);
    far.echoes = true;
    loop_recv(loop, &near.recv, near.fd);
    loop_recv(loop, &far.recv, far.fd);
    loop_send(loop, &near.send, near.fd, payload, BYTES);
    while (near.got_bytes < BYTES || loop_op_active(&far.send) || loop_op_active(&near.send))
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
    assert_memory_equal(near.got, payload, BYTES);
    assert_int_equal(near.sent_bytes, BYTES);
    assert_int_equal(far.sent_bytes, BYTES);
    shutdown(pair[0], SHUT_WR);
    turn_until_final(loop, &far.recv);
    shutdown(pair[1], SHUT_WR);
    turn_until_final(loop, &near.recv);
    assert_true(near.eof && far.eof);
    close_pair(pair);
    free(near.got);
    free(far.got);
    free(payload);
}

/* More sockets have bytes at once than io_uring's row has buffers. */
static void more_sockets_than_buffers_lose_nothing(void **state)
{
    enum { PAIRS = 80, BYTES = 40000 };
    struct loop *loop = row_loop(state);
    static unsigned char payload[BYTES];
    static struct end ends[PAIRS];
    int pairs[PAIRS][2];

    for (unsigned i = 0; i < BYTES; i++)
        payload[i] = (unsigned char)(i * 40503u >> 8);
    for (int i = 0; i < PAIRS; i++) {
        stream_pair(pairs[i], i % 2 ? SOCK_NONBLOCK : 0);
        assert_int_equal(write(pairs[i][1], payload, BYTES), BYTES);
        close(pairs[i][1]);
        end_init(&ends[i], loop, pairs[i][0], BYTES);
        loop_recv(loop, &ends[i].recv, pairs[i][0]);
    }
    for (int i = 0; i < PAIRS; i++) {
        turn_until_final(loop, &ends[i].recv);
        assert_true(ends[i].eof);
        assert_int_equal(ends[i].got_bytes, BYTES);
        assert_memory_equal(ends[i].got, payload, BYTES);
        free(ends[i].got);
        close(pairs[i][0]);
    }
}

static void empty_send_completes(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int pair[2];

    stream_pair(pair, 0);
    probe_init(&p);
    loop_send(loop, &p.op, pair[0], "", 0);
    assert_int_equal(p.calls, 0);
    turn_until_final(loop, &p.op);
    assert_int_equal(p.last, 0);
    close_pair(pair);
}

static void send_completes_in_a_turn_only(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int pair[2];

    stream_pair(pair, SOCK_NONBLOCK);
    probe_init(&p);
    loop_send(loop, &p.op, pair[0], "grind", 5);
    assert_int_equal(p.calls, 0);
    assert_true(loop_op_active(&p.op));
    turn_until_final(loop, &p.op);
    assert_int_equal(p.calls, 1);
    assert_int_equal(p.last, 5);
    close_pair(pair);
}

static void peer_that_leaves_fails_the_send(void **state)
{
    enum { BYTES = 4 << 20 };
    struct loop *loop = row_loop(state);
    unsigned char *payload = calloc(1, BYTES);
    struct probe p;
    int pair[2];

    stream_pair(pair, SOCK_NONBLOCK);
    probe_init(&p);
    loop_send(loop, &p.op, pair[0], payload, BYTES);
    turn_until_quiet(loop);
    assert_true(loop_op_active(&p.op));
    close(pair[1]);
    turn_until_final(loop, &p.op);
    assert_true(p.last == -EPIPE || p.last == -ECONNRESET);
    assert_int_equal(p.calls, 1);
    close(pair[0]);
    free(payload);
}

static void peer_that_leaves_unread_bytes_resets_the_recv(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int pair[2];

    stream_pair(pair, 0);
    probe_init(&p);
    assert_int_equal(write(pair[0], "unread", 6), 6);
    loop_recv(loop, &p.op, pair[0]);
    turn_until_quiet(loop);
    close(pair[1]);
    turn_until_final(loop, &p.op);
    assert_int_equal(p.last, -ECONNRESET);
    assert_int_equal(p.finals, 1);
    close(pair[0]);
}

static void bad_descriptor_is_a_completion(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p[5];
    int unused = dup(0);

    close(unused);
    for (int i = 0; i < 5; i++)
        probe_init(&p[i]);
    loop_recv(loop, &p[0].op, unused);
    loop_accept(loop, &p[1].op, unused);
    loop_bell(loop, &p[2].op, unused);
    loop_poll_once(loop, &p[3].op, -1);
    loop_send(loop, &p[4].op, unused, "x", 1);
    for (int i = 0; i < 5; i++)
        assert_int_equal(p[i].calls, 0);
    for (int i = 0; i < 5; i++) {
        turn_until_final(loop, &p[i].op);
        assert_int_equal(p[i].last, -EBADF);
        assert_int_equal(p[i].calls, 1);
    }
}

struct door {
    struct loop_op op;
    int fds[64], count;
    int64_t error;
};

static void door_opened(struct loop_op *op, int64_t result)
{
    struct door *d = op->context;

    if (result >= 0)
        d->fds[d->count++] = (int)result;
    else
        d->error = result;
}

static void fifty_connections_are_accepted(void **state)
{
    struct loop *loop = row_loop(state);
    struct door door = {.op = {.done = door_opened, .context = &door}};
    struct sockaddr_un name;
    socklen_t bytes;
    int listener = listen_at(&name, &bytes), clients[50];

    loop_accept(loop, &door.op, listener);
    for (int i = 0; i < 50; i++) {
        clients[i] = connect_to(&name, bytes);
        if (i % 7 == 0)
            loop_turn(loop, 0);
    }
    while (door.count < 50)
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
    for (int i = 0; i < 50; i++) {
        assert_true(fcntl(door.fds[i], F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(door.fds[i], F_GETFL) & O_NONBLOCK);
        close(door.fds[i]);
        close(clients[i]);
    }
    loop_cancel(loop, &door.op);
    turn_until_final(loop, &door.op);
    assert_int_equal(door.error, -ECANCELED);
    assert_int_equal(door.count, 50);
    close(listener);
}

static void too_many_files_end_the_accept_until_armed_again(void **state)
{
    struct loop *loop = row_loop(state);
    struct door door = {.op = {.done = door_opened, .context = &door}};
    struct sockaddr_un name;
    socklen_t bytes;
    int listener = listen_at(&name, &bytes), client = connect_to(&name, bytes);
    struct rlimit was, none;

    getrlimit(RLIMIT_NOFILE, &was);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = was.rlim_max};
    loop_accept(loop, &door.op, listener);
    setrlimit(RLIMIT_NOFILE, &none);
    loop_turn(loop, SECOND);
    setrlimit(RLIMIT_NOFILE, &was);
    assert_false(loop_op_active(&door.op));
    assert_int_equal(door.error, -EMFILE);
    loop_accept(loop, &door.op, listener);
    while (door.count == 0)
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
    close(door.fds[0]);
    close(client);
    loop_cancel(loop, &door.op);
    turn_until_final(loop, &door.op);
    close(listener);
}

static void accept_on_a_plain_socket_fails(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    probe_init(&p);
    loop_accept(loop, &p.op, fd);
    turn_until_final(loop, &p.op);
    assert_int_equal(p.last, -EINVAL);
    assert_int_equal(p.calls, 1);
    close(fd);
}

#define TESTS_ON(row)                                                                              \
    ON_ROW(row, named_row_is_the_one_that_runs),                                                   \
        ON_ROW(row, megabytes_are_echoed_through_short_writes),                                    \
        ON_ROW(row, more_sockets_than_buffers_lose_nothing), ON_ROW(row, empty_send_completes),    \
        ON_ROW(row, send_completes_in_a_turn_only), ON_ROW(row, peer_that_leaves_fails_the_send),  \
        ON_ROW(row, peer_that_leaves_unread_bytes_resets_the_recv),                                \
        ON_ROW(row, bad_descriptor_is_a_completion), ON_ROW(row, fifty_connections_are_accepted),  \
        ON_ROW(row, too_many_files_end_the_accept_until_armed_again),                              \
        ON_ROW(row, accept_on_a_plain_socket_fails)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_row_is_refused),
        TESTS_ON(uring),
        TESTS_ON(epoll),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
