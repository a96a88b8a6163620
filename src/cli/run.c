/* run.c - quern run: one prompt, one answer, streamed.
 *
 * The command is a client like any other: it spawns a private runtime (or
 * connects to a socket), submits, and copies events to standard output. Ctrl-C
 * cancels the request and lets the runtime end in good order; the second one
 * ends the command at once. A reader that has had enough (| head) is no error
 * to tell anybody about. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/runtime_options.h"
#include "quern/log.h"

struct run_options {
    struct quern_options runtime;
    const char *socket, *ids;
    int max_tokens;
    bool greedy, print_ids, ignore_eos, has_seed;
    float temperature, top_p, min_p;
    int top_k;
    uint64_t seed;
};

#define AT(field) offsetof(struct run_options, field)
static const struct option_row run_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N", "new tokens at most (default 256)", 1,
        16777216, 0},
    {"greedy", 0, OPTION_FLAG, AT(greedy), NULL, "always the likeliest token", 0, 0, 0},
    {"temperature", 0, OPTION_REAL, AT(temperature), "X", "0: greedy (default: the model's)", 0, 100,
        0},
    {"top-k", 0, OPTION_INT, AT(top_k), "K", "the K likeliest tokens; 0: all", 0, 2147483647, 0},
    {"top-p", 0, OPTION_REAL, AT(top_p), "P", "the likeliest tokens that make up P; 1: all", 1e-6, 1,
        0},
    {"min-p", 0, OPTION_REAL, AT(min_p), "P", "tokens of P times the likeliest's probability", 0, 1,
        0},
    {"seed", 0, OPTION_SEED, AT(seed), "S", "of the noise, and of synth: weights", 0, 0,
        AT(has_seed)},
    {"ignore-eos", 0, OPTION_FLAG, AT(ignore_eos), NULL, "go on past an end token", 0, 0, 0},
    {"ids", 0, OPTION_TEXT, AT(ids), "1,2,3", "a prompt of token ids, in place of PROMPT", 0, 0, 0},
    {"print-ids", 0, OPTION_FLAG, AT(print_ids), NULL, "print the new ids, not their text", 0, 0, 0},
    {"socket", 0, OPTION_TEXT, AT(socket), "PATH", "use the server at PATH (quern serve)", 0, 0, 0},
    {0},
};

struct progress {
    struct timespec start;
    bool terminal, bar_shown;
    double first_text_s, last_text_s;
    uint64_t ids;
};

enum { PROMPT_MOST = 16 << 20 }; /* bytes; more than the protocol carries, or any model reads */

static volatile sig_atomic_t interrupted; /* times */

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted++;
}

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) * 1e-9;
}

static void usage(void)
{
    printf("quern run [OPTIONS] PROMPT\n\n"
           "Completes PROMPT, taken as raw text (\"-\" reads standard input). The new text\n"
           "goes to standard output as it comes, statistics to standard error.\n\n");
    options_print(run_rows);
}

/* All of standard input, malloc'ed; NULL when it cannot be had (logged). */
static char *read_stdin(size_t *bytes)
{
    size_t room = 64 << 10, n = 0;
    char *text = malloc(room);

    while (text != NULL) {
        ssize_t got = read(STDIN_FILENO, text + n, room - n);

        if (got < 0 && errno == EINTR && !interrupted)
            continue;
        if (got < 0 && interrupted)
            break;
        if (got < 0) {
            log_fail(STATUS_IO, "standard input: %s", strerror(errno));
            break;
        }
        n += (size_t)got;
        if (got == 0) {
            *bytes = n;
            return text;
        }
        if (n > PROMPT_MOST) {
            log_fail(STATUS_INVALID, "standard input has more than %d MiB: no prompt is so long",
                PROMPT_MOST >> 20);
            break;
        }
        if (n == room) {
            char *more = realloc(text, room *= 2);

            if (more == NULL) {
                log_fail(STATUS_NOMEM, "no memory for a prompt of %zu bytes", room);
                break;
            }
            text = more;
        }
    }
    free(text);
    return NULL;
}

