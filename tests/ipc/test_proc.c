/* test_proc.c - starting and reaping programs.
 *
 * The program started is this one: with an argument it plays a child and
 * reports by its exit status. */
#include "tests/ipc/ipc_support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>

#include "ipc/proc.h"
#include "tests/support/refuse.h"

static const char self[] = "/proc/self/exe";

/* ---- the children ---- */

static int child_status(char **argv)
{
    return atoi(argv[2]);
}

/* Exit 0 iff exactly the fds named are open above standard error. */
static int child_fds(char **argv)
{
    for (int fd = 3; fd < 1024; fd++) {
        bool open = fcntl(fd, F_GETFD) >= 0, named = false;

        for (char **a = argv + 2; *a != NULL; a++)
            named |= atoi(*a) == fd;
        if (open != named) {
            fprintf(stderr, "# fd %d: open %d, named %d\n", fd, open, named);
            return 1;
        }
    }
    return fcntl(0, F_GETFD) < 0 || fcntl(1, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0;
}

/* Exit 0 iff nothing is blocked and everything at its default. */
static int child_signals(char **argv)
{
    struct sigaction action;
    sigset_t mask;

    (void)argv;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int i = 1; i < NSIG; i++)
        if (sigismember(&mask, i) == 1 ||
            (i != SIGSEGV && i != SIGBUS && i != SIGFPE && /* sanitizers want these */
                sigaction(i, NULL, &action) == 0 && action.sa_handler != SIG_DFL))
            return i;
    return 0;
}

/* Stays until it is killed, within reason. */
static int child_linger(char **argv)
{
    (void)argv;
    return (int)sleep(120) + 1;
}

/* Waits on the death pipe, as a worker does. */
static int child_mourn(char **argv)
{
    struct pollfd p = {.fd = atoi(argv[2]), .events = POLLIN};

    return poll(&p, 1, 60000) == 1 && (p.revents & POLLHUP) != 0 ? 0 : 1;
}

/* A supervisor: starts a child that lingers with our pipe end, says so, and
 * lingers itself. */
static int child_parent(char **argv)
{
    int keep = atoi(argv[2]), pidfd;
    char *const args[] = {"worker", "linger", NULL};
    pid_t pid;

    if (proc_spawn(self, args, &keep, 1, &pid, &pidfd) != STATUS_OK)
        return 1;
    if (write(keep, "!", 1) != 1)
        return 1;
    return child_linger(argv);
}

static int play_child(char **argv)
{
    static const struct {
        const char *name;
        int (*play)(char **argv);
    } parts[] = {
        {"status", child_status},
        {"fds", child_fds},
        {"signals", child_signals},
        {"linger", child_linger},
        {"mourn", child_mourn},
        {"parent", child_parent},
    };

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (strcmp(argv[1], parts[i].name) == 0)
            return parts[i].play(argv);
    return 99;
}

/* ---- helpers ---- */

static struct proc_exit end_of(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    struct proc_exit how = {-1, false};

    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_int_equal(proc_reap(pidfd, &how), STATUS_OK);
    close(pidfd);
    return how;
}

static int start(char *const argv[], const int *keep, size_t n)
{
    int pidfd = -1;
    pid_t pid = -1;

    assert_int_equal(proc_spawn(self, argv, keep, n, &pid, &pidfd), STATUS_OK);
    assert_true(pid > 0);
    assert_true((fcntl(pidfd, F_GETFD) & FD_CLOEXEC) != 0);
    return pidfd;
}

static void must_end_with(int pidfd, int status)
{
    struct proc_exit how = end_of(pidfd);

    assert_false(how.signalled);
    assert_int_equal(how.status_or_signal, status);
}

static int count_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- facts ---- */

static void exit_status_is_reported(void **state)
{
    char *const args[] = {"worker", "status", "3", NULL};

    (void)state;
    must_end_with(start(args, NULL, 0), 3);
}

static void running_process_is_not_reaped(void **state)
{
    char *const args[] = {"worker", "linger", NULL};
    int pidfd = start(args, NULL, 0);
    struct proc_exit how = {77, false};

    (void)state;
    assert_int_equal(proc_reap(pidfd, &how), STATUS_AGAIN);
    assert_int_equal(how.status_or_signal, 77);
    assert_int_equal(proc_signal(pidfd, SIGTERM), STATUS_OK);
    how = end_of(pidfd);
    assert_true(how.signalled);
    assert_int_equal(how.status_or_signal, SIGTERM);
}

