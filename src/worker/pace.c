/* pace.c - two moving averages, and a division.
 *
 * The time of answers alone is kept for each number of them, since it is neither
 * proportional to that nor constant. While a long prompt is computed no step is
 * without it, and contexts grow: so now and then one is left without, on purpose.
 * What a prompt's token adds depends on the chunk and on the position; its average
 * is of the last few steps, which were of about the size that the next one has.
 * A step that somebody else's work made long would move an average far: what is
 * noted is bounded by a multiple of it, and what answers take alone grows more
 * slowly than it shrinks, so that a busy machine makes chunks smaller, not larger. */
#include "worker/pace.h"

#include <stdlib.h>

#include "quern/log.h"

struct averaging {
    double less, more; /* weight of what is new, where it is less than the average, or more */
    double bound;      /* times the average: as more it does not count */
};
static const struct averaging of_alone = {0.25, 0.1, 2}, of_token = {0.125, 0.125, 4};
static const double stretch = 0.8;

enum status pace_open(struct pace *p, uint32_t max_tokens, uint32_t first)
{
    *p = (struct pace){.max_tokens = max_tokens, .first = first};
    p->alone = calloc((size_t)max_tokens + 1, sizeof(*p->alone));
    return p->alone != NULL ? STATUS_OK : log_fail(STATUS_NOMEM, "no memory for step times");
}

void pace_close(struct pace *p)
{
    free(p->alone);
    p->alone = NULL;
}

static void average(double *mean, double value, const struct averaging *a)
{
    if (*mean == 0) {
        *mean = value;
        return;
    }
    if (value > a->bound * *mean)
        value = a->bound * *mean;
    *mean += (value < *mean ? a->less : a->more) * (value - *mean);
}

uint32_t pace_chunk(struct pace *p, uint32_t answers)
{
    const struct pace_alone *a = &p->alone[answers];
    double most;

    if (a->ns == 0 || p->steps - a->step > PACE_STALE || p->since_probe >= PACE_PROBE) {
        p->since_probe = 0;
        return 0;
    }
    if (p->token_ns == 0)
        return p->first;
    most = stretch * a->ns / p->token_ns;
    return most >= p->max_tokens ? p->max_tokens : most > 1 ? (uint32_t)most : 1;
}

void pace_note(struct pace *p, uint32_t answers, uint32_t prompts, uint64_t ns)
{
    struct pace_alone *a = &p->alone[answers];
    double more;

    p->steps++;
    if (ns == 0)
        return;
    if (answers == 0) { /* what it costs beside answers is not known yet: not much more */
        if (p->token_ns == 0 && prompts >= p->first)
            p->token_ns = (double)ns / prompts;
        return;
    }
    if (prompts == 0) {
        if (p->steps - a->step > PACE_STALE)
            a->ns = 0;
        average(&a->ns, (double)ns, &of_alone);
        a->step = p->steps;
        return;
    }
    p->since_probe++;
    if (a->ns == 0)
        return;
    more = ((double)ns - a->ns) / prompts;
    average(&p->token_ns, more > 1 ? more : 1, &of_token);
}
