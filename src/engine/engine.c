/* engine.c - sequences in two lists, and the last few steps' rows.
 *
 * waiting: admitted in order, from the head. running: one slot each. A record
 * of each planned step (whose output is whose) is kept until engine_done():
 * BACKEND_DEPTH of them at most, so two arrays serve for ever. A sequence that
 * ended stays in `running` until the last step that names it is done. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "engine/blocks.h"
#include "quern/log.h"

enum { STEPS_KEPT = 4 };

struct sequence {
    struct sequence *next;
    uint64_t id;
    int32_t *prompt;
    uint32_t n_prompt, max_tokens;
    struct sampling sampling;
    bool ignore_eos, ended;
    uint32_t slot;
    uint32_t planned;  /* prompt tokens planned so far */
    uint32_t expected; /* ids planned so far */
    uint32_t produced; /* ids seen so far */
    uint64_t last_step; /* the last step that names it */
    uint32_t n_blocks;
    uint32_t blocks[]; /* [n_blocks] once running */
};

struct list {
    struct sequence *head, **tail;
};

struct planned_step {
    uint64_t number;
    uint32_t n_outputs;
    struct sequence **outputs; /* [max_outputs] */
};

struct engine {
    struct plan_limits limits;
    uint32_t generation, max_model_len;
    int32_t *eos;
    size_t n_eos;
    struct blocks blocks;
    uint32_t *free_slots, n_free_slots;
    struct list waiting, running;
    uint64_t next_number, done_number; /* steps [done_number, next_number) are under way */
    struct planned_step steps[STEPS_KEPT];
};

static void list_init(struct list *l)
{
    l->head = NULL;
    l->tail = &l->head;
}

static void list_append(struct list *l, struct sequence *s)
{
    s->next = NULL;
    *l->tail = s;
    l->tail = &s->next;
}

/* Takes *at out; returns it. */
static struct sequence *list_take(struct list *l, struct sequence **at)
{
    struct sequence *s = *at;

    *at = s->next;
    if (l->tail == &s->next)
        l->tail = at;
    return s;
}

static void sequence_free(struct sequence *s)
{
    free(s->prompt);
    free(s);
}

enum status engine_open(const struct engine_options *options, struct engine **out)
{
    const struct plan_limits *limits = &options->limits;
    struct engine *e = calloc(1, sizeof(*e));

    if (e == NULL)
        goto err;
    e->limits = *limits;
    e->generation = options->generation;
    e->max_model_len = options->max_model_len;
    list_init(&e->waiting);
    list_init(&e->running);
    e->n_eos = options->n_eos;
    e->eos = malloc((options->n_eos + 1) * sizeof(*e->eos));
    e->free_slots = malloc(limits->max_slots * sizeof(*e->free_slots));
    if (e->eos == NULL || e->free_slots == NULL)
        goto err;
    if (options->n_eos > 0)
        memcpy(e->eos, options->eos, options->n_eos * sizeof(*e->eos));
    for (uint32_t i = 0; i < limits->max_slots; i++)
        e->free_slots[i] = limits->max_slots - 1 - i;
    e->n_free_slots = limits->max_slots;
    for (int i = 0; i < STEPS_KEPT; i++) {
        e->steps[i].outputs = calloc(limits->max_outputs, sizeof(struct sequence *));
        if (e->steps[i].outputs == NULL)
            goto err;
    }
    if (blocks_init(&e->blocks, limits->n_blocks) != STATUS_OK)
        goto err;
    *out = e;
    return STATUS_OK;
err:
    engine_close(e);
    return log_fail(STATUS_NOMEM, "no memory for the scheduler of %u sequences and %u KV blocks",
        limits->max_slots, limits->n_blocks);
}

static void list_free(struct list *l)
{
    while (l->head != NULL)
        sequence_free(list_take(l, &l->head));
}

