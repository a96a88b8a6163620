/* show.c - quern run: what goes to standard output and to standard error.
 *
 * Standard output gets the answer and nothing else, so it can be a file or a
 * pipe; on a terminal, where a person reads on from the prompt, and with
 * --echo, the prompt comes first. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
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

static void write_ids(const int32_t *ids, size_t n, bool first)
{
    for (size_t i = 0; i < n; i++)
        printf("%s%d", first && i == 0 ? "" : ",", ids[i]);
}

/* The prompt, before the first of its continuation. */
static void begin(const struct run_options *o, const struct prompt *prompt, struct progress *p)
{
    if (p->begun)
        return;
    p->begun = true;
    show_clear_bar(p);
    if (o->print_ids && o->echo)
        write_ids(prompt->ids, prompt->n_ids, true);
    else if (!o->print_ids && prompt->text != NULL && (o->echo || isatty(STDOUT_FILENO)))
        fwrite(prompt->text, 1, prompt->bytes, stdout);
}

int show_text(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e)
{
    size_t n_ids, bytes;
    const int32_t *ids = quern_event_ids(e, &n_ids);
    const char *text = quern_event_text(e, &bytes);

    begin(o, prompt, p);
    p->last_text_s = seconds_since(&p->start);
    if (p->ids == 0)
        p->first_text_s = p->last_text_s;
    if (o->print_ids)
        write_ids(ids, n_ids, p->ids == 0 && !o->echo);
    else
        fwrite(text, 1, bytes, stdout);
    p->ids += n_ids;
    p->bytes += o->print_ids ? n_ids : bytes;
    return fflush(stdout) != 0 || ferror(stdout) ? -1 : 0;
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
    static const char *const ends[] = {
        [QUERN_FINISH_STOP] = "end token",
        [QUERN_FINISH_LENGTH] = "length",
        [QUERN_FINISH_CANCELLED] = "cancelled",
    };
    unsigned finish = (unsigned)quern_event_finish(e), restarts = quern_event_restarts(e);
    double span = p->last_text_s - p->first_text_s;

    fprintf(stderr, "quern: %u prompt tokens, %u new (%s)", quern_event_prompt_tokens(e),
        quern_event_output_tokens(e), finish < sizeof(ends) / sizeof(ends[0]) ? ends[finish] : "ended");
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

int show_end(const struct run_options *o, const struct prompt *prompt, struct progress *p,
    const struct quern_event *e)
{
    begin(o, prompt, p);
    if (putchar('\n') == EOF || fflush(stdout) != 0)
        return show_failed();
    write_statistics(p, e);
    return run_interrupted ? EXIT_INTERRUPTED : EXIT_DONE;
}
