/* coll_channel.h - two buffers, a line of flags and counts of meetings, under every collective.
 *
 * A channel belongs to one group and one algorithm. Buffer `which` of every rank
 * lies at the same offset of its region of the symmetric heap, so a peer's is an
 * addition away. channel_meet() is a barrier between thread `thread` of all
 * ranks and nobody else: thread t only ever waits for the threads t of peers.
 *
 * Rules of use, from which every algorithm's safety follows:
 *   R1 all threads of a rank make the same number of meetings in a call, and the
 *      caller's barrier lies between two calls (comm.h). So a flag of call k + 1,
 *      raised by any thread of a rank, says that all its threads have left call k.
 *   R2 a buffer is written again only after a meeting that its last readers
 *      entered when they had read it.
 *
 * Memory: heap offsets and a local line per thread. Blocking: channel_meet()
 * alone. Death: the abort word (DEAD), or a deadline (TIMEOUT, logged). */
#ifndef QUERN_PARALLEL_COLL_CHANNEL_H
#define QUERN_PARALLEL_COLL_CHANNEL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/symheap_shm.h"
#include "quern/status.h"

enum { CHANNEL_LINE = 64 };

/* Who meets: shared by a group's channels, and outlives them. */
struct channel_peers {
    struct symheap *heap;
    _Atomic uint32_t *abort_word;
    const int *ranks; /* [size] the region, and the name in messages, of each place */
    int rank, size;   /* our place */
    int threads;
    uint64_t deadline_ns;
};

struct channel {
    const struct channel_peers *peers;
    size_t data[2], bytes[2]; /* heap offset and size of each buffer */
    size_t flags;             /* heap offset: struct flag [threads] */
    uint32_t *epoch;          /* meetings so far: a line per thread, which alone writes it */
};

/* Bytes of a region that channel_open() takes. */
size_t channel_heap_bytes(int threads, size_t bytes0, size_t bytes1);

/* Every rank alike. NOMEM. On failure there is nothing to close. */
enum status channel_open(struct channel *ch, const struct channel_peers *peers, size_t bytes0,
    size_t bytes1);
void channel_close(struct channel *ch);

/* Buffer `which` of the rank at `place`. */
static inline void *channel_at(const struct channel *ch, int place, int which)
{
    return symheap_at(ch->peers->heap, (uint32_t)ch->peers->ranks[place], ch->data[which]);
}

/* The number of thread `thread`'s next meeting: odd and even alternate. */
uint32_t channel_next(struct channel *ch, int thread);

/* All ranks' threads `thread` have come to meeting `epoch`, and what each wrote before is
 * visible. */
enum status channel_meet(struct channel *ch, int thread, uint32_t epoch);

/* After calls that thread 0 made alone, with the others not running: they count along. */
void channel_align(struct channel *ch);

#endif
