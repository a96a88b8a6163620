/* ring_buffer.c - the circular allocator.
 *
 * Both counters run freely (64 bits never wrap); position = (counter - origin)
 * mod capacity. An allocation that would cross the end starts at 0 instead and
 * pays for the bytes skipped, which are fewer than its own: with half the
 * capacity as the limit, an empty ring buffer always has room.
 *
 * Whoever finds it empty moves the origin to the tail: then nothing is between
 * the two counters whose position could change, no byte is skipped, and a
 * buffer that is nearly always empty keeps to its first pages instead of
 * walking through (and taking) all of them. Only the producer computes
 * positions, the consumer is told them: the origin is the producer's alone.
 *
 * E1 the ring's publish --its tail--> the ring's peek: bytes written before
 *    they are announced. The tail here therefore needs no order of its own.
 * E2 release --head--> alloc: reading ended before we overwrite. */
#include "ipc/ring_buffer.h"

#include "quern/log.h"

enum { RING_BUFFER_MAGIC = 0x66756272, CAPACITY_ALIGN = 2 * RING_BUFFER_ALIGN }; /* "rbuf" */

static uint64_t rounded(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

size_t ring_buffer_bytes(size_t capacity)
{
    if (capacity == 0 || capacity > SIZE_MAX / 2)
        return 0;
    return sizeof(struct ring_buffer_shared) + rounded(capacity, CAPACITY_ALIGN);
}

enum status ring_buffer_init(void *mem, size_t capacity, uint32_t generation)
{
    struct ring_buffer_shared *shared = mem;

    if (ring_buffer_bytes(capacity) == 0 || (uintptr_t)mem % 64 != 0)
        return log_fail(STATUS_INVALID, "ring buffer: cannot have %zu bytes at %p", capacity, mem);
    shared->magic = RING_BUFFER_MAGIC;
    shared->generation = generation;
    shared->capacity = rounded(capacity, CAPACITY_ALIGN);
    /* relaxed: nobody is attached, and the way the segment is handed over orders it */
    atomic_store_explicit(&shared->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->head, 0, memory_order_relaxed);
    shared->origin = 0;
    return STATUS_OK;
}

enum status ring_buffer_attach(void *mem, size_t available, uint32_t generation, struct ring_buffer *out)
{
    struct ring_buffer_shared *shared = mem;
    uint64_t capacity;
    size_t bytes;

    if (available < sizeof(*shared) || (uintptr_t)mem % 64 != 0 || shared->magic != RING_BUFFER_MAGIC)
        return log_fail(
            STATUS_INVALID, "ring buffer: there is none at this place (%zu bytes)", available);
    capacity = shared->capacity;
    bytes = ring_buffer_bytes(capacity);
    if (bytes == 0 || bytes > available || capacity % CAPACITY_ALIGN != 0)
        return log_fail(STATUS_INVALID, "ring buffer: %llu bytes do not fit into %zu bytes",
            (unsigned long long)capacity, available);
    if (shared->generation != generation)
        return log_fail(STATUS_INVALID,
            "ring buffer: belongs to generation %u, this process to generation %u: it must end",
            shared->generation, generation);
    *out = (struct ring_buffer){.shared = shared, .capacity = capacity};
    return STATUS_OK;
}

/* Where `length` bytes begin behind `tail`, past the end of the memory at its front again. */
static uint64_t place(const struct ring_buffer *a, uint64_t tail, uint64_t origin, uint64_t length,
    uint64_t *position)
{
    *position = (tail - origin) % a->capacity;
    if (length <= a->capacity - *position)
        return tail;
    tail += a->capacity - *position;
    *position = 0;
    return tail;
}

bool ring_buffer_has_room(const struct ring_buffer *a, size_t bytes)
{
    /* relaxed: tail is ours */
    uint64_t tail = atomic_load_explicit(&a->shared->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&a->shared->head, memory_order_acquire); /* E2 */
    uint64_t length = rounded(bytes, RING_BUFFER_ALIGN), position;

    return head == tail ||
           place(a, tail, a->shared->origin, length, &position) + length - head <= a->capacity;
}

enum status ring_buffer_alloc(struct ring_buffer *a, size_t bytes, uint64_t *offset, uint64_t *end)
{
    /* relaxed: tail is ours */
    uint64_t tail = atomic_load_explicit(&a->shared->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&a->shared->head, memory_order_acquire); /* E2 */
    uint64_t position, length, start;

    if (bytes > a->capacity / 2)
        return log_fail(STATUS_INVALID,
            "ring buffer: %zu bytes in one piece, at most %llu (half of its %llu) are possible: send "
            "less at a time or make it larger",
            bytes, (unsigned long long)a->capacity / 2, (unsigned long long)a->capacity);
    length = rounded(bytes, RING_BUFFER_ALIGN);
    if (head == tail)
        a->shared->origin = tail;
    start = place(a, tail, a->shared->origin, length, &position);
    if (start + length - head > a->capacity)
        return STATUS_AGAIN;
    /* relaxed: E1 announces the bytes */
    atomic_store_explicit(&a->shared->tail, start + length, memory_order_relaxed);
    *offset = position;
    *end = start + length;
    return STATUS_OK;
}

enum status ring_buffer_release(struct ring_buffer *a, uint64_t end)
{
    /* relaxed: head is ours; tail is at least what our message's E1 showed us */
    uint64_t head = atomic_load_explicit(&a->shared->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&a->shared->tail, memory_order_relaxed);

    if (end < head || end > tail)
        return log_fail(STATUS_INVALID,
            "ring buffer: cannot release up to %llu, %llu to %llu are allocated: a message is damaged",
            (unsigned long long)end, (unsigned long long)head, (unsigned long long)tail);
    atomic_store_explicit(&a->shared->head, end, memory_order_release); /* E2 */
    return STATUS_OK;
}

void *ring_buffer_at(const struct ring_buffer *a, uint64_t offset, size_t bytes)
{
    if (offset > a->capacity || bytes > a->capacity - offset)
        return NULL;
    return a->shared->data + offset;
}
