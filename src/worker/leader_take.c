/* leader_take.c - what the supervisor asks for, as sequences of the engine. */
#include <stdlib.h>
#include <string.h>

#include "worker/leader.h"

static void tell_refused(struct leader *l, const struct request_msg *m, enum status why)
{
    struct token_msg t = {
        .generation = l->w->shared->generation,
        .kind = TOKEN_ERROR,
        .id = m->id,
        .error = why == STATUS_NOMEM ? TOKEN_ERROR_NO_MEMORY : TOKEN_ERROR_TOO_LARGE,
        .detail = {engine_blocks_needed(l->engine, m->n_prompt, m->max_tokens),
            l->w->limits.n_blocks},
    };

    leader_tell(l, &t, NULL);
}

/* The prompt with what the answer has already, as one; freed by the caller, unless it is the
 * prompt itself. */
static const int32_t *join_ids(const int32_t *prompt, uint32_t n_prompt, const int32_t *produced,
    uint32_t n, int32_t **owned)
{
    *owned = NULL;
    if (n == 0)
        return prompt;
    *owned = malloc(((size_t)n_prompt + n) * sizeof(int32_t));
    if (*owned == NULL)
        return NULL;
    memcpy(*owned, prompt, n_prompt * sizeof(int32_t));
    memcpy(*owned + n_prompt, produced, n * sizeof(int32_t));
    return *owned;
}

/* r: what all answers have alike. answer: its choice, a count, ids. */
static enum status add_answer(struct leader *l, struct engine_request r, const struct request_msg *m,
    const int32_t *prompt, const int32_t *answer)
{
    uint32_t n = (uint32_t)answer[1];
    int32_t *owned;
    enum status s = STATUS_NOMEM;

    r.ids = join_ids(prompt, m->n_prompt, answer + 2, n, &owned);
    r.n_ids = m->n_prompt + n;
    r.max_tokens = m->max_tokens - n;
    r.sampling.choice = (uint32_t)answer[0];
    r.score = r.sampling.choice == 0 ? m->score : 0;
    if (r.ids != NULL)
        s = engine_add(l->engine, &r);
    free(owned);
    return s;
}

/* All of its answers or none. */
static enum status add_answers(struct leader *l, const struct request_msg *m, const int32_t *words)
{
    const int32_t *answers = words + m->n_prompt, *at = answers;
    struct engine_request r = {
        .id = m->id,
        .n_prompt = m->n_prompt,
        .sampling = m->sampling,
        .n_stops = m->n_stops,
        .ignore_eos = (m->flags & REQUEST_IGNORE_EOS) != 0,
        .guesses = m->guesses,
        .score_from = m->score_from,
        .task = (m->flags & REQUEST_POOL) != 0     ? ENGINE_POOL
                : (m->flags & REQUEST_LOGITS) != 0 ? ENGINE_LOGITS
                                                   : ENGINE_ANSWER,
        .last = m->last,
        .priority = m->priority,
        .arrived_ns = m->arrived_ns,
    };
    enum status s = STATUS_OK;

    for (uint32_t i = 0; i < m->n_answers; i++)
        at += 2 + at[1];
    r.words = at;
    r.stops = at + m->sampling.n_bias + m->sampling.n_bad;
    at = answers;
    for (uint32_t i = 0; s == STATUS_OK && i < m->n_answers; i++, at += 2 + at[1])
        s = add_answer(l, r, m, words, at);
    return s;
}

static void drop_event(void *context, const struct engine_event *e)
{
    (void)context;
    (void)e;
}

/* The supervisor checked the request; what cannot run here ends at once, and says why. */
static void add_request(struct leader *l, const struct request_msg *m)
{
    struct ring_buffer *buffer = &l->w->shared->request_bytes;
    const int32_t *words = ring_buffer_at(buffer, m->at, (size_t)m->n_words * sizeof(*words));
    enum status s = words != NULL ? add_answers(l, m, words) : STATUS_INVALID;

    if (ring_buffer_release(buffer, m->end) != STATUS_OK)
        l->status = STATUS_INVALID;
    if (s == STATUS_OK)
        return;
    engine_cancel(l->engine, m->id, ENGINE_ALL_CHOICES, drop_event, NULL); /* those before it */
    tell_refused(l, m, s);
}

void leader_take(struct leader *l)
{
    struct shared *g = l->w->shared;
    const void *slot;
    enum status s;

    while ((s = ring_peek(&g->requests, &slot)) == STATUS_OK) {
        const struct request_msg *m = slot;

        switch (m->kind) {
        case REQUEST_SUBMIT: add_request(l, m); break;
        case REQUEST_CANCEL: engine_cancel(l->engine, m->id, m->choice, leader_emit, l); break;
        case REQUEST_STOP: l->stopping = true; break;
        }
        ring_release(&g->requests);
    }
    leader_publish(l);
    if (s == STATUS_CLOSED)
        l->stopping = true;
    else if (s < 0)
        l->status = s;
}
