/* engine.c - sequences come, get their ids and end; planning.c says what a step computes.
 *
 * A record of each planned step (whose output is whose) is kept until
 * engine_done(): BACKEND_DEPTH of them at most, so a few arrays serve for ever.
 * A sequence that ended gives back slot and blocks at once; it is freed when the
 * last step that names it is done. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine_inside.h"
#include "quern/log.h"

static enum status take_memory(struct engine *e, const struct engine_options *o)
{
    const struct plan_limits *limits = &o->limits;

    e->eos = malloc((o->n_eos + 1) * sizeof(*e->eos));
    e->free_slots = malloc(limits->max_slots * sizeof(*e->free_slots));
    if (e->eos == NULL || e->free_slots == NULL)
        return STATUS_NOMEM;
    for (int i = 0; i < STEPS_KEPT; i++) {
        e->steps[i].rows = calloc(limits->max_slots, sizeof(*e->steps[i].rows));
        if (e->steps[i].rows == NULL)
            return STATUS_NOMEM;
    }
    return blocks_open(limits->n_blocks, limits->block_size, &e->blocks);
}

enum status engine_open(const struct engine_options *o, struct engine **out)
{
    struct engine *e = calloc(1, sizeof(*e));

    if (e != NULL) {
        e->limits = o->limits;
        e->generation = o->generation;
        e->max_model_len = o->max_model_len;
        e->max_chunk = o->max_chunk;
        e->pace = o->pace;
        e->pacer = o->pacer;
        e->observe = o->observe;
        e->observer = o->observer;
        list_init(&e->waiting);
        list_init(&e->running);
        list_init(&e->ended);
    }
    if (e == NULL || take_memory(e, o) != STATUS_OK) {
        engine_close(e);
        return log_fail(STATUS_NOMEM, "no memory for the scheduler of %u sequences and %u KV "
            "blocks", o->limits.max_slots, o->limits.n_blocks);
    }
    e->n_eos = o->n_eos;
    if (o->n_eos > 0)
        memcpy(e->eos, o->eos, o->n_eos * sizeof(*e->eos));
    e->n_free_slots = e->limits.max_slots;
    for (uint32_t i = 0; i < e->n_free_slots; i++)
        e->free_slots[i] = e->n_free_slots - 1 - i;
    *out = e;
    return STATUS_OK;
}

static void list_free(struct list_node *queue)
{
    while (!list_empty(queue)) {
        struct sequence *s = LIST_OF(queue->next, struct sequence, queue);

        list_remove(&s->queue);
        sequence_free(s);
    }
}

void engine_close(struct engine *e)
{
    if (e == NULL)
        return;
    list_free(&e->waiting);
    list_free(&e->running);
    list_free(&e->ended);
    for (int i = 0; i < STEPS_KEPT; i++)
        free(e->steps[i].rows);
    blocks_close(e->blocks);
    free(e->free_slots);
    free(e->eos);
    free(e);
}

/* For positions 0 .. n_ids + max_tokens - 1, as far as the context goes. */
uint32_t engine_blocks_needed(const struct engine *e, uint32_t n_ids, uint32_t max_tokens)
{
    uint64_t tokens = (uint64_t)n_ids + max_tokens;

    if (tokens > e->max_model_len)
        tokens = e->max_model_len;
    return (uint32_t)((tokens + e->limits.block_size - 1) / e->limits.block_size);
}

enum status engine_add(struct engine *e, const struct engine_request *r)
{
    uint32_t max_tokens = r->max_tokens, needed;
    struct sequence *s;

    if (r->n_ids == 0 || r->n_ids + (r->task == ENGINE_ANSWER) > e->max_model_len)
        return log_fail(STATUS_INVALID, "a prompt of %u tokens does not fit a context of %u",
            r->n_ids, e->max_model_len);
    if (r->task != ENGINE_ANSWER)
        max_tokens = 1; /* it takes the place of an answer's first id */
    if (max_tokens > e->max_model_len - r->n_ids)
        max_tokens = e->max_model_len - r->n_ids;
    needed = engine_blocks_needed(e, r->n_ids, max_tokens);
    if (needed > e->limits.n_blocks || needed > e->limits.max_blocks_per_slot)
        return log_fail(STATUS_INVALID, "%u tokens need %u KV blocks, there are %u",
            r->n_ids + max_tokens, needed, e->limits.n_blocks);
    if (r->sampling.n_bias > BIAS_WORDS || r->sampling.n_bad > BAD_WORDS)
        return log_fail(STATUS_INVALID, "lists of %u and %u words: %d and %d are possible",
            r->sampling.n_bias, r->sampling.n_bad, BIAS_WORDS, BAD_WORDS);
    if (e->n_eos + r->n_stops > END_WORDS)
        return log_fail(STATUS_INVALID, "%u ids that end it, and %zu that the model has: %d are possible",
            r->n_stops, e->n_eos, END_WORDS);
    if (sequence_new(r, max_tokens, needed, e->eos, (uint32_t)e->n_eos, &s) != STATUS_OK)
        return log_fail(STATUS_NOMEM, "no memory for a prompt of %u tokens", r->n_ids);
    s->arrival = e->arrivals++;
    sequence_insert(&e->waiting, s);
    e->counts.waiting++;
    return STATUS_OK;
}

