/* small_tokenizer.h - a tokenizer of 256 bytes, two merges and two added tokens.
 *
 * Its tokenizer.json comes with any one part replaced, for tests of what may
 * stand there. Ids: a byte its own number, "ab" 256, "abc" 257, "<|end|>" 258
 * (special), "<t>" 259. Failures end the test. */
#ifndef QUERN_TESTS_SMALL_TOKENIZER_H
#define QUERN_TESTS_SMALL_TOKENIZER_H

#include "text/text_buffer.h"
#include "text/tokenizer.h"

enum { PART_ADDED, PART_NORMALIZER, PART_PRE, PART_POST, PART_DECODER, PART_SETTINGS, PART_VOCAB,
    PART_MERGES, PART_COUNT };

/* The file, `part` replaced by `instead` (none if part is -1); the caller frees it. */
struct text_buffer small_tokenizer_file(int part, const char *instead, bool merges_first);

/* "vocab": {the bytes, and then `end`, which closes it. */
void small_tokenizer_put_vocab(struct text_buffer *b, const char *end);

/* Writes a file of such, frees it, and opens it. */
enum status small_tokenizer_open(struct text_buffer file, struct tokenizer **t);

/* It encodes as the sound one. */
void small_tokenizer_works(struct tokenizer *t);

#endif
