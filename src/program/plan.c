/* plan.c - laying out a plan, and not trusting one.
 *
 * A writer gets every array at full size, so that it appends without asking;
 * plan_pack() then closes the gaps, and only what is used travels. A reader
 * checks each number once, here, so that nothing behind it has to: a plan that
 * passed cannot make a backend read or write out of its bounds. Rows must lie
 * in tokens[] one after another, without gap or overlap. */
#include "quern/plan.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "quern/log.h"

enum {
    PLAN_MAX_SLOTS = 1 << 16,  /* what the bitmap of plan_check() has bits for */
    START_ALIGN = 8,
    ENTRY_ALIGN = 4,
};

/* Where the arrays of a plan with these counts begin; bytes is the end of all. */
struct layout {
    uint64_t starts, changes, rows, tokens, words, bytes;
};

static struct layout layout_of(uint64_t starts, uint64_t changes, uint64_t rows, uint64_t tokens,
    uint64_t words)
{
    struct layout l = {.starts = sizeof(struct plan)};

    l.changes = l.starts + starts * sizeof(struct slot_start);
    l.rows = l.changes + changes * sizeof(struct block_change);
    l.tokens = l.rows + rows * sizeof(struct plan_row);
    l.words = l.tokens + tokens * sizeof(int32_t);
    l.bytes = (l.words + words * sizeof(int32_t) + 7) & ~UINT64_C(7);
    return l;
}

uint64_t plan_max_changes(const struct plan_limits *limits)
{
    uint64_t filled = limits->block_size > 0 ? limits->max_tokens / limits->block_size : 0;

    return (uint64_t)limits->max_blocks_per_slot + 2 * (uint64_t)limits->max_slots + filled;
}

static struct layout largest(const struct plan_limits *limits)
{
    return layout_of(limits->max_slots, plan_max_changes(limits), limits->max_slots,
        limits->max_tokens, SAMPLING_WORDS);
}

size_t plan_max_bytes(const struct plan_limits *limits)
{
    struct layout l;

    if (limits->max_slots > PLAN_MAX_SLOTS || plan_max_changes(limits) > UINT32_MAX / 16)
        return 0;
    l = largest(limits);
    return l.bytes <= UINT32_MAX ? (size_t)l.bytes : 0;
}

void plan_begin(struct plan *mem, const struct plan_limits *limits, uint32_t generation,
    uint64_t number)
{
    struct layout l = largest(limits);

    *mem = (struct plan){
        .bytes = (uint32_t)l.bytes,
        .generation = generation,
        .number = number,
        .starts_at = (uint32_t)l.starts,
        .changes_at = (uint32_t)l.changes,
        .rows_at = (uint32_t)l.rows,
        .tokens_at = (uint32_t)l.tokens,
        .words_at = (uint32_t)l.words,
    };
}

void plan_pack(struct plan *p)
{
    struct layout l = layout_of(p->n_starts, p->n_changes, p->n_rows, p->n_tokens, p->n_words);
    char *base = (char *)p;

    /* Ascending: each array moves down, over gaps and over what has moved already. */
    memmove(base + l.changes, base + p->changes_at, p->n_changes * sizeof(struct block_change));
    memmove(base + l.rows, base + p->rows_at, p->n_rows * sizeof(struct plan_row));
    memmove(base + l.tokens, base + p->tokens_at, p->n_tokens * sizeof(int32_t));
    memmove(base + l.words, base + p->words_at, p->n_words * sizeof(int32_t));
    p->changes_at = (uint32_t)l.changes;
    p->rows_at = (uint32_t)l.rows;
    p->tokens_at = (uint32_t)l.tokens;
    p->words_at = (uint32_t)l.words;
    p->bytes = (uint32_t)l.bytes;
}

/* Checking ------------------------------------------------------------------------------- */

#define REFUSE(...) log_fail(STATUS_INVALID, "plan: " __VA_ARGS__)

