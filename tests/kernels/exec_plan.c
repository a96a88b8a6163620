/* exec_plan.c - a plan for the small model, row by row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "exec_model.h"

void rank_begin(struct rank *r)
{
    plan_begin(r->plan, &r->program.shape.limits, 7, r->next);
}

void rank_start_with(struct rank *r, uint32_t slot, const struct sampling *s, uint32_t n_prompt,
    const int32_t *words)
{
    struct plan *p = r->plan;
    struct slot_start *start = &plan_starts(p)[p->n_starts++];

    *start = (struct slot_start){.slot = slot, .n_prompt = n_prompt, .first_word = p->n_words,
        .sampling = {.top_p = 1}};
    if (s != NULL)
        start->sampling = *s;
    for (uint32_t i = 0; i < sampling_words(&start->sampling); i++)
        plan_words(p)[p->n_words++] = words[i];
    r->started[slot] = true;
    r->length[slot] = r->told[slot] = 0;
}

void rank_start(struct rank *r, uint32_t slot, const struct sampling *s)
{
    rank_start_with(r, slot, s, 0, NULL);
}

/* Scattered and without order; slot 0 may have all, the others a part each. */
static void tell_blocks(struct rank *r, uint32_t slot)
{
    struct plan *p = r->plan;
    uint32_t each = N_BLOCKS / SLOTS;

    for (; r->started[slot] && r->told[slot] * BLOCK < r->length[slot]; r->told[slot]++) {
        uint32_t i = r->told[slot];

        plan_changes(p)[p->n_changes++] = (struct block_change){.slot = slot, .index = i,
            .block = slot == 0 ? (i * 37 + 5) % N_BLOCKS : (slot * each + i) % N_BLOCKS};
    }
}

static void add_row(struct rank *r, const struct plan_row *row, const int32_t *tokens)
{
    struct plan *p = r->plan;
    struct plan_row *added = &plan_rows(p)[p->n_rows++];

    *added = *row;
    added->first_token = p->n_tokens;
    memcpy(plan_tokens(p) + p->n_tokens, tokens, row->n_tokens * sizeof(*tokens));
    p->n_tokens += row->n_tokens;
    p->n_outputs += row->n_outputs;
    p->n_decode += row->kind == ROW_DECODE;
    r->length[row->slot] += row->n_tokens;
    tell_blocks(r, row->slot);
}

void rank_row(struct rank *r, uint32_t slot, const int32_t *tokens, uint32_t n,
    enum row_output output, uint32_t n_outputs)
{
    bool decodes = n == 1 && output == OUTPUT_TOKEN && r->plan->n_decode == r->plan->n_rows;

    add_row(r, &(struct plan_row){.slot = slot, .n_tokens = n, .n_outputs = n_outputs,
        .output = (uint16_t)output, .kind = decodes ? ROW_DECODE : ROW_PREFILL}, tokens);
}

void rank_guesses(struct rank *r, uint32_t slot, const int32_t *tokens, uint32_t n)
{
    add_row(r, &(struct plan_row){.slot = slot, .n_tokens = n, .n_outputs = n,
        .output = OUTPUT_TOKEN, .kind = ROW_DECODE}, tokens);
}

void rank_take_back(struct rank *r, uint32_t slot, uint32_t n)
{
    r->length[slot] -= n;
}

void rank_scores(struct rank *r, uint32_t slot, const int32_t *tokens, uint32_t n, int32_t next)
{
    add_row(r, &(struct plan_row){.slot = slot, .n_tokens = n, .n_outputs = n,
        .output = next < 0 ? OUTPUT_TOKEN : OUTPUT_SCORE, .kind = ROW_PREFILL,
        .next_id = next < 0 ? 0 : next}, tokens);
}

enum status rank_submit(struct rank *r, uint64_t *number)
{
    enum status s;

    plan_pack(r->plan);
    s = plan_check(r->plan, r->plan->bytes, &r->program.shape.limits, 7);
    if (s == STATUS_OK)
        s = cpu_backend.submit(r->executable, r->plan);
    if (s != STATUS_OK)
        return s;
    *number = r->next++;
    return STATUS_OK;
}
