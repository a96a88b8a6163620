/* test_refused.c - the program where a filter refuses system calls: another way is taken and the
 * answer is the same, or one line says what was refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"
#include "tests/support/refuse.h"

enum { PATIENCE_MS = 60000, ALL = 2 };

static const int both[ALL] = {EPERM, ENOSYS};

/* What the next child is refused; the hook has no arguments. */
static const long *refused_calls;
static int refused_error;

static void refuse(void)
{
    if (!refuse_calls(refused_calls, (unsigned)refused_error))
        _exit(126);
}

static int filters_work(void)
{
    struct command c;
    int status;

    refused_calls = (const long[REFUSE_MOST]){SYS_membarrier};
    refused_error = EPERM;
    child_prepare = refuse;
    status = child_run(&c, NULL, (const char *const[]){"--version", NULL});
    child_prepare = NULL;
    child_free(&c);
    return status == 0;
}

static int lines_of(const char *text)
{
    int n = 0;

    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}

struct refusal {
    long calls[REFUSE_MOST];
    const char *loop;  /* "QUERN_LOOP=..."; NULL: quern's choice */
    const char *named; /* by the one line beside the statistics; NULL: there is none */
};

static char *answer; /* where nothing is refused */

static void run_story(struct command *c, const char *loop)
{
    child_start(c, (const char *const[]){loop, NULL}, (const char *const[]){"run", "--greedy",
        "-n", "8", "--tp", "2", "Once upon a time", NULL}, NULL);
    child_finish(c, PATIENCE_MS);
}

static void check(const struct refusal *r, int error, int want)
{
    int lines = (want == 0) + (r->named != NULL);
    struct command c;

    refused_calls = r->calls;
    refused_error = error;
    child_prepare = refuse;
    run_story(&c, r->loop);
    child_prepare = NULL;
    if (c.status != want || lines_of(c.err) != lines ||
        (r->named != NULL && strstr(c.err, r->named) == NULL))
        fail_msg("call %ld, %s: status %d, said: %s", r->calls[0], strerror(error), c.status,
            c.err);
    assert_string_equal(c.out, want == 0 ? answer : "");
    child_free(&c);
}

static int know_answer(void **state)
{
    struct command c;

    (void)state;
    run_story(&c, NULL);
    assert_int_equal(c.status, 0);
    answer = strdup(c.out);
    child_free(&c);
    return answer != NULL && strlen(answer) > 10 ? 0 : -1;
}

static int forget_answer(void **state)
{
    (void)state;
    free(answer);
    return 0;
}

