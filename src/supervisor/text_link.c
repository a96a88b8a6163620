/* text_link.c - to the text worker and back.
 *
 * A prompt's bytes stay in the journal until its ids are there, so that a text
 * worker's death costs nothing but time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

static enum status push_one(struct supervisor *sv, struct request *r)
{
    static const uint32_t kinds[] = {[PROMPT_TEXT] = TEXT_ENCODE, [PROMPT_IDS] = TEXT_NONE,
        [PROMPT_CHAT] = TEXT_CHAT};
    struct text_shared *g = &sv->text;
    const struct param_bytes *words = &r->params.bad_words;
    size_t bytes = r->data.n + words->n;
    struct text_msg m = {
        .generation = g->generation,
        .kind = kinds[r->prompt],
        .id = r->id,
        .bytes = (uint32_t)bytes,
        .words = words->n,
    };
    void *slot;
    char *at;
    enum status s = ring_reserve(&g->requests, &slot);

    if (s == STATUS_OK)
        s = ring_buffer_alloc(&g->request_bytes, bytes, &m.at, &m.end);
    if (s != STATUS_OK)
        return s;
    at = ring_buffer_at(&g->request_bytes, m.at, bytes);
    if (r->data.n > 0)
        memcpy(at, r->data.mem, r->data.n);
    if (words->n > 0)
        memcpy(at + r->data.n, words->at, words->n);
    *(struct text_msg *)slot = m;
    ring_publish(&g->requests);
    return STATUS_OK;
}

void text_push(struct supervisor *sv)
{
    struct request *r;
    bool pushed = false;

    if (sv->text_child.state != CHILD_RUNNING)
        return;
    while ((r = turn_first(sv, FOR_TEXT)) != NULL) {
        enum status s = push_one(sv, r);

        if (s == STATUS_AGAIN || s == STATUS_CLOSED)
            break;
        if (s == STATUS_INTERNAL) {
            text_fail(sv, log_last_error());
            break;
        }
        turn_taken(r);
        if (s != STATUS_OK) {
            request_fail(r, QUERN_CODE_BAD_REQUEST, log_last_error());
            continue;
        }
        if (list_empty(&sv->encoding)) {
            sv->text_since_ns = spin_now_ns();
            sv->watch_new = true;
        }
        request_move(r, REQUEST_ENCODING);
        r->encodings++;
        list_append(&sv->encoding, &r->encoding);
        pushed = true;
    }
    if (pushed)
        doorbell_ring(&sv->text.text_bell);
}

static int32_t *copy_ids(const void *ids, uint32_t n)
{
    int32_t *copy = malloc(n * sizeof(*copy) + 1);

    if (copy != NULL)
        memcpy(copy, ids, n * sizeof(*copy));
    return copy;
}

/* The prompt's, unless it came as ids; and behind them the bad words'. */
static void take_ids(struct request *r, const struct text_msg *m, const int32_t *ids)
{
    uint32_t n = m->bytes / (uint32_t)sizeof(*ids), n_prompt = n - m->words;

    r->n_bad_ids = m->words;
    r->bad_ids = copy_ids(ids + n_prompt, m->words);
    if (r->prompt != PROMPT_IDS) {
        r->n_ids = n_prompt;
        r->ids = copy_ids(ids, n_prompt);
    }
    if (r->ids == NULL || r->bad_ids == NULL) {
        request_fail(r, QUERN_CODE_OVERLOADED, "no memory for the prompt's token ids");
        return;
    }
    bytes_free(&r->data);
    request_move(r, REQUEST_QUEUED);
    request_accept(r);
    if (r->state == REQUEST_QUEUED)
        request_queue(r, false);
}

static enum quern_code code_of(uint32_t answer)
{
    switch (answer) {
    case TEXT_TOO_LONG: return QUERN_CODE_TOO_LONG;
    case TEXT_NO_MEMORY: return QUERN_CODE_OVERLOADED;
    default: return QUERN_CODE_BAD_REQUEST;
    }
}

static void take_one(struct request *r, const struct text_msg *m, const void *payload)
{
    char line[LOG_LINE_BYTES];

    list_remove(&r->encoding);
    if (r->cancelled) {
        request_finish(r, QUERN_FINISH_CANCELLED);
    } else if (m->answer != TEXT_IDS) {
        snprintf(line, sizeof(line), "%.*s", (int)m->bytes, (const char *)payload);
        request_fail(r, code_of(m->answer), line);
    } else {
        take_ids(r, m, payload);
    }
}

enum status text_take_replies(struct supervisor *sv)
{
    struct text_shared *g = &sv->text;
    const void *slot;
    bool took = false;
    enum status s;

    if (g->control == NULL)
        return STATUS_OK;
    while ((s = ring_peek(&g->replies, &slot)) == STATUS_OK) {
        struct text_msg m = *(const struct text_msg *)slot;
        const void *payload = ring_buffer_at(&g->reply_bytes, m.at, m.bytes);
        struct request *r = request_find(sv, m.id);

        if (payload == NULL || m.bytes > FRAME_MAX_BYTES * sizeof(int32_t) ||
            (m.answer == TEXT_IDS && m.words > m.bytes / sizeof(int32_t)))
            return log_fail(STATUS_INTERNAL, "the text worker's reply lies outside of its memory");
        if (r != NULL && r->state == REQUEST_ENCODING)
            take_one(r, &m, payload);
        s = ring_buffer_release(&g->reply_bytes, m.end);
        ring_release(&g->replies);
        sv->text_since_ns = spin_now_ns();
        if (s != STATUS_OK)
            return s;
        took = true;
    }
    if (took)
        doorbell_ring(&g->text_room);
    return s < 0 ? s : STATUS_OK;
}
