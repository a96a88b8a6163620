/* broadcast_ring.h - one-writer ring that up to 16 readers each read in full.
 *
 * Memory:   as ring.h: `struct broadcast_ring_shared` in a segment, initialised once,
 *           no pointers; `struct broadcast_ring` is one process's end, local memory.
 * Blocking: never, no system call; to sleep see doorbell.h (one per reader,
 *           and one for a writer that waits for room). The writer is held back
 *           by the slowest live reader.
 * Death:    the supervisor drops a reader it has reaped (and rings the writer's
 *           bell, as a release does), and the writer goes on without it; closed by the writer, or by the supervisor after
 *           reaping the writer: what was published stays readable. */
#ifndef IPC_BROADCAST_RING_H
#define IPC_BROADCAST_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

enum { BROADCAST_RING_READERS = 16 };

struct broadcast_ring_head {
    _Alignas(64) _Atomic uint32_t released; /* its reader writes: messages ever released */
};

struct broadcast_ring_shared {
    uint32_t magic, generation;            /* broadcast_ring_init() writes, before sharing */
    uint32_t slots, slot_bytes;            /* broadcast_ring_init() writes, before sharing */
    uint32_t readers;                      /* broadcast_ring_init() writes, before sharing */
    _Alignas(64) _Atomic uint32_t tail;    /* writer writes: messages ever published */
    _Alignas(64) _Atomic uint32_t closed;  /* writer or supervisor writes: 0 -> 1 only */
    _Alignas(64) _Atomic uint32_t dropped; /* supervisor writes: bit r set = reader r is dead */
    struct broadcast_ring_head heads[BROADCAST_RING_READERS];
    _Alignas(64) unsigned char data[];
};

struct broadcast_ring {
    struct broadcast_ring_shared *shared;
    uint32_t slots, slot_bytes, stride, readers; /* checked copies */
    uint32_t tail_seen;                          /* readers: a past value of tail */
    uint32_t slowest_seen;                       /* writer: a past slowest head */
};

/* Bytes for `slots` (a power of two) of `slot_bytes` each, slots aligned to 8
 * bytes; 0 when the numbers are impossible. */
size_t broadcast_ring_bytes(uint32_t slots, uint32_t slot_bytes);

/* Makes an empty open ring of broadcast_ring_bytes() at `mem` (64-byte aligned) for
 * readers 0..readers-1. None (a leader without followers) is allowed: then
 * nothing ever holds the writer back. INVALID for impossible numbers. */
enum status broadcast_ring_init(
    void *mem, uint32_t slots, uint32_t slot_bytes, uint32_t readers, uint32_t generation);

/* One end of the ring at `mem`, of which `available` bytes may be used. INVALID
 * when there is none that fits in there, or one of another generation. */
enum status broadcast_ring_attach(void *mem, size_t available, uint32_t generation, struct broadcast_ring *out);

/* Writer. OK, AGAIN (the slowest live reader is a full ring behind) or CLOSED.
 * *slot [slot_bytes] is lent until broadcast_ring_publish(). INTERNAL when the indices
 * were damaged. */
enum status broadcast_ring_reserve(struct broadcast_ring *f, void **slot);
void broadcast_ring_publish(struct broadcast_ring *f);

/* Reader. OK, AGAIN (nothing new) or CLOSED (and everything read by this one);
 * INVALID for a reader that is none, INTERNAL when the indices were damaged.
 * *slot [slot_bytes] is lent until broadcast_ring_release(). */
enum status broadcast_ring_peek(struct broadcast_ring *f, uint32_t reader, const void **slot);
/* Only after a peek that was OK. */
void broadcast_ring_release(struct broadcast_ring *f, uint32_t reader);

/* No more messages will come; idempotent. */
void broadcast_ring_close(struct broadcast_ring *f);

/* Supervisor, after reaping it: the reader no longer holds the writer back.
 * INVALID for a reader that is none. */
enum status broadcast_ring_drop(struct broadcast_ring *f, uint32_t reader);

/* Messages that `reader` has not released yet. */
uint32_t broadcast_ring_pending(const struct broadcast_ring *f, uint32_t reader);

#endif
