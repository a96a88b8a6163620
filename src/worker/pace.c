/* pace.c - two estimates, and a division.
 *
 * The time of answers alone is kept for each number of them, since it is neither
 * proportional to that nor constant. While a long prompt is computed no step is
 * without it, and contexts grow: so now and then one is left without, on purpose.
 * What a prompt's token adds depends on the chunk and on the position; its estimate
 * is of the last few steps, which were of about the size that the next one has.
 *
 * On a machine that others use, too, some steps take several times as long as most.
 * The mean of such times is far above what is common, of small chunks most of all,
 * and would make them ever smaller. So an estimate goes only a part of its own size
 * towards what is new: it stays near the median. That of answers alone is seldom
 * measured, and too high a one makes chunks too long until the next: it rises by less
 * than it falls. */
#include "worker/pace.h"

#include <stdbool.h>
#include <stdlib.h>

#include "quern/log.h"

static const double stretch = 0.7, alone_weight = 0.5, token_weight = 0.25;
static const double reach = 0.25, alone_rise = 0.15;

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

/* What is new counts as at most so much more or less than what is known; of the first few, more. */
static void follow(struct estimate *e, double value, double weight, double rise)
{
    if (e->n > 0) {
        bool few = e->n < 4;
        double most = e->ns * (1 + (few ? 1.0 / (e->n + 1) : rise));
        double least = e->ns * (1 - (few ? 1.0 / (e->n + 1) : reach));

        value = value > most ? most : value < least ? least : value;
        value = e->ns + weight * (value - e->ns);
    }
    e->ns = value;
    e->n += e->n < 4;
}

uint32_t pace_chunk(struct pace *p, uint32_t answers, uint32_t prompts)
{
    const struct pace_alone *a = &p->alone[answers];
    double most, crowd = answers > 0 && prompts > 1 ? (prompts - 1.0) * PACE_CROWD / answers : 0;

    if (a->time.n == 0 || p->steps - a->step > PACE_STALE || p->since_probe >= PACE_PROBE) {
        p->since_probe = 0;
        return 0;
    }
    if (p->token.n == 0)
        return p->first;
    most = stretch * (crowd > 1 ? crowd : 1) * a->time.ns / p->token.ns;
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
        if (p->token.n == 0 && prompts >= p->first)
            follow(&p->token, (double)ns / prompts, token_weight, reach);
        return;
    }
    if (prompts == 0) {
        if (p->steps - a->step > PACE_STALE)
            a->time.n = 0;
        follow(&a->time, (double)ns, alone_weight, alone_rise);
        a->step = p->steps;
        return;
    }
    p->since_probe++;
    if (a->time.n == 0)
        return;
    more = ((double)ns - a->time.ns) / prompts;
    follow(&p->token, more > 1 ? more : 1, token_weight, reach);
}
