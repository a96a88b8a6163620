/* text_worker.c - take a text, answer with ids; take messages, render, answer with ids.
 *
 * A request that is wrong (no UTF-8, no JSON) is answered with the error line
 * and harms nothing else. */
#include "text/text_worker.h"

#include <stdlib.h>
#include <string.h>

#include "msg/param_lists.h"
#include "quern/log.h"
#include "text/json_value.h"
#include "text/template.h"
#include "text/tokenizer.h"
#include "text/vocab_table.h"

/* A ring buffer takes half of itself in one piece. */
enum { MOST_IDS = RING_BUFFER_BYTES / 2 / sizeof(int32_t) };

static bool has_request(void *context)
{
    struct text_worker *t = context;
    const void *slot;

    return ring_peek(&t->g->requests, &slot) != STATUS_AGAIN;
}

/* A reply's place: a slot, and bytes for what it carries. */
struct place {
    struct text_shared *g;
    size_t bytes;
    void *slot;
    struct text_msg *m;
    enum status status;
};

static bool has_room(void *context)
{
    struct place *p = context;

    p->status = ring_reserve(&p->g->replies, &p->slot);
    if (p->status == STATUS_OK)
        p->status = ring_buffer_alloc(&p->g->reply_bytes, p->bytes, &p->m->at, &p->m->end);
    return p->status != STATUS_AGAIN;
}

/* The supervisor reads replies at every turn, so a full ring empties soon. */
static enum status reserve_reply(struct text_worker *t, size_t bytes, void **slot,
    struct text_msg *m)
{
    struct text_shared *g = t->g;
    struct place p = {.g = g, .bytes = bytes, .m = m};
    enum status s = STATUS_OK;

    if (!has_room(&p)) {
        s = doorbell_ring(&g->supervisor_bell);
        if (s == STATUS_OK)
            s = doorbell_await(&g->text_room, g->death_fd, has_room, &p, 0);
    }
    *slot = p.slot;
    return s == STATUS_OK ? p.status : s;
}

static enum status reply(struct text_worker *t, const struct text_msg *request,
    enum text_answer answer, const void *payload, size_t bytes, size_t words)
{
    struct text_msg m = {.generation = t->g->generation, .kind = request->kind,
        .id = request->id, .bytes = (uint32_t)bytes, .answer = answer, .words = (uint32_t)words};
    void *slot;
    enum status s = reserve_reply(t, bytes, &slot, &m);

    if (s != STATUS_OK)
        return s;
    if (bytes > 0)
        memcpy(ring_buffer_at(&t->g->reply_bytes, m.at, bytes), payload, bytes);
    *(struct text_msg *)slot = m;
    ring_publish(&t->g->replies);
    return doorbell_ring(&t->g->supervisor_bell);
}

/* {messages, tools, ...} -> the prompt as text, malloc'ed. */
static enum status render(struct text_worker *t, const char *json, size_t bytes, char **text,
    size_t *text_bytes)
{
    struct json_document d;
    enum status s = json_document_parse("the request", json, bytes, &d);

    if (s != STATUS_OK)
        return s;
    if (t->template == NULL)
        s = log_fail(STATUS_INVALID, "the model's chat template cannot be used, send text or ids: "
            "%s", t->template_error);
    else
        s = template_render(t->template, d.root, text, text_bytes);
    json_document_free(&d);
    return s;
}

/* Ids of a reply: the prompt's, and behind them the bad words'. */
struct ids {
    int32_t *ids;
    size_t n, n_words;
};

static enum status encode_prompt(struct text_worker *t, const struct text_msg *m, const char *data,
    size_t n, struct ids *out)
{
    char *rendered = NULL;
    size_t bytes;
    enum status s;

    if (m->kind == TEXT_NONE)
        return STATUS_OK;
    if (m->kind == TEXT_ENCODE)
        return tokenizer_encode(t->tokenizer, data, n, TOKENIZER_PARSE_SPECIAL | TOKENIZER_ADD_SPECIAL,
            &out->ids, &out->n);
    s = render(t, data, n, &rendered, &bytes);
    if (s == STATUS_OK)
        s = tokenizer_encode(t->tokenizer, rendered, bytes, TOKENIZER_PARSE_SPECIAL, &out->ids, &out->n);
    free(rendered);
    return s;
}

/* One run more: a count, and its ids. */
static enum status add_run(struct ids *out, const int32_t *ids, size_t n)
{
    int32_t *more = realloc(out->ids, (out->n + 1 + n) * sizeof(*more));

    if (more == NULL)
        return log_fail(STATUS_NOMEM, "no memory for the ids of a bad word");
    out->ids = more;
    out->ids[out->n++] = (int32_t)n;
    memcpy(out->ids + out->n, ids, n * sizeof(*ids));
    out->n += n;
    out->n_words += 1 + n;
    return STATUS_OK;
}

