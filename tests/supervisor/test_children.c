/* test_children.c - what the supervisor says of a rank that ended: this program plays the ranks.
 *
 * A child is started through /proc/self/exe, which is this program: its role
 * comes in the environment. */
#include "tests/supervisor/supervisor_fixture.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { REASON_FIRST = 1, KILLED = 2 };

static const char reason[] = "the model's folder is damp";

/* As `quern worker RANK FDS`. */
static int rank_main(char **argv)
{
    int role = atoi(getenv("QUERN_TEST_ROLE"));
    struct member_seat seat;
    struct shared g;

    if (shared_join(argv[3], &g) != STATUS_OK)
        return 9;
    seat = shared_seat(&g, atoi(argv[2]));
    if (role & REASON_FIRST)
        member_fail(&seat, reason);
    if (role & KILLED)
        raise(SIGKILL);
    return 3;
}

/* What the supervisor ends with when its rank does that. */
static const char *said_of(struct fixture *f, int role, int *pid)
{
    struct supervisor *sv = &f->sv;
    char text[8];

    snprintf(text, sizeof(text), "%d", role);
    setenv("QUERN_TEST_ROLE", text, 1);
    sv->state = SUPERVISOR_LOADING;
    assert_int_equal(child_start(&sv->ranks[0]), STATUS_OK);
    *pid = (int)sv->ranks[0].pid;
    while (sv->ranks[0].state != CHILD_ABSENT)
        assert_int_equal(loop_turn(sv->loop, INT64_C(30000000000)), STATUS_OK);
    assert_int_equal(sv->state, SUPERVISOR_FAILED);
    return sv->failure;
}

static void rank_that_failed_is_told_by_its_reason(void **state)
{
    int pid;

    assert_string_equal(said_of(*state, REASON_FIRST, &pid), reason);
}

static void rank_that_ended_without_a_word_is_told_by_its_status(void **state)
{
    char want[128];
    int pid;
    const char *said = said_of(*state, 0, &pid);

    snprintf(want, sizeof(want), "rank 0 (process %d) ended with status 3", pid);
    assert_string_equal(said, want);
}

static void rank_that_was_killed_is_told_by_its_signal(void **state)
{
    char want[128];
    int pid;
    const char *said = said_of(*state, KILLED, &pid);

    snprintf(want, sizeof(want), "rank 0 (process %d) was killed by signal 9 (SIGKILL)", pid);
    assert_string_equal(said, want);
}

/* Whatever it had said before: it was on its way out then, and something else ended it. */
static void signal_goes_before_a_reason(void **state)
{
    char want[128];
    int pid;
    const char *said = said_of(*state, REASON_FIRST | KILLED, &pid);

    snprintf(want, sizeof(want), "rank 0 (process %d) was killed by signal 9 (SIGKILL)", pid);
    assert_string_equal(said, want);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        ON_A_SUPERVISOR(rank_that_failed_is_told_by_its_reason),
        ON_A_SUPERVISOR(rank_that_ended_without_a_word_is_told_by_its_status),
        ON_A_SUPERVISOR(rank_that_was_killed_is_told_by_its_signal),
        ON_A_SUPERVISOR(signal_goes_before_a_reason),
    };

    if (argc == 4 && strcmp(argv[1], "worker") == 0)
        return rank_main(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
