/* test_clients.c - clients that are many, slow, or gone, on one server.
 *
 * Whatever they do, slots and KV blocks come back: after each test a good
 * client still gets the right answer, and at the end the server stops in good
 * order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

enum { MANY = 300, ABRUPT = 200 };

static struct raw_server server;

static const char prompt[] = "Once upon a time";
#define PROMPT prompt, sizeof(prompt) - 1

/* The text worker is stopped meanwhile, so nothing is taken off the pile: each connection may have
 * 64 MiB of prompts, all of them 256 MiB. */
static void prompts_that_wait_take_a_bounded_memory(void **state)
{
    enum { BYTES = 15 << 20, EACH = 4, CONNECTIONS = 5 };
    char *mem = calloc(1, BYTES);
    struct raw_params p = raw_params(PROMPT_TEXT, 1);
    struct raw_server other;
    struct raw_client c[CONNECTIONS];
    pid_t text_worker;

    (void)state;
    assert_non_null(mem);
    mem[0] = '\xff'; /* an error at once, once it is looked at */
    raw_server_start(&other, NULL);
    raw_assert_well(&other);
    text_worker = raw_server_member(&other, "quern-text");
    kill(text_worker, SIGSTOP);
    for (int i = 0; i < CONNECTIONS; i++) {
        raw_connect(&c[i], &other);
        for (uint64_t id = 1; id <= EACH && (i < CONNECTIONS - 1 || id == 1); id++)
            assert_true(raw_submit(&c[i], id, p, mem, BYTES));
    }
    assert_true(raw_submit(&c[0], EACH + 1, p, mem, BYTES));
    raw_refused(&c[0], EACH + 1, QUERN_CODE_QUOTA,
        "the prompts of this connection take 60 MiB, 64 are possible: wait for some to end");
    assert_true(raw_submit(&c[CONNECTIONS - 1], 2, p, mem, BYTES));
    raw_refused(&c[CONNECTIONS - 1], 2, QUERN_CODE_OVERLOADED,
        "the prompts of 17 requests take 255 MiB already: try again later");
    kill(text_worker, SIGCONT);
    for (int i = 0; i < CONNECTIONS; i++) {
        for (uint64_t id = 1; id <= EACH && (i < CONNECTIONS - 1 || id == 1); id++)
            raw_refused(&c[i], id, QUERN_CODE_BAD_REQUEST, "not UTF-8");
        assert_true(raw_submit(&c[i], 9, p, PROMPT)); /* and now there is room again */
        free(raw_await(&c[i], FRAME_DONE).payload);
        raw_close(&c[i]);
    }
    raw_server_stop(&other, "");
    free(mem);
}

/* Stage 0: at once, while it is encoded; 1: while it waits or runs; 2: in mid-answer. */
static void abrupt_ends_in_every_stage_leave_nothing(void **state)
{
    struct raw_params p = raw_endless(PROMPT_TEXT, 1000);

    (void)state;
    for (int i = 0; i < ABRUPT; i++) {
        const struct linger none = {.l_onoff = 1};
        struct raw_client c;

        raw_connect(&c, &server);
        setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
        for (uint64_t id = 1; id <= 1u + (unsigned)i % 20; id++)
            assert_true(raw_submit(&c, id, p, PROMPT));
        if (i % 3 == 1)
            nanosleep(&(struct timespec){.tv_nsec = i * 20000L}, NULL);
        else if (i % 3 == 2)
            free(raw_await(&c, FRAME_TOKENS).payload);
        if (i % 5 == 0)
            shutdown(c.fd, SHUT_WR);
        raw_close(&c);
    }
    raw_assert_well(&server);
}

static void cancels_race_with_everything(void **state)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 30);
    struct raw_client c;
    char *text;

    (void)state;
    raw_connect(&c, &server);
    for (uint64_t id = 1; id < 50; id++) /* of nobody */
        assert_true(raw_send_frame(&c, FRAME_CANCEL, id * 7919, NULL, 0));
    for (uint64_t id = 1; id <= ABRUPT; id++) {
        assert_true(raw_submit(&c, id, p, PROMPT));
        if (id % 4 == 1)
            nanosleep(&(struct timespec){.tv_nsec = (long)id * 10000L}, NULL);
        for (uint64_t back = 0; back < 3 && back < id; back++)
            assert_true(raw_send_frame(&c, FRAME_CANCEL, id - back, NULL, 0));
    }
    assert_true(raw_submit(&c, ABRUPT + 1, p, PROMPT));
    assert_int_equal(raw_answer(&c, ABRUPT + 1, &text), FRAME_DONE);
    free(text);
    raw_close(&c);
    raw_assert_well(&server);
}

