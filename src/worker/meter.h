/* meter.h - what rank 0's loop takes, and how much there is to do.
 *
 * The leader says when something begins and ends, with the time; the meter keeps
 * the figures of msg/stats.h by it, and tells pace.h of steps. It reads no clock
 * itself.
 *
 * A step's time is from when the ranks could begin with it (it was submitted, and
 * the one before it was done) to its end. The engine's own time is all of the
 * loop that lies neither in waiting for a step, nor in submitting one, nor in
 * sleep; it counts for the step that is submitted next.
 *
 * One owner, no locks, no system calls. */
#ifndef QUERN_WORKER_METER_H
#define QUERN_WORKER_METER_H

#include <stdbool.h>

#include "engine/engine.h"
#include "msg/stats.h"
#include "quern/backend.h"
#include "worker/pace.h"

struct metered_step {
    uint64_t submitted_ns;
    uint32_t answers, prompts; /* tokens of */
    uint32_t sequences;
};

struct meter {
    struct stats *stats; /* borrowed, as is */
    struct pace *pace;
    bool works;
    uint64_t since_ns;   /* it works since then */
    uint64_t engine_ns;  /* and has before, for the step that comes */
    uint64_t done_ns;    /* the last step's end */
    struct metered_step steps[BACKEND_DEPTH];
};

/* The loop does its own work from `now` on. */
void meter_begin(struct meter *m, uint64_t now_ns);
/* It waits, submits or sleeps. */
void meter_pause(struct meter *m, uint64_t now_ns);

/* The plan is submitted; between a meter_pause() and a meter_begin(). */
void meter_submit(struct meter *m, const struct plan *plan, uint64_t now_ns);
/* Step `number` is done. */
void meter_done(struct meter *m, uint64_t number, uint64_t now_ns);

/* For engine_options: the context is the meter. */
void meter_observe(void *context, enum engine_time what, uint64_t ns);
void meter_counts(struct meter *m, const struct engine_counts *counts);

#endif
