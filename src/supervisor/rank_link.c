/* rank_link.c - to rank 0 and back.
 *
 * No more requests are with rank 0 than it has slots for (and a few, so that
 * none stands empty): the others wait here, where clients take turns. One that
 * is more urgent does not count those that are less: rank 0 gives it the next
 * slot, before them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

enum { AHEAD = 2, MOST_CROWDS = 8 /* with rank 0, of as many as it has room for */ };

/* To rank 0 ------------------------------------------------------------------------------- */

/* ids [n] `stride` bytes apart, not aligned; what: whose they are, as in "token id 7". */
static bool in_range(uint32_t vocab, const char *what, const void *ids, size_t n, size_t stride,
    char line[LOG_LINE_BYTES])
{
    for (size_t i = 0; i < n; i++) {
        int32_t id;

        memcpy(&id, (const char *)ids + i * stride, sizeof(id));
        if (id >= 0 && (uint32_t)id < vocab)
            continue;
        snprintf(line, LOG_LINE_BYTES, "%s %d is out of range: this model has ids 0 to %u", what, id,
            vocab - 1);
        return false;
    }
    return true;
}

static bool check_ids(const struct model_facts *f, const struct request *r, char line[LOG_LINE_BYTES])
{
    const struct params *p = &r->params;
    struct param_bytes runs = p->bad_ids;
    const unsigned char *run;
    bool whole = true;
    uint32_t n;

    while (list_next_run(&runs, &run, &n))
        if (!in_range(f->vocab, "bad_ids: token id", run, n, sizeof(int32_t), line))
            return false;
    if (p->bad_ids.n / sizeof(int32_t) + r->n_bad_ids > BAD_WORDS) {
        snprintf(line, LOG_LINE_BYTES, "bad_ids and bad_words: %zu ids and counts, at most %d are possible",
            p->bad_ids.n / sizeof(int32_t) + r->n_bad_ids, BAD_WORDS);
        return false;
    }
    runs = (struct param_bytes){(const unsigned char *)r->bad_ids,
        r->n_bad_ids * (uint32_t)sizeof(int32_t)};
    while (whole && list_next_run(&runs, &run, &n)) { /* an added token may be past the vocabulary */
        whole = n > 0;
        if (!in_range(f->vocab, "bad_words: token id", run, n, sizeof(int32_t), line))
            return false;
    }
    if (!whole || runs.n > 0) {
        snprintf(line, LOG_LINE_BYTES, "bad_words: the text worker gave no list of ids");
        return false;
    }
    return in_range(f->vocab, "token id", r->ids, r->n_ids, sizeof(int32_t), line) &&
           in_range(f->vocab, "logit_bias: token id", p->logit_bias.at, p->logit_bias.n / 8, 8, line) &&
           in_range(f->vocab, "stop_ids: token id", p->stop_ids.at, p->stop_ids.n / 4, 4, line) &&
           in_range(f->width, "value_ids: id", p->value_ids.at, p->value_ids.n / 4, 4, line);
}

/* What this model can do. */
static bool check_task(const struct model_facts *f, const struct request *r, char line[LOG_LINE_BYTES])
{
    const struct params *p = &r->params;

    line[0] = '\0';
    if (r->task == TASK_COMPLETE && f->width != f->vocab)
        snprintf(line, LOG_LINE_BYTES, "this model scores its prompt with %u labels, it completes "
            "nothing: ask for its logits", f->width);
    else if (r->task == TASK_EMBED && p->dimensions > f->hidden)
        snprintf(line, LOG_LINE_BYTES, "dimensions %u: this model's embeddings have %u", p->dimensions,
            f->hidden);
    else if (r->task == TASK_LOGITS && p->last > r->n_ids)
        snprintf(line, LOG_LINE_BYTES, "last %u: the prompt has %u tokens", p->last, r->n_ids);
    return line[0] == '\0';
}

static enum quern_code check_prompt(const struct supervisor *sv, const struct request *r,
    char line[LOG_LINE_BYTES])
{
    const struct model_facts *f = &sv->facts;

    if (r->n_ids == 0) {
        snprintf(line, LOG_LINE_BYTES, "the prompt is empty: give it at least one character");
        return QUERN_CODE_BAD_REQUEST;
    }
    if (r->n_ids + (r->task == TASK_COMPLETE) > f->max_model_len) {
        snprintf(line, LOG_LINE_BYTES, "the prompt has %u tokens, the context holds %u%s: shorten it%s",
            r->n_ids, f->max_model_len,
            r->task == TASK_COMPLETE ? " with at least one new one" : "",
            sv->config.max_model_len ? " or raise --max-model-len" : "");
        return QUERN_CODE_TOO_LONG;
    }
    return check_ids(f, r, line) && check_task(f, r, line) ? QUERN_CODE_NONE
                                                           : QUERN_CODE_BAD_REQUEST;
}

