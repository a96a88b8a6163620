/* run.c - quern run: one prompt, one answer, streamed.
 *
 * The command is a client like any other: it spawns a private runtime (or
 * connects to a socket), submits, and copies events to standard output. Ctrl-C
 * cancels the request and lets the runtime end in good order; the second one
 * ends the command at once. A server's connection that is lost is opened again
 * and the answer taken up where it stood. */
#include "cli/run.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/spawn.h"
#include "quern/log.h"

/* A lost connection: how often and how long we try. */
enum { TRIES = 5, TRY_AGAIN_MS = 200 };

#define AT(field) offsetof(struct run_options, field)
static const struct option_row run_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N", "new tokens at most (default 256)", 1,
        16777216, 0},
    {"greedy", 0, OPTION_FLAG, AT(greedy), NULL, "always the likeliest token", 0, 0, 0},
    {"temperature", 0, OPTION_REAL, AT(temperature), "X", "0: greedy (default: the model's)", 0, 100,
        AT(has_temperature)},
    {"top-k", 0, OPTION_INT, AT(top_k), "K", "the K likeliest tokens; 0: all", 0, 2147483647,
        AT(has_top_k)},
    {"top-p", 0, OPTION_REAL, AT(top_p), "P", "the likeliest tokens that make up P; 1: all", 1e-6, 1,
        AT(has_top_p)},
    {"min-p", 0, OPTION_REAL, AT(min_p), "P", "tokens of P times the likeliest's probability", 0, 1,
        AT(has_min_p)},
    {"repetition-penalty", 0, OPTION_REAL, AT(repetition), "X", "above 1: against tokens of the prompt "
        "and the answer", 1e-3, 100, AT(has_repetition)},
    {"presence-penalty", 0, OPTION_REAL, AT(presence), "X", "against tokens of the answer", -2, 2,
        AT(has_presence)},
    {"frequency-penalty", 0, OPTION_REAL, AT(frequency), "X", "... for each time they are in it", -2,
        2, AT(has_frequency)},
    {"logit-bias", 0, OPTION_TEXT, AT(logit_bias), "ID:V,...", "added to a token's logit", 0, 0, 0},
    {"bad-words", 0, OPTION_TEXTS, AT(bad_words), "TEXT", "may not come (may be given again)", 0, 0,
        0},
    {"bad-ids", 0, OPTION_TEXTS, AT(bad_ids), "1,2", "tokens that may not come one after another (may "
        "be given again)", 0, 0, 0},
    {"min-tokens", 0, OPTION_INT, AT(min_tokens), "N", "nothing ends the answer before so many", 0,
        16777216, AT(has_min_tokens)},
    {"stop", 0, OPTION_TEXTS, AT(stop), "TEXT", "the answer ends before it (may be given again)", 0, 0,
        0},
    {"stop-ids", 0, OPTION_TEXT, AT(stop_ids), "1,2", "tokens that end the answer, too", 0, 0, 0},
    {"seed", 0, OPTION_SEED, AT(seed), "S", "of the noise, and of synth: weights", 0, 0,
        AT(has_seed)},
    {"ignore-eos", 0, OPTION_FLAG, AT(ignore_eos), NULL, "go on past an end token", 0, 0, 0},
    {"priority", 0, OPTION_INT, AT(priority), "N",
        "with --socket: of requests that wait, lower goes first (default 0)", -1000, 1000, 0},
    {"choices", 0, OPTION_INT, AT(choices), "N", "different answers, one after another", 1, 128, 0},
    {"logprobs", 0, OPTION_INT, AT(logprobs), "N", "a JSON line a token: how likely it was, and the N "
        "likeliest", 0, 20, AT(has_logprobs)},
    {"speculate", 0, OPTION_TEXT, AT(speculate), "ngram:K", "guess up to K tokens from what was said: "
        "the same answer, sooner where it repeats", 0, 0, 0},
    {"ids", 0, OPTION_TEXT, AT(ids), "1,2,3", "a prompt of token ids, in place of PROMPT", 0, 0, 0},
    {"print-ids", 0, OPTION_FLAG, AT(print_ids), NULL, "print the new ids, not their text", 0, 0, 0},
    {"echo", 0, OPTION_FLAG, AT(echo), NULL, "print the prompt, too (always on a terminal)", 0, 0, 0},
    {"socket", 0, OPTION_TEXT, AT(socket), "PATH", "use the server at PATH (quern serve)", 0, 0, 0},
    {0},
};

