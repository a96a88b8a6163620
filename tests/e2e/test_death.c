/* test_death.c - kill -9, Ctrl-C and idleness, on the real processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/command.h"

enum { FAMILY = 32, WITHIN_MS = 1000 };

static const char *const long_story[] = {"run", "--temperature", "1", "--seed", "3", "-n", "2000",
    "--ignore-eos", "--tp", "4", "--threads", "1", "Once upon a time", NULL};

static long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static int alive(pid_t pid)
{
    char path[64], state = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
        state = 'X';
    fclose(f);
    return state != 'Z' && state != 'X';
}

static void assert_all_gone(const pid_t *pids, int n, long deadline)
{
    for (int i = 0; i < n; i++) {
        while (alive(pids[i]) && now_ms() < deadline)
            sleep_ms(5);
        assert_false(alive(pids[i]));
    }
}

/* Starts a long story, waits until it is being told. */
static void start_story(struct command *c, const char *const words[])
{
    child_start(c, NULL, words, NULL);
    assert_true(child_read_out(c, 40, 60000));
}

static const char *const shorter_story[] = {"run", "--temperature", "1", "--seed", "3", "-n", "300",
    "--ignore-eos", "--tp", "4", "--threads", "1", "Once upon a time", NULL};

/* The story without a death; told once. */
static const char *whole_story(void)
{
    static struct command c;

    if (c.out == NULL)
        assert_int_equal(child_run(&c, NULL, shorter_story), 0);
    return c.out;
}

/* Killed (or whatever `signal_number` does) while the story is being told: it goes on. */
static void kill_member_mid_story(const char *name, const char *said)
{
    const char *want = whole_story();
    struct command c;
    pid_t family[FAMILY], victim;
    int n;

    start_story(&c, shorter_story);
    n = child_family(c.pid, family, FAMILY);
    assert_int_equal(n, 6); /* supervisor, text worker, four ranks */
    victim = child_named(c.pid, name);
    assert_true(victim > 0);
    kill(victim, SIGKILL);
    assert_int_equal(child_finish(&c, 60000), 0);
    assert_string_equal(c.out, want);
    if (strstr(c.err, said) == NULL)
        fail_msg("killed %s, quern run said: %s", name, c.err);
    assert_all_gone(family, n, now_ms() + WITHIN_MS);
    child_free(&c);
}

static void story_goes_on_when_its_leader_is_killed(void **state)
{
    (void)state;
    kill_member_mid_story("quern-r00", "rank 0 ");
}

static void story_goes_on_when_a_follower_is_killed(void **state)
{
    (void)state;
    kill_member_mid_story("quern-r02", "rank 2 ");
}

static void story_goes_on_when_the_text_worker_is_killed(void **state)
{
    (void)state;
    kill_member_mid_story("quern-text", "");
}

