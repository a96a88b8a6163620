/* ring_buffer.h - circular byte allocator in shared memory for what is too long for
 * a ring's slot: the message carries (offset, bytes, end), the bytes lie here.
 *
 * Memory:   `struct ring_buffer_shared` in a segment, initialised once, no pointers;
 *           `struct ring_buffer` is one process's end, local memory. One producer,
 *           one consumer, first in first out: releasing an allocation's `end`
 *           releases everything allocated before it. A page is touched only when
 *           it is used: what finds the buffer empty begins at its first byte again.
 * Blocking: never, no system call; to sleep while there is no room see doorbell.h.
 * Order:    the ring's publish makes the bytes visible. Reserve the ring slot
 *           first, then allocate: what is allocated and never sent stays taken
 *           until a later allocation's end is released.
 * Death:    nothing to do; the supervisor initialises it anew for the next
 *           generation. */
#ifndef IPC_RING_BUFFER_H
#define IPC_RING_BUFFER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum { RING_BUFFER_ALIGN = 64 };

struct ring_buffer_shared {
    uint32_t magic, generation;         /* ring_buffer_init() writes, before sharing */
    uint64_t capacity;                  /* ring_buffer_init() writes, before sharing */
    _Alignas(64) _Atomic uint64_t tail; /* producer writes: bytes ever allocated */
    uint64_t origin;                    /* producer writes, alone reads: the tail that last was at
                                         * offset 0 because all had been released */
    _Alignas(64) _Atomic uint64_t head; /* consumer writes: bytes ever released */
    _Alignas(64) unsigned char data[];
};

struct ring_buffer {
    struct ring_buffer_shared *shared;
    uint64_t capacity; /* checked copy */
};

/* Bytes for a ring buffer of `capacity` bytes, which is rounded up to 128; 0 when
 * the number is impossible. */
size_t ring_buffer_bytes(size_t capacity);

/* Makes an empty ring buffer of ring_buffer_bytes() at `mem` (64-byte aligned). Nobody may
 * be attached. INVALID for an impossible capacity. */
enum status ring_buffer_init(void *mem, size_t capacity, uint32_t generation);

/* One end of the ring buffer at `mem`, of which `available` bytes may be used.
 * INVALID when there is none that fits in there, or one of another generation. */
enum status ring_buffer_attach(void *mem, size_t available, uint32_t generation, struct ring_buffer *out);

/* Producer. `bytes` in one piece at *offset (a multiple of 64); *end is what
 * the consumer releases. OK; AGAIN when there is no room now; INVALID for more
 * than half the capacity, which might never fit. Zero bytes are allowed. An
 * empty buffer has room and gives offset 0. */
enum status ring_buffer_alloc(struct ring_buffer *a, size_t bytes, uint64_t *offset, uint64_t *end);

/* ring_buffer_alloc() would not say AGAIN. */
bool ring_buffer_has_room(const struct ring_buffer *a, size_t bytes);

/* Consumer. Everything allocated before `end` may be overwritten. INVALID for
 * an `end` that was not allocated or was passed already: the message that
 * carried it lied. */
enum status ring_buffer_release(struct ring_buffer *a, uint64_t end);

/* The `bytes` at `offset`, NULL when they do not all lie in the ring buffer: a
 * message's numbers are never trusted. */
void *ring_buffer_at(const struct ring_buffer *a, uint64_t offset, size_t bytes);

#endif
