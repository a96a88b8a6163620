/* news.c - what a client is told of its requests.
 *
 * The journal has the ids; a frame is made of what is new of them when its
 * client can take it: while more than OUT_MARK bytes wait for its socket,
 * nothing is made, and when an answer has PARK_AT ids that wait, no more are
 * computed and rank 0 lets go of it. So one that does not read costs its ids,
 * and stops its own streams alone. Text is made from ids here, whole characters at a time: it follows
 * from the ids sent, so an answer can be told again from any place. */
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

/* In one frame at most; with logprobs, of 20 more ids each, it is 700 KiB. */
enum { FRAME_IDS = 4096, FRAME_PROMPT_IDS = 1024 };

void request_has_news(struct request *r)
{
    struct client *c = r->client;

    if (c == c->sv->nobody)
        return;
    if (!list_on(&r->news))
        list_append(&c->news, &r->news);
    client_touch(c);
}

void request_skip(struct request *r, uint64_t after)
{
    r->n_prompt_sent = 0;
    r->prompt_decoder = (struct stream_decoder){0};
    for (uint32_t i = 0; i < r->n_answers; i++)
        answer_rewind(r, &r->answers[i], i == 0 ? (uint32_t)after : 0);
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
    r->answers[0].ids = r->ids; /* the answer is the prompt */
    r->answers[0].n_ids = r->answers[0].room = r->n_ids;
    r->ids = NULL;
    answer_end(r, &r->answers[0], QUERN_FINISH_STOP, 0);
    request_end(r);
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

/* Ids, and the text and logprobs that belong to them. */
struct news {
    const int32_t *ids;
    uint32_t n_ids;
    const struct token_logprob *logprobs;
    size_t logprobs_bytes;
};

/* Room for a frame of these, and where its text begins; NULL: the client is let go. */
static char *frame_begin(struct request *r, const struct news *news, char **text)
{
    size_t before = sizeof(struct frame_header) + sizeof(struct frame_tokens) +
                    news->n_ids * sizeof(int32_t);
    char *at = client_room(r->client, before + news->logprobs_bytes +
        answer_text_room(r->client->sv, news->ids, news->n_ids));

    if (at != NULL)
        *text = at + before;
    return at;
}

/* The frame's text is there; the rest around it. One with nothing in it is not sent. */
static void frame_end(struct request *r, const struct news *news, enum frame_type type,
    struct frame_tokens t, char *at, size_t text_bytes)
{
    size_t ids_bytes = news->n_ids * sizeof(int32_t);
    struct frame_header h = {.type = (uint16_t)type, .id = r->number};

    if (news->n_ids == 0 && text_bytes == 0)
        return;
    t.fixed = sizeof(t);
    t.n_ids = news->n_ids;
    t.text_bytes = (uint32_t)text_bytes;
    t.logprobs_bytes = (uint32_t)news->logprobs_bytes;
    h.bytes = (uint32_t)(sizeof(t) + ids_bytes + text_bytes + news->logprobs_bytes);
    memcpy(at, &h, sizeof(h));
    memcpy(at + sizeof(h), &t, sizeof(t));
    if (ids_bytes > 0)
        memcpy(at + sizeof(h) + sizeof(t), news->ids, ids_bytes);
    if (news->logprobs_bytes > 0)
        memcpy(at + sizeof(h) + sizeof(t) + ids_bytes + text_bytes, news->logprobs,
            news->logprobs_bytes);
    r->client->out.n += sizeof(h) + h.bytes;
}

/* At most FRAME_IDS of what is new, with the text they complete; at the end what is left of it. */
static void send_tokens(struct request *r, struct answer *a)
{
    uint32_t n = a->n_ids - a->n_sent, each = request_logprobs(r);
    bool last = (a->ended || r->state == REQUEST_ENDED) && n <= FRAME_IDS;
    struct news news = {.ids = a->ids + a->n_sent, .n_ids = n < FRAME_IDS ? n : FRAME_IDS};
    struct frame_tokens t = {.choice = (uint32_t)(a - r->answers), .after = a->n_sent};
    size_t text_bytes = 0;
    char *at, *text;

    if (each > 0) {
        news.logprobs = a->logprobs + (size_t)a->n_sent * each;
        news.logprobs_bytes = (size_t)news.n_ids * each * sizeof(*news.logprobs);
    }
    at = frame_begin(r, &news, &text);
    if (at == NULL)
        return;
    if (r->task != TASK_TOKENIZE)
        text_bytes = answer_text(r, a, ANSWER_TOLD, a->n_sent, news.n_ids, text);
    if (last && r->task != TASK_TOKENIZE)
        text_bytes += answer_text_end(r, a, text + text_bytes);
    a->n_sent += news.n_ids;
    frame_end(r, &news, FRAME_TOKENS, t, at, text_bytes);
}

static uint32_t answers_untold(const struct request *r)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->n_answers; i++)
        n += !r->answers[i].told;
    return n;
}

