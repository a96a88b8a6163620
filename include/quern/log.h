/* log.h - one line for a person, once.
 *
 * A library may not print: log_message() hands the line to the process's sink
 * and, for errors, keeps a copy per thread, which is how libquern, a worker or
 * a frame carries "why" to whoever asked. main() chooses the sink (standard
 * error for a tool, the rank's slot in the group segment for a worker). The
 * default sink drops the line.
 *
 * A line has no prefix, no newline, and says what to do:
 *   "model.safetensors: header length 9 is larger than the file (8 bytes)". */
#ifndef QUERN_LOG_H
#define QUERN_LOG_H

#include <stdbool.h>

#include "quern/status.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum { LOG_LINE_BYTES = 1024 }; /* longer lines are cut, at a whole character */

typedef void log_sink(void *context, enum log_level level, const char *line);

/* Set once at start, before other threads exist. sink NULL drops lines. */
void log_set_sink(log_sink *sink, void *context);
void log_set_level(enum log_level most_verbose);

/* "error", "warn", "info", "debug"; STATUS_INVALID for another word (not logged). */
enum status log_level_parse(const char *word, enum log_level *level);

/* A sink that writes "quern: LINE" to standard error. */
void log_to_stderr(void *context, enum log_level level, const char *line);

/* That sink's next line takes the place of a progress bar on the terminal. */
void log_over_bar(bool shown);

void log_message(enum log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#define log_warn(...) log_message(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* Logs an error and returns `s`: `return log_fail(STATUS_INVALID, "...");` */
enum status log_fail(enum status s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same for a system call that failed with errno `error`, and what cannot be done therefore:
 * "cannot start PROGRAM: pidfd_open: Operation not permitted" and, where it was refused rather
 * than that it failed, who refuses it. Returns STATUS_IO. */
enum status log_call_failed(int error, const char *call, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The calling thread's last error line, "" if none. */
const char *log_last_error(void);

#endif
