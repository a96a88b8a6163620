/* logits.c - quern logits: what the model says of every next token, as a file.
 *
 * No supervisor and no requests: this process is rank 0 itself, starts the
 * other ranks as a supervisor would, and publishes one plan after another,
 * each a chunk of the prompt that wants logits of as many of its last tokens as
 * a step has outputs. A thread watches the ranks' ends meanwhile: one that is
 * killed sets no abort word itself, and this one would wait for it in a
 * collective for ever. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/options.h"
#include "base/runtime_options.h"
#include "cli/cli.h"
#include "ipc/proc.h"
#include "quern/log.h"
#include "tools/new_file.h"
#include "tools/runtime_config.h"
#include "tools/tools.h"
#include "worker/worker.h"

struct logits_options {
    struct runtime_options runtime;
    const char *ids, *output;
    int last;
};

#define AT(field) offsetof(struct logits_options, field)
static const struct option_row logits_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"seed", 0, OPTION_SEED, AT(runtime.seed), "S", "of synth: weights", 0, 0, 0},
    {"ids", 0, OPTION_TEXT, AT(ids), "1,2,3", "the prompt's token ids (\"-\": standard input)", 0, 0, 0},
    {"last", 0, OPTION_INT, AT(last), "K", "positions wanted, from the end (default 1)", 1, 16777216,
        0},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE", "a safetensors file: logits [K, vocab] f32", 0,
        0, 0},
    {0},
};

struct ranks {
    struct shared shared;
    int pidfds[MAX_RANKS]; /* of ranks 1 .. */
    int n;
    int quit_fd;   /* eventfd: the watcher shall end */
    bool watching;
    pthread_t watcher;
    int died;      /* the rank that ended first; 0: none. Writer: the watcher, until joined */
};

/* Standard input's ids are separated by commas, blanks or line ends. */
static char *read_ids(void)
{
    size_t room = 1 << 16, n = 0, got;
    char *text = malloc(room);

    while (text != NULL && (got = fread(text + n, 1, room - n - 1, stdin)) > 0) {
        n += got;
        if (room - n < 2) {
            char *more = realloc(text, room *= 2);

            if (more == NULL)
                free(text);
            text = more;
        }
    }
    if (text == NULL)
        return NULL;
    while (n > 0 && strchr("\n ,", text[n - 1]) != NULL)
        n--;
    text[n] = '\0';
    for (char *c = text; *c != '\0'; c++)
        if (*c == '\n')
            *c = ',';
    return text;
}

static enum status start_ranks(const struct runtime_config *config, struct ranks *r)
{
    char fds_text[FD_LIST_TEXT], rank_text[16];
    char *argv[] = {"quern", "worker", rank_text, fds_text, NULL};
    int fds[FD_LIST_MOST], n;
    enum status s = shared_create(config, 1, -1, &r->shared);

    if (s != STATUS_OK)
        return s;
    n = shared_fds(&r->shared, fds);
    fd_list_format(fds, n, fds_text);
    for (int rank = 1; rank < (int)config->tp; rank++) {
        pid_t pid;

        snprintf(rank_text, sizeof(rank_text), "%d", rank);
        s = proc_spawn("/proc/self/exe", argv, fds, (size_t)n, &pid, &r->pidfds[r->n]);
        if (s != STATUS_OK)
            return s;
        r->n++;
    }
    return STATUS_OK;
}

static void *watch(void *context)
{
    struct ranks *r = context;
    struct pollfd p[MAX_RANKS + 1];

    for (int i = 0; i < r->n; i++)
        p[i] = (struct pollfd){.fd = r->pidfds[i], .events = POLLIN};
    p[r->n] = (struct pollfd){.fd = r->quit_fd, .events = POLLIN};
    while (poll(p, (nfds_t)r->n + 1, -1) < 0 && errno == EINTR)
        ;
    for (int i = 0; i < r->n && r->died == 0; i++)
        if (p[i].revents != 0)
            r->died = i + 1;
    if (r->died != 0)
        shared_abort(&r->shared);
    return NULL;
}

static enum status watch_ranks(struct ranks *r)
{
    int error;

    if (r->n == 0)
        return STATUS_OK;
    r->quit_fd = eventfd(0, EFD_CLOEXEC);
    if (r->quit_fd < 0)
        return log_call_failed(errno, "eventfd", "cannot watch the ranks");
    error = pthread_create(&r->watcher, NULL, watch, r);
    if (error != 0) {
        close(r->quit_fd);
        return log_call_failed(error, "clone3", "cannot watch the ranks");
    }
    r->watching = true;
    return STATUS_OK;
}

