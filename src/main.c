/* main.c - quern COMMAND: the table of commands.
 *
 * The same program is client, supervisor and worker: the supervisor starts
 * /proc/self/exe again, so one file is all there is to install. Whether what a
 * command printed arrived is looked at here, once for all of them. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/nearest.h"
#include "cli/cli.h"
#include "quern.h"
#include "quern/log.h"
#include "tools/tools.h"
#include "worker/worker.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary; /* NULL: not for people */
};

static const struct command commands[] = {
    {"run", command_run, "complete a prompt"},
    {"serve", command_serve, "serve clients on a socket"},
    {"stats", command_stats, "show what a server has counted"},
    {"embed", command_embed, "embeddings of texts, JSON lines"},
    {"logits", command_logits, "write the logits of a prompt to a file"},
    {"plan", command_plan, "show how a model is shared between ranks"},
    {"tokenize", command_tokenize, "text to token ids, JSON lines"},
    {"detokenize", command_detokenize, "token ids to text, JSON lines"},
    {"template", command_template, "chat messages to a prompt, JSON lines"},
    {"synth", command_synth, "write a checkpoint of random weights"},
    {"quantize", command_quantize, "write a quantised checkpoint"},
    {"bench", command_bench, "measure this machine and quern on it"},
    {"doctor", command_doctor, "check this machine, and say what to do"},
    {"worker", worker_main, NULL},
    {"text", command_text, NULL},
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static int usage(void)
{
    printf("quern %s - runs Qwen3 on this machine\n\nusage: quern COMMAND [OPTIONS]\n\n",
        QUERN_VERSION);
    for (int i = 0; i < COMMANDS; i++)
        if (commands[i].summary != NULL)
            printf("  %-12s %s\n", commands[i].name, commands[i].summary);
    printf("\nquern COMMAND --help tells more. Try: quern run \"Once upon a time\"\n");
    return EXIT_DONE;
}

static bool asks(int argc, char **argv, const char *option)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], option) == 0)
            return true;
    return false;
}

/* Standard input, output and error exist: otherwise a socket or a device gets one of their
 * numbers, and is written to. What stands in for standard output cannot be written to, so that
 * whoever closed it and runs a command that prints hears of it. */
static void open_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY); /* the lowest free: fd */
}

/* A command's exit status, once all it printed is out; one that failed has said why. */
static int finish_output(int status)
{
    int error;

    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    error = errno;
    if (status != EXIT_DONE)
        return status;
    log_set_sink(log_to_stderr, NULL);
    log_fail(STATUS_IO, "standard output: %s",
        error == EBADF ? "it is closed" : error != 0 ? strerror(error) : "not all was written");
    return EXIT_FAILED;
}

static int unknown_command(const char *word)
{
    struct nearest n = NEAREST_TO(word, strlen(word));

    for (int i = 0; i < COMMANDS; i++)
        if (commands[i].summary != NULL)
            nearest_offer(&n, commands[i].name);
    if (n.name != NULL)
        log_fail(STATUS_INVALID, "unknown command \"%s\": did you mean %s? See quern --help", word,
            n.name);
    else
        log_fail(STATUS_INVALID, "unknown command \"%s\": see quern --help", word);
    return EXIT_USAGE;
}

static int run_command(int argc, char **argv)
{
    if (argc < 2) {
        usage();
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return usage();
    if (asks(argc, argv, "--version")) {
        printf("quern %s\n", QUERN_VERSION);
        return EXIT_DONE;
    }
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    return unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
    open_standard();
    signal(SIGCHLD, SIG_DFL); /* ignored, it would hide how children end */
    log_set_sink(log_to_stderr, NULL);
    setenv("HWLOC_HIDE_ERRORS", "2", 0); /* a machine without /sys is no reason to print */
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes counts for memfds: then an error, not a death */
    return finish_output(run_command(argc, argv));
}
