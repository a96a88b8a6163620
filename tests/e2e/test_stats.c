/* test_stats.c - quern stats: a server's figures are those of what it did. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

static struct raw_server server;

static json_t *figures(void)
{
    const char *words[] = {"stats", "--socket", server.path, "--json", NULL};
    struct command c;
    json_error_t e;
    json_t *json;

    assert_int_equal(child_run(&c, NULL, words), 0);
    assert_string_equal(c.err, "");
    json = json_loads(c.out, JSON_REJECT_DUPLICATES, &e);
    if (json == NULL)
        fail_msg("%s: %s", e.text, c.out);
    child_free(&c);
    return json;
}

static long number(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);

    if (!json_is_integer(value))
        fail_msg("%s is no whole number there", name);
    return (long)json_integer_value(value);
}

static long how_many(const json_t *json, const char *name)
{
    return number(json_object_get(json, name), "count");
}

/* Once what clients before this one left has ended. */
static json_t *idle_figures(void)
{
    json_t *json = figures();

    while (number(json, "running") + number(json, "waiting") > 0) {
        json_decref(json);
        json = figures();
    }
    return json;
}

/* `n_ids` ids, alike but for the last, and `max_tokens` more. */
static void complete(struct raw_client *c, uint64_t id, int n_ids, uint32_t max_tokens)
{
    int32_t ids[200];
    char *text;

    for (int i = 0; i < n_ids; i++)
        ids[i] = 100 + i;
    ids[n_ids - 1] = (int32_t)id;
    raw_submit(c, id, raw_endless(PROMPT_IDS, max_tokens), ids, (size_t)n_ids * sizeof(*ids));
    assert_int_equal(raw_answer(c, id, &text), FRAME_DONE);
    free(text);
}

static void what_was_done_is_counted(void **state)
{
    struct raw_client c;
    json_t *json;

    (void)state;
    raw_connect(&c, &server);
    complete(&c, 1, 100, 10);
    complete(&c, 2, 100, 20);
    json = figures();
    assert_int_equal(number(json, "running"), 0);
    assert_int_equal(number(json, "waiting"), 0);
    assert_int_equal(number(json, "kv_blocks_used"), 0);
    assert_true(number(json, "kv_blocks") > 0);
    assert_int_equal(number(json, "prompt_tokens"), 200);
    assert_int_equal(number(json, "output_tokens"), 30);
    assert_int_equal(number(json, "prefix_tokens_asked"), 200);
    assert_int_equal(number(json, "prefix_tokens_hit"), 96);
    assert_int_equal(number(json, "prefill_tokens"), 104);
    assert_int_equal(number(json, "preemptions"), 0);
    assert_int_equal(number(json, "restarts"), 0);
    assert_int_equal(number(json, "clients"), 2);
    assert_true(number(json, "steps") >= 30);
    assert_int_equal(how_many(json, "time_to_first_token"), 2);
    assert_int_equal(how_many(json, "queue_time"), 2);
    assert_int_equal(how_many(json, "time_between_tokens"), 28);
    assert_int_equal(how_many(json, "step_time"), number(json, "steps"));
    assert_true(how_many(json, "engine_time") > 0);
    json_decref(json);
    raw_close(&c);
}

/* Greedy: the storyteller soon says again what it said before. */
static void guesses_are_counted(void **state)
{
    struct raw_params p = raw_endless(PROMPT_TEXT, 300);
    json_t *before = figures(), *json;
    struct raw_client c;
    char *text;

    (void)state;
    RAW_GIVE(p, PARAM_SPECULATE, speculate, 4);
    raw_connect(&c, &server);
    raw_submit(&c, 1, p, "a b a b a b a b a b", 19);
    assert_int_equal(raw_answer(&c, 1, &text), FRAME_DONE);
    free(text);
    json = figures();
    assert_int_equal(number(before, "draft_tokens"), 0);
    assert_true(number(json, "draft_tokens") > 0);
    assert_in_range(number(json, "draft_tokens_accepted"), 1, number(json, "draft_tokens"));
    assert_int_equal(number(json, "output_tokens"), number(before, "output_tokens") + 300);
    json_decref(before);
    json_decref(json);
    raw_close(&c);
}

