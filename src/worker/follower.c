/* follower.c - ranks past 0: do what the plan says, in its order.
 *
 * A follower decides nothing, so no collective can be entered by some ranks
 * only. It keeps the device's queue as full as the leader does. */
#include "quern/log.h"
#include "worker/worker.h"

static bool has_plan(void *context)
{
    struct worker *w = context;
    const void *slot;

    return broadcast_ring_peek(&w->plans, (uint32_t)w->rank - 1, &slot) != STATUS_AGAIN;
}

static enum status await_plan(struct worker *w, const struct plan **plan)
{
    struct shared *g = w->shared;
    const void *slot;
    enum status s = broadcast_ring_peek(&w->plans, (uint32_t)w->rank - 1, &slot);

    if (s == STATUS_AGAIN) {
        s = doorbell_await(&g->rank_bells[w->rank], g->death_fd, has_plan, w, flag_spin_ns);
        if (s == STATUS_OK)
            s = broadcast_ring_peek(&w->plans, (uint32_t)w->rank - 1, &slot);
    }
    if (s == STATUS_OK)
        *plan = slot;
    return s;
}

static enum status finish_steps(struct worker *w, uint64_t left)
{
    struct step_result result;
    enum status s = STATUS_OK;

    while (s == STATUS_OK && w->submitted - w->finished > left)
        s = worker_wait(w, &result);
    return s;
}

static enum status follow(struct worker *w, const struct plan *plan)
{
    enum status s = plan_check(plan, w->plans.slot_bytes, &w->limits,
        w->shared->generation);

    if (s != STATUS_OK)
        return s;
    if (plan->flags & PLAN_STOP) {
        s = finish_steps(w, 0);
        return s == STATUS_OK ? STATUS_CLOSED : s;
    }
    s = finish_steps(w, BACKEND_DEPTH - 1);
    if (s == STATUS_OK)
        s = w->backend->submit(w->executable, plan);
    if (s == STATUS_OK)
        w->submitted = plan->number + 1;
    return s;
}

enum status follower_run(struct worker *w)
{
    const struct plan *plan;
    enum status s;

    for (;;) {
        s = await_plan(w, &plan);
        if (s != STATUS_OK)
            break;
        s = follow(w, plan);
        broadcast_ring_release(&w->plans, (uint32_t)w->rank - 1);
        doorbell_ring(&w->shared->leader_room);
        if (s != STATUS_OK)
            break;
    }
    return s == STATUS_CLOSED ? STATUS_OK : s;
}
