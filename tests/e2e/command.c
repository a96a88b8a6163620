/* command.c - fork, two pipes, poll. Everything has a deadline: a test that hangs says so. */
#include "tests/e2e/command.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ROOM_STEP = 1 << 16, RUN_MS = 120000, FAMILY = 64 };

static long now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static int input_fd(const char *input)
{
    int fds[2];

    if (input == NULL)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (pipe2(fds, O_CLOEXEC) != 0 || write(fds[1], input, strlen(input)) < 0)
        abort();
    close(fds[1]);
    return fds[0];
}

void (*child_prepare)(void);

void child_start(struct command *c, const char *const env[], const char *const words[],
    const char *input)
{
    const char *program = getenv("QUERN") != NULL ? getenv("QUERN") : "build/quern";
    const char *argv[COMMAND_ARGS + 2] = {program};
    int out[2], err[2], in = input_fd(input);

    for (int i = 0; words[i] != NULL; i++) {
        if (i == COMMAND_ARGS)
            abort();
        argv[i + 1] = words[i];
    }
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0)
        abort();
    *c = (struct command){.out_fd = out[0], .err_fd = err[0], .out = calloc(1, 1),
        .err = calloc(1, 1), .status = -1};
    c->pid = fork();
    if (c->pid == 0) {
        dup2(in, STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(err[1], STDERR_FILENO);
        for (int i = 0; env != NULL && env[i] != NULL; i++)
            putenv((char *)env[i]);
        if (child_prepare != NULL)
            child_prepare();
        execv(program, (char *const *)argv);
        fprintf(stderr, "%s: %s\n", program, strerror(errno));
        _exit(127);
    }
    close(in);
    close(out[1]);
    close(err[1]);
}

/* One read into *text; closes *fd at its end. */
static void read_some(int *fd, char **text, size_t *bytes)
{
    char *more = realloc(*text, *bytes + ROOM_STEP + 1);
    ssize_t n;

    if (more == NULL)
        abort();
    *text = more;
    n = read(*fd, more + *bytes, ROOM_STEP);
    if (n > 0) {
        *bytes += (size_t)n;
    } else {
        close(*fd);
        *fd = -1;
    }
    more[*bytes] = '\0';
}

/* Waits for output until `deadline`; 0 when it passed. */
static int read_step(struct command *c, long deadline)
{
    struct pollfd p[2] = {{.fd = c->out_fd, .events = POLLIN}, {.fd = c->err_fd, .events = POLLIN}};
    long left = deadline - now_ms();

    if (left <= 0 || poll(p, 2, (int)left) <= 0)
        return 0;
    if (p[0].revents != 0)
        read_some(&c->out_fd, &c->out, &c->out_bytes);
    if (p[1].revents != 0)
        read_some(&c->err_fd, &c->err, &c->err_bytes);
    return 1;
}

int child_read_out(struct command *c, size_t bytes, int ms)
{
    long deadline = now_ms() + ms;

    while (c->out_bytes < bytes && c->out_fd >= 0)
        if (!read_step(c, deadline))
            return 0;
    return 1;
}

int child_read_err(struct command *c, const char *said, int ms)
{
    long deadline = now_ms() + ms;

    while ((c->err == NULL || strstr(c->err, said) == NULL) && c->err_fd >= 0)
        if (!read_step(c, deadline))
            return 0;
    return c->err != NULL && strstr(c->err, said) != NULL;
}

int child_finish(struct command *c, int ms)
{
    long deadline = now_ms() + ms;
    int status;

    while (c->out_fd >= 0 || c->err_fd >= 0)
        if (!read_step(c, deadline)) {
            fprintf(stderr, "# the command was killed after %d ms; it said: %s%s\n", ms, c->out,
                c->err);
            kill(c->pid, SIGKILL);
            break;
        }
    if (waitpid(c->pid, &status, 0) != c->pid)
        abort();
    c->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return c->status;
}

int child_run(struct command *c, const char *const env[], const char *const words[])
{
    child_start(c, env, words, NULL);
    return child_finish(c, RUN_MS);
}

void child_free(struct command *c)
{
    if (c->out_fd >= 0)
        close(c->out_fd);
    if (c->err_fd >= 0)
        close(c->err_fd);
    free(c->out);
    free(c->err);
}

int shell(const char *line, char *said, size_t room)
{
    FILE *f = popen(line, "r");
    size_t n;
    int status;

    if (f == NULL)
        abort();
    n = fread(said, 1, room - 1, f);
    said[n] = '\0';
    status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t parent_of(const char *pid)
{
    char path[64], line[512];
    const char *end;
    int parent = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%.20s/stat", pid);
    f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fgets(line, sizeof(line), f) != NULL && (end = strrchr(line, ')')) != NULL &&
        sscanf(end, ") %*c %d", &parent) != 1)
        parent = 0;
    fclose(f);
    return parent;
}

static int children_of(pid_t parent, pid_t *pids, int room)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    int n = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && n < room &&
            parent_of(entry->d_name) == parent)
            pids[n++] = (pid_t)atoi(entry->d_name);
    if (dir != NULL)
        closedir(dir);
    return n;
}

int child_family(pid_t root, pid_t *pids, int room)
{
    int n = children_of(root, pids, room);

    for (int i = 0; i < n; i++)
        n += children_of(pids[i], pids + n, room - n);
    return n;
}

static int has_name(pid_t pid, const char *name)
{
    char path[64], line[32] = "";
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fgets(line, sizeof(line), f) != NULL)
        line[strcspn(line, "\n")] = '\0';
    fclose(f);
    return strcmp(line, name) == 0;
}

pid_t child_named(pid_t root, const char *name)
{
    pid_t pids[FAMILY];
    int n = child_family(root, pids, FAMILY);

    for (int i = 0; i < n; i++)
        if (has_name(pids[i], name))
            return pids[i];
    return 0;
}

const char *test_file(char path[4096], const char *name)
{
    const char *data = getenv("QUERN_TEST_DATA");

    snprintf(path, 4096, "%s/%s", data != NULL ? data : "tests", name);
    return path;
}

const char *story_file(char path[4096], const char *name)
{
    const char *data = getenv("QUERN_DATADIR");

    snprintf(path, 4096, "%s/models/storyteller/%s", data != NULL ? data : "share", name);
    return path;
}
