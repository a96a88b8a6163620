/* proc.c - fork and exec with everything that usually goes wrong closed.
 *
 * Between fork and exec only async-signal-safe calls are made, for the parent
 * may have threads that held locks; so the fds are sorted before. A pipe that
 * exec closes carries the first failure back: silence is success. Signals are
 * blocked over the fork, or a handler of the parent's could run in the child.
 * fork + pidfd_open is as safe as clone3's CLONE_PIDFD while nobody else reaps
 * our children, and it keeps libc's own fork handling. */
#include "ipc/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quern/log.h"

/* What the child could not do, as it comes through the pipe. */
struct failure {
    enum { AT_EXEC, AT_KEEP_FD, AT_CLOSE, AT_SIGNALS, AT_PARENT } at;
    int error; /* errno */
    int fd;    /* with AT_KEEP_FD */
};

struct spawn {
    const char *path;
    char *const *argv;
    int keep[PROC_KEEP_FDS]; /* sorted */
    size_t n;
    pid_t parent; /* to die with; 0: not */
    int report;   /* write end of the failure pipe, close-on-exec */
};

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* ---- in the child: async-signal-safe only ---- */

static _Noreturn void child_fail(const struct spawn *s, struct failure why)
{
    ssize_t sent = write(s->report, &why, sizeof(why));

    (void)sent; /* then the parent sees status 127 instead */
    _exit(127);
}

static void child_reset_signals(const struct spawn *s)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        sigaction(i, &plain, NULL); /* fails for KILL, STOP and libc's own: those are default */
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) != 0)
        child_fail(s, (struct failure){.at = AT_SIGNALS, .error = errno});
}

static void child_hide(const struct spawn *s, unsigned first, unsigned last)
{
    if (first <= last && close_range(first, last, CLOSE_RANGE_CLOEXEC) != 0)
        child_fail(s, (struct failure){.at = AT_CLOSE, .error = errno});
}

/* Hides from exec all fds in the gaps between those to keep; until then they
 * stay open, for the report's own is one of them. */
static void child_choose_fds(const struct spawn *s)
{
    unsigned next = STDERR_FILENO + 1;

    for (size_t i = 0; i < s->n; i++) {
        int fd = s->keep[i], flags = fcntl(fd, F_GETFD);

        if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) != 0)
            child_fail(s, (struct failure){.at = AT_KEEP_FD, .error = errno, .fd = fd});
        if ((unsigned)fd < next)
            continue; /* standard, or named twice */
        if ((unsigned)fd > next)
            child_hide(s, next, (unsigned)fd - 1);
        next = (unsigned)fd + 1;
    }
    child_hide(s, next, UINT_MAX);
}

static _Noreturn void child_run(const struct spawn *s)
{
    if (s->parent != 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
            child_fail(s, (struct failure){.at = AT_PARENT, .error = errno});
        if (getppid() != s->parent) /* it died before prctl(): no signal will come */
            _exit(127);
    }
    child_choose_fds(s);
    child_reset_signals(s);
    execv(s->path, s->argv);
    child_fail(s, (struct failure){.at = AT_EXEC, .error = errno});
}

/* ---- in the parent ---- */

static enum status report_failure(const char *path, struct failure why)
{
    const char *reason = strerror(why.error);

    switch (why.at) {
    case AT_EXEC: return log_fail(STATUS_IO, "cannot start %s: %s", path, reason);
    case AT_KEEP_FD:
        return log_fail(STATUS_IO, "cannot start %s: fd %d to pass on: %s", path, why.fd, reason);
    case AT_CLOSE: return log_call_failed(why.error, "close_range", "cannot start %s", path);
    case AT_SIGNALS: return log_fail(STATUS_IO, "cannot start %s: signal mask: %s", path, reason);
    case AT_PARENT:
        return log_call_failed(why.error, "prctl(PR_SET_PDEATHSIG)", "cannot start %s", path);
    }
    return log_fail(STATUS_IO, "cannot start %s", path);
}

/* Blocks until the child has become the program, or has said why not. */
static enum status hear_from(int fd, const char *path)
{
    struct failure why;
    ssize_t n;

    do
        n = read(fd, &why, sizeof(why));
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return STATUS_OK;
    if (n == (ssize_t)sizeof(why))
        return report_failure(path, why);
    return log_fail(STATUS_IO, "cannot start %s: its first words were cut off", path);
}

/* Before the pipe is made: it could get the number of an fd that is not open,
 * be passed on, and never report an end. */
static enum status check_open(const struct spawn *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (fcntl(s->keep[i], F_GETFD) < 0)
            return report_failure(
                s->path, (struct failure){.at = AT_KEEP_FD, .error = errno, .fd = s->keep[i]});
    return STATUS_OK;
}

static pid_t fork_blocked(const struct spawn *s)
{
    sigset_t all, before;
    int error;
    pid_t pid;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid = fork();
    if (pid == 0)
        child_run(s);
    error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return pid;
}

