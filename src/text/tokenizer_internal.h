/* tokenizer_internal.h - the parts of a tokenizer, shared by the files that fill
 * them (tokenizer_files.c and what it calls) and the one that uses them (tokenizer.c).
 *
 * Everything is owned by struct tokenizer; all zero is the empty one, which
 * tokenizer_close() frees like any other. The order of filling: the model's
 * vocabulary and merges, then added tokens (their ids go on from there). */
#ifndef QUERN_TEXT_TOKENIZER_INTERNAL_H
#define QUERN_TEXT_TOKENIZER_INTERNAL_H

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/json_value.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/vocab.h"
#include "text/vocab_table.h"

struct tokenizer {
    bool none;          /* there was no file: nothing can be encoded */
    bool nfc;           /* texts are normalized */
    bool whole_first;   /* ignore_merges: a piece that is a token is not merged */
    bool split_special; /* special tokens are plain text, whatever the caller says */
    struct vocab vocab; /* the model's tokens, then those that were added */
    uint32_t model_tokens;   /* how many are the model's */
    size_t model_text_bytes; /* where in the pool of texts the added ones begin */
    int64_t last_added;      /* highest id of an added token; -1: none */
    uint32_t renumbered;     /* added tokens whose id in the file was another */
    struct added_tokens added;
    struct token_ids before, after; /* what a whole text gets: the post-processor's */
    struct bpe bpe;
    struct pretokenizer *pretokenizer;
    struct text_buffer normal; /* scratch: a segment in NFC */
    struct text_buffer spelled; /* scratch: a piece in the byte alphabet */
    void *table_mem;           /* the flat table, which `table` points into */
    size_t table_bytes;
    struct vocab_table table;
};

/* Fills *t, which is empty, from the files of `dir`; without any, t->none. */
enum status tokenizer_load_files(struct tokenizer *t, const char *dir);

/* tokenizer.json: STATUS_INVALID, logged as "tokenizer.json: part: what is wrong". */
enum status tokenizer_load(struct tokenizer *t, const char *text, size_t bytes);

/* The model: an object of tokens and ids; an array of merges, as strings or pairs; and
 * merges.txt, a merge a line. After both, tokenizer_finish_model(). */
enum status tokenizer_read_vocab(struct tokenizer *t, struct json_reader *r);
enum status tokenizer_read_merges(struct tokenizer *t, struct json_reader *r);
enum status tokenizer_read_merge_lines(struct tokenizer *t, const char *origin, const char *text,
    size_t bytes);
enum status tokenizer_finish_model(struct tokenizer *t, const char *origin);

/* Adds a token as tokenizers does: one that is there keeps its id, a new one gets the next id.
 * Where the file says another one (file_id >= 0), that is told, of the first such. */
enum status tokenizer_add(struct tokenizer *t, const char *origin, const char *text, size_t bytes,
    int64_t file_id, struct added_flags flags);

/* The same of an object {content, special, normalized, ...}; NULL fields are false, normalized is
 * the opposite of special. */
enum status tokenizer_add_entry(struct tokenizer *t, const char *origin, const struct json_value *v,
    int64_t file_id);

/* A token id in a JSON number or key; false if it is none. */
bool tokenizer_read_id(const char *text, size_t bytes, int64_t *id);

/* tokenizer_config.json, special_tokens_map.json and added_tokens.json of `dir`, each if it is
 * there. With `defaults`, "<|endoftext|>" is what Qwen2's tokenizer has for tokens not named. */
enum status tokenizer_load_config(struct tokenizer *t, const char *dir, bool defaults);

#endif
