/* fake_server.h - the other end of a connection, played by the test itself.
 *
 * One thread does for both: a connection is there before it is accepted, and
 * libquern keeps what the socket does not take. */
#ifndef TESTS_CLIENT_FAKE_SERVER_H
#define TESTS_CLIENT_FAKE_SERVER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "msg/frame.h"
#include "msg/params.h"
#include "tests/client/client_support.h"

struct fake {
    int fd; /* the server's end */
    struct quern *q;
};

static inline void fake_send(struct fake *f, const void *bytes, size_t n)
{
    assert_int_equal(send(f->fd, bytes, n, MSG_NOSIGNAL), n);
}

/* A frame of a fixed part and a rest. */
static inline void fake_frame(struct fake *f, unsigned type, uint64_t id, const void *fixed,
    size_t fixed_bytes, const void *rest, size_t rest_bytes)
{
    struct frame_header h = {
        .bytes = (uint32_t)(fixed_bytes + rest_bytes), .type = (uint16_t)type, .id = id};

    fake_send(f, &h, sizeof(h));
    if (fixed_bytes > 0)
        fake_send(f, fixed, fixed_bytes);
    if (rest_bytes > 0)
        fake_send(f, rest, rest_bytes);
}

static inline void fake_hello(struct fake *f, uint32_t protocol)
{
    struct frame_hello hello = {.fixed = sizeof(hello), .protocol = protocol, .generation = 3};

    fake_frame(f, FRAME_HELLO, 0, &hello, sizeof(hello), "9.9", 3);
}

/* Ids 1, 2, ... behind the first `after`, and a text. */
static inline void fake_tokens(struct fake *f, uint64_t id, uint64_t after, uint32_t n,
    const char *text)
{
    struct frame_tokens t = {.fixed = sizeof(t), .after = after, .n_ids = n,
        .text_bytes = (uint32_t)strlen(text)};
    char rest[1024];

    for (uint32_t i = 0; i < n; i++)
        memcpy(rest + i * sizeof(int32_t), &(int32_t){(int32_t)(after + i + 1)}, sizeof(int32_t));
    memcpy(rest + n * sizeof(int32_t), text, t.text_bytes);
    fake_frame(f, FRAME_TOKENS, id, &t, sizeof(t), rest, n * sizeof(int32_t) + t.text_bytes);
}

static inline void fake_done(struct fake *f, uint64_t id, uint32_t finish)
{
    struct frame_done d = {.fixed = sizeof(d), .finish = finish, .prompt_tokens = 4,
        .output_tokens = 7, .restarts = 2, .first_token_ns = 1500000000, .total_ns = 2500000000};

    fake_frame(f, FRAME_DONE, id, &d, sizeof(d), NULL, 0);
}

static inline void fake_error(struct fake *f, uint64_t id, uint32_t code, const char *line)
{
    struct frame_error e = frame_error_of(code);

    fake_frame(f, FRAME_ERROR, id, &e, sizeof(e), line, strlen(line));
}

/* Exactly n bytes of what the client sent. */
static inline void fake_read(struct fake *f, void *bytes, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t more = recv(f->fd, (char *)bytes + got, n - got, 0);

        assert_true(more > 0);
        got += (size_t)more;
    }
}

struct submitted {
    struct frame_header h;
    struct frame_submit f;
    struct params params;
    char prompt[64];
};

/* The next frame, which is a SUBMIT. */
static inline struct submitted fake_submitted(struct fake *f)
{
    struct submitted s = {0};
    char params[PARAMS_FIRST_BYTES];

    fake_read(f, &s.h, sizeof(s.h));
    assert_int_equal(s.h.type, FRAME_SUBMIT);
    fake_read(f, &s.f, sizeof(s.f));
    assert_int_equal(s.f.fixed, sizeof(s.f));
    assert_int_equal(s.h.bytes, sizeof(s.f) + s.f.params_bytes + s.f.prompt_bytes);
    assert_true(s.f.params_bytes <= sizeof(params) && s.f.prompt_bytes <= sizeof(s.prompt));
    fake_read(f, params, s.f.params_bytes);
    assert_int_equal(params_read(params, s.f.params_bytes, &s.params), STATUS_OK);
    fake_read(f, s.prompt, s.f.prompt_bytes);
    return s;
}

/* A connection without a word; the client's calls are to come. */
static inline struct fake fake_silent(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = 20};
    static int number;
    struct fake f;
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/quern-fake-%d-%d.socket",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid(), number++);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(quern_connect(address.sun_path, &f.q), QUERN_OK);
    f.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(f.fd >= 0);
    setsockopt(f.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    close(listener);
    unlink(address.sun_path);
    return f;
}

/* One that has begun as it should. */
static inline struct fake fake_open(void)
{
    struct fake f = fake_silent();

    fake_hello(&f, PROTOCOL_VERSION);
    return f;
}

static inline void fake_close(struct fake *f)
{
    quern_close(f->q);
    if (f->fd >= 0)
        close(f->fd);
}

#endif
