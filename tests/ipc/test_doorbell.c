/* test_doorbell.c - sleeping and being woken. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "ipc/doorbell.h"

struct room {
    struct segment segment;
    struct doorbell bell;
};

static int setup(void **state)
{
    static struct room r;

    assert_int_equal(segment_create("test", 4096, &r.segment), STATUS_OK);
    assert_int_equal(doorbell_open(r.segment.base, &r.bell), STATUS_OK);
    *state = &r;
    return 0;
}

static int teardown(void **state)
{
    struct room *r = *state;

    doorbell_close(&r->bell);
    segment_close(&r->segment);
    return 0;
}

/* What the eventfd has counted: the system calls that ringing cost. */
static uint64_t writes(struct doorbell *d)
{
    uint64_t count = 0;

    return read(d->fd, &count, sizeof(count)) < 0 ? 0 : count;
}

static void ringing_an_awake_reader_costs_no_call(void **state)
{
    struct room *r = *state;

    for (int i = 0; i < 1000; i++)
        assert_int_equal(doorbell_ring(&r->bell), STATUS_OK);
    assert_int_equal(writes(&r->bell), 0);
}

static void many_rings_wake_a_sleeper_with_one_call(void **state)
{
    struct room *r = *state;

    doorbell_arm(&r->bell);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(doorbell_ring(&r->bell), STATUS_OK);
    assert_int_equal(doorbell_wait(&r->bell, -1, 0), STATUS_OK);
    assert_int_equal(writes(&r->bell), 1);
}

static void disarming_drains(void **state)
{
    struct room *r = *state;

    doorbell_arm(&r->bell);
    assert_int_equal(doorbell_ring(&r->bell), STATUS_OK);
    doorbell_disarm(&r->bell);
    assert_int_equal(doorbell_wait(&r->bell, -1, 0), STATUS_AGAIN);
    doorbell_disarm(&r->bell);
}

/* A count that nobody announced stays: disarming did not look. */
static void disarming_what_was_not_rung_costs_no_call(void **state)
{
    struct room *r = *state;
    uint64_t one = 1;

    assert_int_equal(write(r->bell.fd, &one, sizeof(one)), sizeof(one));
    doorbell_arm(&r->bell);
    doorbell_disarm(&r->bell);
    assert_int_equal(writes(&r->bell), 1);
    assert_int_equal(doorbell_ring(&r->bell), STATUS_OK); /* it is awake */
    assert_int_equal(writes(&r->bell), 0);
}

static void awaking_leaves_the_counter_and_says_whether_it_was_rung(void **state)
{
    struct room *r = *state;

    doorbell_arm(&r->bell);
    assert_false(doorbell_awake(&r->bell));
    doorbell_arm(&r->bell);
    assert_int_equal(doorbell_ring(&r->bell), STATUS_OK);
    assert_true(doorbell_awake(&r->bell));
    assert_int_equal(writes(&r->bell), 1);
}

static void full_counter_counts_as_rung(void **state)
{
    struct room *r = *state;
    uint64_t most = UINT64_MAX - 1;

    assert_int_equal(write(r->bell.fd, &most, sizeof(most)), sizeof(most));
    doorbell_arm(&r->bell);
    assert_int_equal(doorbell_ring(&r->bell), STATUS_OK);
    assert_int_equal(doorbell_wait(&r->bell, -1, 0), STATUS_OK);
}

static void wait_ends_with_its_timeout(void **state)
{
    struct room *r = *state;

    doorbell_arm(&r->bell);
    assert_int_equal(doorbell_wait(&r->bell, -1, 1), STATUS_AGAIN);
    doorbell_disarm(&r->bell);
}

static void hang_up_of_the_death_pipe_is_death(void **state)
{
    struct room *r = *state;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    doorbell_arm(&r->bell);
    assert_int_equal(doorbell_wait(&r->bell, fds[0], 0), STATUS_AGAIN);
    close(fds[1]);
    assert_int_equal(doorbell_wait(&r->bell, fds[0], -1), STATUS_DEAD);
    assert_int_equal(doorbell_ring(&r->bell), STATUS_OK);
    assert_int_equal(doorbell_wait(&r->bell, fds[0], -1), STATUS_DEAD); /* rung or not */
    close(fds[0]);
}

static void inherited_fd_that_is_closed_is_refused(void **state)
{
    struct room *r = *state;
    struct doorbell d;
    int fd = dup(r->bell.fd);

    assert_int_equal(doorbell_attach(r->segment.base, fd, &d), STATUS_OK);
    doorbell_arm(&r->bell);
    assert_int_equal(doorbell_ring(&d), STATUS_OK);
    assert_int_equal(doorbell_wait(&r->bell, -1, 0), STATUS_OK);
    doorbell_close(&d);
    doorbell_close(&d);
    assert_int_equal(doorbell_attach(r->segment.base, fd, &d), STATUS_INVALID);
}