/* Each ends once, in whatever order, and with the same words. */
static void many_requests_on_one_connection_all_get_the_same_answer(void **state)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 12);
    static char answers[MANY + 1][256];
    static int ends[MANY + 1];
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    for (uint64_t id = 1; id <= MANY; id++)
        assert_true(raw_submit(&c, id, p, PROMPT));
    for (int left = MANY; left > 0;) {
        struct raw_frame f;
        struct frame_tokens t;

        assert_true(raw_next(&c, &f));
        assert_int_not_equal(f.header.type, FRAME_ERROR);
        if (f.header.type == FRAME_TOKENS) {
            raw_fixed(&f, &t, sizeof(t));
            assert_int_equal(ends[f.header.id], 0);
            strcat(answers[f.header.id], raw_rest(&f) + t.n_ids * sizeof(int32_t));
        }
        if (f.header.type == FRAME_DONE) {
            ends[f.header.id]++;
            left--;
        }
        free(f.payload);
    }
    for (int i = 1; i <= MANY; i++) {
        assert_int_equal(ends[i], 1);
        assert_string_equal(answers[i], answers[1]);
    }
    raw_close(&c);
    raw_assert_well(&server);
}

/* RESUMEs of keys that nobody has, as 1 .. 1000: what costs little to ask and more to answer. */
static bool ask_a_lot(struct raw_client *c)
{
    struct asked {
        struct frame_header header;
        struct frame_resume resume;
    } many[1000];

    for (size_t i = 0; i < 1000; i++)
        many[i] = (struct asked){
            {.bytes = sizeof(struct frame_resume), .type = FRAME_RESUME, .id = i + 1},
            {.fixed = sizeof(struct frame_resume), .key = ~i},
        };
    return raw_send(c, many, sizeof(many));
}

static void a_client_that_does_not_read_is_let_go(void **state)
{
    struct raw_client c;
    int rounds = 0;

    (void)state;
    raw_connect(&c, &server);
    while (rounds < 401 && ask_a_lot(&c))
        rounds++;
    assert_in_range(rounds, 20, 400); /* 4 MiB of answers, of a hundred bytes each */
    raw_close(&c);
    raw_assert_well(&server);
}

/* Far more than a socket holds, so sends are cut in the middle of frames. */
static void a_slow_reader_gets_everything_in_order(void **state)
{
    enum { ROUNDS = 20, ID = 5000 };
    struct raw_params p = raw_endless(PROMPT_TEXT, 100);
    struct raw_client c;
    struct raw_frame f;
    unsigned answers = 0;

    (void)state;
    raw_connect(&c, &server);
    for (int i = 0; i < ROUNDS; i++)
        assert_true(ask_a_lot(&c));
    assert_true(raw_submit(&c, ID, p, PROMPT));
    raw_assert_well(&server); /* others do not wait for it */
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    f = raw_await(&c, FRAME_ERROR);
    while (f.header.type == FRAME_ERROR) {
        assert_int_equal(f.header.id, answers++ % 1000 + 1);
        free(f.payload);
        assert_true(raw_next(&c, &f));
    }
    assert_int_equal(answers, 1000 * ROUNDS);
    assert_int_equal(f.header.id, ID);
    while (f.header.type != FRAME_DONE) {
        free(f.payload);
        assert_true(raw_next(&c, &f));
    }
    free(f.payload);
    raw_close(&c);
}

static void limit_descriptors(pid_t pid, rlim_t n)
{
    struct rlimit limit;

    assert_int_equal(prlimit(pid, RLIMIT_NOFILE, NULL, &limit), 0);
    limit.rlim_cur = n < limit.rlim_max ? n : limit.rlim_max;
    assert_int_equal(prlimit(pid, RLIMIT_NOFILE, &limit, NULL), 0);
}

/* The limit under which a server that has started may have this many connections. It must hold
 * from the start: io_uring keeps for an accept the limit under which it was armed. */
static rlim_t limit_for(int connections)
{
    struct raw_server probe;
    char path[64];
    rlim_t n;

    raw_server_start(&probe, NULL);
    raw_assert_well(&probe);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* until the last one is gone */
    for (n = 0; connections > 0; n++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)probe.command.pid, (int)n);
        connections -= readlink(path, (char[1]){0}, 1) < 0;
    }
    raw_server_stop(&probe, "");
    return n;
}

static void start_limited(struct raw_server *s, const char *loop, int connections)
{
    struct rlimit before;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    setenv("QUERN_LOOP", loop, 1);
    limit_descriptors(0, limit_for(connections));
    raw_server_start(s, NULL);
    limit_descriptors(0, before.rlim_cur);
    unsetenv("QUERN_LOOP");
}

