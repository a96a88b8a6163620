/* test_fairness.c - one client's greed, slowness or silence is its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

static const char prompt[] = "Once upon a time";
static struct raw_server server;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Bytes of memory that a process has. */
static size_t resident(pid_t pid)
{
    unsigned long pages = 0;
    char path[64];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    f = fopen(path, "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %lu", &pages), 1);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Ends of requests among the frames that have come by now. */
static int ends_so_far(struct raw_client *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    struct raw_frame f;
    int ends = 0;

    while (c->n > 0 || poll(&p, 1, 0) > 0) {
        assert_true(raw_next(c, &f));
        assert_int_not_equal(f.header.type, FRAME_ERROR);
        ends += f.header.type == FRAME_DONE;
        free(f.payload);
    }
    return ends;
}

static void a_flood_of_small_requests_leaves_others_their_turn(void **state)
{
    enum { FLOOD = 4000 };
    const int32_t ids[] = {100};
    struct raw_client greedy, modest;
    char *text;
    int before;

    (void)state;
    raw_connect(&greedy, &server);
    raw_connect(&modest, &server);
    for (uint64_t id = 1; id <= FLOOD; id++)
        assert_true(raw_submit(&greedy, id, raw_endless(PROMPT_IDS, 3), ids, sizeof(ids)));
    free(raw_await(&greedy, FRAME_DONE).payload); /* they are being served */
    raw_submit(&modest, 1, raw_endless(PROMPT_TEXT, 3), prompt, strlen(prompt));
    assert_int_equal(raw_answer(&modest, 1, &text), FRAME_DONE);
    before = ends_so_far(&greedy);
    assert_in_range(before, 0, FLOOD / 2);
    free(text);
    raw_close(&greedy);
    raw_close(&modest);
    raw_assert_well(&server);
}

