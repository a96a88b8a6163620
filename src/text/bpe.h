/* bpe.h - byte-level byte pair encoding: the merge table and its application.
 *
 * A merge joins two neighbouring tokens into one. Of all merges that a piece of
 * text allows, the one of smallest rank goes first, the leftmost among equals,
 * until none is left. Short pieces look for it in a line; long ones keep a heap,
 * so that n bytes cost O(n log n) whatever they are. Pieces seen before come
 * from a cache.
 *
 * Ownership: struct bpe owns its tables; init it with bpe_init(), fill it with
 * bpe_set_byte() for all 256 bytes and bpe_add_merge() in rank order, and free
 * it with bpe_free(). Encoding changes the cache and the scratch space: one
 * thread at a time. Nothing blocks. */
#ifndef QUERN_TEXT_BPE_H
#define QUERN_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

struct token_ids { /* ids that grow; the holder frees `ids` */
    int32_t *ids;
    size_t count, room;
};

/* Makes room for `more` ids; false if there is no memory. */
bool token_ids_reserve(struct token_ids *ids, size_t more);

struct bpe_merge {
    uint64_t pair;  /* left id << 32 | right id; all ones: a free slot */
    uint32_t rank;
    int32_t merged; /* the token that the two become */
};

struct bpe_word;

struct bpe_scratch {       /* room for one long piece of `room` bytes */
    int32_t *id;           /* the token that begins at this byte */
    uint32_t *next, *prev; /* neighbours, by byte */
    uint32_t *rank;        /* of the merge of this token with the next one */
    uint64_t *heap;        /* rank << 32 | position, smallest first */
    size_t room;
};

struct bpe {
    int32_t byte_id[256];
    struct bpe_merge *merges; /* open addressing, [mask + 1] */
    uint32_t mask;
    uint32_t used;            /* slots taken: different pairs */
    uint32_t count;           /* merges added: the next one's rank */
    struct bpe_word *cache;
    struct bpe_scratch scratch;
};

/* Without merges yet. STATUS_NOMEM, logged. */
enum status bpe_init(struct bpe *b);
void bpe_free(struct bpe *b);

/* The token of a single byte. */
static inline void bpe_set_byte(struct bpe *b, uint8_t byte, int32_t id)
{
    b->byte_id[byte] = id;
}

/* The merge of the next rank; of a pair named twice the later rank counts.
 * STATUS_NOMEM, logged. */
enum status bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t merged);

/* Appends the tokens of one piece (bytes > 0) to *out. STATUS_NOMEM, logged;
 * STATUS_INVALID for a piece of 2 GiB or more. */
enum status bpe_encode(struct bpe *b, const char *piece, size_t bytes, struct token_ids *out);

#endif
