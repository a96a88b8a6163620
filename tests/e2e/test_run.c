/* test_run.c - quern run: its prompt, its echo, its terminal, and servers that go and come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

static const char story[] = ", there was a little girl named Lily who loved to play";

/* The prompt ---------------------------------------------------------------------------------- */

static void the_newline_that_ends_standard_input_is_no_prompt(void **state)
{
    static const struct {
        const char *input;
        int tokens;
    } cases[] = {
        {"Once upon a time\\n", 4}, {"Once upon a time", 4}, {"Once upon a time\\n\\n", 5},
        {"\\nOnce upon a time\\n", 5},
    };
    char line[256], said[1024], want[64];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(line, sizeof(line), "printf '%s' | \"$QUERN\" run --greedy -n 2 - 2>&1 >/dev/null",
            cases[i].input);
        assert_int_equal(shell(line, said, sizeof(said)), 0);
        snprintf(want, sizeof(want), "quern: %d prompt tokens", cases[i].tokens);
        if (strstr(said, want) == NULL)
            fail_msg("\"%s\": %s", cases[i].input, said);
    }
    assert_int_equal(shell("echo | \"$QUERN\" run - 2>&1", said, sizeof(said)), 2);
    assert_non_null(strstr(said, "the prompt is empty"));
}

static void echo_puts_the_prompt_first(void **state)
{
    char said[1024];

    (void)state;
    assert_int_equal(shell("\"$QUERN\" run --greedy -n 12 'Once upon a time' 2>/dev/null", said,
        sizeof(said)), 0);
    assert_string_equal(said, ", there was a little girl named Lily who loved to play\n");
    assert_int_equal(shell("\"$QUERN\" run --greedy -n 12 --echo 'Once upon a time' 2>/dev/null",
        said, sizeof(said)), 0);
    assert_string_equal(said,
        "Once upon a time, there was a little girl named Lily who loved to play\n");
    assert_int_equal(shell("\"$QUERN\" run --greedy -n 5 --echo --print-ids 'Once upon a time' "
        "2>/dev/null", said, sizeof(said)), 0);
    assert_string_equal(said, "410,403,258,367,11,365,273,258,445\n");
    assert_int_equal(shell("\"$QUERN\" run --greedy -n 5 --echo --print-ids --ids 410,403,258,367 "
        "2>/dev/null", said, sizeof(said)), 0);
    assert_string_equal(said, "410,403,258,367,11,365,273,258,445\n");
    assert_int_equal(shell("\"$QUERN\" run --greedy -n 2 --echo --ids 410,403,258,367 2>/dev/null",
        said, sizeof(said)), 0);
    assert_string_equal(said, "Once upon a time, there\n");
}

