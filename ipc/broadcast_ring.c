/* broadcast_ring.c - the message ring with many readers.
 *
 * ring.c with one head line per reader, so that readers do not disturb each
 * other. The writer keeps the slowest head it saw and walks all heads only when
 * the ring looks full by that: once per lap, not once per message.
 *
 * E1 publish --tail--> peek:        bytes exist before the count says so.
 * E2 release --released--> reserve: every live reader is done before we overwrite.
 * E3 close --closed--> peek:        the count is final before "closed" says so.
 * E4 drop --dropped--> reserve:     the reader was reaped before we pass it. */
#include "ipc/broadcast_ring.h"

#include "quern/log.h"

enum { BROADCAST_RING_MAGIC = 0x61637262 }; /* "brca" */

static uint32_t stride_of(uint32_t slot_bytes)
{
    return (slot_bytes + 7u) & ~7u;
}

size_t broadcast_ring_bytes(uint32_t slots, uint32_t slot_bytes)
{
    if (slots == 0 || (slots & (slots - 1)) != 0 || slot_bytes == 0 || slot_bytes > INT32_MAX)
        return 0;
    return sizeof(struct broadcast_ring_shared) +
           (((size_t)slots * stride_of(slot_bytes) + 63) & ~(size_t)63);
}

enum status broadcast_ring_init(
    void *mem, uint32_t slots, uint32_t slot_bytes, uint32_t readers, uint32_t generation)
{
    struct broadcast_ring_shared *shared = mem;

    if (broadcast_ring_bytes(slots, slot_bytes) == 0 || (uintptr_t)mem % 64 != 0)
        return log_fail(STATUS_INVALID,
            "broadcast ring: %u slots of %u bytes at %p: needs a power of two of slots, at least a byte "
            "in each, and 64-byte alignment",
            slots, slot_bytes, mem);
    if (readers > BROADCAST_RING_READERS)
        return log_fail(
            STATUS_INVALID, "broadcast ring: %u readers, %d are possible", readers, BROADCAST_RING_READERS);
    shared->magic = BROADCAST_RING_MAGIC;
    shared->generation = generation;
    shared->slots = slots;
    shared->slot_bytes = slot_bytes;
    shared->readers = readers;
    /* relaxed: nobody is attached, and the way the segment is handed over orders it */
    atomic_store_explicit(&shared->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->closed, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->dropped, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < BROADCAST_RING_READERS; i++)
        atomic_store_explicit(&shared->heads[i].released, 0, memory_order_relaxed);
    return STATUS_OK;
}

/* The slowest live reader's head, or the tail when nobody listens. */
static uint32_t slowest_head(const struct broadcast_ring *f, uint32_t tail)
{
    uint32_t dropped = atomic_load_explicit(&f->shared->dropped, memory_order_acquire); /* E4 */
    uint32_t behind = 0;

    for (uint32_t i = 0; i < f->readers; i++) {
        uint32_t head =
            atomic_load_explicit(&f->shared->heads[i].released, memory_order_acquire); /* E2 */

        if ((dropped >> i & 1u) == 0 && tail - head > behind)
            behind = tail - head;
    }
    return tail - behind;
}

enum status broadcast_ring_attach(void *mem, size_t available, uint32_t generation, struct broadcast_ring *out)
{
    struct broadcast_ring_shared *shared = mem;
    uint32_t slots, slot_bytes, readers;
    struct broadcast_ring f;
    size_t bytes;

    if (available < sizeof(*shared) || (uintptr_t)mem % 64 != 0 || shared->magic != BROADCAST_RING_MAGIC)
        return log_fail(
            STATUS_INVALID, "broadcast ring: there is none at this place (%zu bytes)", available);
    slots = shared->slots;
    slot_bytes = shared->slot_bytes;
    readers = shared->readers;
    bytes = broadcast_ring_bytes(slots, slot_bytes);
    if (bytes == 0 || bytes > available || readers > BROADCAST_RING_READERS)
        return log_fail(STATUS_INVALID,
            "broadcast ring: %u slots of %u bytes for %u readers do not fit into %zu bytes", slots,
            slot_bytes, readers, available);
    if (shared->generation != generation)
        return log_fail(STATUS_INVALID,
            "broadcast ring: belongs to generation %u, this process to generation %u: it must end",
            shared->generation, generation);
    f = (struct broadcast_ring){
        .shared = shared,
        .slots = slots,
        .slot_bytes = slot_bytes,
        .stride = stride_of(slot_bytes),
        .readers = readers,
        .tail_seen = atomic_load_explicit(&shared->tail, memory_order_acquire), /* E1 */
    };
    f.slowest_seen = slowest_head(&f, f.tail_seen);
    *out = f;
    return STATUS_OK;
}

