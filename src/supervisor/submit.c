/* submit.c - SUBMIT, CANCEL and RESUME, as a client sends them.
 *
 * Everything that a stranger may have written is checked here, once; from here
 * on a request is one of ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

static enum quern_code code_of(enum status s)
{
    return s == STATUS_UNKNOWN ? QUERN_CODE_UNKNOWN
           : s == STATUS_NOMEM ? QUERN_CODE_OVERLOADED
                               : QUERN_CODE_BAD_REQUEST;
}

static enum status check_submit(const struct frame_submit *f, size_t rest)
{
    if ((uint64_t)f->params_bytes + f->prompt_bytes != rest)
        return log_fail(STATUS_INVALID, "%u bytes of parameters and %u of prompt are not the %zu that "
            "follow", f->params_bytes, f->prompt_bytes, rest);
    if (f->flags != 0)
        return log_fail(STATUS_UNKNOWN, "flags %#x: this version of quern does not have them", f->flags);
    if (f->task > TASK_LOGITS)
        return log_fail(STATUS_UNKNOWN, "task %u: there are 0 (complete), 1 (tokenize), 2 (embed) and 3 "
            "(logits)", f->task);
    if (f->prompt > PROMPT_CHAT)
        return log_fail(STATUS_UNKNOWN, "a prompt of kind %u: there are 0 (text), 1 (ids), 2 (chat)",
            f->prompt);
    if (f->prompt_bytes == 0)
        return log_fail(STATUS_INVALID, "the prompt is empty: give it at least one character");
    if (f->prompt == PROMPT_IDS && f->prompt_bytes % sizeof(int32_t) != 0)
        return log_fail(STATUS_INVALID, "%u bytes of token ids are no whole number of them",
            f->prompt_bytes);
    return STATUS_OK;
}

/* What is not given and not the model's. */
static void complete_params(struct params *p)
{
    if (!params_has(p, PARAM_MAX_TOKENS))
        p->max_tokens = 256;
    if (!params_has(p, PARAM_SEED))
        p->seed = random_u64();
    while (p->key == 0)
        p->key = random_u64();
}

