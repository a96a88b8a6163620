/* checkpoint.h - a directory of .safetensors files as one set of named tensors.
 *
 * Purpose:  finds the files (checkpoint_files.h), checks each, and merges them. Names are those of
 *           Qwen3ForCausalLM ("model.layers...", "lm_head.weight"): what a bare Qwen3Model saved
 *           without "model.", or somebody with it twice, is found by them as in Transformers.
 * Owns:     a struct checkpoint owns its open files and every view it lends; read-only
 *           after opening, so any number of threads may look up.
 * Blocking: opening reads headers, and tensors that are in two files; tensor_read() reads tensors.
 * Death:    see safetensors.h. */
#ifndef QUERN_CHECKPOINT_CHECKPOINT_H
#define QUERN_CHECKPOINT_CHECKPOINT_H

#include <stddef.h>

#include "checkpoint/safetensors.h"
#include "quern/status.h"

struct checkpoint;

/* IO: a file is missing or cannot be read. INVALID: no files, a bad file, or a tensor in two files
 * without an index; messages name file and tensor. NOMEM. Warns of an adapter beside the weights. */
enum status checkpoint_open(const char *dir, struct checkpoint **out);
void checkpoint_close(struct checkpoint *c);

/* NULL when there is none. Valid until checkpoint_close(). */
const struct tensor_view *checkpoint_find(const struct checkpoint *c, const char *name);

/* The name of a second file that has another tensor of this name, so that nobody can tell which is
 * meant; NULL: there is none. `view` is one of this checkpoint's. */
const char *checkpoint_other(const struct checkpoint *c, const struct tensor_view *view);

/* Why there is no tensor `name`, for the end of a message: ": the index puts it into ...", "" when
 * nothing is known. */
void checkpoint_explain(const struct checkpoint *c, const char *name, char *out, size_t n);

/* All views of all files, sorted by name. */
size_t checkpoint_count(const struct checkpoint *c);
const struct tensor_view *checkpoint_at(const struct checkpoint *c, size_t i);

/* The directory, as given. */
const char *checkpoint_dir(const struct checkpoint *c);

#endif