/* What came back ------------------------------------------------------------------------- */

static bool is_among(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

void engine_release(struct engine *e, struct sequence *s, bool forget)
{
    if (s->state == SEQUENCE_PREFILL || s->state == SEQUENCE_DECODE) {
        e->free_slots[e->n_free_slots++] = s->slot;
        e->counts.running--;
    } else {
        e->counts.waiting--;
    }
    sequence_give_blocks(s, e->blocks, forget);
    list_remove(&s->queue);
}

/* Where events go. */
struct telling {
    engine_emit *emit;
    void *context;
};

/* e: what is known beside the sequence's own. */
static void end_sequence(struct engine *e, struct sequence *s, struct engine_event event,
    struct telling t)
{
    event.id = s->id;
    event.choice = s->sampling.choice;
    event.kind = ENGINE_DONE;
    event.output_tokens = sequence_produced(s);
    engine_release(e, s, event.finish == ENGINE_BROKEN); /* what it computed may not be finite either */
    sequence_move(s, SEQUENCE_ENDED);
    list_append(&e->ended, &s->queue);
    t.emit(t.context, &event);
}

static void note_id(struct engine *e, struct sequence *s)
{
    e->counts.tokens_out++;
    if (s->told_ns != 0) {
        engine_tell_time(e, ENGINE_TOKEN_TIME, s->told_ns);
    } else if (s->arrived_ns != 0) {
        e->counts.prompt_tokens += s->sampling.choice == 0 ? s->n_prompt : 0;
        engine_tell_time(e, ENGINE_FIRST_TOKEN_TIME, s->arrived_ns);
    }
    s->told_ns = e->now_ns;
}

static void take_id(struct engine *e, struct sequence *s, int32_t id,
    const struct token_logprob *logprobs, uint64_t step, struct telling t)
{
    bool is_eos;

    if (id == BROKEN_ID) {
        end_sequence(e, s, (struct engine_event){.finish = ENGINE_BROKEN, .step = step}, t);
        return;
    }
    note_id(e, s);
    s->ids[s->n_ids++] = id;
    sequence_keep(s, e->blocks, e->limits.block_size, step);
    is_eos = is_among(e->eos, e->n_eos, id);
    if ((is_eos && !s->ignore_eos) || is_among(s->stops, s->n_stops, id)) {
        end_sequence(e, s, (struct engine_event){.finish = ENGINE_STOP, .token = id,
            .is_eos = is_eos && !s->ignore_eos}, t);
        return;
    }
    t.emit(t.context, &(struct engine_event){.id = s->id, .choice = s->sampling.choice,
        .kind = ENGINE_ID, .token = id, .logprobs = logprobs,
        .n_logprobs = logprobs != NULL ? s->logprobs : 0});
    if (sequence_produced(s) == s->max_tokens)
        end_sequence(e, s, (struct engine_event){.finish = ENGINE_LENGTH}, t);
}

static void take_score(struct engine *e, struct sequence *s, uint32_t position,
    const struct token_logprob *logprobs, uint64_t step, struct telling t)
{
    if (position >= s->n_prompt || logprobs == NULL)
        return; /* produced before a restart: computed again, and told already */
    if (logprobs->id == BROKEN_ID) {
        end_sequence(e, s, (struct engine_event){.finish = ENGINE_BROKEN, .step = step}, t);
        return;
    }
    t.emit(t.context, &(struct engine_event){.id = s->id, .choice = s->sampling.choice,
        .kind = ENGINE_SCORED, .position = position, .logprobs = logprobs, .n_logprobs = s->score});
}

/* Outputs from `output` of the step on; the last ends it. */
static void take_values(struct engine *e, struct sequence *s, const struct planned_row *row,
    uint32_t output, struct telling t)
{
    for (uint32_t i = 0; i < row->n_values && s->state != SEQUENCE_ENDED; i++)
        t.emit(t.context, &(struct engine_event){.id = s->id, .choice = s->sampling.choice,
            .kind = ENGINE_VALUES, .position = row->from + i, .output = output + i,
            .pooled = s->task == ENGINE_POOL});
    if (s->state != SEQUENCE_ENDED && row->from + row->n_values == s->n_ids)
        end_sequence(e, s, (struct engine_event){.finish = ENGINE_STOP, .is_eos = true}, t);
}

/* Wrong guesses are in the cache, and not in the sequence. */
static void take_guesses(struct engine *e, struct sequence *s, const int32_t *ids, uint32_t n)
{
    uint32_t right = 0;

    while (right < n && ids[right] != NO_ID)
        right++;
    e->counts.guessed_right += right - 1;
    s->expected -= n - right;
    if (s->state == SEQUENCE_DECODE)
        s->length -= n - right;
}

static void take_row(struct engine *e, const struct planned_row *row, const int32_t *ids,
    const struct token_logprob *logprobs, uint64_t step, uint32_t output, struct telling t)
{
    struct sequence *s = row->sequence;

    if (row->n_values > 0) {
        take_values(e, s, row, output, t);
        return;
    }
    if (row->guessed)
        take_guesses(e, s, ids, row->n_outputs);
    /* An ended one had its row planned before that was noticed. */
    for (uint32_t i = 0; i < row->n_outputs && s->state != SEQUENCE_ENDED; i++) {
        const struct token_logprob *of_it =
            logprobs != NULL ? logprobs + (size_t)i * (LOGPROBS_MOST + 1) : NULL;

        if (i < row->n_scored)
            take_score(e, s, row->from + i, of_it, step, t);
        else if (ids[i] != NO_ID)
            take_id(e, s, ids[i], of_it, step, t);
    }
}

/* Frees what no step under way names any more. */
static void retire(struct engine *e)
{
    struct list_node *at = e->ended.next, *after;

    for (; at != &e->ended; at = after) {
        struct sequence *s = LIST_OF(at, struct sequence, queue);

        after = at->next;
        if (s->named_until > e->done_number)
            continue;
        list_remove(at);
        sequence_free(s);
    }
}

void engine_done(struct engine *e, uint64_t number, const int32_t *ids,
    const struct token_logprob *logprobs, engine_emit *emit, void *context)
{
    const struct planned_step *step = &e->steps[number % STEPS_KEPT];

    uint32_t output = 0;

    for (uint32_t i = 0; i < step->n_rows; output += step->rows[i++].n_outputs) {
        take_row(e, &step->rows[i], ids, logprobs, number, output,
            (struct telling){emit, context});
        ids += step->rows[i].n_outputs;
        if (logprobs != NULL)
            logprobs += (size_t)step->rows[i].n_outputs * (LOGPROBS_MOST + 1);
    }
    e->done_number = number + 1;
    retire(e);
}

static void cancel_in(struct engine *e, struct list_node *queue, uint64_t id, uint32_t choice,
    struct telling t)
{
    for (struct list_node *at = queue->next, *after; at != queue; at = after) {
        struct sequence *s = LIST_OF(at, struct sequence, queue);

        after = at->next;
        if (s->id == id && (choice == ENGINE_ALL_CHOICES || s->sampling.choice == choice))
            end_sequence(e, s, (struct engine_event){.finish = ENGINE_CANCELLED}, t);
    }
}

void engine_cancel(struct engine *e, uint64_t id, uint32_t choice, engine_emit *emit, void *context)
{
    cancel_in(e, &e->running, id, choice, (struct telling){emit, context});
    cancel_in(e, &e->waiting, id, choice, (struct telling){emit, context});
    retire(e);
}

void engine_clock(struct engine *e, uint64_t now_ns)
{
    e->now_ns = now_ns;
}

void engine_tell_time(struct engine *e, enum engine_time what, uint64_t since_ns)
{
    if (e->observe != NULL && since_ns != 0)
        e->observe(e->observer, what, e->now_ns > since_ns ? e->now_ns - since_ns : 0);
}

struct engine_counts engine_counts(const struct engine *e)
{
    struct engine_counts c = e->counts;

    c.blocks = e->limits.n_blocks;
    c.blocks_used = c.blocks - blocks_available(e->blocks);
    return c;
}

bool engine_idle(const struct engine *e)
{
    return list_empty(&e->waiting) && list_empty(&e->running) && list_empty(&e->ended);
}
