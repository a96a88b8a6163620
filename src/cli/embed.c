/* embed.c - quern embed: JSON lines, a string in, its embedding out.
 *
 * A client like quern run. Lines are asked for ahead of those that are written,
 * so that the model has several at a time; they are written in their order. What
 * has not come yet is not waited for while answers are due: who writes the next
 * line only when it has read the last one's embedding gets it. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/options.h"
#include "cli/cli.h"
#include "cli/spawn.h"
#include "quern/log.h"

enum { AHEAD = 64 };

struct embed_options {
    struct runtime_options runtime;
    const char *socket;
    int dimensions;
    bool has_seed;
};

#define AT(field) offsetof(struct embed_options, field)
static const struct option_row embed_rows[] = {
    RUNTIME_OPTION_ROWS(AT(runtime)),
    {"seed", 0, OPTION_SEED, AT(runtime.seed), "S", "of synth: weights", 0, 0, AT(has_seed)},
    {"dimensions", 0, OPTION_INT, AT(dimensions), "N", "the first N numbers, scaled to length 1 again", 1,
        1048576, 0},
    {"socket", 0, OPTION_TEXT, AT(socket), "PATH", "use the server at PATH (quern serve)", 0, 0, 0},
    {0},
};

/* A line under way. */
struct line {
    uint64_t id;    /* of its request; 0: none */
    float *values;  /* [n], once they are there */
    size_t n;
};

/* Standard input, by lines. */
struct input {
    char *mem;
    size_t start, n, room; /* bytes [start, n) are not taken yet */
    bool ended;
};

struct embed {
    const struct embed_options *o;
    struct input in;
    struct quern *q;
    struct line lines[AHEAD]; /* of line k: [k % AHEAD] */
    size_t asked, written;    /* lines */
};

static enum status ask(struct embed *m, const char *text, size_t bytes)
{
    struct quern_request *r = quern_request_new();
    int s = quern_request_set_task(r, QUERN_TASK_EMBED);

    if (s == QUERN_OK)
        s = quern_request_set_text(r, text, bytes);
    if (s == QUERN_OK && m->o->dimensions > 0)
        s = quern_request_set_int(r, QUERN_PARAM_DIMENSIONS, m->o->dimensions);
    if (s == QUERN_OK)
        s = quern_submit(m->q, r, &m->lines[m->asked % AHEAD].id);
    quern_request_free(r);
    if (s != QUERN_OK)
        return log_fail(STATUS_IO, "%s", quern_error(NULL));
    m->asked++;
    return STATUS_OK;
}

/* More bytes, or the end. AGAIN: none are there, and may_wait is false. */
static enum status read_more(struct input *in, bool may_wait)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    ssize_t got;

    if (!may_wait && poll(&p, 1, 0) == 0)
        return STATUS_AGAIN;
    memmove(in->mem, in->mem + in->start, in->n - in->start);
    in->n -= in->start;
    in->start = 0;
    if (in->n == in->room) {
        size_t room = in->room > 0 ? 2 * in->room : 1 << 16;
        char *mem = realloc(in->mem, room);

        if (mem == NULL)
            return log_fail(STATUS_NOMEM, "no memory for a line of %zu bytes", room);
        in->mem = mem;
        in->room = room;
    }
    do
        got = read(STDIN_FILENO, in->mem + in->n, in->room - in->n);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return log_fail(STATUS_IO, "standard input: %s", strerror(errno));
    in->n += (size_t)got;
    in->ended = got == 0;
    return STATUS_OK;
}

/* OK: the next line, lent. AGAIN: it is not there yet. CLOSED: the last was taken. */
static enum status next_line(struct input *in, bool may_wait, const char **text, size_t *bytes)
{
    for (;;) {
        char *at = in->mem + in->start, *end = NULL;
        enum status s;

        if (in->n > in->start)
            end = memchr(at, '\n', in->n - in->start);
        if (end == NULL && in->ended && in->n > in->start)
            end = in->mem + in->n - 1;
        if (end != NULL) {
            *text = at;
            *bytes = (size_t)(end - at) + 1;
            in->start += *bytes;
            return STATUS_OK;
        }
        if (in->ended)
            return STATUS_CLOSED;
        s = read_more(in, may_wait);
        if (s != STATUS_OK)
            return s;
    }
}

