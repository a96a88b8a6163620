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
    char numbers[3][NUMBER], names[CLIENT_OPTIONS][NAME];
    int n;
};

static void add(struct command_line *c, const char *name, const char *value)
{
    c->argv[c->n++] = (char *)name;
    c->argv[c->n++] = (char *)value;
}

/* What the runtime is given: its end of the socket, where its lines go, and our process, as a
 * pidfd; or -1. */
enum { GIVE_SOCKET, GIVE_LINES, GIVE_PARENT, GIVEN };

static void fill_command_line(struct command_line *c, const struct quern_options *o,
    const int given[GIVEN])
{
    static const char *const names[GIVEN] = {"--private-fd", "--lines-fd", "--parent-pidfd"};

    c->argv[c->n++] = (char *)"quern";
    c->argv[c->n++] = (char *)"serve";
    for (int i = 0; i < GIVEN && given[i] >= 0; i++) {
        snprintf(c->numbers[i], NUMBER, "%d", given[i]);
        add(c, names[i], c->numbers[i]);
    }
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

static void close_all(int fds[], int n)
{
    for (int i = 0; i < n; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/* Two ends each, ours and the runtime's. */
static enum status open_ends(int ours[GIVEN], int given[GIVEN])
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return log_call_failed(errno, "socketpair", "no way to speak to a runtime");
    ours[GIVE_SOCKET] = ends[0];
    given[GIVE_SOCKET] = above_standard(ends[1]);
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return log_call_failed(errno, "pipe2", "no way to hear a runtime");
    ours[GIVE_LINES] = ends[0];
    given[GIVE_LINES] = above_standard(ends[1]);
    return given[GIVE_SOCKET] >= 0 && given[GIVE_LINES] >= 0 ? STATUS_OK : STATUS_IO;
}

/* How the runtime sees our end although a child of ours, forked, holds the socket open. -1: this
 * kernel has none to give, then the socket has to do. */
static int own_pidfd(void)
{
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

    return fd >= 0 ? above_standard(fd) : -1;
}

static enum status start(struct quern *q, const struct quern_options *options, int ours[GIVEN],
    int given[GIVEN])
{
    struct command_line command = {0};
    char path[PATH_MAX];
    enum status s = client_find_program(client_option(options, "executable"), path);

    if (s == STATUS_OK)
        s = open_ends(ours, given);
    if (s != STATUS_OK)
        return s;
    given[GIVE_PARENT] = own_pidfd();
    fill_command_line(&command, options, given);
    return proc_spawn_detached(path, command.argv, given,
        given[GIVE_PARENT] >= 0 ? GIVEN : GIVE_PARENT, &q->pid, &q->pidfd);
}

enum status client_spawn(struct quern *q, const struct quern_options *options)
{
    int ours[GIVEN] = {-1, -1, -1}, given[GIVEN] = {-1, -1, -1};
    enum status s = start(q, options, ours, given);

    close_all(given, GIVEN);
    if (s != STATUS_OK) {
        close_all(ours, GIVEN);
        return s;
    }
    q->fd = ours[GIVE_SOCKET];
    q->lines_fd = ours[GIVE_LINES];
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