static void server_socket(char path[256], const char *name)
{
    snprintf(path, 256, "%s/quern-%s-%d.socket",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", name, (int)getpid());
}

/* Serves with these words, and begins a story there. */
static void start_served_story(const char *const serve[], const char *socket, struct command *server,
    struct command *client)
{
    const char *run[] = {"run", "--socket", socket, "--greedy", "-n", "1500", "--ignore-eos",
        "Once upon a time", NULL};

    child_start(server, NULL, serve, NULL);
    for (int i = 0; i < 6000 && access(socket, F_OK) != 0; i++)
        sleep_ms(5);
    start_story(client, run);
}

static void one_death_too_many_ends_all_naming_rank_and_signal(void **state)
{
    char socket[256];
    const char *serve[] = {"serve", "--socket", socket, "--tp", "2", "--threads", "1",
        "--max-restarts", "0", NULL};
    struct command server, client;
    pid_t family[FAMILY];
    long killed;
    int n;

    (void)state;
    server_socket(socket, "many-deaths");
    start_served_story(serve, socket, &server, &client);
    n = child_family(server.pid, family, FAMILY);
    killed = now_ms();
    kill(child_named(server.pid, "quern-r01"), SIGKILL);
    assert_int_equal(child_finish(&client, 10000), 1);
    assert_in_range(now_ms() - killed, 0, WITHIN_MS);
    assert_non_null(strstr(client.err, "rank 1 "));
    assert_non_null(strstr(client.err, "was killed by signal 9 (SIGKILL)"));
    assert_int_equal(child_finish(&server, 10000), 1);
    assert_non_null(strstr(server.err, "was killed by signal 9 (SIGKILL)"));
    assert_all_gone(family, n, now_ms() + WITHIN_MS);
    child_free(&client);
    child_free(&server);
}

static void stopped_rank_is_noticed_and_replaced_within_the_step_timeout(void **state)
{
    char socket[256];
    const char *serve[] = {"serve", "--socket", socket, "--tp", "2", "--threads", "1",
        "--step-timeout", "2", NULL};
    const char *plain[] = {"run", "--tp", "2", "--threads", "1", "--greedy", "-n", "1500",
        "--ignore-eos", "Once upon a time", NULL};
    struct command server, client, want;
    long stopped;

    (void)state;
    assert_int_equal(child_run(&want, NULL, plain), 0);
    server_socket(socket, "stopped");
    start_served_story(serve, socket, &server, &client);
    stopped = now_ms();
    kill(child_named(server.pid, "quern-r01"), SIGSTOP);
    assert_true(child_read_err(&server, "is stopped", 10000));
    assert_in_range(now_ms() - stopped, 1000, 3000);
    assert_non_null(strstr(server.err, "rank 1 "));
    assert_int_equal(child_finish(&client, 60000), 0);
    assert_string_equal(client.out, want.out);
    kill(server.pid, SIGTERM);
    assert_int_equal(child_finish(&server, 10000), 0);
    child_free(&want);
    child_free(&client);
    child_free(&server);
}

/* Without the second, the server would give its stopped rank a second's grace. */
static void second_sigterm_ends_a_server_that_waits(void **state)
{
    char socket[256];
    const char *serve[] = {"serve", "--socket", socket, "--tp", "2", "--threads", "1", NULL};
    struct command server, client;
    pid_t family[FAMILY];
    long told;
    int n;

    (void)state;
    server_socket(socket, "twice");
    start_served_story(serve, socket, &server, &client);
    n = child_family(server.pid, family, FAMILY);
    kill(child_named(server.pid, "quern-r01"), SIGSTOP);
    kill(server.pid, SIGTERM);
    assert_int_equal(child_finish(&client, 10000), 1); /* it hears that the server stops */
    told = now_ms();
    kill(server.pid, SIGTERM);
    child_finish(&server, 10000);
    assert_in_range(now_ms() - told, 0, 600);
    assert_all_gone(family, n, now_ms() + WITHIN_MS);
    child_free(&client);
    child_free(&server);
}

static void killed_supervisor_leaves_no_process(void **state)
{
    struct command c;
    pid_t family[FAMILY];
    long killed;
    int n;

    (void)state;
    start_story(&c, long_story);
    n = child_family(c.pid, family, FAMILY);
    killed = now_ms();
    kill(family[0], SIGKILL); /* the only child of run */
    assert_int_equal(child_finish(&c, 10000), 1);
    assert_in_range(now_ms() - killed, 0, WITHIN_MS);
    assert_non_null(strstr(c.err, "was killed by signal 9 (SIGKILL)"));
    assert_all_gone(family, n, killed + WITHIN_MS);
    child_free(&c);
}

static void killed_run_leaves_no_process(void **state)
{
    struct command c;
    pid_t family[FAMILY];
    long killed;
    int n;

    (void)state;
    start_story(&c, long_story);
    n = child_family(c.pid, family, FAMILY);
    killed = now_ms();
    kill(c.pid, SIGKILL);
    assert_int_equal(child_finish(&c, 10000), 128 + SIGKILL);
    assert_all_gone(family, n, killed + 2 * WITHIN_MS);
    child_free(&c);
}

static void interrupt_stops_cleanly(void **state)
{
    struct command c;
    pid_t family[FAMILY];
    int n;

    (void)state;
    start_story(&c, long_story);
    n = child_family(c.pid, family, FAMILY);
    kill(c.pid, SIGINT);
    assert_int_equal(child_finish(&c, 10000), 130);
    assert_int_equal(c.out[c.out_bytes - 1], '\n');
    assert_non_null(strstr(c.err, "(cancelled)"));
    assert_all_gone(family, n, now_ms() + WITHIN_MS);
    child_free(&c);
}

static void interrupt_while_loading_stops_cleanly(void **state)
{
    static const char *const words[] = {"run", "-m", "synth:0.6b", "Once", NULL};
    struct command c;
    pid_t family[FAMILY];
    int n = 0;

    (void)state;
    child_start(&c, NULL, words, NULL);
    for (int i = 0; i < 2000 && n < 3; i++) {
        n = child_family(c.pid, family, FAMILY);
        sleep_ms(5);
    }
    assert_int_equal(n, 3);
    sleep_ms(100);
    kill(c.pid, SIGINT);
    assert_int_equal(child_finish(&c, 10000), 130);
    assert_all_gone(family, n, now_ms() + WITHIN_MS);
    child_free(&c);
}

/* Clock ticks that a process has used, user and system; -1 when it is gone. */
static long ticks_of(pid_t pid)
{
    char path[64], line[1024];
    unsigned long user, system;
    const char *end;
    long ticks = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (f == NULL)
        return -1;
    if (fgets(line, sizeof(line), f) != NULL && (end = strrchr(line, ')')) != NULL &&
        sscanf(end, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2)
        ticks = (long)(user + system);
    fclose(f);
    return ticks;
}

/* Times the process went to sleep or was put there: an idle one never wakes. */
static long switches_of(pid_t pid)
{
    char path[64], line[256];
    long all = 0, n;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "voluntary_ctxt_switches: %ld", &n) == 1 ||
            sscanf(line, "nonvoluntary_ctxt_switches: %ld", &n) == 1)
            all += n;
    fclose(f);
    return all;
}

