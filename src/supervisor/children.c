/* children.c - the processes of a group: started together, ended together.
 *
 * Who died first is what a person wants to know. A member that fails says why
 * in its slot and sets the abort word; the others then end without a reason of
 * their own. So a reason in a slot goes before an exit status, and an exit by
 * signal is told with the rank and the signal. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

static const uint64_t stop_grace_ns = 1000000000u, fail_linger_ns = 5000000000u,
                      fail_notice_ns = 200000000u;
static const int kill_patience_ms = 3000;

static const char *child_name(const struct child *c, char text[64])
{
    if (c->kind == CHILD_TEXT)
        snprintf(text, 64, "the text worker (process %d)", (int)c->pid);
    else
        snprintf(text, 64, "rank %d (process %d)", c->rank, (int)c->pid);
    return text;
}

static struct member *member_of(const struct child *c)
{
    struct shared_control *control = c->sv->shared.control;

    return c->kind == CHILD_TEXT ? &control->text : &control->ranks[c->rank];
}

/* acquire: what a member wrote before its stage is there */
static enum stage stage_of(const struct member *m)
{
    return (enum stage)atomic_load_explicit(&m->stage, memory_order_acquire);
}

void children_kill(struct supervisor *sv)
{
    for (int i = 0; i < sv->n_children; i++)
        if (sv->children[i].pidfd >= 0)
            proc_signal(sv->children[i].pidfd, SIGKILL);
}

void children_end(struct supervisor *sv)
{
    children_kill(sv);
    for (int i = 0; i < sv->n_children; i++) {
        struct child *c = &sv->children[i];
        struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
        struct proc_exit how;

        if (c->pidfd < 0)
            continue;
        if (poll(&p, 1, kill_patience_ms) > 0) /* a device may hold a process for a while */
            proc_reap(c->pidfd, &how);
        close(c->pidfd);
        c->pidfd = -1;
    }
}

/* The reason a member gave, if one did. */
static const char *told_reason(const struct supervisor *sv)
{
    for (int i = 0; i < sv->n_children; i++) {
        const struct member *m = member_of(&sv->children[i]);

        if (stage_of(m) == STAGE_FAILED)
            return m->error;
    }
    return NULL;
}

static void end_if_alone(struct supervisor *sv)
{
    if (sv->n_alive == 0 && sv->state == SUPERVISOR_STOPPING)
        sv->state = SUPERVISOR_ENDED;
}

static void on_timer(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;

    if (result < 0)
        return;
    if (sv->state == SUPERVISOR_STOPPING)
        children_kill(sv);
    else if (sv->state == SUPERVISOR_FAILED)
        sv->state = SUPERVISOR_ENDED;
}

static void start_timer(struct supervisor *sv, uint64_t ns)
{
    if (loop_op_active(&sv->timer))
        return;
    sv->timer.done = on_timer;
    sv->timer.context = sv;
    loop_timer(sv->loop, &sv->timer, (int64_t)(spin_now_ns() + ns));
}

void supervisor_fail(struct supervisor *sv, const char *why)
{
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    snprintf(sv->failure, sizeof(sv->failure), "%s", why);
    sv->state = SUPERVISOR_FAILED;
    shared_abort(&sv->shared);
    children_kill(sv);
    requests_fail(sv, sv->failure);
    clients_tell(sv, FRAME_ERROR, sv->failure, strlen(sv->failure)); /* who only waits, too */
    /* A private client may not have asked yet: it shall hear the reason, not a broken pipe. */
    start_timer(sv, sv->private_fd >= 0 ? fail_linger_ns : fail_notice_ns);
}

void supervisor_stop(struct supervisor *sv)
{
    void *slot;

    if (sv->state == SUPERVISOR_FAILED)
        sv->state = SUPERVISOR_ENDED;
    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    if (sv->state == SUPERVISOR_LOADING)
        children_kill(sv);
    sv->state = SUPERVISOR_STOPPING;
    requests_fail(sv, "the server is stopping");
    if (ring_reserve(&sv->shared.requests, &slot) == STATUS_OK) {
        *(struct request_msg *)slot = (struct request_msg){
            .generation = sv->shared.control->generation, .kind = REQUEST_STOP};
        ring_publish(&sv->shared.requests);
    }
    ring_close(&sv->shared.requests);
    ring_close(&sv->shared.text_requests);
    doorbell_ring(&sv->shared.rank_bells[0]);
    doorbell_ring(&sv->shared.text_bell);
    start_timer(sv, stop_grace_ns);
    end_if_alone(sv);
}

