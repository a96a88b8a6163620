/* bench_load.c - prompts out of a seed, submitted through libquern, and their answers counted.
 *
 * A conversation's next prompt is what was said so far and some new ids, so that
 * all of its last turn may be found in the cache again. */
#include "tools/bench_load.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "quern/spin.h"

double load_now_s(void)
{
    return (double)spin_now_ns() * 1e-9;
}

/* splitmix64 */
static uint64_t draw(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t load_draw(uint64_t *state, uint32_t from, uint32_t to)
{
    return from + (uint32_t)(draw(state) % (to - from + 1));
}

int32_t load_draw_id(struct quern *q, uint64_t *state)
{
    return (int32_t)(draw(state) % quern_vocab_size(q));
}

/* libquern's status as ours; it has logged why. */
static enum status status_of(int s)
{
    return s == QUERN_OK ? STATUS_OK : s == QUERN_NOMEM ? STATUS_NOMEM : STATUS_IO;
}

enum status load_next(struct quern *q, const struct quern_event **event)
{
    int s = quern_next(q, -1, event);

    if (s != QUERN_OK)
        return log_fail(status_of(s), "%s", quern_error(q));
    if (quern_event_kind(*event) == QUERN_EVENT_ERROR)
        return log_fail(STATUS_IO, "%s", quern_event_message(*event));
    return STATUS_OK;
}

enum status load_submit(struct quern *q, const int32_t *ids, uint32_t n_ids, uint32_t wanted,
    uint64_t *id)
{
    struct quern_request *r = quern_request_new();
    int s = r != NULL ? quern_request_set_ids(r, ids, n_ids) : QUERN_NOMEM;

    if (s == QUERN_OK)
        s = quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, wanted);
    if (s == QUERN_OK)
        s = quern_request_set_int(r, QUERN_PARAM_TEMPERATURE, 0);
    if (s == QUERN_OK)
        s = quern_request_set_int(r, QUERN_PARAM_IGNORE_EOS, 1);
    if (s == QUERN_OK)
        s = quern_submit(q, r, id);
    quern_request_free(r);
    if (s == QUERN_AGAIN)
        return log_fail(STATUS_NOMEM, "so many prompts at once do not fit: --requests fewer");
    return s == QUERN_OK ? STATUS_OK : log_fail(status_of(s), "%s", quern_error(NULL));
}

enum status load_fit(struct quern *q, struct load *load)
{
    const struct quern_event *e;
    enum status s = STATUS_OK;
    uint32_t context, most;

    while (s == STATUS_OK && quern_context_size(q) == 0)
        s = load_next(q, &e);
    if (s != STATUS_OK)
        return s;
    context = quern_context_size(q);
    most = context > load->shared ? (context - load->shared) / 2 / load->turns : 0;
    load->longest = load->longest < most ? load->longest : most;
    load->shortest = load->shortest < load->longest ? load->shortest : load->longest;
    if (load->longest > 0)
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "a context of %u tokens does not hold %u turns%s: fewer",
        context, load->turns, load->shared > 0 ? " behind the shared ids" : "");
}

/* Figures ---------------------------------------------------------------------------------- */

json_t *load_figures(struct quern *q)
{
    const char *text;
    json_t *json = NULL;

    if (quern_stats(q, 60000, &text) == QUERN_OK)
        json = json_loads(text, 0, NULL);
    if (json == NULL)
        log_fail(STATUS_IO, "the runtime does not say what it counted: %s", quern_error(q));
    return json;
}

static double figure(const json_t *json, const char *name, const char *member)
{
    const json_t *value = json_object_get(json, name);

    return json_number_value(member != NULL ? json_object_get(value, member) : value);
}

double load_grown(const json_t *before, const json_t *after, const char *name, const char *member)
{
    return figure(after, name, member) - figure(before, name, member);
}

/* Conversations ---------------------------------------------------------------------------- */

struct conversation {
    int32_t *ids;   /* what was said so far: prompts and answers */
    uint32_t n_ids;
    uint32_t turn;
    uint32_t wanted, got, seen; /* of the answer; seen: ids before it */
    double submitted_s;
};

struct run {
    struct quern *q;
    const struct load *load;
    struct load_result *result;
    struct conversation *conversations; /* [load->conversations] */
    uint32_t *whose;                    /* [requests + 1] by number: whose request it is */
    uint64_t requests, ended, seed, shared_seed;
};

static void add_ids(struct run *r, struct conversation *c, uint32_t n, uint64_t *seed)
{
    for (uint32_t i = 0; i < n; i++)
        c->ids[c->n_ids++] = load_draw_id(r->q, seed);
}

