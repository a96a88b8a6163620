/* engine.h - which tokens the next step computes.
 *
 * The scheduler of the leader: sequences in, plans out, ids back, events out.
 * It knows ids, slots and block numbers, no tensors. It plans one step ahead:
 * engine_plan() may be called for step k+1 before engine_done() of step k,
 * because a decode row's token is "the last id of its slot". An end is
 * therefore noticed one step late, and the extra row's id is dropped. Steps
 * run in the order they were planned, so what a plan takes from a sequence may
 * be given away in the next one, also while steps that name it are under way.
 *
 * Admission: by priority, lower first, and within one in order of arrival, when
 * there are a slot and blocks for what is known; blocks for the answer are taken
 * as it grows. When there is none, the youngest of the highest priority gives
 * back its slot and blocks, and goes on before new ones of its own, what it knows
 * computed again. The first can have all blocks, so it always ends. One that
 * waits, however urgent, takes nothing from those that run (vLLM does the same):
 * it has the next slot, and those that run end sooner than if they were computed
 * twice.
 *
 * A step: a row for each answer first, then chunks of prompts. While others
 * have prompts, one chunk takes half of what the step has left, so that a long
 * prompt does not keep short ones waiting; while answers run, all chunks together
 * at most what the caller says, so that they do not stop them.
 *
 * Guesses: a sequence that speculates has a row of the ids that may follow (guess.h), and is planned
 * again when it is known which were right; others go on one step ahead beside it.
 *
 * Prefix: full blocks that begin as others began are shared, of running
 * sequences and of ended ones (blocks.h). A sequence whose next block is being
 * computed by another waits for it.
 *
 * One owner, no locks, no system calls; allocation only in engine_add(). */
#ifndef QUERN_ENGINE_ENGINE_H
#define QUERN_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/plan.h"

struct engine;

enum engine_finish {
    ENGINE_STOP,
    ENGINE_LENGTH,
    ENGINE_CANCELLED,
    ENGINE_BROKEN, /* its logits were not finite: no fault of the request's, and no id */
};

/* How long something took, by the clock that engine_clock() sets. */
enum engine_time {
    ENGINE_QUEUE_TIME,       /* from a request's arrival to its first admission */
    ENGINE_FIRST_TOKEN_TIME, /* ... to its first id */
    ENGINE_TOKEN_TIME,       /* from one of its ids to the next */
};
typedef void engine_observe(void *context, enum engine_time what, uint64_t ns);

/* How many tokens of prompts the next step may have beside so many tokens of answers, while so many
 * sequences have prompts; 0 to leave them out once. */
typedef uint32_t engine_pace(void *context, uint32_t answers, uint32_t prompts);

struct engine_options {
    struct plan_limits limits;
    uint32_t generation;
    uint32_t max_model_len;
    uint32_t max_chunk; /* tokens of prompts in a step, while answers run; >= 1 */
    engine_pace *pace;  /* asked for it in every such step, at most max_chunk; NULL: that always */
    void *pacer;        /* its context */
    const int32_t *eos; /* copied */
    size_t n_eos;
    engine_observe *observe; /* NULL: nobody is told */
    void *observer;          /* its context */
};

/* What is wanted of a sequence. */
enum engine_task {
    ENGINE_ANSWER,
    ENGINE_POOL,   /* the final hidden state of its last id, and no answer */
    ENGINE_LOGITS, /* the logits behind each of its last ids */
};

