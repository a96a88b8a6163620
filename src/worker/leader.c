/* leader.c - rank 0: requests in, plans out, ids back.
 *
 * One turn: take what came, plan as far ahead as the device allows, then wait
 * for the oldest step and tell what it gave. While step k is waited for, step
 * k + 1 already lies in the device's queue. With nothing to do it sleeps on
 * its doorbell. What it takes is measured on the way (meter.h). */
#include <stdlib.h>
#include <stdbool.h>

#include "engine/engine.h"
#include "quern.h"
#include "quern/log.h"
#include "quern/spin.h"
#include "worker/meter.h"
#include "worker/worker.h"

enum { FIRST_CHUNK = 16 }; /* beside answers, until it is known what it costs */

struct leader {
    struct worker *w;
    struct engine *engine;
    struct plan *plan; /* being written */
    struct meter meter;
    struct pace pace;
    uint32_t unpublished; /* messages written into the token ring and not published */
    bool stopping;
    enum status status; /* of telling: the first failure */
};

static bool has_token_room(void *context)
{
    struct shared *g = context;
    void *slot;

    return shared_aborted(g) || ring_reserve_at(&g->tokens, 0, &slot) != STATUS_AGAIN;
}

/* The loop goes on, after what it waited for. */
static void go_on(struct leader *l)
{
    uint64_t now = spin_now_ns();

    meter_begin(&l->meter, now);
    engine_clock(l->engine, now);
}

static void tell_stats(struct leader *l)
{
    struct engine_counts c = engine_counts(l->engine);

    meter_counts(&l->meter, &c);
}

/* What has been told since becomes readable; who reads it finds it counted. */
static void publish(struct leader *l)
{
    tell_stats(l);
    if (l->unpublished > 0)
        ring_publish_many(&l->w->shared->tokens, l->unpublished);
    l->unpublished = 0;
}

/* The supervisor reads at every turn; it is woken, and then wakes us. */
static enum status await_room(struct leader *l)
{
    struct shared *g = l->w->shared;
    enum status s;

    publish(l);
    s = doorbell_ring(&g->supervisor_bell);
    meter_pause(&l->meter, spin_now_ns());
    if (s == STATUS_OK)
        s = doorbell_await(&g->leader_room, g->death_fd, has_token_room, g, 0);
    go_on(l);
    return s == STATUS_OK && shared_aborted(g) ? STATUS_DEAD : s;
}

/* All that a step tells enters the ring in one publish. */
static void tell(struct leader *l, const struct token_msg *message)
{
    void *slot;
    enum status s;

    if (l->status != STATUS_OK)
        return;
    while ((s = ring_reserve_at(&l->w->shared->tokens, l->unpublished, &slot)) == STATUS_AGAIN) {
        s = await_room(l);
        if (s != STATUS_OK)
            break;
    }
    if (s != STATUS_OK) {
        l->status = s;
        return;
    }
    *(struct token_msg *)slot = *message;
    l->unpublished++;
}

static void emit(void *context, const struct engine_event *e)
{
    static const uint16_t finish[] = {
        [ENGINE_STOP] = QUERN_FINISH_STOP,
        [ENGINE_LENGTH] = QUERN_FINISH_LENGTH,
        [ENGINE_CANCELLED] = QUERN_FINISH_CANCELLED,
        [ENGINE_BROKEN] = QUERN_FINISH_CANCELLED, /* not told: an error is */
    };
    struct leader *l = context;

    tell(l, &(struct token_msg){
        .generation = l->w->shared->generation,
        .kind = !e->done ? TOKEN_ID : e->finish == ENGINE_BROKEN ? TOKEN_ERROR : TOKEN_DONE,
        .finish = e->done ? finish[e->finish] : 0,
        .id = e->id,
        .token = e->token,
        .output_tokens = e->output_tokens,
        .error = TOKEN_ERROR_LOGITS,
        .detail = {e->step},
    });
}

static void tell_refused(struct leader *l, const struct request_msg *m, enum status why)
{
    struct token_msg t = {
        .generation = l->w->shared->generation,
        .kind = TOKEN_ERROR,
        .id = m->id,
        .error = why == STATUS_NOMEM ? TOKEN_ERROR_NO_MEMORY : TOKEN_ERROR_TOO_LARGE,
        .detail = {engine_blocks_needed(l->engine, m->n_ids, m->max_tokens),
            l->w->limits.n_blocks},
    };

    tell(l, &t);
}

/* The supervisor checked the request; what cannot run here ends at once, and says why. */
static void add_request(struct leader *l, const struct request_msg *m)
{
    struct ring_buffer *buffer = &l->w->shared->request_bytes;
    const int32_t *ids = ring_buffer_at(buffer, m->ids_at, (size_t)m->n_ids * sizeof(*ids));
    enum status s = STATUS_INVALID;

    if (ids != NULL)
        s = engine_add(l->engine, &(struct engine_request){
            .id = m->id,
            .ids = ids,
            .n_ids = m->n_ids,
            .max_tokens = m->max_tokens,
            .sampling = m->sampling,
            .ignore_eos = (m->flags & REQUEST_IGNORE_EOS) != 0,
            .priority = m->priority,
            .arrived_ns = m->arrived_ns,
        });
    if (ring_buffer_release(buffer, m->ids_end) != STATUS_OK)
        l->status = STATUS_INVALID;
    if (s != STATUS_OK)
        tell_refused(l, m, s);
}

