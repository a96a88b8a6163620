/* rings.c - what carries a request from state to state.
 *
 * Each turn: replies and ids are read from the rings (they are messages of our
 * own workers, of our own generation, and still only believed within bounds),
 * then what waits for room in a ring is pushed, then the clients get their
 * news, one frame a request however many ids came. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/spin.h"
#include "quern.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

/* To the text worker and back ------------------------------------------------------------- */

static enum status push_text(struct supervisor *sv, struct request *r)
{
    struct text_msg m = {
        .generation = sv->shared.control->generation,
        .kind = r->params.kind == SUBMIT_CHAT ? TEXT_CHAT : TEXT_ENCODE,
        .id = r->id,
        .bytes = (uint32_t)r->data.n,
    };
    void *slot;
    enum status s = ring_reserve(&sv->shared.text_requests, &slot);

    if (s == STATUS_OK)
        s = ring_buffer_alloc(&sv->shared.text_bytes, r->data.n, &m.at, &m.end);
    if (s != STATUS_OK)
        return s;
    memcpy(ring_buffer_at(&sv->shared.text_bytes, m.at, r->data.n), r->data.mem, r->data.n);
    *(struct text_msg *)slot = m;
    ring_publish(&sv->shared.text_requests);
    r->state = REQUEST_ENCODING;
    bytes_free(&r->data);
    return STATUS_OK;
}

static void push_texts(struct supervisor *sv)
{
    bool pushed = false;

    while (sv->to_text.head != NULL) {
        struct request *r = sv->to_text.head;
        enum status s = push_text(sv, r);

        if (s == STATUS_AGAIN)
            break;
        if (s != STATUS_OK) {
            request_end_with_error(sv, r, log_last_error());
            continue;
        }
        fifo_take(&sv->to_text);
        pushed = true;
    }
    if (pushed)
        doorbell_ring(&sv->shared.text_bell);
}

static void take_encoded(struct supervisor *sv, struct request *r, const struct text_msg *m,
    const void *payload)
{
    char line[LOG_LINE_BYTES];

    if (m->status < 0) {
        snprintf(line, sizeof(line), "%.*s", (int)m->bytes, (const char *)payload);
        request_end_with_error(sv, r, line);
        return;
    }
    r->n_ids = m->bytes / (uint32_t)sizeof(int32_t);
    r->ids = malloc(m->bytes + 1);
    if (r->ids == NULL) {
        request_end_with_error(sv, r, "no memory for the prompt's token ids");
        return;
    }
    memcpy(r->ids, payload, m->bytes);
    if (r->cancelled) {
        request_send_done(r, QUERN_FINISH_CANCELLED, 0);
        request_free(sv, r);
        return;
    }
    r->state = REQUEST_QUEUED;
    fifo_put(&sv->to_leader, r);
}

static enum status take_replies(struct supervisor *sv)
{
    struct shared *g = &sv->shared;
    const void *slot;
    enum status s;

    while ((s = ring_peek(&g->text_replies, &slot)) == STATUS_OK) {
        struct text_msg m = *(const struct text_msg *)slot;
        const void *payload = ring_buffer_at(&g->reply_bytes, m.at, m.bytes);
        struct request *r = request_find(sv, m.id);

        if (payload == NULL)
            return log_fail(STATUS_INVALID, "the text worker's reply lies outside of its memory");
        if (r != NULL && r->state == REQUEST_ENCODING)
            take_encoded(sv, r, &m, payload);
        s = ring_buffer_release(&g->reply_bytes, m.end);
        ring_release(&g->text_replies);
        if (s != STATUS_OK)
            return s;
    }
    return s < 0 ? s : STATUS_OK;
}

/* To rank 0 and back ---------------------------------------------------------------------- */

static enum status check_prompt(const struct supervisor *sv, const struct request *r)
{
    const struct model_facts *f = &sv->shared.control->facts;

