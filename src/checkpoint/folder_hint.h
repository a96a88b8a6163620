/* folder_hint.h - what a directory has in place of a model that quern reads.
 *
 * Purpose:  a directory without config.json or without safetensors is usually something else that
 *           has a name: a LoRA adapter, GGUF files, pickled weights, a download that was not
 *           finished, a folder of Hugging Face's cache. Errors say which, and what to do.
 * Owns:     nothing; writes into the caller's buffer.
 * Blocking: lists one directory. */
#ifndef QUERN_CHECKPOINT_FOLDER_HINT_H
#define QUERN_CHECKPOINT_FOLDER_HINT_H

#include <stddef.h>

enum { FOLDER_HINT_BYTES = 512 };

/* ": it is ..., do ..." for the end of a message, "" when nothing is known; returns out [n]. */
const char *folder_hint(const char *dir, char *out, size_t n);

#endif
