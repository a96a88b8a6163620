/* tokenize.c - libquern: a prompt's ids, waited for.
 *
 * What comes for other requests meanwhile is put aside, whole, and given by
 * quern_next() as if it had come later. */
#include <string.h>

#include "client/client.h"

enum { KEPT_MOST = 64 << 20 };

static enum status keep(struct quern *q, const struct frame_header *h, const void *payload)
{
    enum status s;

    if (q->kept.end - q->kept.start + sizeof(*h) + h->bytes > KEPT_MOST)
        return log_fail(STATUS_NOMEM, "more than %d MiB of other answers came before the ids of a "
            "prompt: call quern_next() first", KEPT_MOST >> 20);
    s = frame_reader_feed(&q->kept, h, sizeof(*h));
    return s == STATUS_OK ? frame_reader_feed(&q->kept, payload, h->bytes) : s;
}

static enum status gather(struct quern *q, size_t *n)
{
    size_t more = q->event.n_ids;
    enum status s = lent_reserve(&q->tokenized, (*n + more) * sizeof(int32_t));

    if (s != STATUS_OK)
        return s;
    if (more > 0)
        memcpy((int32_t *)q->tokenized.mem + *n, q->event.ids, more * sizeof(int32_t));
    *n += more;
    return STATUS_OK;
}

/* One of the frames of `id`. CLOSED: it was the last. */
static enum status take(struct quern *q, struct frame_header h, const void *payload, size_t *n)
{
    enum status s;

    h.id &= ~CLIENT_OWN_ID;
    s = client_event(q, &h, payload);
    if (s == STATUS_AGAIN)
        return STATUS_OK;
    if (s == STATUS_INVALID)
        return client_end(q, s, QUERN_CODE_BAD_FRAME, log_last_error());
    if (s == STATUS_OK && q->event.kind == QUERN_EVENT_TEXT)
        return gather(q, n);
    if (s == STATUS_OK && q->event.kind == QUERN_EVENT_ERROR)
        return log_fail(q->event.server_fault ? STATUS_IO : STATUS_INVALID, "%s", q->event.text);
    return s == STATUS_OK && q->event.is_last ? STATUS_CLOSED : s;
}

static enum status tokenize(struct quern *q, const struct quern_request *r, struct patience p,
    size_t *n)
{
    uint64_t id = CLIENT_OWN_ID + ++q->last_own_id, key;
    enum status s = client_submit(q, r, QUERN_TASK_TOKENIZE, id, &key);
    struct frame_header h;
    const void *payload;

    while (s == STATUS_OK) {
        s = client_next_frame(q, false, p, &h, &payload);
        if (s == STATUS_OK)
            s = h.id == id ? take(q, h, payload, n) : keep(q, &h, payload);
    }
    return s == STATUS_CLOSED ? STATUS_OK : s;
}

static int run(struct quern *q, const struct quern_request *r, int timeout_ms, size_t *n)
{
    enum status s = tokenize(q, r, client_patience(timeout_ms), n);

    client_tell_bell(q);
    if (s == STATUS_AGAIN)
        quern_cancel(q, CLIENT_OWN_ID + q->last_own_id);
    if (s >= STATUS_OK)
        return (int)s;
    client_failed(q, s);
    if (q->event.kind == QUERN_EVENT_ERROR && q->fd >= 0)
        q->code = q->event.code;
    return client_failed(NULL, s);
}

EXPORT int quern_tokenize(struct quern *q, const struct quern_request *r, int timeout_ms,
    const int32_t **ids, size_t *n)
{
    size_t count = 0;
    int s;

    if (q == NULL || r == NULL || ids == NULL || n == NULL)
        return client_null(q, "quern_tokenize");
    s = run(q, r, timeout_ms, &count);
    if (s == QUERN_OK) {
        *ids = q->tokenized.mem;
        *n = count;
    }
    return s;
}

EXPORT int quern_count_tokens(struct quern *q, const struct quern_request *r, int timeout_ms,
    size_t *n)
{
    size_t count = 0;
    int s;

    if (q == NULL || r == NULL || n == NULL)
        return client_null(q, "quern_count_tokens");
    s = run(q, r, timeout_ms, &count);
    if (s == QUERN_OK)
        *n = count;
    return s;
}
