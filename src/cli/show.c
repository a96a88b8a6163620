/* show.c - quern run: what goes to standard output and to standard error.
 *
 * Standard output gets the answer and nothing else, so it can be a file or a
 * pipe; on a terminal, where a person reads on from the prompt, and with
 * --echo, the prompt comes first. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/run.h"
#include "quern/log.h"

static bool telling;

static void pass_ours(void *context, enum log_level level, const char *line)
{
    if (telling || level != LOG_LEVEL_ERROR)
        log_to_stderr(context, level, line);
}

void tell_alone(void)
{
    log_set_sink(pass_ours, NULL);
}

void tell(const char *format, ...)
{
    char line[LOG_LINE_BYTES];
    va_list args;

    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    telling = true;
    log_fail(STATUS_IO, "%s", line);
    telling = false;
}

static double seconds_since(const struct timespec *start)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) * 1e-9;
}

void show_clear_bar(struct progress *p)
{
    if (p->bar_shown)
        fputs("\r\033[K", stderr);
    p->bar_shown = false;
}

void show_bar(struct progress *p, float done)
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

/* Choices ---------------------------------------------------------------------------------- */

/* What is to be printed of an answer once those before it are, and behind its end. */
struct choice {
    FILE *text, *lines;
    char *text_mem, *lines_mem;
    size_t text_bytes, lines_bytes;
    uint64_t ids;
    bool ended;
};

int show_open(const struct run_options *o, struct progress *p)
{
    p->n_choices = o->choices > 0 ? (uint32_t)o->choices : 1;
    p->choices = calloc(p->n_choices, sizeof(*p->choices));
    for (uint32_t i = 0; p->choices != NULL && i < p->n_choices; i++) {
        struct choice *c = &p->choices[i];

        c->text = i > 0 ? open_memstream(&c->text_mem, &c->text_bytes) : stdout;
        c->lines = open_memstream(&c->lines_mem, &c->lines_bytes);
        if (c->text == NULL || c->lines == NULL)
            return QUERN_NOMEM;
    }
    return p->choices != NULL ? QUERN_OK : QUERN_NOMEM;
}

static void close_text(struct choice *c)
{
    if (c->text != NULL && c->text != stdout)
        fclose(c->text);
    c->text = stdout;
}

void show_close(struct progress *p)
{
    for (uint32_t i = 0; p->choices != NULL && i < p->n_choices; i++) {
        struct choice *c = &p->choices[i];

        close_text(c);
        if (c->lines != NULL)
            fclose(c->lines);
        free(c->text_mem);
        free(c->lines_mem);
    }
    free(p->choices);
}

static void write_ids(FILE *to, const int32_t *ids, size_t n, bool first)
{
    for (size_t i = 0; i < n; i++)
        fprintf(to, "%s%d", first && i == 0 ? "" : ",", ids[i]);
}

static void write_logprob(FILE *to, const struct quern_logprob *l)
{
    if (l->id < 0)
        fputs("null", to);
    else
        fprintf(to, "%.7g", (double)l->logprob);
}

/* A line a token: {"id": 1, "logprob": -0.5, "top": [[1, -0.5]]}. */
static void write_lines(const struct run_options *o, FILE *to, const struct quern_event *e)
{
    size_t n_ids, bytes, each = (size_t)o->logprobs + 1;
    const int32_t *ids = quern_event_ids(e, &n_ids);
    const struct quern_logprob *l = quern_event_logprobs(e, &bytes);

    if (!o->has_logprobs || bytes != n_ids * each * sizeof(*l))
        return;
    for (size_t i = 0; i < n_ids; i++, l += each) {
        fprintf(to, "{\"id\": %d, \"logprob\": ", ids[i]);
        write_logprob(to, l);
        fputs(", \"top\": [", to);
        for (size_t k = 1; k < each && l[k].id >= 0; k++) {
            fprintf(to, "%s[%d, ", k > 1 ? ", " : "", l[k].id);
            write_logprob(to, &l[k]);
            fputc(']', to);
        }
        fputs("]}\n", to);
    }
}

/* The prompt, before the first of its continuation: as it was typed, where it was. */
static void begin(const struct run_options *o, const struct prompt *prompt, struct progress *p)
{
    if (p->begun)
        return;
    p->begun = true;
    show_clear_bar(p);
    if (!o->print_ids && prompt->text != NULL && (o->echo || isatty(STDOUT_FILENO)))
        fwrite(prompt->text, 1, prompt->bytes, stdout);
}

