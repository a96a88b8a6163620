/* frame.c - frames out of a byte stream.
 *
 * One flat buffer: consumed bytes are dropped by moving the rest down when
 * room is needed, which is rare, since most reads end on a frame's end. */
#include "msg/frame.h"

#include <stdlib.h>
#include <string.h>

#include "quern.h"
#include "quern/log.h"

enum { FIRST_ROOM = 16 << 10 };

_Static_assert(sizeof(struct frame_header) == 16 && sizeof(struct frame_submit) >= SUBMIT_LEAST &&
        sizeof(struct frame_resume) >= RESUME_LEAST && sizeof(struct frame_hello) >= HELLO_LEAST &&
        sizeof(struct frame_loading) >= LOADING_LEAST && sizeof(struct frame_ready) >= READY_LEAST &&
        sizeof(struct frame_accepted) >= ACCEPTED_LEAST &&
        sizeof(struct frame_tokens) >= TOKENS_LEAST && sizeof(struct frame_done) >= DONE_LEAST &&
        sizeof(struct frame_error) >= ERROR_LEAST && sizeof(struct frame_paused) >= PAUSED_LEAST &&
        sizeof(struct frame_ask_stats) >= ASK_STATS_LEAST &&
        sizeof(struct frame_stats) >= STATS_LEAST,
    "fixed parts only grow");

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

/* A frame of the usual size is on its way: the memory of a large one is not kept for it. */
static void let_go(struct frame_reader *r)
{
    if (r->start == r->end && r->room > FIRST_ROOM)
        frame_reader_free(r);
}

enum status frame_reader_next(struct frame_reader *r, struct frame_header *header,
    const void **payload)
{
    struct frame_header h;

    if (r->end - r->start < sizeof(h)) {
        let_go(r);
        return STATUS_AGAIN;
    }
    memcpy(&h, r->mem + r->start, sizeof(h));
    if (h.bytes > FRAME_MAX_BYTES)
        return log_fail(STATUS_INVALID, "a frame of %u bytes is larger than the protocol's %d",
            h.bytes, FRAME_MAX_BYTES);
    if (h.flags != 0)
        return log_fail(STATUS_INVALID, "a frame of type %u has flags %#x, there are none", h.type,
            h.flags);
    if (r->end - r->start - sizeof(h) < h.bytes)
        return STATUS_AGAIN;
    *header = h;
    *payload = r->mem + r->start + sizeof(h);
    r->start += sizeof(h) + h.bytes;
    return STATUS_OK;
}

bool frame_reader_ready(const struct frame_reader *r)
{
    struct frame_header h;

    if (r->end - r->start < sizeof(h))
        return false;
    memcpy(&h, r->mem + r->start, sizeof(h));
    return h.bytes > FRAME_MAX_BYTES || h.flags != 0 || r->end - r->start - sizeof(h) >= h.bytes;
}

enum status frame_fixed(const struct frame_header *h, const void *payload, void *out, size_t bytes,
    size_t least, const void **rest, size_t *rest_bytes)
{
    uint32_t fixed = 0;

    if (h->bytes >= sizeof(fixed))
        memcpy(&fixed, payload, sizeof(fixed));
    if (fixed < least || fixed > h->bytes)
        return log_fail(STATUS_INVALID, "a frame of type %u and %u bytes says that its fixed part "
            "has %u: it has %zu at least", h->type, h->bytes, fixed, least);
    memset(out, 0, bytes);
    memcpy(out, payload, fixed < bytes ? fixed : bytes);
    *rest = (const char *)payload + fixed;
    *rest_bytes = h->bytes - fixed;
    return STATUS_OK;
}

enum status frame_fixed_known(const struct frame_header *h, const void *payload, void *out,
    size_t bytes, size_t least, const void **rest, size_t *rest_bytes)
{
    enum status s = frame_fixed(h, payload, out, bytes, least, rest, rest_bytes);
    size_t fixed = h->bytes - *rest_bytes;

    for (size_t i = bytes; s == STATUS_OK && i < fixed; i++)
        if (((const unsigned char *)payload)[i] != 0)
            s = log_fail(STATUS_UNKNOWN, "a frame of type %u uses a field at byte %zu that this "
                "version of quern does not have", h->type, i);
    return s;
}

/* Numbers below 16 are the caller's, for ever. */
struct frame_error frame_error_of(uint32_t code)
{
    bool caller = code != QUERN_CODE_NONE && code < QUERN_CODE_OVERLOADED;
    bool passes = code == QUERN_CODE_QUOTA || code == QUERN_CODE_OVERLOADED ||
                  code == QUERN_CODE_STOPPING || code == QUERN_CODE_WORKER_DIED;

    return (struct frame_error){.fixed = sizeof(struct frame_error), .code = code,
        .fault = caller ? FAULT_CALLER : FAULT_SERVER, .retry = passes};
}
