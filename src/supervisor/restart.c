/* restart.c - what a death costs.
 *
 * The text worker: itself. What it was encoding is sent to the next one. A
 * prompt that ends its text worker twice is refused: it would end every one.
 *
 * A rank: its peers, since they share every layer. All are killed, and only
 * when each pidfd has said so (nobody writes any more) is the token ring read
 * for the last time: what they told is told. Then the requests they had go back
 * into the queue with their prompt and what they produced, a new segment is
 * made, and the next generation loads. A sequence's noise depends on positions
 * and a step's sums on nothing but the sequence, so it goes on as it was.
 *
 * Enough is enough: more deaths within a minute than max_restarts, or one
 * before the first generation was ready, end the server with the last reason. */
#include <stdio.h>
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

static const uint64_t minute_ns = UINT64_C(60000000000);

/* Notes one; true when it is to be mended. */
static bool mended(struct supervisor *sv, struct deaths *d)
{
    uint64_t now = spin_now_ns();
    uint32_t recent = 0;

    d->at_ns[d->n++ % DEATHS_KEPT] = now;
    for (uint32_t i = 0; i < DEATHS_KEPT && i < d->n; i++)
        recent += now - d->at_ns[i] < minute_ns;
    return recent <= sv->config.max_restarts;
}

/* A private client is told itself, and prints what it likes. */
static void tell_operator(const struct supervisor *sv, const char *line, const char *done)
{
    log_message(sv->private_fd >= 0 ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, "%s: %s", line, done);
}

int ranks_alive(const struct supervisor *sv)
{
    int n = 0;

    for (int i = 0; i < MAX_RANKS; i++)
        n += sv->ranks[i].state != CHILD_ABSENT;
    return n;
}

/* The text worker ------------------------------------------------------------------------- */

enum status text_start(struct supervisor *sv)
{
    enum status s = text_shared_create(&sv->config, ++sv->text_generation, sv->bell_fd, &sv->text);

    if (s == STATUS_OK)
        s = child_start(&sv->text_child);
    sv->text_since_ns = spin_now_ns();
    return s;
}

void text_fail(struct supervisor *sv, const char *line)
{
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    snprintf(sv->text_line, sizeof(sv->text_line), "%s", line);
    child_kill(&sv->text_child); /* its end comes through its pidfd */
}

/* Its prompts go first in their clients' queues, in their old order. */
static void take_back_prompts(struct supervisor *sv)
{
    while (!list_empty(&sv->encoding)) {
        struct request *r = LIST_OF(sv->encoding.prev, struct request, encoding);

        list_remove(&r->encoding);
        request_move(r, REQUEST_NEW);
        if (r->cancelled)
            request_finish(r, QUERN_FINISH_CANCELLED);
        else if (r->encodings >= MOST_ENCODINGS)
            request_fail(r, QUERN_CODE_INTERNAL, "the text worker died of this prompt twice");
        else
            request_queue(r, true);
    }
}

static void text_ended(struct supervisor *sv, const char *line)
{
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    if (sv->text_line[0] != '\0')
        line = sv->text_line; /* why it was killed */
    if (!sv->text_ready || !mended(sv, &sv->text_deaths)) {
        supervisor_fail(sv, QUERN_CODE_WORKER_DIED, line);
        return;
    }
    tell_operator(sv, line, "it is started again");
    sv->text_line[0] = '\0';
    if (text_take_replies(sv) != STATUS_OK)
        log_warn("%s", log_last_error());
    take_back_prompts(sv);
    text_shared_close(&sv->text);
    if (text_start(sv) != STATUS_OK)
        supervisor_fail(sv, QUERN_CODE_WORKER_DIED, log_last_error());
}

/* The ranks ------------------------------------------------------------------------------- */

enum status ranks_start(struct supervisor *sv)
{
    enum status s = shared_create(&sv->config, ++sv->generation, sv->bell_fd, &sv->shared);

    for (uint32_t i = 0; s == STATUS_OK && i < sv->config.tp; i++)
        s = child_start(&sv->ranks[i]);
    sv->shown_loaded = 0;
    sv->load_since_ns = spin_now_ns();
    return s;
}

static void kill_ranks(struct supervisor *sv)
{
    shared_abort(&sv->shared);
    for (uint32_t i = 0; i < sv->config.tp; i++)
        child_kill(&sv->ranks[i]);
}

static void tell_pause(struct supervisor *sv, bool paused)
{
    for (uint32_t i = 0; i < sv->table_room; i++) {
        struct request *r = sv->table[i];

        if (r != NULL && r->state != REQUEST_ENDED)
            request_tell_pause(r, paused, paused ? sv->pause_line : "the workers run again");
    }
}

