/* bytes.c - a growing string of bytes. */
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "supervisor/supervisor.h"

enum status bytes_reserve(struct bytes *b, size_t n)
{
    size_t room = b->room ? b->room : 256;
    char *mem;

    if (b->room - b->n >= n)
        return STATUS_OK;
    while (room - b->n < n)
        room *= 2;
    mem = realloc(b->mem, room);
    if (mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for %zu bytes on their way", room);
    b->mem = mem;
    b->room = room;
    return STATUS_OK;
}

enum status bytes_add(struct bytes *b, const void *more, size_t n)
{
    enum status s = bytes_reserve(b, n);

    if (s != STATUS_OK)
        return s;
    if (n > 0)
        memcpy(b->mem + b->n, more, n);
    b->n += n;
    return STATUS_OK;
}

void bytes_free(struct bytes *b)
{
    free(b->mem);
    *b = (struct bytes){0};
}
