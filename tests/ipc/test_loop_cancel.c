/* test_loop_cancel.c - every op ends exactly once, however it is ended. */
#include "loop_fixture.h"

enum { KINDS = 6 };

/* One op of every kind, none of which can complete by itself. */
struct everything {
    struct probe p[KINDS];
    struct sockaddr_un name;
    socklen_t name_bytes;
    int listener, bell, poll, pair[2], full[2];
    unsigned char *payload;
};

enum { PAYLOAD_BYTES = 4 << 20 };

static void everything_arm(struct everything *e, struct loop *loop)
{
    loop_accept(loop, &e->p[0].op, e->listener);
    loop_recv(loop, &e->p[1].op, e->pair[0]);
    loop_send(loop, &e->p[2].op, e->full[0], e->payload, PAYLOAD_BYTES);
    loop_bell(loop, &e->p[3].op, e->bell);
    loop_poll_once(loop, &e->p[4].op, e->poll);
    loop_timer(loop, &e->p[5].op, now_ns() + 1000 * SECOND);
}

static void everything_open(struct everything *e, struct loop *loop)
{
    e->listener = listen_at(&e->name, &e->name_bytes);
    e->bell = eventfd(0, EFD_CLOEXEC);
    e->poll = eventfd(0, EFD_CLOEXEC);
    e->payload = calloc(1, PAYLOAD_BYTES);
    stream_pair(e->pair, 0);
    stream_pair(e->full, SOCK_NONBLOCK);
    for (int i = 0; i < KINDS; i++)
        probe_init(&e->p[i]);
    everything_arm(e, loop);
}

static void everything_close(struct everything *e)
{
    close(e->listener);
    close(e->bell);
    close(e->poll);
    close_pair(e->pair);
    close_pair(e->full);
    free(e->payload);
}

/* Cancels all, twice; each must say -ECANCELED once and then keep still. */
static void everything_ends_once(struct everything *e, struct loop *loop)
{
    for (int i = 0; i < KINDS; i++) {
        e->p[i].calls = e->p[i].finals = 0;
        loop_cancel(loop, &e->p[i].op);
        loop_cancel(loop, &e->p[i].op);
        assert_int_equal(e->p[i].calls, 0);
        assert_true(loop_op_active(&e->p[i].op));
    }
    for (int i = 0; i < KINDS; i++)
        turn_until_final(loop, &e->p[i].op);
    turn_until_quiet(loop);
    for (int i = 0; i < KINDS; i++) {
        assert_int_equal(e->p[i].calls, 1);
        assert_int_equal(e->p[i].finals, 1);
        assert_int_equal(e->p[i].last, -ECANCELED);
        loop_cancel(loop, &e->p[i].op); /* inactive: no effect */
    }
    assert_int_equal(loop_turn(loop, 0), STATUS_AGAIN);
}

static void cancel_before_the_first_turn_ends_once(void **state)
{
    struct loop *loop = row_loop(state);
    struct everything e;

    everything_open(&e, loop);
    everything_ends_once(&e, loop);
    everything_close(&e);
}

static void cancel_in_flight_ends_once(void **state)
{
    struct loop *loop = row_loop(state);
    struct everything e;

    everything_open(&e, loop);
    turn_until_quiet(loop);
    everything_ends_once(&e, loop);
    everything_close(&e);
}

static void cancelled_ops_may_be_armed_again(void **state)
{
    struct loop *loop = row_loop(state);
    struct everything e;

    everything_open(&e, loop);
    for (int round = 0; round < 10; round++) {
        if (round % 2)
            turn_until_quiet(loop);
        everything_ends_once(&e, loop);
        everything_arm(&e, loop);
    }
    everything_ends_once(&e, loop);
    everything_close(&e);
}

/* What completes at the same moment is dropped, a fresh connection closed. */
static void cancel_wins_over_a_completion_under_way(void **state)
{
    struct loop *loop = row_loop(state);
    struct everything e;
    char rest[4];
    int client;

    everything_open(&e, loop);
    turn_until_quiet(loop);
    client = connect_to(&e.name, e.name_bytes);
    assert_int_equal(write(e.pair[1], "bytes", 5), 5);
    ring_bell(e.bell);
    ring_bell(e.poll);
    close(e.full[1]);
    e.full[1] = eventfd(0, EFD_CLOEXEC);
    everything_ends_once(&e, loop);
    close(e.listener);
    e.listener = eventfd(0, EFD_CLOEXEC);
    assert_true(recv(client, rest, sizeof(rest), MSG_DONTWAIT) <= 0 && errno != EAGAIN);
    close(client);
    everything_close(&e);
}

struct canceller {
    struct loop_op op;
    struct loop *loop;
    struct loop_op *victim; /* NULL: itself */
    int data, cancelled;
};

static void cancel_victim(struct loop_op *op, int64_t result)
{
    struct canceller *c = op->context;

    if (result == -ECANCELED) {
        c->cancelled++;
        return;
    }
    c->data++;
    loop_cancel(c->loop, c->victim != NULL ? c->victim : op);
}

