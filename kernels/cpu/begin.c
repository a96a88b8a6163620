/* begin.c - a plan becomes ids, positions, tables and angles; at the end, state.
 *
 * Thread 0 alone changes sequences and tables, while the others wait at the
 * barrier inside OP_BEGIN: the step before ended with a barrier, so nobody
 * reads them any more. Behind that barrier each thread fills in its own tokens.
 *
 * plan_check() has seen the plan. What it cannot see is state: whether a
 * sequence has blocks for the positions it is about to write. That is checked
 * here, since a position without a block would land in another sequence's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/exec.h"

enum { ATTENTION_START = 8 }; /* what an item costs before its first position, in positions */

static void apply_changes(struct executable *x, const struct plan *p)
{
    const struct slot_start *start = plan_starts(p);
    const struct block_change *change = plan_changes(p);
    size_t table_bytes =
        x->program->shape.limits.max_blocks_per_slot * sizeof(*x->tables);

    for (uint32_t i = 0; i < p->n_starts; i++) {
        x->sequences[start[i].slot] = (struct sequence){.sampling = start[i].sampling,
            .length = start[i].length, .n_prompt = start[i].n_prompt};
        memcpy(words_of(x, start[i].slot), plan_words(p) + start[i].first_word,
            sampling_words(&start[i].sampling) * sizeof(int32_t));
        memset(table_of(x, start[i].slot), NO_BLOCK, table_bytes);
    }
    for (uint32_t i = 0; i < p->n_changes; i++)
        table_of(x, change[i].slot)[change[i].index] = block_index(change[i].block);
}

/* The slot has a block for each position in [from, to). */
static enum status check_blocks(struct executable *x, uint32_t slot, uint64_t from, uint64_t to)
{
    const struct plan_limits *l = &x->program->shape.limits;

    for (uint64_t b = from / l->block_size; b * l->block_size < to; b++)
        if (b >= l->max_blocks_per_slot || table_of(x, slot)[b] == UINT32_MAX) {
            snprintf(x->why, sizeof(x->why),
                "slot %u has no KV block for its positions %llu to %llu", slot,
                (unsigned long long)from, (unsigned long long)to - 1);
            return STATUS_INTERNAL;
        }
    return STATUS_OK;
}

/* Those that a sequence starts with, and those that rows write. */
static enum status check_state(struct executable *x, const struct plan *p)
{
    const struct slot_start *start = plan_starts(p);
    const struct plan_row *row = plan_rows(p);
    enum status s = STATUS_OK;

    for (uint32_t i = 0; i < p->n_starts && s == STATUS_OK; i++)
        s = check_blocks(x, start[i].slot, 0, start[i].length);
    for (uint32_t i = 0; i < p->n_rows && s == STATUS_OK; i++) {
        uint64_t length = x->sequences[row[i].slot].length;

        s = check_blocks(x, row[i].slot, length, length + row[i].n_tokens);
    }
    return s;
}

/* scored: the id that is there already, or NO_ID. */
static void add_draw(struct executable *x, uint32_t slot, uint32_t output, uint32_t position,
    int32_t scored)
{
    const struct sequence *seq = &x->sequences[slot];
    const struct sampling *s = &seq->sampling;
    struct draw d = {
        .output = output,
        .slot = slot,
        .position = position,
        .scored = scored,
        .record_at = x->record_bytes,
        .mode = sample_mode(s, x->program->shape.vocab, is_alone(x)),
        .edited = scored == NO_ID && edit_wanted(s, position, seq->n_prompt),
        .logprobs = s->logprobs > 0,
    };

    if (scored != NO_ID && !d.logprobs)
        return;
    x->draws[x->n_draws++] = d;
    x->record_bytes += (uint32_t)record_bytes_of(&d);
}

/* The id behind token `i` of a row, if it is known: what is scored. */
static int32_t known_next(const struct plan *p, const struct plan_row *row, uint32_t i)
{
    if (row->kind == ROW_DECODE)
        return NO_ID;
    if (i + 1 < row->n_tokens)
        return plan_tokens(p)[row->first_token + i + 1];
    return row->output == OUTPUT_SCORE ? row->next_id : NO_ID;
}

/* Output rows: which token each is of, and what becomes of it. */
static void list_outputs(struct step *s)
{
    struct executable *x = s->x;
    const struct plan_row *row = plan_rows(s->plan);
    uint32_t output = 0;

    x->n_draws = x->record_bytes = 0;
    for (uint32_t r = 0; r < s->plan->n_rows; r++)
        for (uint32_t i = row[r].n_tokens - row[r].n_outputs; i < row[r].n_tokens; i++) {
            s->ids[output] = NO_ID;
            x->picked[output] = row[r].first_token + i;
            if (row[r].output == OUTPUT_TOKEN || row[r].output == OUTPUT_SCORE)
                add_draw(x, row[r].slot, output, x->sequences[row[r].slot].length + i + 1,
                    known_next(s->plan, &row[r], i));
            output++;
        }
}

