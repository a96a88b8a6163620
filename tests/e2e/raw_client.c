/* raw_client.c - plain blocking sockets with a timeout: slow, and easy to trust. */
#include "tests/e2e/raw_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "quern/log.h"

enum { PATIENCE_S = 30, ROOM_STEP = 1 << 16 };

static int try_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* It says HELLO: a listener whose process was just killed takes connections, too. */
static bool answers(const char *path)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = try_connect(path);
    bool said;
    char byte;

    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    said = recv(fd, &byte, 1, 0) > 0;
    close(fd);
    return said;
}

void raw_server_start_at(struct raw_server *s, const char *const more[])
{
    const char *words[COMMAND_ARGS] = {"serve", "--socket", s->path};
    bool there = false;

    for (int i = 0; more != NULL && more[i] != NULL; i++)
        words[3 + i] = more[i];
    child_start(&s->command, NULL, words, NULL);
    for (int i = 0; i < 2000 && !(there = answers(s->path)); i++)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    assert_true(there);
}

void raw_server_start(struct raw_server *s, const char *const more[])
{
    static int number;

    snprintf(s->path, sizeof(s->path), "%s/quern-raw-%d-%d.socket",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid(), number++);
    raw_server_start_at(s, more);
}

/* What the server said behind the line that it is ready, if it came to that. */
static const char *said_since_ready(const struct raw_server *s)
{
    char ready[512];
    size_t n = (size_t)snprintf(ready, sizeof(ready), "quern: ready on %s\n", s->path);

    return s->command.err + (strncmp(s->command.err, ready, n) == 0 ? n : 0);
}

void raw_server_stop(struct raw_server *s, const char *said)
{
    kill(s->command.pid, SIGTERM);
    assert_int_equal(child_finish(&s->command, 10000), 0);
    assert_string_equal(said_since_ready(s), said);
    assert_int_not_equal(access(s->path, F_OK), 0);
    child_free(&s->command);
}

pid_t raw_server_member(const struct raw_server *s, const char *name)
{
    pid_t pid = child_named(s->command.pid, name);

    if (pid == 0)
        fail_msg("the server has no process %s", name);
    return pid;
}

