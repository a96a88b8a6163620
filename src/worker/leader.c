/* leader.c - rank 0: requests in, plans out, ids back.
 *
 * One turn: take what came, plan as far ahead as the device allows, then wait
 * for the oldest step and tell what it gave. While step k is waited for, step
 * k + 1 already lies in the device's queue. With nothing to do it sleeps on
 * its doorbell. What it takes is measured on the way (meter.h). */
#include <stdlib.h>

#include "quern/log.h"
#include "worker/leader.h"

enum { FIRST_CHUNK = 16 }; /* beside answers, until it is known what it costs */

void leader_go_on(struct leader *l)
{
    uint64_t now = spin_now_ns();

    meter_begin(&l->meter, now);
    engine_clock(l->engine, now);
}

static enum status finish_oldest(struct leader *l)
{
    const struct step_result *r = &l->result;
    enum status s;

    meter_pause(&l->meter, spin_now_ns());
    s = worker_wait(l->w, &l->result);
    if (s != STATUS_OK)
        return s;
    leader_go_on(l);
    meter_done(&l->meter, r->number, l->meter.since_ns);
    engine_done(l->engine, r->number, r->ids, r->logprobs, leader_emit, l);
    leader_publish(l);
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
    leader_go_on(l);
    leader_tell_stats(l);
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
        leader_take(l);
        s = l->status == STATUS_OK ? leader_step(l) : l->status;
        if (s == STATUS_AGAIN && !l->stopping) {
            doorbell_ring(&g->supervisor_bell);
            meter_pause(&l->meter, spin_now_ns());
            s = doorbell_await(&g->rank_bells[0], g->death_fd, has_requests, l, flag_spin_ns);
            leader_go_on(l);
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

static uint32_t pace_of(void *context, uint32_t answers, uint32_t prompts)
{
    return pace_chunk(context, answers, prompts);
}

/* Those that the model has: an end token past its vocabulary never comes. */
static size_t known_eos(const struct worker *w, int *eos)
{
    size_t n = 0;

    for (int i = 0; i < w->generation.n_eos; i++)
        if (eos[i] < w->config.vocab)
            eos[n++] = eos[i];
    return n;
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
        .n_eos = known_eos(w, w->generation.eos),
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
        leader_tell_stats(&l);
        s = loop(&l);
        tell_counts(l.engine);
    }
    free(l.plan);
    engine_close(l.engine);
    pace_close(&l.pace);
    return s;
}
