/* stats.c - libquern: the server's figures, waited for. */
#include <string.h>

#include "client/client.h"

static enum status take(struct quern *q, void *context)
{
    const char **json = context;
    enum status s;

    if (q->event.kind != CLIENT_EVENT_STATS)
        return STATUS_OK;
    s = lent_reserve(&q->stats, q->event.text_bytes + 1);
    if (s != STATUS_OK)
        return s;
    memcpy(q->stats.mem, q->event.text, q->event.text_bytes + 1);
    *json = q->stats.mem;
    return STATUS_OK;
}

EXPORT int quern_stats(struct quern *q, int timeout_ms, const char **json)
{
    struct frame_ask_stats ask = {.fixed = sizeof(ask)};
    struct frame_header header = {.type = FRAME_ASK_STATS, .bytes = sizeof(ask)};
    struct iovec parts[] = {{&header, sizeof(header)}, {&ask, sizeof(ask)}};
    const char *text = NULL;
    int s;

    if (q == NULL || json == NULL)
        return client_null(q, "quern_stats");
    header.id = client_own_id(q);
    s = client_await_own(q, client_send(q, parts, 2), header.id, timeout_ms, take, &text);
    if (s == QUERN_OK)
        *json = text;
    return s;
}
