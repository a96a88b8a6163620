/* supervisor.c - the loop that everything else is called from.
 *
 * A turn: arm the doorbell, look at stages, pump the rings, submit what
 * gathered, and wait for completions (sockets, bell, pidfds, signals, timer).
 * While it works, workers that ring cost nothing. Idle, nothing ticks. */
#include "supervisor/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "quern/log.h"

static void on_bell(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;
    uint64_t count;

    if (result == -ECANCELED)
        return;
    if (result < 0 ||
        (read(sv->shared.supervisor_bell.fd, &count, sizeof(count)) < 0 && errno != EAGAIN))
        supervisor_fail(sv, "the supervisor's doorbell is broken");
}

static void on_signal(struct loop_op *op, int64_t result)
{
    struct supervisor *sv = op->context;
    struct signalfd_siginfo info;

    if (result == -ECANCELED)
        return;
    if (result < 0) {
        supervisor_fail(sv, "the supervisor cannot hear signals any more");
        return;
    }
    if (read(sv->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        supervisor_stop(sv);
    loop_poll_once(sv->loop, op, sv->signal_fd);
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
        return log_fail(STATUS_IO, "signalfd: %s", strerror(errno));
    sv->signal.done = on_signal;
    sv->signal.context = sv;
    loop_poll_once(sv->loop, &sv->signal, sv->signal_fd);
    return STATUS_OK;
}

/* Armed before the look, so what comes after it rings. */
static enum status turn(struct supervisor *sv)
{
    enum status s = STATUS_OK;

    doorbell_arm(&sv->shared.supervisor_bell);
    children_look(sv);
    requests_pump(sv);
    clients_flush(sv);
    if (sv->state != SUPERVISOR_ENDED)
        s = loop_turn(sv->loop, -1);
    doorbell_disarm(&sv->shared.supervisor_bell);
    return s < STATUS_OK ? s : STATUS_OK;
}

static enum status open_all(struct supervisor *sv, const struct supervisor_options *o)
{
    enum status s = loop_open(o->loop, &sv->loop);

    if (s == STATUS_OK)
        s = shared_create(&o->config, 1, &sv->shared);
    if (s == STATUS_OK)
        s = watch_signals(sv);
    if (s != STATUS_OK)
        return s;
    sv->bell.done = on_bell;
    sv->bell.context = sv;
    loop_bell(sv->loop, &sv->bell, sv->shared.supervisor_bell.fd);
    if (o->socket_path != NULL)
        s = clients_listen(sv, o->socket_path);
    if (s == STATUS_OK)
        s = children_start(sv);
    /* last, so that what failed before leaves the socket to who tells it why */
    return s == STATUS_OK && o->private_fd >= 0 ? client_add(sv, o->private_fd) : s;
}

static void close_all(struct supervisor *sv)
{
    loop_close(sv->loop);
    children_end(sv);
    requests_free(sv);
    clients_close(sv);
    segment_close(&sv->vocab_segment);
    shared_close(&sv->shared);
    if (sv->signal_fd >= 0)
        close(sv->signal_fd);
}

enum status supervisor_run(const struct supervisor_options *o)
{
    struct supervisor *sv = calloc(1, sizeof(*sv));
    enum status s;

    if (sv == NULL)
        return log_fail(STATUS_NOMEM, "no memory for the supervisor");
    sv->listen_fd = sv->signal_fd = -1;
    sv->private_fd = o->private_fd;
    sv->ready = o->ready;
    requests_init(sv);
    s = open_all(sv, o);
    clients_flush(sv);
    while (s == STATUS_OK && sv->state != SUPERVISOR_ENDED)
        s = turn(sv);
    if (s != STATUS_OK)
        snprintf(sv->failure, sizeof(sv->failure), "%s", log_last_error());
    else if (sv->failure[0] != '\0')
        s = STATUS_DEAD;
    close_all(sv);
    if (s != STATUS_OK) /* once more, since other lines may have come in between */
        log_fail(s, "%s", sv->failure);
    free(sv);
    return s;
}
