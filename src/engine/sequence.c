/* sequence.c - one allocation for each, made when it comes. */
#include "engine/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

/* Its arrays in one piece. */
struct sizes {
    size_t hashes, blocks, guesses, ids, stops, words;
};

static struct sizes sizes_of(const struct engine_request *r, uint32_t max_tokens, uint32_t blocks,
    uint32_t n_ends)
{
    return (struct sizes){
        .hashes = blocks * sizeof(uint64_t),
        .blocks = blocks * sizeof(uint32_t),
        .guesses = r->guesses > 0 ? guesser_bytes(r->n_ids + max_tokens) : 0,
        .ids = ((size_t)r->n_ids + max_tokens) * sizeof(int32_t),
        .stops = r->n_stops * sizeof(int32_t),
        .words = (r->sampling.n_bias + r->sampling.n_bad + n_ends) * sizeof(int32_t),
    };
}

static struct sequence *allocate(const struct sizes *z)
{
    struct sequence *s = calloc(1, sizeof(*s) + z->hashes + z->blocks + z->guesses + z->ids +
        z->stops + z->words);

    if (s == NULL)
        return NULL;
    s->hashes = (uint64_t *)(void *)(s + 1);
    s->blocks = (uint32_t *)(void *)((char *)s->hashes + z->hashes);
    s->ids = (int32_t *)(void *)((char *)s->blocks + z->blocks + z->guesses);
    s->stops = (int32_t *)(void *)((char *)s->ids + z->ids);
    s->words = (int32_t *)(void *)((char *)s->stops + z->stops);
    return s;
}

static void copy(int32_t *to, const int32_t *from, uint32_t n)
{
    if (n > 0)
        memcpy(to, from, n * sizeof(*to));
}

enum status sequence_new(const struct engine_request *r, uint32_t max_tokens, uint32_t blocks,
    const int32_t *eos, uint32_t n_eos, struct sequence **out)
{
    uint32_t n_lists = r->sampling.n_bias + r->sampling.n_bad;
    uint32_t n_ends = r->sampling.min_tokens > 0 ? n_eos + r->n_stops : 0;
    struct sizes z = sizes_of(r, max_tokens, blocks, n_ends);
    struct sequence *s = allocate(&z);

    if (s == NULL)
        return STATUS_NOMEM;
    copy(s->ids, r->ids, r->n_ids);
    copy(s->stops, r->stops, r->n_stops);
    copy(s->words, r->words, n_lists);
    if (n_ends > 0) {
        copy(s->words + n_lists, eos, n_eos);
        copy(s->words + n_lists + n_eos, r->stops, r->n_stops);
    }
    s->id = r->id;
    s->sampling = r->sampling;
    s->sampling.n_ends = n_ends;
    s->logprobs = r->sampling.logprobs;
    if (r->score > s->sampling.logprobs)
        s->sampling.logprobs = r->score;
    s->ignore_eos = r->ignore_eos;
    s->priority = r->priority;
    s->arrived_ns = r->arrived_ns;
    s->n_stops = r->n_stops;
    s->n_prompt = r->n_prompt;
    s->n_given = s->n_ids = r->n_ids;
    s->max_tokens = max_tokens;
    s->score = r->score;
    s->score_from = r->score_from;
    s->task = r->task;
    s->values_from = r->n_ids - (r->task == ENGINE_LOGITS ? r->last : 1);
    s->guesses = r->guesses;
    if (r->guesses > 0)
        guesser_init(&s->guesser, r->n_ids + max_tokens, (char *)s->blocks + z.blocks);
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
    return s->n_ids - s->n_given;
}

bool sequence_scores(const struct sequence *s)
{
    return s->score > 0 && s->score_from < s->n_prompt;
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

uint32_t sequence_shareable(const struct sequence *s)
{
    if (s->task != ENGINE_ANSWER)
        return s->values_from < s->n_ids ? s->values_from : s->n_ids - 1;
    return (sequence_scores(s) ? s->score_from : s->n_ids) - 1;
}

uint32_t sequence_share(struct sequence *s, struct blocks *b, uint32_t block_size, uint64_t step,
    bool *soon)
{
    uint32_t most = sequence_shareable(s) / block_size;
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