/* ---- await ---- */

static bool count_down(void *context)
{
    return (*(int *)context)-- == 0;
}

static void await_returns_at_once_when_ready(void **state)
{
    struct room *r = *state;
    int looks = 0;

    assert_int_equal(doorbell_await(&r->bell, -1, count_down, &looks, 1000), STATUS_OK);
    assert_int_equal(looks, -1);
    assert_int_equal(atomic_load(&r->bell.shared->sleeping), 0);
}

static void await_spins_before_it_sleeps(void **state)
{
    struct room *r = *state;
    int looks = 50; /* nobody rings: only a spin can get there */

    assert_int_equal(
        doorbell_await(&r->bell, -1, count_down, &looks, 10 * UINT64_C(1000000000)), STATUS_OK);
}

static void await_looks_once_more_after_arming(void **state)
{
    struct room *r = *state;
    int looks = 1;

    assert_int_equal(doorbell_await(&r->bell, -1, count_down, &looks, 0), STATUS_OK);
    assert_int_equal(atomic_load(&r->bell.shared->sleeping), 0);
}

static bool never(void *context)
{
    (void)context;
    return false;
}

static void await_ends_with_the_supervisor(void **state)
{
    struct room *r = *state;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    close(fds[1]);
    assert_int_equal(doorbell_await(&r->bell, fds[0], never, NULL, 1000), STATUS_DEAD);
    assert_int_equal(atomic_load(&r->bell.shared->sleeping), 0);
    close(fds[0]);
}

static volatile sig_atomic_t alarms;

static void on_alarm(int number)
{
    (void)number;
    alarms++;
}

static bool alarmed(void *context)
{
    (void)context;
    return alarms != 0;
}

static void await_looks_again_after_a_signal(void **state)
{
    struct room *r = *state;
    struct sigaction action = {.sa_handler = on_alarm}, before;

    alarms = 0;
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 500; i++) { /* again and again: one could come before the sleep */
            nap_ms(20);
            kill(getppid(), SIGUSR1);
        }
        _exit(0);
    }
    assert_int_equal(doorbell_await(&r->bell, -1, alarmed, NULL, 0), STATUS_OK);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    sigaction(SIGUSR1, &before, NULL);
}

/* ---- two ends ---- */

/* A number that only grows, and a bell for each side: no ring in between, so
 * that only the doorbell's own order is tested. */
struct table {
    struct segment segment;
    struct shared {
        _Alignas(64) struct doorbell_shared sleeping[2];
        _Alignas(64) _Atomic uint32_t turn; /* whose turn = turn & 1 */
    } * shared;
    struct doorbell bells[2];
    uint32_t rounds;
    uint64_t spin_ns;
    bool other_ok;
};

struct player {
    struct table *table;
    uint32_t side, turn;
};

static bool is_my_turn(void *context)
{
    struct player *p = context;

    return atomic_load_explicit(&p->table->shared->turn, memory_order_acquire) >= p->turn;
}

/* Each side waits for its turn, then passes it on. */
static bool play(struct table *t, uint32_t side)
{
    struct player p = {.table = t, .side = side};

    for (p.turn = side; p.turn < t->rounds; p.turn += 2) {
        if (doorbell_await(&t->bells[side], -1, is_my_turn, &p, t->spin_ns) != STATUS_OK)
            return false;
        atomic_store_explicit(&t->shared->turn, p.turn + 1, memory_order_release);
        if (doorbell_ring(&t->bells[!side]) != STATUS_OK)
            return false;
    }
    return true;
}

static void table_open(struct table *t, uint32_t rounds, uint64_t spin_ns)
{
    *t = (struct table){.rounds = rounds, .spin_ns = spin_ns};
    assert_int_equal(segment_create("test", sizeof(struct shared), &t->segment), STATUS_OK);
    t->shared = t->segment.base;
    for (int i = 0; i < 2; i++)
        assert_int_equal(doorbell_open(&t->shared->sleeping[i], &t->bells[i]), STATUS_OK);
}

static void table_close(struct table *t)
{
    for (int i = 0; i < 2; i++)
        doorbell_close(&t->bells[i]);
    segment_close(&t->segment);
}

static bool other_player(void *context)
{
    alarm(120); /* a lost wake-up would last for ever */
    return play(context, 1);
}

static void *other_thread(void *context)
{
    struct table *t = context;

    t->other_ok = play(t, 1);
    return NULL;
}