static void reaped_process_takes_no_signal(void **state)
{
    char *const args[] = {"worker", "linger", NULL};
    int pidfd = start(args, NULL, 0), again = dup(pidfd);
    struct proc_exit how;

    (void)state;
    assert_int_equal(proc_signal(pidfd, SIGKILL), STATUS_OK);
    end_of(pidfd);
    assert_int_equal(proc_signal(again, SIGKILL), STATUS_CLOSED);
    assert_int_equal(proc_reap(again, &how), STATUS_IO);
    close(again);
}

struct target {
    int pidfd;
    enum status want;
};

static bool signals_without_pidfd(void *context)
{
    const struct target *t = context;

    return refuse_calls((const long[REFUSE_MOST]){SYS_pidfd_send_signal}, EPERM) &&
           proc_signal(t->pidfd, SIGKILL) == t->want;
}

static void refused_pidfd_send_signal_signals_by_number(void **state)
{
    char *const args[] = {"worker", "linger", NULL};
    int pidfd = start(args, NULL, 0), again = dup(pidfd);

    (void)state;
    child_must_succeed(child_start(signals_without_pidfd, &(struct target){pidfd, STATUS_OK}));
    assert_int_equal(end_of(pidfd).status_or_signal, SIGKILL);
    child_must_succeed(child_start(signals_without_pidfd, &(struct target){again, STATUS_CLOSED}));
    close(again);
}

static void only_named_fds_are_inherited(void **state)
{
    int opened[6], keep[4];
    char names[3][8];
    char *args[] = {"worker", "fds", names[0], names[1], names[2], NULL};

    (void)state;
    for (int i = 0; i < 6; i++)
        opened[i] = fcntl(0, i & 1 ? F_DUPFD_CLOEXEC : F_DUPFD, 20 + 7 * i);
    keep[0] = opened[5]; /* not in order, one close-on-exec, one twice */
    keep[1] = opened[0];
    keep[2] = opened[2];
    keep[3] = opened[0];
    for (int i = 0; i < 3; i++)
        snprintf(names[i], sizeof(names[i]), "%d", keep[i]);
    must_end_with(start(args, keep, 4), 0);
    args[2] = NULL;
    must_end_with(start(args, NULL, 0), 0);
    assert_true((fcntl(opened[5], F_GETFD) & FD_CLOEXEC) != 0); /* ours are as before */
    for (int i = 0; i < 6; i++)
        close(opened[i]);
}

static void neighbouring_fds_and_stdio_can_be_named(void **state)
{
    int keep[5] = {STDERR_FILENO, -1, -1, -1, STDIN_FILENO};
    char names[3][8];
    char *args[] = {"worker", "fds", names[0], names[1], names[2], NULL};

    (void)state;
    for (int i = 0; i < 3; i++) {
        keep[1 + i] = fcntl(0, F_DUPFD_CLOEXEC, 3);
        snprintf(names[i], sizeof(names[i]), "%d", keep[1 + i]);
    }
    must_end_with(start(args, keep, 5), 0);
    for (int i = 0; i < 3; i++)
        close(keep[1 + i]);
}

static void signals_start_fresh(void **state)
{
    char *const args[] = {"worker", "signals", NULL};
    sigset_t some, before;

    (void)state;
    sigemptyset(&some);
    sigaddset(&some, SIGINT);
    sigaddset(&some, SIGCHLD);
    sigprocmask(SIG_BLOCK, &some, &before);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGRTMIN + 3, SIG_IGN);
    must_end_with(start(args, NULL, 0), 0);
    sigprocmask(SIG_SETMASK, NULL, &some);
    assert_int_equal(sigismember(&some, SIGINT), 1); /* ours are as before */
    assert_int_equal(sigismember(&some, SIGTERM), 0);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGRTMIN + 3, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static void missing_program_is_an_error_of_spawn(void **state)
{
    char *const args[] = {"worker", NULL};
    int before = count_fds(), pidfd = -5;
    pid_t pid = -5;

    (void)state;
    assert_int_equal(proc_spawn("/nonexistent/quern", args, NULL, 0, &pid, &pidfd), STATUS_IO);
    assert_string_equal(
        log_last_error(), "cannot start /nonexistent/quern: No such file or directory");
    assert_int_equal(proc_spawn("/", args, NULL, 0, &pid, &pidfd), STATUS_IO);
    assert_string_equal(log_last_error(), "cannot start /: Permission denied");
    assert_int_equal(pid, -5);
    assert_int_equal(pidfd, -5);
    assert_int_equal(count_fds(), before);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left to wait for */
    assert_int_equal(errno, ECHILD);
}

