/* pretokenize.h - cuts normalized text into the pieces that BPE works on.
 *
 * Qwen2's and Qwen3's split regex: contractions, words with one leading mark or
 * space, single digits, runs of marks, runs of white space. Every byte of the
 * text is in exactly one piece.
 *
 * Ownership: pretokenizer_open() makes it, pretokenizer_close() frees it. It
 * holds the one text that it is cutting (borrowed): one thread at a time.
 * Nothing blocks. */
#ifndef QUERN_TEXT_PRETOKENIZE_H
#define QUERN_TEXT_PRETOKENIZE_H

#include <stddef.h>

#include "quern/status.h"

/* The regex as tokenizer.json spells it; another one is not implemented. */
extern const char pretokenizer_regex[];

struct pretokenizer;

/* STATUS_NOMEM, or STATUS_INTERNAL if PCRE2 refuses the pattern; logged. */
enum status pretokenizer_open(struct pretokenizer **out);
void pretokenizer_close(struct pretokenizer *p);

/* Starts on text[0, bytes), well-formed UTF-8, borrowed until the last piece. */
enum status pretokenizer_begin(struct pretokenizer *p, const char *text, size_t bytes);

/* The next piece, within the text; STATUS_CLOSED after the last one. */
enum status pretokenizer_next(struct pretokenizer *p, const char **piece, size_t *bytes);

#endif