static enum status encode_at(struct text_worker *t, const char *before, const char *word, size_t n,
    int32_t **ids, size_t *count)
{
    size_t start = strlen(before);
    char *text = malloc(start + n + 1);
    enum status s;

    if (text == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a bad word");
    memcpy(text, before, start);
    memcpy(text + start, word, n);
    s = tokenizer_encode(t->tokenizer, text, start + n, TOKENIZER_PARSE_SPECIAL, ids, count);
    free(text);
    return s;
}

/* As it stands and behind a space: within a text most words begin with one. As vLLM has it, the
 * second form counts where it begins with another id and is as long. */
static enum status add_word(struct text_worker *t, const char *word, size_t n, struct ids *out)
{
    int32_t *plain = NULL, *spaced = NULL;
    size_t n_plain = 0, n_spaced = 0;
    enum status s;

    while (n > 0 && *word == ' ') {
        word++;
        n--;
    }
    s = encode_at(t, "", word, n, &plain, &n_plain);
    if (s == STATUS_OK)
        s = encode_at(t, " ", word, n, &spaced, &n_spaced);
    if (s == STATUS_OK && n_plain > 0)
        s = add_run(out, plain, n_plain);
    if (s == STATUS_OK && n_spaced > 0 &&
        (n_plain == 0 || (n_spaced == n_plain && spaced[0] != plain[0])))
        s = add_run(out, spaced, n_spaced);
    free(plain);
    free(spaced);
    return s;
}

static enum status encode_words(struct text_worker *t, const char *data, size_t n, struct ids *out)
{
    struct param_bytes rest = {(const unsigned char *)data, (uint32_t)n};
    enum status s = STATUS_OK;
    const char *word;
    uint32_t bytes;

    while (s == STATUS_OK && list_next_text(&rest, &word, &bytes))
        s = add_word(t, word, bytes, out);
    if (s == STATUS_OK && out->n_words > BAD_WORDS)
        s = log_fail(STATUS_INVALID, "bad_words: %zu ids and counts, at most %d are possible",
            out->n_words, BAD_WORDS);
    return s;
}

static enum status encode(struct text_worker *t, const struct text_msg *m, const char *data,
    struct ids *out)
{
    size_t n;
    enum status s;

    if (m->words > m->bytes)
        return log_fail(STATUS_INVALID, "the text worker was sent more bad words than bytes");
    n = m->bytes - m->words;
    s = encode_prompt(t, m, data, n, out);
    return s == STATUS_OK ? encode_words(t, data + n, m->words, out) : s;
}

static enum text_answer answer_of(enum status s, size_t count)
{
    if (s != STATUS_OK)
        return s == STATUS_NOMEM ? TEXT_NO_MEMORY : TEXT_INVALID;
    if (count <= MOST_IDS)
        return TEXT_IDS;
    log_fail(STATUS_INVALID, "the prompt has %zu tokens, more than any context holds: shorten it",
        count);
    return TEXT_TOO_LONG;
}

static enum status answer(struct text_worker *t, const struct text_msg *m)
{
    const char *data = ring_buffer_at(&t->g->request_bytes, m->at, m->bytes);
    struct ids ids = {0};
    enum text_answer a;
    enum status s, released;

    if (data == NULL)
        return log_fail(STATUS_INVALID, "the text worker was sent a text outside of its memory");
    s = encode(t, m, data, &ids);
    a = answer_of(s, ids.n);
    released = ring_buffer_release(&t->g->request_bytes, m->end);
    if (a == TEXT_IDS)
        s = reply(t, m, a, ids.ids, ids.n * sizeof(*ids.ids), ids.n_words);
    else
        s = reply(t, m, a, log_last_error(), strlen(log_last_error()), 0);
    free(ids.ids);
    return s == STATUS_OK ? released : s;
}

static enum status publish_vocabulary(struct text_worker *t)
{
    size_t bytes = vocab_table_bytes(t->tokenizer);
    struct segment segment;
    enum status s = segment_fill("quern-vocab", t->g->vocab_fd, bytes, &segment);

    if (s != STATUS_OK)
        return s;
    t->g->vocab_fd = -1; /* the segment's now */
    s = vocab_table_write(t->tokenizer, segment.base, segment.bytes);
    segment_close(&segment);
    return s;
}

enum status text_worker_run(struct text_worker *t)
{
    struct text_shared *g = t->g;
    const void *slot;
    struct member_seat seat = text_shared_seat(g);
    enum status s = STATUS_OK;

    member_stage(&seat, STAGE_READY);
    while (s == STATUS_OK) {
        s = ring_peek(&g->requests, &slot);
        if (s == STATUS_OK) {
            struct text_msg m = *(const struct text_msg *)slot;

            s = answer(t, &m);
            ring_release(&g->requests);
        } else if (s == STATUS_AGAIN) {
            s = doorbell_await(&g->text_bell, g->death_fd, has_request, t, 0);
        }
    }
    return s == STATUS_CLOSED ? STATUS_OK : s;
}

/* A template with an error is no reason not to serve text and ids. */
static enum status open_template(struct text_worker *t, const char *dir)
{
    enum status s = template_select(dir, &t->template);

    if (s != STATUS_INVALID)
        return s;
    t->template_error = strdup(log_last_error());
    if (t->template_error != NULL)
        log_warn("%s: a chat is refused, text and ids are served", t->template_error);
    return t->template_error != NULL ? STATUS_OK : log_fail(STATUS_NOMEM, "out of memory");
}

enum status text_worker_open(struct text_shared *g, const char *dir, struct text_worker *out)
{
    struct text_worker t = {.g = g};
    enum status s = tokenizer_open_or_none(dir, &t.tokenizer);

    if (s == STATUS_OK)
        s = open_template(&t, dir);
    if (s == STATUS_OK)
        s = publish_vocabulary(&t);
    if (s == STATUS_OK)
        *out = t;
    else
        text_worker_close(&t);
    return s;
}

void text_worker_close(struct text_worker *t)
{
    template_close(t->template);
    free(t->template_error);
    tokenizer_close(t->tokenizer);
}

