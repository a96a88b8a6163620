/* rendezvous.h - N ranks meet, each bringing a few bytes for all.
 *
 * Memory:   `struct rendezvous_shared` in a segment, initialised by the
 *           supervisor, one per group and generation; `struct rendezvous` is
 *           one process's view, local memory. No pointers are shared.
 * Blocking: rendezvous_join() waits for the others as flag_wait() does: a short
 *           spin, then asleep.
 * Rounds:   any number, each rank joining once per round, in step. Blobs of a
 *           round can be read until the reader itself joins again.
 * Death:    the supervisor sets the abort word; without it, the deadline ends
 *           the wait and the message names who did not come. After either the
 *           group is done for: it starts again with the next generation. */
#ifndef IPC_RENDEZVOUS_H
#define IPC_RENDEZVOUS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/flag.h"
#include "quern/status.h"

enum { RENDEZVOUS_RANKS = 256, RENDEZVOUS_BLOB_BYTES = 256 };

struct rendezvous_seat {
    struct flag joined; /* its rank publishes: rounds joined so far */
    uint32_t blob_bytes[2]; /* its rank writes; of even and odd rounds */
    _Alignas(64) unsigned char blob[2][RENDEZVOUS_BLOB_BYTES]; /* its rank writes */
};

struct rendezvous_shared {
    uint32_t magic, generation, ranks; /* rendezvous_init() writes, before sharing */
    _Alignas(64) struct rendezvous_seat seats[];
};

struct rendezvous {
    struct rendezvous_shared *shared;
    uint32_t ranks; /* checked copy */
    uint32_t round; /* the last one joined here; 0: none yet */
};

/* Bytes for 1 to 256 ranks; 0 for other numbers. */
size_t rendezvous_bytes(uint32_t ranks);

/* Makes one with empty seats at `mem` (64-byte aligned). Nobody may be
 * attached. INVALID for an impossible number of ranks. */
enum status rendezvous_init(void *mem, uint32_t ranks, uint32_t generation);

/* INVALID when the `available` bytes at `mem` hold no rendezvous. */
enum status rendezvous_attach(void *mem, size_t available, struct rendezvous *out);

/* Leaves `blob` [blob_bytes, at most 256] and waits until all ranks have joined
 * this round. INVALID: another generation, no such rank, too long a blob. DEAD:
 * *abort_word (may be NULL) is not 0. TIMEOUT: deadline_ns (CLOCK_MONOTONIC,
 * SPIN_FOREVER for none) passed. */
enum status rendezvous_join(struct rendezvous *r, uint32_t rank, uint32_t generation,
    const void *blob, size_t blob_bytes, const _Atomic uint32_t *abort_word, uint64_t deadline_ns);

/* What `rank` left in the round joined last, and its length; NULL for no such
 * rank or before any round. The bytes were written by another process: check
 * them. */
const void *rendezvous_blob(const struct rendezvous *r, uint32_t rank, size_t *bytes);

#endif