    if (r->n_ids == 0)
        return log_fail(STATUS_INVALID, "the prompt is empty: give it at least one character");
    if (r->n_ids >= f->max_model_len)
        return log_fail(STATUS_INVALID, "the prompt has %u tokens, the context holds %u with at "
            "least one new one: shorten it%s", r->n_ids, f->max_model_len,
            sv->shared.control->config.max_model_len ? " or raise --max-model-len" : "");
    for (uint32_t i = 0; i < r->n_ids; i++)
        if (r->ids[i] < 0 || (uint32_t)r->ids[i] >= f->vocab)
            return log_fail(STATUS_INVALID, "token id %d is out of range: this model has ids 0 to %u",
                r->ids[i], f->vocab - 1);
    return STATUS_OK;
}

static struct sampling sampling_of(const struct frame_submit *p, const struct sampling *defaults)
{
    return (struct sampling){
        .temperature = p->temperature >= 0 ? p->temperature : defaults->temperature,
        .top_p = p->top_p > 0 ? p->top_p : defaults->top_p,
        .min_p = p->min_p >= 0 ? p->min_p : defaults->min_p,
        .top_k = p->top_k >= 0 ? p->top_k : defaults->top_k,
        .seed = p->seed,
    };
}

static enum status push_request(struct supervisor *sv, struct request *r)
{
    size_t bytes = (size_t)r->n_ids * sizeof(*r->ids);
    struct request_msg m = {
        .generation = sv->shared.control->generation,
        .kind = REQUEST_SUBMIT,
        .flags = r->params.flags & SUBMIT_IGNORE_EOS ? REQUEST_IGNORE_EOS : 0,
        .id = r->id,
        .n_ids = r->n_ids,
        .max_tokens = r->params.max_tokens,
        .sampling = sampling_of(&r->params, &sv->shared.control->facts.defaults),
    };
    void *slot;
    enum status s = check_prompt(sv, r);

    if (s == STATUS_OK)
        s = ring_reserve(&sv->shared.requests, &slot);
    if (s == STATUS_OK)
        s = ring_buffer_alloc(&sv->shared.request_bytes, bytes, &m.ids_at, &m.ids_end);
    if (s != STATUS_OK)
        return s;
    memcpy(ring_buffer_at(&sv->shared.request_bytes, m.ids_at, bytes), r->ids, bytes);
    *(struct request_msg *)slot = m;
    ring_publish(&sv->shared.requests);
    r->state = REQUEST_RUNNING;
    return STATUS_OK;
}

static bool push_cancel(struct supervisor *sv, struct request *r)
{
    void *slot;

    if (ring_reserve(&sv->shared.requests, &slot) != STATUS_OK)
        return false;
    *(struct request_msg *)slot = (struct request_msg){
        .generation = sv->shared.control->generation, .kind = REQUEST_CANCEL, .id = r->id};
    ring_publish(&sv->shared.requests);
    return r->cancel_sent = true;
}

static bool push_cancels(struct supervisor *sv)
{
    bool pushed = false;

    for (uint32_t i = 0; i < sv->table_room; i++) {
        struct request *r = sv->table[i];

        if (r != NULL && r->cancelled && r->state == REQUEST_RUNNING && !r->cancel_sent)
            pushed |= push_cancel(sv, r);
    }
    return pushed;
}

static void push_requests(struct supervisor *sv)
{
    bool pushed = push_cancels(sv);

    while (sv->to_leader.head != NULL) {
        struct request *r = sv->to_leader.head;
        enum status s = push_request(sv, r);

        if (s == STATUS_AGAIN)
            break;
        if (s != STATUS_OK) {
            request_end_with_error(sv, r, log_last_error());
            continue;
        }
        fifo_take(&sv->to_leader);
        pushed = true;
    }
    if (pushed)
        doorbell_ring(&sv->shared.rank_bells[0]);
}

static enum status journal(struct request *r, int32_t token)
{
    if (r->n_produced == r->produced_room) {
        uint32_t room = r->produced_room ? 2 * r->produced_room : 64;
        int32_t *more = realloc(r->produced, room * sizeof(*more));

        if (more == NULL)
            return log_fail(STATUS_NOMEM, "no memory for %u token ids", room);
        r->produced = more;
        r->produced_room = room;
    }
    r->produced[r->n_produced++] = token;
    return STATUS_OK;
}

