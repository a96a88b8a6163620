/* tokenizer.h - Qwen2's and Qwen3's tokenizer.json: text to ids and back.
 *
 * What is done, in this order: added tokens are cut out of the raw text; what
 * lies between is put into NFC, added tokens that are to be found there are cut
 * out, the rest is split by a regex and byte-pair encoded. A file that asks for
 * anything else is refused when it is opened, and the error names the part.
 *
 * A directory without tokenizer files has the tokenizer of no tokens, where the
 * caller allows one: ids need no text.
 *
 * Ownership: tokenizer_open() makes it, tokenizer_close() frees it; results are
 * malloc'ed and the caller's. Encoding uses caches inside: one thread at a time
 * per tokenizer. Blocking: only tokenizer_open(), on the disk. */
#ifndef QUERN_TEXT_TOKENIZER_H
#define QUERN_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

struct tokenizer;

/* Reads dir/tokenizer.json or, where there is none, dir/vocab.json and
 * dir/merges.txt; then the added tokens of dir/tokenizer_config.json, whose flags
 * count (or those of added_tokens.json and special_tokens_map.json), as
 * Transformers does. STATUS_IO or STATUS_INVALID, logged. */
enum status tokenizer_open(const char *dir, struct tokenizer **out);
void tokenizer_close(struct tokenizer *t);

/* The same, but where `dir` has no tokenizer file at all, *out is the tokenizer
 * of no tokens: its vocabulary is empty, and encoding is STATUS_INVALID, logged,
 * with what to do. */
enum status tokenizer_open_or_none(const char *dir, struct tokenizer **out);

enum tokenizer_flag {
    TOKENIZER_PARSE_SPECIAL = 1, /* special tokens in the text count; without it they are plain
                                    text, as is right for what a stranger wrote */
    TOKENIZER_ADD_SPECIAL = 2,   /* what the file puts around a text (BOS, EOS) is put there: for
                                    raw text, not for a rendered template; Qwen3's puts nothing */
};

/* The ids of text[0, bytes), which may hold zero bytes: *ids is malloc'ed (not
 * NULL even for none), *count is how many. `flags` are of tokenizer_flag; added
 * tokens that are not special ("<think>") are always cut out.
 * STATUS_INVALID (logged, with the byte offset) if the text is not UTF-8. */
enum status tokenizer_encode(struct tokenizer *t, const char *text, size_t bytes, unsigned flags,
    int32_t **ids, size_t *count);

/* The text of ids[0, count) as UTF-8, 0-terminated besides; bytes that are none
 * become U+FFFD, one for each maximal subpart. skip_special leaves special
 * tokens out. An id below tokenizer_vocab_size() that names no token is
 * nothing; any other one is STATUS_INVALID, logged. */
enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t count,
    bool skip_special, char **text, size_t *bytes);

/* Highest id + 1. */
size_t tokenizer_vocab_size(const struct tokenizer *t);

/* The id of an added or vocabulary token by its literal spelling, or -1. */
int32_t tokenizer_find(const struct tokenizer *t, const char *token);

#endif
