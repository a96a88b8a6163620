/* planning.c - what the next step computes.
 *
 * Answers first, in the order in which sequences go: only here is a block taken
 * that nobody reserved, and only from sequences that come later, which have no
 * row in this plan yet. A prompt's blocks are taken when it is admitted. The
 * device's table gets an entry when a row first needs it, so a plan's changes
 * are bounded by its tokens, but for what a sequence shares. */
#include <string.h>

#include "engine/engine_inside.h"

/* What is still to come of row `row`: it is the last of the plan. */
static void note_outputs(struct engine *e, struct plan *plan, struct sequence *s,
    struct plan_row *row, uint32_t n_scored, uint32_t n_ids)
{
    struct planned_row *noted = &e->steps[plan->number % STEPS_KEPT].rows[plan->n_rows - 1];

    row->n_outputs = n_scored + n_ids;
    row->output = n_ids > 0 ? OUTPUT_TOKEN : n_scored > 0 ? OUTPUT_SCORE : OUTPUT_NONE;
    *noted = (struct planned_row){.sequence = s, .n_outputs = row->n_outputs, .n_scored = n_scored,
        .from = s->score_from, .guessed = row->kind == ROW_DECODE && n_ids > 1};
    plan->n_outputs += row->n_outputs;
    s->expected += n_ids;
    s->score_from += n_scored;
}

/* Of the row's last n tokens: those of an embedding or of logits. */
static void note_values(struct engine *e, struct plan *plan, struct sequence *s, struct plan_row *row,
    uint32_t n)
{
    row->n_outputs = n;
    row->output = n == 0 ? OUTPUT_NONE : s->task == ENGINE_POOL ? OUTPUT_POOLED : OUTPUT_LOGITS;
    e->steps[plan->number % STEPS_KEPT].rows[plan->n_rows - 1] = (struct planned_row){
        .sequence = s, .n_outputs = n, .n_values = n, .from = s->values_from};
    plan->n_outputs += n;
    s->values_from += n;
}

/* Of positions up to `length`. */
static uint32_t blocks_of(const struct engine *e, uint32_t length)
{
    return (length + e->limits.block_size - 1) / e->limits.block_size;
}

/* The entries that its positions need and the device has not. */
static void tell_blocks(const struct engine *e, struct plan *plan, struct sequence *s)
{
    struct block_change *changes = plan_changes(plan);

    for (; s->n_told < blocks_of(e, s->length); s->n_told++)
        changes[plan->n_changes++] = (struct block_change){
            .slot = s->slot, .index = s->n_told, .block = s->blocks[s->n_told]};
}

/* The row is the plan's last. */
static void extend_row(const struct engine *e, struct plan *plan, struct sequence *s,
    struct plan_row *row, uint32_t n_tokens)
{
    row->n_tokens += n_tokens;
    plan->n_tokens += n_tokens;
    s->length += n_tokens;
    tell_blocks(e, plan, s);
}

static struct plan_row *add_row(const struct engine *e, struct plan *plan, struct sequence *s,
    uint32_t n_tokens)
{
    struct plan_row *row = &plan_rows(plan)[plan->n_rows++];

    *row = (struct plan_row){.slot = s->slot, .first_token = plan->n_tokens};
    s->named_until = plan->number + 1;
    extend_row(e, plan, s, row, n_tokens);
    return row;
}

/* For another row of one token and one output at least. */
static bool has_room(const struct engine *e, const struct plan *plan)
{
    return plan->n_tokens < e->limits.max_tokens && plan->n_outputs < e->limits.max_outputs;
}

/* Answers --------------------------------------------------------------------------------- */

static void preempt(struct engine *e, struct sequence *s)
{
    engine_release(e, s, false);
    s->length = 0;
    sequence_move(s, SEQUENCE_PREEMPTED);
    sequence_insert(&e->waiting, s);
    e->counts.waiting++;
    e->counts.preemptions++;
}

/* Blocks for its next n positions. False: it had to give way itself. */
static bool grow(struct engine *e, struct sequence *s, uint32_t n)
{
    while (blocks_of(e, s->length + n) > s->n_blocks) {
        struct sequence *last = LIST_OF(e->running.prev, struct sequence, queue);

        if (block_take(e->blocks, &s->blocks[s->n_blocks])) {
            s->n_blocks++;
            continue;
        }
        preempt(e, last);
        if (last == s)
            return false;
    }
    return true;
}

/* An id that is still to come can be named, but only its own step may be ahead of it: `expected`
 * counts it, so a sequence has at most one row in a step. Guesses follow what is known. */
static bool may_answer(const struct sequence *s)
{
    return s->state == SEQUENCE_DECODE && s->expected < s->max_tokens &&
           !(s->guesses > 0 && sequence_is_ahead(s));
}

