/* watch.c - one timer for all that may not take too long.
 *
 * What is watched, and since when:
 *   ranks         while a request runs: since one of them
 *                 did an operation of a step last
 *   text worker   while it has a prompt: since it answered last
 *   loading       since a generation was started
 *   a socket      while it takes nothing of what its client asked for
 *   kept answers  until their time is over
 *   the listener  while it cannot accept, though no client that leaves may mend it
 * The timer is set to the earliest of these; when it fires, what is over is
 * dealt with and the timer set again. A step does not touch it: it fires, finds
 * that the clock has moved, and looks again later. With nothing to watch it is
 * not set, so an idle server does not tick. */
#include <stdio.h>
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

static const uint64_t second_ns = UINT64_C(1000000000), slow_client_ns = UINT64_C(30000000000);

static uint64_t step_timeout_ns(const struct supervisor *sv)
{
    return (uint64_t)sv->config.step_timeout_s * second_ns;
}

static uint64_t progress_of(const struct supervisor *sv, uint32_t rank)
{
    /* relaxed: only whether it moves counts */
    return atomic_load_explicit(&sv->shared.control->ranks[rank].progress, memory_order_relaxed);
}

static bool ranks_have_work(const struct supervisor *sv)
{
    return sv->state == SUPERVISOR_SERVING && sv->n_running > 0;
}

/* 'T' is stopped; '?' when it cannot be known. */
static char process_state(pid_t pid)
{
    char path[64], text[256];
    const char *after;
    FILE *f;
    size_t n;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (f == NULL)
        return '?';
    n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    after = strrchr(text, ')');
    return after != NULL && after[1] == ' ' ? after[2] : '?';
}

/* The one that is stopped, else the one that is behind. */
static uint32_t culprit(const struct supervisor *sv)
{
    uint32_t behind = 0;

    for (uint32_t i = 0; i < sv->config.tp; i++) {
        if (process_state(sv->ranks[i].pid) == 'T')
            return i;
        if (progress_of(sv, i) < progress_of(sv, behind))
            behind = i;
    }
    return behind;
}

/* Each look_at_ function deals with what is over and returns when to look again; UINT64_MAX:
 * there is nothing to watch. */
static uint64_t look_at_steps(struct supervisor *sv, uint64_t now)
{
    uint64_t progress = 0, quarter;
    char name[64], line[LOG_LINE_BYTES];
    const struct child *c;

    for (uint32_t i = 0; i < sv->config.tp; i++)
        progress += progress_of(sv, i);
    if (progress != sv->progress_seen || !ranks_have_work(sv)) {
        sv->progress_seen = progress;
        sv->progress_since_ns = now;
    }
    if (!ranks_have_work(sv))
        return UINT64_MAX;
    /* A look every quarter, three without a change: within the time, whenever it hung. */
    quarter = step_timeout_ns(sv) / 4;
    if (now - sv->progress_since_ns < 3 * quarter)
        return now + quarter;
    c = &sv->ranks[culprit(sv)];
    snprintf(line, sizeof(line), "%s %s: it has done nothing for %u s (--step-timeout)",
        child_name(c, name), process_state(c->pid) == 'T' ? "is stopped" : "hangs",
        sv->config.step_timeout_s);
    ranks_fail(sv, line);
    return UINT64_MAX;
}

static uint64_t look_at_text(struct supervisor *sv, uint64_t now)
{
    char name[64], line[LOG_LINE_BYTES];

    if (list_empty(&sv->encoding) || !sv->text_ready || sv->text_child.state != CHILD_RUNNING)
        return UINT64_MAX;
    if (now - sv->text_since_ns < step_timeout_ns(sv))
        return sv->text_since_ns + step_timeout_ns(sv);
    snprintf(line, sizeof(line), "%s has answered nothing for %u s", child_name(&sv->text_child, name),
        sv->config.step_timeout_s);
    text_fail(sv, line);
    return UINT64_MAX;
}

/* Ranks know a deadline, too, and say whom they wait for; this is for when they cannot. */
static uint64_t look_at_loading(struct supervisor *sv, uint64_t now)
{
    uint64_t most = ((uint64_t)sv->config.load_timeout_s + 5) * second_ns;
    char line[LOG_LINE_BYTES];

    if ((sv->state != SUPERVISOR_LOADING && sv->state != SUPERVISOR_RESTARTING) ||
        ranks_alive(sv) == 0)
        return UINT64_MAX;
    if (now - sv->load_since_ns < most)
        return sv->load_since_ns + most;
    snprintf(line, sizeof(line), "the model is not loaded after %u s", sv->config.load_timeout_s);
    ranks_fail(sv, line);
    return UINT64_MAX;
}

static uint64_t look_at_sockets(struct supervisor *sv, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    for (struct list_node *at = sv->clients.next, *after; at != &sv->clients; at = after) {
        struct client *c = LIST_OF(at, struct client, all);

        after = at->next;
        if (!loop_op_active(&c->send) || c->let_go)
            continue;
        if (now - c->send_since_ns >= slow_client_ns)
            client_let_go(c, "it has read nothing for 30 s");
        else if (c->send_since_ns + slow_client_ns < next)
            next = c->send_since_ns + slow_client_ns;
    }
    return next;
}

static uint64_t look_at_kept(struct supervisor *sv, uint64_t now)
{
    requests_expire(sv, now);
    return list_empty(&sv->kept) ? UINT64_MAX
                                 : LIST_OF(sv->kept.next, struct request, kept)->keep_until_ns;
}

static uint64_t look_at_listener(struct supervisor *sv, uint64_t now)
{
    if (now >= sv->accept_at_ns)
        socket_accept_again(sv);
    return sv->accept_at_ns;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void on_watch(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;

    sv->watch_at_ns = 0;
    (void)result; /* cancelled or due: watch_update() sets it again */
}

static void look(struct supervisor *sv)
{
    uint64_t now = spin_now_ns(), next;

    next = look_at_steps(sv, now);
    next = least(next, look_at_text(sv, now));
    next = least(next, look_at_loading(sv, now));
    next = least(next, look_at_sockets(sv, now));
    next = least(next, look_at_kept(sv, now));
    next = least(next, look_at_listener(sv, now));
    sv->watch_next_ns = next;
}

/* Cheap when nothing was over and nothing new is to be watched: `watch_due` says which. */
void watch_update(struct supervisor *sv)
{
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    if (sv->watch_at_ns != 0 && !sv->watch_new)
        return;
    if (sv->watch_at_ns == 0 && sv->watch_next_ns == UINT64_MAX && !sv->watch_new)
        return;
    sv->watch_new = false;
    look(sv);
    if (sv->state >= SUPERVISOR_STOPPING || sv->watch_next_ns == UINT64_MAX)
        return;
    if (sv->watch_at_ns != 0) {
        if (sv->watch_next_ns >= sv->watch_at_ns)
            return; /* it fires before */
        sv->watch_new = true; /* once more when the cancelled one has come back */
        loop_cancel(sv->loop, &sv->watch);
        return;
    }
    sv->watch_at_ns = sv->watch_next_ns;
    sv->watch.done = on_watch;
    sv->watch.context = sv;
    loop_timer(sv->loop, &sv->watch, (int64_t)sv->watch_at_ns);
}
