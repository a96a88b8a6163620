/* fit.c - memory by kind: planned before any is taken, and who is told when it does not fit.
 *
 * Everything but the KV cache follows from the options' limits, the program and
 * the ranks; the cache gets what is left, up to a whole context for each slot.
 * On the CPU it is only touched as it fills, so a generous one costs nothing.
 * Ranks differ (shards need not be equal, logits are rank 0's), and what holds
 * for all must hold for the largest: what another rank takes beyond this one is
 * the same whatever the context, so each tells its own once and rank 0 goes on
 * counting alone. */
#include <stdio.h>
#include <string.h>

#include "quern/log.h"
#include "worker/worker.h"

const struct memory_row memory_rows[MEMORY_KINDS] = {
    [MEMORY_WEIGHTS] = {"weights", "weights", "take", "a smaller model or --quant"},
    [MEMORY_BUFFERS] = {"buffers", "buffers", "take", "a smaller --max-batched-tokens"},
    [MEMORY_KV] = {"kv_cache", "KV cache", "takes", "a smaller --max-model-len or --kv-blocks"},
    [MEMORY_LOGITS] = {"logits", "logits", "take", "fewer --max-seqs"},
    [MEMORY_WORKSPACE] = {"workspace", "workspace", "takes", "fewer --max-seqs or --threads"},
    [MEMORY_SYMMETRIC] = {"symmetric", "symmetric memory", "takes",
        "a smaller --max-batched-tokens or fewer --max-seqs"},
};

uint64_t memory_sum(const uint64_t bytes[MEMORY_KINDS])
{
    uint64_t all = 0;

    for (int k = 0; k < MEMORY_KINDS; k++)
        all += bytes[k];
    return all;
}

const char *memory_list(const uint64_t bytes[MEMORY_KINDS], uint64_t ranks,
    char text[MEMORY_LIST])
{
    char number[16];
    size_t at = 0;

    for (int k = 0; k < MEMORY_KINDS; k++)
        at += (size_t)snprintf(text + at, MEMORY_LIST - at, "%s%s %s", k > 0 ? ", " : "",
            memory_rows[k].name, memory_text(bytes[k] * ranks, number));
    return text;
}

static uint32_t or_default(uint32_t given, uint32_t fallback)
{
    return given != 0 ? given : fallback;
}

/* The cost of sampling and of results depends on who is in the group, which is opened later. */
void memory_own(struct worker *w, const struct agreement *a, uint64_t bytes[MEMORY_KINDS])
{
    struct program *p = &w->model.program;
    struct comm *opened = p->groups.group[GROUP_TP];
    struct comm group = {.rank = w->rank, .size = w->size};

    p->shape.limits = a->limits;
    p->groups.group[GROUP_TP] = &group;
    w->backend->program_bytes(w->device, p, bytes);
    p->groups.group[GROUP_TP] = opened;
    bytes[MEMORY_WEIGHTS] = w->model.builder.weight_bytes;
    bytes[MEMORY_SYMMETRIC] = setup_symmetric_bytes(w, a);
}

void memory_compare(struct worker *w, const uint64_t own[MEMORY_KINDS],
    const uint64_t other[MEMORY_KINDS])
{
    for (int k = 0; k < MEMORY_KINDS; k++)
        if (other[k] > own[k] && other[k] - own[k] > w->beyond[k])
            w->beyond[k] = other[k] - own[k];
}

/* One block of all layers on the rank that has most KV heads: blocks are as many on every rank. */
static uint64_t block_bytes(const struct worker *w)
{
    const struct program_shape *shape = &w->model.program.shape;

    return program_block_bytes(shape) / shape->kv_heads * w->model.builder.kv_heads_most *
           shape->layers;
}

/* What the rank that needs most of a kind takes, with so many KV blocks; the sum. */
static uint64_t planned(struct worker *w, const struct agreement *a, uint64_t blocks,
    uint64_t bytes[MEMORY_KINDS])
{
    struct agreement with = *a;

    with.limits.n_blocks = (uint32_t)blocks;
    memory_own(w, &with, bytes);
    for (int k = 0; k < MEMORY_KINDS; k++)
        bytes[k] += w->beyond[k];
    bytes[MEMORY_KV] = blocks * block_bytes(w);
    return memory_sum(bytes);
}

