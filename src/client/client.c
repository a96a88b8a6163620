/* client.c - libquern: frames out, events in.
 *
 * Nothing is buffered beyond the frame being read: the socket is the queue,
 * so a program that stops asking slows its own stream and no other. */
#include "client/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT const char *quern_version(void)
{
    return QUERN_VERSION;
}

EXPORT const char *quern_error(const struct quern *q)
{
    return q != NULL ? q->error : "no memory for a connection";
}

EXPORT int quern_fd(const struct quern *q)
{
    return q->fd;
}

int client_failed(struct quern *q, enum status s)
{
    static const int codes[] = {
        [-STATUS_INVALID] = QUERN_INVALID,
        [-STATUS_IO] = QUERN_IO,
        [-STATUS_NOMEM] = QUERN_NOMEM,
        [-STATUS_DEAD] = QUERN_DEAD,
        [-STATUS_TIMEOUT] = QUERN_IO,
        [-STATUS_INTERRUPTED] = QUERN_IO,
        [-STATUS_INTERNAL] = QUERN_IO,
    };

    strcpy(q->error, log_last_error());
    return codes[-(int)s];
}

static struct quern *quern_new(void)
{
    struct quern *q = calloc(1, sizeof(*q));

    if (q == NULL)
        return NULL;
    q->fd = q->pidfd = -1;
    frame_reader_init(&q->reader);
    strcpy(q->end, "there is no connection: quern_spawn() or quern_connect() failed");
    return q;
}

EXPORT int quern_spawn(const struct quern_options *options, struct quern **out)
{
    static const struct quern_options defaults = {.size = sizeof(defaults)};
    struct quern *q = *out = quern_new();
    enum status s;

    if (q == NULL)
        return QUERN_NOMEM;
    if (options == NULL)
        options = &defaults;
    if (options->size != sizeof(*options))
        return client_failed(q, log_fail(STATUS_INVALID,
            "quern_options.size is %zu, this libquern's is %zu: set it to sizeof(struct "
            "quern_options) and compile against the same version", options->size, sizeof(*options)));
    s = client_spawn(q, options);
    return s == STATUS_OK ? QUERN_OK : client_failed(q, s);
}

EXPORT int quern_connect(const char *path, struct quern **out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct quern *q = *out = quern_new();
    int fd;

    if (q == NULL)
        return QUERN_NOMEM;
    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
        return client_failed(q, log_fail(STATUS_INVALID,
            "\"%s\": a socket's path has 1 to %zu bytes", path, sizeof(address.sun_path) - 1));
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return client_failed(q, log_fail(STATUS_IO, "no socket: %s", strerror(errno)));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        log_fail(STATUS_IO, "%s: %s: is `quern serve --socket` running there?", path, strerror(errno));
        close(fd);
        return client_failed(q, STATUS_IO);
    }
    q->fd = fd;
    return QUERN_OK;
}

EXPORT void quern_request_init(struct quern_request *r)
{
    *r = (struct quern_request){.temperature = -1, .top_p = -1, .min_p = -1, .top_k = -1};
}

/* The other end is gone: finds out why, once, and says so for good. */
static enum status lost(struct quern *q)
{
    char how[128] = "";

    if (q->fd >= 0) {
        close(q->fd);
        q->fd = -1;
        client_reap(q, how);
        snprintf(q->end, sizeof(q->end), "the quern runtime %s",
            how[0] ? how : "closed the connection");
    }
    return log_fail(STATUS_DEAD, "%s", q->end);
}

static enum status send_all(struct quern *q, const struct iovec *parts, size_t n)
{
    struct iovec left[3];
    struct msghdr message = {.msg_iov = left, .msg_iovlen = n};

    if (q->fd < 0)
        return lost(q);
    memcpy(left, parts, n * sizeof(*parts));
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(q->fd, &message, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return lost(q);
        for (; message.msg_iovlen > 0 && (size_t)sent >= message.msg_iov->iov_len;
             message.msg_iov++, message.msg_iovlen--)
            sent -= (ssize_t)message.msg_iov->iov_len;
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
            message.msg_iov->iov_len -= (size_t)sent;
        }
    }
    return STATUS_OK;
}

/* What of text, ids, messages is given; INVALID unless exactly one is. */
static enum status request_data(const struct quern_request *r, uint32_t *kind, struct iovec *data)
{
    int given = (r->text != NULL) + (r->ids != NULL) + (r->messages != NULL);

