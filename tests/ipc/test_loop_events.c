/* test_loop_events.c - bells, processes and timers through both rows of the
 * loop, and that waiting for them costs nothing. */
#include "loop_fixture.h"

#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

static void bell_wakes_for_every_ring_it_has_not_reported(void **state)
{
    struct loop *loop = row_loop(state);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct probe p;

    probe_init(&p);
    loop_bell(loop, &p.op, fd);
    assert_int_equal(loop_turn(loop, 0), STATUS_AGAIN);
    for (int round = 0; round < 100; round++) {
        int rings = 1 + round % 5, before = p.calls;

        for (int i = 0; i < rings; i++)
            ring_bell(fd);
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
        turn_until_quiet(loop);
        assert_true(p.calls > before && p.calls <= before + rings);
        assert_int_equal(p.last, 0);
    }
    loop_cancel(loop, &p.op);
    turn_until_final(loop, &p.op);
    close(fd);
}

static void drain_and_count(struct loop_op *op, int64_t result)
{
    struct probe *p = op->context;
    uint64_t rings;

    p->last = result;
    if (result == 0 && read(op->fd, &rings, sizeof(rings)) == sizeof(rings))
        p->calls += (int)rings;
}

/* The ringer is another process; done() may drain the counter. */
static void bell_of_another_process_loses_no_ring(void **state)
{
    enum { RINGS = 2000 };
    struct loop *loop = row_loop(state);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct probe p;
    pid_t child;

    probe_init(&p);
    p.op.done = drain_and_count;
    loop_bell(loop, &p.op, fd);
    loop_turn(loop, 0);
    child = fork();
    if (child == 0) {
        uint64_t one = 1;

        for (int i = 0; i < RINGS; i++)
            if (write(fd, &one, sizeof(one)) != sizeof(one))
                _exit(1);
        _exit(0);
    }
    while (p.calls < RINGS)
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
    assert_int_equal(p.calls, RINGS);
    waitpid(child, NULL, 0);
    loop_cancel(loop, &p.op);
    turn_until_final(loop, &p.op);
    close(fd);
}

static void ended_child_completes_its_pidfd(void **state)
{
    struct loop *loop = row_loop(state);
    struct probe p;
    pid_t child = fork();
    int fd;

    if (child == 0) {
        pause();
        _exit(1);
    }
    fd = pidfd_open(child, 0);
    probe_init(&p);
    loop_poll_once(loop, &p.op, fd);
    turn_until_quiet(loop);
    assert_int_equal(p.calls, 0);
    kill(child, SIGKILL);
    turn_until_final(loop, &p.op);
    assert_int_equal(p.last, 0);
    assert_int_equal(waitpid(child, NULL, WNOHANG), child);
    close(fd);
}

static struct probe *timer_order[8];
static int timers_fired;

static void timer_fired(struct loop_op *op, int64_t result)
{
    probe_done(op, result);
    if (result == 0)
        timer_order[timers_fired++] = op->context;
}

static void timers_complete_in_order_and_not_early(void **state)
{
    static const int after_ms[] = {30, 10, 20, 0, 25};
    static const int order[] = {3, 1, 2, 0};
    struct loop *loop = row_loop(state);
    int64_t start = now_ns();
    struct probe p[5];

    timers_fired = 0;
    for (int i = 0; i < 5; i++) {
        probe_init(&p[i]);
        p[i].op.done = timer_fired;
        loop_timer(loop, &p[i].op, start + after_ms[i] * MS);
    }
    loop_cancel(loop, &p[4].op);
    turn_until_final(loop, &p[0].op);
    assert_true(now_ns() >= start + 30 * MS);
    assert_int_equal(timers_fired, 4);
    for (int i = 0; i < 4; i++)
        assert_ptr_equal(timer_order[i], &p[order[i]]);
    assert_int_equal(p[4].last, -ECANCELED);
    assert_int_equal(p[4].calls, 1);
}

struct repeater {
    struct loop_op op;
    struct loop *loop;
    int fd, left;
};

static void timer_again(struct loop_op *op, int64_t result)
{
    struct repeater *r = op->context;

    assert_int_equal(result, 0);
    if (--r->left > 0)
        loop_timer(r->loop, op, now_ns());
}

static void send_again(struct loop_op *op, int64_t result)
{
    struct repeater *r = op->context;

    assert_int_equal(result, 4);
    if (--r->left > 0)
        loop_send(r->loop, op, r->fd, "mill", 4);
}