static long switches_of(pid_t pid)
{
    char path[64], line[256];
    long n = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    f = fopen(path, "re");
    assert_non_null(f);
    while (n < 0 && fgets(line, sizeof(line), f) != NULL)
        sscanf(line, "voluntary_ctxt_switches: %ld", &n);
    fclose(f);
    return n;
}

/* One served client keeps its place; who comes is told at once; nothing ticks; and when there
 * are descriptors again, though nobody left, so is room. */
static void serve_with_few_descriptors(const char *loop)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 1);
    struct raw_server full;
    struct raw_client first, more[4];
    long before;

    start_limited(&full, loop, 2);
    raw_connect(&first, &full);
    free(raw_await(&first, FRAME_READY).payload);
    raw_connect(&more[0], &full);
    free(raw_await(&more[0], FRAME_READY).payload);
    for (int round = 0; round < 3; round++)
        for (int i = 1; i < 4; i++) {
            struct raw_frame f;

            raw_connect(&more[i], &full);
            f = raw_await(&more[i], FRAME_ERROR);
            assert_non_null(strstr(raw_rest(&f), "no room for more connections"));
            free(f.payload);
            assert_false(raw_next(&more[i], &f));
            raw_close(&more[i]);
        }
    before = switches_of(full.command.pid);
    nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
    assert_true(switches_of(full.command.pid) - before < 3);
    assert_true(raw_submit(&first, 1, p, PROMPT));
    free(raw_await(&first, FRAME_DONE).payload);
    limit_descriptors(full.command.pid, 256);
    raw_assert_well(&full);
    raw_close(&more[0]);
    raw_close(&first);
    raw_server_stop(&full, "quern: no more connections can be taken until others end "
        "(Too many open files): raise the limit of open files (ulimit -n) for more\n");
}

static void a_server_without_descriptors_answers_everybody_and_comes_back(void **state)
{
    (void)state;
    serve_with_few_descriptors("uring");
    serve_with_few_descriptors("epoll");
}

/* A connection that has been waiting since there was no descriptor at all is served as soon as
 * there is one, though nobody leaves and nobody else comes. */
static void wait_for_a_descriptor(const char *loop)
{
    struct raw_server full;
    struct raw_client served[2], waiting;

    start_limited(&full, loop, 2);
    for (int i = 0; i < 2; i++) {
        raw_connect(&served[i], &full);
        free(raw_await(&served[i], FRAME_READY).payload);
    }
    limit_descriptors(full.command.pid, 0); /* not even one that is given up can be had again */
    raw_connect(&waiting, &full);
    nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    limit_descriptors(full.command.pid, 256);
    free(raw_await(&waiting, FRAME_READY).payload);
    raw_close(&waiting);
    raw_close(&served[0]);
    raw_close(&served[1]);
    raw_server_stop(&full, "quern: no more connections can be taken until others end "
        "(Too many open files): raise the limit of open files (ulimit -n) for more\n");
}

static void a_connection_that_waits_for_a_descriptor_is_served(void **state)
{
    (void)state;
    wait_for_a_descriptor("uring");
    wait_for_a_descriptor("epoll");
}

static void stopping_tells_who_waits(void **state)
{
    struct raw_params p = raw_endless(PROMPT_TEXT, 2000);
    struct raw_server other;
    struct raw_client c;

    (void)state;
    raw_server_start(&other, NULL);
    raw_connect(&c, &other);
    assert_true(raw_submit(&c, 1, p, PROMPT));
    free(raw_await(&c, FRAME_TOKENS).payload);
    raw_server_stop(&other, "");
    raw_refused(&c, 1, QUERN_CODE_STOPPING, "the server is stopping");
    raw_close(&c);
}

static int start_server(void **state)
{
    static const char *const exact[] = {"--compute", "f32", "--kv-dtype", "f32", NULL};

    (void)state;
    raw_server_start(&server, exact);
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    raw_server_stop(&server, "quern: a client is let go: it asks and does not read the answers\n");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_that_wait_take_a_bounded_memory),
        cmocka_unit_test(abrupt_ends_in_every_stage_leave_nothing),
        cmocka_unit_test(cancels_race_with_everything),
        cmocka_unit_test(many_requests_on_one_connection_all_get_the_same_answer),
        cmocka_unit_test(a_client_that_does_not_read_is_let_go),
        cmocka_unit_test(a_slow_reader_gets_everything_in_order),
        cmocka_unit_test(a_server_without_descriptors_answers_everybody_and_comes_back),
        cmocka_unit_test(a_connection_that_waits_for_a_descriptor_is_served),
        cmocka_unit_test(stopping_tells_who_waits),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
