/* locate.h - which directory -m means.
 *
 * Purpose:  a directory, "synth:...", a name in Hugging Face's cache ("Qwen/Qwen3-0.6B"), or
 *           nothing for the storyteller that comes with quern, wherever quern now lies.
 * Owns:     nothing; writes into the caller's buffer.
 * Blocking: looks at a few paths. Never asks the network. */
#ifndef QUERN_CHECKPOINT_LOCATE_H
#define QUERN_CHECKPOINT_LOCATE_H

#include <stddef.h>

#include "quern/status.h"

enum locate_need {
    LOCATE_MODEL,     /* the directory must have config.json */
    LOCATE_TOKENIZER, /* tokenizer.json, or vocab.json, is enough */
};

/* `model` is -m's argument or NULL. out [n] gets the directory, or `model` itself where it begins
 * with "synth:". The storyteller is looked for in $QUERN_DATADIR/models, beside the executable
 * (../share/quern/models when installed or moved, share/models and ../share/models in a build
 * tree), and in the installed data directory.
 * INVALID: not there; the message lists what was tried. */
enum status locate_model(const char *model, enum locate_need need, char *out, size_t n);

#endif