static void take_requests(struct leader *l)
{
    struct shared *g = l->w->shared;
    const void *slot;
    enum status s;

    while ((s = ring_peek(&g->requests, &slot)) == STATUS_OK) {
        const struct request_msg *m = slot;

        switch (m->kind) {
        case REQUEST_SUBMIT: add_request(l, m); break;
        case REQUEST_CANCEL: engine_cancel(l->engine, m->id, emit, l); break;
        case REQUEST_STOP: l->stopping = true; break;
        }
        ring_release(&g->requests);
    }
    publish(l);
    if (s == STATUS_CLOSED)
        l->stopping = true;
    else if (s < 0)
        l->status = s;
}

static enum status finish_oldest(struct leader *l)
{
    struct step_result result;
    enum status s;

    meter_pause(&l->meter, spin_now_ns());
    s = worker_wait(l->w, &result);
    if (s != STATUS_OK)
        return s;
    go_on(l);
    meter_done(&l->meter, result.number, l->meter.since_ns);
    engine_done(l->engine, result.number, result.ids, emit, l);
    publish(l);
    doorbell_ring(&l->w->shared->supervisor_bell);
    return l->status;
}

static enum status submit(struct leader *l)
{
    uint64_t now = spin_now_ns();
    enum status s;

    meter_pause(&l->meter, now);
    meter_submit(&l->meter, l->plan, now);
    s = worker_publish(l->w, l->plan);
    go_on(l);
    tell_stats(l);
    return s;
}

/* OK: a step was planned or finished. AGAIN: nothing to do. */
static enum status leader_step(struct leader *l)
{
    struct worker *w = l->w;
    enum status s = STATUS_AGAIN;

    if (w->submitted - w->finished < BACKEND_DEPTH) {
        s = engine_plan(l->engine, l->plan);
        if (s == STATUS_OK)
            return submit(l);
        if (s != STATUS_AGAIN)
            return s;
    }
    return w->submitted > w->finished ? finish_oldest(l) : s;
}

static bool has_requests(void *context)
{
    struct leader *l = context;
    const void *slot;

    return ring_peek(&l->w->shared->requests, &slot) != STATUS_AGAIN;
}

/* The others are told, what runs is waited for. */
static enum status stop_group(struct leader *l)
{
    enum status s = STATUS_OK;

    while (s == STATUS_OK && l->w->submitted > l->w->finished)
        s = finish_oldest(l);
    if (s != STATUS_OK)
        return s;
    plan_begin(l->plan, &l->w->limits, l->w->shared->generation, l->w->submitted);
    l->plan->flags = PLAN_STOP;
    plan_pack(l->plan);
    return worker_publish(l->w, l->plan);
}

static enum status loop(struct leader *l)
{
    struct shared *g = l->w->shared;
    enum status s = STATUS_OK;

    while (s >= STATUS_OK && !l->stopping) {
        take_requests(l);
        s = l->status == STATUS_OK ? leader_step(l) : l->status;
        if (s == STATUS_AGAIN && !l->stopping) {
            doorbell_ring(&g->supervisor_bell);
            meter_pause(&l->meter, spin_now_ns());
            s = doorbell_await(&g->rank_bells[0], g->death_fd, has_requests, l, flag_spin_ns);
            go_on(l);
        }
    }
    return s >= STATUS_OK ? stop_group(l) : s;
}

static void tell_counts(const struct engine *e)
{
    struct engine_counts c = engine_counts(e);

    log_info("%llu tokens of prompts came, %llu of them were found in the cache; %llu were computed, "
        "%llu produced; %llu sequences gave way", (unsigned long long)c.prefix_asked,
        (unsigned long long)c.prefix_hit, (unsigned long long)c.tokens_in,
        (unsigned long long)c.tokens_out, (unsigned long long)c.preemptions);
}

static uint32_t pace_of(void *context, uint32_t answers)
{
    return pace_chunk(context, answers);
}

static enum status open_all(struct leader *l)
{
    const struct worker *w = l->w;
    struct engine_options o = {
        .limits = w->limits,
        .generation = w->shared->generation,
        .max_model_len = w->max_model_len,
        .max_chunk = w->limits.max_tokens,
        .pace = pace_of,
        .pacer = &l->pace,
        .eos = w->generation.eos,
        .n_eos = (size_t)w->generation.n_eos,
        .observe = meter_observe,
        .observer = &l->meter,
    };
    enum status s = pace_open(&l->pace, w->limits.max_tokens, FIRST_CHUNK);

    if (s == STATUS_OK)
        s = engine_open(&o, &l->engine);
    if (s != STATUS_OK)
        return s;
    l->plan = malloc(plan_max_bytes(&w->limits));
    return l->plan != NULL ? STATUS_OK : log_fail(STATUS_NOMEM, "no memory for a plan");
}

enum status leader_run(struct worker *w)
{
    struct leader l = {.w = w};
    enum status s;

    l.meter = (struct meter){.stats = &w->shared->control->stats, .pace = &l.pace};
    s = open_all(&l);
    if (s == STATUS_OK) {
        log_info("the KV cache has %u blocks of %u tokens", w->limits.n_blocks, w->limits.block_size);
        tell_stats(&l);
        s = loop(&l);
        tell_counts(l.engine);
    }
    free(l.plan);
    engine_close(l.engine);
    pace_close(&l.pace);
    return s;
}