/* As the request has it, or else the model. */
static float real_or(const struct params *p, enum param_key key, float given, float fallback)
{
    return params_has(p, key) ? given : fallback;
}

static struct sampling sampling_of(const struct params *p, const struct sampling *defaults)
{
    return (struct sampling){
        .temperature = real_or(p, PARAM_TEMPERATURE, p->temperature, defaults->temperature),
        .top_p = real_or(p, PARAM_TOP_P, p->top_p, defaults->top_p),
        .min_p = real_or(p, PARAM_MIN_P, p->min_p, defaults->min_p),
        .top_k = params_has(p, PARAM_TOP_K) ? (int32_t)p->top_k : defaults->top_k,
        .repetition = real_or(p, PARAM_REPETITION_PENALTY, p->repetition_penalty,
            defaults->repetition),
        .frequency = p->frequency_penalty,
        .presence = p->presence_penalty,
        .seed = p->seed,
        .logprobs = params_has(p, PARAM_LOGPROBS) ? 1 + p->logprobs : 0,
        .min_tokens = params_has(p, PARAM_MIN_TOKENS) ? p->min_tokens : defaults->min_tokens,
        .n_bias = p->logit_bias.n / (uint32_t)sizeof(int32_t),
    };
}

/* Its part of the payload, in words: the choice, a count, ids. */
static uint32_t answer_words(const struct answer *a)
{
    return a->ended ? 0 : 2 + a->n_ids;
}

static char *put(char *at, const void *from, size_t bytes)
{
    if (bytes > 0)
        memcpy(at, from, bytes);
    return at + bytes;
}

/* As request_msg lays it out. */
static void write_payload(const struct request *r, char *at)
{
    const struct params *p = &r->params;

    at = put(at, r->ids, r->n_ids * sizeof(int32_t));
    for (uint32_t i = 0; i < r->n_answers; i++) {
        const struct answer *a = &r->answers[i];
        const uint32_t head[] = {i, a->n_ids};

        if (a->ended)
            continue;
        at = put(at, head, sizeof(head));
        at = put(at, a->ids, a->n_ids * sizeof(int32_t));
    }
    at = put(at, p->logit_bias.at, p->logit_bias.n);
    at = put(at, p->bad_ids.at, p->bad_ids.n);
    at = put(at, r->bad_ids, r->n_bad_ids * sizeof(int32_t));
    put(at, p->stop_ids.at, p->stop_ids.n);
}

static uint16_t flags_of(const struct request *r)
{
    uint16_t flags = r->params.ignore_eos ? REQUEST_IGNORE_EOS : 0;

    return flags | (r->task == TASK_EMBED ? REQUEST_POOL : r->task == TASK_LOGITS ? REQUEST_LOGITS : 0);
}

/* All but the payload's place. */
static struct request_msg message_of(const struct supervisor *sv, const struct request *r)
{
    const struct params *p = &r->params;
    struct request_msg m = {
        .generation = sv->shared.generation,
        .kind = REQUEST_SUBMIT,
        .flags = flags_of(r),
        .id = r->id,
        .n_prompt = r->n_ids,
        .n_stops = p->stop_ids.n / (uint32_t)sizeof(int32_t),
        .max_tokens = p->max_tokens,
        .guesses = p->speculate,
        .score = r->n_scored < r->n_ids ? request_scores(r) : 0,
        .score_from = r->n_scored,
        .last = values_wanted(r) - r->n_values,
        .priority = p->priority,
        .arrived_ns = r->first_ns == 0 ? r->arrived_ns : 0,
        .sampling = sampling_of(p, &sv->facts.defaults),
    };

    m.sampling.n_bad = p->bad_ids.n / (uint32_t)sizeof(int32_t) + r->n_bad_ids;
    m.n_words = r->n_ids + m.sampling.n_bias + m.sampling.n_bad + m.n_stops;
    for (uint32_t i = 0; i < r->n_answers; i++) {
        m.n_answers += !r->answers[i].ended;
        m.n_words += answer_words(&r->answers[i]);
    }
    return m;
}

