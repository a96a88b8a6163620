/* config_page.h - what the workers run, as the command line gave it.
 *
 * The supervisor writes it once into a memfd that is sealed against any
 * change; every child of every generation reads a copy of its own. */
#ifndef QUERN_MSG_CONFIG_PAGE_H
#define QUERN_MSG_CONFIG_PAGE_H

#include <stdint.h>

#include "quern/status.h"

enum { MAX_RANKS = 16, MODEL_PATH_BYTES = 4096 };

struct runtime_config {
    char model[MODEL_PATH_BYTES]; /* a directory or synth:NAME, already located */
    char backend[16], compute[8], kv_dtype[8];
    char quant[8], quant_head[8], quant_activations[8]; /* "": as the checkpoint is */
    char tp_plan[MODEL_PATH_BYTES], plugin[MODEL_PATH_BYTES]; /* absolute paths; "": none */
    uint32_t tp;
    uint32_t threads;            /* 0: the cores divided by the ranks */
    uint32_t max_model_len;      /* 0: the model's, as far as memory allows */
    uint32_t max_seqs, max_batched_tokens, block_size, kv_blocks; /* 0: defaults of worker/ */
    uint64_t memory;             /* bytes for all ranks; 0: what the machine has */
    uint64_t seed;               /* of synth: weights */
    uint32_t log_level;
    uint32_t load_timeout_s, step_timeout_s;
    uint32_t max_restarts;       /* deaths in a minute that are mended */
};

/* A sealed memfd with a copy of *c; IO (logged). */
enum status config_page_create(const struct runtime_config *c, int *fd);

/* A child's copy; INVALID (logged) when `fd` is none. */
enum status config_page_read(int fd, struct runtime_config *out);

#endif
