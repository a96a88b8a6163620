/* children.c - processes: started, watched, ended.
 *
 * What a death means is restart.c's business; here it only becomes a line that
 * says who died of what. A member that fails says why in its slot and sets the
 * abort word; the others then end without a reason of their own. So a reason in
 * a slot goes before an exit status, and an exit by signal is told with the
 * rank and the signal. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "quern/spin.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"

static const int kill_patience_ms = 3000;

const char *child_name(const struct child *c, char text[64])
{
    if (c->kind == CHILD_TEXT)
        snprintf(text, 64, "the text worker (process %d)", (int)c->pid);
    else
        snprintf(text, 64, "rank %d (process %d)", c->rank, (int)c->pid);
    return text;
}

static const struct member *member_of(const struct child *c)
{
    return c->kind == CHILD_TEXT ? &c->sv->text.control->member
                                 : &c->sv->shared.control->ranks[c->rank];
}

void child_kill(struct child *c)
{
    if (c->state == CHILD_ABSENT)
        return;
    proc_signal(c->pidfd, SIGKILL);
    if (c->state == CHILD_RUNNING)
        child_move(c, CHILD_ENDING);
}

static void end_one(struct child *c)
{
    struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
    uint64_t deadline = spin_now_ns() + (uint64_t)kill_patience_ms * 1000000u;
    struct proc_exit how;
    char name[64];
    int n, left;

    if (c->state == CHILD_ABSENT)
        return;
    do {
        left = (int)(((int64_t)deadline - (int64_t)spin_now_ns()) / 1000000);
        n = poll(&p, 1, left > 0 ? left : 0);
    } while (n < 0 && left > 0); /* a signal is no reason to leave it */
    if (n > 0)
        proc_reap(c->pidfd, &how);
    else /* a device may hold it */
        log_warn("%s cannot be ended and is left", child_name(c, name));
    close(c->pidfd);
    c->pidfd = -1;
    c->state = CHILD_ABSENT;
}

void children_end(struct supervisor *sv)
{
    child_kill(&sv->text_child);
    for (int i = 0; i < MAX_RANKS; i++)
        child_kill(&sv->ranks[i]);
    end_one(&sv->text_child);
    for (int i = 0; i < MAX_RANKS; i++)
        end_one(&sv->ranks[i]);
}

static void on_exit_of(struct loop_op *op, int64_t result)
{
    struct child *c = op->context;
    char name[64], how[64], line[LOG_LINE_BYTES];
    struct proc_exit exit_how;

    if (result < 0 || proc_reap(c->pidfd, &exit_how) != STATUS_OK)
        return;
    close(c->pidfd);
    c->pidfd = -1;
    if (!exit_how.signalled && member_stage_of(member_of(c)) == STAGE_FAILED)
        member_error(member_of(c), line);
    else
        snprintf(line, sizeof(line), "%s %s", child_name(c, name),
            proc_describe(exit_how, how, sizeof(how)));
    child_died(c, line);
}

enum status child_start(struct child *c)
{
    struct supervisor *sv = c->sv;
    char fds_text[FD_LIST_TEXT], rank_text[16];
    char *rank_argv[] = {"quern", "worker", rank_text, fds_text, NULL};
    char *text_argv[] = {"quern", "text", fds_text, NULL};
    bool text = c->kind == CHILD_TEXT;
    int fds[FD_LIST_MOST];
    int n = text ? text_shared_fds(&sv->text, fds) : shared_fds(&sv->shared, fds);
    enum status s;

    snprintf(rank_text, sizeof(rank_text), "%d", c->rank);
    fd_list_format(fds, n, fds_text);
    s = proc_spawn("/proc/self/exe", text ? text_argv : rank_argv, fds, (size_t)n, &c->pid,
        &c->pidfd);
    if (s != STATUS_OK)
        return s;
    child_move(c, CHILD_RUNNING);
    c->op = (struct loop_op){.done = on_exit_of, .context = c};
    loop_poll_once(sv->loop, &c->op, c->pidfd);
    return STATUS_OK;
}

/* The detokenisation table, once a text worker has sealed it. A later one's is the same. */
static void take_vocabulary(struct supervisor *sv)
{
    if (sv->text_ready || sv->text_child.state != CHILD_RUNNING ||
        member_stage_of(&sv->text.control->member) != STAGE_READY)
        return;
    if (segment_map(sv->text.vocab_fd, &sv->vocab_segment) != STATUS_OK) {
        text_fail(sv, log_last_error());
        return;
    }
    sv->text.vocab_fd = -1; /* the segment's now */
    if (vocab_table_attach(sv->vocab_segment.base, sv->vocab_segment.bytes, &sv->vocab) !=
        STATUS_OK)
        text_fail(sv, log_last_error());
    else
        sv->text_ready = true;
}

static bool all_ready(const struct supervisor *sv)
{
    for (uint32_t i = 0; i < sv->config.tp; i++)
        if (sv->ranks[i].state != CHILD_RUNNING ||
            member_stage_of(&sv->shared.control->ranks[i]) != STAGE_READY)
            return false;
    return true;
}

/* How far all ranks are, once a percent. */
static void tell_progress(struct supervisor *sv)
{
    struct frame_loading l = {.fixed = sizeof(l)};

    for (uint32_t i = 0; i < sv->config.tp; i++) {
        const struct member *m = &sv->shared.control->ranks[i];

        /* relaxed: only shown */
        l.loaded += atomic_load_explicit(&m->loaded, memory_order_relaxed);
        l.total += atomic_load_explicit(&m->total, memory_order_relaxed);
    }
    if (l.total == 0 || l.loaded > l.total || (l.loaded - sv->shown_loaded) * 100 < l.total)
        return;
    sv->shown_loaded = l.loaded;
    clients_tell(sv, FRAME_LOADING, &l, sizeof(l), NULL, 0);
}

static void look_at_failures(struct supervisor *sv)
{
    char line[LOG_LINE_BYTES];

    if (sv->text_child.state == CHILD_RUNNING &&
        member_stage_of(&sv->text.control->member) == STAGE_FAILED) {
        member_error(&sv->text.control->member, line);
        text_fail(sv, line);
    }
    for (uint32_t i = 0; i < sv->config.tp; i++)
        if (sv->ranks[i].state == CHILD_RUNNING &&
            member_stage_of(&sv->shared.control->ranks[i]) == STAGE_FAILED) {
            member_error(&sv->shared.control->ranks[i], line);
            ranks_fail(sv, line);
            return;
        }
}

void children_look(struct supervisor *sv)
{
    if (sv->state < SUPERVISOR_STOPPING)
        look_at_failures(sv);
    if (sv->state < SUPERVISOR_STOPPING)
        take_vocabulary(sv);
    if (sv->state != SUPERVISOR_LOADING && sv->state != SUPERVISOR_RESTARTING)
        return;
    tell_progress(sv);
    if (sv->text_ready && all_ready(sv))
        ranks_ready(sv);
}
