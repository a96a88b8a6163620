/* answers.c - the choices of a request: what each has produced, its text, and its end.
 *
 * Ids are journalled as they come; text is made of them twice, by the same
 * function: here where stop texts have to be found (what is known), and in
 * news.c as the client takes it (what is told). So where an answer ends does
 * not depend on who reads how fast, and it can be told again from any id. */
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "quern/spin.h"
#include "supervisor/supervisor.h"

_Static_assert((int)MOST_STOPS <= STOP_TEXTS_MOST && (int)MOST_STOP_BYTES <= STOP_TEXT_BYTES_MOST,
    "what a request may have is what can be looked for");

enum { PIECE = 256 }; /* bytes of a token that are decoded at a time */

/* Memory ---------------------------------------------------------------------------------- */

static uint32_t count_texts(struct param_bytes list)
{
    const char *text;
    uint32_t n = 0, bytes;

    while (list_next_text(&list, &text, &bytes))
        n++;
    return n;
}

static enum status open_stops(struct request *r)
{
    struct stop_text texts[STOP_TEXTS_MOST];
    struct param_bytes list = r->params.stop;
    uint32_t n = count_texts(list), bytes;

    if (n == 0)
        return STATUS_OK;
    for (uint32_t i = 0; i < n && list_next_text(&list, &texts[i].text, &bytes); i++)
        texts[i].bytes = bytes;
    return stop_texts_new(texts, (int)n, &r->stops);
}

enum status answers_open(struct request *r)
{
    enum status s = open_stops(r);

    r->n_answers = 1;
    if (params_has(&r->params, PARAM_CHOICES) && r->task == TASK_COMPLETE)
        r->n_answers = r->params.choices;
    r->answers = calloc(r->n_answers, sizeof(*r->answers));
    if (s == STATUS_OK && r->answers == NULL)
        s = log_fail(STATUS_NOMEM, "no memory for %u answers", r->n_answers);
    for (uint32_t i = 0; s == STATUS_OK && r->stops != NULL && i < r->n_answers; i++) {
        r->answers[i].scans = calloc(ANSWER_VIEWS, sizeof(struct stop_scan));
        if (r->answers[i].scans == NULL)
            s = log_fail(STATUS_NOMEM, "no memory for %u answers", r->n_answers);
    }
    return s;
}

void answers_free(struct request *r)
{
    for (uint32_t i = 0; r->answers != NULL && i < r->n_answers; i++) {
        free(r->answers[i].ids);
        free(r->answers[i].logprobs);
        free(r->answers[i].scans);
    }
    free(r->answers);
    stop_texts_free(r->stops);
    bytes_free(&r->rows);
    free(r->scores);
}

size_t answers_bytes(const struct request *r)
{
    size_t bytes = r->n_answers * sizeof(*r->answers);
    size_t each = sizeof(int32_t) + request_logprobs(r) * sizeof(struct token_logprob);

    for (uint32_t i = 0; i < r->n_answers; i++)
        bytes += r->answers[i].room * each +
                 (r->answers[i].scans != NULL ? ANSWER_VIEWS * sizeof(struct stop_scan) : 0);
    return bytes + (r->scores != NULL ? r->n_ids : 0) * request_scores(r) * sizeof(*r->scores);
}

static enum status grow(struct request *r, struct answer *a)
{
    uint32_t room = a->room ? 2 * a->room : 64, each = request_logprobs(r);
    int32_t *ids = realloc(a->ids, room * sizeof(*ids));
    struct token_logprob *logprobs;

