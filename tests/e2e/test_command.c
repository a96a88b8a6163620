/* test_command.c - commands in a rough world: pipes that close, floods, signals to everyone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

static const char prompt[] = "Once upon a time";

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void a_reader_that_has_enough_ends_run_quietly(void **state)
{
    char said[512];

    (void)state;
    /* status of run itself, then its standard error; the five bytes go nowhere */
    shell("{ { \"$QUERN\" run --greedy --ignore-eos -n 1500 'Once upon a time' 2>&3; "
          "echo $? >&3; } | head -c 5 >/dev/null; } 3>&1", said, sizeof(said));
    assert_string_equal(said, "1\n");
}

static void a_full_disk_is_told(void **state)
{
    char said[512];

    (void)state;
    assert_int_equal(
        shell("\"$QUERN\" run --greedy -n 4 x 2>&1 >/dev/full", said, sizeof(said)), 1);
    assert_string_equal(said, "quern: standard output: No space left on device\n");
}

static void endless_input_is_refused(void **state)
{
    char said[512];

    (void)state;
    shell("yes | \"$QUERN\" run - 2>&1", said, sizeof(said));
    assert_string_equal(said, "quern: standard input has more than 16 MiB: no prompt is so long\n");
}

static void ten_megabytes_of_prompt_get_one_line(void **state)
{
    char said[512];

    (void)state;
    shell("yes 'Once upon a time' | head -c 10000000 | \"$QUERN\" run - 2>&1", said, sizeof(said));
    assert_memory_equal(said, "quern: the prompt has ", 22);
    assert_non_null(strstr(said, "tokens, the context holds 2048"));
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

static void closed_standard_descriptors_are_not_taken_for_others(void **state)
{
    static const char *const closed[] = {"<&-", ">&-", "2>&-", "<&- >&- 2>&-"};
    char line[256], said[512];

    (void)state;
    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++) {
        snprintf(line, sizeof(line), "\"$QUERN\" run --greedy -n 4 'Once upon a time' %s",
            closed[i]);
        if (i != 2)
            strcat(line, " 2>/dev/null");
        assert_int_equal(shell(line, said, sizeof(said)), i == 1 || i == 3 ? 1 : 0);
        assert_string_equal(said, i == 0 || i == 2 ? ", there was a\n" : "");
    }
}

/* From the first limit with which the loader can open its libraries to one with which run works. */
static void few_descriptors_are_one_clear_line(void **state)
{
    char line[256], said[2048];
    int refused = 0, status = -1;

    (void)state;
    for (int n = 3; n < 100 && status != 0; n++) {
        /* All of the shell's own files are open before the limit. */
        snprintf(line, sizeof(line),
            "exec 2>&1 >/dev/null; ulimit -n %d; exec \"$QUERN\" run --greedy -n 4 x", n);
        status = shell(line, said, sizeof(said));
        if (status == 127)
            continue;
        if (strncmp(said, "quern: ", 7) != 0 || strchr(said, '\n') != said + strlen(said) - 1)
            fail_msg("with %d descriptors: status %d, \"%s\"", n, status, said);
        if (status != 0 && (status != 1 || strstr(said, "Too many open files") == NULL))
            fail_msg("with %d descriptors: status %d, %s", n, status, said);
        refused += status == 1;
    }
    assert_int_equal(status, 0);
    assert_true(refused >= 10); /* each of its processes has more than one to open */
}

/* Ctrl-C when the reader has stopped: run is stuck in a write. */
static void interrupt_works_while_output_is_blocked(void **state)
{
    const char *words[] = {"run", "--greedy", "--ignore-eos", "-n", "2000", prompt, NULL};
    struct command c;
    long size;

    (void)state;
    child_start(&c, NULL, words, NULL);
    size = fcntl(c.out_fd, F_SETPIPE_SZ, 4096);
    assert_int_equal(size, 4096);
    sleep_ms(2500);
    kill(c.pid, SIGINT);
    sleep_ms(300);
    kill(c.pid, SIGINT);
    assert_int_equal(child_finish(&c, 10000), 130);
    assert_null(strstr(c.err, "standard output"));
    child_free(&c);
}