    if (given != 1)
        return log_fail(STATUS_INVALID, "a request has %d of text, ids and messages: give one",
            given);
    if (r->text != NULL) {
        *kind = SUBMIT_TEXT;
        data->iov_base = (void *)r->text;
        data->iov_len = r->text_bytes ? r->text_bytes : strlen(r->text);
    } else if (r->ids != NULL) {
        *kind = SUBMIT_IDS;
        data->iov_base = (void *)r->ids;
        data->iov_len = r->n_ids < FRAME_MAX_BYTES ? r->n_ids * sizeof(*r->ids) : r->n_ids;
    } else {
        *kind = SUBMIT_CHAT;
        data->iov_base = (void *)r->messages;
        data->iov_len = strlen(r->messages);
    }
    if (data->iov_len > FRAME_MAX_BYTES - sizeof(struct frame_submit))
        return log_fail(STATUS_INVALID, "a prompt of %zu bytes is larger than the protocol's %d",
            data->iov_len, FRAME_MAX_BYTES);
    return STATUS_OK;
}

EXPORT int quern_submit(struct quern *q, const struct quern_request *r, uint64_t *id)
{
    struct frame_submit submit = {
        .flags = (r->has_seed ? SUBMIT_HAS_SEED : 0u) | (r->ignore_eos ? SUBMIT_IGNORE_EOS : 0u),
        .max_tokens = r->max_tokens > 0 ? (uint32_t)r->max_tokens : 256,
        .top_k = r->top_k,
        .temperature = r->temperature,
        .top_p = r->top_p,
        .min_p = r->min_p,
        .seed = r->seed,
    };
    struct frame_header header = {.type = FRAME_SUBMIT, .id = q->last_id + 1};
    struct iovec parts[3] = {{&header, sizeof(header)}, {&submit, sizeof(submit)}, {0}};
    enum status s = request_data(r, &submit.kind, &parts[2]);

    if (s == STATUS_OK) {
        header.bytes = (uint32_t)(sizeof(submit) + parts[2].iov_len);
        s = send_all(q, parts, 3);
    }
    if (s != STATUS_OK)
        return client_failed(q, s);
    *id = ++q->last_id;
    return QUERN_OK;
}

EXPORT int quern_cancel(struct quern *q, uint64_t id)
{
    struct frame_header header = {.type = FRAME_CANCEL, .id = id};
    enum status s = send_all(q, &(struct iovec){&header, sizeof(header)}, 1);

    return s == STATUS_OK ? QUERN_OK : client_failed(q, s);
}

/* Events ----------------------------------------------------------------------------------- */

static enum status keep_text(struct quern *q, const void *text, size_t n, struct quern_event *e)
{
    if (n + 1 > q->text_room) {
        char *mem = realloc(q->text, n + 1);

        if (mem == NULL)
            return log_fail(STATUS_NOMEM, "no memory for %zu bytes of text", n);
        q->text = mem;
        q->text_room = n + 1;
    }
    memcpy(q->text, text, n);
    q->text[n] = '\0';
    e->text = q->text;
    e->text_bytes = n;
    return STATUS_OK;
}

static enum status keep_ids(struct quern *q, const void *ids, size_t n, struct quern_event *e)
{
    if (n > q->ids_room) {
        int32_t *mem = realloc(q->ids, n * sizeof(*mem));

        if (mem == NULL)
            return log_fail(STATUS_NOMEM, "no memory for %zu ids", n);
        q->ids = mem;
        q->ids_room = n;
    }
    if (n > 0)
        memcpy(q->ids, ids, n * sizeof(*q->ids));
    e->ids = q->ids;
    e->n_ids = n;
    return STATUS_OK;
}

static enum status event_tokens(struct quern *q, const struct frame_header *h, const void *payload,
    struct quern_event *e)
{
    struct frame_tokens t;
    enum status s = frame_fixed(h, payload, &t, sizeof(t));
    const char *ids = (const char *)payload + sizeof(t);

    if (s != STATUS_OK)
        return s;
    if (h->bytes - sizeof(t) != (uint64_t)t.n_ids * sizeof(int32_t) + t.text_bytes)
        return log_fail(STATUS_INVALID, "the server's frame of %u ids and %u bytes of text has %u",
            t.n_ids, t.text_bytes, h->bytes);
    e->kind = QUERN_EVENT_TEXT;
    s = keep_ids(q, ids, t.n_ids, e);
    return s == STATUS_OK ? keep_text(q, ids + t.n_ids * sizeof(int32_t), t.text_bytes, e) : s;
}

