/* connection.c - libquern: a socket, what waits to go out, and the end of both.
 *
 * What the socket does not take is kept here, so that no call but those that
 * say so ever waits. A send that fails ends nothing: the server may have said
 * why before it hung up, and that is what the caller is to hear; reading finds
 * the end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/client.h"

enum { OUT_MOST = 32 << 20, MAX_PARTS = 6, GRACE_MS = 5000 };

EXPORT const char *quern_version(void)
{
    return QUERN_VERSION;
}

EXPORT const char *quern_error(const struct quern *q)
{
    return q != NULL ? q->error : log_last_error();
}

EXPORT int quern_error_code(const struct quern *q)
{
    return q != NULL ? q->code : QUERN_CODE_NONE;
}

static int status_out(enum status s)
{
    switch (s) {
    case STATUS_OK: return QUERN_OK;
    case STATUS_AGAIN: return QUERN_AGAIN;
    case STATUS_INVALID: return QUERN_INVALID;
    case STATUS_NOMEM: return QUERN_NOMEM;
    case STATUS_DEAD: return QUERN_DEAD;
    case STATUS_UNKNOWN: return QUERN_UNKNOWN;
    default: return QUERN_IO;
    }
}

int client_failed(struct quern *q, enum status s)
{
    if (q != NULL) {
        memcpy(q->error, log_last_error(), sizeof(q->error));
        q->code = q->fd < 0 && s == q->end_status ? q->end_code
                  : s == STATUS_INVALID           ? QUERN_CODE_BAD_REQUEST
                  : s == STATUS_UNKNOWN           ? QUERN_CODE_UNKNOWN
                                                  : QUERN_CODE_NONE;
    }
    return status_out(s);
}

int client_null(struct quern *q, const char *function)
{
    return client_failed(q, log_fail(STATUS_INVALID, "%s(): a NULL where something is needed",
        function));
}

/* The log ---------------------------------------------------------------------------------- */

static struct {
    void (*log)(void *context, int level, const char *line);
    void *context;
} callback;

static void pass_on(void *context, enum log_level level, const char *line)
{
    (void)context;
    callback.log(callback.context, (int)level, line);
}

EXPORT int quern_log_set(int level, void (*log)(void *context, int level, const char *line),
    void *context)
{
    if (level < QUERN_LOG_ERROR || level > QUERN_LOG_DEBUG)
        return client_failed(NULL, log_fail(STATUS_INVALID, "a log level of %d: they go from %d to "
            "%d", level, QUERN_LOG_ERROR, QUERN_LOG_DEBUG));
    log_set_sink(NULL, NULL);
    callback.log = log;
    callback.context = context;
    log_set_level((enum log_level)level);
    if (log != NULL)
        log_set_sink(pass_on, NULL);
    return QUERN_OK;
}

/* Beginning -------------------------------------------------------------------------------- */

static struct quern *quern_new(void)
{
    struct quern *q = calloc(1, sizeof(*q));

    if (q == NULL) {
        log_fail(STATUS_NOMEM, "no memory for a connection");
        return NULL;
    }
    q->owner = getpid();
    q->fd = q->watch = q->pidfd = q->lines_fd = -1;
    q->end_status = STATUS_DEAD;
    pthread_mutex_init(&q->lock, NULL);
    frame_reader_init(&q->reader);
    frame_reader_init(&q->kept);
    strcpy(q->end, "there is no connection: quern_spawn() or quern_connect() failed");
    q->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return q;
}

/* The fields that every connection needs; it may still fail, with q there to say why. */
static enum status begin(struct quern **out)
{
    struct quern *q = *out = quern_new();

    if (q == NULL)
        return STATUS_NOMEM;
    if (q->bell < 0)
        return log_call_failed(errno, "eventfd", "no connection");
    return STATUS_OK;
}

EXPORT int quern_spawn(const struct quern_options *options, struct quern **out)
{
    enum status s;

    if (out == NULL)
        return client_null(NULL, "quern_spawn");
    s = begin(out);
    if (s == STATUS_OK)
        s = client_spawn(*out, options);
    return s == STATUS_OK ? QUERN_OK : client_failed(*out, s);
}

