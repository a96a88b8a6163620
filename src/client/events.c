/* events.c - libquern: frames as events.
 *
 * Each kind of frame has a row that reads it into the connection's one event.
 * What a later server adds is passed over; what cannot be is refused, and ends
 * the connection. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"

enum status lent_reserve(struct lent *l, size_t n)
{
    void *mem;

    if (n <= l->room)
        return STATUS_OK;
    mem = realloc(l->mem, n);
    if (mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %zu bytes of an answer", n);
    l->mem = mem;
    l->room = n;
    return STATUS_OK;
}

static enum status lend(struct lent *l, const void *bytes, size_t n)
{
    enum status s = lent_reserve(l, n + 1);

    if (s != STATUS_OK)
        return s;
    if (n > 0)
        memcpy(l->mem, bytes, n);
    ((char *)l->mem)[n] = '\0';
    return STATUS_OK;
}

static enum status lend_text(struct quern *q, const void *text, size_t n)
{
    enum status s = lend(&q->text, text, n);

    if (s != STATUS_OK)
        return s;
    q->event.text = q->text.mem;
    q->event.text_bytes = n;
    return STATUS_OK;
}

static void copy_name(char *to, size_t room, const void *bytes, size_t n)
{
    n = n < room ? n : room - 1;
    memcpy(to, bytes, n);
    to[n] = '\0';
}

static enum status on_hello(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_hello hello;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &hello, sizeof(hello), HELLO_LEAST, &rest, &n);

    if (s != STATUS_OK)
        return s;
    if (hello.protocol != PROTOCOL_VERSION)
        return log_fail(STATUS_INVALID, "the server speaks protocol %u, this libquern %d: use the "
            "same version of both", hello.protocol, PROTOCOL_VERSION);
    q->generation = hello.generation;
    copy_name(q->version, sizeof(q->version), rest, n);
    return STATUS_AGAIN;
}

static enum status on_loading(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_loading l;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &l, sizeof(l), LOADING_LEAST, &rest, &n);

    if (s != STATUS_OK)
        return s;
    q->event.kind = QUERN_EVENT_LOADING;
    if (l.total > 0)
        q->event.progress = l.loaded < l.total ? (float)((double)l.loaded / (double)l.total) : 1;
    return STATUS_OK;
}

static enum status on_ready(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_ready r;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &r, sizeof(r), READY_LEAST, &rest, &n);

    if (s != STATUS_OK)
        return s;
    q->event.kind = QUERN_EVENT_READY;
    q->event.generation = q->generation = r.generation;
    q->vocab = r.vocab;
    q->context = r.max_model_len;
    q->fingerprint = r.fingerprint;
    copy_name(q->model, sizeof(q->model), rest, n);
    return STATUS_OK;
}

static enum status on_accepted(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_accepted a;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &a, sizeof(a), ACCEPTED_LEAST, &rest, &n);

    if (s != STATUS_OK)
        return s;
    q->event.kind = QUERN_EVENT_ACCEPTED;
    q->event.key = a.key;
    q->event.seed = a.seed;
    q->event.prompt_tokens = a.prompt_tokens;
    return STATUS_OK;
}

static enum status on_tokens(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_tokens t;
    const void *rest;
    const char *at;
    size_t n;
    enum status s = frame_fixed(h, payload, &t, sizeof(t), TOKENS_LEAST, &rest, &n);
    uint64_t ids_bytes, said;

    if (s != STATUS_OK)
        return s;
    ids_bytes = (uint64_t)t.n_ids * sizeof(int32_t);
    said = ids_bytes + t.text_bytes + t.logprobs_bytes;
    if (n < said || (n > said && t.fixed <= sizeof(t))) /* a later version may have more behind */
        return log_fail(STATUS_INVALID, "the server's frame of %u ids, %u bytes of text and %u of "
            "logprobs has %zu bytes for them", t.n_ids, t.text_bytes, t.logprobs_bytes, n);
    at = rest;
    s = lend(&q->ids, at, ids_bytes);
    if (s == STATUS_OK)
        s = lend_text(q, at + ids_bytes, t.text_bytes);
    if (s == STATUS_OK)
        s = lend(&q->logprobs, at + ids_bytes + t.text_bytes, t.logprobs_bytes);
    if (s != STATUS_OK)
        return s;
    q->event.kind = h->type == FRAME_PROMPT ? QUERN_EVENT_PROMPT : QUERN_EVENT_TEXT;
    q->event.choice = t.choice;
    q->event.after = t.after;
    q->event.ids = q->ids.mem;
    q->event.n_ids = t.n_ids;
    q->event.logprobs = q->logprobs.mem;
    q->event.logprobs_bytes = t.logprobs_bytes;
    return STATUS_OK;
}

