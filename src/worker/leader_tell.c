/* leader_tell.c - what a step gave, as messages of the token ring. */
#include <string.h>

#include "quern.h"
#include "worker/leader.h"

void leader_tell_stats(struct leader *l)
{
    struct engine_counts c = engine_counts(l->engine);

    meter_counts(&l->meter, &c);
}

/* What has been told since becomes readable; who reads it finds it counted. */
void leader_publish(struct leader *l)
{
    leader_tell_stats(l);
    if (l->unpublished > 0)
        ring_publish_many(&l->w->shared->tokens, l->unpublished);
    l->unpublished = 0;
}

/* A slot, and then bytes. Those that are taken and not published are not taken twice: the message is
 * written as soon as there are both. */
static enum status reserve(struct leader *l, struct token_msg *m, void **slot)
{
    struct shared *g = l->w->shared;
    enum status s = ring_reserve_at(&g->tokens, l->unpublished, slot);

    if (s == STATUS_OK && m->bytes > 0)
        s = ring_buffer_alloc(&g->token_bytes, m->bytes, &m->at, &m->end);
    return s;
}

static bool has_room(void *context)
{
    const struct leader *l = context;
    struct shared *g = l->w->shared;
    void *slot;

    return shared_aborted(g) || (ring_reserve_at(&g->tokens, 0, &slot) != STATUS_AGAIN &&
                                 ring_buffer_has_room(&g->token_bytes, l->wanted));
}

/* The supervisor reads at every turn; it is woken, and then wakes us. */
static enum status await_room(struct leader *l, size_t bytes)
{
    struct shared *g = l->w->shared;
    enum status s;

    leader_publish(l);
    s = doorbell_ring(&g->supervisor_bell);
    meter_pause(&l->meter, spin_now_ns());
    l->wanted = bytes;
    if (s == STATUS_OK)
        s = doorbell_await(&g->leader_room, g->death_fd, has_room, l, 0);
    leader_go_on(l);
    return s == STATUS_OK && shared_aborted(g) ? STATUS_DEAD : s;
}

/* All that a step tells enters the ring in one publish. payload: m->bytes of it. */
void leader_tell(struct leader *l, struct token_msg *m, const void *payload)
{
    struct shared *g = l->w->shared;
    void *slot;
    enum status s;

    if (l->status != STATUS_OK)
        return;
    while ((s = reserve(l, m, &slot)) == STATUS_AGAIN) {
        s = await_room(l, m->bytes);
        if (s != STATUS_OK)
            break;
    }
    if (s != STATUS_OK) {
        l->status = s;
        return;
    }
    if (m->bytes > 0)
        memcpy(ring_buffer_at(&g->token_bytes, m->at, m->bytes), payload, m->bytes);
    *(struct token_msg *)slot = *m;
    l->unpublished++;
}

/* Of an output of the step. */
static const float *values_of(const struct leader *l, const struct engine_event *e, uint32_t *bytes)
{
    const struct program_shape *shape = &l->w->model.program.shape;
    uint32_t columns = e->pooled ? shape->hidden : shape->vocab;
    const float *rows = e->pooled ? l->result.hidden : l->result.logits;

    *bytes = columns * (uint32_t)sizeof(*rows);
    return rows + (size_t)e->output * columns;
}

void leader_emit(void *context, const struct engine_event *e)
{
    static const uint16_t kinds[] = {
        [ENGINE_ID] = TOKEN_ID,
        [ENGINE_SCORED] = TOKEN_SCORED,
        [ENGINE_VALUES] = TOKEN_VALUES,
        [ENGINE_DONE] = TOKEN_DONE,
    };
    static const uint16_t finish[] = {
        [ENGINE_STOP] = QUERN_FINISH_STOP,
        [ENGINE_LENGTH] = QUERN_FINISH_LENGTH,
        [ENGINE_CANCELLED] = QUERN_FINISH_CANCELLED,
        [ENGINE_BROKEN] = QUERN_FINISH_CANCELLED, /* not told: an error is */
    };
    struct leader *l = context;
    bool broken = e->kind == ENGINE_DONE && e->finish == ENGINE_BROKEN;
    struct token_msg m = {
        .generation = l->w->shared->generation,
        .kind = broken ? TOKEN_ERROR : kinds[e->kind],
        .finish = e->kind == ENGINE_DONE ? finish[e->finish] : 0,
        .id = e->id,
        .choice = e->choice,
        .token = e->token,
        .is_eos = e->is_eos,
        .position = e->position,
        .output_tokens = e->output_tokens,
        .error = TOKEN_ERROR_LOGITS,
        .detail = {e->step},
        .bytes = e->n_logprobs * (uint32_t)sizeof(*e->logprobs),
    };

    const void *payload = e->logprobs;

    if (e->kind == ENGINE_VALUES)
        payload = values_of(l, e, &m.bytes);
    leader_tell(l, &m, payload);
}