static enum status open_socket(struct quern *q, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
        return log_fail(STATUS_INVALID, "\"%s\": a socket's path has 1 to %zu bytes", path,
            sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return log_fail(STATUS_IO, "no socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        log_fail(STATUS_IO, "%s: %s: is `quern serve --socket` running there?", path,
            strerror(errno));
        close(fd);
        return STATUS_IO;
    }
    q->fd = fd;
    return STATUS_OK;
}

EXPORT int quern_connect(const char *path, struct quern **out)
{
    enum status s;

    if (out == NULL)
        return client_null(NULL, "quern_connect");
    s = begin(out);
    if (s == STATUS_OK && path == NULL)
        return client_null(*out, "quern_connect");
    if (s == STATUS_OK)
        s = open_socket(*out, path);
    return s == STATUS_OK ? QUERN_OK : client_failed(*out, s);
}

/* Watching --------------------------------------------------------------------------------- */

static void watch_one(struct quern *q, int operation, int fd, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.fd = fd};

    epoll_ctl(q->watch, operation, fd, &e);
}

EXPORT int quern_fd(struct quern *q)
{
    if (q == NULL) {
        client_null(NULL, "quern_fd");
        return -1;
    }
    if (q->watch < 0) {
        int fd = epoll_create1(EPOLL_CLOEXEC);

        if (fd < 0) {
            client_failed(q, log_call_failed(errno, "epoll_create1", "no descriptor to wait on"));
            return -1;
        }
        pthread_mutex_lock(&q->lock);
        q->watch = fd;
        watch_one(q, EPOLL_CTL_ADD, q->bell, EPOLLIN);
        if (q->lines_fd >= 0)
            watch_one(q, EPOLL_CTL_ADD, q->lines_fd, EPOLLIN);
        if (q->fd >= 0)
            watch_one(q, EPOLL_CTL_ADD, q->fd,
                q->out.end > q->out.start ? EPOLLIN | EPOLLOUT : EPOLLIN);
        pthread_mutex_unlock(&q->lock);
        client_tell_bell(q);
    }
    return q->watch;
}

/* Sending ---------------------------------------------------------------------------------- */

/* As much as the socket takes; how many bytes. The lock is held. */
static size_t push(struct quern *q, const struct iovec *parts, size_t n)
{
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = n};
    ssize_t sent;

    do
        sent = sendmsg(q->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno != EAGAIN && errno != ENOBUFS) {
        q->out.broken = true;
        if (errno != EPIPE && errno != ECONNRESET) { /* the other end is there, and would wait */
            q->out.error = errno;
            shutdown(q->fd, SHUT_WR);
        }
    }
    return sent > 0 ? (size_t)sent : 0;
}

static enum status out_reserve(struct outgoing *o, size_t n)
{
    size_t held = o->end - o->start, room = o->room ? o->room : 4096;
    unsigned char *mem;

    if (o->room - o->end >= n)
        return STATUS_OK;
    if (held > 0)
        memmove(o->mem, o->mem + o->start, held);
    o->start = 0;
    o->end = held;
    while (room - held < n)
        room *= 2;
    if (room == o->room)
        return STATUS_OK;
    mem = realloc(o->mem, room);
    if (mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a request of %zu bytes", n);
    o->mem = mem;
    o->room = room;
    return STATUS_OK;
}

/* All bytes of the parts behind the first `skip` of them; there is room. */
static void out_add(struct outgoing *o, const struct iovec *parts, size_t n, size_t skip)
{
    for (size_t i = 0; i < n; i++) {
        size_t left_out = skip < parts[i].iov_len ? skip : parts[i].iov_len;
        size_t bytes = parts[i].iov_len - left_out;

        skip -= left_out;
        if (bytes > 0)
            memcpy(o->mem + o->end, (const char *)parts[i].iov_base + left_out, bytes);
        o->end += bytes;
    }
}

static void out_drop(struct outgoing *o)
{
    free(o->mem);
    o->mem = NULL;
    o->start = o->end = o->room = 0;
}

/* Where nobody reads any more, quern_next() says why. */
static enum status broken(const struct quern *q)
{
    return q->out.error == 0 ? STATUS_OK
                             : log_call_failed(q->out.error, "sendmsg", "cannot ask the runtime");
}

/* The lock is held, the socket open. Room comes first: half a frame must not be lost. */
static enum status send_or_keep(struct quern *q, const struct iovec *parts, size_t n, size_t bytes)
{
    bool waited = q->out.end > q->out.start;
    enum status s;
    size_t sent = 0;