static void another_way_is_taken_and_the_answer_is_the_same(void **state)
{
    static const struct refusal table[] = {
        {.calls = {SYS_io_uring_setup}},
        {.calls = {SYS_io_uring_enter}},
        {.calls = {SYS_io_uring_register}},
        {.calls = {SYS_sched_getaffinity}, .named = "sched_getaffinity"},
        {.calls = {SYS_sched_setaffinity}},
        {.calls = {SYS_pidfd_send_signal}},
        {.calls = {SYS_epoll_pwait2}, .loop = "QUERN_LOOP=epoll"},
        /* together; no madvise or prlimit64, without which sanitizers do not start */
        {.calls = {SYS_io_uring_enter, SYS_sched_setaffinity, SYS_pidfd_send_signal,
            SYS_epoll_pwait2, SYS_mbind, SYS_get_mempolicy, SYS_membarrier, SYS_setpgid,
            SYS_getrandom, SYS_sysinfo}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (int e = 0; e < ALL; e++)
            check(&table[i], both[e], 0);
}

static void call_that_is_needed_is_named_in_one_line(void **state)
{
    static const struct refusal table[] = {
        {.calls = {SYS_io_uring_enter}, .loop = "QUERN_LOOP=uring", .named = "uring"},
        {.calls = {SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2},
            .loop = "QUERN_LOOP=epoll", .named = "epoll_wait: "},
        {.calls = {SYS_pidfd_open}, .named = "pidfd_open: "},
        {.calls = {SYS_memfd_create}, .named = "memfd_create: "},
        {.calls = {SYS_close_range}, .named = "close_range: "},
        {.calls = {SYS_prctl}, .named = "prctl(PR_SET_PDEATHSIG): "},
        {.calls = {SYS_eventfd2}, .named = "eventfd: "},
        {.calls = {SYS_signalfd4}, .named = "signalfd: "},
        {.calls = {SYS_socketpair}, .named = "socketpair: "},
        {.calls = {SYS_pipe2}, .named = "pipe2: "},
        {.calls = {SYS_sendmsg}, .named = "sendmsg: "},
    };
    static const struct refusal thread = {.calls = {SYS_clone3}, .named = "clone3: "};

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        for (int e = 0; e < ALL; e++)
            check(&table[i], both[e], 1);
    check(&thread, EPERM, 1); /* with ENOSYS, libc has another */
}

static void server_takes_the_other_way_too(void **state)
{
    static const struct refusal table[] = {
        {.calls = {SYS_io_uring_enter}},
        {.calls = {SYS_sched_getaffinity}, .named = "sched_getaffinity"},
    };
    struct temp_dir dir;

    (void)state;
    temp_dir_make(&dir);
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char socket[1024];
        struct command server, c;

        snprintf(socket, sizeof(socket), "%s", temp_dir_file(&dir, "socket"));
        refused_calls = table[i].calls;
        refused_error = EPERM;
        child_prepare = refuse;
        child_start(&server, NULL, (const char *const[]){"serve", "--tp", "2", "--socket", socket,
            NULL}, NULL);
        child_prepare = NULL;
        assert_true(child_read_err(&server, "ready on", PATIENCE_MS));
        child_run(&c, NULL, (const char *const[]){"run", "--socket", socket, "--greedy", "-n",
            "8", "Once upon a time", NULL});
        assert_int_equal(c.status, 0);
        assert_string_equal(c.out, answer);
        child_free(&c);
        kill(server.pid, SIGTERM);
        child_finish(&server, PATIENCE_MS);
        assert_int_equal(lines_of(server.err), 1 + (table[i].named != NULL));
        if (table[i].named != NULL)
            assert_non_null(strstr(server.err, table[i].named));
        child_free(&server);
    }
    temp_dir_remove(&dir);
}

/* Nothing else is left beside it. */
static void folder_is_written_where_locks_are_refused(void **state)
{
    char model[4096], out[1024], line[4096], listed[4096];
    struct temp_dir dir;
    struct command c;

    (void)state;
    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s", temp_dir_file(&dir, "out"));
    refused_calls = (const long[REFUSE_MOST]){SYS_flock};
    for (int e = 0; e < ALL; e++) {
        refused_error = both[e];
        child_prepare = refuse;
        child_run(&c, NULL, (const char *const[]){"quantize", "-m", story_file(model, ""),
            "--quant", "int8", out, NULL});
        child_prepare = NULL;
        if (c.status != 0)
            fail_msg("status %d: %s", c.status, c.err);
        child_free(&c);
        snprintf(line, sizeof(line), "test -s %s/model.safetensors && rm -r %s",
            out, out);
        assert_int_equal(shell(line, listed, sizeof(listed)), 0);
        snprintf(line, sizeof(line), "ls -A %s", temp_dir_file(&dir, "."));
        shell(line, listed, sizeof(listed));
        assert_string_equal(listed, "");
    }
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_way_is_taken_and_the_answer_is_the_same),
        cmocka_unit_test(call_that_is_needed_is_named_in_one_line),
        cmocka_unit_test(server_takes_the_other_way_too),
        cmocka_unit_test(folder_is_written_where_locks_are_refused),
    };

    if (!filters_work()) {
        puts("1..0 # SKIP: there are no seccomp filters here");
        return 77;
    }
    return cmocka_run_group_tests(tests, know_answer, forget_answer);
}
