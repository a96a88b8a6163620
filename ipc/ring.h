/* ring.h - one-writer, one-reader message ring in shared memory.
 *
 * Memory:   `struct ring_shared` lies in a segment (segment.h), is initialised
 *           once by whoever owns that, and holds no pointers. `struct ring` is
 *           one process's end of it: plain local memory, one for the producer
 *           and one for the consumer, each used by one thread at a time.
 * Blocking: never, no system call; to sleep while it is empty, or full, see
 *           doorbell.h.
 * Death:    closed by the producer, or by the supervisor after reaping either
 *           end; what was published before stays readable. Everything carries
 *           the group's generation: an end of another generation cannot attach. */
#ifndef IPC_RING_H
#define IPC_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

struct ring_shared {
    uint32_t magic, generation;           /* ring_init() writes, before sharing */
    uint32_t slots, slot_bytes;           /* ring_init() writes, before sharing */
    _Alignas(64) _Atomic uint32_t tail;   /* producer writes: messages ever published */
    _Alignas(64) _Atomic uint32_t head;   /* consumer writes: messages ever released */
    _Alignas(64) _Atomic uint32_t closed; /* producer or supervisor writes: 0 -> 1 only */
    _Alignas(64) unsigned char data[];
};

struct ring {
    struct ring_shared *shared;
    uint32_t slots, slot_bytes, stride; /* checked copies: the shared ones are not trusted again */
    uint32_t tail_seen;                 /* consumer: a past value of tail */
    uint32_t head_seen;                 /* producer: a past value of head */
};

/* Bytes for `slots` (a power of two) of `slot_bytes` each, slots aligned to 8
 * bytes; 0 when the numbers are impossible. */
size_t ring_bytes(uint32_t slots, uint32_t slot_bytes);

/* Makes an empty open ring of ring_bytes() at `mem` (64-byte aligned). Nobody
 * may be attached. INVALID for impossible numbers. */
enum status ring_init(void *mem, uint32_t slots, uint32_t slot_bytes, uint32_t generation);

/* One end of the ring at `mem`, of which `available` bytes may be used. INVALID
 * when there is no ring that fits in there, or one of another generation. */
enum status ring_attach(void *mem, size_t available, uint32_t generation, struct ring *out);

/* Producer. OK, AGAIN (full) or CLOSED; INTERNAL when the indices were
 * damaged. *slot [slot_bytes] is lent until ring_publish(). */
enum status ring_reserve(struct ring *r, void **slot);
/* The reserved slot becomes readable. */
void ring_publish(struct ring *r);

/* Several messages at once: the slot `ahead` places behind the next one, as
 * ring_reserve() (which is this with 0). AGAIN also for ahead >= slots. */
enum status ring_reserve_at(struct ring *r, uint32_t ahead, void **slot);
/* The next n slots, all reserved, become readable in one store: the consumer
 * sees none of them or all. */
void ring_publish_many(struct ring *r, uint32_t n);

/* Consumer. OK, AGAIN (empty) or CLOSED (and everything read); INTERNAL when
 * the indices were damaged. *slot [slot_bytes] is lent until ring_release(). */
enum status ring_peek(struct ring *r, const void **slot);
/* The peeked slot may be overwritten. */
void ring_release(struct ring *r);

/* No more messages will come; idempotent. */
void ring_close(struct ring *r);

/* Messages published and not released: exact for either end when the other
 * stands still, else a lower bound for the consumer, an upper one for the
 * producer. */
uint32_t ring_pending(const struct ring *r);

#endif
