/* progress.c - the line is written again only when its number changes. */
#include "base/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "quern/log.h"

enum { BAR_CELLS = 40 };

static bool just_begun(const struct progress *p)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - p->start.tv_sec) +
               (double)(now.tv_nsec - p->start.tv_nsec) * 1e-9 < 0.3;
}

struct progress progress_of(const char *what)
{
    struct progress p = {.what = what, .terminal = isatty(STDERR_FILENO) == 1, .shown = -1};

    clock_gettime(CLOCK_MONOTONIC, &p.start);
    return p;
}

void progress_show(struct progress *p, double done)
{
    char bar[BAR_CELLS + 1];
    int percent = (int)(done * 100);

    if (!p->terminal || percent == p->shown || just_begun(p))
        return;
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i * 100 < percent * BAR_CELLS ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "\r%s [%s] %3d %%", p->what, bar, percent);
    p->shown = percent;
    log_over_bar(true);
}

void progress_clear(struct progress *p)
{
    if (p->shown >= 0)
        fputs("\r\033[K", stderr);
    p->shown = -1;
    log_over_bar(false);
}