/* The prompt, and behind it what each answer has produced before a restart. */
static enum status push_one(struct supervisor *sv, struct request *r)
{
    struct shared *g = &sv->shared;
    struct request_msg m = message_of(sv, r);
    size_t bytes = m.n_words * sizeof(int32_t);
    void *slot;
    enum status s = ring_reserve(&g->requests, &slot);

    if (s == STATUS_OK)
        s = ring_buffer_alloc(&g->request_bytes, bytes, &m.at, &m.end);
    if (s != STATUS_OK)
        return s;
    write_payload(r, ring_buffer_at(&g->request_bytes, m.at, bytes));
    *(struct request_msg *)slot = m;
    ring_publish(&g->requests);
    return STATUS_OK;
}

static enum status push_cancel(struct supervisor *sv, const struct request *r, uint32_t choice)
{
    void *slot;
    enum status s = ring_reserve(&sv->shared.requests, &slot);

    if (s != STATUS_OK)
        return s;
    *(struct request_msg *)slot = (struct request_msg){.generation = sv->shared.generation,
        .kind = REQUEST_CANCEL, .id = r->id, .choice = choice};
    ring_publish(&sv->shared.requests);
    return STATUS_OK;
}

/* All of it, or the answers that a stop text has ended. */
static enum status withdraw(struct supervisor *sv, struct request *r)
{
    enum status s = STATUS_OK;

    if (r->cancelled || r->parking || r->code != QUERN_CODE_NONE)
        return push_cancel(sv, r, ALL_CHOICES);
    for (uint32_t i = 0; s == STATUS_OK && i < r->n_answers; i++) {
        struct answer *a = &r->answers[i];

        if (!a->stopped || !a->running || a->withdrawn)
            continue;
        s = push_cancel(sv, r, i);
        a->withdrawn = s == STATUS_OK;
    }
    return s;
}

static bool push_withdrawn(struct supervisor *sv)
{
    bool pushed = false;

    while (!list_empty(&sv->withdrawn)) {
        struct request *r = LIST_OF(sv->withdrawn.next, struct request, withdrawn);

        if (withdraw(sv, r) != STATUS_OK)
            break;
        list_remove(&r->withdrawn);
        pushed = true;
    }
    return pushed;
}

static void note_running(struct supervisor *sv, struct request *r)
{
    request_move(r, REQUEST_RUNNING);
    if (request_echoes(r))
        request_has_news(r);
    if (sv->n_running == 0) {
        sv->progress_since_ns = spin_now_ns();
        sv->watch_new = true;
    }
    for (uint32_t i = 0; i < r->n_answers; i++) {
        struct answer *a = &r->answers[i];

        if (a->ended)
            continue;
        a->running = true;
        a->n_before = a->n_ids;
        answers_count(r, 1);
    }
}

static bool has_room(const struct supervisor *sv, const struct request *r)
{
    uint32_t crowd = sv->facts.max_seqs + AHEAD, as_urgent = 0;

    if (sv->n_running < crowd || sv->n_running >= MOST_CROWDS * crowd)
        return sv->n_running < crowd;
    for (int32_t p = 0; p <= r->params.priority - PRIORITY_LEAST; p++)
        as_urgent += sv->n_running_at[p];
    return as_urgent < crowd;
}

static bool push_waiting(struct supervisor *sv)
{
    char line[LOG_LINE_BYTES];
    struct request *r;
    bool pushed = false;

    while ((r = turn_first(sv, FOR_LEADER)) != NULL && has_room(sv, r)) {
        enum quern_code code = check_prompt(sv, r, line);
        enum status s = code == QUERN_CODE_NONE ? push_one(sv, r) : STATUS_INVALID;

        if (s == STATUS_AGAIN || s == STATUS_CLOSED)
            break;
        if (s == STATUS_INTERNAL) {
            ranks_fail(sv, log_last_error());
            break;
        }
        turn_taken(r);
        if (s != STATUS_OK) {
            request_fail(r, code != QUERN_CODE_NONE ? code : QUERN_CODE_TOO_LONG,
                code != QUERN_CODE_NONE ? line : log_last_error());
            continue;
        }
        note_running(sv, r);
        pushed = true;
    }
    return pushed;
}

void ranks_push(struct supervisor *sv)
{
    bool pushed;

    if (sv->state != SUPERVISOR_SERVING)
        return;
    pushed = push_withdrawn(sv);
    pushed |= push_waiting(sv);
    if (pushed)
        doorbell_ring(&sv->shared.rank_bells[0]);
}