static void stop_watching(struct ranks *r)
{
    const uint64_t once = 1;

    if (!r->watching)
        return;
    while (write(r->quit_fd, &once, sizeof(once)) < 0)
        ; /* EINTR */
    r->watching = false;
    pthread_join(r->watcher, NULL);
    close(r->quit_fd);
}

/* Ranks that have been told to stop do so at once; the others are killed. */
static void end_ranks(struct ranks *r, bool told)
{
    struct pollfd p = {.events = POLLIN};
    struct proc_exit how;

    stop_watching(r);
    for (int i = 0; i < r->n; i++) {
        if (r->pidfds[i] < 0)
            continue;
        p.fd = r->pidfds[i];
        if (!told || poll(&p, 1, 1000) <= 0)
            proc_signal(r->pidfds[i], SIGKILL);
        poll(&p, 1, -1);
        proc_reap(r->pidfds[i], &how);
        close(r->pidfds[i]);
        r->pidfds[i] = -1;
    }
    shared_close(&r->shared);
}

/* Why a collective ended: the rank that failed says so in its slot, or was killed. */
static void explain_death(struct ranks *r)
{
    const struct shared *g = &r->shared;
    char line[LOG_LINE_BYTES];
    struct proc_exit how;
    char text[64];

    stop_watching(r);
    for (uint32_t rank = 1; rank < g->config.tp; rank++)
        if (member_stage_of(&g->control->ranks[rank]) == STAGE_FAILED) {
            member_error(&g->control->ranks[rank], line);
            log_fail(STATUS_DEAD, "%s", line);
            return;
        }
    if (r->died != 0 && proc_reap(r->pidfds[r->died - 1], &how) == STATUS_OK) {
        log_fail(STATUS_DEAD, "rank %d %s", r->died, proc_describe(how, text, sizeof(text)));
        close(r->pidfds[r->died - 1]);
        r->pidfds[r->died - 1] = -1;
    }
}

static enum status check_ids(const struct worker *w, const int32_t *ids, size_t n, int last)
{
    if (n == 0)
        return log_fail(STATUS_INVALID, "the prompt is empty: give --ids at least one token id");
    if (n > w->max_model_len)
        return log_fail(STATUS_INVALID, "the prompt has %zu tokens, the context holds %u", n,
            w->max_model_len);
    if ((size_t)last > n)
        return log_fail(STATUS_INVALID, "--last %d: the prompt has %zu tokens", last, n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= w->config.vocab)
            return log_fail(STATUS_INVALID, "token id %d is out of range: this model has ids 0 to %d",
                ids[i], w->config.vocab - 1);
    return STATUS_OK;
}

static enum status write_out(const struct new_file *f, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, f->out) == bytes)
        return STATUS_OK;
    return log_fail(STATUS_IO, "%s: cannot be written: %s", f->path, strerror(errno));
}

static enum status write_header(const struct new_file *f, size_t rows, size_t vocab)
{
    char header[256];
    int n = snprintf(header, sizeof(header),
        "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}}", rows, vocab,
        rows * vocab * sizeof(float));
    uint64_t length;
    enum status s;

    while ((n + 8) % 8 != 0)
        header[n++] = ' ';
    length = (uint64_t)n;
    s = write_out(f, &length, sizeof(length));
    return s == STATUS_OK ? write_out(f, header, (size_t)n) : s;
}

/* One chunk: tokens [at, at + n), logits of its last n_outputs. */
static void fill_plan(struct plan *plan, const struct worker *w, const int32_t *ids, size_t at,
    size_t n, size_t n_outputs, uint32_t generation)
{
    plan_begin(plan, &w->limits, generation, w->submitted);
    if (at == 0) {
        plan_starts(plan)[plan->n_starts++] = (struct slot_start){.slot = 0};
        for (uint32_t i = 0; i < w->limits.max_blocks_per_slot; i++)
            plan_changes(plan)[plan->n_changes++] =
                (struct block_change){.slot = 0, .index = i, .block = i};
    }
    plan_rows(plan)[plan->n_rows++] = (struct plan_row){
        .n_tokens = (uint32_t)n,
        .n_outputs = (uint32_t)n_outputs,
        .kind = ROW_PREFILL,
        .output = n_outputs > 0 ? OUTPUT_LOGITS : OUTPUT_NONE,
    };
    memcpy(plan_tokens(plan), ids + at, n * sizeof(*ids));
    plan->n_tokens = (uint32_t)n;
    plan->n_outputs = (uint32_t)n_outputs;
    plan_pack(plan);
}