static void what_runs_and_waits_now_is_told(void **state)
{
    enum { REQUESTS = 40 };
    struct raw_client c;
    json_t *json;

    (void)state;
    raw_connect(&c, &server);
    for (uint64_t id = 1; id <= REQUESTS; id++)
        raw_submit(&c, id, raw_endless(PROMPT_TEXT, 1900), "Once", 4);
    free(raw_await(&c, FRAME_TOKENS).payload);
    json = figures();
    assert_int_equal(number(json, "running"), 2);
    assert_in_range(number(json, "waiting"), REQUESTS - 4, REQUESTS - 2); /* 2 may be on their way */
    assert_in_range(number(json, "kv_blocks_used"), 2, number(json, "kv_blocks"));
    json_decref(json);
    raw_close(&c);
}

static void a_restart_loses_no_count(void **state)
{
    struct raw_client c;
    json_t *before = idle_figures(), *json;
    struct raw_frame f;
    char *text;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, raw_endless(PROMPT_TEXT, 400), "Once upon a time", 16);
    f = raw_await(&c, FRAME_TOKENS);
    free(f.payload);
    kill(raw_server_member(&server, "quern-r00"), SIGKILL);
    assert_int_equal(raw_answer(&c, 1, &text), FRAME_DONE);
    free(text);
    json = figures();
    assert_int_equal(number(json, "restarts"), 1);
    assert_int_equal(number(json, "generation"), 2);
    assert_true(number(json, "output_tokens") >= number(before, "output_tokens") + 400);
    assert_int_equal(how_many(json, "time_to_first_token"),
        how_many(before, "time_to_first_token") + 1);
    assert_int_equal(how_many(json, "time_between_tokens") - how_many(before, "time_between_tokens"),
        number(json, "output_tokens") - number(before, "output_tokens") - 2); /* two were firsts */
    json_decref(before);
    json_decref(json);
    raw_close(&c);
}

static void a_pipe_gets_a_table_once(void **state)
{
    const char *words[] = {"stats", "--socket", server.path, NULL};
    struct command c;

    (void)state;
    assert_int_equal(child_run(&c, NULL, words), 0);
    assert_non_null(strstr(c.out, "  prefix_tokens_hit  "));
    assert_non_null(strstr(c.out, "  time_to_first_token  "));
    assert_null(strchr(c.out, '\033'));
    child_free(&c);
}

/* What a terminal shows until the second screen; then Ctrl-C is typed. The exit status. */
static int watch_on_a_terminal(char *screen, size_t room)
{
    const char *quern = getenv("QUERN") != NULL ? getenv("QUERN") : "./quern";
    int terminal, status = -1;
    pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
    ssize_t got = 0;
    size_t n = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(30);
        execl(quern, quern, "stats", "--socket", server.path, (char *)NULL);
        _exit(127);
    }
    do {
        n += (size_t)got;
        screen[n] = '\0';
        if (strstr(screen, "a second") != NULL && strstr(screen, "step_sequences") != NULL)
            (void)!write(terminal, "\003", 1);
        got = n < room - 1 ? read(terminal, screen + n, room - 1 - n) : 0;
    } while (got > 0);
    waitpid(pid, &status, 0);
    close(terminal);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void a_terminal_shows_rates_until_it_is_interrupted(void **state)
{
    static char screen[1 << 16];

    (void)state;
    assert_int_equal(watch_on_a_terminal(screen, sizeof(screen)), 0);
    assert_non_null(strstr(screen, "a second"));
    assert_non_null(strstr(screen, server.path));
}

static void no_server_is_one_line_and_status_1(void **state)
{
    const char *words[] = {"stats", "--socket", "/nowhere/quern.sock", NULL};
    struct command c;

    (void)state;
    assert_int_equal(child_run(&c, NULL, words), 1);
    assert_non_null(strstr(c.err, "is `quern serve --socket` running there?"));
    assert_ptr_equal(strchr(c.err, '\n'), c.err + c.err_bytes - 1);
    assert_string_equal(c.out, "");
    child_free(&c);
}

static int start_server(void **state)
{
    (void)state;
    raw_server_start(&server, (const char *const[]){"--max-seqs", "2", NULL});
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    kill(server.command.pid, SIGTERM);
    assert_int_equal(child_finish(&server.command, 10000), 0);
    child_free(&server.command);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_done_is_counted),
        cmocka_unit_test(guesses_are_counted),
        cmocka_unit_test(what_runs_and_waits_now_is_told),
        cmocka_unit_test(a_restart_loses_no_count),
        cmocka_unit_test(a_pipe_gets_a_table_once),
        cmocka_unit_test(a_terminal_shows_rates_until_it_is_interrupted),
        cmocka_unit_test(no_server_is_one_line_and_status_1),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
