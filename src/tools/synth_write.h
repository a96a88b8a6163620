/* synth_write.h - a checkpoint of random weights on disk.
 *
 * Purpose:  a directory like one from Hugging Face: config.json, generation_config.json, weights
 *           in one or several .safetensors files, and a tokenizer; the weights are byte for byte
 *           those of "synth:LIKE" with the same seed.
 * Owns:     the directory appears whole or not at all: it is written as DIR.tmp-PID, which is
 *           removed on failure, and renamed.
 * Blocking: writes the whole checkpoint: 1 GB to 65 GB for the named shapes. */
#ifndef QUERN_TOOLS_SYNTH_WRITE_H
#define QUERN_TOOLS_SYNTH_WRITE_H

#include <stdint.h>

#include "quern/status.h"

/* `like` as in synth_config(). INVALID: an unknown shape, or DIR exists and is not empty.
 * IO: it cannot be written, or the disk has too little room for it (both numbers). */
enum status synth_write(const char *like, uint64_t seed, const char *dir);

/* The same with files of at most `shard_bytes` of tensors each (5e9 in synth_write()); a tensor
 * larger than that has a file of its own. */
enum status synth_write_sharded(const char *like, uint64_t seed, const char *dir,
                                uint64_t shard_bytes);

#endif
