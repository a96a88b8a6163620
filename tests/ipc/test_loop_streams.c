/* test_loop_streams.c - a random course of operations, the same over both rows.
 *
 * A seed makes a script: sends of random sizes on both ends of some streams,
 * bells, timers (some cancelled), turns of random length. Byte i of a stream
 * is a function of the stream and i alone, so a receiver checks each byte as it
 * comes; at the end both rows must have carried the same bytes and ended the
 * same ops. QUERN_TEST_SEED repeats a course. */
#include "loop_fixture.h"

enum { STREAMS = 6, STEPS = 400, SEND_BYTES_MAX = 300000, TIMERS = 4 };

struct stream {
    struct course *course;
    struct loop_op send, recv;
    int number, from, to;
    unsigned char *bytes;                /* of the send under way */
    uint64_t wanted, started, sent, got; /* bytes of the stream, from its start */
    uint64_t hash;
    bool wrong, ended;
};

struct course {
    struct loop *loop;
    uint64_t random;
    struct stream streams[STREAMS];
    struct probe bell, timers[TIMERS];
    int bell_fd, timers_armed;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static unsigned char byte_of(const struct stream *s, uint64_t i)
{
    return (
        unsigned char)(((i + 1) * 0x9e3779b97f4a7c15u + (uint64_t)s->number * 0x85ebca6bu) >> 56);
}

/* Starts the next piece if there is one; its length follows from the position. */
static void stream_push(struct stream *s)
{
    uint64_t bytes = s->wanted - s->started, cut = 1 + s->started * 2654435761u % SEND_BYTES_MAX;

    if (loop_op_active(&s->send) || bytes == 0)
        return;
    bytes = bytes < cut ? bytes : cut;
    s->bytes = realloc(s->bytes, bytes);
    for (uint64_t i = 0; i < bytes; i++)
        s->bytes[i] = byte_of(s, s->started + i);
    s->started += bytes;
    loop_send(s->course->loop, &s->send, s->from, s->bytes, bytes);
}

static void stream_sent(struct loop_op *op, int64_t result)
{
    struct stream *s = op->context;

    s->wrong = s->wrong || result <= 0;
    s->sent += result > 0 ? (uint64_t)result : 0;
    stream_push(s);
}

static void stream_got(struct loop_op *op, int64_t result)
{
    struct stream *s = op->context;

    s->wrong = s->wrong || result < 0 || (result == 0) == loop_op_active(op);
    s->ended = result == 0;
    for (int64_t i = 0; i < result; i++) {
        s->wrong = s->wrong || op->data[i] != byte_of(s, s->got);
        s->hash = (s->hash ^ op->data[i]) * 0x100000001b3u;
        s->got++;
    }
}

static void course_open(struct course *c, struct loop *loop, uint64_t seed)
{
    *c = (struct course){.loop = loop, .random = seed, .bell_fd = eventfd(0, EFD_CLOEXEC)};
    for (int i = 0; i < STREAMS; i += 2) {
        int pair[2];

        stream_pair(pair, next_random(&c->random) % 2 ? SOCK_NONBLOCK : 0);
        for (int j = 0; j < 2; j++) {
            struct stream *s = &c->streams[i + j];

            *s = (struct stream){.course = c,
                .number = i + j,
                .from = pair[j],
                .to = pair[1 - j],
                .hash = 0xcbf29ce484222325u};
            s->send = (struct loop_op){.done = stream_sent, .context = s};
            s->recv = (struct loop_op){.done = stream_got, .context = s};
            loop_recv(loop, &s->recv, s->to);
        }
    }
    probe_init(&c->bell);
    loop_bell(loop, &c->bell.op, c->bell_fd);
    for (int i = 0; i < TIMERS; i++)
        probe_init(&c->timers[i]);
}

static void toggle_timer(struct course *c, struct probe *timer, uint64_t r)
{
    if (loop_op_active(&timer->op)) {
        loop_cancel(c->loop, &timer->op);
        return;
    }
    c->timers_armed++;
    loop_timer(c->loop, &timer->op, now_ns() + (int64_t)(r % (2 * MS)));
}

static void course_step(struct course *c)
{
    uint64_t r = next_random(&c->random), what = r % 8;
    struct stream *s = &c->streams[(r >> 8) % STREAMS];

    r >>= 16;
    if (what < 3) {
        s->wanted += 1 + r % SEND_BYTES_MAX;
        stream_push(s);
    } else if (what == 3)
        ring_bell(c->bell_fd);
    else if (what == 4)
        toggle_timer(c, &c->timers[(r >> 24) % TIMERS], r);
    else
        assert_true(loop_turn(c->loop, what == 5 ? (int64_t)(r % MS / 4) : 0) >= 0);
}

/* Everything wanted goes out, every stream sees its end, all else is cancelled. */
static void course_end(struct course *c)
{
    for (int i = 0; i < STREAMS; i++) {
        while (c->streams[i].sent < c->streams[i].wanted)
            assert_int_equal(loop_turn(c->loop, 10 * SECOND), STATUS_OK);
        shutdown(c->streams[i].from, SHUT_WR);
    }
    for (int i = 0; i < STREAMS; i++)
        turn_until_final(c->loop, &c->streams[i].recv);
    loop_cancel(c->loop, &c->bell.op);
    turn_until_final(c->loop, &c->bell.op);
    for (int i = 0; i < TIMERS; i++)
        turn_until_final(c->loop, &c->timers[i].op);
}

static void course_check(struct course *c)
{
    int finals = 0;

    for (int i = 0; i < STREAMS; i++) {
        struct stream *s = &c->streams[i];

        assert_false(s->wrong);
        assert_true(s->ended);
        assert_int_equal(s->got, s->wanted);
        close(s->from);
        free(s->bytes);
    }
    for (int i = 0; i < TIMERS; i++)
        finals += c->timers[i].finals;
    assert_int_equal(finals, c->timers_armed);
    assert_int_equal(c->bell.finals, 1);
    close(c->bell_fd);
}

/* hashes [STREAMS]: of what each stream carried. */
static void course_run(const char *row, uint64_t seed, uint64_t *hashes)
{
    struct course *c = malloc(sizeof(*c));
    struct loop *loop;

    assert_int_equal(loop_open(row, &loop), STATUS_OK);
    course_open(c, loop, seed);
    for (int i = 0; i < STEPS; i++)
        course_step(c);
    course_end(c);
    course_check(c);
    for (int i = 0; i < STREAMS; i++)
        hashes[i] = c->streams[i].hash;
    loop_close(loop);
    free(c);
}

static uint64_t first_seed(void)
{
    const char *word = getenv("QUERN_TEST_SEED");

    return word != NULL ? strtoull(word, NULL, 0) : (uint64_t)now_ns() | 1;
}

static void random_course_carries_the_same_bytes_over_both_rows(void **state)
{
    uint64_t seed = first_seed(), by_epoll[STREAMS], by_uring[STREAMS];
    struct loop *loop;
    int fds = open_fds();

    (void)state;
    if (loop_open("uring", &loop) != STATUS_OK) {
        print_message("# %s\n", log_last_error());
        skip();
    }
    loop_close(loop);
    for (int round = 0; round < 3; round++, seed += 2) {
        print_message("# QUERN_TEST_SEED=%llu\n", (unsigned long long)seed);
        course_run("epoll", seed, by_epoll);
        course_run("uring", seed, by_uring);
        assert_memory_equal(by_epoll, by_uring, sizeof(by_epoll));
    }
    assert_int_equal(open_fds(), fds);
}

static void random_course_runs_over_epoll(void **state)
{
    uint64_t seed = first_seed(), hashes[STREAMS];

    (void)state;
    print_message("# QUERN_TEST_SEED=%llu\n", (unsigned long long)seed);
    course_run("epoll", seed, hashes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_course_carries_the_same_bytes_over_both_rows),
        cmocka_unit_test(random_course_runs_over_epoll),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