static uint64_t token_cost(const struct executable *x, const struct plan_row *row, uint32_t i)
{
    return x->sequences[row->slot].length + i + 1 + ATTENTION_START;
}

/* Attention's items cost what their positions are: parts of equal cost, not of equal count. */
static void split_attention(struct executable *x, const struct plan *p)
{
    const struct plan_row *row = plan_rows(p);
    uint64_t kv_heads = x->program->shape.kv_heads, total = 0, before = 0;
    int next = 0;

    for (uint32_t r = 0; r < p->n_rows; r++)
        for (uint32_t i = 0; i < row[r].n_tokens; i++)
            total += kv_heads * token_cost(x, &row[r], i);
    for (uint32_t r = 0; r < p->n_rows; r++)
        for (uint32_t i = 0; i < row[r].n_tokens; i++) {
            uint64_t each = token_cost(x, &row[r], i), target;

            while (next < x->threads &&
                   (target = total * (uint64_t)next / (uint64_t)x->threads) <
                       before + kv_heads * each)
                x->attention_from[next++] = (uint32_t)((row[r].first_token + i) * kv_heads +
                                                       (target - before + each / 2) / each);
            before += kv_heads * each;
        }
    while (next <= x->threads)
        x->attention_from[next++] = (uint32_t)(p->n_tokens * kv_heads);
}

static enum status begin_state(struct step *s)
{
    struct executable *x = s->x;

    if (x->failed != STATUS_OK)
        return x->failed;
    apply_changes(x, s->plan);
    if (check_state(x, s->plan) != STATUS_OK)
        return STATUS_INTERNAL;
    list_outputs(s);
    split_attention(x, s->plan);
    return STATUS_OK;
}

static void fill_angles(struct executable *x, uint32_t token)
{
    const struct program_shape *shape = &x->program->shape;
    uint32_t half = shape->head_dim / 2;
    float *cos_row = x->cos + (size_t)token * half, *sin_row = x->sin + (size_t)token * half;
    float position = (float)x->positions[token];

    for (uint32_t i = 0; i < half; i++) {
        float angle = position * shape->inv_freq[i];

        cos_row[i] = cosf(angle) * shape->rope_scale;
        sin_row[i] = sinf(angle) * shape->rope_scale;
    }
}

static void fill_token(struct step *s, const struct plan_row *row, uint32_t token)
{
    struct executable *x = s->x;
    int32_t id = plan_tokens(s->plan)[token];

    x->tokens[token] = id >= 0 ? id : x->sequences[token_slot(id)].last_id;
    x->positions[token] = x->sequences[row->slot].length + (token - row->first_token);
    x->blocks[token] = table_of(x, row->slot);
    *id_at(x, row->slot, x->positions[token]) = x->tokens[token];
    fill_angles(x, token);
}

enum status op_begin(struct step *s, const struct op *op, int thread)
{
    struct executable *x = s->x;
    enum status status = thread == 0 ? begin_state(s) : STATUS_OK;
    struct part mine = part_of(s->plan->n_tokens, thread, x->threads);
    const struct plan_row *row = plan_rows(s->plan);
    uint32_t r = 0;

    (void)op;
    if (pool_barrier(x->device->pool, status != STATUS_OK))
        return status != STATUS_OK ? status : STATUS_CLOSED;
    for (uint32_t token = mine.from; token < mine.to; token++) {
        while (token >= row[r].first_token + row[r].n_tokens)
            r++;
        fill_token(s, &row[r], token);
    }
    return STATUS_OK;
}

/* Of a row that decodes: the tokens that were right, by the ids sampled after each. What was sampled
 * behind a wrong one is taken back. */
static uint32_t right_tokens(const int32_t *tokens, int32_t *ids, uint32_t n)
{
    uint32_t right = 1;

    while (right < n && ids[right - 1] == tokens[right])
        right++;
    for (uint32_t i = right; i < n; i++)
        ids[i] = NO_ID;
    return right;
}

void step_commit(struct step *s)
{
    struct executable *x = s->x;
    const struct plan_row *row = plan_rows(s->plan);
    int32_t *ids = s->ids;

    for (uint32_t i = 0; i < s->plan->n_rows; ids += row[i++].n_outputs) {
        struct sequence *seq = &x->sequences[row[i].slot];
        uint32_t n = row[i].n_tokens, last = row[i].n_outputs;

        if (row[i].kind == ROW_DECODE)
            n = last = right_tokens(plan_tokens(s->plan) + row[i].first_token, ids, n);
        seq->length += n;
        if (row[i].output == OUTPUT_TOKEN)
            seq->last_id = ids[last - 1] >= 0 ? ids[last - 1] : 0;
    }
}