/* Rows of one token that other answers may want are kept free of guesses; nor is anybody preempted
 * for them. */
static uint32_t guesses_for(const struct engine *e, const struct plan *plan, struct sequence *s,
    uint32_t answers, int32_t *out)
{
    uint32_t most = s->guesses, left = s->max_tokens - s->expected - 1;
    uint32_t tokens = e->limits.max_tokens - plan->n_tokens;
    uint32_t outputs = e->limits.max_outputs - plan->n_outputs;
    uint32_t room = (tokens < outputs ? tokens : outputs);
    uint64_t blocks = s->n_blocks + (uint64_t)blocks_available(e->blocks);
    uint64_t positions = blocks * e->limits.block_size - s->length;

    room = room > answers ? room - answers : 0;
    most = most < left ? most : left;
    most = most < room ? most : room;
    if (most >= positions)
        most = positions > 0 ? (uint32_t)positions - 1 : 0;
    return most > 0 ? guess_next(&s->guesser, s->ids, s->n_ids, out, most) : 0;
}

static void plan_answer(struct engine *e, struct plan *plan, struct sequence *s, uint32_t n_guesses)
{
    struct plan_row *row = add_row(e, plan, s, 1 + n_guesses);

    row->kind = ROW_DECODE;
    plan_tokens(plan)[row->first_token] = token_from_slot(s->slot);
    e->counts.guessed += n_guesses;
    note_outputs(e, plan, s, row, 0, 1 + n_guesses);
    plan->n_decode++;
}

static void plan_answers(struct engine *e, struct plan *plan)
{
    uint32_t least = e->n_free_slots > 0 && !list_empty(&e->waiting); /* a row for who comes next */
    uint32_t answers = e->counts.running + least;

    for (struct list_node *at = e->running.next, *after; at != &e->running; at = after) {
        struct sequence *s = LIST_OF(at, struct sequence, queue);
        uint32_t n_guesses = 0;

        if (!may_answer(s) || !has_room(e, plan)) {
            after = at->next;
            continue;
        }
        if (s->guesses > 0)
            n_guesses = guesses_for(e, plan, s, answers, plan_tokens(plan) + plan->n_tokens + 1);
        answers -= answers > 1 + least;
        if (!grow(e, s, 1 + n_guesses))
            return; /* it was the last */
        after = at->next; /* whom grow() left */
        plan_answer(e, plan, s, n_guesses);
    }
}

/* Prompts --------------------------------------------------------------------------------- */

/* Of those that speculate: they have no row before the last one's ids are known. */
static bool answer_is_ahead(const struct engine *e)
{
    for (struct list_node *at = e->running.next; at != &e->running; at = at->next) {
        const struct sequence *s = LIST_OF(at, struct sequence, queue);

        if (s->state == SEQUENCE_DECODE && s->expected < s->max_tokens && !may_answer(s))
            return true;
    }
    return false;
}

/* Where there are answers, but none in this step, prompts wait for the next: a whole step of them
 * would be in the answers' way. */
static uint32_t prompt_end(const struct engine *e, const struct plan *plan, uint32_t prompts)
{
    uint32_t room = e->limits.max_tokens - plan->n_tokens, most = e->max_chunk;

    if (plan->n_rows == 0)
        return answer_is_ahead(e) ? 0 : e->limits.max_tokens;
    if (e->pace != NULL && room > 0) {
        uint32_t asked = e->pace(e->pacer, plan->n_tokens, prompts);

        most = asked < most ? asked : most;
    }
    return plan->n_tokens + (room < most ? room : most);
}

static bool prompts_have_room(const struct engine *e, const struct plan *plan)
{
    return plan->n_tokens < e->prompt_end && has_room(e, plan);
}

/* The step has outputs for what is wanted of these n tokens. */
static uint32_t bounded_by_outputs(const struct engine *e, const struct plan *plan,
    const struct sequence *s, uint32_t n)
{
    uint32_t outputs = e->limits.max_outputs - plan->n_outputs, first = s->length;

    if (s->task != ENGINE_ANSWER)
        first = s->values_from;
    else if (!sequence_scores(s))
        return n;
    return s->length + n > first + outputs ? first + outputs - s->length : n;
}

/* Half of what is left goes to the first while there are others, of them the next gets half; of a
 * large step whole blocks. */
static uint32_t chunk(const struct engine *e, const struct plan *plan, const struct sequence *s,
    bool others)
{
    uint32_t room = e->prompt_end - plan->n_tokens, left = s->n_ids - s->length;
    uint32_t half = (room + 1) / 2, block = e->limits.block_size;

    if (others)
        room = half > block || room <= block ? half : block;
    return bounded_by_outputs(e, plan, s, left < room ? left : room);
}

