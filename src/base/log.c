/* log.c - the process's one sink, and each thread's last error.
 *
 * The line is formatted on the stack and handed over whole: no allocation, so
 * that running out of memory can still be reported. */
#include "quern/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static log_sink *process_sink;
static void *process_context;
static enum log_level process_level = LOG_LEVEL_WARN;
static bool bar_shown;
static _Thread_local char last_error[LOG_LINE_BYTES];

void log_set_sink(log_sink *sink, void *context)
{
    process_sink = sink;
    process_context = context;
}

void log_set_level(enum log_level most_verbose)
{
    process_level = most_verbose;
}

enum status log_level_parse(const char *word, enum log_level *level)
{
    static const char *const words[] = {
        [LOG_LEVEL_ERROR] = "error",
        [LOG_LEVEL_WARN] = "warn",
        [LOG_LEVEL_INFO] = "info",
        [LOG_LEVEL_DEBUG] = "debug",
    };

    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(word, words[i]) == 0) {
            *level = (enum log_level)i;
            return STATUS_OK;
        }
    return STATUS_INVALID;
}

void log_over_bar(bool shown)
{
    bar_shown = shown;
}

void log_to_stderr(void *context, enum log_level level, const char *line)
{
    char text[LOG_LINE_BYTES + 16];
    int n = snprintf(text, sizeof(text), "%squern: %s\n", bar_shown ? "\r\033[K" : "", line);

    (void)context;
    (void)level;
    bar_shown = false;
    /* One write, so that lines of several processes do not mix. */
    if (write(STDERR_FILENO, text, (size_t)n) < 0)
        return;
}

/* Cuts a line that did not fit before a UTF-8 character that lost its tail. */
static void cut_at_character(char *line, size_t length)
{
    while (length > 0 && ((unsigned char)line[length] & 0xc0) == 0x80)
        length--;
    line[length] = '\0';
}

/* Names and texts of files may hold anything: to a terminal, an escape is a command. */
static void blank_controls(char *line)
{
    for (; *line != '\0'; line++)
        if ((unsigned char)*line < 0x20 || *line == 0x7f)
            *line = ' ';
}

static void format_line(char line[LOG_LINE_BYTES], const char *format, va_list args)
{
    char whole[LOG_LINE_BYTES + 4];
    int n = vsnprintf(whole, sizeof(whole), format, args);

    if (n < 0)
        whole[0] = '\0';
    if (n >= LOG_LINE_BYTES)
        cut_at_character(whole, LOG_LINE_BYTES - 1);
    blank_controls(whole);
    memcpy(line, whole, strlen(whole) + 1);
}

static void deliver(enum log_level level, const char *line)
{
    if (process_sink != NULL && level <= process_level)
        process_sink(process_context, level, line);
}

void log_message(enum log_level level, const char *format, ...)
{
    char line[LOG_LINE_BYTES];
    va_list args;

    va_start(args, format);
    format_line(line, format, args);
    va_end(args);
    deliver(level, line);
}

enum status log_fail(enum status s, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    format_line(last_error, format, args);
    va_end(args);
    deliver(LOG_LEVEL_ERROR, last_error);
    return s;
}

enum status log_call_failed(int error, const char *call, const char *format, ...)
{
    bool refused = error == EPERM || error == ENOSYS || error == EACCES;
    char what[LOG_LINE_BYTES];
    va_list args;

    va_start(args, format);
    format_line(what, format, args);
    va_end(args);
    return log_fail(STATUS_IO, "%s: %s: %s%s", what, call, strerror(error), refused ?
        ": the kernel or a sandbox refuses it, allow it in the container's seccomp profile "
        "(quern doctor says what else is missing)" : "");
}

const char *log_last_error(void)
{
    return last_error;
}

const char *status_name(enum status s)
{
    switch (s) {
    case STATUS_OK: return "ok";
    case STATUS_AGAIN: return "try again";
    case STATUS_CLOSED: return "closed";
    case STATUS_UNSUPPORTED: return "unsupported";
    case STATUS_INVALID: return "invalid input";
    case STATUS_IO: return "input/output error";
    case STATUS_NOMEM: return "out of memory";
    case STATUS_DEAD: return "a process died";
    case STATUS_TIMEOUT: return "timed out";
    case STATUS_INTERRUPTED: return "interrupted";
    case STATUS_INTERNAL: return "internal error";
    case STATUS_UNKNOWN: return "not in this version";
    }
    return "unknown status";
}
