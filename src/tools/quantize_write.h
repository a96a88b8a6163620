/* quantize_write.h - a quantised checkpoint on disk, in the layout of compressed-tensors.
 *
 * Purpose:  DIR's linear layers become codes and scales, the same bits that --quant makes of them
 *           while it loads; the rest, the tokenizer and the small files are copied. quern, and
 *           Transformers with compressed-tensors, give the same logits of it (test_quantize.c).
 * Owns:     OUT appears whole or not at all (folder_write.h).
 * Blocking: reads and writes the whole checkpoint. Memory: a few megabytes. */
#ifndef QUERN_TOOLS_QUANTIZE_WRITE_H
#define QUERN_TOOLS_QUANTIZE_WRITE_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

struct quantize_options {
    const char *method;      /* "int8", "int4", "fp8" */
    const char *activations; /* "none" (NULL), or "dynamic" for int8 and fp8 */
    int group;               /* int4: inputs that share a scale; 0: 128 */
    bool head;               /* the head to int8, too: a tied one is written apart then, while
                              * --quant-head at load takes the embedding with it */
    uint64_t shard_bytes;    /* 0: 5e9 */
};

/* INVALID: an unknown method, a group that does not divide a layer's inputs, a checkpoint that is
 * quantised already, OUT exists and is not empty. IO: reading or writing fails, or too little
 * room on OUT's disk. */
enum status quantize_write(const char *dir, const struct quantize_options *options,
    const char *out);

#endif