/* One answer under way. */
struct run {
    const struct run_options *o;
    struct prompt prompt;
    struct progress progress;
    struct quern_request *request;
    struct quern *q;
    uint64_t id, key;
    bool cancelled, ended;
};

volatile sig_atomic_t run_interrupted;
static struct quern *volatile waiting; /* whom an interrupt wakes */

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    run_interrupted++;
    if (waiting != NULL)
        quern_wake(waiting);
}

static void usage(void)
{
    printf("quern run [OPTIONS] PROMPT\n\n"
           "Completes PROMPT, taken as raw text (\"-\" reads standard input, less\n"
           "its last newline). The new text goes to standard output as it comes, statistics\n"
           "to standard error.\n\n");
    options_print(run_rows);
}

/* Connection ------------------------------------------------------------------------------- */

static void use(struct run *r, struct quern *q)
{
    waiting = NULL;
    quern_close(r->q);
    r->q = q;
    waiting = q;
}

static int spawn(struct run *r)
{
    struct quern *q;
    int s = spawn_runtime(&r->o->runtime, r->o->has_seed ? &r->o->seed : NULL, &q);

    use(r, q);
    return s;
}

static int connect_server(struct run *r)
{
    struct quern *q = NULL;
    int s = quern_connect(r->o->socket, &q);

    use(r, q);
    return s;
}

/* The rest of the answer through a new connection. */
static int take_up(struct run *r)
{
    int s = QUERN_DEAD;

    for (int i = 0; s != QUERN_OK && i < TRIES && !run_interrupted; i++) {
        if (i > 0)
            nanosleep(&(struct timespec){.tv_nsec = TRY_AGAIN_MS * 1000000L}, NULL);
        s = connect_server(r);
        if (s == QUERN_OK)
            s = quern_resume(r->q, r->key, r->progress.ids, &r->id);
    }
    return s;
}

/* The request ------------------------------------------------------------------------------ */

static int submit(struct run *r)
{
    int s = quern_submit(r->q, r->request, &r->id);

    r->key = quern_request_key(r->request);
    return s;
}

/* The answer ------------------------------------------------------------------------------- */

/* After Ctrl-C: true when there is nothing to wait for, and closing ends the request. */
static bool give_up(struct run *r)
{
    if (r->cancelled)
        return run_interrupted > 1;
    r->cancelled = true;
    return r->progress.ids == 0 || quern_cancel(r->q, r->id) != QUERN_OK;
}

/* The connection failed; an exit status, or -1 when the answer goes on. */
static int lost(struct run *r, int s)
{
    char why[512];

    show_clear_bar(&r->progress);
    snprintf(why, sizeof(why), "%s", quern_error(r->q));
    if (s == QUERN_DEAD && run_can_resume(r->o) && quern_error_code(r->q) == QUERN_CODE_NONE &&
        !r->cancelled && take_up(r) == QUERN_OK)
        return -1;
    tell("%s", why);
    return EXIT_FAILED;
}

static int on_event(struct run *r, const struct quern_event *e)
{
    switch (quern_event_kind(e)) {
    case QUERN_EVENT_LOADING: show_bar(&r->progress, quern_event_progress(e)); break;
    case QUERN_EVENT_READY: show_clear_bar(&r->progress); break;
    case QUERN_EVENT_PROMPT:
        if (show_prompt(r->o, &r->prompt, &r->progress, e) != 0)
            return show_failed();
        break;
    case QUERN_EVENT_TEXT:
        if (show_text(r->o, &r->prompt, &r->progress, e) != 0)
            return show_failed();
        break;
    case QUERN_EVENT_PAUSED:
    case QUERN_EVENT_CONTINUED:
        show_clear_bar(&r->progress);
        tell("%s", quern_event_message(e));
        break;
    case QUERN_EVENT_ERROR:
        r->ended = true;
        show_clear_bar(&r->progress);
        tell("%s", quern_event_message(e));
        return EXIT_FAILED;
    case QUERN_EVENT_DONE:
        if (show_done(r->o, &r->prompt, &r->progress, e) != 0)
            return show_failed();
        if (!quern_event_is_last(e))
            break;
        r->ended = true;
        return show_end(&r->progress, e);
    }
    return -1;
}

