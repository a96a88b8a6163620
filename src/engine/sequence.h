/* sequence.h - one answer on its way: its ids, its blocks, where it stands.
 *
 * ids[] is what is known: what it came with, and behind it what has been produced. Positions [0, length)
 * of it are in the cache once the steps planned so far are done. A sequence that is preempted gives
 * back slot and blocks, and what it knows becomes its prompt. */
#ifndef QUERN_ENGINE_SEQUENCE_H
#define QUERN_ENGINE_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "engine/blocks.h"
#include "engine/engine.h"
#include "engine/guess.h"

enum sequence_state {
    SEQUENCE_WAITING,   /* for a slot and blocks */
    SEQUENCE_PREFILL,   /* what it knows is being computed, positions [length, n_ids) */
    SEQUENCE_DECODE,    /* a row of one id a step */
    SEQUENCE_PREEMPTED, /* waits again, before those that never ran */
    SEQUENCE_ENDED,     /* told; a step under way may name it */
    N_SEQUENCE_STATES
};

struct sequence {
    struct list_node queue; /* waiting, running or ended */
    enum sequence_state state;
    uint64_t id, arrival;
    int32_t priority;
    uint64_t arrived_ns; /* 0: it goes on */
    uint64_t told_ns;    /* when its last id came; 0: none has */
    bool was_admitted;
    uint64_t named_until; /* so many steps must be done before none names it */
    struct sampling sampling;
    bool ignore_eos;
    uint32_t n_prompt; /* where the output begins */
    uint32_t n_given, max_tokens; /* ids it came with, and how many more there may be */
    uint32_t n_ids;    /* known */
    uint32_t expected; /* ids planned so far, of max_tokens; those known are n_ids - n_given */
    uint32_t logprobs; /* that its ids are told with: 0, or 1 + N */
    uint32_t score, score_from; /* 0, or 1 + N; the first of the prompt's ids not planned yet */
    enum engine_task task;
    uint32_t values_from; /* unless it is answered: the first id whose values are not planned yet */
    uint32_t guesses, n_stops;
    struct guesser guesser; /* if there may be guesses */
    uint32_t length, slot;
    uint32_t n_blocks, n_told; /* told: entries of the device's table */
    uint32_t n_hashed;
    uint32_t awaits;   /* while it waits: 1 + the block that another was computing for it; 0: none */
    uint32_t wanted;   /* and the free blocks that it would have needed when it was looked at last */
    uint32_t n_kept;       /* full blocks that are kept, up to: */
    struct content kept;
    uint64_t *hashes;      /* [blocks of the whole answer] of full blocks, [n_hashed] known */
    uint32_t *blocks;      /* [blocks of the whole answer] */
    int32_t *ids;          /* [n_given + max_tokens] */
    int32_t *stops;        /* [n_stops] */
    int32_t *words;        /* [sampling_words()] */
};

/* Waiting; NOMEM, not logged. blocks: of all its ids. eos: what is out before min_tokens, beside the
 * request's own stops. */
enum status sequence_new(const struct engine_request *request, uint32_t max_tokens, uint32_t blocks,
    const int32_t *eos, uint32_t n_eos, struct sequence **out);
void sequence_free(struct sequence *s);

/* A move that is none in the table ends the process: it is a mistake of ours. */
void sequence_move(struct sequence *s, enum sequence_state state);

uint32_t sequence_produced(const struct sequence *s);

/* Some of the prompt's ids are still to be scored. */
bool sequence_scores(const struct sequence *s);

/* An id that was planned is not known yet. */
bool sequence_is_ahead(const struct sequence *s);

/* Keeps the full blocks that are known and planned; `step` computes the new ones. */
void sequence_keep(struct sequence *s, struct blocks *b, uint32_t block_size, uint64_t step);

/* So many of its ids may be found instead of computed. */
uint32_t sequence_shareable(const struct sequence *s);

/* Takes the full blocks at its beginning that steps before `step` compute, each with one more user;
 * returns how many. The last known id is always left to be computed. *soon: the next one is kept,
 * too, but `step` itself computes it. */
uint32_t sequence_share(struct sequence *s, struct blocks *b, uint32_t block_size, uint64_t step,
    bool *soon);

/* Gives all its blocks back. forget: nobody is to find them any more. */
void sequence_give_blocks(struct sequence *s, struct blocks *b, bool forget);

/* Puts s where it belongs: by priority; of the same, those that ran before, then by arrival. From
 * the end, where most belong. */
void sequence_insert(struct list_node *queue, struct sequence *s);

#endif
