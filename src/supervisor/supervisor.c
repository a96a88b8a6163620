/* supervisor.c - the loop that everything else is called from.
 *
 * A turn: look at stages, pump the rings, send what gathered; with nothing left
 * to do arm the doorbells, look once more whether a child has something, and wait
 * for completions (sockets, bell, pidfds, signals, timers). While it works,
 * workers that ring cost nothing. Idle, nothing ticks. */
#include "supervisor/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "quern/spin.h"
#include "quern/log.h"

static const uint64_t stop_grace_ns = 1000000000u, fail_linger_ns = 5000000000u,
                      fail_notice_ns = 200000000u;

/* Ends ------------------------------------------------------------------------------------ */

static void kill_children(struct supervisor *sv)
{
    child_kill(&sv->text_child);
    for (int i = 0; i < MAX_RANKS; i++)
        child_kill(&sv->ranks[i]);
}

static void on_timer(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;

    if (result < 0)
        return;
    if (sv->state == SUPERVISOR_STOPPING)
        kill_children(sv);
    else if (sv->state == SUPERVISOR_FAILED)
        supervisor_move(sv, SUPERVISOR_ENDED);
}

static void start_timer(struct supervisor *sv, uint64_t ns)
{
    if (loop_op_active(&sv->timer))
        return;
    sv->timer.done = on_timer;
    sv->timer.context = sv;
    loop_timer(sv->loop, &sv->timer, (int64_t)(spin_now_ns() + ns));
}

void supervisor_fail(struct supervisor *sv, enum quern_code code, const char *why)
{
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    snprintf(sv->failure, sizeof(sv->failure), "%s", why);
    sv->failure_code = code;
    sv->state = SUPERVISOR_FAILED;
    if (sv->shared.control != NULL)
        shared_abort(&sv->shared);
    kill_children(sv);
    requests_fail_all(sv, code, sv->failure);
    sv->untold = true;
    /* A private client may not have asked yet: it shall hear the reason, not a broken pipe. */
    start_timer(sv, sv->private_fd >= 0 ? fail_linger_ns : fail_notice_ns);
}

static void tell_ranks_to_stop(struct supervisor *sv)
{
    struct shared *g = &sv->shared;
    void *slot;

    if (g->control == NULL)
        return;
    if (ring_reserve(&g->requests, &slot) == STATUS_OK) {
        *(struct request_msg *)slot =
            (struct request_msg){.generation = g->generation, .kind = REQUEST_STOP};
        ring_publish(&g->requests);
    }
    ring_close(&g->requests);
    doorbell_ring(&g->rank_bells[0]);
}

void supervisor_stop(struct supervisor *sv)
{
    if (sv->state == SUPERVISOR_FAILED)
        supervisor_move(sv, SUPERVISOR_ENDED);
    if (sv->state == SUPERVISOR_STOPPING) { /* asked twice: what hangs is not waited for */
        kill_children(sv);
        supervisor_move(sv, SUPERVISOR_ENDED);
    }
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    if (sv->state != SUPERVISOR_SERVING)
        kill_children(sv);
    supervisor_move(sv, SUPERVISOR_STOPPING);
    requests_fail_all(sv, QUERN_CODE_STOPPING, "the server is stopping");
    tell_ranks_to_stop(sv);
    if (sv->text.control != NULL) {
        ring_close(&sv->text.requests);
        doorbell_ring(&sv->text.text_bell);
    }
    start_timer(sv, stop_grace_ns);
    if (sv->text_child.state == CHILD_ABSENT && ranks_alive(sv) == 0)
        supervisor_move(sv, SUPERVISOR_ENDED);
}

/* What it hears --------------------------------------------------------------------------- */

static void on_bell(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;

    if (result < 0 && result != -ECANCELED)
        supervisor_fail(sv, QUERN_CODE_INTERNAL, "the supervisor's doorbell is broken");
}

