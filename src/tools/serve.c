/* serve.c - quern serve: the supervisor as a command.
 *
 * `quern run` and libquern start it with --private-fd, one end of a socket
 * pair: then it serves that one client and ends with it. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/runtime_options.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "supervisor/supervisor.h"
#include "tools/runtime_config.h"
#include "tools/tools.h"

struct serve_options {
    struct runtime_options runtime;
    const char *socket;
    struct death_options deaths;
    int private_fd, parent_fd, lines_fd;
};

#define AT(field) offsetof(struct serve_options, field)
static const struct option_row serve_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"seed", 0, OPTION_SEED, AT(runtime.seed), "S", "of synth: weights", 0, 0, 0},
    {"socket", 0, OPTION_TEXT, AT(socket), "PATH", "listen on a Unix socket", 0, 0, 0},
    DEATH_OPTION_ROWS(AT(deaths)),
    /* libquern's own */
    {"parent-pidfd", 0, OPTION_INT, AT(parent_fd), NULL, NULL, 3, 1 << 20, 0},
    {"lines-fd", 0, OPTION_INT, AT(lines_fd), NULL, NULL, 3, 1 << 20, 0},
    {"private-fd", 0, OPTION_INT, AT(private_fd), NULL, NULL, 3, 1 << 20, 0},
    {0},
};

static void usage(void)
{
    printf("quern serve --socket PATH [OPTIONS]\n\n"
           "Loads a model and serves clients (quern run --socket PATH, libquern) until\nSIGTERM or "
           "Ctrl-C. A line on standard error says when it is ready.\n\n");
    options_print(serve_rows);
}

static void tell_ready(const char *socket_path)
{
    fprintf(stderr, "quern: ready on %s\n", socket_path);
}

/* Before anything is loaded: what was asked for is wrong. The private client hears it as the
 * answer to whatever it asks. */
static int refuse_private(int fd)
{
    const char *line = log_last_error();
    struct frame_error e = frame_error_of(QUERN_CODE_BAD_REQUEST);
    struct frame_header h = {
        .bytes = (uint32_t)(sizeof(e) + strlen(line)), .type = FRAME_ERROR};

    if (write(fd, &h, sizeof(h)) == (ssize_t)sizeof(h) &&
        write(fd, &e, sizeof(e)) == (ssize_t)sizeof(e) &&
        write(fd, line, strlen(line)) == (ssize_t)strlen(line)) {
        char rest[4096];

        while (read(fd, rest, sizeof(rest)) > 0) /* until it has read and hung up */
            ;
    }
    return EXIT_FAILED;
}

static int tell_failure(const struct serve_options *o, enum status s)
{
    if (o->private_fd >= 0)
        return s == STATUS_DEAD ? EXIT_FAILED : refuse_private(o->private_fd);
    log_set_sink(log_to_stderr, NULL);
    log_fail(s, "%s", log_last_error());
    return EXIT_FAILED;
}

int command_serve(int argc, char **argv)
{
    struct serve_options o = {.private_fd = -1, .parent_fd = -1, .lines_fd = -1,
        .deaths = {.max_restarts = 3, .step_timeout = 30}};
    struct supervisor_options run = {.loop = getenv("QUERN_LOOP")};
    int first;
    enum status s;

    if (argc > 1 && strcmp(argv[1], "--private-fd") == 0) /* libquern: it prints nothing */
        log_set_sink(member_log, NULL);
    s = options_parse(serve_rows, argc, argv, &o, &first);
    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s != STATUS_OK)
        return o.private_fd >= 0 ? refuse_private(o.private_fd) : EXIT_USAGE;
    if (first != argc || (o.socket == NULL) == (o.private_fd < 0)) {
        log_fail(STATUS_INVALID, "quern serve wants --socket PATH and nothing else: see quern serve "
                                 "--help");
        return EXIT_USAGE;
    }
    run.socket_path = o.socket;
    run.private_fd = o.private_fd;
    run.parent_fd = o.parent_fd;
    run.ready = o.socket != NULL ? tell_ready : NULL;
    if (o.private_fd >= 0) {
        setpgid(0, 0); /* Ctrl-C is the client's: it cancels, then hangs up */
        fcntl(o.private_fd, F_SETFD, FD_CLOEXEC);
        if (o.parent_fd >= 0)
            fcntl(o.parent_fd, F_SETFD, FD_CLOEXEC);
        if (o.lines_fd >= 0) { /* its standard error is its own */
            dup2(o.lines_fd, STDERR_FILENO);
            close(o.lines_fd);
        }
    }
    log_set_sink(member_log, NULL); /* what a client did wrong reaches it as a frame */
    s = runtime_config_from(&o.runtime, &run.config);
    run.config.max_restarts = (uint32_t)o.deaths.max_restarts;
    run.config.step_timeout_s = (uint32_t)o.deaths.step_timeout;
    log_set_level((enum log_level)run.config.log_level);
    if (s == STATUS_OK)
        s = supervisor_run(&run);
    if (s == STATUS_OK)
        return EXIT_DONE;
    return tell_failure(&o, s);
}