/* Through the command, as a person would. By turns it would be behind one of each of the others. */
static void an_urgent_request_overtakes_a_hundred_that_wait(void **state)
{
    enum { OTHERS = 34, EACH = 3, TURNS = OTHERS / 2 };
    const char *words[] = {"run", "--socket", NULL, "--priority", "-5", "-n", "3", prompt, NULL};
    struct raw_client others[OTHERS];
    struct raw_server narrow;
    struct command urgent;
    int ends = 0;

    (void)state;
    raw_server_start(&narrow, (const char *const[]){"--max-seqs", "1", NULL});
    words[2] = narrow.path;
    for (int i = 0; i < OTHERS; i++) {
        raw_connect(&others[i], &narrow);
        for (uint64_t id = 1; id <= EACH; id++)
            raw_submit(&others[i], id, raw_endless(PROMPT_TEXT, 150), prompt, strlen(prompt));
    }
    free(raw_await(&others[0], FRAME_DONE).payload);
    assert_int_equal(child_run(&urgent, NULL, words), 0);
    for (int i = 0; i < OTHERS; i++)
        ends += ends_so_far(&others[i]);
    assert_in_range(ends, 0, TURNS);
    child_free(&urgent);
    for (int i = 0; i < OTHERS; i++)
        raw_close(&others[i]);
    raw_server_stop(&narrow, "");
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* More answers than its socket and the server's share of it hold. */
static void fill_socket(struct raw_client *c)
{
    for (uint64_t id = 1000; id < 9000; id++)
        assert_true(raw_resume(c, id, id, 0));
}

/* The text of one TOKENS frame behind the others. */
static void add_text(char text[1 << 16], const struct raw_frame *f)
{
    struct frame_tokens t;

    raw_fixed(f, &t, sizeof(t));
    strncat(text, raw_rest(f) + t.n_ids * sizeof(int32_t), t.text_bytes);
}

/* Two slots, and both are taken by who does not read: others get them, and it misses nothing. */
static void who_does_not_read_stops_its_own_streams_alone(void **state)
{
    enum { STREAMS = 2, LONG = 1900 };
    static char answers[STREAMS + 1][1 << 16];
    struct raw_server narrow;
    struct raw_client silent;
    uint64_t submitted, read_from;
    char *want;

    (void)state;
    raw_server_start(&narrow, (const char *const[]){"--max-seqs", "2", "--threads", "1", NULL});
    raw_connect(&silent, &narrow);
    raw_submit(&silent, 1, raw_endless(PROMPT_TEXT, LONG), prompt, strlen(prompt));
    assert_int_equal(raw_answer(&silent, 1, &want), FRAME_DONE);
    fill_socket(&silent);
    submitted = now_ns();
    for (uint64_t id = 1; id <= STREAMS; id++)
        raw_submit(&silent, id, raw_endless(PROMPT_TEXT, LONG), prompt, strlen(prompt));
    sleep_ms(50);
    raw_assert_well(&narrow);
    read_from = now_ns();
    for (int left = STREAMS; left > 0;) {
        struct raw_frame f;

        assert_true(raw_next(&silent, &f));
        if (f.header.type == FRAME_TOKENS)
            add_text(answers[f.header.id], &f);
        if (f.header.type == FRAME_DONE) {
            struct frame_done done;

            raw_fixed(&f, &done, sizeof(done));
            assert_true(done.total_ns > read_from - submitted); /* it was not whole before */
            left--;
        }
        free(f.payload);
    }
    for (int i = 1; i <= STREAMS; i++)
        assert_string_equal(answers[i], want);
    free(want);
    raw_close(&silent);
    raw_server_stop(&narrow, "");
}

/* Each says that a frame of 16 MiB comes, and sends all but its end. */
static void frames_that_are_not_whole_take_a_bounded_memory(void **state)
{
    enum { CONNECTIONS = 40, BYTES = 15 << 20 };
    struct frame_header h = {.bytes = FRAME_MAX_BYTES, .type = FRAME_SUBMIT, .id = 1};
    struct raw_client c[CONNECTIONS];
    char *mem = calloc(1, BYTES);
    size_t before = resident(server.command.pid);
    int refused = 0;

    (void)state;
    assert_non_null(mem);
    for (int i = 0; i < CONNECTIONS; i++) {
        raw_connect(&c[i], &server);
        if (!raw_send(&c[i], &h, sizeof(h)) || !raw_send(&c[i], mem, BYTES))
            refused++;
    }
    raw_assert_well(&server);
    assert_true(refused > CONNECTIONS / 2);
    assert_true(resident(server.command.pid) < before + (160 << 20));
    for (int i = 0; i < CONNECTIONS; i++)
        raw_close(&c[i]);
    for (int i = 0; i < 100 && resident(server.command.pid) > before + (8 << 20); i++)
        sleep_ms(50);
    assert_true(resident(server.command.pid) < before + (8 << 20));
    raw_assert_well(&server);
    free(mem);
}

/* Prompts and answers of a day's length: what a request took is given back. */
static void memory_is_flat_over_many_requests(void **state)
{
    enum { ROUNDS = 1200 };
    size_t before = 0;
    struct raw_client c;

    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        struct raw_params p = raw_endless(PROMPT_TEXT, 2);

        if (i % 40 == 0)
            raw_connect(&c, &server);
        RAW_GIVE(p, PARAM_KEEP, keep_s, i % 2 == 0 ? 1u : 0u);
        raw_submit(&c, (uint64_t)i + 1, p, prompt, strlen(prompt));
        if (i % 3 == 0)
            raw_send_frame(&c, FRAME_CANCEL, (uint64_t)i + 1, NULL, 0);
        free(raw_await(&c, FRAME_DONE).payload);
        if (i % 40 == 39)
            raw_close(&c);
        if (i == ROUNDS / 2)
            before = resident(server.command.pid);
    }
    assert_true(resident(server.command.pid) < before + (2 << 20));
}

static int start(void **state)
{
    (void)state;
    raw_server_start(&server, (const char *const[]){"--threads", "1", NULL});
    return 0;
}

static int stop(void **state)
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
        cmocka_unit_test(a_flood_of_small_requests_leaves_others_their_turn),
        cmocka_unit_test(an_urgent_request_overtakes_a_hundred_that_wait),
        cmocka_unit_test(who_does_not_read_stops_its_own_streams_alone),
        cmocka_unit_test(frames_that_are_not_whole_take_a_bounded_memory),
        cmocka_unit_test(memory_is_flat_over_many_requests),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
