/* spawn.c - a private runtime: a child with one end of a socket pair.
 *
 * The child learns that we are gone from the socket, and we that it is gone
 * from the socket too; its pidfd only tells how. Options travel as the command
 * line that a person would have typed. */
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
#include <unistd.h>

#include "client/client.h"

enum { MAX_ARGS = 48, NUMBER = 24, END_MS = 5000 };

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
        "PATH: install it, or name it in quern_options.executable or $QUERN", QUERN_BINDIR);
}

struct command_line {
    char *argv[MAX_ARGS + 1];
    char numbers[MAX_ARGS][NUMBER];
    int n;
};

static void add(struct command_line *c, const char *name, const char *value)
{
    if (value == NULL)
        return;
    c->argv[c->n++] = (char *)name;
    c->argv[c->n++] = (char *)value;
}

static void add_number(struct command_line *c, const char *name, unsigned long long value)
{
    if (value == 0)
        return;
    snprintf(c->numbers[c->n], NUMBER, "%llu", value);
    add(c, name, c->numbers[c->n]);
}

/* A negative one is passed on, so that it is refused in its own words. */
static void add_int(struct command_line *c, const char *name, int value)
{
    if (value == 0)
        return;
    snprintf(c->numbers[c->n], NUMBER, "%d", value);
    add(c, name, c->numbers[c->n]);
}

static void fill_command_line(struct command_line *c, const struct quern_options *o, int fd)
{
    c->argv[c->n++] = (char *)"quern";
    c->argv[c->n++] = (char *)"serve";
    add_number(c, "--private-fd", (unsigned long long)fd);
    add(c, "--model", o->model);
    add(c, "--backend", o->backend);
    add(c, "--compute", o->compute);
    add(c, "--kv-dtype", o->kv_dtype);
    add(c, "--quant", o->quant);
    add(c, "--quant-head", o->quant_head);
    add(c, "--quant-activations", o->quant_activations);
    add(c, "--tp-plan", o->tp_plan);
    add(c, "--plugin", o->plugin);
    add(c, "--log-level", o->log_level);
    add_int(c, "--tp", o->tp);
    add_int(c, "--threads", o->threads);
    add_int(c, "--max-model-len", o->max_model_len);
    add_int(c, "--max-seqs", o->max_seqs);
    add_int(c, "--max-batched-tokens", o->max_batched_tokens);
    add_int(c, "--block-size", o->block_size);
    add_number(c, "--memory", o->memory);
    add_number(c, "--seed", o->seed);
    c->argv[c->n] = NULL;
}

/* The child's end, fds[1], is none of the standard descriptors, which a program that embeds us
 * may have closed. */
static enum status socket_pair(int fds[2])
{
    int given;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return log_fail(STATUS_IO, "no socket pair: %s", strerror(errno));
    given = fds[1];
    if (given > STDERR_FILENO)
        return STATUS_OK;
    fds[1] = fcntl(given, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(given);
    if (fds[1] >= 0)
        return STATUS_OK;
    close(fds[0]);
    return log_fail(STATUS_IO, "no descriptor for a socket: %s", strerror(errno));
}

enum status client_spawn(struct quern *q, const struct quern_options *options)
{
    struct command_line command = {0};
    char path[PATH_MAX];
    enum status s = client_find_program(options->executable, path);
    int fds[2];

    if (s != STATUS_OK)
        return s;
    s = socket_pair(fds);
    if (s != STATUS_OK)
        return s;
    fill_command_line(&command, options, fds[1]);
    s = proc_spawn_detached(path, command.argv, &fds[1], 1, &q->pid, &q->pidfd);
    close(fds[1]);
    if (s != STATUS_OK) {
        close(fds[0]);
        return s;
    }
    q->fd = fds[0];
    return STATUS_OK;
}

void client_reap(struct quern *q, char how[128])
{
    struct pollfd p = {.fd = q->pidfd, .events = POLLIN};
    struct proc_exit exit_how;
    char text[64];

    how[0] = '\0';
    if (q->pidfd < 0)
        return;
    if (poll(&p, 1, END_MS) <= 0) {
        proc_signal(q->pidfd, SIGKILL);
        poll(&p, 1, -1);
    }
    if (proc_reap(q->pidfd, &exit_how) == STATUS_OK)
        snprintf(how, 128, "(process %d) %s", (int)q->pid,
            proc_describe(exit_how, text, sizeof(text)));
    close(q->pidfd);
    q->pidfd = -1;
}