/* One bit a slot: a slot may appear once in a list. */
struct slot_set {
    uint64_t bits[PLAN_MAX_SLOTS / 64];
};

static bool slot_add(struct slot_set *set, uint32_t slot)
{
    uint64_t bit = UINT64_C(1) << (slot % 64);

    if (set->bits[slot / 64] & bit)
        return false;
    set->bits[slot / 64] |= bit;
    return true;
}

static enum status check_array(const struct plan *p, const char *what, uint32_t at,
    uint32_t count, size_t each, uint32_t align, uint64_t most)
{
    if (count > most)
        return REFUSE("%u %s, at most %llu are allowed", count, what, (unsigned long long)most);
    if (at % align != 0 || at < sizeof(*p) || at > p->bytes || count * each > p->bytes - at)
        return REFUSE("%u %s at byte %u do not lie within its %u bytes", count, what, at,
            p->bytes);
    return STATUS_OK;
}

static enum status check_header(const struct plan *p, size_t bytes,
    const struct plan_limits *limits, uint32_t generation)
{
    if (bytes < sizeof(*p) || p->bytes < sizeof(*p) || p->bytes > bytes)
        return REFUSE("%u bytes are named, %zu are there, its header alone has %zu",
            bytes < sizeof(*p) ? 0 : p->bytes, bytes, sizeof(*p));
    if (limits->max_slots > PLAN_MAX_SLOTS)
        return REFUSE("%u slots, at most %d can be", limits->max_slots, PLAN_MAX_SLOTS);
    if (p->generation != generation)
        return REFUSE("of generation %u, this group is generation %u", p->generation, generation);
    if ((p->flags & ~(uint32_t)PLAN_STOP) != 0)
        return REFUSE("unknown flags 0x%x", p->flags);
    if ((p->flags & PLAN_STOP) != 0 && (p->n_starts | p->n_changes | p->n_rows | p->n_tokens |
        p->n_outputs | p->n_decode | p->n_words) != 0)
        return REFUSE("a stop carries work");
    if (p->n_outputs > limits->max_outputs)
        return REFUSE("%u outputs, at most %u are allowed", p->n_outputs, limits->max_outputs);
    return STATUS_OK;
}

static enum status check_arrays(const struct plan *p, const struct plan_limits *limits)
{
    enum status s;

    if ((s = check_array(p, "starts", p->starts_at, p->n_starts, sizeof(struct slot_start),
             START_ALIGN, limits->max_slots)) != STATUS_OK ||
        (s = check_array(p, "block changes", p->changes_at, p->n_changes,
             sizeof(struct block_change), ENTRY_ALIGN, plan_max_changes(limits))) != STATUS_OK ||
        (s = check_array(p, "rows", p->rows_at, p->n_rows, sizeof(struct plan_row), ENTRY_ALIGN,
             limits->max_slots)) != STATUS_OK)
        return s;
    if ((s = check_array(p, "tokens", p->tokens_at, p->n_tokens, sizeof(int32_t), ENTRY_ALIGN,
             limits->max_tokens)) != STATUS_OK)
        return s;
    return check_array(p, "words", p->words_at, p->n_words, sizeof(int32_t), ENTRY_ALIGN,
        SAMPLING_WORDS);
}

/* Written so that a NaN fails. */
static bool sampling_valid(const struct sampling *s)
{
    return s->temperature >= 0 && s->temperature <= 1e6f && s->top_p >= 0 && s->top_p <= 1 &&
           s->min_p >= 0 && s->min_p <= 1 && s->repetition >= 0 && s->repetition <= 1e6f &&
           fabsf(s->frequency) <= 1e6f && fabsf(s->presence) <= 1e6f &&
           s->logprobs <= LOGPROBS_MOST + 1 && s->n_bias <= BIAS_WORDS && s->n_bias % 2 == 0 &&
           s->n_bad <= BAD_WORDS && s->n_ends <= END_WORDS;
}

