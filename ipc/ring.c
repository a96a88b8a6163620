/* ring.c - the message ring.
 *
 * Indices run freely through 2^32 and are masked on access, so full and empty
 * differ without a spare slot. Each end keeps the last value it saw of the
 * other's index and looks again only when that says "full" or "empty": in a
 * burst the two cache lines stay where they are written. A stale value errs on
 * the safe side, for the real index only ever moves on.
 *
 * E1 publish --tail--> peek:    bytes exist before the count says so.
 * E2 release --head--> reserve: reading ended before we overwrite.
 * E3 close --closed--> peek:    the count is final before "closed" says so;
 *                               hence the reader loads closed before tail. */
#include "ipc/ring.h"

#include <stdbool.h>

#include "quern/log.h"

enum { RING_MAGIC = 0x676e6972 }; /* "ring" */

static uint32_t stride_of(uint32_t slot_bytes)
{
    return (slot_bytes + 7u) & ~7u;
}

size_t ring_bytes(uint32_t slots, uint32_t slot_bytes)
{
    if (slots == 0 || (slots & (slots - 1)) != 0 || slot_bytes == 0 || slot_bytes > INT32_MAX)
        return 0;
    return sizeof(struct ring_shared) +
           (((size_t)slots * stride_of(slot_bytes) + 63) & ~(size_t)63);
}

enum status ring_init(void *mem, uint32_t slots, uint32_t slot_bytes, uint32_t generation)
{
    struct ring_shared *shared = mem;

    if (ring_bytes(slots, slot_bytes) == 0 || (uintptr_t)mem % 64 != 0)
        return log_fail(STATUS_INVALID,
            "ring: %u slots of %u bytes at %p: needs a power of two of slots, at least a byte in "
            "each, and 64-byte alignment",
            slots, slot_bytes, mem);
    shared->magic = RING_MAGIC;
    shared->generation = generation;
    shared->slots = slots;
    shared->slot_bytes = slot_bytes;
    /* relaxed: nobody is attached, and the way the segment is handed over orders it */
    atomic_store_explicit(&shared->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->head, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->closed, 0, memory_order_relaxed);
    return STATUS_OK;
}

enum status ring_attach(void *mem, size_t available, uint32_t generation, struct ring *out)
{
    struct ring_shared *shared = mem;
    uint32_t slots, slot_bytes;
    size_t bytes;

    if (available < sizeof(*shared) || (uintptr_t)mem % 64 != 0 || shared->magic != RING_MAGIC)
        return log_fail(STATUS_INVALID, "ring: there is none at this place (%zu bytes)", available);
    slots = shared->slots;
    slot_bytes = shared->slot_bytes;
    bytes = ring_bytes(slots, slot_bytes);
    if (bytes == 0 || bytes > available)
        return log_fail(STATUS_INVALID, "ring: %u slots of %u bytes do not fit into %zu bytes",
            slots, slot_bytes, available);
    if (shared->generation != generation)
        return log_fail(STATUS_INVALID,
            "ring: belongs to generation %u, this process to generation %u: it must end",
            shared->generation, generation);
    *out = (struct ring){
        .shared = shared,
        .slots = slots,
        .slot_bytes = slot_bytes,
        .stride = stride_of(slot_bytes),
        /* head for both: never ahead of the real head or tail.
         * acquire: E1, E2, for an end that goes on where another stopped */
        .tail_seen = atomic_load_explicit(&shared->head, memory_order_acquire),
        .head_seen = atomic_load_explicit(&shared->head, memory_order_acquire),
    };
    return STATUS_OK;
}

static void *slot_at(const struct ring *r, uint32_t index)
{
    return r->shared->data + (size_t)(index & (r->slots - 1)) * r->stride;
}

static enum status damaged(const struct ring *r, uint32_t tail, uint32_t head)
{
    return log_fail(STATUS_INTERNAL,
        "ring: %u messages published and %u released cannot be with %u slots: its memory was "
        "damaged",
        tail, head, r->slots);
}

/* Is there room for one more behind `ahead` reserved ones? In 64 bits: `ahead` is the
 * caller's, and the sum must not wrap. */
static bool has_room(const struct ring *r, uint32_t tail, uint32_t ahead)
{
    return (uint64_t)(tail - r->head_seen) + ahead < r->slots; /* modulo 2^32: true across wrap */
}

enum status ring_reserve_at(struct ring *r, uint32_t ahead, void **slot)
{
    /* relaxed: tail is ours */
    uint32_t tail = atomic_load_explicit(&r->shared->tail, memory_order_relaxed);

    /* relaxed: only a hint to stop, nothing is read behind it */
    if (atomic_load_explicit(&r->shared->closed, memory_order_relaxed) != 0)
        return STATUS_CLOSED;
    if (!has_room(r, tail, ahead)) {
        r->head_seen = atomic_load_explicit(&r->shared->head, memory_order_acquire); /* E2 */
        if (tail - r->head_seen > r->slots)
            return damaged(r, tail, r->head_seen);
        if (!has_room(r, tail, ahead))
            return STATUS_AGAIN;
    }
    *slot = slot_at(r, tail + ahead);
    return STATUS_OK;
}

enum status ring_reserve(struct ring *r, void **slot)
{
    return ring_reserve_at(r, 0, slot);
}

void ring_publish_many(struct ring *r, uint32_t n)
{
    /* relaxed: tail is ours */
    uint32_t tail = atomic_load_explicit(&r->shared->tail, memory_order_relaxed);

    atomic_store_explicit(&r->shared->tail, tail + n, memory_order_release); /* E1 */
}

void ring_publish(struct ring *r)
{
    ring_publish_many(r, 1);
}

/* Nothing known to be there: looks for more. */
static enum status look_again(struct ring *r, uint32_t head)
{
    uint32_t closed = atomic_load_explicit(&r->shared->closed, memory_order_acquire); /* E3 */

    r->tail_seen = atomic_load_explicit(&r->shared->tail, memory_order_acquire); /* E1 */
    if (r->tail_seen == head)
        return closed != 0 ? STATUS_CLOSED : STATUS_AGAIN;
    if (r->tail_seen - head > r->slots)
        return damaged(r, r->tail_seen, head);
    return STATUS_OK;
}

enum status ring_peek(struct ring *r, const void **slot)
{
    /* relaxed: head is ours */
    uint32_t head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);

    if (r->tail_seen - head - 1 >= r->slots) { /* none left of those seen, or nonsense */
        enum status s = look_again(r, head);

        if (s != STATUS_OK)
            return s;
    }
    *slot = slot_at(r, head);
    return STATUS_OK;
}

void ring_release(struct ring *r)
{
    /* relaxed: head is ours */
    uint32_t head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);

    atomic_store_explicit(&r->shared->head, head + 1, memory_order_release); /* E2 */
}

void ring_close(struct ring *r)
{
    atomic_store_explicit(&r->shared->closed, 1, memory_order_release); /* E3 */
}

uint32_t ring_pending(const struct ring *r)
{
    /* head first, or it could overtake the tail we hold; acquire keeps that
     * order and makes the messages counted readable (E1) */
    uint32_t head = atomic_load_explicit(&r->shared->head, memory_order_acquire);
    uint32_t tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);

    return tail - head;
}
