/* text_buffer.c - doubling, so that n appends cost O(n) copies. */
#include "text/text_buffer.h"

#include <stdint.h>
#include <stdlib.h>

#include "quern/log.h"

bool text_buffer_reserve(struct text_buffer *b, size_t more)
{
    size_t room = b->room == 0 ? 256 : b->room;
    char *grown;

    if (b->failed || more > SIZE_MAX / 4 - b->count)
        goto fail;
    if (b->count + more <= b->room)
        return true;
    while (room < b->count + more)
        room *= 2;
    grown = realloc(b->bytes, room);
    if (grown == NULL)
        goto fail;
    b->bytes = grown;
    b->room = room;
    return true;

fail:
    b->failed = true;
    return false;
}

void text_buffer_append(struct text_buffer *b, const char *bytes, size_t count)
{
    if (count == 0 || !text_buffer_reserve(b, count))
        return;
    memcpy(b->bytes + b->count, bytes, count);
    b->count += count;
}

void text_buffer_free(struct text_buffer *b)
{
    free(b->bytes);
    *b = (struct text_buffer){ 0 };
}

enum status text_buffer_take(struct text_buffer *b, char **text, size_t *bytes)
{
    if (!text_buffer_reserve(b, 1)) {
        size_t reached = b->count;

        text_buffer_free(b);
        return log_fail(STATUS_NOMEM, "out of memory after %zu bytes of text", reached);
    }
    b->bytes[b->count] = '\0';
    *text = b->bytes;
    *bytes = b->count;
    *b = (struct text_buffer){ 0 };
    return STATUS_OK;
}
