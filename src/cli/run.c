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

/* A lost connection: how often and how long we try, and how long the server is to wait for it. */
enum { TRIES = 5, TRY_AGAIN_MS = 200, KEEP_S = 10 };

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
    {"priority", 0, OPTION_INT, AT(priority), "N",
        "with --socket: of requests that wait, lower goes first (default 0)", -1000, 1000, 0},
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

static int set_prompt(struct quern_request *r, const struct prompt *p)
{
    return p->text != NULL ? quern_request_set_text(r, p->text, p->bytes)
                           : quern_request_set_ids(r, p->ids, p->n_ids);
}

/* Below 0: not given, the model's. */
static int set_real(struct quern_request *r, int param, float value)
{
    return value < 0 ? QUERN_OK : quern_request_set_real(r, param, (double)value);
}

static int fill_request(struct quern_request *r, const struct run_options *o, const struct prompt *p)
{
    int s = set_prompt(r, p);

    if (s == QUERN_OK && o->max_tokens > 0)
        s = quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, o->max_tokens);
    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_TEMPERATURE, o->greedy ? 0 : o->temperature);
    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_TOP_P, o->top_p);
    if (s == QUERN_OK)
        s = set_real(r, QUERN_PARAM_MIN_P, o->min_p);
    if (s == QUERN_OK && o->top_k >= 0)
        s = quern_request_set_int(r, QUERN_PARAM_TOP_K, o->top_k);
    if (s == QUERN_OK && o->has_seed)
        s = quern_request_set_u64(r, QUERN_PARAM_SEED, o->seed);
    if (s == QUERN_OK && o->ignore_eos)
        s = quern_request_set_int(r, QUERN_PARAM_IGNORE_EOS, 1);
    if (s == QUERN_OK && o->priority != 0)
        s = quern_request_set_int(r, QUERN_PARAM_PRIORITY, o->priority);
    if (s == QUERN_OK && o->socket != NULL)
        s = quern_request_set_int(r, QUERN_PARAM_KEEP, KEEP_S);
    if (s == QUERN_OK)
        s = quern_request_set_int(r, QUERN_PARAM_TELL_PAUSES, 1);
    return s;
}

/* --echo of ids: the text's are the model's to say. */
static int find_prompt_ids(struct run *r, const struct quern_request *request)
{
    const int32_t *ids;
    size_t n;
    int s;

    if (!r->o->echo || !r->o->print_ids || r->prompt.ids != NULL)
        return QUERN_OK;
    do
        s = quern_tokenize(r->q, request, -1, &ids, &n);
    while (s == QUERN_AGAIN && !run_interrupted);
    if (s != QUERN_OK)
        return s;
    r->prompt.ids = malloc(n * sizeof(*ids) + 1);
    if (r->prompt.ids == NULL)
        return QUERN_NOMEM;
    memcpy(r->prompt.ids, ids, n * sizeof(*ids));
    r->prompt.n_ids = n;
    return QUERN_OK;
}

static int submit(struct run *r)
{
    struct quern_request *request = quern_request_new();
    int s = request != NULL ? fill_request(request, r->o, &r->prompt) : QUERN_NOMEM;

    if (s == QUERN_OK)
        s = find_prompt_ids(r, request);
    if (s == QUERN_OK)
        s = quern_submit(r->q, request, &r->id);
    r->key = quern_request_key(request);
    quern_request_free(request);
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
    if (s == QUERN_DEAD && r->o->socket != NULL && quern_error_code(r->q) == QUERN_CODE_NONE &&
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
        if (!quern_event_is_last(e))
            break;
        r->ended = true;
        return show_end(r->o, &r->prompt, &r->progress, e);
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

static int run(struct run *r)
{
    int status = EXIT_FAILED, s = r->o->socket != NULL ? connect_server(r) : spawn(r);

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
    if (o->echo && o->ids != NULL && !o->print_ids)
        return log_fail(STATUS_INVALID, "--echo of --ids wants --print-ids: they have no text here");
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
    struct run_options o = {.temperature = -1, .top_p = -1, .min_p = -1, .top_k = -1};
    struct run r = {.o = &o, .progress.terminal = isatty(STDERR_FILENO)};
    int first, status;
    enum status s = options_parse(run_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s != STATUS_OK || check(&o) != STATUS_OK)
        return EXIT_USAGE;
    if (!has_output())
        return EXIT_FAILED;
    catch_signals();
    status = prompt_take(&o, argc - first, argv + first, &r.prompt);
    clock_gettime(CLOCK_MONOTONIC, &r.progress.start);
    if (status < 0) {
        tell_alone();
        status = run(&r);
    }
    if (r.prompt.ids != r.prompt.owned)
        free(r.prompt.ids);
    free(r.prompt.owned);
    return status;
}