static enum status copy_params(struct request *r, const void *params, size_t bytes)
{
    r->params_mem = malloc(bytes + 1);
    if (r->params_mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %zu bytes of parameters", bytes);
    memcpy(r->params_mem, params, bytes);
    return params_read(r->params_mem, bytes, &r->params);
}

static enum status copy_ids(struct request *r, const void *ids, size_t bytes)
{
    r->n_ids = (uint32_t)(bytes / sizeof(int32_t));
    r->ids = malloc(bytes);
    if (r->ids == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %u token ids", r->n_ids);
    memcpy(r->ids, ids, bytes);
    return STATUS_OK;
}

/* They count as prompts do. */
static size_t lists_bytes(const struct params *p)
{
    return (size_t)p->logit_bias.n + p->bad_words.n + p->bad_ids.n + p->stop.n + p->stop_ids.n +
           p->value_ids.n;
}

/* At most: a text has no more ids than bytes. */
static size_t scores_bytes(const struct request *r, const struct frame_submit *f)
{
    size_t ids = f->prompt == PROMPT_IDS ? f->prompt_bytes / sizeof(int32_t) : f->prompt_bytes;

    return ids * request_scores(r) * sizeof(struct token_logprob);
}

static enum status fill(struct request *r, const struct frame_submit *f, const void *params,
    const void *prompt)
{
    enum status s = copy_params(r, params, f->params_bytes);

    if (s != STATUS_OK)
        return s;
    complete_params(&r->params);
    r->key = r->params.key;
    r->task = (enum submit_task)f->task;
    r->prompt = (enum prompt_kind)f->prompt;
    r->arrived_ns = spin_now_ns();
    r->n_scored = 1; /* the prompt's first id follows nothing */
    s = answers_open(r);
    if (s != STATUS_OK)
        return s;
    r->prompt_bytes = f->prompt_bytes + lists_bytes(&r->params) + answers_bytes(r) -
                      sizeof(struct answer) + scores_bytes(r, f); /* every request has one */
    r->state = r->prompt != PROMPT_IDS || r->params.bad_words.n > 0 ? REQUEST_NEW : REQUEST_QUEUED;
    if (r->prompt == PROMPT_IDS)
        return copy_ids(r, prompt, f->prompt_bytes);
    return bytes_add(&r->data, prompt, f->prompt_bytes);
}

static void discard(struct request *r)
{
    answers_free(r);
    bytes_free(&r->data);
    free(r->params_mem);
    free(r->ids);
    free(r);
}

static enum status add(struct client *c, uint64_t number, const struct frame_submit *f,
    const void *params, const void *prompt, enum quern_code *code)
{
    struct request *r = calloc(1, sizeof(*r));
    enum status s;

    if (r == NULL)
        return log_fail(STATUS_NOMEM, "no memory for another request");
    r->number = number;
    s = fill(r, f, params, prompt);
    *code = code_of(s);
    if (s == STATUS_OK && hash_map_get(&c->sv->keys, r->key) != NULL) {
        *code = QUERN_CODE_NUMBER_IN_USE;
        s = log_fail(STATUS_INVALID, "a request with the key %#llx is there: use another, or RESUME it",
            (unsigned long long)r->key);
    }
    if (s == STATUS_OK)
        s = request_place(c->sv, c, r, code);
    if (s != STATUS_OK) {
        discard(r);
        return s;
    }
    if (r->state == REQUEST_QUEUED)
        request_accept(r);
    if (r->state == REQUEST_NEW || r->state == REQUEST_QUEUED)
        request_queue(r, false);
    return STATUS_OK;
}

bool may_ask(struct client *c, uint64_t number)
{
    struct supervisor *sv = c->sv;

    if (sv->state >= SUPERVISOR_STOPPING)
        client_error(c, number, sv->failure[0] ? sv->failure_code : QUERN_CODE_STOPPING,
            sv->failure[0] ? sv->failure : "the server is stopping");
    else if (hash_map_get(&c->numbers, number) != NULL)
        client_error(c, number, QUERN_CODE_NUMBER_IN_USE, "a request with this number is running: "
            "use another");
    else
        return true;
    return false;
}

void take_submit(struct client *c, const struct frame_header *h, const void *payload)
{
    struct frame_submit f;
    const char *rest;
    size_t rest_bytes;
    enum quern_code code;
    enum status s;

    if (!may_ask(c, h->id))
        return;
    s = frame_fixed_known(h, payload, &f, sizeof(f), SUBMIT_LEAST, (const void **)&rest, &rest_bytes);
    if (s == STATUS_OK)
        s = check_submit(&f, rest_bytes);
    code = code_of(s);
    if (s == STATUS_OK)
        s = add(c, h->id, &f, rest, rest + f.params_bytes, &code);
    if (s != STATUS_OK)
        client_error(c, h->id, code, log_last_error());
}

void take_cancel(struct client *c, uint64_t number)
{
    struct request *r = hash_map_get(&c->numbers, number);

    if (r != NULL) /* else it has just ended */
        request_stop(r);
}

static enum status check_resume(struct client *c, const struct frame_resume *f, struct request *r,
    enum quern_code *code)
{
    *code = QUERN_CODE_UNKNOWN;
    if (f->flags != 0)
        return log_fail(STATUS_UNKNOWN, "flags %#x: this version of quern does not have them", f->flags);
    *code = QUERN_CODE_NOT_FOUND;
    if (r == NULL || r->cancelled || r->task != TASK_COMPLETE)
        return log_fail(STATUS_INVALID, "there is no request with the key %#llx, or no longer: submit "
            "it again", (unsigned long long)f->key);
    *code = QUERN_CODE_BAD_REQUEST;
    if (f->after > r->answers[0].n_ids)
        return log_fail(STATUS_INVALID, "after %llu: the answer has %u ids so far",
            (unsigned long long)f->after, r->answers[0].n_ids);
    *code = QUERN_CODE_QUOTA;
    if (c->n_requests >= MOST_REQUESTS_EACH)
        return log_fail(STATUS_NOMEM, "this connection has %u requests under way, a connection may "
            "have no more: wait for some to end", c->n_requests);
    if (r->client != c && r->prompt_bytes > MOST_PROMPT_BYTES_EACH - c->prompt_bytes)
        return log_fail(STATUS_NOMEM, "the prompts of this connection take %zu MiB, %d are possible: "
            "wait for some to end", c->prompt_bytes >> 20, MOST_PROMPT_BYTES_EACH >> 20);
    return STATUS_OK;
}

/* Whoever had it hears that it goes on elsewhere. */
static enum status take_over(struct client *c, uint64_t number, struct request *r, uint64_t after)
{
    struct supervisor *sv = c->sv;
    struct client *before = r->client;
    uint64_t old = r->number;
    enum status s;

    request_unkeep(r);
    s = request_give(r, c, number);
    if (s != STATUS_OK)
        return s;
    if (before != sv->nobody && (before != c || old != number))
        client_error(before, old, QUERN_CODE_TAKEN_OVER, "another connection has resumed this request");
    request_skip(r, after);
    r->accepted = false;
    if (r->state >= REQUEST_QUEUED)
        request_accept(r);
    request_has_news(r);
    return STATUS_OK;
}

void take_resume(struct client *c, const struct frame_header *h, const void *payload)
{
    struct frame_resume f;
    const void *rest;
    size_t rest_bytes;
    enum quern_code code = QUERN_CODE_BAD_REQUEST;
    struct request *r;
    enum status s;

    if (!may_ask(c, h->id))
        return;
    s = frame_fixed_known(h, payload, &f, sizeof(f), RESUME_LEAST, &rest, &rest_bytes);
    if (s == STATUS_UNKNOWN)
        code = QUERN_CODE_UNKNOWN;
    if (s == STATUS_OK && rest_bytes != 0)
        s = log_fail(STATUS_INVALID, "a RESUME frame has nothing behind its fixed part");
    if (s == STATUS_OK) {
        r = hash_map_get(&c->sv->keys, f.key);
        s = check_resume(c, &f, r, &code);
    }
    if (s == STATUS_OK)
        s = take_over(c, h->id, r, f.after);
    if (s != STATUS_OK)
        client_error(c, h->id, code, log_last_error());
}