static bool ids_valid(const int32_t *ids, uint32_t n, uint32_t step, uint32_t vocab)
{
    for (uint32_t i = 0; i < n; i += step)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return false;
    return true;
}

/* Runs of ids, a count before each. */
static bool runs_valid(const int32_t *words, uint32_t n, uint32_t vocab)
{
    for (uint32_t i = 0, count; i < n; i += 1 + count) {
        count = (uint32_t)words[i];
        if (count == 0 || count > n - i - 1 || !ids_valid(words + i + 1, count, 1, vocab))
            return false;
    }
    return true;
}

/* A bias that is not finite would make logits that are not. */
static bool biases_valid(const int32_t *words, uint32_t n)
{
    for (uint32_t i = 1; i < n; i += 2) {
        float bias;

        memcpy(&bias, &words[i], sizeof(bias));
        if (!(fabsf(bias) <= 1e6f))
            return false;
    }
    return true;
}

static enum status check_words(const struct plan *p, const struct slot_start *start,
    const struct plan_limits *limits)
{
    const struct sampling *s = &start->sampling;
    const int32_t *bias = plan_words(p) + start->first_word, *bad = bias + s->n_bias;

    if (start->first_word > p->n_words || sampling_words(s) > p->n_words - start->first_word)
        return REFUSE("slot %u has %u words from %u on, there are %u", start->slot,
            sampling_words(s), start->first_word, p->n_words);
    if (!ids_valid(bias, s->n_bias, 2, limits->vocab) || !biases_valid(bias, s->n_bias) ||
        !runs_valid(bad, s->n_bad, limits->vocab) ||
        !ids_valid(bad + s->n_bad, s->n_ends, 1, limits->vocab))
        return REFUSE("slot %u has words that are no lists of ids", start->slot);
    return STATUS_OK;
}

static enum status check_starts(const struct plan *p, const struct plan_limits *limits)
{
    const struct slot_start *start = plan_starts(p);
    struct slot_set seen = {0};

    for (uint32_t i = 0; i < p->n_starts; i++) {
        if (start[i].slot >= limits->max_slots)
            return REFUSE("slot %u starts, there are %u", start[i].slot, limits->max_slots);
        if (!slot_add(&seen, start[i].slot))
            return REFUSE("slot %u starts twice", start[i].slot);
        if (start[i].length > (uint64_t)limits->max_blocks_per_slot * limits->block_size)
            return REFUSE("slot %u starts with %u positions, it has %u blocks of %u", start[i].slot,
                start[i].length, limits->max_blocks_per_slot, limits->block_size);
        if (!sampling_valid(&start[i].sampling))
            return REFUSE("slot %u has sampling parameters out of range", start[i].slot);
        if (check_words(p, &start[i], limits) != STATUS_OK)
            return STATUS_INVALID;
    }
    return STATUS_OK;
}

static enum status check_changes(const struct plan *p, const struct plan_limits *limits)
{
    const struct block_change *change = plan_changes(p);

    for (uint32_t i = 0; i < p->n_changes; i++) {
        uint32_t tier = block_tier(change[i].block), index = block_index(change[i].block);

        if (tier >= BLOCK_TIERS)
            return REFUSE("block %u of tier %u, this device has %d: its own memory", index, tier,
                BLOCK_TIERS);
        if (change[i].slot >= limits->max_slots ||
            change[i].index >= limits->max_blocks_per_slot || index >= limits->n_blocks)
            return REFUSE("block %u of %u at index %u of %u in slot %u of %u", index,
                limits->n_blocks, change[i].index, limits->max_blocks_per_slot, change[i].slot,
                limits->max_slots);
    }
    return STATUS_OK;
}

static bool outputs_valid(const struct plan_row *row)
{
    bool some = row->n_outputs >= 1 && row->n_outputs <= row->n_tokens;

    if (row->kind == ROW_DECODE)
        return row->output == OUTPUT_TOKEN && row->n_outputs == row->n_tokens;
    switch (row->output) {
    case OUTPUT_NONE: return row->n_outputs == 0;
    case OUTPUT_TOKEN:
    case OUTPUT_LOGITS:
    case OUTPUT_POOLED:
    case OUTPUT_SCORE: return some;
    default: return false;
    }
}

