/* news.c - what a client is told of its requests.
 *
 * The journal has the ids; a frame is made of what is new of them when its
 * client can take it: while more than OUT_MARK bytes wait for its socket,
 * nothing is made, and when an answer has PARK_AT ids that wait, no more are
 * computed and rank 0 lets go of it. So one that does not read costs its ids, and stops its own streams
 * alone. Text is made from ids here, whole characters at a time: it follows
 * from the ids sent, so an answer can be told again from any place. */
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { FRAME_IDS = 4096 }; /* in one frame at most */

void request_has_news(struct request *r)
{
    struct client *c = r->client;

    if (c == c->sv->nobody)
        return;
    if (!list_on(&r->news))
        list_append(&c->news, &r->news);
    client_touch(c);
}

/* Text ------------------------------------------------------------------------------------ */

/* An id past the tokenizer's is one of the model's padding rows: it has no text. */
static size_t token_bytes(const struct supervisor *sv, int32_t id, const uint8_t **bytes)
{
    bool special;
    size_t count;

    return vocab_table_get(&sv->vocab, id, bytes, &count, &special) && !special ? count : 0;
}

static size_t text_room(const struct supervisor *sv, const int32_t *ids, uint32_t n)
{
    const uint8_t *bytes;
    size_t room = STREAM_DECODE_FLUSH_BYTES;

    for (uint32_t i = 0; i < n; i++)
        room += stream_decode_room(token_bytes(sv, ids[i], &bytes));
    return room;
}

static size_t decode(const struct supervisor *sv, struct stream_decoder *d, const int32_t *ids,
    uint32_t n, char *out)
{
    const uint8_t *bytes;
    size_t written = 0;

    for (uint32_t i = 0; i < n; i++) {
        size_t count = token_bytes(sv, ids[i], &bytes);

        if (count > 0)
            written += stream_decode_feed(d, bytes, count, out + written);
    }
    return written;
}

void request_skip(struct request *r, uint64_t after)
{
    const struct supervisor *sv = r->client->sv;
    const uint8_t *bytes;
    char out[3 * 256 + STREAM_DECODE_FLUSH_BYTES];

    r->decoder = (struct stream_decoder){0};
    r->n_sent = (uint32_t)after;
    for (uint32_t i = 0; i < r->n_sent; i++) {
        size_t left = token_bytes(sv, r->produced[i], &bytes);

        for (size_t part; left > 0; left -= part, bytes += part) {
            part = left < 256 ? left : 256;
            stream_decode_feed(&r->decoder, bytes, part, out);
        }
    }
}

/* Frames ---------------------------------------------------------------------------------- */

void request_accept(struct request *r)
{
    struct frame_accepted a = {.fixed = sizeof(a), .prompt_tokens = r->n_ids, .key = r->key,
        .seed = r->params.seed};

    if (!r->accepted)
        client_frame(r->client, FRAME_ACCEPTED, r->number, &a, sizeof(a), NULL, 0);
    r->accepted = true;
    if (r->task != TASK_TOKENIZE || r->state == REQUEST_ENDED)
        return;
    r->produced = r->ids; /* the answer is the prompt */
    r->n_produced = r->produced_room = r->n_ids;
    r->ids = NULL;
    request_finish(r, QUERN_FINISH_STOP, 0);
}

void request_tell_pause(struct request *r, bool paused, const char *line)
{
    struct frame_paused p = {.fixed = sizeof(p), .paused = paused,
        .generation = r->client->sv->generation};

    if (!r->params.tell_pauses || r->pause_told == paused)
        return;
    r->pause_told = paused;
    client_frame(r->client, FRAME_PAUSED, r->number, &p, sizeof(p), line, strlen(line));
}

/* At most FRAME_IDS of what is new, with the text they complete; at the end what is left of it. */
static void send_tokens(struct request *r)
{
    const struct supervisor *sv = r->client->sv;
    const int32_t *ids = r->produced + r->n_sent;
    uint32_t n = r->n_produced - r->n_sent;
    struct frame_header h = {.type = FRAME_TOKENS, .id = r->number};
    struct frame_tokens t = {.fixed = sizeof(t), .after = r->n_sent};
    bool last = r->state == REQUEST_ENDED && n <= FRAME_IDS;
    size_t before, text_bytes;
    char *at;

    n = n < FRAME_IDS ? n : FRAME_IDS;
    before = sizeof(h) + sizeof(t) + n * sizeof(*ids);
    at = client_room(r->client, before + text_room(sv, ids, n));
    if (at == NULL)
        return;
    text_bytes = r->task == TASK_TOKENIZE ? 0 : decode(sv, &r->decoder, ids, n, at + before);
    if (last)
        text_bytes += stream_decode_flush(&r->decoder, at + before + text_bytes);
    r->n_sent += n;
    if (n == 0 && text_bytes == 0)
        return;
    t.n_ids = n;
    t.text_bytes = (uint32_t)text_bytes;
    h.bytes = (uint32_t)(before - sizeof(h) + text_bytes);
    memcpy(at, &h, sizeof(h));
    memcpy(at + sizeof(h), &t, sizeof(t));
    if (n > 0)
        memcpy(at + sizeof(h) + sizeof(t), ids, n * sizeof(*ids));
    r->client->out.n += before + text_bytes;
}

static void send_end(struct request *r)
{
    struct frame_done d = {
        .fixed = sizeof(d),
        .finish = r->finish,
        .prompt_tokens = r->n_ids,
        .output_tokens = r->output_tokens,
        .restarts = r->restarts,
        .first_token_ns = r->first_ns ? r->first_ns - r->arrived_ns : 0,
        .total_ns = r->ended_ns - r->arrived_ns,
    };

    if (r->code != QUERN_CODE_NONE)
        client_error(r->client, r->number, r->code, r->line != NULL ? r->line : "no memory");
    else
        client_frame(r->client, FRAME_DONE, r->number, &d, sizeof(d), NULL, 0);
}

/* As after a restart, from the journal. */
static void go_on(struct request *r)
{
    if (r->state != REQUEST_PARKED || r->n_produced - r->n_sent > GO_ON_AT)
        return;
    request_move(r, REQUEST_QUEUED);
    request_queue(r, true);
}

/* True when all that is known of it is told. */
static bool send_news(struct request *r)
{
    bool ended = r->state == REQUEST_ENDED;

    while (r->n_sent < r->n_produced) {
        if (client_waiting(r->client) > OUT_MARK)
            return false;
        send_tokens(r);
        if (r->client->leaving)
            return false;
    }
    go_on(r);
    if (!ended)
        return true;
    send_tokens(r); /* half a character that will never be whole */
    send_end(r);
    list_remove(&r->news);
    request_release(r);
    return true;
}

/* Requests take turns in this, too: who could not tell all stays last. */
void client_send_news(struct client *c)
{
    struct list_node *last = c->news.prev;

    while (!c->leaving && !list_empty(&c->news) && client_waiting(c) <= OUT_MARK) {
        struct list_node *at = c->news.next;
        struct request *r = LIST_OF(at, struct request, news);
        bool was_last = at == last;

        list_remove(at);
        if (!send_news(r))
            list_append(&c->news, at);
        if (was_last)
            return;
    }
}