/* Of positions [at, n), of which those from `from` on want logits. */
static size_t chunk_at(const struct plan_limits *limits, size_t at, size_t n, size_t from)
{
    size_t most = (at > from ? at : from) + limits->max_outputs - at;

    most = most < limits->max_tokens ? most : limits->max_tokens;
    return n - at < most ? n - at : most;
}

static enum status run_chunks(struct worker *w, const int32_t *ids, size_t n, size_t last,
    const struct new_file *f)
{
    uint32_t generation = w->shared->generation;
    struct plan *plan = malloc(plan_max_bytes(&w->limits));
    enum status s = STATUS_OK;

    if (plan == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a plan");
    for (size_t at = 0, chunk; s == STATUS_OK && at < n; at += chunk) {
        struct step_result result;
        size_t wanted; /* of this chunk's positions */

        chunk = chunk_at(&w->limits, at, n, n - last);
        wanted = at + chunk <= n - last ? 0 : at >= n - last ? chunk : at + chunk - (n - last);
        fill_plan(plan, w, ids, at, chunk, wanted, generation);
        s = worker_publish(w, plan);
        if (s == STATUS_OK)
            s = worker_wait(w, &result);
        if (s == STATUS_OK && wanted > 0)
            s = write_out(f, result.logits, sizeof(float) * (size_t)w->config.vocab * wanted);
    }
    if (s == STATUS_OK) {
        plan_begin(plan, &w->limits, generation, w->submitted);
        plan->flags = PLAN_STOP;
        plan_pack(plan);
        s = worker_publish(w, plan);
    }
    free(plan);
    return s;
}

static enum status run_to_file(struct worker *w, const struct logits_options *o, const int32_t *ids,
    size_t n)
{
    enum status s = check_ids(w, ids, n, o->last);
    struct new_file file;

    if (s == STATUS_OK)
        s = new_file_open(&file, o->output);
    if (s != STATUS_OK)
        return s;
    s = write_header(&file, (size_t)o->last, (size_t)w->config.vocab);
    if (s == STATUS_OK)
        s = run_chunks(w, ids, n, (size_t)o->last, &file);
    return new_file_finish(&file, s);
}

static enum status run(const struct logits_options *o, const int32_t *ids, size_t n)
{
    struct runtime_config config;
    struct ranks ranks = {0};
    struct worker w;
    enum status s = runtime_config_from(&o->runtime, &config);

    if (s == STATUS_OK)
        s = start_ranks(&config, &ranks);
    if (s == STATUS_OK)
        s = watch_ranks(&ranks);
    if (s == STATUS_OK) {
        s = worker_open(&ranks.shared, 0, &w);
        if (s == STATUS_OK) {
            s = run_to_file(&w, o, ids, n);
            worker_close(&w);
        }
        if (s == STATUS_DEAD)
            explain_death(&ranks);
    }
    if (ranks.shared.control != NULL)
        end_ranks(&ranks, s == STATUS_OK);
    return s;
}

static void usage(void)
{
    printf("quern logits -m DIR --ids 1,2,3 [--last K] -o FILE\n\n"
           "Writes the float32 logits of the last K positions as a safetensors file.\n\n");
    options_print(logits_rows);
}

int command_logits(int argc, char **argv)
{
    struct logits_options o = {.last = 1};
    int32_t *ids = NULL;
    char *text = NULL;
    size_t n = 0;
    int first;
    enum status s = options_parse(logits_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s != STATUS_OK)
        return EXIT_USAGE;
    if (first != argc || o.ids == NULL || o.output == NULL) {
        log_fail(STATUS_INVALID, "quern logits wants --ids and -o FILE: see quern logits --help");
        return EXIT_USAGE;
    }
    if (strcmp(o.ids, "-") == 0)
        text = read_ids();
    s = options_ids(text != NULL ? text : o.ids, &ids, &n);
    free(text);
    if (s != STATUS_OK)
        return EXIT_USAGE;
    log_set_sink(member_log, NULL); /* of several reasons the last: why, not what came of it */
    s = run(&o, ids, n);
    log_set_sink(log_to_stderr, NULL);
    if (s != STATUS_OK)
        log_fail(s, "%s", log_last_error());
    free(ids);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
