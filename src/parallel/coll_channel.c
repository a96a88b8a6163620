/* coll_channel.c - a barrier by flags: raise ours, look at everybody's.
 *
 * No counter is shared: each flag has one writer, so a meeting costs each rank
 * one store and size - 1 reads of lines that move once. The deadline's clock is
 * read only when somebody is late.
 *
 * E1 data -> flag_publish -> flag_wait -> read: bytes exist before the flag says so. */
#include "parallel/coll_channel.h"

#include <stdlib.h>
#include <string.h>

#include "quern/flag.h"
#include "quern/spin.h"
#include "quern/log.h"

/* All that a channel has on a heap. */
static enum status take(struct channel *ch, struct symheap *heap, int threads)
{
    enum status s = symheap_alloc(heap, ch->bytes[0], SYMHEAP_PAGE, &ch->data[0]);

    if (s == STATUS_OK)
        s = symheap_alloc(heap, ch->bytes[1], SYMHEAP_PAGE, &ch->data[1]);
    if (s == STATUS_OK)
        s = symheap_alloc(heap, (size_t)threads * sizeof(struct flag), SYMHEAP_PAGE,
            &ch->flags);
    return s;
}

/* Counted on a heap without end; the next channel begins on a page. */
size_t channel_heap_bytes(int threads, size_t bytes0, size_t bytes1)
{
    struct symheap counted = {.region_bytes = SIZE_MAX};
    struct channel c = {.bytes = {bytes0, bytes1}};

    (void)take(&c, &counted, threads);
    return (counted.used + SYMHEAP_PAGE - 1) & ~(size_t)(SYMHEAP_PAGE - 1);
}

enum status channel_open(struct channel *ch, const struct channel_peers *peers, size_t bytes0,
    size_t bytes1)
{
    struct channel c = {.peers = peers, .bytes = {bytes0, bytes1}};
    enum status s = take(&c, peers->heap, peers->threads);

    if (s != STATUS_OK)
        return s;
    c.epoch = aligned_alloc(CHANNEL_LINE, (size_t)peers->threads * CHANNEL_LINE);
    if (c.epoch == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a channel of %d threads", peers->threads);
    memset(c.epoch, 0, (size_t)peers->threads * CHANNEL_LINE);
    *ch = c;
    return STATUS_OK;
}

void channel_close(struct channel *ch)
{
    free(ch->epoch);
    *ch = (struct channel){0};
}

static uint32_t *epoch_of(struct channel *ch, int thread)
{
    return &ch->epoch[(size_t)thread * (CHANNEL_LINE / sizeof(uint32_t))];
}

static struct flag *flag_of(const struct channel *ch, int place, int thread)
{
    const struct channel_peers *p = ch->peers;

    return (struct flag *)symheap_at(p->heap, (uint32_t)p->ranks[place], ch->flags) + thread;
}

uint32_t channel_next(struct channel *ch, int thread)
{
    return ++*epoch_of(ch, thread);
}

static enum status wait_for(const struct channel *ch, int place, int thread, uint32_t epoch,
    uint64_t deadline)
{
    const struct channel_peers *p = ch->peers;
    enum status s = flag_wait(flag_of(ch, place, thread), epoch, p->abort_word, deadline); /* E1 */

    if (s == STATUS_TIMEOUT)
        return log_fail(s, "rank %d waited %llu s for rank %d in a collective: is it stopped?",
            p->ranks[p->rank], (unsigned long long)(p->deadline_ns / 1000000000u),
            p->ranks[place]);
    return s;
}

enum status channel_meet(struct channel *ch, int thread, uint32_t epoch)
{
    const struct channel_peers *p = ch->peers;
    uint64_t deadline = 0;
    enum status s = STATUS_OK;

    flag_publish(flag_of(ch, p->rank, thread), epoch); /* E1 */
    for (int r = 0; s == STATUS_OK && r < p->size; r++) {
        /* flag_value() acquires: E1 */
        if (r == p->rank || (int32_t)(flag_value(flag_of(ch, r, thread)) - epoch) >= 0)
            continue;
        if (deadline == 0)
            deadline = spin_deadline_ns(p->deadline_ns);
        s = wait_for(ch, r, thread, epoch, deadline);
    }
    return s;
}

void channel_align(struct channel *ch)
{
    uint32_t epoch = *epoch_of(ch, 0);

    for (int t = 1; t < ch->peers->threads; t++) {
        *epoch_of(ch, t) = epoch;
        flag_publish(flag_of(ch, ch->peers->rank, t), epoch); /* E1 */
    }
}
