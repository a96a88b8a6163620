/* progress.h - a bar on a terminal's last line, for what takes long enough to wonder.
 *
 *     struct progress p = progress_of("writing");
 *     while (...) progress_show(&p, done);          0 to 1
 *     progress_clear(&p);                           when it is over
 *
 * It goes to standard error, and only if that is a terminal; not within the first 0.3 seconds.
 * A line of the log takes its place (log_to_stderr()). */
#ifndef QUERN_BASE_PROGRESS_H
#define QUERN_BASE_PROGRESS_H

#include <stdbool.h>
#include <time.h>

struct progress {
    const char *what; /* borrowed */
    struct timespec start;
    bool terminal;
    int shown;        /* per cent on the screen; -1: none */
};

struct progress progress_of(const char *what);
void progress_show(struct progress *p, double done);
void progress_clear(struct progress *p);

#endif