static enum status decode(struct supervisor *sv, struct request *r, int32_t token)
{
    const uint8_t *bytes;
    size_t count;
    bool special;
    enum status s;

    /* an id past the tokenizer's is one of the model's padding rows: it has no text */
    if (!vocab_table_get(&sv->vocab, token, &bytes, &count, &special) || special)
        return STATUS_OK;
    s = bytes_reserve(&r->text, stream_decode_room(count));
    if (s == STATUS_OK)
        r->text.n += stream_decode_feed(&r->decoder, bytes, count, r->text.mem + r->text.n);
    return s;
}

/* One frame with every id and character that is new. */
static void send_news(struct request *r)
{
    uint32_t n = r->n_produced - r->n_sent;
    struct frame_tokens t = {.after = r->n_sent, .n_ids = n, .text_bytes = (uint32_t)r->text.n};
    struct bytes more = {0};

    if ((n == 0 && r->text.n == 0) || r->client == NULL)
        return;
    if (bytes_add(&more, r->produced + r->n_sent, n * sizeof(int32_t)) == STATUS_OK &&
        bytes_add(&more, r->text.mem, r->text.n) == STATUS_OK)
        client_frame(r->client, FRAME_TOKENS, r->client_id, &t, sizeof(t), more.mem, more.n);
    bytes_free(&more);
    r->n_sent = r->n_produced;
    r->text.n = 0;
}

static void take_done(struct supervisor *sv, struct request *r, const struct token_msg *m)
{
    char rest[STREAM_DECODE_FLUSH_BYTES];

    if (bytes_add(&r->text, rest, stream_decode_flush(&r->decoder, rest)) != STATUS_OK)
        log_warn("%s", log_last_error());
    send_news(r);
    request_send_done(r, m->finish, m->output_tokens);
    request_free(sv, r);
}

/* No fault of the request's: the model, or a layer's arithmetic, is broken. */
static void take_broken(struct supervisor *sv, struct request *r, const struct token_msg *m)
{
    send_news(r);
    log_fail(STATUS_INTERNAL, "step %llu gave logits that are not finite: a weight of this checkpoint "
        "may be damaged; with QUERN_CHECK_FINITE=1 the first layer that they come from is named",
        (unsigned long long)m->step);
    request_end_with_error(sv, r, log_last_error());
}

static void take_token(struct supervisor *sv, struct request *r, int32_t token)
{
    if (r->first_ns == 0)
        r->first_ns = spin_now_ns();
    if (journal(r, token) != STATUS_OK || decode(sv, r, token) != STATUS_OK) {
        if (r->client != NULL) {
            client_error(r->client, r->client_id, log_last_error());
            r->client->requests--;
        }
        r->client = NULL;
        request_stop(sv, r);
        return;
    }
    if (!r->has_news)
        fifo_put(&sv->news, r);
    r->has_news = true;
}

static enum status take_tokens(struct supervisor *sv)
{
    const void *slot;
    enum status s;

    while ((s = ring_peek(&sv->shared.tokens, &slot)) == STATUS_OK) {
        const struct token_msg *m = slot;
        struct request *r = request_find(sv, m->id);

        if (r != NULL && r->state == REQUEST_RUNNING) {
            if (m->kind == TOKEN_DONE)
                take_done(sv, r, m);
            else if (m->kind == TOKEN_BROKEN)
                take_broken(sv, r, m);
            else
                take_token(sv, r, m->token);
        }
        ring_release(&sv->shared.tokens);
    }
    return s < 0 ? s : STATUS_OK;
}

void requests_pump(struct supervisor *sv)
{
    enum status s;

    if (sv->state >= SUPERVISOR_FAILED)
        return;
    s = take_replies(sv); /* while stopping, too: no member may wait for room in a ring */
    if (s == STATUS_OK)
        s = take_tokens(sv);
    if (s != STATUS_OK)
        supervisor_fail(sv, log_last_error());
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    push_texts(sv);
    if (sv->state == SUPERVISOR_SERVING)
        push_requests(sv);
    while (sv->news.head != NULL) {
        struct request *r = fifo_take(&sv->news);

        r->has_news = false;
        send_news(r);
    }
}