/* The next turn: new ids, and an answer to all that was said. */
static enum status ask(struct run *r, struct conversation *c)
{
    const struct load *l = r->load;
    uint64_t shared = r->shared_seed, id;
    enum status s;

    if (c->turn == 0)
        add_ids(r, c, l->shared, &shared);
    add_ids(r, c, load_draw(&r->seed, l->shortest, l->longest), &r->seed);
    c->wanted = load_draw(&r->seed, l->shortest, l->longest);
    c->seen = c->n_ids;
    c->got = 0;
    c->submitted_s = load_now_s();
    s = load_submit(r->q, c->ids, c->n_ids, c->wanted, &id);
    if (s != STATUS_OK)
        return s;
    if (id > r->requests)
        return log_fail(STATUS_INTERNAL, "the runtime numbers requests otherwise than one by one");
    r->whose[id] = (uint32_t)(c - r->conversations);
    r->result->prompt_tokens += c->n_ids;
    return STATUS_OK;
}

static enum status take_text(struct run *r, struct conversation *c, const struct quern_event *e)
{
    size_t n;
    const int32_t *ids = quern_event_ids(e, &n);

    if (n > c->wanted - c->got)
        return log_fail(STATUS_INTERNAL, "an answer is longer than was asked for");
    if (n > 0 && c->got == 0)
        r->result->first_token_s += load_now_s() - c->submitted_s;
    memcpy(c->ids + c->n_ids, ids, n * sizeof(*ids));
    c->n_ids += (uint32_t)n;
    c->got += (uint32_t)n;
    return STATUS_OK;
}

static enum status take_end(struct run *r, struct conversation *c)
{
    uint64_t before = c->seen, got = c->got;

    if (c->got != c->wanted)
        return log_fail(STATUS_INTERNAL, "an answer has %u ids, %u were asked for", c->got, c->wanted);
    r->result->output_tokens += got;
    r->result->context_tokens += got * before + got * (got - 1) / 2;
    r->ended++;
    return ++c->turn < r->load->turns ? ask(r, c) : STATUS_OK;
}

static enum status take_event(struct run *r, const struct quern_event *e)
{
    uint64_t id = quern_event_request(e);
    struct conversation *c;

    if (id == 0 || id > r->requests)
        return STATUS_OK;
    c = &r->conversations[r->whose[id]];
    if (quern_event_kind(e) == QUERN_EVENT_TEXT)
        return take_text(r, c, e);
    return quern_event_is_last(e) ? take_end(r, c) : STATUS_OK;
}

static enum status run_all(struct run *r)
{
    double began = load_now_s();
    enum status s = STATUS_OK;

    for (uint32_t i = 0; s == STATUS_OK && i < r->load->conversations; i++)
        s = ask(r, &r->conversations[i]);
    while (s == STATUS_OK && r->ended < r->requests) {
        const struct quern_event *e;

        s = load_next(r->q, &e);
        if (s == STATUS_OK)
            s = take_event(r, e);
    }
    r->result->seconds = load_now_s() - began;
    r->result->first_token_s /= (double)r->requests;
    return s;
}

static enum status open_run(struct run *r)
{
    const struct load *l = r->load;
    uint32_t room = l->shared + 2 * l->longest * l->turns;

    r->conversations = calloc(l->conversations, sizeof(*r->conversations));
    r->whose = calloc(r->requests + 1, sizeof(*r->whose));
    if (r->conversations == NULL || r->whose == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %llu requests", (unsigned long long)r->requests);
    for (uint32_t i = 0; i < l->conversations; i++) {
        r->conversations[i].ids = malloc(room * sizeof(int32_t));
        if (r->conversations[i].ids == NULL)
            return log_fail(STATUS_NOMEM, "no memory for a prompt of %u tokens", room);
    }
    return STATUS_OK;
}

enum status load_run(struct quern *q, const struct load *load, struct load_result *result)
{
    struct run r = {.q = q, .load = load, .result = result, .seed = load->seed,
        .shared_seed = ~load->seed, .requests = (uint64_t)load->conversations * load->turns};
    enum status s;

    *result = (struct load_result){0};
    s = open_run(&r);
    if (s == STATUS_OK)
        s = run_all(&r);
    for (uint32_t i = 0; r.conversations != NULL && i < load->conversations; i++)
        free(r.conversations[i].ids);
    free(r.conversations);
    free(r.whose);
    return s;
}