    if (ids == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %u token ids", room);
    a->ids = ids;
    if (each > 0) {
        logprobs = realloc(a->logprobs, (size_t)room * each * sizeof(*logprobs));
        if (logprobs == NULL)
            return log_fail(STATUS_NOMEM, "no memory for the logprobs of %u tokens", room);
        a->logprobs = logprobs;
    }
    a->room = room;
    return STATUS_OK;
}

/* Text ------------------------------------------------------------------------------------ */

/* An id past the tokenizer's is one of the model's padding rows: it has no text. */
static size_t token_bytes(const struct supervisor *sv, int32_t id, const uint8_t **bytes)
{
    bool special;
    size_t count;

    return vocab_table_get(&sv->vocab, id, bytes, &count, &special) && !special ? count : 0;
}

size_t answer_text_room(const struct supervisor *sv, const int32_t *ids, uint32_t n)
{
    const uint8_t *bytes;
    size_t room = STREAM_DECODE_FLUSH_BYTES + STOP_TEXT_BYTES_MOST;

    for (uint32_t i = 0; i < n; i++)
        room += stream_decode_room(token_bytes(sv, ids[i], &bytes));
    return room;
}

/* Before so many ids nothing ends an answer. */
static uint32_t least_ids(const struct request *r)
{
    return params_has(&r->params, PARAM_MIN_TOKENS) ? r->params.min_tokens
                                                    : r->client->sv->facts.defaults.min_tokens;
}

/* Whole characters of the answer's `at`th id, or behind its last; what a stop text leaves of them. */
static size_t pass_on(const struct request *r, struct answer *a, enum answer_view view, uint32_t at,
    const char *text, size_t n, char *out)
{
    if (a->scans == NULL) {
        memcpy(out, text, n);
        return n;
    }
    if (at < least_ids(r))
        return stop_scan_pass(&a->scans[view], text, n, out);
    return stop_scan_feed(&a->scans[view], r->stops, r->params.include_stop, text, n, out);
}

/* out == NULL: the view goes on, its text is not wanted. */
static size_t id_text(const struct request *r, struct answer *a, enum answer_view view, uint32_t at,
    char *out)
{
    const uint8_t *bytes;
    size_t left = token_bytes(r->client->sv, a->ids[at], &bytes), written = 0, n;
    char text[3 * PIECE + STREAM_DECODE_FLUSH_BYTES], unwanted[sizeof(text) + STOP_TEXT_BYTES_MOST];

    for (size_t part; left > 0; left -= part, bytes += part) {
        part = left < PIECE ? left : PIECE;
        n = stream_decode_feed(&a->decoders[view], bytes, part, text);
        written += pass_on(r, a, view, at, text, n, out != NULL ? out + written : unwanted);
    }
    return written;
}

size_t answer_text(const struct request *r, struct answer *a, enum answer_view view, uint32_t from,
    uint32_t n, char *out)
{
    size_t written = 0;

    for (uint32_t i = 0; i < n; i++)
        written += id_text(r, a, view, from + i, out + written);
    return written;
}

size_t answer_text_end(const struct request *r, struct answer *a, char *out)
{
    char text[STREAM_DECODE_FLUSH_BYTES];
    size_t n = stream_decode_flush(&a->decoders[ANSWER_TOLD], text), written;

    written = pass_on(r, a, ANSWER_TOLD, UINT32_MAX, text, n, out);
    if (a->scans != NULL && !a->scans[ANSWER_TOLD].ended)
        written += stop_scan_end(&a->scans[ANSWER_TOLD], out + written);
    return written;
}

/* The text up to id `after` was told: the view is as it was behind it. */
void answer_rewind(struct request *r, struct answer *a, uint32_t after)
{
    a->decoders[ANSWER_TOLD] = (struct stream_decoder){0};
    if (a->scans != NULL)
        memset(&a->scans[ANSWER_TOLD], 0, sizeof(a->scans[ANSWER_TOLD]));
    a->n_sent = after;
    a->told = false;
    for (uint32_t i = 0; i < after; i++)
        id_text(r, a, ANSWER_TOLD, i, NULL);
}

/* What comes ----------------------------------------------------------------------------- */

void answers_count(struct request *r, int more)
{
    struct supervisor *sv = r->client->sv;

    r->n_running += (uint32_t)more;
    sv->n_running += (uint32_t)more;
    sv->n_running_at[r->params.priority - PRIORITY_LEAST] += (uint32_t)more;
}

/* Rank 0 has let go of it. */
static void let_go(struct request *r, struct answer *a)
{
    a->running = false;
    answers_count(r, -1);
}

void answer_end(struct request *r, struct answer *a, enum quern_finish finish, uint32_t output_tokens)
{
    a->ended = true;
    a->finish = finish;
    a->output_tokens = output_tokens;
    request_has_news(r);
}

/* Is it over with the id that has just come? */
static void look_for_stops(struct request *r, struct answer *a)
{
    if (a->scans == NULL)
        return;
    id_text(r, a, ANSWER_KNOWN, a->n_ids - 1, NULL);
    if (!a->scans[ANSWER_KNOWN].ended)
        return;
    a->stopped = true;
    a->stop_kind = STOP_TEXT;
    a->stop = a->scans[ANSWER_KNOWN].which;
    request_withdraw(r);
}

static enum status journal(struct request *r, struct answer *a, int32_t id,
    const struct token_logprob *logprobs)
{
    uint32_t each = request_logprobs(r);

    if (a->n_ids == a->room && grow(r, a) != STATUS_OK)
        return STATUS_NOMEM;
    if (each > 0)
        memcpy(a->logprobs + (size_t)a->n_ids * each, logprobs, each * sizeof(*logprobs));
    a->ids[a->n_ids++] = id;
    look_for_stops(r, a);
    return STATUS_OK;
}

void request_give_up(struct request *r, enum quern_code code, const char *line)
{
    if (r->code != QUERN_CODE_NONE)
        return;
    r->code = code;
    r->line = strdup(line);
    if (r->n_running > 0)
        request_withdraw(r);
    else
        request_end(r);
}

/* Its client does not read. Not while the prompt is being scored: before that is told, no answer can
 * be, so it would not go on. */
static bool too_much_waits(const struct request *r, const struct answer *a)
{
    size_t each = sizeof(int32_t) + request_logprobs(r) * sizeof(struct token_logprob), bytes = 0;

    if (r->parking || r->client == r->client->sv->nobody ||
        (request_scores(r) > 0 && r->n_scored < r->n_ids))
        return false;
    for (uint32_t i = 0; i < r->n_answers; i++)
        bytes += (r->answers[i].n_ids - r->answers[i].n_sent) * each;
    return a->n_ids - a->n_sent >= PARK_AT || bytes >= PARK_BYTES;
}

void answer_take_id(struct request *r, struct answer *a, int32_t id,
    const struct token_logprob *logprobs)
{
    if (a->stopped || a->n_ids >= r->params.max_tokens)
        return;
    if (r->first_ns == 0)
        r->first_ns = spin_now_ns();
    if (journal(r, a, id, logprobs) != STATUS_OK) {
        request_give_up(r, QUERN_CODE_OVERLOADED, log_last_error());
        return;
    }
    if (too_much_waits(r, a)) {
        r->parking = true;
        request_withdraw(r);
    }
    request_has_news(r);
}

void answer_take_score(struct request *r, uint32_t position, const struct token_logprob *logprobs)
{
    uint32_t each = request_scores(r);

    if (position != r->n_scored || position >= r->n_ids)
        return;
    if (r->scores == NULL) {
        r->scores = calloc((size_t)r->n_ids * each, sizeof(*r->scores));
        if (r->scores == NULL) {
            request_give_up(r, QUERN_CODE_OVERLOADED, "no memory for the logprobs of the prompt");
            return;
        }
        for (uint32_t i = 0; i < each; i++)
            r->scores[i].id = NO_ID; /* the first id follows nothing */
    }
    memcpy(r->scores + (size_t)position * each, logprobs, each * sizeof(*logprobs));
    r->n_scored++;
    request_has_news(r);
}

void answer_take_done(struct request *r, struct answer *a, const struct token_msg *m)
{
    bool parked = r->parking && !r->cancelled && m->finish == QUERN_FINISH_CANCELLED;

    let_go(r, a);
    if (m->finish == QUERN_FINISH_STOP && !a->stopped) {
        a->stop_kind = m->is_eos ? STOP_EOS : STOP_ID;
        a->stop = m->token;
    }
    if (a->stopped)
        answer_end(r, a, QUERN_FINISH_STOP, a->n_ids);
    else if (!parked)
        answer_end(r, a, m->finish <= QUERN_FINISH_CANCELLED ? (enum quern_finish)m->finish
                                                             : QUERN_FINISH_CANCELLED,
            a->n_before + m->output_tokens);
    if (r->n_running > 0)
        return;
    if (answers_ended(r) || r->code != QUERN_CODE_NONE)
        request_end(r);
    else
        request_park(r);
}

/* One of them is broken: none can be told. */
void answer_take_broken(struct request *r, struct answer *a, enum quern_code code, const char *line)
{
    let_go(r, a);
    if (r->code == QUERN_CODE_NONE)
        request_give_up(r, code, line);
    else if (r->n_running == 0)
        request_end(r);
}

bool answers_ended(const struct request *r)
{
    for (uint32_t i = 0; i < r->n_answers; i++)
        if (!r->answers[i].ended)
            return false;
    return true;
}

/* No rank has any of them any more; they go on from the journal, but those that were whole. */
void answers_take_back(struct request *r)
{
    const struct supervisor *sv = r->client->sv;

    for (uint32_t i = 0; i < r->n_answers; i++) {
        struct answer *a = &r->answers[i];

        if (a->running)
            let_go(r, a);
        a->withdrawn = false;
        if (a->ended)
            continue;
        if (a->stopped)
            answer_end(r, a, QUERN_FINISH_STOP, a->n_ids);
        else if (wants_values(r) && r->n_values == values_wanted(r))
            answer_end(r, a, QUERN_FINISH_STOP, 0);
        else if (wants_values(r))
            continue;
        else if (a->n_ids >= r->params.max_tokens ||
                 r->n_ids + a->n_ids >= sv->facts.max_model_len)
            answer_end(r, a, QUERN_FINISH_LENGTH, a->n_ids);
    }
}