static void on_signal(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;
    struct signalfd_siginfo info;

    if (result == -ECANCELED)
        return;
    if (result < 0) {
        supervisor_fail(sv, QUERN_CODE_INTERNAL, "the supervisor cannot hear signals any more");
        return;
    }
    if (read(sv->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        supervisor_stop(sv);
    loop_poll_once(sv->loop, op, sv->signal_fd);
}

/* The program this runtime is private to has ended; whoever it forked may still have its socket. */
static void on_parent(struct loop_op *op, int64_t result)
{
    if (result >= 0)
        supervisor_stop(op->context);
}

static enum status watch_signals(struct supervisor *sv)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    sv->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (sv->signal_fd < 0)
        return log_call_failed(errno, "signalfd", "no way to hear signals");
    sv->signal = (struct loop_op){.done = on_signal, .context = sv};
    loop_poll_once(sv->loop, &sv->signal, sv->signal_fd);
    return STATUS_OK;
}

static enum status open_bell(struct supervisor *sv)
{
    sv->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (sv->bell_fd < 0)
        return log_call_failed(errno, "eventfd", "no doorbell");
    sv->bell = (struct loop_op){.done = on_bell, .context = sv};
    loop_bell(sv->loop, &sv->bell, sv->bell_fd);
    return STATUS_OK;
}

/* A turn ---------------------------------------------------------------------------------- */

static void pump(struct supervisor *sv)
{
    if (sv->state >= SUPERVISOR_FAILED)
        return;
    /* while stopping, too: no member may wait for room in a ring */
    if (sv->text_line[0] == '\0' && text_take_replies(sv) != STATUS_OK)
        text_fail(sv, log_last_error());
    if (sv->condemned != sv->generation && ranks_take_tokens(sv) != STATUS_OK)
        ranks_fail(sv, log_last_error());
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    sv->queued = false;
    text_push(sv);
    ranks_push(sv);
}

static uint32_t stages(const struct supervisor *sv)
{
    uint32_t sum = 0;

    /* relaxed: whoever acts on one looks again */
    if (sv->text.control != NULL)
        sum = atomic_load_explicit(&sv->text.control->member.stage, memory_order_relaxed);
    for (uint32_t i = 0; sv->shared.control != NULL && i < sv->config.tp; i++)
        sum += atomic_load_explicit(&sv->shared.control->ranks[i].stage, memory_order_relaxed) << i;
    return sum;
}

static void arm(struct supervisor *sv)
{
    if (sv->shared.control != NULL)
        doorbell_arm(&sv->shared.supervisor_bell);
    if (sv->text.control != NULL)
        doorbell_arm(&sv->text.supervisor_bell);
}

static void awake(struct supervisor *sv)
{
    if (sv->shared.control != NULL)
        doorbell_awake(&sv->shared.supervisor_bell);
    if (sv->text.control != NULL)
        doorbell_awake(&sv->text.supervisor_bell);
}

/* After arming: what came in between rang for nobody, and what clients were sent may have put
 * their requests back into a queue. */
static bool more_to_do(struct supervisor *sv, uint32_t stages_before)
{
    const void *slot;

    if (sv->state == SUPERVISOR_ENDED || !list_empty(&sv->dirty))
        return true;
    if (sv->state == SUPERVISOR_FAILED)
        return false;
    if (sv->queued && sv->state < SUPERVISOR_STOPPING)
        return true;
    return stages(sv) != stages_before ||
           (sv->text.control != NULL && ring_peek(&sv->text.replies, &slot) == STATUS_OK) ||
           (sv->shared.control != NULL && sv->condemned != sv->generation &&
               ring_peek(&sv->shared.tokens, &slot) == STATUS_OK);
}

/* Connections hear of it behind the last words of their requests, and who only waits, too. */
static void tell_failure(struct supervisor *sv)
{
    if (!sv->untold)
        return;
    sv->untold = false;
    clients_tell_error(sv, sv->failure_code, sv->failure);
    clients_flush(sv);
}

static enum status turn(struct supervisor *sv)
{
    uint32_t before = stages(sv);
    enum status s = STATUS_OK;
    bool ready;

    children_look(sv);
    pump(sv);
    clients_flush(sv);
    tell_failure(sv);
    watch_update(sv);
    ready = loop_is_ready(sv->loop);
    if (!ready)
        arm(sv);
    if (ready || !more_to_do(sv, before))
        s = loop_turn(sv->loop, -1);
    awake(sv);
    return s < STATUS_OK ? s : STATUS_OK;
}

/* Open and close -------------------------------------------------------------------------- */

static void nothing(struct supervisor *sv, const struct supervisor_options *o)
{
    sv->config = o->config;
    sv->ready = o->ready;
    sv->bell_fd = sv->lock_fd = sv->listen_fd = sv->spare_fd = sv->signal_fd = -1;
    sv->accept_at_ns = UINT64_MAX;
    sv->private_fd = o->private_fd;
    sv->parent_fd = o->parent_fd;
    sv->instance = random_u64();
    sv->watch_next_ns = UINT64_MAX;
    sv->watch_new = true;
    sv->text_child = (struct child){.sv = sv, .kind = CHILD_TEXT, .pidfd = -1};
    for (int i = 0; i < MAX_RANKS; i++)
        sv->ranks[i] = (struct child){.sv = sv, .kind = CHILD_RANK, .rank = i, .pidfd = -1};
    requests_init(sv);
}

static enum status open_all(struct supervisor *sv, const struct supervisor_options *o)
{
    enum status s = clients_open(sv);

    if (s == STATUS_OK)
        s = loop_open(o->loop, &sv->loop);
    if (s == STATUS_OK)
        s = watch_signals(sv);
    if (s == STATUS_OK)
        s = open_bell(sv);
    if (s == STATUS_OK && o->socket_path != NULL)
        s = socket_listen(sv, o->socket_path);
    if (s == STATUS_OK)
        s = text_start(sv);
    if (s == STATUS_OK)
        s = ranks_start(sv);
    if (s == STATUS_OK && sv->parent_fd >= 0) {
        sv->parent = (struct loop_op){.done = on_parent, .context = sv};
        loop_poll_once(sv->loop, &sv->parent, sv->parent_fd);
    }
    /* last, so that what failed before leaves the socket to who tells it why */
    return s == STATUS_OK && o->private_fd >= 0 ? client_add(sv, o->private_fd) : s;
}

static void close_all(struct supervisor *sv)
{
    if (sv->loop != NULL)
        loop_close(sv->loop);
    children_end(sv);
    requests_free(sv);
    clients_close(sv);
    socket_close(sv);
    segment_close(&sv->vocab_segment);
    shared_close(&sv->shared);
    text_shared_close(&sv->text);
    fd_close(&sv->bell_fd);
    fd_close(&sv->signal_fd);
}

/* A loop that can wait no more can still send what fits: clients hear why it ends. */
static enum status serve(struct supervisor *sv)
{
    enum status s = STATUS_OK;

    while (s == STATUS_OK && sv->state != SUPERVISOR_ENDED)
        s = turn(sv);
    if (s != STATUS_OK) {
        supervisor_fail(sv, QUERN_CODE_INTERNAL, log_last_error());
        clients_flush(sv);
        tell_failure(sv);
    }
    return sv->failure[0] != '\0' ? STATUS_DEAD : s;
}

enum status supervisor_run(const struct supervisor_options *o)
{
    struct supervisor *sv = calloc(1, sizeof(*sv));
    enum status s;

    if (sv == NULL)
        return log_fail(STATUS_NOMEM, "no memory for the supervisor");
    nothing(sv, o);
    s = open_all(sv, o);
    if (s == STATUS_OK)
        s = serve(sv);
    else
        snprintf(sv->failure, sizeof(sv->failure), "%s", log_last_error());
    close_all(sv);
    if (s != STATUS_OK) /* once more, since other lines may have come in between */
        log_fail(s, "%s", sv->failure);
    free(sv);
    return s;
}
