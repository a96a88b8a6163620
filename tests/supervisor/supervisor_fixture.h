/* supervisor_fixture.h - a supervisor that serves, whose clients and children the test plays.
 *
 * A client is one without a socket: what it is told stays in its `out`. Its
 * frames are handed over by submit() and take_cancel(). Nobody is at the other
 * ends of the rings but the test: rank 0 tells through `tokens`, the text
 * worker through `replies`, and so in whatever order they like. */
#ifndef TESTS_SUPERVISOR_FIXTURE_H
#define TESTS_SUPERVISOR_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { FIXTURE_VOCAB = 100, FIXTURE_TOP_K = 20 };

struct fixture {
    struct supervisor sv;
    struct ring tokens, replies; /* the writers' ends */
};

static inline int fixture_open(void **state)
{
    static struct fixture f;
    struct supervisor *sv = &f.sv;

    *sv = (struct supervisor){.state = SUPERVISOR_SERVING, .generation = 1, .text_generation = 1,
        .text_ready = true, .listen_fd = -1, .lock_fd = -1, .spare_fd = -1,
        .signal_fd = -1, .private_fd = -1, .parent_fd = -1, .accept_at_ns = UINT64_MAX,
        .config = {.tp = 1, .max_restarts = 3, .load_timeout_s = 60, .step_timeout_s = 60},
        .facts = {.vocab = FIXTURE_VOCAB, .width = FIXTURE_VOCAB, .hidden = 8, .max_model_len = 1 << 20, .max_seqs = 1 << 20,
            .defaults = {.top_k = FIXTURE_TOP_K}}};
    sv->text_child = (struct child){.sv = sv, .kind = CHILD_TEXT, .state = CHILD_RUNNING, .pidfd = -1};
    for (int i = 0; i < MAX_RANKS; i++)
        sv->ranks[i] = (struct child){.sv = sv, .kind = CHILD_RANK, .rank = i, .pidfd = -1};
    requests_init(sv);
    assert_int_equal(clients_open(sv), STATUS_OK);
    assert_int_equal(loop_open(NULL, &sv->loop), STATUS_OK);
    sv->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_int_equal(shared_create(&sv->config, 1, sv->bell_fd, &sv->shared), STATUS_OK);
    assert_int_equal(text_shared_create(&sv->config, 1, sv->bell_fd, &sv->text), STATUS_OK);
    f.tokens = sv->shared.tokens;
    f.replies = sv->text.replies;
    *state = &f;
    return 0;
}

static inline int fixture_close(void **state)
{
    struct supervisor *sv = &((struct fixture *)*state)->sv;

    loop_close(sv->loop);
    sv->text_child.state = CHILD_ABSENT; /* there never was one */
    children_end(sv);
    requests_free(sv);
    clients_close(sv);
    shared_close(&sv->shared);
    text_shared_close(&sv->text);
    close(sv->bell_fd);
    return 0;
}

#define ON_A_SUPERVISOR(test) cmocka_unit_test_setup_teardown(test, fixture_open, fixture_close)

/* It has been greeted. */
static inline struct client *client_come(struct supervisor *sv)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC); /* nothing is sent: no turn is run */
    struct client *c;

    assert_int_equal(client_refuse(sv, fd, QUERN_CODE_NONE, ""), STATUS_OK);
    c = LIST_OF(sv->clients.prev, struct client, all);
    c->leaving = false;
    c->out.n = 0;
    return c;
}

/* A SUBMIT frame with `n` bytes of prompt. */
static inline void submit(struct client *c, uint64_t number, enum prompt_kind prompt,
    const struct params *p, const void *bytes, size_t n)
{
    struct frame_submit s = {.fixed = sizeof(s), .prompt = prompt, .prompt_bytes = (uint32_t)n};
    struct frame_header h = {.type = FRAME_SUBMIT, .id = number};
    unsigned char *payload = malloc(sizeof(s) + PARAMS_FIRST_BYTES + 4096 + n);

    assert_non_null(payload);
    s.params_bytes = (uint32_t)params_write(p, payload + sizeof(s));
    memcpy(payload, &s, sizeof(s));
    memcpy(payload + sizeof(s) + s.params_bytes, bytes, n);
    h.bytes = (uint32_t)(sizeof(s) + s.params_bytes + n);
    take_submit(c, &h, payload);
    free(payload);
}

