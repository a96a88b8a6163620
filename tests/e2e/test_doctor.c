/* test_doctor.c - quern doctor on machines that lack something: limits, refused calls, settings.
 *
 * Each lack is made for the doctor's process alone: a limit, a filter of system calls, a variable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/refuse.h"

struct lack {
    int limit;        /* RLIMIT_..; 0: none */
    rlim_t most;
    int call;         /* a system call that gives EPERM; 0: none */
    const char *name; /* an environment variable, or NULL */
    const char *value;
};

/* Runs it in a child that lacks that; what it printed on both outputs, and its status. */
static int doctor(const struct lack *lack, char *said, size_t room)
{
    const char *program = getenv("QUERN") != NULL ? getenv("QUERN") : "build/quern";
    int fds[2], status;
    size_t n = 0;
    ssize_t got;
    pid_t child;

    assert_int_equal(pipe(fds), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        if (lack->name != NULL)
            setenv(lack->name, lack->value, 1);
        if (lack->limit != 0 &&
            setrlimit(lack->limit, &(struct rlimit){lack->most, lack->most}) != 0)
            _exit(126);
        if (lack->call != 0 && !refuse_calls((const long[REFUSE_MOST]){lack->call}, EPERM))
            _exit(126);
        execl(program, program, "doctor", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    while (n < room - 1 && (got = read(fds[0], said + n, room - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The line of a topic says `finding`, and the next what to do. */
static void finds(const struct lack *lack, int want, const char *finding, const char *advice)
{
    char said[16384];
    const char *line, *end;
    int status = doctor(lack, said, sizeof(said));

    line = strstr(said, finding);
    end = line != NULL ? strchr(line, '\n') : NULL;
    if (status != want || end == NULL || strstr(end, "-> ") == NULL ||
        strstr(end, advice) == NULL || strstr(end, advice) > strchr(end + 1, '\n'))
        fail_msg("status %d, not %d, or no \"%s\" with \"%s\":\n%s", status, want, finding, advice,
            said);
    if (strstr(said, want == 0 ? " can run here" : " cannot run here") == NULL)
        fail_msg("no verdict:\n%s", said);
}

#define LACK(...) (&(struct lack){__VA_ARGS__})

static void this_machine_can_run_it(void **state)
{
    char said[16384];

    (void)state;
    if (doctor(LACK(.name = NULL), said, sizeof(said)) != 0)
        fail_msg("%s", said);
    assert_null(strstr(said, "problem"));
    assert_non_null(strstr(said, " can run here"));
}

static void limits_are_told_with_the_command_that_lifts_them(void **state)
{
    (void)state;
    finds(LACK(.limit = RLIMIT_MEMLOCK, .most = 16384), 0, "note     locked memory     16 KiB",
        "ulimit -l 8192");
    finds(LACK(.limit = RLIMIT_NOFILE, .most = 64), 0, "note     open files        64",
        "ulimit -n 1024");
    finds(LACK(.limit = RLIMIT_FSIZE, .most = 10240), 1, "problem  shared memory", "ulimit -f");
    finds(LACK(.limit = RLIMIT_AS, .most = 128 << 20), 1, "problem  shared memory", "ulimit -v");
}

static void refused_calls_are_named(void **state)
{
    (void)state;
    finds(LACK(.call = SYS_io_uring_setup), 0, "note     io_uring          refused",
        "until then epoll serves");
    finds(LACK(.call = SYS_io_uring_enter), 0, "note     io_uring          refused by a filter",
        "allow io_uring_setup, io_uring_enter and");
    finds(LACK(.call = SYS_sched_getaffinity), 0,
        "note     cpu               sched_getaffinity is refused", "or set --threads");
    finds(LACK(.call = SYS_memfd_create), 1, "problem  shared memory", "memfd_create");
    finds(LACK(.call = SYS_pidfd_open), 1, "problem  processes         pidfd_open is refused",
        "a seccomp profile that allows pidfd_open");
    finds(LACK(.call = SYS_eventfd2), 1, "problem  eventfd           refused", "allow eventfd2");
}

static void wrong_settings_are_named(void **state)
{
    (void)state;
    finds(LACK(.name = "QUERN_LOOP", .value = "select"), 1, "problem  QUERN_LOOP", "uring or epoll");
    finds(LACK(.name = "QUERN_CPU_ISA", .value = "sse9"), 1, "QUERN_CPU_ISA=sse9", "unset QUERN_CPU_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(this_machine_can_run_it),
        cmocka_unit_test(limits_are_told_with_the_command_that_lifts_them),
        cmocka_unit_test(refused_calls_are_named),
        cmocka_unit_test(wrong_settings_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
