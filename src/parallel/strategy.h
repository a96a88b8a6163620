/* strategy.h - how a module is shared between the ranks: the table of shard strategies.
 *
 * A row says which dimension of a module's weight is cut, how the module wants
 * its input placed and how it leaves its output (FACTS 2.4 lists the names and
 * what Transformers does under each). Layers obey the row and never its name,
 * so that a user's own strategy (plugin.h) is as good as ours. What must
 * happen between two modules follows from `out` of one and `in` of the next:
 * layers append it, or refuse.
 *
 * Ownership: rows live as long as the process. Registering is set-up, before
 * other threads exist; finding never changes anything.
 * Blocking: never. */
#ifndef QUERN_PARALLEL_STRATEGY_H
#define QUERN_PARALLEL_STRATEGY_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

/* Which dimension of the weight [outputs, inputs] (a table: [ids, hidden]) is cut into ranges. */
enum strategy_cut {
    CUT_NONE,
    CUT_ROWS, /* dim -2: outputs, ids; a bias is cut alike */
    CUT_COLS, /* dim -1: inputs (the product is Partial; a bias is added once, after the sum) or a
               * table's hidden lanes (its result is Shard) */
};

enum strategy_in {
    IN_REPLICATE, /* the whole, on every rank */
    IN_SHARD,     /* cut on the last dimension, like the weight's inputs */
    IN_SPLIT,     /* the whole; each rank cuts its own columns out of it */
    IN_SEQUENCE,  /* cut on rows */
    IN_ANY,       /* as it comes */
};

enum strategy_out {
    OUT_REPLICATE, /* whole on every rank; a Partial result is summed at once */
    OUT_SHARD,     /* stays cut on the last dimension */
    OUT_PARTIAL,   /* a sum over the ranks is due: whatever reads it next pays for it */
    OUT_GATHER,    /* cut on the last dimension, then gathered: Replicate */
    OUT_SEQUENCE,  /* stays cut on rows */
};

/* What a strategy can be of; bits of strategy.applies. */
enum module_kind {
    KIND_LINEAR = 1,
    KIND_EMBEDDING = 2,
    KIND_NORM = 4,       /* over the hidden lanes */
    KIND_MODULE = 8,     /* a container, such as self_attn or mlp: no weight of its own */
    KIND_HEAD_NORM = 16, /* q_norm and k_norm, over the lanes of a head */
    KIND_FUSED = 32,     /* qkv_proj, gate_up_proj: linear layers in one tensor, by one name */
    KIND_ANY = 63,
};

enum { STRATEGY_ALIASES = 4 };

/* Elements [*first, *first + *count) of `total` for `rank`, cut at multiples of `unit` (total may
 * end within one). 0, or -1 where it cannot. The same answer on every rank. */
typedef int strategy_slice(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count);

struct strategy {
    const char *name;
    const char *aliases[STRATEGY_ALIASES]; /* other spellings, NULL behind the last */
    const char *effect;                    /* one line for people */
    enum strategy_cut cut;
    enum strategy_in in;
    enum strategy_out out;
    unsigned applies;      /* of enum module_kind */
    const char *refused;   /* known, but cannot run: why. NULL: it can */
    strategy_slice *slice; /* NULL: ranges as even as whole units allow (shard.h) */
};

/* The row of this name or alias. NULL (logged, with the names that are close) when there is none
 * or it cannot run. `where` begins the message, such as "plan.json:7: "; NULL: nothing. */
const struct strategy *strategy_find(const char *name);
const struct strategy *strategy_find_at(const char *where, const char *name);

/* A user's own: copied, names too. INVALID (logged): the name is taken or malformed, a value is
 * none of its enum, or the parts contradict each other. NOMEM. */
enum status strategy_register(const struct strategy *s);

/* All rows, the registered ones last: 0 <= i < strategy_count(). */
int strategy_count(void);
const struct strategy *strategy_at(int i);

/* This rank's range by the strategy (NULL: evenly). INVALID (logged): a registered slice function
 * fails, leaves a rank nothing, or its ranges do not follow one another from 0 to total, cut at
 * multiples of unit. */
enum status strategy_range(const struct strategy *s, uint32_t total, uint32_t unit, int rank,
    int size, uint32_t *first, uint32_t *count);

/* "a linear layer" of one kind; "linear layers and norms" of several, in text[128]. */
const char *module_kind_name(enum module_kind kind);
const char *module_kinds_text(unsigned kinds, char text[128]);

/* How far two names are apart: letters to insert, remove or replace; only up to 127 of each are
 * looked at. For "did you mean". */
int name_distance(const char *a, const char *b);

#endif
