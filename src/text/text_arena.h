/* text_arena.h - memory that is taken in small pieces and given back all at once.
 *
 * One for a JSON tree, one for a compiled template, one for each rendering: what
 * lies in it needs no owner of its own. Zero, but for `limit`, is the empty
 * arena; `limit` 0 means none. Pieces are aligned to 16 bytes. Never blocks. */
#ifndef QUERN_TEXT_TEXT_ARENA_H
#define QUERN_TEXT_TEXT_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct text_arena_block;

struct text_arena {
    struct text_arena_block *newest;
    size_t taken, limit; /* bytes, blocks counted whole */
    bool over;           /* a piece was refused for the limit's sake */
};

/* Not cleared. NULL if there is no memory, or not within the limit. */
void *text_arena_take(struct text_arena *a, size_t bytes);

/* A 0-terminated copy of text[0, bytes); NULL as above. */
const char *text_arena_copy(struct text_arena *a, const char *text, size_t bytes);

/* Gives everything back; the limit stays. */
void text_arena_free(struct text_arena *a);

#endif