/* Ids to be scored that follow tokens of [from, to), without the one behind the last of a prompt. */
static uint32_t scored_in(const struct sequence *s, uint32_t to)
{
    uint32_t last = to < s->n_ids ? to : s->n_ids - 1;

    return sequence_scores(s) && last >= s->score_from ? last - s->score_from + 1 : 0;
}

/* The row's last n tokens are those of the prompt. */
static void took_tokens(struct engine *e, struct plan *plan, struct sequence *s, struct plan_row *row,
    uint32_t n)
{
    bool whole = s->length == s->n_ids;

    memcpy(plan_tokens(plan) + plan->n_tokens - n, s->ids + s->length - n, n * sizeof(int32_t));
    e->counts.tokens_in += n;
    sequence_keep(s, e->blocks, e->limits.block_size, plan->number);
    if (s->task != ENGINE_ANSWER) {
        note_values(e, plan, s, row, s->length > s->values_from ? s->length - s->values_from : 0);
        s->expected += whole;
    } else {
        note_outputs(e, plan, s, row, scored_in(s, s->length), whole);
    }
    if (row->output == OUTPUT_SCORE)
        row->next_id = s->ids[s->length];
    if (whole)
        sequence_move(s, SEQUENCE_DECODE);
}

static void plan_chunk(struct engine *e, struct plan *plan, struct sequence *s, bool others)
{
    uint32_t n = chunk(e, plan, s, others);
    struct plan_row *row = add_row(e, plan, s, n);

    row->kind = ROW_PREFILL;
    e->last_prompt = s;
    took_tokens(e, plan, s, row, n);
}

/* What was left for others, and none of them took, goes to the last that had some. */
static void fill(struct engine *e, struct plan *plan)
{
    struct plan_row *row = plan_rows(plan) + plan->n_rows - 1;
    uint32_t n;

    if (plan->n_rows == 0 || row->kind != ROW_PREFILL || row->output != OUTPUT_NONE ||
        !prompts_have_room(e, plan))
        return;
    n = chunk(e, plan, e->last_prompt, false);
    extend_row(e, plan, e->last_prompt, row, n);
    took_tokens(e, plan, e->last_prompt, row, n);
}

static bool others_have_prompts(const struct engine *e, const struct list_node *at)
{
    for (at = at->next; at != &e->running; at = at->next)
        if (LIST_OF(at, struct sequence, queue)->state == SEQUENCE_PREFILL)
            return true;
    return e->n_free_slots > 0 && !list_empty(&e->waiting);
}

/* One token beside answers cannot be halved: the next has it every other time. (Without answers
 * there might be no row at all, and so no next time.) */
static bool gives_way(const struct engine *e, const struct plan *plan, const struct list_node *at)
{
    return plan->n_rows > 0 && e->prompt_end - plan->n_tokens == 1 && plan->number % 2 == 1 &&
           others_have_prompts(e, at);
}

static void plan_prompts(struct engine *e, struct plan *plan)
{
    for (struct list_node *at = e->running.next; at != &e->running; at = at->next) {
        struct sequence *s = LIST_OF(at, struct sequence, queue);

        if (s->state == SEQUENCE_PREFILL && prompts_have_room(e, plan) && !gives_way(e, plan, at))
            plan_chunk(e, plan, s, others_have_prompts(e, at));
    }
}

/* Admission ------------------------------------------------------------------------------- */

/* Who computes just now what s has as its full block `block`; NULL: nobody. */
static const struct sequence *computing(const struct engine *e, const struct sequence *s,
    uint32_t block)
{
    uint32_t size = e->limits.block_size;

    for (struct list_node *at = e->running.prev; at != &e->running; at = at->prev) {
        const struct sequence *r = LIST_OF(at, struct sequence, queue);

        if (r->state == SEQUENCE_PREFILL && !sequence_scores(r) && block >= r->length / size && block < r->n_ids / size &&
            r->hashes[block] == s->hashes[block])
            return r;
    }
    return NULL;
}

/* The last of the full blocks from `block` on in which r's prompt and s are alike. */
static uint32_t last_alike(const struct engine *e, const struct sequence *r,
    const struct sequence *s, uint32_t block)
{
    uint32_t most = sequence_shareable(s), known = r->n_ids < most ? r->n_ids : most;

    while (block + 1 < known / e->limits.block_size && r->hashes[block + 1] == s->hashes[block + 1])
        block++;
    return block;
}

enum admission { ADMITTED, LATER, NO_ROOM };

/* Shares what others have, and takes blocks for the rest of what it knows. Unless others run, what
 * is free is enough; while they do, some is left for them to grow into. */
