/* generation.h - how a model wants to be sampled when nobody says otherwise.
 *
 * Purpose:  generation_config.json's defaults, and the ids that end an answer: the union of this
 *           file's and config.json's (FACTS 1.2: Qwen3's config.json has only one of its two).
 * Owns:     the caller owns the list of ids (generation_free()).
 * Blocking: reads two small files. */
#ifndef QUERN_CHECKPOINT_GENERATION_H
#define QUERN_CHECKPOINT_GENERATION_H

#include <stdbool.h>

#include "checkpoint/config.h"
#include "quern/status.h"

struct generation_defaults {
    bool do_sample;    /* false: greedy */
    float temperature; /* >= 0; 1 where the file is silent */
    float top_p;       /* (0, 1]; 1: no cut */
    float min_p;       /* [0, 1]; 0: no cut */
    int top_k;         /* 0: no cut; also where the file is silent */
    float repetition_penalty; /* > 0; 1: none */
    int min_new_tokens; /* 0: an answer may end at once */
    int *eos, n_eos;   /* each once, as many as there are */
};

/* `model` is a directory, or "synth:..." which has no file. Without generation_config.json: greedy,
 * and config.json's eos. Keys that change answers and that quern does not do are warned about, by
 * name, in one line. INVALID names the field. *out is written only with OK. */
enum status generation_read(const char *model, const struct model_config *cfg,
                            struct generation_defaults *out);
void generation_free(struct generation_defaults *g);

#endif