static void on_exit_of(struct loop_op *op, int64_t result)
{
    struct child *c = op->context;
    struct supervisor *sv = c->sv;
    char name[64], how[64], line[160];
    struct proc_exit exit_how;
    const char *why;

    if (result < 0 || proc_reap(c->pidfd, &exit_how) != STATUS_OK)
        return;
    close(c->pidfd);
    c->pidfd = -1;
    sv->n_alive--;
    if (sv->state < SUPERVISOR_STOPPING) {
        snprintf(line, sizeof(line), "%s %s", child_name(c, name),
            proc_describe(exit_how, how, sizeof(how)));
        why = told_reason(sv);
        supervisor_fail(sv, why != NULL && !exit_how.signalled ? why : line);
    }
    end_if_alone(sv);
}

static enum status start_child(struct supervisor *sv, enum child_kind kind, int rank)
{
    struct child *c = &sv->children[sv->n_children];
    char fds_text[SHARED_FDS_TEXT], rank_text[16];
    char *rank_argv[] = {"quern", "worker", rank_text, fds_text, NULL};
    char *text_argv[] = {"quern", "text", fds_text, NULL};
    int fds[SHARED_MAX_FDS], n = shared_fds(&sv->shared, fds);
    enum status s;

    snprintf(rank_text, sizeof(rank_text), "%d", rank);
    shared_fds_format(&sv->shared, fds_text);
    *c = (struct child){.sv = sv, .kind = kind, .rank = rank, .pidfd = -1};
    s = proc_spawn("/proc/self/exe", kind == CHILD_TEXT ? text_argv : rank_argv, fds, (size_t)n,
        &c->pid, &c->pidfd);
    if (s != STATUS_OK)
        return s;
    sv->n_children++;
    sv->n_alive++;
    c->op.done = on_exit_of;
    c->op.context = c;
    loop_poll_once(sv->loop, &c->op, c->pidfd);
    return STATUS_OK;
}

enum status children_start(struct supervisor *sv)
{
    enum status s = start_child(sv, CHILD_TEXT, 0);

    for (int rank = 0; s == STATUS_OK && rank < (int)sv->shared.control->config.tp; rank++)
        s = start_child(sv, CHILD_RANK, rank);
    if (s != STATUS_OK)
        children_kill(sv);
    return s;
}

/* The detokenisation table, once the text worker has sealed it. */
static void take_vocabulary(struct supervisor *sv)
{
    if (sv->text_ready || stage_of(&sv->shared.control->text) != STAGE_READY)
        return;
    if (segment_map(sv->shared.vocab_fd, &sv->vocab_segment) != STATUS_OK) {
        supervisor_fail(sv, log_last_error());
        return;
    }
    sv->shared.vocab_fd = -1; /* the segment's now */
    if (vocab_table_attach(sv->vocab_segment.base, sv->vocab_segment.bytes, &sv->vocab) != STATUS_OK)
        supervisor_fail(sv, log_last_error());
    sv->text_ready = true;
}

static bool all_ready(const struct supervisor *sv)
{
    for (int i = 0; i < sv->n_children; i++)
        if (stage_of(member_of(&sv->children[i])) != STAGE_READY)
            return false;
    return sv->text_ready;
}

static void tell_progress(struct supervisor *sv)
{
    struct frame_loading l = {0};

    for (uint32_t i = 0; i < sv->shared.control->config.tp; i++) {
        const struct member *m = &sv->shared.control->ranks[i];

        /* relaxed: only shown */
        l.loaded += atomic_load_explicit(&m->loaded, memory_order_relaxed);
        l.total += atomic_load_explicit(&m->total, memory_order_relaxed);
    }
    if (l.loaded == sv->shown_loaded)
        return;
    sv->shown_loaded = l.loaded;
    clients_tell(sv, FRAME_LOADING, &l, sizeof(l));
}

void children_look(struct supervisor *sv)
{
    const struct model_facts *facts = &sv->shared.control->facts;
    const char *why;

    if (sv->state >= SUPERVISOR_STOPPING)
        return;
    why = told_reason(sv);
    if (why != NULL) {
        supervisor_fail(sv, why);
        return;
    }
    if (sv->state != SUPERVISOR_LOADING)
        return;
    tell_progress(sv);
    take_vocabulary(sv);
    if (sv->state == SUPERVISOR_LOADING && all_ready(sv)) {
        sv->state = SUPERVISOR_SERVING;
        clients_tell(sv, FRAME_READY,
            &(struct frame_ready){.vocab = facts->vocab, .max_model_len = facts->max_model_len},
            sizeof(struct frame_ready));
        if (sv->ready != NULL)
            sv->ready(sv->socket_path);
    }
}