static enum admission take_blocks(struct engine *e, struct plan *plan, struct sequence *s)
{
    uint32_t shared, needed = blocks_of(e, s->n_ids), spare = e->counts.running;
    uint64_t changes = plan_max_changes(&e->limits) - e->limits.max_slots - plan->n_changes;
    const struct sequence *other = NULL;
    bool soon;

    shared = sequence_share(s, e->blocks, e->limits.block_size, plan->number, &soon);
    if (shared < sequence_shareable(s) / e->limits.block_size)
        other = computing(e, s, shared);
    if (soon || other != NULL) {
        s->awaits = other != NULL ? last_alike(e, other, s, shared) + 1 : 0;
        sequence_give_blocks(s, e->blocks, false);
        return LATER;
    }
    s->wanted = needed - shared + spare;
    if (s->wanted > blocks_available(e->blocks) || needed > changes) {
        sequence_give_blocks(s, e->blocks, false);
        return NO_ROOM;
    }
    while (s->n_blocks < needed)
        block_take(e->blocks, &s->blocks[s->n_blocks++]);
    s->length = shared * e->limits.block_size;
    return ADMITTED;
}

static void plan_start(struct plan *plan, const struct sequence *s)
{
    plan_starts(plan)[plan->n_starts++] = (struct slot_start){.slot = s->slot, .length = s->length,
        .n_prompt = s->n_prompt, .first_word = plan->n_words, .sampling = s->sampling};
    for (uint32_t i = 0; i < sampling_words(&s->sampling); i++)
        plan_words(plan)[plan->n_words++] = s->words[i];
}

static enum admission admit(struct engine *e, struct plan *plan, struct sequence *s)
{
    enum admission a;

    /* What kept it waiting may still be so: then its prefix is not looked up in every step. */
    if (s->awaits > 0 && computing(e, s, s->awaits - 1) != NULL)
        return LATER;
    if (e->counts.running > 0 && s->wanted > blocks_available(e->blocks))
        return NO_ROOM;
    if (sampling_words(&s->sampling) > SAMPLING_WORDS - plan->n_words)
        return NO_ROOM; /* in this plan */
    a = take_blocks(e, plan, s);
    if (a != ADMITTED)
        return a;
    s->awaits = s->wanted = 0;
    if (!s->was_admitted)
        engine_tell_time(e, ENGINE_QUEUE_TIME, s->arrived_ns);
    s->was_admitted = true;
    e->counts.prefix_asked += s->n_ids;
    e->counts.prefix_hit += s->length;
    list_remove(&s->queue);
    e->counts.waiting--;
    e->counts.running++;
    sequence_move(s, SEQUENCE_PREFILL);
    sequence_insert(&e->running, s);
    s->slot = e->free_slots[--e->n_free_slots];
    plan_start(plan, s);
    return ADMITTED;
}

/* Who waits for another's prefix is passed by others of its own priority, but not by the less
 * urgent: they would have the slots and blocks that it is about to need. */
static void plan_waiting(struct engine *e, struct plan *plan)
{
    int32_t passed = INT32_MAX;

    for (struct list_node *at = e->waiting.next, *after; at != &e->waiting; at = after) {
        struct sequence *s = LIST_OF(at, struct sequence, queue);
        enum admission a;

        after = at->next;
        if (e->n_free_slots == 0 || !prompts_have_room(e, plan) || sequence_is_ahead(s) ||
            s->priority > passed)
            return;
        a = admit(e, plan, s);
        if (a == NO_ROOM)
            return;
        if (a == LATER)
            passed = s->priority;
        if (a == ADMITTED)
            plan_chunk(e, plan, s, e->n_free_slots > 0 && after != &e->waiting);
    }
}

/* Sequences that have a slot or could have one, and something to compute before they answer. */
static uint32_t count_prompts(const struct engine *e)
{
    uint32_t n = e->counts.waiting < e->n_free_slots ? e->counts.waiting : e->n_free_slots;

    for (struct list_node *at = e->running.next; at != &e->running; at = at->next)
        n += LIST_OF(at, struct sequence, queue)->state == SEQUENCE_PREFILL;
    return n;
}

enum status engine_plan(struct engine *e, struct plan *plan)
{
    uint32_t prompts;

    plan_begin(plan, &e->limits, e->generation, e->next_number);
    plan_answers(e, plan);
    prompts = count_prompts(e);
    e->prompt_end = prompts > 0 ? prompt_end(e, plan, prompts) : 0;
    plan_prompts(e, plan);
    plan_waiting(e, plan);
    fill(e, plan);
    if (plan->n_rows == 0)
        return STATUS_AGAIN;
    e->steps[plan->number % STEPS_KEPT].n_rows = plan->n_rows;
    e->next_number++;
    plan_pack(plan);
    return STATUS_OK;
}
