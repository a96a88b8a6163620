/* pace.h - how many tokens of prompts a step may have beside answers.
 *
 * Who reads an answer sees a step's time as the time between two tokens. A step
 * that computes some of a prompt, too, is to take at most so much longer that
 * this stays under twice what it is without: 1.7 times the step of the same
 * answers alone. Both times are measured as steps go by. Which chunks a prompt is
 * computed in changes no answer.
 *
 * A prompt always gets on: a token in all but one of PACE_PROBE steps, and with
 * 0.7 of 1.7 it has four tenths of the time, however many it takes.
 *
 * That is for one prompt, however long. Where many wait, their readers wait, too,
 * and a larger batch is what all gain by: each beyond the first counts as much as
 * PACE_CROWD answers, and with more of these than answers the stretch grows so.
 *
 * One owner, no clock of its own, no allocation but in pace_open(). */
#ifndef QUERN_WORKER_PACE_H
#define QUERN_WORKER_PACE_H

#include <stdint.h>

#include "quern/status.h"

enum {
    PACE_PROBE = 32,   /* while prompts are computed, one step in so many has none, to be measured */
    PACE_CROWD = 16,
    PACE_STALE = 2048, /* steps after which what was measured counts no more */
};

struct estimate {
    double ns;
    uint32_t n; /* measured so often, or 4; 0: not known */
};

/* Of steps with one number of answers and no prompt. */
struct pace_alone {
    struct estimate time;
    uint64_t step; /* when it was measured last */
};

struct pace {
    uint32_t max_tokens, first; /* first: a chunk while nothing is known of prompts; fewer tell little */
    struct pace_alone *alone;   /* [max_tokens + 1], by tokens of answers */
    struct estimate token;      /* what a prompt's token adds to a step */
    uint64_t steps;
    uint32_t since_probe;       /* steps with both */
};

enum status pace_open(struct pace *p, uint32_t max_tokens, uint32_t first);
void pace_close(struct pace *p);

/* For the next step, that has so many tokens of answers, while so many sequences have prompts: how
 * many tokens of these. 0: none this time. */
uint32_t pace_chunk(struct pace *p, uint32_t answers, uint32_t prompts);

/* A step of so many tokens of answers and of prompts took `ns`. */
void pace_note(struct pace *p, uint32_t answers, uint32_t prompts, uint64_t ns);

#endif
