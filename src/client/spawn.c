/* spawn.c - a private runtime: a child with one end of a socket pair.
 *
 * The child learns that we are gone from the socket or, when a child of ours
 * holds that too, from our pidfd; and we that it is gone from the socket, its
 * pidfd only tells how. Options travel as the command line that a person would
 * have typed. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "client/client.h"

enum { MAX_ARGS = 2 * CLIENT_OPTIONS + 6, NUMBER = 16, NAME = 32 };

/* A folder of that name may be entered, which is X_OK for it too. */
static bool runs(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

/* "DIR of this library" + tail; installed and moved, or in a build tree. */
static bool beside_library(const char *tail, char path[PATH_MAX])
{
    Dl_info info;
    char dir[PATH_MAX];
    char *slash;

    if (dladdr((void *)(uintptr_t)quern_version, &info) == 0 || realpath(info.dli_fname, dir) == NULL)
        return false;
    slash = strrchr(dir, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    return snprintf(path, PATH_MAX, "%s/%s", dir, tail) < PATH_MAX && runs(path);
}

static bool on_path(char path[PATH_MAX])
{
    const char *dirs = getenv("PATH");

    while (dirs != NULL && *dirs != '\0') {
        int n = (int)strcspn(dirs, ":");

        if (snprintf(path, PATH_MAX, "%.*s/quern", n, dirs) < PATH_MAX && runs(path))
            return true;
        dirs += n + (dirs[n] == ':');
    }
    return false;
}

enum status client_find_program(const char *wanted, char path[PATH_MAX])
{
    const char *set = getenv("QUERN");

    if (wanted == NULL)
        wanted = set;
    if (wanted != NULL) {
        if (snprintf(path, PATH_MAX, "%s", wanted) < PATH_MAX && runs(path))
            return STATUS_OK;
        return log_fail(STATUS_INVALID, "%s: not a program that can be run", wanted);
    }
    if (beside_library("../bin/quern", path) || beside_library("../quern", path) ||
        beside_library("../../bin/quern", path))
        return STATUS_OK;
    if (snprintf(path, PATH_MAX, "%s/quern", QUERN_BINDIR) < PATH_MAX && runs(path))
        return STATUS_OK;
    if (on_path(path))
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "the quern program is neither beside libquern nor in %s nor on "
        "PATH: install it, or name it by the option executable or in $QUERN", QUERN_BINDIR);
}

/* What a person would have typed. */
struct command_line {
    char *argv[MAX_ARGS + 1];
    char numbers[2][NUMBER], names[CLIENT_OPTIONS][NAME];
    int n;
};

static void add(struct command_line *c, const char *name, const char *value)
{
    c->argv[c->n++] = (char *)name;
    c->argv[c->n++] = (char *)value;
}

/* fd: the runtime's end of the socket; parent_fd: our process, as a pidfd, or -1. */
static void fill_command_line(struct command_line *c, const struct quern_options *o, int fd,
    int parent_fd)
{
    c->argv[c->n++] = (char *)"quern";
    c->argv[c->n++] = (char *)"serve";
    snprintf(c->numbers[0], NUMBER, "%d", fd);
    add(c, "--private-fd", c->numbers[0]);
    snprintf(c->numbers[1], NUMBER, "%d", parent_fd);
    if (parent_fd >= 0)
        add(c, "--parent-pidfd", c->numbers[1]);
    for (int i = 0; o != NULL && client_options[i].name != NULL; i++)
        if (o->values[i] != NULL && strcmp(client_options[i].name, "executable") != 0) {
            snprintf(c->names[i], NAME, "--%s", client_options[i].name);
            add(c, c->names[i], o->values[i]);
        }
    c->argv[c->n] = NULL;
}

/* None of the standard descriptors, which a program that embeds us may have closed; -1 (logged). */
static int above_standard(int fd)
{
    int moved;

    if (fd > STDERR_FILENO)
        return fd;
    moved = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(fd);
    if (moved < 0)
        log_fail(STATUS_IO, "no descriptor for a runtime: %s", strerror(errno));
    return moved;
}

static enum status socket_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return log_fail(STATUS_IO, "no socket pair: %s", strerror(errno));
    fds[1] = above_standard(fds[1]);
    if (fds[1] >= 0)
        return STATUS_OK;
    close(fds[0]);
    return STATUS_IO;
}

/* How the runtime sees our end although a child of ours, forked, holds the socket open. -1: this
 * kernel has none to give, then the socket has to do. */
static int own_pidfd(void)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

    return fd >= 0 ? above_standard(fd) : -1;
}

enum status client_spawn(struct quern *q, const struct quern_options *options)
{
    struct command_line command = {0};
    char path[PATH_MAX];
    enum status s = client_find_program(client_option(options, "executable"), path);
    int fds[2], keep[2];

    if (s != STATUS_OK)
        return s;
    s = socket_pair(fds);
    if (s != STATUS_OK)
        return s;
    keep[0] = fds[1];
    keep[1] = own_pidfd();
    fill_command_line(&command, options, keep[0], keep[1]);
    s = proc_spawn_detached(path, command.argv, keep, keep[1] >= 0 ? 2 : 1, &q->pid, &q->pidfd);
    close(keep[0]);
    if (keep[1] >= 0)
        close(keep[1]);
    if (s != STATUS_OK) {
        close(fds[0]);
        return s;
    }
    q->fd = fds[0];
    return STATUS_OK;
}

/* Signals that our caller handles do not shorten the wait. */
static bool has_ended(int pidfd, int wait_ms)
{
    struct pollfd fds = {.fd = pidfd, .events = POLLIN};
    struct patience p = client_patience(wait_ms);
    int n;

    do
        n = poll(&fds, 1, client_left_ms(p));
    while (n < 0 && errno == EINTR);
    return n > 0;
}

void client_reap(struct quern *q, int wait_ms, bool kill, char how[128])
{
    struct proc_exit exit_how;
    char text[64];

    how[0] = '\0';
    if (q->pidfd < 0)
        return;
    if (!has_ended(q->pidfd, wait_ms)) {
        if (!kill)
            return;
        proc_signal(q->pidfd, SIGKILL);
        has_ended(q->pidfd, -1);
    }
    if (proc_reap(q->pidfd, &exit_how) == STATUS_OK)
        snprintf(how, 128, "(process %d) %s", (int)q->pid,
            proc_describe(exit_how, text, sizeof(text)));
    close(q->pidfd);
    q->pidfd = -1;
}