static void processes_wake_each_other_10000_times(void **state)
{
    struct table t;
    pid_t other;

    (void)state;
    for (uint64_t spin_ns = 0; spin_ns <= 2000; spin_ns += 2000) {
        table_open(&t, 10000, spin_ns);
        other = child_start(other_player, &t);
        assert_true(play(&t, 0));
        child_must_succeed(other);
        table_close(&t);
    }
}

static void threads_wake_each_other_5000_times(void **state)
{
    struct table t;
    pthread_t other;

    (void)state;
    table_open(&t, 5000, 500);
    assert_int_equal(pthread_create(&other, NULL, other_thread, &t), 0);
    assert_true(play(&t, 0));
    pthread_join(other, NULL);
    assert_true(t.other_ok);
    table_close(&t);
}

static bool sleeps_for_good(void *context)
{
    return doorbell_await(context, -1, never, NULL, 0) == STATUS_OK;
}

/* Ringer and sleeper start each round as nearly together as can be had, which
 * is where a missing fence lets each overlook the other. */
struct litmus {
    struct doorbell bell;
    _Alignas(64) _Atomic uint32_t round;   /* sleeper writes */
    _Alignas(64) _Atomic uint32_t message; /* ringer writes */
    _Alignas(64) _Atomic uint32_t rung;    /* ringer writes, after ringing */
};

enum { LITMUS_ROUNDS = 20000 };

static void spin_for(const _Atomic uint32_t *word, uint32_t value)
{
    for (unsigned i = 1; atomic_load_explicit(word, memory_order_acquire) != value; i++)
        if (i % 1000 == 0) /* the other one may need our core */
            sched_yield();
}

static void *ringer(void *context)
{
    struct litmus *l = context;

    for (uint32_t i = 1; i <= LITMUS_ROUNDS; i++) {
        spin_for(&l->round, i);
        atomic_store_explicit(&l->message, i, memory_order_release);
        doorbell_ring(&l->bell);
        atomic_store_explicit(&l->rung, i, memory_order_release);
    }
    return NULL;
}

static void sleeper_and_ringer_never_overlook_each_other(void **state)
{
    struct room *r = *state;
    struct litmus l = {.bell = r->bell};
    uint32_t lost = 0;
    pthread_t other;

    assert_int_equal(pthread_create(&other, NULL, ringer, &l), 0);
    for (uint32_t i = 1; i <= LITMUS_ROUNDS; i++) {
        bool found;

        atomic_store_explicit(&l.round, i, memory_order_release);
        for (volatile uint32_t lag = i % 64; lag > 0; lag--) /* tries out different offsets */
            ;
        doorbell_arm(&l.bell);
        found = atomic_load_explicit(&l.message, memory_order_acquire) == i;
        spin_for(&l.rung, i);
        lost += !found && doorbell_wait(&l.bell, -1, 0) != STATUS_OK;
        doorbell_disarm(&l.bell);
    }
    pthread_join(other, NULL);
    assert_int_equal(lost, 0);
}

/* By count, not by time: a reader that polls would look thousands of times. */
static void sleeping_reader_uses_no_cpu(void **state)
{
    struct room *r = *state;
    struct rusage used;
    int status;
    pid_t child = child_start(sleeps_for_good, &r->bell);

    nap_ms(200);
    kill(child, SIGKILL);
    assert_int_equal(wait4(child, &status, 0, &used), child);
    assert_true(WIFSIGNALED(status));
    assert_true(used.ru_nvcsw < 20);
    assert_true(used.ru_utime.tv_sec == 0 && used.ru_utime.tv_usec < 100000);
}

#define IN_A_ROOM(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_ROOM(ringing_an_awake_reader_costs_no_call),
        IN_A_ROOM(many_rings_wake_a_sleeper_with_one_call),
        IN_A_ROOM(disarming_drains),
        IN_A_ROOM(disarming_what_was_not_rung_costs_no_call),
        IN_A_ROOM(awaking_leaves_the_counter_and_says_whether_it_was_rung),
        IN_A_ROOM(full_counter_counts_as_rung),
        IN_A_ROOM(wait_ends_with_its_timeout),
        IN_A_ROOM(hang_up_of_the_death_pipe_is_death),
        IN_A_ROOM(inherited_fd_that_is_closed_is_refused),
        IN_A_ROOM(await_returns_at_once_when_ready),
        IN_A_ROOM(await_spins_before_it_sleeps),
        IN_A_ROOM(await_looks_once_more_after_arming),
        IN_A_ROOM(await_ends_with_the_supervisor),
        IN_A_ROOM(await_looks_again_after_a_signal),
        cmocka_unit_test(processes_wake_each_other_10000_times),
        cmocka_unit_test(threads_wake_each_other_5000_times),
        IN_A_ROOM(sleeper_and_ringer_never_overlook_each_other),
        IN_A_ROOM(sleeping_reader_uses_no_cpu),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