static enum status event_done(const struct frame_header *h, const void *payload,
    struct quern_event *e)
{
    struct frame_done d;
    enum status s = frame_fixed(h, payload, &d, sizeof(d));

    if (s != STATUS_OK)
        return s;
    if (d.finish > QUERN_FINISH_CANCELLED)
        return log_fail(STATUS_INVALID, "the server's end %u of a request is none this libquern "
            "knows: use the same version of both", d.finish);
    e->kind = QUERN_EVENT_DONE;
    e->finish = (enum quern_finish)d.finish;
    e->prompt_tokens = d.prompt_tokens;
    e->output_tokens = d.output_tokens;
    e->first_token_s = (double)d.first_token_ns * 1e-9;
    e->total_s = (double)d.total_ns * 1e-9;
    return STATUS_OK;
}

static enum status event_loading(const struct frame_header *h, const void *payload,
    struct quern_event *e)
{
    struct frame_loading l;
    enum status s = frame_fixed(h, payload, &l, sizeof(l));

    if (s != STATUS_OK)
        return s;
    e->kind = QUERN_EVENT_LOADING;
    e->progress = l.total > 0 ? (float)((double)l.loaded / (double)l.total) : 0;
    return STATUS_OK;
}

static enum status check_hello(const struct frame_header *h, const void *payload)
{
    struct frame_hello hello;
    enum status s = frame_fixed(h, payload, &hello, sizeof(hello));

    if (s == STATUS_OK && hello.protocol != PROTOCOL_VERSION)
        s = log_fail(STATUS_INVALID, "the server speaks protocol %u, this libquern %d: use the same "
            "version of both", hello.protocol, PROTOCOL_VERSION);
    return s;
}

/* AGAIN for a frame that is no event: a HELLO, or one of a later version. */
static enum status to_event(struct quern *q, const struct frame_header *h, const void *payload,
    struct quern_event *e)
{
    enum status s;

    *e = (struct quern_event){.id = h->id};
    switch (h->type) {
    case FRAME_HELLO:
        s = check_hello(h, payload);
        return s == STATUS_OK ? STATUS_AGAIN : s;
    case FRAME_LOADING: return event_loading(h, payload, e);
    case FRAME_READY: e->kind = QUERN_EVENT_READY; return STATUS_OK;
    case FRAME_TOKENS: return event_tokens(q, h, payload, e);
    case FRAME_DONE: return event_done(h, payload, e);
    case FRAME_ERROR:
        e->kind = QUERN_EVENT_ERROR;
        return keep_text(q, payload, h->bytes, e);
    default: return STATUS_AGAIN;
    }
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* OK: bytes came. AGAIN: the time is up, or a signal handler ran. */
static enum status receive(struct quern *q, int timeout_ms)
{
    struct pollfd p = {.fd = q->fd, .events = POLLIN};
    char bytes[16 << 10];
    ssize_t n;

    if (q->fd < 0)
        return lost(q);
    if (poll(&p, 1, timeout_ms) <= 0)
        return STATUS_AGAIN;
    n = recv(q->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return STATUS_AGAIN;
    if (n <= 0)
        return lost(q);
    return frame_reader_feed(&q->reader, bytes, (size_t)n);
}

EXPORT int quern_next(struct quern *q, int timeout_ms, struct quern_event *event)
{
    int64_t deadline = timeout_ms >= 0 ? now_ms() + timeout_ms : 0;
    struct frame_header header;
    const void *payload;
    enum status s;

    for (;;) {
        while ((s = frame_reader_next(&q->reader, &header, &payload)) == STATUS_OK) {
            s = to_event(q, &header, payload, event);
            if (s == STATUS_OK)
                return QUERN_OK;
            if (s != STATUS_AGAIN)
                return client_failed(q, s);
        }
        if (s == STATUS_AGAIN) {
            int64_t left = timeout_ms < 0 ? -1 : deadline - now_ms();

            s = receive(q, left < 0 && timeout_ms >= 0 ? 0 : (int)left);
        }
        if (s == STATUS_AGAIN)
            return QUERN_AGAIN;
        if (s != STATUS_OK)
            return client_failed(q, s);
    }
}

EXPORT void quern_close(struct quern *q)
{
    char how[128];

    if (q == NULL)
        return;
    if (q->fd >= 0)
        close(q->fd);
    q->fd = -1;
    client_reap(q, how);
    frame_reader_free(&q->reader);
    free(q->text);
    free(q->ids);
    free(q);
}