/* With a terminal of its own as all three; what it showed. */
static void on_terminal(const char *const words[], char *said, size_t room)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), status;
    size_t n = 0;
    ssize_t got;
    pid_t child;

    assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    child = fork();
    if (child == 0) {
        int fd = open(ptsname(master), O_RDWR | O_NOCTTY);

        for (int i = 0; i < 3; i++)
            dup2(fd, i);
        execv(getenv("QUERN"), (char *const *)words);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fcntl(master, F_SETFL, O_NONBLOCK);
    while (n < room - 1 && (got = read(master, said + n, room - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = '\0';
    close(master);
}

static void on_a_terminal_the_prompt_is_shown(void **state)
{
    static const char *const words[] = {"quern", "run", "--greedy", "-n", "12", "Once upon a time",
        NULL}, *const ids[] = {"quern", "run", "--greedy", "-n", "2", "--print-ids", "x", NULL};
    char said[4096];

    (void)state;
    on_terminal(words, said, sizeof(said));
    assert_non_null(strstr(said,
        "Once upon a time, there was a little girl named Lily who loved to play\r\n"));
    on_terminal(ids, said, sizeof(said));
    assert_null(strchr(said, 'x'));
}

/* Two seconds of typing are no time of the model's. */
static void the_first_token_is_timed_from_the_prompt(void **state)
{
    char said[1024];
    const char *at;

    (void)state;
    assert_int_equal(shell("{ printf 'Once upon'; sleep 4; echo ' a time'; } | "
        "\"$QUERN\" run --greedy -n 4 - 2>&1 >/dev/null", said, sizeof(said)), 0);
    at = strstr(said, "first token after ");
    assert_non_null(at);
    assert_true(atof(at + strlen("first token after ")) < 3900);
}

static void options_of_a_runtime_are_refused_with_a_socket(void **state)
{
    static const char *const options[] = {"-m /x", "--tp 2", "--kv-dtype f32", "--memory 1G"},
        *const names[] = {"--model", "--tp", "--kv-dtype", "--memory"};
    char line[256], said[1024], want[128];

    (void)state;
    for (int i = 0; i < 4; i++) {
        snprintf(line, sizeof(line), "\"$QUERN\" run --socket /nowhere %s x 2>&1", options[i]);
        assert_int_equal(shell(line, said, sizeof(said)), 2);
        snprintf(want, sizeof(want),
            "quern: %s with --socket: the server there has its own, leave one out\n", names[i]);
        assert_string_equal(said, want);
    }
}

/* One line each, whatever of the library's it came from. */
static void what_fails_is_told_once(void **state)
{
    char said[1024];

    (void)state;
    assert_int_equal(shell("\"$QUERN\" run --socket /nowhere x 2>&1", said, sizeof(said)), 1);
    assert_string_equal(said, "quern: /nowhere: No such file or directory: is `quern serve --socket` "
                              "running there?\n");
    assert_int_equal(shell("\"$QUERN\" run -m /nowhere x 2>&1", said, sizeof(said)), 1);
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

/* Servers ------------------------------------------------------------------------------------- */

/* Passes bytes on both ways between two sockets, in a process of its own; `most` bytes of the
 * server's on the first connection, which then is cut. */
static void pump(int client, int server, long most)
{
    struct pollfd p[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
    char bytes[256];

    while (poll(p, 2, -1) > 0)
        for (int i = 0; i < 2; i++) {
            ssize_t n = p[i].revents ? recv(p[i].fd, bytes, sizeof(bytes), 0) : -1;

            if (n == 0 || (n > 0 && send(p[!i].fd, bytes, (size_t)n, MSG_NOSIGNAL) != n))
                return;
            if (i == 1 && n > 0 && (most -= n) <= 0)
                return;
        }
}

static int unix_socket(const char *path, int listens)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, path);
    if ((listens ? bind : connect)(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        (listens && listen(fd, 4) != 0))
        _exit(1);
    return fd;
}

/* A way to the server that is cut after so many bytes, as often as that; the process. */
static pid_t unsteady_way(const char *path, const char *to, long most, int times)
{
    int listener = unix_socket(path, 1);
    pid_t child = fork();

    if (child == 0)
        for (int i = 0;; i++) {
            int client = accept(listener, NULL, NULL), server = unix_socket(to, 0);

            pump(client, server, i < times ? most : 1L << 40);
            close(client);
            close(server);
        }
    close(listener);
    return child;
}

static void a_lost_connection_is_taken_up_where_it_was(void **state)
{
    struct raw_server server;
    char way[300];
    const char *direct[] = {"run", "--socket", server.path, "--greedy", "--ignore-eos", "-n", "400",
        "Once upon a time", NULL}, *unsteady[] = {"run", "--socket", way, "--greedy", "--ignore-eos",
        "-n", "400", "Once upon a time", NULL};
    struct command want, got;
    pid_t child;

    (void)state;
    raw_server_start(&server, NULL);
    snprintf(way, sizeof(way), "%s.way", server.path);
    child = unsteady_way(way, server.path, 6000, 3);
    assert_int_equal(child_run(&want, NULL, direct), 0);
    assert_int_equal(child_run(&got, NULL, unsteady), 0);
    assert_string_equal(got.out, want.out);
    assert_non_null(strstr(got.err, "400 new (length)"));
    assert_ptr_equal(strchr(got.err, '\n'), got.err + got.err_bytes - 1); /* nobody need know */
    child_free(&want);
    child_free(&got);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    unlink(way);
    raw_server_stop(&server, "");
}

static void a_server_that_is_gone_is_told_soon(void **state)
{
    struct raw_server server;
    const char *words[] = {"run", "--socket", server.path, "--greedy", "--ignore-eos", "-n", "2000",
        "Once upon a time", NULL};
    struct command c;

    (void)state;
    raw_server_start(&server, NULL);
    child_start(&c, NULL, words, NULL);
    assert_true(child_read_out(&c, 20, 30000));
    kill(server.command.pid, SIGKILL);
    assert_int_equal(child_finish(&c, 10000), 1);
    assert_string_equal(c.err, "quern: the quern runtime closed the connection\n");
    child_free(&c);
    child_finish(&server.command, 10000);
    child_free(&server.command);
    unlink(server.path);
}

/* It goes on, and both the pause and the count are told. */
static void a_worker_s_death_is_told_and_survived(void **state)
{
    struct raw_server server;
    const char *words[] = {"run", "--socket", server.path, "--greedy", "--ignore-eos", "-n", "1500",
        "Once upon a time", NULL};
    struct command c;

    (void)state;
    raw_server_start(&server, NULL);
    child_start(&c, NULL, words, NULL);
    assert_true(child_read_out(&c, 20, 30000));
    kill(raw_server_member(&server, "quern-r00"), SIGKILL);
    assert_int_equal(child_finish(&c, 60000), 0);
    assert_memory_equal(c.out, story, strlen(story));
    assert_non_null(strstr(c.err, "quern: rank 0 "));
    assert_non_null(strstr(c.err, "SIGKILL"));
    assert_non_null(strstr(c.err, "1500 new (length)"));
    assert_non_null(strstr(c.err, "; 1 restart of the workers\n"));
    child_free(&c);
    kill(server.command.pid, SIGTERM);
    child_finish(&server.command, 10000);
    child_free(&server.command);
}

/* A reader that has had enough, and a server that would keep the answer for it. */
static void an_answer_nobody_wants_is_cancelled(void **state)
{
    struct raw_server server;
    char line[600], said[64];
    struct raw_client c;
    struct raw_frame f;

    (void)state;
    raw_server_start(&server, (const char *const[]){"--max-seqs", "1", NULL});
    snprintf(line, sizeof(line), "\"$QUERN\" run --socket %s --ignore-eos -n 2000 x | head -c 9",
        server.path);
    assert_int_equal(shell(line, said, sizeof(said)), 0);
    raw_connect(&c, &server);
    assert_true(raw_submit(&c, 1, raw_params(PROMPT_TEXT, 1), "x", 1)); /* waits for the other */
    f = raw_await(&c, FRAME_DONE);
    free(f.payload);
    raw_close(&c);
    raw_server_stop(&server, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newline_that_ends_standard_input_is_no_prompt),
        cmocka_unit_test(echo_puts_the_prompt_first),
        cmocka_unit_test(on_a_terminal_the_prompt_is_shown),
        cmocka_unit_test(the_first_token_is_timed_from_the_prompt),
        cmocka_unit_test(options_of_a_runtime_are_refused_with_a_socket),
        cmocka_unit_test(what_fails_is_told_once),
        cmocka_unit_test(a_lost_connection_is_taken_up_where_it_was),
        cmocka_unit_test(a_server_that_is_gone_is_told_soon),
        cmocka_unit_test(a_worker_s_death_is_told_and_survived),
        cmocka_unit_test(an_answer_nobody_wants_is_cancelled),
    };

    setenv("QUERN", "build/quern", 0); /* as command.h says; the shell needs it, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