static void bury(pid_t pid)
{
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static enum status start(const char *path, char *const argv[], const int keep_fds[], size_t n,
    pid_t parent, pid_t *pid, int *pidfd)
{
    struct spawn spawn = {.path = path, .argv = argv, .n = n, .parent = parent};
    int pipe_fds[2], child_fd;
    enum status s;
    pid_t child;

    if (n > PROC_KEEP_FDS)
        return log_fail(STATUS_INVALID, "cannot start %s: %zu fds to pass on, %d are possible",
            path, n, PROC_KEEP_FDS);
    for (size_t i = 0; i < n; i++)
        spawn.keep[i] = keep_fds[i];
    qsort(spawn.keep, n, sizeof(spawn.keep[0]), by_number);
    s = check_open(&spawn);
    if (s != STATUS_OK)
        return s;
    if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        return log_fail(STATUS_IO, "cannot start %s: pipe: %s", path, strerror(errno));
    spawn.report = pipe_fds[1];
    child = fork_blocked(&spawn);
    if (child < 0) {
        s = log_call_failed(errno, "fork", "cannot start %s", path);
        close(pipe_fds[1]);
        goto err_close_pipe;
    }
    close(pipe_fds[1]);
    child_fd = pidfd_open(child, 0);
    if (child_fd < 0) {
        s = log_call_failed(errno, "pidfd_open", "cannot start %s", path);
        goto err_bury;
    }
    s = hear_from(pipe_fds[0], path);
    if (s != STATUS_OK)
        goto err_close_pidfd;
    close(pipe_fds[0]);
    *pid = child;
    *pidfd = child_fd;
    return STATUS_OK;

err_close_pidfd:
    close(child_fd);
err_bury:
    bury(child);
err_close_pipe:
    close(pipe_fds[0]);
    return s;
}

enum status proc_spawn(
    const char *path, char *const argv[], const int keep_fds[], size_t n, pid_t *pid, int *pidfd)
{
    return start(path, argv, keep_fds, n, getpid(), pid, pidfd);
}

enum status proc_spawn_detached(
    const char *path, char *const argv[], const int keep_fds[], size_t n, pid_t *pid, int *pidfd)
{
    return start(path, argv, keep_fds, n, 0, pid, pidfd);
}

enum status proc_reap(int pidfd, struct proc_exit *how)
{
    siginfo_t info = {.si_pid = 0};

    while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG) != 0)
        if (errno != EINTR)
            return log_fail(STATUS_IO, "cannot learn how a process ended: %s", strerror(errno));
    if (info.si_pid == 0)
        return STATUS_AGAIN;
    *how = (struct proc_exit){
        .status_or_signal = info.si_status,
        .signalled = info.si_code != CLD_EXITED,
    };
    return STATUS_OK;
}

const char *proc_describe(struct proc_exit how, char *text, size_t bytes)
{
    const char *name = how.signalled ? sigabbrev_np(how.status_or_signal) : NULL;

    if (!how.signalled)
        snprintf(text, bytes, "ended with status %d", how.status_or_signal);
    else if (name != NULL)
        snprintf(text, bytes, "was killed by signal %d (SIG%s)", how.status_or_signal, name);
    else
        snprintf(text, bytes, "was killed by signal %d", how.status_or_signal);
    return text;
}

/* Where a filter refuses pidfd_send_signal. A child keeps its number until it is reaped, and then
 * its pidfd has none. */
static int signal_by_number(int pidfd, int signal_number)
{
    char path[64], line[128];
    int pid = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    f = fopen(path, "re");
    if (f == NULL)
        return -1;
    while (pid < 0 && fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "Pid: %d", &pid) != 1)
            pid = -1;
    fclose(f);
    errno = ESRCH;
    return pid > 0 ? kill(pid, signal_number) : -1;
}

enum status proc_signal(int pidfd, int signal_number)
{
    int sent = pidfd_send_signal(pidfd, signal_number, NULL, 0);

    if (sent != 0 && (errno == EPERM || errno == ENOSYS))
        sent = signal_by_number(pidfd, signal_number);
    if (sent == 0)
        return STATUS_OK;
    if (errno == ESRCH)
        return STATUS_CLOSED;
    return log_fail(STATUS_IO, "cannot send signal %d: %s", signal_number, strerror(errno));
}

enum status proc_death_pipe(int *keep, int *give)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) != 0)
        return log_fail(STATUS_IO, "death pipe: %s", strerror(errno));
    *keep = fds[1];
    *give = fds[0];
    return STATUS_OK;
}

/* The kernel marks the path of a file that was replaced while it runs. */
static void drop_deleted_mark(char *path)
{
    static const char mark[] = " (deleted)";
    size_t length = strlen(path), m = sizeof(mark) - 1;

    if (length > m && strcmp(path + length - m, mark) == 0 && access(path, F_OK) != 0)
        path[length - m] = '\0';
}

enum status proc_self_path(char *path, size_t bytes)
{
    char whole[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", whole, sizeof(whole) - 1);

    if (n < 0)
        return log_fail(STATUS_IO, "cannot read /proc/self/exe: %s", strerror(errno));
    whole[n] = '\0';
    drop_deleted_mark(whole);
    if (strlen(whole) >= bytes)
        return log_fail(STATUS_INVALID, "the path of this program is longer than %zu bytes", bytes);
    memcpy(path, whole, strlen(whole) + 1);
    return STATUS_OK;
}
