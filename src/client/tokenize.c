/* tokenize.c - libquern: a prompt's ids, waited for. */
#include <string.h>

#include "client/client.h"

static enum status gather(struct quern *q, void *context)
{
    size_t *n = context, more = q->event.n_ids;
    enum status s;

    if (q->event.kind != QUERN_EVENT_TEXT)
        return STATUS_OK;
    s = lent_reserve(&q->tokenized, (*n + more) * sizeof(int32_t));
    if (s != STATUS_OK)
        return s;
    if (more > 0)
        memcpy((int32_t *)q->tokenized.mem + *n, q->event.ids, more * sizeof(int32_t));
    *n += more;
    return STATUS_OK;
}

static int run(struct quern *q, const struct quern_request *r, int timeout_ms, size_t *n)
{
    uint64_t id = client_own_id(q), key;

    return client_await_own(q, client_submit(q, r, QUERN_TASK_TOKENIZE, id, &key), id, timeout_ms,
        gather, n);
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