static int written(void)
{
    return fflush(stdout) != 0 || ferror(stdout) ? -1 : 0;
}

int show_prompt(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e)
{
    size_t n_ids, bytes;
    const int32_t *ids = quern_event_ids(e, &n_ids);
    const char *text = quern_event_text(e, &bytes);

    if (quern_event_after(e) < p->prompt_ids)
        return 0;
    p->prompt_ids += n_ids;
    begin(o, prompt, p);
    if (o->print_ids)
        write_ids(stdout, ids, n_ids, quern_event_after(e) == 0);
    else if (prompt->text == NULL)
        fwrite(text, 1, bytes, stdout);
    write_lines(o, p->choices[0].lines, e);
    return written();
}

int show_text(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e)
{
    size_t n_ids, bytes;
    const int32_t *ids = quern_event_ids(e, &n_ids);
    const char *text = quern_event_text(e, &bytes);
    struct choice *c = &p->choices[quern_event_choice(e) < p->n_choices ? quern_event_choice(e) : 0];

    begin(o, prompt, p);
    p->last_text_s = seconds_since(&p->start);
    if (p->ids == 0)
        p->first_text_s = p->last_text_s;
    if (o->print_ids)
        write_ids(c->text, ids, n_ids, c->ids == 0 && (c != p->choices || !o->echo));
    else
        fwrite(text, 1, bytes, c->text);
    write_lines(o, c->lines, e);
    c->ids += n_ids;
    p->ids += n_ids;
    p->bytes += o->print_ids ? n_ids : bytes;
    return written();
}

/* What has been kept of the choice whose turn it is. */
static void print_kept(struct choice *c)
{
    if (c->text == stdout)
        return;
    fflush(c->text);
    fwrite(c->text_mem, 1, c->text_bytes, stdout);
    close_text(c);
}

int show_done(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e)
{
    begin(o, prompt, p);
    if (quern_event_choice(e) < p->n_choices)
        p->choices[quern_event_choice(e)].ended = true;
    p->output_tokens += quern_event_output_tokens(e);
    while (p->current < p->n_choices && p->choices[p->current].ended) {
        struct choice *c = &p->choices[p->current++];

        putchar('\n');
        fflush(c->lines);
        fwrite(c->lines_mem, 1, c->lines_bytes, stdout);
        if (p->current < p->n_choices)
            print_kept(&p->choices[p->current]);
    }
    return written();
}

int show_failed(void)
{
    if (run_interrupted)
        return EXIT_INTERRUPTED; /* it was blocked */
    if (errno != EPIPE) /* a reader that has had enough is nothing to tell anybody about */
        tell("standard output: %s", strerror(errno));
    return EXIT_FAILED;
}

static void write_statistics(const struct progress *p, const struct quern_event *e)
{
    const char *const ends[] = {
        [QUERN_FINISH_STOP] = quern_event_stop_kind(e) == QUERN_STOP_TEXT ? "stop text" : "end token",
        [QUERN_FINISH_LENGTH] = "length",
        [QUERN_FINISH_CANCELLED] = "cancelled",
    };
    unsigned finish = (unsigned)quern_event_finish(e), restarts = quern_event_restarts(e);
    double span = p->last_text_s - p->first_text_s;

    fprintf(stderr, "quern: %u prompt tokens, %u new (%s)", quern_event_prompt_tokens(e),
        p->output_tokens, p->n_choices > 1                        ? "all choices"
                          : finish < sizeof(ends) / sizeof(ends[0]) ? ends[finish]
                                                                    : "ended");
    if (p->ids > 0)
        fprintf(stderr, "; first token after %.1f ms", p->first_text_s * 1e3);
    if (p->ids > 1 && span > 0)
        fprintf(stderr, ", then %.1f tokens/s", (double)(p->ids - 1) / span);
    if (restarts > 0)
        fprintf(stderr, "; %u restart%s of the workers", restarts, restarts > 1 ? "s" : "");
    fputc('\n', stderr);
    if (p->ids > 1 && p->bytes == 0)
        log_warn("the new ids have no text: --print-ids prints them");
}

int show_end(struct progress *p, const struct quern_event *e)
{
    write_statistics(p, e);
    return run_interrupted ? EXIT_INTERRUPTED : EXIT_DONE;
}