static void send_done(struct request *r, struct answer *a)
{
    struct frame_done d = {
        .fixed = sizeof(d),
        .finish = a->finish,
        .choice = (uint32_t)(a - r->answers),
        .prompt_tokens = r->n_ids,
        .output_tokens = a->output_tokens,
        .restarts = r->restarts,
        .first_token_ns = r->first_ns ? r->first_ns - r->arrived_ns : 0,
        .total_ns = (r->ended_ns ? r->ended_ns : spin_now_ns()) - r->arrived_ns,
        .stop_kind = a->stop_kind,
        .stop = a->stop,
    };

    a->told = true;
    d.more = answers_untold(r);
    client_frame(r->client, FRAME_DONE, r->number, &d, sizeof(d), NULL, 0);
}

/* True when all that is known of it is told, but for its error. */
static bool send_answer(struct request *r, struct answer *a)
{
    while (a->n_sent < a->n_ids) {
        if (client_waiting(r->client) > OUT_MARK)
            return false;
        send_tokens(r, a);
        if (r->client->leaving)
            return false;
    }
    if (a->told || !(a->ended || r->state == REQUEST_ENDED))
        return true;
    send_tokens(r, a); /* what was held back, half a character that will never be whole */
    if (r->code == QUERN_CODE_NONE)
        send_done(r, a);
    a->told = true;
    return true;
}

/* The prompt ------------------------------------------------------------------------------- */

/* Its first n ids may be told: they are the model's, and the table of their texts is there. */
static uint32_t prompt_ready(const struct request *r)
{
    if (r->ids == NULL || r->state < REQUEST_RUNNING)
        return 0;
    if (request_scores(r) == 0)
        return r->n_ids;
    return r->n_ids == 1 || r->scores != NULL ? r->n_scored : 0;
}

static void send_prompt_ids(struct request *r, uint32_t n)
{
    struct token_logprob nothing[LOGPROBS_MOST + 1];
    uint32_t each = request_scores(r);
    struct news news = {.ids = r->ids + r->n_prompt_sent, .n_ids = n};
    struct frame_tokens t = {.after = r->n_prompt_sent};
    struct answer prompt = {.ids = r->ids, .decoders[ANSWER_TOLD] = r->prompt_decoder};
    size_t text_bytes;
    char *at, *text;

    for (int i = 0; i <= LOGPROBS_MOST; i++)
        nothing[i] = (struct token_logprob){.id = NO_ID};
    if (each > 0) {
        news.logprobs = r->scores != NULL ? r->scores + (size_t)r->n_prompt_sent * each : nothing;
        news.logprobs_bytes = (size_t)n * each * sizeof(*news.logprobs);
    }
    at = frame_begin(r, &news, &text);
    if (at == NULL)
        return;
    text_bytes = answer_text(r, &prompt, ANSWER_TOLD, r->n_prompt_sent, n, text);
    r->n_prompt_sent += n;
    if (r->n_prompt_sent == r->n_ids)
        text_bytes += answer_text_end(r, &prompt, text + text_bytes);
    r->prompt_decoder = prompt.decoders[ANSWER_TOLD];
    frame_end(r, &news, FRAME_PROMPT, t, at, text_bytes);
}

/* True when it is all told, or is not to be: only then an answer is. */
static bool send_prompt(struct request *r)
{
    uint32_t ready = prompt_ready(r);

    if (!request_echoes(r))
        return true;
    while (r->n_prompt_sent < ready) {
        uint32_t n = ready - r->n_prompt_sent;

        if (client_waiting(r->client) > OUT_MARK || r->client->leaving)
            return false;
        send_prompt_ids(r, n < FRAME_PROMPT_IDS ? n : FRAME_PROMPT_IDS);
    }
    return r->n_prompt_sent == r->n_ids || r->state == REQUEST_ENDED;
}

/* All of it -------------------------------------------------------------------------------- */

/* As after a restart, from the journal. */
static void go_on(struct request *r)
{
    if (r->state != REQUEST_PARKED || values_waiting(r))
        return;
    for (uint32_t i = 0; i < r->n_answers; i++)
        if (r->answers[i].n_ids - r->answers[i].n_sent > GO_ON_AT)
            return;
    request_move(r, REQUEST_QUEUED);
    request_queue(r, true);
}

/* True when all that is known of it is told, or has to wait for its prompt. */
static bool send_news(struct request *r)
{
    if (!send_prompt(r))
        return client_waiting(r->client) <= OUT_MARK && !r->client->leaving;
    if (!send_values(r))
        return false;
    for (uint32_t i = 0; i < r->n_answers; i++)
        if (!send_answer(r, &r->answers[i]))
            return false;
    go_on(r);
    if (r->state != REQUEST_ENDED)
        return true;
    if (r->code != QUERN_CODE_NONE)
        client_error(r->client, r->number, r->code, r->line != NULL ? r->line : "no memory");
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