/* The bell's completion comes first; the accept's is there by then, with its descriptor. */
static void connection_of_an_accept_cancelled_before_its_turn_is_let_go(void **state)
{
    struct loop *loop = row_loop(state);
    int bell = eventfd(0, EFD_CLOEXEC), client, listener, before;
    struct canceller c = {.loop = loop};
    struct sockaddr_un name;
    socklen_t bytes;
    struct probe accepts;

    listener = listen_at(&name, &bytes);
    probe_init(&accepts);
    c.op = (struct loop_op){.done = cancel_victim, .context = &c};
    c.victim = &accepts.op;
    loop_bell(loop, &c.op, bell);
    loop_accept(loop, &accepts.op, listener);
    turn_until_quiet(loop);
    before = open_fds();
    ring_bell(bell);
    client = connect_to(&name, bytes);
    turn_until_final(loop, &accepts.op);
    assert_int_equal(c.data, 1);
    assert_int_equal(accepts.calls, 1);
    assert_int_equal(accepts.last, -ECANCELED);
    assert_int_equal(open_fds(), before + 1);
    c.victim = NULL;
    loop_cancel(loop, &c.op);
    turn_until_final(loop, &c.op);
    close(client);
    close(listener);
    close(bell);
}

/* Every other op completes once and is final; its cancel comes in the same turn. */
static void cancel_of_a_finished_op_is_its_only_completion(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe sent, due;
    int pair[2];

    stream_pair(pair, 0);
    probe_init(&sent);
    probe_init(&due);
    loop_send(loop, &sent.op, pair[0], "x", 1);
    loop_timer(loop, &due.op, 0);
    loop_cancel(loop, &sent.op);
    loop_cancel(loop, &due.op);
    turn_until_quiet(loop);
    assert_int_equal(sent.calls, 1);
    assert_int_equal(sent.last, -ECANCELED);
    assert_int_equal(due.calls, 1);
    assert_int_equal(due.last, -ECANCELED);
    close_pair(pair);
}

static void op_may_cancel_itself(void **state)
{
    struct loop *loop = row_loop(state);
    struct canceller recv_op = {.loop = loop}, bell_op = {.loop = loop};
    int pair[2], bell = eventfd(0, EFD_CLOEXEC);
    static char bytes[150000];

    stream_pair(pair, 0);
    recv_op.op = (struct loop_op){.done = cancel_victim, .context = &recv_op};
    bell_op.op = (struct loop_op){.done = cancel_victim, .context = &bell_op};
    assert_int_equal(write(pair[1], bytes, sizeof(bytes)), sizeof(bytes));
    ring_bell(bell);
    loop_recv(loop, &recv_op.op, pair[0]);
    loop_bell(loop, &bell_op.op, bell);
    turn_until_final(loop, &recv_op.op);
    turn_until_final(loop, &bell_op.op);
    turn_until_quiet(loop);
    assert_int_equal(recv_op.data, 1);
    assert_int_equal(recv_op.cancelled, 1);
    assert_int_equal(bell_op.data, 1);
    assert_int_equal(bell_op.cancelled, 1);
    close_pair(pair);
    close(bell);
}

/* An owner that goes with its op's last completion, and its fd too. */
struct owner {
    struct loop_op op;
    int fd;
    int *gone;
};

static void owner_done(struct loop_op *op, int64_t result)
{
    struct owner *o = op->context;

    if (loop_op_active(op))
        return;
    assert_true(result <= 0);
    ++*o->gone;
    close(o->fd);
    free(o);
}

static void final_completion_may_free_the_op(void **state)
{
    enum { OWNERS = 40 };
    struct loop *loop = row_loop(state);
    int gone = 0, far[OWNERS];

    for (int i = 0; i < OWNERS; i++) {
        struct owner *o = calloc(1, sizeof(*o));
        int pair[2];

        stream_pair(pair, 0);
        far[i] = pair[1];
        *o = (struct owner){.op = {.done = owner_done, .context = o}, .fd = pair[0], .gone = &gone};
        loop_recv(loop, &o->op, o->fd);
        if (i % 4 == 0)
            loop_turn(loop, 0);
        if (i % 2)
            assert_int_equal(write(far[i], "some", 4), 4);
        if (i % 3 == 0)
            loop_cancel(loop, &o->op);
        else
            shutdown(far[i], SHUT_WR);
    }
    while (gone < OWNERS)
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
    turn_until_quiet(loop);
    assert_int_equal(gone, OWNERS);
    for (int i = 0; i < OWNERS; i++)
        close(far[i]);
}

