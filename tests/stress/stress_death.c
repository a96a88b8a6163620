/* stress_death.c - kill -9 of whatever child, again and again, under many streams.
 *
 * 32 streams of the storyteller with prompts, temperatures and seeds of their
 * own, each beginning again when it has ended; every 300 ms one of the server's
 * children is killed. Each answer must be the one that the same request had
 * when nobody died: same ids, same text, none lost, none twice.
 * QUERN_STRESS_SECONDS (20) and QUERN_TEST_SEED change the run. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"
#include "tests/support/random.h"

enum { STREAMS = 32, TOKENS = 120, KILL_MS = 300 };

struct stream {
    struct raw_client client;
    uint64_t id;
    uint32_t n;
    int32_t ids[TOKENS];
    char text[8192];
    uint64_t last_ms;
};

struct story {
    uint32_t n, output_tokens;
    int32_t ids[TOKENS];
    char text[8192];
};

static struct raw_server server;
static struct stream streams[STREAMS];
static struct story stories[STREAMS];
static unsigned answers, restarts, kills;
static uint64_t longest_ms;

static uint64_t now_ms(void)
{
    return spin_now_ns() / 1000000u;
}

static void begin(int i)
{
    static const char *const prompts[] = {"Once upon a time", "The little dog", "One day, a girl",
        "Tom and Sue", "In the forest", "A big red ball", "The king", "Lily was sad"};
    static const float temperatures[] = {0, 0.8f, 1, 0.6f};
    struct stream *s = &streams[i];
    struct raw_params p = raw_params(PROMPT_TEXT, TOKENS);

    RAW_GIVE(p, PARAM_TEMPERATURE, temperature, temperatures[i % 4]);
    RAW_GIVE(p, PARAM_SEED, seed, (uint64_t)i + 1000);
    RAW_GIVE(p, PARAM_IGNORE_EOS, ignore_eos, i % 3 == 0);
    s->n = 0;
    s->text[0] = '\0';
    s->last_ms = now_ms();
    raw_submit(&s->client, ++s->id, p, prompts[i % 8], strlen(prompts[i % 8]));
}

static void add_tokens(struct stream *s, const struct raw_frame *f)
{
    const char *rest = raw_rest(f);
    struct frame_tokens t;

    raw_fixed(f, &t, sizeof(t));
    assert_int_equal(t.after, s->n);
    assert_true(s->n + t.n_ids <= TOKENS);
    memcpy(s->ids + s->n, rest, t.n_ids * sizeof(int32_t));
    s->n += t.n_ids;
    strncat(s->text, rest + t.n_ids * sizeof(int32_t), t.text_bytes);
}

/* One frame of stream i; true at the end of its answer. */
static bool step(int i, struct frame_done *done)
{
    struct stream *s = &streams[i];
    struct raw_frame f;
    bool ended;

    assert_true(raw_next(&s->client, &f));
    if (f.header.type == FRAME_ERROR)
        fail_msg("stream %d: %s", i, raw_rest(&f));
    if (f.header.type == FRAME_TOKENS)
        add_tokens(s, &f);
    ended = f.header.type == FRAME_DONE;
    if (ended)
        raw_fixed(&f, done, sizeof(*done));
    free(f.payload);
    longest_ms = now_ms() - s->last_ms > longest_ms ? now_ms() - s->last_ms : longest_ms;
    s->last_ms = now_ms();
    return ended;
}

static void keep_story(int i, const struct frame_done *done)
{
    struct story *w = &stories[i];

    w->n = streams[i].n;
    w->output_tokens = done->output_tokens;
    memcpy(w->ids, streams[i].ids, sizeof(w->ids));
    memcpy(w->text, streams[i].text, sizeof(w->text));
}

static void check_story(int i, const struct frame_done *done)
{
    const struct story *w = &stories[i];

    if (w->n != streams[i].n || w->output_tokens != done->output_tokens ||
        memcmp(w->ids, streams[i].ids, w->n * sizeof(int32_t)) != 0 ||
        strcmp(w->text, streams[i].text) != 0)
        fail_msg("stream %d, after %u restarts: \"%s\", not \"%s\"", i, done->restarts,
            streams[i].text, w->text);
    answers++;
    restarts += done->restarts;
}

static void kill_one(uint64_t *seed)
{
    pid_t pids[64];
    int n = child_family(server.command.pid, pids, 64);

    if (n > 0 && kill(pids[test_random(seed) % (unsigned)n], SIGKILL) == 0)
        kills++;
}

/* What the server has to say is read, or it would wait for it. */
static void drain_errors(void)
{
    child_read_err(&server.command, "\001", 1);
}

static void read_streams(struct pollfd *p)
{
    struct frame_done done;

    if (poll(p, STREAMS, 20) <= 0)
        return;
    for (int i = 0; i < STREAMS; i++) {
        if (p[i].revents == 0)
            continue;
        do
            if (step(i, &done)) {
                check_story(i, &done);
                begin(i);
            }
        while (streams[i].client.n >= sizeof(struct frame_header));
    }
}

static void no_stream_is_wrong_lost_or_doubled_when_children_are_killed(void **state)
{
    const char *seconds = getenv("QUERN_STRESS_SECONDS");
    uint64_t seed = test_seed(), end, next_kill;
    struct pollfd p[STREAMS];
    struct frame_done done;

    (void)state;
    raw_server_start(&server, (const char *const[]){"--tp", "2", "--threads", "1",
        "--max-restarts", "1000", NULL});
    for (int i = 0; i < STREAMS; i++) {
        raw_connect(&streams[i].client, &server);
        begin(i);
        while (!step(i, &done))
            ;
        keep_story(i, &done);
    }
    longest_ms = 0;
    for (int i = 0; i < STREAMS; i++) {
        p[i] = (struct pollfd){.fd = streams[i].client.fd, .events = POLLIN};
        begin(i);
    }
    end = now_ms() + (seconds != NULL ? strtoull(seconds, NULL, 10) : 20) * 1000;
    next_kill = now_ms() + KILL_MS;
    while (now_ms() < end) {
        read_streams(p);
        drain_errors();
        if (now_ms() < next_kill)
            continue;
        kill_one(&seed);
        next_kill += KILL_MS;
    }
    for (int i = 0; i < STREAMS; i++) {
        while (!step(i, &done))
            ;
        check_story(i, &done);
        raw_close(&streams[i].client);
    }
    kill(server.command.pid, SIGTERM);
    assert_int_equal(child_finish(&server.command, 10000), 0);
    child_free(&server.command);
    print_message("# %u kills, %u answers, all right, over %u restarts in sum; the "
        "longest wait for a frame %llu ms\n", kills, answers, restarts,
        (unsigned long long)longest_ms);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_stream_is_wrong_lost_or_doubled_when_children_are_killed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