/* One answer: a request for several is several of these with one id, whose choices differ. */
struct engine_request {
    uint64_t id;
    const int32_t *ids; /* [n_ids], copied; n_ids >= 1, n_ids < max_model_len */
    uint32_t n_ids, n_prompt; /* ids behind n_prompt were produced before: by another generation */
    uint32_t max_tokens; /* >= 1, of new ones; the context's end cuts it */
    struct sampling sampling; /* n_ends is the engine's */
    const int32_t *words;     /* [n_bias + n_bad] of sampling, copied */
    const int32_t *stops;     /* [n_stops] ids that end it beside eos, copied */
    uint32_t n_stops;         /* at most END_WORDS, with eos */
    bool ignore_eos;          /* `stops` count nevertheless */
    uint32_t guesses;         /* in a step at most */
    uint32_t score;      /* 0: no; 1 + N: the logprobs of prompt ids, with those of the N likeliest */
    uint32_t score_from; /* from this index on, >= 1 */
    enum engine_task task;
    uint32_t last;       /* ENGINE_LOGITS: of so many ids, 1 .. n_ids */
    int32_t priority; /* lower goes first */
    uint64_t arrived_ns; /* by the caller's clock; 0: it goes on, and no time of it is told until its
                          * second id */
};

/* Since engine_open(), but the first four. */
struct engine_counts {
    uint32_t running, waiting;
    uint32_t blocks_used, blocks; /* used: by sequences; what is kept for others is free */
    uint64_t prefix_asked, prefix_hit; /* tokens of prompts: to be computed, and found instead */
    uint64_t preemptions, tokens_in, tokens_out;
    uint64_t prompt_tokens; /* of prompts whose first id has come */
    uint64_t guessed, guessed_right; /* ids */
};

/* What a finished step means to a request. */
enum engine_event_kind {
    ENGINE_ID,     /* one more of the answer */
    ENGINE_SCORED, /* of the prompt: in the order of the ids, before the first ENGINE_ID */
    ENGINE_VALUES, /* of ENGINE_POOL and ENGINE_LOGITS: an output of the step, for the caller to take */
    ENGINE_DONE,   /* the choice's last */
};
struct engine_event {
    uint64_t id;
    uint32_t choice;
    enum engine_event_kind kind;
    int32_t token;             /* ID: it; DONE: the id that ended it, with ENGINE_STOP */
    uint32_t position;         /* SCORED, VALUES: the id's index */
    uint32_t output;           /* VALUES: which of the step, */
    bool pooled;               /* and whether it is a hidden state */
    const struct token_logprob *logprobs; /* [n_logprobs] ID, SCORED: of the id, then of the likeliest.
                                           * Valid in the call */
    uint32_t n_logprobs;       /* 0: none were asked for */
    enum engine_finish finish; /* DONE */
    bool is_eos;               /* DONE with ENGINE_STOP: it is one of eos; or there was no answer */
    uint32_t output_tokens;    /* DONE: the end token counts */
    uint64_t step;             /* DONE with ENGINE_BROKEN: whose logits they were */
};
typedef void engine_emit(void *context, const struct engine_event *event);

enum status engine_open(const struct engine_options *options, struct engine **out);
void engine_close(struct engine *e);

/* INVALID (logged) when the request cannot ever run. */
enum status engine_add(struct engine *e, const struct engine_request *request);

/* KV blocks that such a request would take. */
uint32_t engine_blocks_needed(const struct engine *e, uint32_t n_ids, uint32_t max_tokens);

/* One choice of it, or all. Unknown ids are ignored: the request has just ended. */
enum { ENGINE_ALL_CHOICES = UINT32_MAX };
void engine_cancel(struct engine *e, uint64_t id, uint32_t choice, engine_emit *emit, void *context);

/* What time it is in the calls that follow: the engine reads no clock. Before the first: 0. */
void engine_clock(struct engine *e, uint64_t now_ns);

/* Writes the next step into `plan` (plan_max_bytes() long). AGAIN: nothing to do. */
enum status engine_plan(struct engine *e, struct plan *plan);

/* Step `number` is done with ids[n_outputs] (or NO_ID, or BROKEN_ID, which ends the choice), in the
 * order of the plan's outputs; logprobs [n_outputs][LOGPROBS_MOST + 1] or NULL, as the backend gives
 * them. Steps are reported in order, each once. */
void engine_done(struct engine *e, uint64_t number, const int32_t *ids,
    const struct token_logprob *logprobs, engine_emit *emit, void *context);

struct engine_counts engine_counts(const struct engine *e);

/* Nothing waits, runs or is planned. */
bool engine_idle(const struct engine *e);

#endif
