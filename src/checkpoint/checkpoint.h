/* checkpoint.h - a directory of .safetensors files as one set of named tensors.
 *
 * Purpose:  finds the files (model.safetensors; else model.safetensors.index.json and what it
 *           names; else every *.safetensors, without consolidated.safetensors if there are
 *           others), checks each, and checks that they agree with the index.
 * Owns:     a struct checkpoint owns its open files and every view it lends; read-only
 *           after opening, so any number of threads may look up.
 * Blocking: opening reads headers; tensor_read() reads tensors.
 * Death:    see safetensors.h. */
#ifndef QUERN_CHECKPOINT_CHECKPOINT_H
#define QUERN_CHECKPOINT_CHECKPOINT_H

#include <stddef.h>

#include "checkpoint/safetensors.h"
#include "quern/status.h"

struct checkpoint;

/* IO: a file cannot be read. INVALID: no files, a bad file, a tensor in two files, or an index
 * that does not match; messages name file and tensor. NOMEM. */
enum status checkpoint_open(const char *dir, struct checkpoint **out);
void checkpoint_close(struct checkpoint *c);

/* NULL when there is none. Valid until checkpoint_close(). */
const struct tensor_view *checkpoint_find(const struct checkpoint *c, const char *name);

/* All views of all files, sorted by name. */
size_t checkpoint_count(const struct checkpoint *c);
const struct tensor_view *checkpoint_at(const struct checkpoint *c, size_t i);

/* The directory, as given. */
const char *checkpoint_dir(const struct checkpoint *c);

#endif
