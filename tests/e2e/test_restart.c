/* test_restart.c - a death costs what died: told to who asked, mended for all. */
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

#include "tests/e2e/raw_client.h"

static const char prompt[] = "Once upon a time";
static struct raw_server server;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* The frames of request `id` until its end: pauses and goings-on counted. */
static struct frame_done read_to_end(struct raw_client *c, uint64_t id, int *pauses, int *goes_on)
{
    struct frame_done done = {0};

    *pauses = *goes_on = 0;
    for (bool ended = false; !ended;) {
        struct frame_paused p;
        struct raw_frame f;

        assert_true(raw_next(c, &f));
        if (f.header.id == id && f.header.type == FRAME_ERROR)
            fail_msg("%s", raw_rest(&f));
        if (f.header.id == id && f.header.type == FRAME_PAUSED) {
            raw_fixed(&f, &p, sizeof(p));
            *pauses += p.paused == 1;
            *goes_on += p.paused == 0;
            assert_true(p.generation > 0);
            assert_non_null(strstr(raw_rest(&f), p.paused ? "rank 0 " : "run again"));
        }
        ended = f.header.id == id && f.header.type == FRAME_DONE;
        if (ended)
            raw_fixed(&f, &done, sizeof(done));
        free(f.payload);
    }
    return done;
}

static void who_asked_is_told_of_the_pause_and_nobody_else(void **state)
{
    struct raw_params p = raw_endless(PROMPT_TEXT, 600);
    struct raw_client asked, other;
    struct frame_done done;
    int pauses, goes_on;

    (void)state;
    raw_connect(&asked, &server);
    raw_connect(&other, &server);
    raw_submit(&other, 1, p, prompt, strlen(prompt));
    RAW_GIVE(p, PARAM_TELL_PAUSES, tell_pauses, 1);
    raw_submit(&asked, 1, p, prompt, strlen(prompt));
    free(raw_await(&asked, FRAME_TOKENS).payload);
    free(raw_await(&other, FRAME_TOKENS).payload);
    kill(raw_server_member(&server, "quern-r00"), SIGKILL);
    done = read_to_end(&asked, 1, &pauses, &goes_on);
    assert_int_equal(pauses, 1);
    assert_int_equal(goes_on, 1);
    assert_int_equal(done.restarts, 1);
    assert_int_equal(done.output_tokens, 600);
    done = read_to_end(&other, 1, &pauses, &goes_on);
    assert_int_equal(pauses + goes_on, 0);
    assert_int_equal(done.output_tokens, 600);
    raw_close(&asked);
    raw_close(&other);
}

static void a_request_that_comes_while_workers_start_again_waits(void **state)
{
    char *text, *want;
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, raw_params(PROMPT_TEXT, 20), prompt, strlen(prompt));
    assert_int_equal(raw_answer(&c, 1, &want), FRAME_DONE);
    kill(raw_server_member(&server, "quern-r00"), SIGKILL);
    raw_submit(&c, 2, raw_params(PROMPT_TEXT, 20), prompt, strlen(prompt));
    assert_int_equal(raw_answer(&c, 2, &text), FRAME_DONE);
    assert_string_equal(text, want);
    free(text);
    free(want);
    raw_close(&c);
}

static void what_was_being_encoded_goes_to_the_next_text_worker(void **state)
{
    pid_t pid = raw_server_member(&server, "quern-text");
    char *text, *want;
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, raw_params(PROMPT_TEXT, 20), prompt, strlen(prompt));
    assert_int_equal(raw_answer(&c, 1, &want), FRAME_DONE);
    kill(pid, SIGSTOP);
    for (uint64_t id = 2; id < 12; id++)
        raw_submit(&c, id, raw_params(PROMPT_TEXT, 20), prompt, strlen(prompt));
    sleep_ms(50);
    kill(pid, SIGKILL);
    for (int left = 10; left > 0;) {
        struct raw_frame f;

        assert_true(raw_next(&c, &f));
        assert_int_not_equal(f.header.type, FRAME_ERROR);
        left -= f.header.type == FRAME_DONE;
        free(f.payload);
    }
    raw_submit(&c, 12, raw_params(PROMPT_TEXT, 20), prompt, strlen(prompt));
    assert_int_equal(raw_answer(&c, 12, &text), FRAME_DONE);
    assert_string_equal(text, want);
    free(text);
    free(want);
    raw_close(&c);
    raw_assert_well(&server);
}