void raw_connect(struct raw_client *c, const struct raw_server *s)
{
    const struct timeval patience = {.tv_sec = PATIENCE_S};

    *c = (struct raw_client){.fd = try_connect(s->path)};
    assert_true(c->fd >= 0);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

void raw_close(struct raw_client *c)
{
    close(c->fd);
    free(c->mem);
    *c = (struct raw_client){.fd = -1};
}

bool raw_send(struct raw_client *c, const void *bytes, size_t n)
{
    const char *at = bytes;

    while (n > 0) {
        ssize_t sent = send(c->fd, at, n, MSG_NOSIGNAL);

        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("the server took nothing for %d s", PATIENCE_S);
        if (sent < 0)
            return false;
        at += sent;
        n -= (size_t)sent;
    }
    return true;
}

bool raw_send_frame(struct raw_client *c, unsigned type, uint64_t id, const void *payload, size_t n)
{
    struct frame_header h = {.bytes = (uint32_t)n, .type = (uint16_t)type, .id = id};

    return raw_send(c, &h, sizeof(h)) && raw_send(c, payload, n);
}

struct raw_params raw_params(uint32_t prompt, uint32_t max_tokens)
{
    struct raw_params p = {.prompt = prompt};

    RAW_GIVE(p, PARAM_MAX_TOKENS, max_tokens, max_tokens);
    RAW_GIVE(p, PARAM_TEMPERATURE, temperature, 0);
    return p;
}

struct raw_params raw_endless(uint32_t prompt, uint32_t max_tokens)
{
    struct raw_params p = raw_params(prompt, max_tokens);

    RAW_GIVE(p, PARAM_IGNORE_EOS, ignore_eos, 1);
    return p;
}

size_t raw_payload(const struct raw_params *p, size_t prompt_bytes, unsigned char *bytes)
{
    struct frame_submit submit = {.fixed = sizeof(submit), .task = p->task, .prompt = p->prompt,
        .prompt_bytes = (uint32_t)prompt_bytes};

    submit.params_bytes = (uint32_t)params_write(&p->params, bytes + sizeof(submit));
    memcpy(bytes, &submit, sizeof(submit));
    return sizeof(submit) + submit.params_bytes;
}

bool raw_submit(struct raw_client *c, uint64_t id, struct raw_params params, const void *data,
    size_t n)
{
    unsigned char first[RAW_PAYLOAD];
    size_t bytes = raw_payload(&params, n, first);
    struct frame_header h = {.bytes = (uint32_t)(bytes + n), .type = FRAME_SUBMIT, .id = id};

    return raw_send(c, &h, sizeof(h)) && raw_send(c, first, bytes) && raw_send(c, data, n);
}

bool raw_resume(struct raw_client *c, uint64_t id, uint64_t key, uint64_t after)
{
    struct frame_resume resume = {.fixed = sizeof(resume), .key = key, .after = after};

    return raw_send_frame(c, FRAME_RESUME, id, &resume, sizeof(resume));
}

/* At least n bytes are there; false at the end. */
static bool gather(struct raw_client *c, size_t n)
{
    while (c->n < n) {
        ssize_t got;

        if (c->room - c->n < ROOM_STEP) {
            c->mem = realloc(c->mem, c->room += ROOM_STEP + n);
            assert_non_null(c->mem);
        }
        got = recv(c->fd, c->mem + c->n, c->room - c->n, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            fail_msg("the server said nothing for %d s", PATIENCE_S);
        if (got <= 0)
            return false;
        c->n += (size_t)got;
    }
    return true;
}

bool raw_next(struct raw_client *c, struct raw_frame *f)
{
    size_t n = sizeof(f->header);

    if (!gather(c, n))
        return false;
    memcpy(&f->header, c->mem, n);
    assert_true(f->header.bytes <= FRAME_MAX_BYTES);
    if (!gather(c, n + f->header.bytes))
        return false;
    f->payload = calloc(1, f->header.bytes + 1);
    assert_non_null(f->payload);
    memcpy(f->payload, c->mem + n, f->header.bytes);
    n += f->header.bytes;
    memmove(c->mem, c->mem + n, c->n - n);
    c->n -= n;
    return true;
}

void raw_fixed(const struct raw_frame *f, void *out, size_t bytes)
{
    const void *rest;
    size_t rest_bytes;

    if (frame_fixed(&f->header, f->payload, out, bytes, bytes, &rest, &rest_bytes) != STATUS_OK)
        fail_msg("a frame of type %u: %s", f->header.type, log_last_error());
}

const char *raw_rest(const struct raw_frame *f)
{
    uint32_t fixed;

    memcpy(&fixed, f->payload, sizeof(fixed));
    assert_true(fixed <= f->header.bytes);
    return (const char *)f->payload + fixed;
}

/* The text of a TOKENS frame behind what is there; its numbers add up. */
static void add_text(char **text, uint64_t *ids, const struct raw_frame *f)
{
    struct frame_tokens t;
    size_t had = strlen(*text);

    raw_fixed(f, &t, sizeof(t));
    assert_int_equal(f->header.bytes,
        t.fixed + t.n_ids * sizeof(int32_t) + t.text_bytes + t.logprobs_bytes);
    assert_true(*ids == UINT64_MAX || *ids == t.after);
    *ids = t.after + t.n_ids;
    *text = realloc(*text, had + t.text_bytes + 1);
    assert_non_null(*text);
    memcpy(*text + had, raw_rest(f) + t.n_ids * sizeof(int32_t), t.text_bytes);
    (*text)[had + t.text_bytes] = '\0';
}

unsigned raw_answer(struct raw_client *c, uint64_t id, char **text)
{
    struct raw_frame f;
    uint64_t ids = UINT64_MAX; /* from wherever it begins */

    *text = calloc(1, 1);
    for (;;) {
        if (!raw_next(c, &f))
            fail_msg("the connection ended before request %llu did", (unsigned long long)id);
        if (f.header.id == id && f.header.type == FRAME_TOKENS)
            add_text(text, &ids, &f);
        if (f.header.id == id && f.header.type == FRAME_ERROR) {
            free(*text);
            *text = strdup(raw_rest(&f));
        }
        free(f.payload);
        if (f.header.id == id && (f.header.type == FRAME_DONE || f.header.type == FRAME_ERROR))
            return f.header.type;
    }
}

struct raw_frame raw_await(struct raw_client *c, unsigned type)
{
    struct raw_frame f;

    while (raw_next(c, &f)) {
        if (f.header.type == type)
            return f;
        free(f.payload);
    }
    fail_msg("the connection ended before a frame of type %u", type);
    return f;
}

void raw_refused(struct raw_client *c, uint64_t id, enum quern_code code, const char *line)
{
    struct raw_frame f;
    struct frame_error e, right = frame_error_of(code);

    do
        f = raw_await(c, FRAME_ERROR);
    while (f.header.id != id && (free(f.payload), true));
    raw_fixed(&f, &e, sizeof(e));
    if (strstr(raw_rest(&f), line) == NULL || strchr(raw_rest(&f), '\n') != NULL)
        fail_msg("request %llu was told \"%s\", not \"%s\"", (unsigned long long)id, raw_rest(&f),
            line);
    if (e.code != code)
        fail_msg("\"%s\" came with code %u, not %d", raw_rest(&f), e.code, (int)code);
    assert_int_equal(e.fault, right.fault);
    assert_int_equal(e.retry, right.retry);
    free(f.payload);
}

void raw_assert_well(const struct raw_server *s)
{
    struct raw_client c;
    char *text;

    raw_connect(&c, s);
    assert_true(raw_submit(&c, 1, raw_params(PROMPT_TEXT, 12), "Once upon a time", 16));
    assert_int_equal(raw_answer(&c, 1, &text), FRAME_DONE);
    assert_string_equal(text, ", there was a little girl named Lily who loved to play");
    free(text);
    raw_close(&c);
}