/* And back -------------------------------------------------------------------------------- */

/* Why rank 0 does not run it, or no longer. */
static enum quern_code error_of(const struct token_msg *m, char line[LOG_LINE_BYTES])
{
    switch (m->error) {
    case TOKEN_ERROR_TOO_LARGE:
        snprintf(line, LOG_LINE_BYTES, "the request needs %llu KV blocks, there are %llu: ask for fewer "
            "tokens, or give the server more --memory or --kv-blocks", (unsigned long long)m->detail[0],
            (unsigned long long)m->detail[1]);
        return QUERN_CODE_TOO_LONG;
    case TOKEN_ERROR_LOGITS:
        snprintf(line, LOG_LINE_BYTES, "step %llu gave logits that are not finite: a weight of this "
            "checkpoint may be damaged; with QUERN_CHECK_FINITE=1 the first layer that they come from "
            "is named", (unsigned long long)m->detail[0]);
        return QUERN_CODE_MODEL;
    case TOKEN_ERROR_NO_MEMORY:
    default:
        snprintf(line, LOG_LINE_BYTES, "rank 0 has no memory for another request: try again later");
        return QUERN_CODE_OVERLOADED;
    }
}

static void take_error(struct request *r, struct answer *a, const struct token_msg *m)
{
    char line[LOG_LINE_BYTES];
    enum quern_code code = error_of(m, line);

    if (m->error == TOKEN_ERROR_LOGITS)
        answer_take_broken(r, a, code, line);
    else
        request_fail(r, code, line); /* it has none of them */
}

/* Logprobs of one id: as many as were asked for, or NULL; their ids are only told. */
static const struct token_logprob *logprobs_of(const struct supervisor *sv, const struct token_msg *m,
    uint32_t n)
{
    return m->bytes == n * sizeof(struct token_logprob)
               ? ring_buffer_at(&sv->shared.token_bytes, m->at, m->bytes)
               : NULL;
}

static void take_values(const struct supervisor *sv, struct request *r, const struct token_msg *m)
{
    uint32_t columns = r->task == TASK_EMBED ? sv->facts.hidden : sv->facts.width;
    const void *row = ring_buffer_at(&sv->shared.token_bytes, m->at, m->bytes);

    if (wants_values(r) && row != NULL && m->bytes == columns * sizeof(float))
        request_take_values(r, m->position, row, m->bytes);
}

static void take_one(struct supervisor *sv, struct request *r, const struct token_msg *m)
{
    struct answer *a = m->choice < r->n_answers ? &r->answers[m->choice] : NULL;
    const struct token_logprob *logprobs;

    if (a == NULL || !a->running)
        return; /* rank 0 does not tell such things: its memory was damaged */
    switch (m->kind) {
    case TOKEN_ID:
        logprobs = logprobs_of(sv, m, request_logprobs(r));
        if (m->token >= 0 && (uint32_t)m->token < sv->facts.vocab && logprobs != NULL)
            answer_take_id(r, a, m->token, logprobs);
        break;
    case TOKEN_SCORED:
        logprobs = logprobs_of(sv, m, request_scores(r));
        if (m->bytes > 0 && logprobs != NULL)
            answer_take_score(r, m->position, logprobs);
        break;
    case TOKEN_VALUES: take_values(sv, r, m); break;
    case TOKEN_DONE: answer_take_done(r, a, m); break;
    case TOKEN_ERROR: take_error(r, a, m); break;
    default: break;
    }
}

enum status ranks_take_tokens(struct supervisor *sv)
{
    const void *slot;
    bool took = false;
    enum status s;

    if (sv->shared.control == NULL)
        return STATUS_OK;
    while ((s = ring_peek(&sv->shared.tokens, &slot)) == STATUS_OK) {
        struct token_msg m = *(const struct token_msg *)slot;
        struct request *r = request_find(sv, m.id);

        took = true;
        if (r != NULL && r->state == REQUEST_RUNNING)
            take_one(sv, r, &m);
        if (m.bytes > 0)
            s = ring_buffer_release(&sv->shared.token_bytes, m.end);
        ring_release(&sv->shared.tokens);
        if (s != STATUS_OK)
            return s;
    }
    if (took)
        doorbell_ring(&sv->shared.leader_room);
    return s < 0 ? s : STATUS_OK;
}
