/* receive.c - libquern: waiting for frames.
 *
 * Nothing is taken from the socket before it is asked for: the socket is the
 * queue, so a program that stops asking slows its own streams and no other.
 * What poll(2) of the socket cannot show (whole frames read with others, the
 * connection's end, quern_wake()) the bell does. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#include "client/client.h"

enum { READ_BYTES = 32 << 10, END_MS = 500 };

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

struct patience client_patience(int timeout_ms)
{
    return (struct patience){.forever = timeout_ms < 0,
        .end_ms = timeout_ms < 0 ? 0 : now_ms() + timeout_ms};
}

int client_left_ms(struct patience p)
{
    int64_t left = p.forever ? -1 : p.end_ms - now_ms();

    return p.forever ? -1 : left > 0 ? (int)left : 0;
}

/* The bell ---------------------------------------------------------------------------------- */

EXPORT int quern_wake(struct quern *q)
{
    int saved = errno; /* a signal handler's caller has it */

    if (q == NULL)
        return QUERN_INVALID;
    atomic_store(&q->woken, true);
    eventfd_write(q->bell, 1);
    errno = saved;
    return QUERN_OK;
}

static void clear_bell(struct quern *q)
{
    eventfd_t count;

    eventfd_read(q->bell, &count);
    q->rung = false;
    if (atomic_load(&q->woken)) { /* the count that is gone was its */
        eventfd_write(q->bell, 1);
        q->rung = true;
    }
}

/* quern_wake() was called, and is answered herewith. Its count may still come: then the bell is
 * found to have rung for nothing. */
static bool was_woken(struct quern *q)
{
    if (!atomic_load_explicit(&q->woken, memory_order_relaxed)) /* seen later, then: it rings */
        return false;
    atomic_store(&q->woken, false);
    clear_bell(q);
    return true;
}

void client_tell_bell(struct quern *q)
{
    bool ready = q->fd < 0 || frame_reader_ready(&q->kept) || frame_reader_ready(&q->reader);

    if (q->watch < 0)
        return;
    if (ready && !q->rung)
        q->rung = eventfd_write(q->bell, 1) == 0;
    else if (!ready && q->rung)
        clear_bell(q);
}

/* Frames ------------------------------------------------------------------------------------ */

/* The other end is gone: finds out why, once, and says so for good. What it said itself at the
 * end counts more. */
static enum status lost(struct quern *q)
{
    char how[128] = "", why[256];

    if (q->end_code != QUERN_CODE_NONE)
        return client_end(q, STATUS_DEAD, q->end_code, q->end);
    client_reap(q, END_MS, false, how);
    client_take_lines(q);
    snprintf(why, sizeof(why), "the quern runtime %s", how[0] ? how : "closed the connection");
    return client_end(q, STATUS_DEAD, QUERN_CODE_NONE, why);
}

/* OK: bytes came. AGAIN: none did, after all. */
static enum status take(struct quern *q)
{
    char bytes[READ_BYTES];
    ssize_t n = recv(q->fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return STATUS_AGAIN;
    if (n <= 0)
        return lost(q);
    return frame_reader_feed(&q->reader, bytes, (size_t)n);
}

/* A server that has said why the connection ends may wait for us to hang up; what it says of
 * requests behind that comes at once. */
static bool says_no_more(const struct quern *q)
{
    return q->end_code != QUERN_CODE_NONE && client_left_ms(q->last_words) == 0;
}

static int wait_ms(const struct quern *q, struct patience p)
{
    int left = client_left_ms(p), last = client_left_ms(q->last_words);

    return q->end_code != QUERN_CODE_NONE && (p.forever || last < left) ? last : left;
}

/* OK: bytes came. AGAIN: the time is up, or we are woken. */
static enum status receive(struct quern *q, struct patience p)
{
    for (;;) {
        struct pollfd fds[3] = {{.fd = q->fd, .events = POLLIN}, {.fd = q->bell, .events = POLLIN},
            {.fd = q->lines_fd, .events = POLLIN}}; /* below 0: passed over */
        enum status s;
        int n;

        if (was_woken(q))
            return STATUS_AGAIN;
        if (q->fd < 0)
            return log_fail(q->end_status, "%s", q->end);
        if (client_waits(q))
            fds[0].events |= POLLOUT;
        n = poll(fds, 3, wait_ms(q, p));
        if (n < 0 && errno != EINTR)
            return log_call_failed(errno, "poll", "cannot wait for the runtime");
        if (n == 0)
            return says_no_more(q) ? lost(q) : STATUS_AGAIN;
        if (n < 0)
            continue;
        if (fds[1].revents != 0)
            clear_bell(q);
        if (fds[2].revents != 0)
            client_take_lines(q);
        if (fds[0].revents & POLLOUT)
            client_flush(q);
        if (fds[0].revents & ~POLLOUT && (s = take(q)) != STATUS_AGAIN)
            return s;
    }
}

/* An ERROR about the connection is why it ends, whatever the socket says then. */
static void heed_end(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_error e;
    const void *line;
    size_t n;

    if (frame_fixed(h, payload, &e, sizeof(e), ERROR_LEAST, &line, &n) != STATUS_OK)
        return; /* an event will be made of it, and refused */
    q->end_code = (int)e.code;
    q->last_words = client_patience(END_MS);
    snprintf(q->end, sizeof(q->end), "%.*s", (int)n, (const char *)line);
}

enum status client_next_frame(struct quern *q, bool kept, struct patience p, struct frame_header *h,
    const void **payload)
{
    if (kept && frame_reader_next(&q->kept, h, payload) == STATUS_OK)
        return STATUS_OK;
    for (;;) {
        enum status s = frame_reader_next(&q->reader, h, payload);

        if (s < STATUS_OK && q->fd < 0)
            return log_fail(q->end_status, "%s", q->end);
        if (s < STATUS_OK)
            return client_end(q, s, QUERN_CODE_BAD_FRAME, log_last_error());
        if (s == STATUS_OK) {
            if (h->type == FRAME_ERROR && h->id == 0)
                heed_end(q, h, *payload);
            return s;
        }
        s = receive(q, p);
        if (s != STATUS_OK)
            return s;
    }
}

static enum status next_event(struct quern *q, struct patience p)
{
    struct frame_header header;
    const void *payload;
    enum status s;

    do {
        s = client_next_frame(q, true, p, &header, &payload);
        if (s != STATUS_OK)
            return s;
        s = client_event(q, &header, payload);
        if (s == STATUS_INVALID)
            s = client_end(q, s, QUERN_CODE_BAD_FRAME, log_last_error());
        if (s == STATUS_OK && q->event.kind == CLIENT_EVENT_STATS)
            s = STATUS_AGAIN; /* nobody here has asked for it */
    } while (s == STATUS_AGAIN &&
             (p.forever || client_left_ms(p) > 0 || frame_reader_ready(&q->reader)));
    return s;
}

EXPORT int quern_next(struct quern *q, int timeout_ms, const struct quern_event **event)
{
    enum status s;

    if (q == NULL || event == NULL)
        return client_null(q, "quern_next");
    s = was_woken(q) ? STATUS_AGAIN : next_event(q, client_patience(timeout_ms));
    client_tell_bell(q);
    if (s == STATUS_OK)
        *event = &q->event;
    return s >= STATUS_OK ? (int)s : client_failed(q, s);
}
