/* synth_tokenizer.h - a tokenizer for models of random weights.
 *
 * Purpose:  the text of a tokenizer.json that encodes any text byte by byte and decodes every id
 *           to something readable: Qwen's normaliser and split, one token a byte, no merges, and
 *           fillers " 256", " 257", ... up to the vocabulary. Vocabulary 151936 gets Qwen's 26
 *           added tokens at their ids; others get <|endoftext|> at bos and <|im_end|> at eos.
 *           Hugging Face's tokenizers reads it.
 * Owns:     nothing; it writes to the caller's stream, which may be memory (open_memstream()).
 * Blocking: as the stream does. */
#ifndef QUERN_CHECKPOINT_SYNTH_TOKENIZER_H
#define QUERN_CHECKPOINT_SYNTH_TOKENIZER_H

#include <stdio.h>

#include "checkpoint/config.h"
#include "quern/status.h"

/* `cfg` as synth_config() gives it: bos and eos within the vocabulary. One below 256 plus the
 * special tokens lacks the highest bytes, with a warning. IO: the stream failed (not logged: the
 * caller knows its name). */
enum status synth_tokenizer_write(const struct model_config *cfg, FILE *out);

/* The tokenizer_config.json beside it. */
enum status synth_tokenizer_config_write(const struct model_config *cfg, FILE *out);

#endif