static void a_second_interrupt_does_not_wait_for_a_stopped_server(void **state)
{
    struct raw_server server;
    const char *words[] = {"run", "--socket", server.path, "--greedy", "--ignore-eos", "-n", "2000",
        prompt, NULL};
    struct command c;

    (void)state;
    raw_server_start(&server, NULL);
    child_start(&c, NULL, words, NULL);
    assert_true(child_read_out(&c, 20, 30000));
    kill(server.command.pid, SIGSTOP);
    kill(c.pid, SIGINT);
    sleep_ms(200);
    assert_int_equal(waitpid(c.pid, NULL, WNOHANG), 0); /* it waits for the last event */
    kill(c.pid, SIGINT);
    assert_int_equal(child_finish(&c, 5000), 130);
    child_free(&c);
    kill(server.command.pid, SIGCONT);
    raw_server_stop(&server, "");
}

/* As a service manager does it: a signal for each process at once. */
static void signals_to_every_process_end_a_server_in_good_order(void **state)
{
    struct raw_server server;
    pid_t family[16];

    (void)state;
    for (int round = 0; round < 2; round++) {
        int n;

        raw_server_start(&server, NULL);
        raw_assert_well(&server);
        n = child_family(server.command.pid, family, 16);
        for (int i = n - 1; i >= 0; i--)
            kill(family[i], round == 0 ? SIGTERM : SIGHUP);
        sleep_ms(20);
        raw_server_stop(&server, "");
    }
}

static void a_stale_socket_is_replaced_and_a_file_is_not(void **state)
{
    struct raw_server server;
    const char *words[] = {"serve", "--socket", server.path, NULL};
    struct command c;
    int fd;

    (void)state;
    raw_server_start(&server, NULL);
    kill(server.command.pid, SIGKILL);
    child_finish(&server.command, 10000);
    child_free(&server.command);
    assert_int_equal(access(server.path, F_OK), 0);
    raw_server_start_at(&server, NULL);
    raw_assert_well(&server);
    raw_server_stop(&server, "");
    fd = open(server.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(child_run(&c, NULL, words), 1);
    assert_non_null(strstr(c.err, "a file that is no socket"));
    assert_int_equal(unlink(server.path), 0);
    child_free(&c);
}

static void a_server_leaves_its_successor_s_socket(void **state)
{
    struct raw_server first, second;
    char lock[280];

    (void)state;
    raw_server_start(&first, NULL);
    assert_int_equal(unlink(first.path), 0);
    snprintf(lock, sizeof(lock), "%s.lock", first.path);
    assert_int_equal(unlink(lock), 0);
    second = first;
    raw_server_start_at(&second, NULL);
    kill(first.command.pid, SIGTERM);
    assert_int_equal(child_finish(&first.command, 10000), 0);
    child_free(&first.command);
    raw_assert_well(&second);
    raw_server_stop(&second, "");
}

static void leave_stale_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%.100s", path);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
}

/* A stale socket is there, and each could take it for its own to replace. */
static void of_servers_that_start_at_once_one_serves(void **state)
{
    char path[128], lock[160];
    const char *serve[] = {"serve", "--socket", path, "--threads", "1", NULL};
    const char *run[] = {"run", "--socket", path, "--greedy", "-n", "4", "Once", NULL};
    struct command servers[6], client;
    struct stat st;
    int refused = 0;

    (void)state;
    snprintf(path, sizeof(path), "%s/quern-race-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
        (int)getpid());
    leave_stale_socket(path);
    for (int i = 0; i < 6; i++)
        child_start(&servers[i], NULL, serve, NULL);
    for (int i = 0; i < 6; i++)
        if (child_read_err(&servers[i], "another server listens there", 1000))
            refused += child_finish(&servers[i], 10000) == 1;
    assert_int_equal(refused, 5);
    assert_int_equal(child_run(&client, NULL, run), 0);
    child_free(&client);
    for (int i = 0; i < 6; i++) {
        if (servers[i].err_fd >= 0) {
            kill(servers[i].pid, SIGTERM);
            assert_int_equal(child_finish(&servers[i], 10000), 0);
        }
        child_free(&servers[i]);
    }
    snprintf(lock, sizeof(lock), "%s.lock", path);
    assert_int_not_equal(stat(path, &st), 0);
    assert_int_not_equal(stat(lock, &st), 0);
}