static void *slot_at(const struct broadcast_ring *f, uint32_t index)
{
    return f->shared->data + (size_t)(index & (f->slots - 1)) * f->stride;
}

static enum status damaged(const struct broadcast_ring *f, uint32_t tail, uint32_t head)
{
    return log_fail(STATUS_INTERNAL,
        "broadcast ring: %u messages published and %u released cannot be with %u slots: its memory was "
        "damaged",
        tail, head, f->slots);
}

enum status broadcast_ring_reserve(struct broadcast_ring *f, void **slot)
{
    /* relaxed: tail is ours */
    uint32_t tail = atomic_load_explicit(&f->shared->tail, memory_order_relaxed);

    /* relaxed: only a hint to stop, nothing is read behind it */
    if (atomic_load_explicit(&f->shared->closed, memory_order_relaxed) != 0)
        return STATUS_CLOSED;
    if (tail - f->slowest_seen >= f->slots) { /* modulo 2^32: true across wrap */
        f->slowest_seen = slowest_head(f, tail);
        if (tail - f->slowest_seen == f->slots)
            return STATUS_AGAIN;
        if (tail - f->slowest_seen > f->slots)
            return damaged(f, tail, f->slowest_seen);
    }
    *slot = slot_at(f, tail);
    return STATUS_OK;
}

void broadcast_ring_publish(struct broadcast_ring *f)
{
    /* relaxed: tail is ours */
    uint32_t tail = atomic_load_explicit(&f->shared->tail, memory_order_relaxed);

    atomic_store_explicit(&f->shared->tail, tail + 1, memory_order_release); /* E1 */
}

/* Nothing known to be there: looks for more. */
static enum status look_again(struct broadcast_ring *f, uint32_t head)
{
    uint32_t closed = atomic_load_explicit(&f->shared->closed, memory_order_acquire); /* E3 */

    f->tail_seen = atomic_load_explicit(&f->shared->tail, memory_order_acquire); /* E1 */
    if (f->tail_seen == head)
        return closed != 0 ? STATUS_CLOSED : STATUS_AGAIN;
    if (f->tail_seen - head > f->slots)
        return damaged(f, f->tail_seen, head);
    return STATUS_OK;
}

enum status broadcast_ring_peek(struct broadcast_ring *f, uint32_t reader, const void **slot)
{
    uint32_t head;

    if (reader >= f->readers)
        return log_fail(STATUS_INVALID, "broadcast ring: no reader %u, there are %u", reader, f->readers);
    /* relaxed: this head is ours */
    head = atomic_load_explicit(&f->shared->heads[reader].released, memory_order_relaxed);
    if (f->tail_seen - head - 1 >= f->slots) { /* none left of those seen, or nonsense */
        enum status s = look_again(f, head);

        if (s != STATUS_OK)
            return s;
    }
    *slot = slot_at(f, head);
    return STATUS_OK;
}

void broadcast_ring_release(struct broadcast_ring *f, uint32_t reader)
{
    _Atomic uint32_t *released = &f->shared->heads[reader].released;
    /* relaxed: this head is ours */
    uint32_t head = atomic_load_explicit(released, memory_order_relaxed);

    atomic_store_explicit(released, head + 1, memory_order_release); /* E2 */
}

void broadcast_ring_close(struct broadcast_ring *f)
{
    atomic_store_explicit(&f->shared->closed, 1, memory_order_release); /* E3 */
}

enum status broadcast_ring_drop(struct broadcast_ring *f, uint32_t reader)
{
    if (reader >= f->readers)
        return log_fail(STATUS_INVALID, "broadcast ring: no reader %u, there are %u", reader, f->readers);
    atomic_fetch_or_explicit(&f->shared->dropped, 1u << reader, memory_order_release); /* E4 */
    return STATUS_OK;
}

uint32_t broadcast_ring_pending(const struct broadcast_ring *f, uint32_t reader)
{
    /* head first, or it could overtake the tail we hold; acquire keeps that
     * order and makes the messages counted readable (E1) */
    uint32_t head = atomic_load_explicit(&f->shared->heads[reader].released, memory_order_acquire);
    uint32_t tail = atomic_load_explicit(&f->shared->tail, memory_order_acquire);

    return tail - head;
}
