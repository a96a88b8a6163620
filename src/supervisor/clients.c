/* clients.c - sockets: frames in, frames out.
 *
 * A client's frames gather in `out` while the turn runs and leave in one send;
 * what gathers meanwhile waits for that send. A client that does not read is
 * let go when too much waits for it. A frame that breaks the protocol ends its
 * connection and nothing else. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { MOST_WAITING = 64 << 20 };

void client_frame(struct client *c, enum frame_type type, uint64_t id, const void *fixed,
    size_t fixed_bytes, const void *more, size_t more_bytes)
{
    struct frame_header h = {
        .bytes = (uint32_t)(fixed_bytes + more_bytes), .type = (uint16_t)type, .id = id};

    if (c->leaving)
        return;
    if (c->out.n + c->sending.n > MOST_WAITING || bytes_add(&c->out, &h, sizeof(h)) != STATUS_OK ||
        bytes_add(&c->out, fixed, fixed_bytes) != STATUS_OK ||
        bytes_add(&c->out, more, more_bytes) != STATUS_OK) {
        log_warn("a client is let go: it does not read what it asked for");
        c->leaving = c->let_go = true;
    }
}

void client_error(struct client *c, uint64_t id, const char *line)
{
    client_frame(c, FRAME_ERROR, id, line, strlen(line), NULL, 0);
}

void clients_tell(struct supervisor *sv, enum frame_type type, const void *fixed, size_t bytes)
{
    for (struct client *c = sv->clients; c != NULL; c = c->next)
        client_frame(c, type, 0, fixed, bytes, NULL, 0);
}

static void take_submit(struct client *c, const struct frame_header *h, const void *payload)
{
    struct frame_submit submit;

    if (frame_fixed(h, payload, &submit, sizeof(submit)) != STATUS_OK || h->id == 0) {
        client_error(c, 0, h->id == 0 ? "a SUBMIT frame has no request number" : log_last_error());
        c->leaving = true;
        return;
    }
    request_submit(c, h->id, &submit, (const char *)payload + sizeof(submit),
        h->bytes - sizeof(submit));
}

static void take_frame(struct client *c, const struct frame_header *h, const void *payload)
{
    char line[64];

    switch (h->type) {
    case FRAME_SUBMIT: take_submit(c, h, payload); return;
    case FRAME_CANCEL: request_cancel(c, h->id); return;
    case FRAME_RESUME:
        client_error(c, h->id, "resume: nothing is kept of this request, submit it again");
        return;
    default:
        snprintf(line, sizeof(line), "a frame of type %u is none a client sends", h->type);
        client_error(c, 0, line);
        c->leaving = true;
    }
}

static void take_bytes(struct client *c, const void *bytes, size_t n)
{
    struct frame_header h;
    const void *payload;
    enum status s = frame_reader_feed(&c->reader, bytes, n);

    while (s == STATUS_OK && !c->leaving) {
        s = frame_reader_next(&c->reader, &h, &payload);
        if (s == STATUS_OK)
            take_frame(c, &h, payload);
    }
    if (s < STATUS_OK) {
        client_error(c, 0, log_last_error());
        c->leaving = true;
    }
}

/* Out of the requests' sight; freed by clients_flush() once no operation is under way. */
static void client_leave(struct client *c)
{
    struct supervisor *sv = c->sv;

    c->leaving = true;
    requests_orphan(c);
    if (sv->private_fd == c->fd)
        supervisor_stop(sv);
}

static void on_recv(struct loop_op *op, int64_t result)
{
    struct client *c = op->context;

    if (result > 0) {
        if (!c->leaving)
            take_bytes(c, op->data, (size_t)result);
        return;
    }
    client_leave(c);
}

static void on_send(struct loop_op *op, int64_t result)
{
    struct client *c = op->context;

    c->sending.n = 0;
    if (result < 0)
        c->leaving = true;
}

static void client_send(struct client *c)
{
    struct bytes swap = c->sending;

    if (c->out.n == 0 || loop_op_active(&c->send))
        return;
    c->sending = c->out;
    c->out = swap;
    c->out.n = 0;
    loop_send(c->sv->loop, &c->send, c->fd, c->sending.mem, c->sending.n);
}

static void client_free(struct client *c)
{
    close(c->fd);
    frame_reader_free(&c->reader);
    bytes_free(&c->out);
    bytes_free(&c->sending);
    free(c);
}

