/* figures.c - what the server counts, for clients that ask.
 *
 * The ranks count in their segment (msg/stats.h), which goes with them: what a
 * generation counted is taken over when it has ended. What waits here, and how
 * often something was started again, the supervisor knows itself. The answer is
 * JSON, so that its names are the contract and figures can be added. */
#include <stdio.h>

#include "quern/log.h"
#include "supervisor/supervisor.h"

void figures_take_over(struct supervisor *sv)
{
    struct stats_copy last;

    if (sv->shared.control == NULL)
        return;
    stats_read(&sv->shared.control->stats, &last);
    stats_add(&sv->counted, &last);
}

/* Since the server was started; what is so now of the ranks that run. */
static void gather(const struct supervisor *sv, struct stats_copy *sum)
{
    struct stats_copy now = {0};

    *sum = sv->counted;
    if (sv->shared.control != NULL)
        stats_read(&sv->shared.control->stats, &now);
    stats_add(sum, &now);
    sum->numbers[STAT_WAITING] += sv->n_in_state[REQUEST_NEW] + sv->n_in_state[REQUEST_ENCODING] +
                                  sv->n_in_state[REQUEST_QUEUED];
}

static size_t figures_json(const struct supervisor *sv, char text[STATS_JSON_BYTES])
{
    struct stats_copy sum;
    size_t n;

    gather(sv, &sum);
    n = (size_t)snprintf(text, STATS_JSON_BYTES, "{\"generation\":%u,\"restarts\":%u,"
        "\"text_restarts\":%u,\"clients\":%u,", sv->generation, sv->generation - 1,
        sv->text_generation - 1, sv->n_clients);
    n += stats_json(&sum, text + n, STATS_JSON_BYTES - n - 1);
    text[n++] = '}';
    return n;
}

void take_ask_stats(struct client *c, const struct frame_header *h, const void *payload)
{
    struct frame_ask_stats ask;
    struct frame_stats answer = {.fixed = sizeof(answer)};
    char text[STATS_JSON_BYTES];
    const void *rest;
    size_t rest_bytes;
    enum status s;

    if (!may_ask(c, h->id))
        return;
    s = frame_fixed_known(h, payload, &ask, sizeof(ask), ASK_STATS_LEAST, &rest, &rest_bytes);
    if (s == STATUS_OK && ask.flags != 0)
        s = log_fail(STATUS_UNKNOWN, "flags %#x: this version of quern does not have them", ask.flags);
    if (s == STATUS_OK && rest_bytes != 0)
        s = log_fail(STATUS_INVALID, "a STATS frame has nothing behind its fixed part");
    if (s != STATUS_OK) {
        client_error(c, h->id, s == STATUS_UNKNOWN ? QUERN_CODE_UNKNOWN : QUERN_CODE_BAD_REQUEST,
            log_last_error());
        return;
    }
    client_frame(c, FRAME_STATS, h->id, &answer, sizeof(answer), text, figures_json(c->sv, text));
}
