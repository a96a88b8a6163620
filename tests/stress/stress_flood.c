/* stress_flood.c - one connection asks for 60,000 small answers, and others want theirs too.
 *
 * Every request of the flood is answered, and a stream beside it tells the same
 * story as alone. How long that stream waits is printed, alone and beside the
 * flood: a figure for a quiet machine, nothing that a test could assert.
 * QUERN_STRESS_REQUESTS (60000) says how many. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"
#include "tests/support/random.h"

enum { STREAMS = 4, TOKENS = 300 };

static const char prompt[] = "Once upon a time";
static struct raw_server server;
static uint64_t requests = 60000;

static void *send_all(void *context)
{
    struct raw_client *c = context;
    const int32_t ids[] = {100};

    for (uint64_t id = 1; id <= requests; id++)
        if (!raw_submit(c, id, raw_endless(PROMPT_IDS, 1), ids, sizeof(ids)))
            break; /* the reader notices what is missing */
    return NULL;
}

/* The process that floods; its status says whether each was answered. */
static void flood(void)
{
    uint64_t answered = 0;
    struct raw_client c;
    struct raw_frame f;
    pthread_t sender;

    raw_connect(&c, &server);
    if (pthread_create(&sender, NULL, send_all, &c) != 0)
        _exit(2);
    while (answered < requests && raw_next(&c, &f)) {
        answered += f.header.type == FRAME_DONE;
        free(f.payload);
        if (f.header.type == FRAME_ERROR)
            _exit(3);
    }
    _exit(answered == requests ? 0 : 1);
}

/* One stream's first token and longest gap, printed; its text. */
static char *stream(const char *where)
{
    uint64_t last = spin_now_ns(), first = 0, longest = 0;
    char *text = calloc(1, 1 << 16);
    struct raw_client c;
    struct raw_frame f;

    raw_connect(&c, &server);
    assert_non_null(text);
    assert_true(raw_submit(&c, 1, raw_endless(PROMPT_TEXT, TOKENS), prompt, strlen(prompt)));
    do {
        uint64_t now;

        assert_true(raw_next(&c, &f));
        now = spin_now_ns();
        assert_int_not_equal(f.header.type, FRAME_ERROR);
        if (f.header.type == FRAME_TOKENS) {
            struct frame_tokens t;

            raw_fixed(&f, &t, sizeof(t));
            strncat(text, raw_rest(&f) + t.n_ids * sizeof(int32_t), t.text_bytes);
            if (first == 0)
                first = now - last;
            else if (now - last > longest)
                longest = now - last;
            last = now;
        }
        free(f.payload);
    } while (f.header.type != FRAME_DONE);
    print_message("# %s: first token after %.1f ms, longest gap %.1f ms\n", where,
        (double)first * 1e-6, (double)longest * 1e-6);
    raw_close(&c);
    return text;
}

static void a_flood_is_answered_and_others_go_on_beside_it(void **state)
{
    char *alone, *beside;
    int status = -1;
    pid_t child;

    (void)state;
    alone = stream("alone");
    child = fork();
    if (child == 0)
        flood();
    nap_ms(300);
    for (int i = 0; i < STREAMS; i++) {
        beside = stream("beside the flood");
        assert_string_equal(beside, alone);
        free(beside);
    }
    print_message("# the flood goes on: %s\n", waitpid(child, &status, WNOHANG) == 0 ? "yes" : "no");
    if (status == -1)
        assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    free(alone);
}

static int start_server(void **state)
{
    const char *given = getenv("QUERN_STRESS_REQUESTS");

    (void)state;
    if (given != NULL)
        requests = strtoull(given, NULL, 10);
    raw_server_start(&server, (const char *const[]){"--threads", "1", NULL});
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    raw_server_stop(&server, "");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flood_is_answered_and_others_go_on_beside_it),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
