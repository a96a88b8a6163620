/* spawn.h - a private runtime with the options of a command line. */
#ifndef QUERN_CLI_SPAWN_H
#define QUERN_CLI_SPAWN_H

#include "base/runtime_options.h"
#include "quern.h"

/* The rows of a struct runtime_options, and the end. */
extern const struct option_row spawn_rows[];

/* quern_spawn() of this very program; *out as there. seed: NULL, or of synth: weights. */
int spawn_runtime(const struct runtime_options *o, const uint64_t *seed, struct quern **out);

#endif