void ranks_fail(struct supervisor *sv, const char *line)
{
    if (sv->state >= SUPERVISOR_STOPPING || sv->condemned == sv->generation)
        return; /* they are being ended already, for the first reason */
    sv->condemned = sv->generation;
    if (sv->state == SUPERVISOR_LOADING || !mended(sv, &sv->rank_deaths)) {
        supervisor_fail(sv, QUERN_CODE_WORKER_DIED, line);
        return;
    }
    snprintf(sv->pause_line, sizeof(sv->pause_line), "%s", line);
    tell_operator(sv, line, "the workers are started again");
    kill_ranks(sv);
    if (sv->state == SUPERVISOR_SERVING) {
        supervisor_move(sv, SUPERVISOR_RESTARTING);
        tell_pause(sv, true);
    }
}

/* Prompt and what was produced become the prompt; an answer that was whole but for its end is
 * ended here, as rank 0 would have done. */
static void take_back(struct request *r)
{
    r->restarts++;
    r->parking = false;
    list_remove(&r->withdrawn);
    answers_take_back(r);
    request_move(r, REQUEST_QUEUED);
    if (r->code != QUERN_CODE_NONE || answers_ended(r))
        request_end(r);
    else if (r->cancelled)
        request_finish(r, QUERN_FINISH_CANCELLED);
    else
        request_queue(r, true);
}

/* Oldest first in the end: they are put before the others from the youngest on. */
static void take_back_running(struct supervisor *sv)
{
    struct request *youngest;

    do {
        youngest = NULL;
        for (uint32_t i = 0; i < sv->table_room; i++) {
            struct request *r = sv->table[i];

            if (r != NULL && r->state == REQUEST_RUNNING &&
                (youngest == NULL || r->id > youngest->id))
                youngest = r;
        }
        if (youngest != NULL)
            take_back(youngest);
    } while (youngest != NULL); /* as many rounds as rank 0 takes at once */
}

void rank_ended(struct supervisor *sv, const char *line)
{
    ranks_fail(sv, line);
    if (sv->state != SUPERVISOR_RESTARTING || ranks_alive(sv) > 0)
        return;
    if (ranks_take_tokens(sv) != STATUS_OK)
        log_warn("%s", log_last_error());
    take_back_running(sv);
    figures_take_over(sv);
    shared_close(&sv->shared);
    if (ranks_start(sv) != STATUS_OK)
        supervisor_fail(sv, QUERN_CODE_WORKER_DIED, log_last_error());
}

/* What rank 0 says of its model, checked. False: the supervisor has failed. */
static bool take_facts(struct supervisor *sv)
{
    struct model_facts f = sv->shared.control->facts;
    bool first = sv->facts.vocab == 0;

    if (f.vocab == 0 || f.vocab > VOCAB_TABLE_MOST_TOKENS || f.max_model_len < 2 ||
        f.max_seqs == 0 || f.hidden == 0 || f.width == 0) {
        supervisor_fail(sv, QUERN_CODE_INTERNAL, "rank 0 says of its model what cannot be");
        return false;
    }
    if (!first && (f.vocab != sv->facts.vocab || f.hidden != sv->facts.hidden ||
                      f.width != sv->facts.width || f.max_model_len < sv->facts.max_model_len)) {
        supervisor_fail(sv, QUERN_CODE_WORKER_DIED, "the workers, started again, found another model "
            "or less memory: start the server again");
        return false;
    }
    if (first)
        sv->facts = f;
    return true;
}

void ranks_ready(struct supervisor *sv)
{
    bool first = sv->state == SUPERVISOR_LOADING;

    if (!take_facts(sv))
        return;
    supervisor_move(sv, SUPERVISOR_SERVING);
    sv->progress_since_ns = spin_now_ns();
    if (!first) {
        tell_pause(sv, false);
        return;
    }
    clients_tell_ready(sv);
    if (sv->ready != NULL)
        sv->ready(sv->socket_path);
}

void child_died(struct child *c, const char *line)
{
    child_move(c, CHILD_ABSENT);
    if (c->kind == CHILD_TEXT)
        text_ended(c->sv, line);
    else
        rank_ended(c->sv, line);
    if (c->sv->state == SUPERVISOR_STOPPING && c->sv->text_child.state == CHILD_ABSENT &&
        ranks_alive(c->sv) == 0)
        supervisor_move(c->sv, SUPERVISOR_ENDED);
}