static enum status on_values(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_values v;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &v, sizeof(v), VALUES_LEAST, &rest, &n);

    if (s != STATUS_OK)
        return s;
    if (n / sizeof(float) < v.columns)
        return log_fail(STATUS_INVALID, "the server's frame of %u values has %zu bytes for them",
            v.columns, n);
    s = lend(&q->values, rest, v.columns * sizeof(float));
    if (s != STATUS_OK)
        return s;
    q->event.kind = QUERN_EVENT_VALUES;
    q->event.after = v.position;
    q->event.values = q->values.mem;
    q->event.n_values = v.columns;
    return STATUS_OK;
}

static enum status on_done(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_done d;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &d, sizeof(d), DONE_LEAST, &rest, &n);

    if (s != STATUS_OK)
        return s;
    q->event.kind = QUERN_EVENT_DONE;
    q->event.is_last = d.more == 0;
    q->event.more = d.more;
    q->event.finish = (int)d.finish;
    q->event.choice = d.choice;
    q->event.prompt_tokens = d.prompt_tokens;
    q->event.output_tokens = d.output_tokens;
    q->event.restarts = d.restarts;
    q->event.first_token_s = (double)d.first_token_ns * 1e-9;
    q->event.total_s = (double)d.total_ns * 1e-9;
    q->event.stop_kind = (int)d.stop_kind;
    q->event.stop = d.stop;
    return STATUS_OK;
}

static enum status on_error(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_error e;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &e, sizeof(e), ERROR_LEAST, &rest, &n);

    if (s == STATUS_OK)
        s = lend_text(q, rest, n);
    if (s != STATUS_OK)
        return s;
    q->event.kind = QUERN_EVENT_ERROR;
    q->event.is_last = true;
    q->event.code = (int)e.code;
    q->event.retry = e.retry != 0;
    q->event.server_fault = e.fault != FAULT_CALLER;
    return STATUS_OK;
}

static enum status on_paused(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_paused p;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &p, sizeof(p), PAUSED_LEAST, &rest, &n);

    if (s == STATUS_OK)
        s = lend_text(q, rest, n);
    if (s != STATUS_OK)
        return s;
    q->event.kind = p.paused ? QUERN_EVENT_PAUSED : QUERN_EVENT_CONTINUED;
    q->event.generation = q->generation = p.generation;
    return STATUS_OK;
}

/* Of the library's own requests alone. */
static enum status on_stats(struct quern *q, const struct frame_header *h, const void *payload)
{
    struct frame_stats f;
    const void *rest;
    size_t n;
    enum status s = frame_fixed(h, payload, &f, sizeof(f), STATS_LEAST, &rest, &n);

    if (s == STATUS_OK)
        s = lend_text(q, rest, n);
    if (s != STATUS_OK)
        return s;
    q->event.kind = CLIENT_EVENT_STATS;
    q->event.is_last = true;
    return STATUS_OK;
}

enum status client_event(struct quern *q, const struct frame_header *h, const void *payload)
{
    static enum status (*const rows[])(
        struct quern *q, const struct frame_header *h, const void *payload) = {
        [FRAME_HELLO] = on_hello,
        [FRAME_LOADING] = on_loading,
        [FRAME_READY] = on_ready,
        [FRAME_TOKENS] = on_tokens,
        [FRAME_DONE] = on_done,
        [FRAME_ERROR] = on_error,
        [FRAME_ACCEPTED] = on_accepted,
        [FRAME_PAUSED] = on_paused,
        [FRAME_PROMPT] = on_tokens,
        [FRAME_VALUES] = on_values,
        [FRAME_STATS] = on_stats,
    };

    q->event = (struct quern_event){.request = h->id};
    if (h->type >= sizeof(rows) / sizeof(rows[0]) || rows[h->type] == NULL || h->id >= CLIENT_OWN_ID)
        return STATUS_AGAIN; /* of a later version, or asked for by nobody any more */
    return rows[h->type](q, h, payload);
}