/* Another than `before`; it may take a moment to be there and to have its name. */
static pid_t next_text_worker(pid_t before)
{
    pid_t pid = before;

    for (int i = 0; i < 2000 && (pid == before || pid == 0); i++) {
        pid = child_named(server.command.pid, "quern-text");
        if (pid == before || pid == 0)
            sleep_ms(1);
    }
    assert_true(pid != before && pid != 0);
    return pid;
}

static void a_prompt_that_ends_its_text_worker_twice_is_refused(void **state)
{
    enum { LONG = 12 << 20 };
    pid_t pid = raw_server_member(&server, "quern-text"), second;
    char *long_prompt = malloc(LONG);
    struct raw_client c;

    (void)state;
    assert_non_null(long_prompt);
    for (int i = 0; i < LONG; i++)
        long_prompt[i] = i % 7 == 0 ? ' ' : (char)('a' + i % 23);
    raw_connect(&c, &server);
    kill(pid, SIGSTOP);
    raw_submit(&c, 1, raw_params(PROMPT_TEXT, 20), long_prompt, LONG);
    sleep_ms(100);
    kill(pid, SIGKILL);
    second = next_text_worker(pid);
    kill(second, SIGKILL);
    raw_refused(&c, 1, QUERN_CODE_INTERNAL, "the text worker died of this prompt twice");
    next_text_worker(second);
    free(long_prompt);
    raw_close(&c);
    raw_assert_well(&server);
}

static void a_rank_that_dies_while_it_loads_ends_the_server_by_name(void **state)
{
    char path[128];
    const char *words[] = {"serve", "--socket", path, "-m", "synth:0.6b", NULL};
    struct command c;
    pid_t rank = 0;

    (void)state;
    snprintf(path, sizeof(path), "%s/quern-loading-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
        (int)getpid());
    child_start(&c, NULL, words, NULL);
    for (int i = 0; i < 4000 && rank == 0; i++) {
        rank = child_named(c.pid, "quern-r00");
        sleep_ms(2);
    }
    assert_true(rank != 0);
    kill(rank, SIGKILL);
    assert_int_equal(child_finish(&c, 20000), 1);
    assert_non_null(strstr(c.err, "rank 0 "));
    assert_non_null(strstr(c.err, "was killed by signal 9 (SIGKILL)"));
    child_free(&c);
}

static void requests_hear_of_the_end_before_their_connection_does(void **state)
{
    struct raw_server once;
    struct raw_client c;
    struct raw_frame f;

    (void)state;
    raw_server_start(&once, (const char *const[]){"--threads", "1", "--max-restarts", "0", NULL});
    raw_connect(&c, &once);
    raw_submit(&c, 1, raw_endless(PROMPT_TEXT, 1500), prompt, strlen(prompt));
    free(raw_await(&c, FRAME_TOKENS).payload);
    kill(raw_server_member(&once, "quern-r00"), SIGKILL);
    f = raw_await(&c, FRAME_ERROR);
    assert_int_equal(f.header.id, 1);
    free(f.payload);
    f = raw_await(&c, FRAME_ERROR);
    assert_int_equal(f.header.id, 0);
    assert_non_null(strstr(raw_rest(&f), "was killed by signal 9 (SIGKILL)"));
    free(f.payload);
    raw_close(&c);
    assert_int_equal(child_finish(&once.command, 10000), 1);
    child_free(&once.command);
}

static int start(void **state)
{
    (void)state;
    raw_server_start(&server, (const char *const[]){"--tp", "2", "--threads", "1",
        "--max-restarts", "100", NULL});
    return 0;
}

static int stop(void **state)
{
    (void)state;
    kill(server.command.pid, SIGTERM);
    assert_int_equal(child_finish(&server.command, 10000), 0);
    assert_non_null(strstr(server.command.err, "the workers are started again"));
    child_free(&server.command);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_asked_is_told_of_the_pause_and_nobody_else),
        cmocka_unit_test(a_request_that_comes_while_workers_start_again_waits),
        cmocka_unit_test(what_was_being_encoded_goes_to_the_next_text_worker),
        cmocka_unit_test(a_prompt_that_ends_its_text_worker_twice_is_refused),
        cmocka_unit_test(a_rank_that_dies_while_it_loads_ends_the_server_by_name),
        cmocka_unit_test(requests_hear_of_the_end_before_their_connection_does),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