static void final_completion_may_arm_again(void **state)
{
    struct loop *loop = row_loop(state);
    struct repeater timer = {.loop = loop, .left = 20}, sender = {.loop = loop, .left = 20};
    char got[256];
    int pair[2];

    stream_pair(pair, 0);
    timer.op = (struct loop_op){.done = timer_again, .context = &timer};
    sender.op = (struct loop_op){.done = send_again, .context = &sender};
    sender.fd = pair[0];
    loop_timer(loop, &timer.op, now_ns());
    loop_send(loop, &sender.op, pair[0], "mill", 4);
    turn_until_final(loop, &timer.op);
    turn_until_final(loop, &sender.op);
    assert_int_equal(timer.left, 0);
    assert_int_equal(sender.left, 0);
    assert_int_equal(read(pair[1], got, sizeof(got)), 80);
    close_pair(pair);
}

/* More than the submission ring holds at once. */
static void a_thousand_ops_of_one_turn_complete(void **state)
{
    enum { OPS = 1000 };
    struct loop *loop = row_loop(state);
    static struct probe p[OPS];
    int fd = eventfd(0, EFD_CLOEXEC);

    for (int i = 0; i < OPS; i++) {
        probe_init(&p[i]);
        loop_poll_once(loop, &p[i].op, fd);
    }
    assert_int_equal(loop_turn(loop, 0), STATUS_AGAIN);
    ring_bell(fd);
    for (int i = 0; i < OPS; i++) {
        turn_until_final(loop, &p[i].op);
        assert_int_equal(p[i].calls, 1);
        assert_int_equal(p[i].last, 0);
    }
    close(fd);
}

static int64_t cpu_ns(const struct rusage *u)
{
    return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * SECOND +
           (u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1000;
}

static void idle_turn_sleeps_with_everything_armed(void **state)
{
    struct loop *loop = row_loop(state);
    struct sockaddr_un name;
    socklen_t bytes;
    struct probe p[5];
    struct rusage before, after;
    int pair[2], listener = listen_at(&name, &bytes), bell = eventfd(0, EFD_CLOEXEC);
    int child = eventfd(0, EFD_CLOEXEC);

    stream_pair(pair, 0);
    for (int i = 0; i < 5; i++)
        probe_init(&p[i]);
    loop_accept(loop, &p[0].op, listener);
    loop_recv(loop, &p[1].op, pair[0]);
    loop_bell(loop, &p[2].op, bell);
    loop_poll_once(loop, &p[3].op, child);
    loop_timer(loop, &p[4].op, now_ns() + 1000 * SECOND);
    ring_bell(bell); /* and its counter stays above zero */
    turn_until_quiet(loop);
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(loop_turn(loop, 200 * MS), STATUS_AGAIN);
    getrusage(RUSAGE_SELF, &after);
    assert_true(cpu_ns(&after) - cpu_ns(&before) < 5 * MS);
    assert_true(after.ru_nvcsw - before.ru_nvcsw <= 4);
    for (int i = 0; i < 5; i++)
        loop_cancel(loop, &p[i].op);
    for (int i = 0; i < 5; i++)
        turn_until_final(loop, &p[i].op);
    close_pair(pair);
    close(listener);
    close(bell);
    close(child);
}

static volatile sig_atomic_t alarms;

static void count_alarm(int number)
{
    alarms += number == SIGALRM;
}

static void signal_handler_does_not_end_the_wait(void **state)
{
    struct loop *loop = row_loop(state);
    struct sigaction act = {.sa_handler = count_alarm}, was;
    struct itimerval tick = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000}, none = {0};
    int64_t start = now_ns();

    alarms = 0;
    sigaction(SIGALRM, &act, &was);
    setitimer(ITIMER_REAL, &tick, NULL);
    assert_int_equal(loop_turn(loop, 60 * MS), STATUS_AGAIN);
    setitimer(ITIMER_REAL, &none, NULL);
    sigaction(SIGALRM, &was, NULL);
    assert_true(alarms > 0);
    assert_true(now_ns() >= start + 60 * MS);
}

#define TESTS_ON(row)                                                                              \
    ON_ROW(row, bell_wakes_for_every_ring_it_has_not_reported),                                    \
        ON_ROW(row, bell_of_another_process_loses_no_ring),                                        \
        ON_ROW(row, ended_child_completes_its_pidfd),                                              \
        ON_ROW(row, timers_complete_in_order_and_not_early),                                       \
        ON_ROW(row, final_completion_may_arm_again),                                               \
        ON_ROW(row, a_thousand_ops_of_one_turn_complete),                                          \
        ON_ROW(row, signal_handler_does_not_end_the_wait),                                         \
        ON_ROW(row, idle_turn_sleeps_with_everything_armed)

int main(void)
{
    const struct CMUnitTest tests[] = {TESTS_ON(uring), TESTS_ON(epoll)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