void clients_flush(struct supervisor *sv)
{
    struct client **at = &sv->clients;

    while (*at != NULL) {
        struct client *c = *at;

        if (!c->let_go)
            client_send(c); /* a leaving client's last words, too */
        if (!c->leaving) {
            at = &c->next;
            continue;
        }
        requests_orphan(c);
        if (c->let_go)
            loop_cancel(sv->loop, &c->send);
        if (c->let_go || !loop_op_active(&c->send))
            loop_cancel(sv->loop, &c->recv);
        if (loop_op_active(&c->send) || loop_op_active(&c->recv)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        client_free(c);
        if (sv->listen_fd >= 0 && !loop_op_active(&sv->accept)) /* it had run out of descriptors */
            loop_accept(sv->loop, &sv->accept, sv->listen_fd);
    }
}

enum status client_add(struct supervisor *sv, int fd)
{
    struct client *c = calloc(1, sizeof(*c));
    struct frame_hello hello = {
        .protocol = PROTOCOL_VERSION, .generation = sv->shared.control->generation};

    if (c == NULL)
        return log_fail(STATUS_NOMEM, "no memory for another client");
    c->sv = sv;
    c->fd = fd;
    c->recv.done = on_recv;
    c->send.done = on_send;
    c->recv.context = c->send.context = c;
    frame_reader_init(&c->reader);
    c->next = sv->clients;
    sv->clients = c;
    client_frame(c, FRAME_HELLO, 0, &hello, sizeof(hello), NULL, 0);
    if (sv->state == SUPERVISOR_SERVING)
        client_frame(c, FRAME_READY, 0,
            &(struct frame_ready){.vocab = sv->shared.control->facts.vocab,
                .max_model_len = sv->shared.control->facts.max_model_len},
            sizeof(struct frame_ready), NULL, 0);
    loop_recv(sv->loop, &c->recv, fd);
    return STATUS_OK;
}

static void on_accept(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;

    if (result >= 0 && client_add(sv, (int)result) != STATUS_OK)
        close((int)result);
    if (!loop_op_active(op) && result != -ECANCELED) {
        log_warn("no more connections can be taken now: %s", strerror((int)-result));
        if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS)
            return; /* armed again when a client leaves */
        supervisor_fail(sv, "the socket cannot accept any more");
    }
}

/* A refusal says that nobody does; a server with a full queue (EAGAIN) or of another user (EACCES)
 * is there. So is one that takes the connection, unless it hangs up without a word: then it has
 * been killed, and the kernel is about to close its socket. */
static bool somebody_listens(const struct sockaddr_un *address)
{
    const struct timespec nap = {.tv_nsec = 20000000};
    char byte;

    for (int tries = 0; tries < 50; tries++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        bool there;

        if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
            there = fd < 0 || errno != ECONNREFUSED;
            close(fd);
            return there;
        }
        there = poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 1000) <= 0 ||
                recv(fd, &byte, 1, 0) > 0;
        close(fd);
        if (there)
            return true;
        nanosleep(&nap, NULL);
    }
    return true;
}

/* A socket file that nobody listens on is left from a killed server: it goes. */
static enum status remove_stale(const char *path, const struct sockaddr_un *address)
{
    struct stat st;

    if (lstat(path, &st) != 0)
        return STATUS_OK;
    if (!S_ISSOCK(st.st_mode))
        return log_fail(STATUS_INVALID, "%s: there is a file that is no socket: choose another path",
            path);
    if (somebody_listens(address))
        return log_fail(STATUS_INVALID, "%s: another server listens there: choose another path", path);
    unlink(path);
    return STATUS_OK;
}

enum status clients_listen(struct supervisor *sv, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    enum status s;

    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
        return log_fail(STATUS_INVALID, "--socket \"%s\": a socket's path has 1 to %zu bytes", path,
            sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    s = remove_stale(path, &address);
    if (s != STATUS_OK)
        return s;
    sv->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* fchmod() before bind(): the file is the owner's alone from its first moment on */
    if (sv->listen_fd < 0 || fchmod(sv->listen_fd, S_IRUSR | S_IWUSR) != 0 ||
        bind(sv->listen_fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    sv->socket_path = path;
    if (lstat(path, &st) == 0) {
        sv->socket_dev = st.st_dev;
        sv->socket_ino = st.st_ino;
    }
    if (listen(sv->listen_fd, 128) != 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    sv->accept.done = on_accept;
    sv->accept.context = sv;
    loop_accept(sv->loop, &sv->accept, sv->listen_fd);
    return STATUS_OK;
}

/* After loop_close(): nothing is under way any more. */
void clients_close(struct supervisor *sv)
{
    struct stat st;

    while (sv->clients != NULL) {
        struct client *c = sv->clients;

        sv->clients = c->next;
        client_free(c);
    }
    if (sv->socket_path != NULL && lstat(sv->socket_path, &st) == 0 &&
        st.st_dev == sv->socket_dev && st.st_ino == sv->socket_ino)
        unlink(sv->socket_path);
    if (sv->listen_fd >= 0)
        close(sv->listen_fd);
}