/* With the least cache there can be: as many blocks as were asked for, or one context. */
static uint64_t planned_least(struct worker *w, const struct agreement *a,
    uint64_t bytes[MEMORY_KINDS])
{
    return planned(w, a,
        or_default(w->shared->config.kv_blocks, a->limits.max_blocks_per_slot), bytes);
}

/* As many blocks as were asked for, or as `budget` holds, at most a whole context for each slot. */
static void size_cache(struct worker *w, struct agreement *a, uint64_t budget)
{
    uint64_t most = (uint64_t)a->limits.max_slots * a->limits.max_blocks_per_slot;
    uint64_t blocks = budget / block_bytes(w);

    most = most < BLOCK_MOST ? most : BLOCK_MOST;
    a->limits.n_blocks =
        or_default(w->shared->config.kv_blocks, (uint32_t)(blocks < most ? blocks : most));
}

/* Weights, when they alone do not fit; else the largest of what options can make smaller. */
static enum memory_kind too_large(const uint64_t bytes[MEMORY_KINDS], uint64_t there)
{
    enum memory_kind most = MEMORY_BUFFERS;

    if (bytes[MEMORY_WEIGHTS] > there)
        return MEMORY_WEIGHTS;
    for (int k = MEMORY_BUFFERS; k < MEMORY_KINDS; k++)
        if (bytes[k] > bytes[most])
            most = (enum memory_kind)k;
    return most;
}

static enum status refuse(const struct worker *w, const uint64_t bytes[MEMORY_KINDS],
    uint64_t there)
{
    uint64_t ranks = (uint64_t)w->size, need = memory_sum(bytes);
    const struct memory_row *row = &memory_rows[too_large(bytes, there)];
    char all[16], over[16], has[16], large[16], list[MEMORY_LIST];
    bool limited = w->shared->config.memory != 0;
    bool blocks = row == &memory_rows[MEMORY_KV] && w->shared->config.kv_blocks != 0;

    return log_fail(STATUS_NOMEM,
        "this model needs %s on %d rank%s, %s more than the %s that are %s (%s): the %s %s %s: use "
        "%s%s", memory_text(need * ranks, all), w->size, w->size > 1 ? "s" : "",
        memory_text((need - there) * ranks, over), memory_text(there * ranks, has),
        limited ? "allowed" : "there", memory_list(bytes, ranks, list), row->name, row->takes,
        memory_text(bytes[row - memory_rows] * ranks, large),
        blocks ? "a smaller --kv-blocks" : row->smaller,
        limited ? ", or a larger --memory" : "");
}

static void halve_context(struct agreement *a)
{
    a->max_model_len /= 2;
    a->limits.max_blocks_per_slot =
        (a->max_model_len + a->limits.block_size - 1) / a->limits.block_size;
}

enum status memory_fit(struct worker *w, struct agreement *a)
{
    const struct runtime_config *c = &w->shared->config;
    uint64_t there = (c->memory != 0 ? c->memory : memory_available()) / (uint64_t)w->size;
    uint64_t bytes[MEMORY_KINDS], need, could;
    enum status s;

    need = planned_least(w, a, bytes);
    /* A default context may shrink, down to a sixteenth; what was asked for may not. */
    while (c->max_model_len == 0 && c->kv_blocks == 0 && a->max_model_len > 1024 &&
           need + bytes[MEMORY_KV] > there &&
           a->max_model_len > (uint32_t)w->config.max_position / 16) {
        halve_context(a);
        need = planned_least(w, a, bytes);
    }
    if (need > there) {
        if (c->memory != 0)
            return refuse(w, bytes, there);
        s = memory_try(need * (uint64_t)w->size, &could);
        there = could / (uint64_t)w->size;
        if (s != STATUS_OK)
            return s == STATUS_NOMEM ? refuse(w, bytes, there) : s;
    }
    size_cache(w, a, bytes[MEMORY_KV] + (c->memory != 0 ? there - need : (there - need) / 2));
    planned(w, a, a->limits.n_blocks, w->memory);
    return STATUS_OK;
}