static enum status check_row(const struct plan_row *row, uint32_t i,
    const struct plan_limits *limits)
{
    if (row->slot >= limits->max_slots)
        return REFUSE("row %u has slot %u, there are %u", i, row->slot, limits->max_slots);
    if (row->kind > ROW_DECODE || !outputs_valid(row))
        return REFUSE("row %u has kind %u, output %u, %u outputs of %u tokens", i, row->kind,
            row->output, row->n_outputs, row->n_tokens);
    if (row->output == OUTPUT_SCORE ? row->next_id < 0 || (uint32_t)row->next_id >= limits->vocab
                                    : row->next_id != 0)
        return REFUSE("row %u is followed by id %d", i, row->next_id);
    if (row->adapter != 0 || row->mask != 0 || row->dp_section != 0 || row->reserved != 0)
        return REFUSE("row %u wants an adapter, a mask or a section, and there are none", i);
    return STATUS_OK;
}

static enum status check_rows(const struct plan *p, const struct plan_limits *limits)
{
    const struct plan_row *row = plan_rows(p);
    struct slot_set seen = {0};
    uint32_t tokens = 0, outputs = 0;

    if (p->n_decode > p->n_rows)
        return REFUSE("%u rows decode, there are %u", p->n_decode, p->n_rows);
    for (uint32_t i = 0; i < p->n_rows; i++) {
        enum status s = check_row(&row[i], i, limits);

        if (s != STATUS_OK)
            return s;
        if (!slot_add(&seen, row[i].slot))
            return REFUSE("slot %u has two rows", row[i].slot);
        if ((row[i].kind == ROW_DECODE) != (i < p->n_decode))
            return REFUSE("row %u is of kind %u, the first %u decode", i, row[i].kind, p->n_decode);
        if (row[i].first_token != tokens || row[i].n_tokens == 0 ||
            row[i].n_tokens > p->n_tokens - tokens)
            return REFUSE("row %u has %u tokens from %u on, %u of %u are taken", i,
                row[i].n_tokens, row[i].first_token, tokens, p->n_tokens);
        for (uint32_t t = 1; t < row[i].n_tokens; t++)
            if (plan_tokens(p)[tokens + t] < 0)
                return REFUSE("token %u of row %u is a slot's last id, only its first may be", t, i);
        tokens += row[i].n_tokens;
        outputs += row[i].n_outputs;
    }
    if (tokens != p->n_tokens || outputs != p->n_outputs)
        return REFUSE("rows have %u tokens and %u outputs, it has %u and %u", tokens, outputs,
            p->n_tokens, p->n_outputs);
    return STATUS_OK;
}

static enum status check_tokens(const struct plan *p, const struct plan_limits *limits)
{
    const int32_t *token = plan_tokens(p);

    for (uint32_t i = 0; i < p->n_tokens; i++)
        if (token[i] < 0 ? token_slot(token[i]) >= limits->max_slots
                         : (uint32_t)token[i] >= limits->vocab)
            return REFUSE("token %u is %d: neither an id below %u nor one of %u slots", i,
                token[i], limits->vocab, limits->max_slots);
    return STATUS_OK;
}

enum status plan_check(const struct plan *p, size_t bytes, const struct plan_limits *limits,
    uint32_t generation)
{
    enum status s;

    if ((s = check_header(p, bytes, limits, generation)) != STATUS_OK ||
        (s = check_arrays(p, limits)) != STATUS_OK ||
        (s = check_starts(p, limits)) != STATUS_OK ||
        (s = check_changes(p, limits)) != STATUS_OK || (s = check_rows(p, limits)) != STATUS_OK)
        return s;
    return check_tokens(p, limits);
}