/* The number of a closed fd comes back as another file at once. */
static void reused_descriptor_number_is_a_new_file(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int number = -1;

    probe_init(&p);
    for (int i = 0; i < 50; i++) {
        int pair[2];

        stream_pair(pair, 0);
        assert_true(number < 0 || pair[0] == number);
        number = pair[0];
        loop_recv(loop, &p.op, pair[0]);
        loop_turn(loop, 0);
        close(pair[1]);
        turn_until_final(loop, &p.op);
        assert_int_equal(p.last, 0);
        close(pair[0]);
    }
    assert_int_equal(p.finals, 50);
}

/* Closed too early, while another process still holds the file: what comes there is not of the
 * file that has the number now. */
static void event_of_a_closed_file_is_not_of_the_next_with_its_number(void **state)
{
    struct loop *loop = row_loop(state);
    int fd = eventfd(0, EFD_CLOEXEC), kept = dup(fd), next;
    struct probe p;

    probe_init(&p);
    loop_poll_once(loop, &p.op, fd);
    turn_until_quiet(loop);
    close(fd);
    loop_cancel(loop, &p.op);
    turn_until_final(loop, &p.op);
    next = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(next, fd);
    probe_init(&p);
    loop_poll_once(loop, &p.op, next);
    ring_bell(kept);
    assert_int_equal(loop_turn(loop, 5 * MS), STATUS_AGAIN);
    assert_int_equal(p.calls, 0);
    ring_bell(next);
    turn_until_final(loop, &p.op);
    assert_int_equal(p.last, 0);
    close(next);
    close(kept);
}

static void arming_an_active_op_changes_nothing(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    int pair[2];

    stream_pair(pair, 0);
    probe_init(&p);
    loop_recv(loop, &p.op, pair[0]);
    loop_timer(loop, &p.op, 0);
    assert_non_null(strstr(log_last_error(), "active"));
    close(pair[1]);
    turn_until_final(loop, &p.op);
    turn_until_quiet(loop);
    assert_int_equal(p.calls, 1);
    close(pair[0]);
}

static void turn_inside(struct loop_op *op, int64_t result)
{
    struct canceller *c = op->context;

    assert_int_equal(result, 0);
    assert_int_equal(loop_turn(c->loop, 0), STATUS_INTERNAL);
    c->data++;
}

static void turn_from_a_completion_is_refused(void **state)
{
    struct loop *loop = row_loop(state);
    struct canceller c = {.op = {.done = turn_inside, .context = &c}, .loop = loop};

    loop_timer(loop, &c.op, 0);
    turn_until_final(loop, &c.op);
    assert_int_equal(c.data, 1);
}

static void close_cancels_what_is_outstanding(void **state)
{
    struct fixture *f = *state;
    struct loop *loop = row_loop(state);
    struct everything flying, queued;

    everything_open(&flying, loop);
    turn_until_quiet(loop);
    everything_open(&queued, loop);
    loop_close(loop);
    f->loop = NULL;
    for (int i = 0; i < KINDS; i++) {
        assert_int_equal(flying.p[i].calls, 1);
        assert_int_equal(flying.p[i].last, -ECANCELED);
        assert_int_equal(queued.p[i].calls, 1);
        assert_int_equal(queued.p[i].last, -ECANCELED);
    }
    everything_close(&flying);
    everything_close(&queued);
}

static void arm_again(struct loop_op *op, int64_t result)
{
    struct canceller *c = op->context;

    c->data++;
    assert_int_equal(result, -ECANCELED);
    loop_timer(c->loop, op, 0);
}

static void op_armed_while_closing_stays_inactive(void **state)
{
    struct fixture *f = *state;
    struct canceller c = {.op = {.done = arm_again, .context = &c}, .loop = row_loop(state)};

    loop_timer(c.loop, &c.op, INT64_MAX);
    loop_close(c.loop);
    f->loop = NULL;
    assert_int_equal(c.data, 1);
    assert_false(loop_op_active(&c.op));
}

#define TESTS_ON(row)                                                                              \
    ON_ROW(row, cancel_before_the_first_turn_ends_once), ON_ROW(row, cancel_in_flight_ends_once),  \
        ON_ROW(row, cancelled_ops_may_be_armed_again),                                             \
        ON_ROW(row, cancel_wins_over_a_completion_under_way),                                      \
        ON_ROW(row, connection_of_an_accept_cancelled_before_its_turn_is_let_go),                  \
        ON_ROW(row, cancel_of_a_finished_op_is_its_only_completion),                               \
        ON_ROW(row, op_may_cancel_itself), ON_ROW(row, final_completion_may_free_the_op),          \
        ON_ROW(row, reused_descriptor_number_is_a_new_file),                                       \
        ON_ROW(row, event_of_a_closed_file_is_not_of_the_next_with_its_number),                    \
        ON_ROW(row, arming_an_active_op_changes_nothing),                                          \
        ON_ROW(row, turn_from_a_completion_is_refused),                                            \
        ON_ROW(row, close_cancels_what_is_outstanding),                                            \
        ON_ROW(row, op_armed_while_closing_stays_inactive)

int main(void)
{
    const struct CMUnitTest tests[] = {TESTS_ON(uring), TESTS_ON(epoll)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