void engine_close(struct engine *e)
{
    if (e == NULL)
        return;
    if (e->waiting.tail != NULL) {
        list_free(&e->waiting);
        list_free(&e->running);
    }
    for (int i = 0; i < STEPS_KEPT; i++)
        free(e->steps[i].outputs);
    blocks_free(&e->blocks);
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

    if (r->n_ids == 0 || r->n_ids >= e->max_model_len)
        return log_fail(STATUS_INVALID, "a prompt of %u tokens does not fit a context of %u",
            r->n_ids, e->max_model_len);
    if (max_tokens > e->max_model_len - r->n_ids)
        max_tokens = e->max_model_len - r->n_ids;
    needed = engine_blocks_needed(e, r->n_ids, max_tokens);
    if (needed > e->limits.n_blocks || needed > e->limits.max_blocks_per_slot)
        return log_fail(STATUS_INVALID, "%u tokens need %u KV blocks, there are %u",
            r->n_ids + max_tokens, needed, e->limits.n_blocks);
    s = calloc(1, sizeof(*s) + needed * sizeof(s->blocks[0]));
    if (s == NULL)
        goto err;
    s->prompt = malloc((size_t)r->n_ids * sizeof(*s->prompt));
    if (s->prompt == NULL)
        goto err_free;
    memcpy(s->prompt, r->ids, (size_t)r->n_ids * sizeof(*s->prompt));
    s->id = r->id;
    s->n_prompt = r->n_ids;
    s->max_tokens = max_tokens;
    s->sampling = r->sampling;
    s->ignore_eos = r->ignore_eos;
    s->n_blocks = needed;
    list_append(&e->waiting, s);
    return STATUS_OK;
err_free:
    free(s);
err:
    return log_fail(STATUS_NOMEM, "no memory for a prompt of %u tokens", r->n_ids);
}

/* Planning ------------------------------------------------------------------------------- */

static void admit(struct engine *e, struct plan *plan, struct sequence *s)
{
    struct block_change *changes = plan_changes(plan);

    s->slot = e->free_slots[--e->n_free_slots];
    plan_starts(plan)[plan->n_starts++] =
        (struct slot_start){.slot = s->slot, .sampling = s->sampling};
    for (uint32_t i = 0; i < s->n_blocks; i++)
        changes[plan->n_changes++] =
            (struct block_change){.slot = s->slot, .index = i, .block = s->blocks[i]};
}

static void note_output(struct engine *e, struct plan *plan, struct sequence *s)
{
    e->steps[plan->number % STEPS_KEPT].outputs[plan->n_outputs++] = s;
    s->expected++;
}

static struct plan_row *add_row(struct plan *plan, struct sequence *s, uint32_t n_tokens)
{
    struct plan_row *row = &plan_rows(plan)[plan->n_rows++];

    *row = (struct plan_row){
        .slot = s->slot, .first_token = plan->n_tokens, .n_tokens = n_tokens};
    plan->n_tokens += n_tokens;
    s->last_step = plan->number;
    return row;
}

static void plan_decode(struct engine *e, struct plan *plan, struct sequence *s)
{
    struct plan_row *row = add_row(plan, s, 1);

    row->kind = ROW_DECODE;
    row->output = OUTPUT_TOKEN;
    row->n_outputs = 1;
    plan_tokens(plan)[row->first_token] = token_from_slot(s->slot);
    note_output(e, plan, s);
}

/* As much of the prompt as the step has room for; its last token is sampled from. */
static void plan_prefill(struct engine *e, struct plan *plan, struct sequence *s)
{
    uint32_t room = e->limits.max_tokens - plan->n_tokens, left = s->n_prompt - s->planned;
    uint32_t n = left < room ? left : room;
    struct plan_row *row = add_row(plan, s, n);

    row->kind = ROW_PREFILL;
    memcpy(plan_tokens(plan) + row->first_token, s->prompt + s->planned, n * sizeof(int32_t));
    s->planned += n;
    if (s->planned < s->n_prompt)
        return;
    row->output = OUTPUT_TOKEN;
    row->n_outputs = 1;
    note_output(e, plan, s);
}

static bool wants_decode(const struct sequence *s)
{
    return !s->ended && s->planned == s->n_prompt && s->expected < s->max_tokens;
}

/* For another row of one token and one output at least. */
static bool has_room(const struct engine *e, const struct plan *plan)
{
    return plan->n_tokens < e->limits.max_tokens && plan->n_outputs < e->limits.max_outputs;
}

