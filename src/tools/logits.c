/* logits.c - quern logits: what the model says of every next token, as a file.
 *
 * A client like quern run: it starts a private runtime or opens a server's
 * socket, asks for the logits behind the prompt's last ids, and writes them as
 * they come. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "base/runtime_options.h"
#include "cli/cli.h"
#include "cli/spawn.h"
#include "quern.h"
#include "quern/log.h"
#include "tools/new_file.h"
#include "tools/tools.h"

struct logits_options {
    struct runtime_options runtime;
    const char *ids, *output, *socket;
    int last;
    bool has_seed;
};

#define AT(field) offsetof(struct logits_options, field)
static const struct option_row logits_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"seed", 0, OPTION_SEED, AT(runtime.seed), "S", "of synth: weights", 0, 0, AT(has_seed)},
    {"ids", 0, OPTION_TEXT, AT(ids), "1,2,3", "the prompt's token ids (\"-\": standard input)", 0, 0, 0},
    {"last", 0, OPTION_INT, AT(last), "K", "positions wanted, from the end (default 1)", 1, 16777216,
        0},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE", "a safetensors file: logits [K, vocab] f32", 0,
        0, 0},
    {"socket", 0, OPTION_TEXT, AT(socket), "PATH", "use the server at PATH (quern serve)", 0, 0, 0},
    {0},
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

/* The file begins with the first row: only then its width is known. */
static enum status take_row(struct new_file *f, const struct logits_options *o,
    const struct quern_event *e, size_t *rows)
{
    size_t n;
    const float *values = quern_event_values(e, &n);
    enum status s = STATUS_OK;

    if (*rows == 0)
        s = write_header(f, (size_t)o->last, n);
    ++*rows;
    return s == STATUS_OK ? write_out(f, values, n * sizeof(*values)) : s;
}

static enum status copy_rows(struct quern *q, const struct logits_options *o, struct new_file *f)
{
    const struct quern_event *e = NULL;
    enum status s = STATUS_OK;
    size_t rows = 0;

    while (s == STATUS_OK && !quern_event_is_last(e)) {
        if (quern_next(q, -1, &e) < QUERN_OK)
            return log_fail(STATUS_DEAD, "%s", quern_error(q));
        if (quern_event_kind(e) == QUERN_EVENT_VALUES)
            s = take_row(f, o, e, &rows);
        else if (quern_event_kind(e) == QUERN_EVENT_ERROR)
            s = log_fail(STATUS_INVALID, "%s", quern_event_message(e));
    }
    if (s == STATUS_OK && rows != (size_t)o->last)
        s = log_fail(STATUS_DEAD, "the server gave %zu rows of logits, not %d", rows, o->last);
    return s;
}

static int submit(struct quern *q, const struct logits_options *o, const int32_t *ids, size_t n)
{
    struct quern_request *r = quern_request_new();
    int s = quern_request_set_task(r, QUERN_TASK_LOGITS);

    if (s == QUERN_OK)
        s = quern_request_set_ids(r, ids, n);
    if (s == QUERN_OK)
        s = quern_request_set_int(r, QUERN_PARAM_LAST, o->last);
    if (s == QUERN_OK)
        s = quern_submit(q, r, NULL);
    quern_request_free(r);
    return s;
}

static enum status run(const struct logits_options *o, const int32_t *ids, size_t n)
{
    struct quern *q = NULL;
    struct new_file file;
    int started = o->socket != NULL
                      ? quern_connect(o->socket, &q)
                      : spawn_runtime(&o->runtime, o->has_seed ? &o->runtime.seed : NULL, &q);
    enum status s = STATUS_OK;

    if (started != QUERN_OK || submit(q, o, ids, n) != QUERN_OK)
        s = log_fail(STATUS_DEAD, "%s", quern_error(NULL));
    if (s == STATUS_OK)
        s = new_file_open(&file, o->output);
    if (s == STATUS_OK)
        s = new_file_finish(&file, copy_rows(q, o, &file));
    quern_close(q);
    return s;
}

/* What is known before anything is loaded; INVALID (logged). */
static enum status check(const struct logits_options *o, size_t n)
{
    if (n == 0)
        return log_fail(STATUS_INVALID, "the prompt is empty: give --ids at least one token id");
    if ((size_t)o->last > n)
        return log_fail(STATUS_INVALID, "--last %d: the prompt has %zu tokens", o->last, n);
    return STATUS_OK;
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
    tell_alone(); /* of several reasons the last: why, not what came of it */
    s = check(&o, n);
    if (s == STATUS_OK)
        s = run(&o, ids, n);
    if (s != STATUS_OK)
        tell("%s", log_last_error());
    free(ids);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
