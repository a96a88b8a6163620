/* own.c - libquern: what the library asks for itself, waited for.
 *
 * Such a request has a number that no program's has. What comes for others
 * meanwhile is put aside, whole, and given by quern_next() as if it had come
 * later. */
#include "client/client.h"

enum { KEPT_MOST = 64 << 20 };

uint64_t client_own_id(struct quern *q)
{
    return CLIENT_OWN_ID + ++q->last_own_id;
}

static enum status keep(struct quern *q, const struct frame_header *h, const void *payload)
{
    enum status s;

    if (q->kept.end - q->kept.start + sizeof(*h) + h->bytes > KEPT_MOST)
        return log_fail(STATUS_NOMEM, "more than %d MiB of other answers came before the one that is "
            "waited for: call quern_next() first", KEPT_MOST >> 20);
    s = frame_reader_feed(&q->kept, h, sizeof(*h));
    return s == STATUS_OK ? frame_reader_feed(&q->kept, payload, h->bytes) : s;
}

/* An event of the request; an ERROR is told as the status. CLOSED: the last one. */
static enum status take_event(struct quern *q, struct frame_header h, const void *payload,
    client_take *take, void *context)
{
    enum status s;

    h.id &= ~CLIENT_OWN_ID;
    s = client_event(q, &h, payload);
    if (s == STATUS_AGAIN)
        return STATUS_OK;
    if (s == STATUS_INVALID)
        return client_end(q, s, QUERN_CODE_BAD_FRAME, log_last_error());
    if (s == STATUS_OK && q->event.kind == QUERN_EVENT_ERROR)
        return log_fail(q->event.server_fault ? STATUS_IO : STATUS_INVALID, "%s", q->event.text);
    if (s == STATUS_OK)
        s = take(q, context);
    return s == STATUS_OK && q->event.is_last ? STATUS_CLOSED : s;
}

static enum status await(struct quern *q, uint64_t id, struct patience p, client_take *take,
    void *context)
{
    enum status s = STATUS_OK;
    struct frame_header h;
    const void *payload;

    while (s == STATUS_OK) {
        s = client_next_frame(q, false, p, &h, &payload);
        if (s == STATUS_OK)
            s = h.id == id ? take_event(q, h, payload, take, context) : keep(q, &h, payload);
    }
    return s == STATUS_CLOSED ? STATUS_OK : s;
}

int client_await_own(struct quern *q, enum status s, uint64_t id, int timeout_ms, client_take *take,
    void *context)
{
    if (s == STATUS_OK)
        s = await(q, id, client_patience(timeout_ms), take, context);
    client_tell_bell(q);
    if (s == STATUS_AGAIN)
        quern_cancel(q, id);
    if (s >= STATUS_OK)
        return (int)s;
    client_failed(q, s);
    if (q->event.kind == QUERN_EVENT_ERROR && q->fd >= 0)
        q->code = q->event.code;
    return client_failed(NULL, s);
}
