/* tokenizer_internal.h - the parts of a tokenizer, shared by the file that
 * fills them (tokenizer_load.c) and the one that uses them (tokenizer.c).
 *
 * Everything is owned by struct tokenizer; all zero is the empty one, which
 * tokenizer_close() frees like any other. */
#ifndef QUERN_TEXT_TOKENIZER_INTERNAL_H
#define QUERN_TEXT_TOKENIZER_INTERNAL_H

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/vocab.h"
#include "text/vocab_table.h"

struct tokenizer {
    bool none; /* there was no file: nothing can be encoded */
    struct vocab vocab;
    struct added_tokens added;
    struct bpe bpe;
    struct pretokenizer *pretokenizer;
    struct text_buffer normal; /* scratch: a segment in NFC */
    void *table_mem;           /* the flat table, which `table` points into */
    size_t table_bytes;
    struct vocab_table table;
};

/* Fills the vocabulary, the added tokens and the merges. STATUS_INVALID, logged
 * as "tokenizer.json: part: what is wrong". */
enum status tokenizer_load(struct tokenizer *t, const char *text, size_t bytes);

/* Adds what tokenizer_config.json lists under added_tokens_decoder. */
enum status tokenizer_load_config(struct tokenizer *t, const char *text, size_t bytes);

#endif
