/* states.c - what may follow what, for the supervisor, its children and its requests.
 *
 * A supervisor loads, serves, and in the end stops or has failed. Ranks that
 * die while it serves make it restart: it stays there until a generation is
 * ready, however many die on the way. A child is absent, runs, or is on its
 * way out, told or killed; only its pidfd makes it absent again. A request
 * moves through the rings one way, and back by one place when the process that
 * had it died; one whose client does not read is parked.
 *
 * A transition that is not in its table is a fault of ours; the supervisor then
 * ends with a line that names it, since what it would do next nobody knows. */
#include <stdio.h>

#include "supervisor/supervisor.h"

#define TO(state) (1u << (state))

static const uint8_t supervisor_moves[SUPERVISOR_STATES] = {
    [SUPERVISOR_LOADING] = TO(SUPERVISOR_SERVING) | TO(SUPERVISOR_STOPPING) | TO(SUPERVISOR_FAILED),
    [SUPERVISOR_SERVING] =
        TO(SUPERVISOR_RESTARTING) | TO(SUPERVISOR_STOPPING) | TO(SUPERVISOR_FAILED),
    [SUPERVISOR_RESTARTING] =
        TO(SUPERVISOR_SERVING) | TO(SUPERVISOR_STOPPING) | TO(SUPERVISOR_FAILED),
    [SUPERVISOR_STOPPING] = TO(SUPERVISOR_ENDED),
    [SUPERVISOR_FAILED] = TO(SUPERVISOR_ENDED),
    [SUPERVISOR_ENDED] = 0,
};

static const uint8_t child_moves[CHILD_STATES] = {
    [CHILD_ABSENT] = TO(CHILD_RUNNING),
    [CHILD_RUNNING] = TO(CHILD_ENDING) | TO(CHILD_ABSENT),
    [CHILD_ENDING] = TO(CHILD_ABSENT),
};

static const uint8_t request_moves[REQUEST_STATES] = {
    [REQUEST_NEW] = TO(REQUEST_ENCODING) | TO(REQUEST_ENDED),
    [REQUEST_ENCODING] = TO(REQUEST_NEW) | TO(REQUEST_QUEUED) | TO(REQUEST_ENDED),
    [REQUEST_QUEUED] = TO(REQUEST_RUNNING) | TO(REQUEST_ENDED),
    [REQUEST_RUNNING] = TO(REQUEST_QUEUED) | TO(REQUEST_PARKED) | TO(REQUEST_ENDED),
    [REQUEST_PARKED] = TO(REQUEST_QUEUED) | TO(REQUEST_ENDED),
    [REQUEST_ENDED] = 0,
};

static bool allowed(struct supervisor *sv, const uint8_t *moves, const char *of, unsigned from,
    unsigned to)
{
    char line[96];

    if (moves[from] & TO(to))
        return true;
    snprintf(line, sizeof(line), "a %s cannot go from state %u to %u: this is a fault of quern's", of,
        from, to);
    if (sv->state < SUPERVISOR_STOPPING)
        supervisor_fail(sv, QUERN_CODE_INTERNAL, line);
    return false;
}

void supervisor_move(struct supervisor *sv, enum supervisor_state to)
{
    if (allowed(sv, supervisor_moves, "supervisor", sv->state, to))
        sv->state = to;
}

void child_move(struct child *c, enum child_state to)
{
    if (allowed(c->sv, child_moves, "child", c->state, to))
        c->state = to;
}

void request_count(struct supervisor *sv, const struct request *r, int more)
{
    sv->n_in_state[r->state] += (uint32_t)more;
}

void request_move(struct request *r, enum request_state to)
{
    struct supervisor *sv = r->client->sv;

    if (!allowed(sv, request_moves, "request", r->state, to))
        return;
    request_count(sv, r, -1);
    r->state = to;
    request_count(sv, r, 1);
}
