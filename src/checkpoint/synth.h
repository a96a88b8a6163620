/* synth.h - random weights that are a pure function of (seed, tensor name, element).
 *
 * Purpose:  measuring and testing shapes without their checkpoints: any slice of any tensor is
 *           made on its own, the same on every rank, in any order, and the same bytes that
 *           synth_write() puts on disk.
 * Values:   z is nearly normal with variance 1 (a sum of four uniform bytes, |z| < 3.46).
 *           Matrices: z / sqrt(columns), so that a unit-sized input gives unit-sized outputs and
 *           logits have a spread of about 1 at every size. Norm weights: 1 + 0.1 z. Biases:
 *           0.02 z. All rounded to the config's dtype.
 * Owns:     a synth source copies its config; tensors have no storage at all.
 * Blocking: synth_config("FILE.json") reads a file. Nothing else blocks. */
#ifndef QUERN_CHECKPOINT_SYNTH_H
#define QUERN_CHECKPOINT_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoint/config.h"
#include "checkpoint/source.h"
#include "quern/status.h"

enum { SYNTH_NAME_BYTES = 128 };

/* Whether `model` begins with "synth:". */
bool synth_is(const char *model);

/* `like` is 0.6b, 1.7b, 4b, 8b, 14b or 32b (Qwen3's own numbers) or the path of a config.json
 * whose name ends in .json, each with or without "synth:" before it. Ids that a file leaves out
 * or sets beyond its vocabulary become the last two: bos vocab-2, eos vocab-1.
 * INVALID: another name, or what config_read_file() refuses. */
enum status synth_config(const char *like, struct model_config *cfg);

/* The tensors that a checkpoint of `cfg` has; a tied model has no lm_head. */
uint64_t synth_tensor_count(const struct model_config *cfg);

/* Tensor i of them: *view gets its shape, dtype and bytes, with no data; its name is written to
 * name [SYNTH_NAME_BYTES], which view->name points at. */
void synth_tensor_at(const struct model_config *cfg, uint64_t i, char *name,
                     struct tensor_view *view);

/* Elements [first, first + n) of the tensor as it is stored: dst in view->dtype. */
void synth_fill(uint64_t seed, const struct tensor_view *view, uint64_t first, uint64_t n,
                void *dst);

/* A source (source.h) of cfg's tensors. NOMEM. */
enum status synth_open(const char *model, uint64_t seed, const struct model_config *cfg,
                       struct weight_source **out);

#endif