static void clear_bar(struct progress *p)
{
    if (p->bar_shown)
        fputs("\r\033[K", stderr);
    p->bar_shown = false;
}

/* A bar on a terminal, once loading has taken long enough to wonder. */
static void show_bar(struct progress *p, float done)
{
    char bar[41];
    int filled = (int)(done * 40);

    if (!p->terminal || seconds_since(&p->start) < 0.3)
        return;
    for (int i = 0; i < 40; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[40] = '\0';
    fprintf(stderr, "\rloading [%s] %3.0f %%", bar, (double)done * 100);
    p->bar_shown = true;
}

static int write_text(const struct run_options *o, struct progress *p, const struct quern_event *e)
{
    clear_bar(p);
    p->last_text_s = seconds_since(&p->start);
    if (p->ids == 0)
        p->first_text_s = p->last_text_s;
    if (o->print_ids)
        for (size_t i = 0; i < e->n_ids; i++)
            printf("%s%d", p->ids + i > 0 ? "," : "", e->ids[i]);
    else
        fwrite(e->text, 1, e->text_bytes, stdout);
    p->ids += e->n_ids;
    return fflush(stdout) != 0 || ferror(stdout) ? -1 : 0;
}

/* Standard output failed, errno says how; an exit status. */
static int output_failed(void)
{
    if (interrupted)
        return EXIT_INTERRUPTED; /* it was blocked */
    if (errno != EPIPE)
        log_fail(STATUS_IO, "standard output: %s", strerror(errno));
    return EXIT_FAILED;
}

static void write_statistics(const struct progress *p, const struct quern_event *e)
{
    static const char *const ends[] = {
        [QUERN_FINISH_STOP] = "end token",
        [QUERN_FINISH_LENGTH] = "length",
        [QUERN_FINISH_CANCELLED] = "cancelled",
    };
    double span = p->last_text_s - p->first_text_s;

    fprintf(stderr, "quern: %u prompt tokens, %u new (%s)", e->prompt_tokens, e->output_tokens,
        ends[e->finish]);
    if (p->ids > 0)
        fprintf(stderr, "; first token after %.1f ms", p->first_text_s * 1e3);
    if (p->ids > 1 && span > 0)
        fprintf(stderr, ", then %.1f tokens/s", (double)(p->ids - 1) / span);
    fputc('\n', stderr);
}

/* quern_next() that no signal slips past: they are let in while it sleeps, and nowhere between
 * the look at `interrupted` and that. */
static int next_event(struct quern *q, struct quern_event *e)
{
    struct pollfd p = {.fd = quern_fd(q), .events = POLLIN};
    int s = quern_next(q, 0, e);
    sigset_t stops, before;

    if (s != QUERN_AGAIN)
        return s;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigprocmask(SIG_BLOCK, &stops, &before);
    if (!interrupted)
        ppoll(&p, 1, NULL, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return QUERN_AGAIN;
}

/* After Ctrl-C: true when there is nothing to wait for, and closing ends the request. */
static bool give_up(struct quern *q, const struct progress *p, uint64_t id, bool *cancelled)
{
    if (*cancelled)
        return interrupted > 1;
    *cancelled = true;
    return p->ids == 0 || quern_cancel(q, id) != QUERN_OK;
}

static int write_end(const struct progress *p, const struct quern_event *e)
{
    if (putchar('\n') == EOF || fflush(stdout) != 0)
        return output_failed();
    write_statistics(p, e);
    return interrupted ? EXIT_INTERRUPTED : EXIT_DONE;
}

/* Copies events until the request's last; an exit status. */
static int stream(struct quern *q, const struct run_options *o, struct progress *p, uint64_t id)
{
    bool cancelled = false;
    struct quern_event e;

    for (;;) {
        int s = next_event(q, &e);

        if (interrupted)
            clear_bar(p);
        if (interrupted && give_up(q, p, id, &cancelled))
            return EXIT_INTERRUPTED;
        if (s == QUERN_AGAIN)
            continue;
        if (s != QUERN_OK) {
            clear_bar(p);
            log_fail(STATUS_IO, "%s", quern_error(q));
            return EXIT_FAILED;
        }
        switch (e.kind) {
        case QUERN_EVENT_LOADING: show_bar(p, e.progress); break;
        case QUERN_EVENT_READY: clear_bar(p); break;
        case QUERN_EVENT_TEXT:
            if (write_text(o, p, &e) != 0)
                return output_failed();
            break;
        case QUERN_EVENT_ERROR:
            clear_bar(p);
            log_fail(STATUS_INVALID, "%s", e.text);
            return EXIT_FAILED;
        case QUERN_EVENT_DONE:
            return write_end(p, &e);
        }
    }
}

static void fill_request(const struct run_options *o, struct quern_request *r)
{
    quern_request_init(r);
    r->max_tokens = o->max_tokens;
    r->temperature = o->greedy ? 0 : o->temperature;
    r->top_p = o->top_p;
    r->min_p = o->min_p;
    r->top_k = o->top_k;
    r->has_seed = o->has_seed;
    r->seed = o->seed;
    r->ignore_eos = o->ignore_eos;
}

static int run(struct run_options *o, const struct quern_request *request, struct progress *p)
{
    struct quern *q = NULL;
    uint64_t id;
    int status = EXIT_FAILED, s;

    o->runtime.executable = "/proc/self/exe";
    o->runtime.seed = o->seed;
    s = o->socket != NULL ? quern_connect(o->socket, &q) : quern_spawn(&o->runtime, &q);
    if (s == QUERN_OK)
        s = quern_submit(q, request, &id);
    if (s == QUERN_OK)
        status = stream(q, o, p, id);
    else
        log_fail(STATUS_IO, "%s", quern_error(q));
    quern_close(q);
    return status;
}

/* The prompt from --ids or the one argument; an exit status, or -1 to go on. */
static int take_prompt(const struct run_options *o, int words, char **argument, char **owned,
    struct quern_request *r)
{
    if (words != (o->ids == NULL ? 1 : 0)) {
        log_fail(STATUS_INVALID, "quern run takes one PROMPT (in quotes), or --ids: see quern run --help");
        return EXIT_USAGE;
    }
    if (o->ids != NULL) {
        if (options_ids(o->ids, (int32_t **)(void *)owned, &r->n_ids) != STATUS_OK)
            return EXIT_USAGE;
        r->ids = (const int32_t *)(void *)*owned;
        if (r->n_ids > 0)
            return -1;
    } else if (strcmp(argument[0], "-") == 0) {
        r->text = *owned = read_stdin(&r->text_bytes);
        if (*owned == NULL)
            return interrupted ? EXIT_INTERRUPTED : EXIT_FAILED;
        if (r->text_bytes > 0)
            return -1;
    } else {
        r->text = argument[0];
        r->text_bytes = strlen(argument[0]);
        if (r->text_bytes > 0)
            return -1;
    }
    log_fail(STATUS_INVALID, "the prompt is empty: give it at least one character");
    return EXIT_USAGE;
}

int command_run(int argc, char **argv)
{
    struct run_options o = {.runtime = {.size = sizeof(o.runtime)}, .temperature = -1, .top_p = -1,
        .min_p = -1, .top_k = -1};
    struct progress p = {.terminal = isatty(STDERR_FILENO)};
    struct quern_request request;
    char *owned = NULL;
    int first, status;
    enum status s;

    clock_gettime(CLOCK_MONOTONIC, &p.start);
    s = options_parse(run_rows, argc, argv, &o, &first);
    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s != STATUS_OK)
        return EXIT_USAGE;
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    signal(SIGPIPE, SIG_IGN);
    fill_request(&o, &request);
    status = take_prompt(&o, argc - first, argv + first, &owned, &request);
    if (status < 0)
        status = run(&o, &request, &p);
    free(owned);
    return status;
}