static void plan_running(struct engine *e, struct plan *plan)
{
    /* An id that is still to come can be named, but only its own step may be ahead of it:
     * `expected` counts it, so a sequence has at most one row in a step. */
    for (struct sequence *s = e->running.head; s != NULL; s = s->next)
        if (wants_decode(s) && has_room(e, plan))
            plan_decode(e, plan, s);
    for (struct sequence *s = e->running.head; s != NULL; s = s->next)
        if (!s->ended && s->planned < s->n_prompt && has_room(e, plan))
            plan_prefill(e, plan, s);
}

static void plan_waiting(struct engine *e, struct plan *plan)
{
    while (e->waiting.head != NULL && e->n_free_slots > 0 && has_room(e, plan)) {
        struct sequence *s = e->waiting.head;

        if (blocks_take(&e->blocks, s->n_blocks, s->blocks) != STATUS_OK)
            return;
        list_append(&e->running, list_take(&e->waiting, &e->waiting.head));
        admit(e, plan, s);
        plan_prefill(e, plan, s);
    }
}

enum status engine_plan(struct engine *e, struct plan *plan)
{
    struct planned_step *step = &e->steps[e->next_number % STEPS_KEPT];

    plan_begin(plan, &e->limits, e->generation, e->next_number);
    plan_running(e, plan);
    plan_waiting(e, plan);
    if (plan->n_rows == 0)
        return STATUS_AGAIN;
    step->number = plan->number;
    step->n_outputs = plan->n_outputs;
    e->next_number++;
    plan_pack(plan);
    return STATUS_OK;
}

/* What came back ------------------------------------------------------------------------- */

static bool is_eos(const struct engine *e, int32_t id)
{
    for (size_t i = 0; i < e->n_eos; i++)
        if (e->eos[i] == id)
            return true;
    return false;
}

static void end_sequence(struct sequence *s, enum engine_finish finish, uint64_t step,
    engine_emit *emit, void *context)
{
    s->ended = true;
    emit(context, &(struct engine_event){.id = s->id, .done = true, .finish = finish,
        .output_tokens = s->produced, .step = step});
}

static void take_id(struct engine *e, struct sequence *s, int32_t id, uint64_t step,
    engine_emit *emit, void *context)
{
    if (s->ended)
        return; /* the row planned before its end was noticed */
    if (id == BROKEN_ID) {
        end_sequence(s, ENGINE_BROKEN, step, emit, context);
        return;
    }
    s->produced++;
    if (!s->ignore_eos && is_eos(e, id)) {
        end_sequence(s, ENGINE_STOP, step, emit, context);
        return;
    }
    emit(context, &(struct engine_event){.id = s->id, .token = id});
    if (s->produced == s->max_tokens)
        end_sequence(s, ENGINE_LENGTH, step, emit, context);
}

/* Frees what no step under way names any more. */
static void retire(struct engine *e)
{
    struct sequence **at = &e->running.head;

    while (*at != NULL) {
        struct sequence *s = *at;

        if (!s->ended || s->last_step >= e->done_number) {
            at = &s->next;
            continue;
        }
        list_take(&e->running, at);
        blocks_give(&e->blocks, s->blocks, s->n_blocks);
        e->free_slots[e->n_free_slots++] = s->slot;
        sequence_free(s);
    }
}

void engine_done(struct engine *e, uint64_t number, const int32_t *ids, engine_emit *emit,
    void *context)
{
    struct planned_step *step = &e->steps[number % STEPS_KEPT];

    for (uint32_t i = 0; i < step->n_outputs; i++)
        take_id(e, step->outputs[i], ids[i], number, emit, context);
    e->done_number = number + 1;
    retire(e);
}

void engine_cancel(struct engine *e, uint64_t id, engine_emit *emit, void *context)
{
    for (struct sequence **at = &e->waiting.head; *at != NULL; at = &(*at)->next)
        if ((*at)->id == id) {
            struct sequence *s = list_take(&e->waiting, at);

            end_sequence(s, ENGINE_CANCELLED, 0, emit, context);
            sequence_free(s);
            return;
        }
    for (struct sequence *s = e->running.head; s != NULL; s = s->next)
        if (s->id == id && !s->ended)
            end_sequence(s, ENGINE_CANCELLED, 0, emit, context);
    retire(e);
}

bool engine_idle(const struct engine *e)
{
    return e->waiting.head == NULL && e->running.head == NULL;
}
