/* bench_disturb.c - what a long prompt does to answers that run.
 *
 * Some answers run alone for a while, then a long prompt comes, then they are alone
 * again: by then they are longer, and so is each step. Each time between two frames of
 * an answer is one figure, as its reader would see it. */
#include <stdlib.h>

#include "quern/log.h"
#include "tools/bench_load.h"

enum { OWN_PROMPT = 64, ALONE = 100 /* frames of each answer */, MOST_STREAMS = 1024 };

struct times {
    double *s;
    size_t n, room;
};

struct disturb {
    struct quern *q;
    uint32_t streams, long_prompt;
    double last_s[MOST_STREAMS + 2]; /* by number; 0: nothing came yet */
    uint32_t begun;                  /* streams that something came of */
    struct times before, beside, after;
    double asked_s, answered_s; /* the long prompt; 0: not yet */
    bool over;                  /* all is measured, or an answer is at the context's end */
};

static enum status note(struct times *t, double s)
{
    if (t->n == t->room) {
        size_t room = t->room ? 2 * t->room : 1024;
        double *more = realloc(t->s, room * sizeof(*more));

        if (more == NULL)
            return log_fail(STATUS_NOMEM, "no memory for %zu times", room);
        t->s = more;
        t->room = room;
    }
    t->s[t->n++] = s;
    return STATUS_OK;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double part_below(struct times *t, double part)
{
    if (t->n == 0)
        return 0;
    qsort(t->s, t->n, sizeof(*t->s), by_size);
    return t->s[(size_t)(part * (double)(t->n - 1))];
}

static struct between between(struct times *t)
{
    return (struct between){part_below(t, 0.5), part_below(t, 0.99)};
}

static enum status ask(struct disturb *d, uint32_t n_ids, uint32_t wanted, uint64_t *seed)
{
    int32_t *ids = malloc(n_ids * sizeof(*ids));
    uint64_t id;
    enum status s;

    if (ids == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a prompt of %u tokens", n_ids);
    for (uint32_t i = 0; i < n_ids; i++)
        ids[i] = load_draw_id(d->q, seed);
    s = load_submit(d->q, ids, n_ids, wanted, &id);
    free(ids);
    return s;
}

static enum status take(struct disturb *d, const struct quern_event *e, uint64_t *seed)
{
    uint64_t id = quern_event_request(e);
    double now = load_now_s(), before;

    if (quern_event_kind(e) == QUERN_EVENT_DONE && id <= d->streams)
        d->over = true;
    if (quern_event_kind(e) != QUERN_EVENT_TEXT || id > d->streams + 1)
        return STATUS_OK;
    if (id == d->streams + 1) {
        d->answered_s = now;
        return STATUS_OK;
    }
    before = d->last_s[id];
    d->last_s[id] = now;
    d->begun += before == 0;
    if (before == 0 || d->begun < d->streams)
        return STATUS_OK;
    if (d->answered_s > 0) {
        d->over |= d->after.n + 1 == (size_t)ALONE * d->streams;
        return note(&d->after, now - before);
    }
    if (d->asked_s > 0)
        return note(&d->beside, now - before);
    if (d->before.n + 1 == (size_t)ALONE * d->streams) {
        d->asked_s = now;
        return ask(d, d->long_prompt, 1, seed);
    }
    return note(&d->before, now - before);
}

static enum status run(struct disturb *d, uint64_t *seed)
{
    uint32_t context = quern_context_size(d->q);
    enum status s = STATUS_OK;

    if (d->long_prompt > context - 1)
        d->long_prompt = context - 1;
    if (context < 4 * OWN_PROMPT || d->streams > MOST_STREAMS)
        return log_fail(STATUS_INVALID, "a context of %u tokens, and %u streams: %d at least, and %d "
            "at most", context, d->streams, 4 * OWN_PROMPT, MOST_STREAMS);
    for (uint32_t i = 0; s == STATUS_OK && i < d->streams; i++)
        s = ask(d, OWN_PROMPT, context - OWN_PROMPT, seed);
    while (s == STATUS_OK && !d->over) {
        const struct quern_event *e;

        s = load_next(d->q, &e);
        if (s == STATUS_OK)
            s = take(d, e, seed);
    }
    if (s == STATUS_OK && d->after.n == 0)
        return log_fail(STATUS_INVALID, "an answer was at the context's end before the long prompt was "
            "computed: a longer --max-model-len, or a shorter --disturb");
    return s;
}

enum status load_disturb(struct quern *q, uint32_t streams, uint32_t long_prompt, uint64_t seed,
    struct disturb_result *result)
{
    struct disturb d = {.q = q, .streams = streams, .long_prompt = long_prompt};
    enum status s = run(&d, &seed);

    if (s == STATUS_OK)
        *result = (struct disturb_result){
            .streams = streams,
            .long_prompt = d.long_prompt,
            .before = between(&d.before),
            .beside = between(&d.beside),
            .after = between(&d.after),
            .prompt_s = d.answered_s - d.asked_s,
        };
    free(d.before.s);
    free(d.beside.s);
    free(d.after.s);
    return s;
}