static inline struct request *request_of(const struct client *c, uint64_t number)
{
    return hash_map_get(&c->numbers, number);
}

/* The next frame that c was told, taken out of `out`; false: there is none. */
struct told {
    struct frame_header header;
    unsigned char payload[4096]; /* a NUL behind it */
};

static inline bool hear(struct client *c, struct told *t)
{
    size_t n;

    client_send_news(c);
    if (c->out.n == 0)
        return false;
    memcpy(&t->header, c->out.mem, sizeof(t->header));
    n = sizeof(t->header) + t->header.bytes;
    assert_true(n <= c->out.n && t->header.bytes < sizeof(t->payload));
    memcpy(t->payload, c->out.mem + sizeof(t->header), t->header.bytes);
    t->payload[t->header.bytes] = '\0';
    memmove(c->out.mem, c->out.mem + n, c->out.n -= n);
    return true;
}

/* The next frame is of that kind, for that number. */
static inline void hears(struct client *c, struct told *t, enum frame_type type, uint64_t number)
{
    assert_true(hear(c, t));
    if (t->header.type != type || t->header.id != number)
        fail_msg("a frame of type %u for %d came, not %d for %d", t->header.type,
            (int)t->header.id, (int)type, (int)number);
}

/* The next frame refuses that number. */
static inline void hears_error(struct client *c, uint64_t number, enum quern_code code,
    const char *line)
{
    struct frame_error e;
    struct told t;

    hears(c, &t, FRAME_ERROR, number);
    memcpy(&e, t.payload, sizeof(e));
    assert_int_equal(e.code, code);
    if (strstr((char *)t.payload + sizeof(e), line) == NULL)
        fail_msg("told \"%s\", not \"%s\"", (char *)t.payload + sizeof(e), line);
}

static inline void hears_nothing(struct client *c)
{
    struct told t;

    if (hear(c, &t))
        fail_msg("a frame of type %u for %d came, which nobody expects", t.header.type,
            (int)t.header.id);
}

/* Rank 0 says so, and the supervisor hears it. */
static inline void rank_tells_with(struct fixture *f, struct token_msg m,
    const struct token_logprob *logprobs, uint32_t n)
{
    struct shared *g = &f->sv.shared;
    void *slot;

    m.generation = f->sv.generation;
    m.bytes = n * (uint32_t)sizeof(*logprobs);
    if (n > 0) {
        assert_int_equal(ring_buffer_alloc(&g->token_bytes, m.bytes, &m.at, &m.end), STATUS_OK);
        memcpy(ring_buffer_at(&g->token_bytes, m.at, m.bytes), logprobs, m.bytes);
    }
    assert_int_equal(ring_reserve(&f->tokens, &slot), STATUS_OK);
    memcpy(slot, &m, sizeof(m));
    ring_publish(&f->tokens);
    assert_int_equal(ranks_take_tokens(&f->sv), STATUS_OK);
}

static inline void rank_tells(struct fixture *f, struct token_msg m)
{
    rank_tells_with(f, m, NULL, 0);
}

/* The text worker answers with these ids, the last `words` of them its runs of bad words. */
static inline void text_tells_with(struct fixture *f, uint64_t id, const int32_t *ids, uint32_t n,
    uint32_t words)
{
    struct text_shared *g = &f->sv.text;
    struct text_msg m = {.generation = g->generation, .id = id, .bytes = n * (uint32_t)sizeof(*ids),
        .words = words};
    void *slot;

    assert_int_equal(ring_reserve(&f->replies, &slot), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&g->reply_bytes, m.bytes, &m.at, &m.end), STATUS_OK);
    memcpy(ring_buffer_at(&g->reply_bytes, m.at, m.bytes), ids, m.bytes);
    memcpy(slot, &m, sizeof(m));
    ring_publish(&f->replies);
    assert_int_equal(text_take_replies(&f->sv), STATUS_OK);
}

static inline void text_tells(struct fixture *f, uint64_t id, const int32_t *ids, uint32_t n)
{
    text_tells_with(f, id, ids, n, 0);
}

#endif
