/* leader.h - rank 0's loop in three files: the loop itself (leader.c), what comes in (leader_take.c)
 * and what is told (leader_tell.c). */
#ifndef QUERN_WORKER_LEADER_H
#define QUERN_WORKER_LEADER_H

#include <stdbool.h>

#include "engine/engine.h"
#include "quern/spin.h"
#include "worker/meter.h"
#include "worker/worker.h"

struct leader {
    struct worker *w;
    struct engine *engine;
    struct plan *plan; /* being written */
    struct step_result result; /* being told */
    struct meter meter;
    struct pace pace;
    size_t wanted; /* bytes of the message that waits for room */
    uint32_t unpublished; /* messages written into the token ring and not published */
    bool stopping;
    enum status status; /* of telling: the first failure */
};

/* The loop goes on, after what it waited for. */
void leader_go_on(struct leader *l);

/* leader_tell.c: what fails is kept in l->status. */

/* Into the token ring, with m->bytes of payload; all that a step tells is published at once. */
void leader_tell(struct leader *l, struct token_msg *m, const void *payload);
/* engine_emit. context: struct leader */
void leader_emit(void *context, const struct engine_event *e);
/* What has been told since becomes readable; who reads it finds it counted. */
void leader_publish(struct leader *l);
void leader_tell_stats(struct leader *l);

/* leader_take.c */

/* All that has come; l->stopping, if that has. */
void leader_take(struct leader *l);

#endif
