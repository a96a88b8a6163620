/* frame.c - frames out of a byte stream.
 *
 * One flat buffer: consumed bytes are dropped by moving the rest down when
 * room is needed, which is rare, since most reads end on a frame's end. */
#include "msg/frame.h"

#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum { FIRST_ROOM = 16 << 10 };

void frame_reader_init(struct frame_reader *r)
{
    *r = (struct frame_reader){0};
}

void frame_reader_free(struct frame_reader *r)
{
    free(r->mem);
    *r = (struct frame_reader){0};
}

static enum status make_room(struct frame_reader *r, size_t n)
{
    size_t held = r->end - r->start, room = r->room ? r->room : FIRST_ROOM;
    unsigned char *mem;

    if (held > 0 && r->start > 0)
        memmove(r->mem, r->mem + r->start, held);
    r->start = 0;
    r->end = held;
    while (room - held < n)
        room *= 2;
    if (room == r->room)
        return STATUS_OK;
    mem = realloc(r->mem, room);
    if (mem == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a frame of %zu bytes", room);
    r->mem = mem;
    r->room = room;
    return STATUS_OK;
}

enum status frame_reader_feed(struct frame_reader *r, const void *bytes, size_t n)
{
    if (n == 0)
        return STATUS_OK;
    if (r->room - r->end < n) {
        enum status s = make_room(r, n);
        if (s != STATUS_OK)
            return s;
    }
    memcpy(r->mem + r->end, bytes, n);
    r->end += n;
    return STATUS_OK;
}

enum status frame_reader_next(struct frame_reader *r, struct frame_header *header,
    const void **payload)
{
    struct frame_header h;

    if (r->end - r->start < sizeof(h))
        return STATUS_AGAIN;
    memcpy(&h, r->mem + r->start, sizeof(h));
    if (h.bytes > FRAME_MAX_BYTES)
        return log_fail(STATUS_INVALID, "a frame of %u bytes is larger than the protocol's %d",
            h.bytes, FRAME_MAX_BYTES);
    if (r->end - r->start - sizeof(h) < h.bytes)
        return STATUS_AGAIN;
    *header = h;
    *payload = r->mem + r->start + sizeof(h);
    r->start += sizeof(h) + h.bytes;
    return STATUS_OK;
}

enum status frame_fixed(const struct frame_header *h, const void *payload, void *fixed,
    size_t bytes)
{
    if (h->bytes < bytes)
        return log_fail(STATUS_INVALID, "a frame of type %u has %u bytes, it needs at least %zu",
            h->type, h->bytes, bytes);
    memcpy(fixed, payload, bytes);
    return STATUS_OK;
}
