/* engine_inside.h - what engine.c (what comes and ends) and planning.c (what a step holds) share. */
#ifndef QUERN_ENGINE_ENGINE_INSIDE_H
#define QUERN_ENGINE_ENGINE_INSIDE_H

#include "engine/sequence.h"

enum { STEPS_KEPT = 4 };

/* Whose a row's outputs are: values, or those of scored ids first and then ids; `from`: the index of
 * the first id that has a value or a score. */
struct planned_row {
    struct sequence *sequence;
    uint32_t n_outputs, n_scored, n_values, from;
    bool guessed; /* the length is what it will be if all guesses are right */
};
struct planned_step {
    uint32_t n_rows;
    struct planned_row *rows; /* [max_slots] */
};

struct engine {
    struct plan_limits limits;
    uint32_t generation, max_model_len, max_chunk;
    int32_t *eos;
    size_t n_eos;
    struct blocks *blocks;
    uint32_t *free_slots, n_free_slots;
    struct list_node waiting, running, ended; /* of sequences; the first two as they go */
    uint64_t arrivals;
    uint64_t next_number, done_number; /* steps [done_number, next_number) are under way */
    struct planned_step steps[STEPS_KEPT];
    struct engine_counts counts; /* what is counted as it happens */
    uint64_t now_ns;
    struct sequence *last_prompt; /* with a row in the plan that is being made */
    uint32_t prompt_end; /* prompts fill the plan up to so many tokens */
    engine_pace *pace;
    void *pacer;
    engine_observe *observe;
    void *observer;
};

/* From `since` until now, unless that is not known. */
void engine_tell_time(struct engine *e, enum engine_time what, uint64_t since_ns);

/* Gives back its slot and blocks; it is on no list then. */
void engine_release(struct engine *e, struct sequence *s, bool forget);

#endif