static void closed_fd_to_keep_is_an_error_of_spawn(void **state)
{
    char *const args[] = {"worker", "status", "0", NULL};
    int pidfd, next = dup(0), too_many[PROC_KEEP_FDS + 1] = {0};
    pid_t pid;

    (void)state;
    close(next); /* the number that spawn's own pipe would get */
    assert_int_equal(proc_spawn(self, args, &next, 1, &pid, &pidfd), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "to pass on: Bad file descriptor"));
    assert_int_equal(
        proc_spawn(self, args, too_many, PROC_KEEP_FDS + 1, &pid, &pidfd), STATUS_INVALID);
}

static void ends_are_described_in_words(void **state)
{
    char text[64];

    (void)state;
    assert_string_equal(
        proc_describe((struct proc_exit){3, false}, text, sizeof(text)), "ended with status 3");
    assert_string_equal(proc_describe((struct proc_exit){9, true}, text, sizeof(text)),
        "was killed by signal 9 (SIGKILL)");
    assert_string_equal(proc_describe((struct proc_exit){SIGRTMIN + 2, true}, text, sizeof(text)),
        "was killed by signal 36");
}

static void death_pipe_hangs_up_when_the_keeper_closes(void **state)
{
    int keep, give, pidfd;
    char name[8];
    char *const args[] = {"worker", "mourn", name, NULL};
    struct proc_exit how;

    (void)state;
    assert_int_equal(proc_death_pipe(&keep, &give), STATUS_OK);
    snprintf(name, sizeof(name), "%d", give);
    pidfd = start(args, &give, 1);
    close(give);
    nap_ms(20);
    assert_int_equal(proc_reap(pidfd, &how), STATUS_AGAIN);
    close(keep);
    must_end_with(pidfd, 0);
}

/* The grandchild holds a pipe's write end: its end of file is its death. */
static void child_dies_with_its_parent(void **state)
{
    int fds[2], pidfd;
    char name[8], byte;
    char *const args[] = {"supervisor", "parent", name, NULL};
    struct pollfd p;

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    snprintf(name, sizeof(name), "%d", fds[1]);
    pidfd = start(args, &fds[1], 1);
    close(fds[1]);
    assert_int_equal(read(fds[0], &byte, 1), 1); /* both run */
    p = (struct pollfd){.fd = fds[0], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 20), 0);
    assert_int_equal(proc_signal(pidfd, SIGKILL), STATUS_OK);
    assert_true(end_of(pidfd).signalled);
    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_int_equal(read(fds[0], &byte, 1), 0);
    close(fds[0]);
}

static void many_spawns_leave_no_fd(void **state)
{
    char *const args[] = {"worker", "status", "0", NULL};
    int before = count_fds(), pidfds[16];

    (void)state;
    for (int i = 0; i < 16; i++)
        pidfds[i] = start(args, NULL, 0);
    for (int i = 0; i < 16; i++)
        must_end_with(pidfds[i], 0);
    assert_int_equal(count_fds(), before);
}

static void own_path_is_a_program(void **state)
{
    char path[4096], small[4] = "abc";

    (void)state;
    assert_int_equal(proc_self_path(path, sizeof(path)), STATUS_OK);
    assert_int_equal(path[0], '/');
    assert_int_equal(access(path, X_OK), 0);
    assert_int_equal(proc_self_path(small, sizeof(small)), STATUS_INVALID);
    assert_string_equal(small, "abc");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_status_is_reported),
        cmocka_unit_test(running_process_is_not_reaped),
        cmocka_unit_test(reaped_process_takes_no_signal),
        cmocka_unit_test(refused_pidfd_send_signal_signals_by_number),
        cmocka_unit_test(only_named_fds_are_inherited),
        cmocka_unit_test(neighbouring_fds_and_stdio_can_be_named),
        cmocka_unit_test(signals_start_fresh),
        cmocka_unit_test(missing_program_is_an_error_of_spawn),
        cmocka_unit_test(closed_fd_to_keep_is_an_error_of_spawn),
        cmocka_unit_test(ends_are_described_in_words),
        cmocka_unit_test(death_pipe_hangs_up_when_the_keeper_closes),
        cmocka_unit_test(child_dies_with_its_parent),
        cmocka_unit_test(many_spawns_leave_no_fd),
        cmocka_unit_test(own_path_is_a_program),
    };

    if (argc > 1)
        return play_child(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