static void idle_server_uses_no_cpu_and_ends_on_sigterm(void **state)
{
    char socket[256];
    const char *serve[] = {"serve", "--socket", socket, "--tp", "2", "--threads", "2", NULL};
    const char *run[] = {"run", "--socket", socket, "--greedy", "-n", "8", "Once", NULL};
    struct command server, client;
    pid_t family[FAMILY];
    long ticks[FAMILY], switches[FAMILY];
    int n;

    (void)state;
    snprintf(socket, sizeof(socket), "%s/quern-idle-%d.socket",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
    child_start(&server, NULL, serve, NULL);
    for (int i = 0; i < 2000 && access(socket, F_OK) != 0; i++)
        sleep_ms(5);
    assert_int_equal(child_run(&client, NULL, run), 0);
    child_free(&client);
    sleep_ms(300);
    n = child_family(server.pid, family, FAMILY - 1);
    family[n++] = server.pid;
    assert_int_equal(n, 4);
    for (int i = 0; i < n; i++) {
        ticks[i] = ticks_of(family[i]);
        switches[i] = switches_of(family[i]);
    }
    sleep_ms(3000);
    for (int i = 0; i < n; i++) {
        assert_int_equal(ticks_of(family[i]), ticks[i]);
        assert_int_equal(switches_of(family[i]), switches[i]);
    }
    kill(server.pid, SIGTERM);
    assert_int_equal(child_finish(&server, 10000), 0);
    assert_int_not_equal(access(socket, F_OK), 0);
    assert_all_gone(family, n, now_ms() + WITHIN_MS);
    child_free(&server);
}

static void clients_of_one_server_do_not_disturb_each_other(void **state)
{
    char socket[256];
    const char *serve[] = {"serve", "--socket", socket, NULL};
    const char *run[] = {"run", "--socket", socket, "--greedy", "-n", "200", "--ignore-eos",
        "--print-ids", "Once upon a time", NULL};
    const char *wrong[] = {"run", "--socket", socket, "--ids", "99999", NULL};
    struct command server, clients[4], bad;

    (void)state;
    snprintf(socket, sizeof(socket), "%s/quern-many-%d.socket",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
    child_start(&server, NULL, serve, NULL);
    for (int i = 0; i < 2000 && access(socket, F_OK) != 0; i++)
        sleep_ms(5);
    for (int i = 0; i < 4; i++)
        child_start(&clients[i], NULL, run, NULL);
    assert_true(child_read_out(&clients[3], 20, 30000));
    kill(clients[3].pid, SIGKILL);
    assert_int_equal(child_run(&bad, NULL, wrong), 1);
    child_free(&bad);
    child_finish(&clients[3], 10000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(child_finish(&clients[i], 60000), 0);
        assert_string_equal(clients[i].out, clients[0].out);
    }
    for (int i = 0; i < 4; i++)
        child_free(&clients[i]);
    kill(server.pid, SIGTERM);
    assert_int_equal(child_finish(&server, 10000), 0);
    child_free(&server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(story_goes_on_when_its_leader_is_killed),
        cmocka_unit_test(story_goes_on_when_a_follower_is_killed),
        cmocka_unit_test(story_goes_on_when_the_text_worker_is_killed),
        cmocka_unit_test(one_death_too_many_ends_all_naming_rank_and_signal),
        cmocka_unit_test(stopped_rank_is_noticed_and_replaced_within_the_step_timeout),
        cmocka_unit_test(second_sigterm_ends_a_server_that_waits),
        cmocka_unit_test(killed_supervisor_leaves_no_process),
        cmocka_unit_test(killed_run_leaves_no_process),
        cmocka_unit_test(interrupt_stops_cleanly),
        cmocka_unit_test(interrupt_while_loading_stops_cleanly),
        cmocka_unit_test(idle_server_uses_no_cpu_and_ends_on_sigterm),
        cmocka_unit_test(clients_of_one_server_do_not_disturb_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