/* As next_line(). */
static enum status ask_next(struct embed *m)
{
    const char *text;
    size_t bytes;
    enum status s = next_line(&m->in, m->asked == m->written, &text, &bytes);
    json_error_t error;
    json_t *line;

    if (s != STATUS_OK)
        return s;
    line = json_loadb(text, bytes, JSON_DECODE_ANY, &error);
    if (!json_is_string(line) || json_string_length(line) == 0)
        s = log_fail(STATUS_INVALID, "line %zu: expected a string in quotes that is not empty",
            m->asked + 1);
    else
        s = ask(m, json_string_value(line), json_string_length(line));
    json_decref(line);
    return s;
}

static struct line *line_of(struct embed *m, uint64_t id)
{
    for (size_t k = m->written; k < m->asked; k++)
        if (m->lines[k % AHEAD].id == id)
            return &m->lines[k % AHEAD];
    return NULL;
}

static enum status take_event(struct embed *m)
{
    const struct quern_event *e;
    struct line *line;
    const float *values;
    size_t n;

    if (quern_next(m->q, -1, &e) < QUERN_OK)
        return log_fail(STATUS_DEAD, "%s", quern_error(m->q));
    line = line_of(m, quern_event_request(e));
    if (quern_event_kind(e) == QUERN_EVENT_ERROR)
        return log_fail(STATUS_INVALID, "%s", quern_event_message(e));
    if (quern_event_kind(e) != QUERN_EVENT_VALUES || line == NULL)
        return STATUS_OK;
    values = quern_event_values(e, &n);
    line->values = malloc(n * sizeof(*values) + 1);
    if (line->values == NULL)
        return log_fail(STATUS_NOMEM, "no memory for an embedding");
    memcpy(line->values, values, n * sizeof(*values));
    line->n = n;
    return STATUS_OK;
}

/* Those that are there and whose turn it is. */
static enum status write_ready(struct embed *m)
{
    while (m->written < m->asked && m->lines[m->written % AHEAD].values != NULL) {
        struct line *line = &m->lines[m->written++ % AHEAD];

        putchar('[');
        for (size_t i = 0; i < line->n; i++)
            printf(i == 0 ? "%.9g" : ", %.9g", (double)line->values[i]);
        puts("]");
        free(line->values);
        *line = (struct line){0};
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return log_fail(STATUS_IO, "standard output: %s", strerror(errno));
    return STATUS_OK;
}

static enum status run_lines(struct embed *m)
{
    enum status s = STATUS_OK;
    bool more = true;

    while (s >= STATUS_OK && (more || m->written < m->asked)) {
        for (s = STATUS_OK; s == STATUS_OK && more && m->asked - m->written < AHEAD;)
            s = ask_next(m);
        more = more && s != STATUS_CLOSED;
        if (s >= STATUS_OK && m->written < m->asked)
            s = take_event(m);
        if (s >= STATUS_OK)
            s = write_ready(m);
    }
    for (size_t k = m->written; k < m->asked; k++)
        free(m->lines[k % AHEAD].values);
    free(m->in.mem);
    return s > STATUS_OK ? STATUS_OK : s;
}

static enum status run(const struct embed_options *o)
{
    struct embed m = {.o = o};
    int started = o->socket != NULL
                      ? quern_connect(o->socket, &m.q)
                      : spawn_runtime(&o->runtime, o->has_seed ? &o->runtime.seed : NULL, &m.q);
    enum status s = started == QUERN_OK ? run_lines(&m)
                                        : log_fail(STATUS_DEAD, "%s", quern_error(NULL));

    quern_close(m.q);
    return s;
}

static void usage(void)
{
    printf("quern embed -m DIR\n\n"
           "JSON lines: a string in, its embedding as an array of numbers out.\n\n");
    options_print(embed_rows);
}

int command_embed(int argc, char **argv)
{
    struct embed_options o = {0};
    int first;
    enum status s = options_parse(embed_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s == STATUS_OK && first != argc)
        s = log_fail(STATUS_INVALID, "quern embed reads its texts from standard input, one JSON string a "
            "line: see quern embed --help");
    if (s != STATUS_OK)
        return EXIT_USAGE;
    tell_alone(); /* of several reasons the last: why, not what came of it */
    s = run(&o);
    if (s != STATUS_OK)
        tell("%s", log_last_error());
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