static void logits_go_into_a_pipe_and_leave_it_one(void **state)
{
    char line[1024], path[256], said[64];
    struct stat st;

    (void)state;
    snprintf(path, sizeof(path), "%s/quern-pipe-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
        (int)getpid());
    assert_int_equal(mkfifo(path, 0600), 0);
    snprintf(line, sizeof(line), "wc -c <%s & \"$QUERN\" logits --ids 1,2,3 -o %s; wait", path,
        path);
    assert_int_equal(shell(line, said, sizeof(said)), 0);
    assert_true(atoi(said) > 8192 * 4);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    unlink(path);
}

static void logits_name_a_killed_rank(void **state)
{
    static const char *const words[] = {"logits", "--tp", "2", "-m", "synth:0.6b", "--ids", "1,2,3",
        "-o", "/dev/null", NULL};
    struct command c;
    pid_t rank = 0;

    (void)state;
    child_start(&c, NULL, words, NULL);
    for (int i = 0; i < 2000 && (rank = child_named(c.pid, "quern-r01")) == 0; i++)
        sleep_ms(5);
    sleep_ms(100);
    assert_true(rank > 0);
    kill(rank, SIGKILL);
    assert_int_equal(child_finish(&c, 10000), 1);
    assert_non_null(strstr(c.err, "quern: rank 1 "));
    assert_non_null(strstr(c.err, "was killed by signal 9 (SIGKILL)\n"));
    child_free(&c);
}

/* For who waits for it: then a request is answered at once. */
static void a_server_says_when_it_is_ready(void **state)
{
    struct raw_server server;
    const char *serve[] = {"serve", "--socket", server.path, NULL};
    const char *run[] = {"run", "--socket", server.path, "--greedy", "-n", "4", prompt, NULL};
    struct command client;
    char line[512];

    (void)state;
    snprintf(server.path, sizeof(server.path), "%s/quern-ready-%d.socket",
        getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)getpid());
    snprintf(line, sizeof(line), "quern: ready on %s\n", server.path);
    child_start(&server.command, NULL, serve, NULL);
    assert_true(child_read_err(&server.command, line, 30000));
    assert_string_equal(server.command.err, line);
    assert_int_equal(child_run(&client, NULL, run), 0);
    assert_string_equal(client.out, ", there was a\n");
    child_free(&client);
    raw_server_stop(&server, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reader_that_has_enough_ends_run_quietly),
        cmocka_unit_test(a_full_disk_is_told),
        cmocka_unit_test(endless_input_is_refused),
        cmocka_unit_test(ten_megabytes_of_prompt_get_one_line),
        cmocka_unit_test(closed_standard_descriptors_are_not_taken_for_others),
        cmocka_unit_test(few_descriptors_are_one_clear_line),
        cmocka_unit_test(interrupt_works_while_output_is_blocked),
        cmocka_unit_test(a_second_interrupt_does_not_wait_for_a_stopped_server),
        cmocka_unit_test(signals_to_every_process_end_a_server_in_good_order),
        cmocka_unit_test(a_stale_socket_is_replaced_and_a_file_is_not),
        cmocka_unit_test(a_server_leaves_its_successor_s_socket),
        cmocka_unit_test(of_servers_that_start_at_once_one_serves),
        cmocka_unit_test(logits_go_into_a_pipe_and_leave_it_one),
        cmocka_unit_test(logits_name_a_killed_rank),
        cmocka_unit_test(a_server_says_when_it_is_ready),
    };

    setenv("QUERN", "build/quern", 0); /* as command.h says; the shell needs it, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