/* Copies events until the request's last; an exit status. */
static int stream(struct run *r)
{
    const struct quern_event *e;
    int status = -1;

    while (status < 0) {
        int s = quern_next(r->q, -1, &e);

        if (run_interrupted)
            show_clear_bar(&r->progress);
        if (run_interrupted && give_up(r))
            return EXIT_INTERRUPTED;
        if (s == QUERN_OK)
            status = on_event(r, e);
        else if (s != QUERN_AGAIN)
            status = lost(r, s);
    }
    return status;
}

/* Before anything is started: what is wrong in it is wrong usage. An exit status, told; or -1. */
static int make_request(struct run *r)
{
    int s;

    r->request = quern_request_new();
    s = r->request != NULL ? ask(r->request, r->o, &r->prompt) : QUERN_NOMEM;
    if (s == QUERN_OK)
        return -1;
    tell("%s", log_last_error());
    return s == QUERN_INVALID ? EXIT_USAGE : EXIT_FAILED;
}

static int run(struct run *r)
{
    int status = EXIT_FAILED, s = show_open(r->o, &r->progress);

    if (s == QUERN_OK)
        s = r->o->socket != NULL ? connect_server(r) : spawn(r);
    if (s == QUERN_OK)
        s = submit(r);
    if (s == QUERN_OK)
        status = stream(r);
    else if (run_interrupted)
        status = EXIT_INTERRUPTED;
    else
        tell("%s", quern_error(NULL));
    if (s == QUERN_OK && !r->ended)
        quern_cancel(r->q, r->id); /* a server that keeps it would go on */
    use(r, NULL);
    return status;
}

/* The command ------------------------------------------------------------------------------ */

/* Combinations that mean nothing; INVALID (logged). */
static enum status check(const struct run_options *o)
{
    char text[32];

    for (const struct option_row *row = spawn_rows; o->socket != NULL && row->name != NULL; row++)
        if (options_value(row, &o->runtime, text, sizeof(text)) != NULL)
            return log_fail(STATUS_INVALID, "--%s with --socket: the server there has its own, leave "
                "one out", row->name);
    return STATUS_OK;
}

/* "ngram:K" */
static enum status parse_speculate(struct run_options *o)
{
    char *end;
    long n;

    if (o->speculate == NULL)
        return STATUS_OK;
    n = strncmp(o->speculate, "ngram:", 6) == 0 ? strtol(o->speculate + 6, &end, 10) : 0;
    if (n < 1 || n > 16 || *end != '\0')
        return log_fail(STATUS_INVALID, "--speculate %s: it wants ngram:K, K from 1 to 16",
            o->speculate);
    o->guesses = (int)n;
    return STATUS_OK;
}

/* Before anything is loaded: main() opens what is closed, but so that it cannot be written to. */
static bool has_output(void)
{
    if ((fcntl(STDOUT_FILENO, F_GETFL) & O_ACCMODE) != O_RDONLY)
        return true;
    log_fail(STATUS_INVALID, "standard output is closed: there is nowhere to write the answer");
    return false;
}

static void catch_signals(void)
{
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int command_run(int argc, char **argv)
{
    struct run_options o = {0};
    struct run r = {.o = &o, .progress.terminal = isatty(STDERR_FILENO)};
    int first, status;
    enum status s = options_parse(run_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s != STATUS_OK || check(&o) != STATUS_OK || parse_speculate(&o) != STATUS_OK)
        return EXIT_USAGE;
    if (!has_output())
        return EXIT_FAILED;
    catch_signals();
    status = prompt_take(&o, argc - first, argv + first, &r.prompt);
    clock_gettime(CLOCK_MONOTONIC, &r.progress.start);
    if (status < 0) {
        tell_alone();
        status = make_request(&r);
    }
    if (status < 0)
        status = run(&r);
    quern_request_free(r.request);
    show_close(&r.progress);
    free(r.prompt.owned);
    return status;
}
