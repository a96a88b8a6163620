/* text_arena.c - blocks of 16 KiB, and one of its own for a large piece.
 *
 * A large piece's block goes behind the newest one, whose rest stays in use:
 * strings that grow would else waste a block each. */
#include "text/text_arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BYTES = 16384, LARGE_BYTES = BLOCK_BYTES / 4, ALIGNMENT = 16 };

struct text_arena_block {
    struct text_arena_block *older;
    size_t used, room;
    _Alignas(ALIGNMENT) unsigned char mem[];
};

static struct text_arena_block *add_block(struct text_arena *a, size_t room)
{
    struct text_arena_block *b;

    if (a->limit != 0 && (a->taken > a->limit || room > a->limit - a->taken)) {
        a->over = true;
        return NULL;
    }
    b = malloc(sizeof(*b) + room);
    if (b == NULL)
        return NULL;
    *b = (struct text_arena_block){ .room = room };
    a->taken += room;
    return b;
}

static void *take_large(struct text_arena *a, size_t bytes)
{
    struct text_arena_block *b = add_block(a, bytes);

    if (b == NULL)
        return NULL;
    b->used = bytes;
    if (a->newest == NULL) {
        a->newest = b;
    } else {
        b->older = a->newest->older;
        a->newest->older = b;
    }
    return b->mem;
}

void *text_arena_take(struct text_arena *a, size_t bytes)
{
    struct text_arena_block *b = a->newest;

    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
    if (bytes > LARGE_BYTES)
        return take_large(a, bytes);
    if (b == NULL || b->room - b->used < bytes) {
        b = add_block(a, BLOCK_BYTES);
        if (b == NULL)
            return NULL;
        b->older = a->newest;
        a->newest = b;
    }
    b->used += bytes;
    return b->mem + b->used - bytes;
}

const char *text_arena_copy(struct text_arena *a, const char *text, size_t bytes)
{
    char *copy = text_arena_take(a, bytes + 1);

    if (copy == NULL)
        return NULL;
    if (bytes > 0)
        memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

void text_arena_free(struct text_arena *a)
{
    while (a->newest != NULL) {
        struct text_arena_block *older = a->newest->older;

        free(a->newest);
        a->newest = older;
    }
    a->taken = 0;
    a->over = false;
}