    if (q->out.broken)
        return broken(q);
    if (waited && q->out.end - q->out.start + bytes > OUT_MOST)
        return STATUS_AGAIN;
    if (!waited)
        sent = push(q, parts, n);
    if (q->out.broken)
        return broken(q);
    if (sent == bytes)
        return STATUS_OK;
    s = out_reserve(&q->out, bytes - sent);
    if (s != STATUS_OK && sent > 0) {
        q->out.broken = true;
        shutdown(q->fd, SHUT_WR);
    }
    if (s != STATUS_OK)
        return s;
    out_add(&q->out, parts, n, sent);
    if (!waited && q->watch >= 0)
        watch_one(q, EPOLL_CTL_MOD, q->fd, EPOLLIN | EPOLLOUT);
    if (!waited && eventfd_write(q->bell, 1) != 0) /* a quern_next() that waits is to look again */
        return STATUS_OK;
    return STATUS_OK;
}

enum status client_send(struct quern *q, const struct iovec *parts, size_t n)
{
    size_t bytes = 0;
    enum status s = STATUS_DEAD;

    for (size_t i = 0; i < n; i++)
        bytes += parts[i].iov_len;
    pthread_mutex_lock(&q->lock);
    if (q->fd >= 0)
        s = send_or_keep(q, parts, n, bytes);
    pthread_mutex_unlock(&q->lock);
    return s == STATUS_DEAD ? log_fail(q->end_status, "%s", q->end) : s;
}

bool client_waits(struct quern *q)
{
    bool waits;

    pthread_mutex_lock(&q->lock);
    waits = q->out.end > q->out.start;
    pthread_mutex_unlock(&q->lock);
    return waits;
}

void client_flush(struct quern *q)
{
    struct outgoing *o = &q->out;

    pthread_mutex_lock(&q->lock);
    if (o->end > o->start)
        o->start += push(q, &(struct iovec){o->mem + o->start, o->end - o->start}, 1);
    if (o->broken || o->start == o->end) {
        out_drop(o);
        if (q->watch >= 0)
            watch_one(q, EPOLL_CTL_MOD, q->fd, EPOLLIN);
    }
    pthread_mutex_unlock(&q->lock);
}

/* Ending ----------------------------------------------------------------------------------- */

/* A forked child's copy of the socket would keep the connection, and the watch, alive. */
static void hang_up(struct quern *q)
{
    if (q->watch >= 0)
        epoll_ctl(q->watch, EPOLL_CTL_DEL, q->fd, NULL);
    shutdown(q->fd, SHUT_RDWR);
    close(q->fd);
    q->fd = -1;
    out_drop(&q->out);
}

enum status client_end(struct quern *q, enum status s, int code, const char *why)
{
    pthread_mutex_lock(&q->lock);
    q->end_status = s;
    q->end_code = code;
    if (why != q->end)
        snprintf(q->end, sizeof(q->end), "%s", why);
    hang_up(q);
    pthread_mutex_unlock(&q->lock);
    frame_reader_free(&q->reader); /* no more of what broke the rules, or is half */
    return log_fail(s, "%s", q->end);
}

/* What is the process's own: memory and descriptors. */
static void let_go(struct quern *q)
{
    const int fds[] = {q->fd, q->bell, q->watch, q->pidfd, q->lines_fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    frame_reader_free(&q->reader);
    frame_reader_free(&q->kept);
    free(q->text.mem);
    free(q->ids.mem);
    free(q->logprobs.mem);
    free(q->values.mem);
    free(q->tokenized.mem);
    free(q->stats.mem);
    out_drop(&q->out);
    free(q);
}

EXPORT void quern_close(struct quern *q)
{
    char how[128];

    if (q == NULL)
        return;
    if (q->owner == getpid()) {
        if (q->fd >= 0)
            hang_up(q);
        client_reap(q, GRACE_MS, true, how);
        client_take_lines(q);
        pthread_mutex_destroy(&q->lock);
    }
    let_go(q);
}
