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

static enum quern_code check_prompt(const struct supervisor *sv, const struct request *r,
    char line[LOG_LINE_BYTES])
{
    const struct model_facts *f = &sv->facts;

    if (r->n_ids == 0) {
        snprintf(line, LOG_LINE_BYTES, "the prompt is empty: give it at least one character");
        return QUERN_CODE_BAD_REQUEST;
    }
    if (r->n_ids >= f->max_model_len) {
        snprintf(line, LOG_LINE_BYTES, "the prompt has %u tokens, the context holds %u with at "
            "least one new one: shorten it%s", r->n_ids, f->max_model_len,
            sv->config.max_model_len ? " or raise --max-model-len" : "");
        return QUERN_CODE_TOO_LONG;
    }
    for (uint32_t i = 0; i < r->n_ids; i++)
        if (r->ids[i] < 0 || (uint32_t)r->ids[i] >= f->vocab) {
            snprintf(line, LOG_LINE_BYTES, "token id %d is out of range: this model has ids 0 to %u",
                r->ids[i], f->vocab - 1);
            return QUERN_CODE_BAD_REQUEST;
        }
    return QUERN_CODE_NONE;
}

static struct sampling sampling_of(const struct params *p, const struct sampling *defaults)
{
    return (struct sampling){
        .temperature = params_has(p, PARAM_TEMPERATURE) ? p->temperature : defaults->temperature,
        .top_p = params_has(p, PARAM_TOP_P) ? p->top_p : defaults->top_p,
        .min_p = params_has(p, PARAM_MIN_P) ? p->min_p : defaults->min_p,
        .top_k = params_has(p, PARAM_TOP_K) ? (int32_t)p->top_k : defaults->top_k,
        .seed = p->seed,
    };
}

/* The prompt, and behind it what it has produced before a restart. */
static enum status push_one(struct supervisor *sv, struct request *r)
{
    struct shared *g = &sv->shared;
    size_t prompt = (size_t)r->n_ids * sizeof(int32_t);
    size_t produced = (size_t)r->n_produced * sizeof(int32_t);
    struct request_msg m = {
        .generation = g->generation,
        .kind = REQUEST_SUBMIT,
        .flags = r->params.ignore_eos ? REQUEST_IGNORE_EOS : 0,
        .id = r->id,
        .n_ids = r->n_ids + r->n_produced,
        .n_prompt = r->n_ids,
        .max_tokens = r->params.max_tokens - r->n_produced,
        .priority = r->params.priority,
        .arrived_ns = r->n_produced == 0 ? r->arrived_ns : 0,
        .sampling = sampling_of(&r->params, &sv->facts.defaults),
    };
    void *slot;
    char *at;
    enum status s = ring_reserve(&g->requests, &slot);

    if (s == STATUS_OK)
        s = ring_buffer_alloc(&g->request_bytes, prompt + produced, &m.ids_at, &m.ids_end);
    if (s != STATUS_OK)
        return s;
    at = ring_buffer_at(&g->request_bytes, m.ids_at, prompt + produced);
    memcpy(at, r->ids, prompt);
    if (produced > 0)
        memcpy(at + prompt, r->produced, produced);
    *(struct request_msg *)slot = m;
    ring_publish(&g->requests);
    return STATUS_OK;
}

static bool push_withdrawn(struct supervisor *sv)
{
    bool pushed = false;
    void *slot;

    while (!list_empty(&sv->withdrawn) &&
           ring_reserve(&sv->shared.requests, &slot) == STATUS_OK) {
        struct request *r = LIST_OF(sv->withdrawn.next, struct request, withdrawn);

        *(struct request_msg *)slot = (struct request_msg){
            .generation = sv->shared.generation, .kind = REQUEST_CANCEL, .id = r->id};
        ring_publish(&sv->shared.requests);
        list_remove(&r->withdrawn);
        pushed = true;
    }
    return pushed;
}

static void note_running(struct supervisor *sv, struct request *r)
{
    request_move(r, REQUEST_RUNNING);
    r->n_before = r->n_produced;
    if (sv->n_running++ == 0) {
        sv->progress_since_ns = spin_now_ns();
        sv->watch_new = true;
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

static void take_token(struct supervisor *sv, struct request *r, int32_t token)
{
    if (token < 0 || (uint32_t)token >= sv->facts.vocab ||
        r->n_produced >= r->params.max_tokens)
        return; /* rank 0 does not tell such things: its memory was damaged */
    if (r->first_ns == 0)
        r->first_ns = spin_now_ns();
    if (journal(r, token) != STATUS_OK) {
        r->code = QUERN_CODE_OVERLOADED; /* how it will end, whatever rank 0 says */
        r->line = strdup(log_last_error());
        request_stop(r);
        return;
    }
    if (r->n_produced - r->n_sent >= PARK_AT && r->client != sv->nobody && !r->parking) {
        r->parking = true;
        request_withdraw(r);
    }
    request_has_news(r);
}

static void take_error(struct request *r, const struct token_msg *m)
{
    char line[LOG_LINE_BYTES];

    switch (m->error) {
    case TOKEN_ERROR_TOO_LARGE:
        snprintf(line, sizeof(line), "the request needs %llu KV blocks, there are %llu: ask for fewer "
            "tokens, or give the server more --memory or --kv-blocks", (unsigned long long)m->detail[0],
            (unsigned long long)m->detail[1]);
        request_fail(r, QUERN_CODE_TOO_LONG, line);
        return;
    case TOKEN_ERROR_LOGITS:
        snprintf(line, sizeof(line), "step %llu gave logits that are not finite: a weight of this "
            "checkpoint may be damaged; with QUERN_CHECK_FINITE=1 the first layer that they come from "
            "is named", (unsigned long long)m->detail[0]);
        request_fail(r, QUERN_CODE_MODEL, line);
        return;
    case TOKEN_ERROR_NO_MEMORY:
    default:
        request_fail(r, QUERN_CODE_OVERLOADED, "rank 0 has no memory for another request: try again "
            "later");
    }
}

static void take_done(struct request *r, const struct token_msg *m)
{
    if (r->code != QUERN_CODE_NONE)
        request_end(r);
    else if (r->parking && !r->cancelled && m->finish == QUERN_FINISH_CANCELLED)
        request_park(r);
    else
        request_finish(r, m->finish <= QUERN_FINISH_CANCELLED ? (enum quern_finish)m->finish
                                                              : QUERN_FINISH_CANCELLED,
            r->n_before + m->output_tokens);
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

        ring_release(&sv->shared.tokens);
        took = true;
        if (r == NULL || r->state != REQUEST_RUNNING)
            continue;
        if (m.kind == TOKEN_ID)
            take_token(sv, r, m.token);
        else if (m.kind == TOKEN_DONE)
            take_done(r, &m);
        else
            take_error(r, &m);
    }
    if (took)
        doorbell_ring(&sv->shared.leader_room);
    return s < 0 ? s : STATUS_OK;
}
