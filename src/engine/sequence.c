/* sequence.c - one allocation for each, made when it comes. */
#include "engine/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum status sequence_new(const struct engine_request *r, uint32_t max_tokens, uint32_t blocks,
    struct sequence **out)
{
    size_t hashes = blocks * sizeof(uint64_t), table = blocks * sizeof(uint32_t);
    size_t ids = ((size_t)r->n_ids + max_tokens) * sizeof(int32_t);
    struct sequence *s = calloc(1, sizeof(*s) + hashes + table + ids);

    if (s == NULL)
        return STATUS_NOMEM;
    s->hashes = (uint64_t *)(void *)(s + 1);
    s->blocks = (uint32_t *)(void *)((char *)s->hashes + hashes);
    s->ids = (int32_t *)(void *)((char *)s->blocks + table);
    memcpy(s->ids, r->ids, (size_t)r->n_ids * sizeof(*s->ids));
    s->id = r->id;
    s->sampling = r->sampling;
    s->ignore_eos = r->ignore_eos;
    s->priority = r->priority;
    s->arrived_ns = r->arrived_ns;
    s->n_prompt = s->n_ids = r->n_ids;
    s->max_tokens = max_tokens;
    *out = s;
    return STATUS_OK;
}

void sequence_free(struct sequence *s)
{
    free(s);
}

#define TO(state) (1u << SEQUENCE_##state)
static const unsigned moves[N_SEQUENCE_STATES] = {
    [SEQUENCE_WAITING] = TO(PREFILL) | TO(ENDED),
    [SEQUENCE_PREFILL] = TO(DECODE) | TO(PREEMPTED) | TO(ENDED),
    [SEQUENCE_DECODE] = TO(PREEMPTED) | TO(ENDED),
    [SEQUENCE_PREEMPTED] = TO(PREFILL) | TO(ENDED),
    [SEQUENCE_ENDED] = 0,
};

void sequence_move(struct sequence *s, enum sequence_state state)
{
    if ((moves[s->state] & 1u << state) == 0) {
        log_fail(STATUS_INTERNAL, "a sequence went from state %d to %d", (int)s->state, (int)state);
        abort();
    }
    s->state = state;
}

uint32_t sequence_produced(const struct sequence *s)
{
    return s->n_ids - s->n_prompt;
}

bool sequence_is_ahead(const struct sequence *s)
{
    return s->expected > sequence_produced(s);
}

/* Blocks ---------------------------------------------------------------------------------- */

/* Of the full blocks among the first n_ids. */
static void hash(struct sequence *s, const struct blocks *b, uint32_t block_size)
{
    for (; s->n_hashed < s->n_ids / block_size; s->n_hashed++)
        s->hashes[s->n_hashed] = block_hash(b, s->n_hashed > 0 ? s->hashes[s->n_hashed - 1] : 0,
            s->ids + (size_t)s->n_hashed * block_size);
}

void sequence_keep(struct sequence *s, struct blocks *b, uint32_t block_size, uint64_t step)
{
    uint32_t full = (s->length < s->n_ids ? s->length : s->n_ids) / block_size;

    hash(s, b, block_size);
    while (s->n_kept < full) {
        uint32_t i = s->n_kept;

        if (block_keep(b, s->blocks[i], &s->kept, s->hashes[i], s->ids + (size_t)i * block_size,
                step, &s->kept)) {
            s->n_kept++;
        } else { /* another's block before it is gone: its own are as good */
            s->n_kept = 0;
            s->kept = (struct content){0};
        }
    }
}

uint32_t sequence_share(struct sequence *s, struct blocks *b, uint32_t block_size, uint64_t step,
    bool *soon)
{
    uint32_t most = (s->n_ids - 1) / block_size;
    struct content found;

    hash(s, b, block_size);
    *soon = false;
    while (s->n_blocks < most && block_find(b, &s->kept, s->hashes[s->n_blocks],
               s->ids + (size_t)s->n_blocks * block_size, &found)) {
        *soon = found.step >= step;
        if (*soon)
            break;
        block_share(b, found.block);
        s->blocks[s->n_blocks++] = found.block;
        s->kept = found;
        s->n_kept++;
    }
    return s->n_blocks;
}

void sequence_give_blocks(struct sequence *s, struct blocks *b, bool forget)
{
    while (s->n_blocks > 0) {
        uint32_t block = s->blocks[--s->n_blocks];

        if (forget)
            block_forget(b, block);
        block_give(b, block);
    }
    s->n_told = s->n_kept = 0;
    s->kept = (struct content){0};
}

/* Queues ---------------------------------------------------------------------------------- */

static bool goes_before(const struct sequence *a, const struct sequence *b)
{
    bool ran_a = a->state == SEQUENCE_PREEMPTED, ran_b = b->state == SEQUENCE_PREEMPTED;

    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (ran_a != ran_b)
        return ran_a;
    return a->arrival < b->arrival;
}

void sequence_insert(struct list_node *queue, struct sequence *s)
{
    struct list_node *at = queue->prev;

    while (at != queue && goes_before(s, LIST_OF(at, struct sequence, queue)))
        at = at->prev;
    list_prepend(at, &s->queue);
}
