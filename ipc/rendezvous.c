/* rendezvous.c - a barrier with gifts.
 *
 * Every rank has a seat that only it writes, and a counter of rounds there: so
 * there is no shared counter to repair when somebody dies half-way, and whoever
 * is missing can be named. A fast rank may be in round k+1 while a slow one
 * still reads the blobs of round k, but never in k+2, for that takes the slow
 * one's joining k+1: two blobs per seat are enough.
 *
 * E1 join --joined--> join of a peer: the blob exists before the round says so
 *    (release and acquire are flag.c's). */
#include "ipc/rendezvous.h"

#include <stdio.h>
#include <string.h>

#include "quern/spin.h"
#include "quern/log.h"

enum { RENDEZVOUS_MAGIC = 0x646e6572 }; /* "rend" */

size_t rendezvous_bytes(uint32_t ranks)
{
    if (ranks == 0 || ranks > RENDEZVOUS_RANKS)
        return 0;
    return sizeof(struct rendezvous_shared) + ranks * sizeof(struct rendezvous_seat);
}

enum status rendezvous_init(void *mem, uint32_t ranks, uint32_t generation)
{
    struct rendezvous_shared *shared = mem;

    if (rendezvous_bytes(ranks) == 0 || (uintptr_t)mem % 64 != 0)
        return log_fail(STATUS_INVALID, "rendezvous: %u ranks at %p, 1 to %d are possible", ranks,
            mem, RENDEZVOUS_RANKS);
    shared->magic = RENDEZVOUS_MAGIC;
    shared->generation = generation;
    shared->ranks = ranks;
    for (uint32_t i = 0; i < ranks; i++) {
        flag_init(&shared->seats[i].joined, FLAG_BETWEEN_PROCESSES);
        memset(shared->seats[i].blob_bytes, 0, sizeof(shared->seats[i].blob_bytes));
    }
    return STATUS_OK;
}

enum status rendezvous_attach(void *mem, size_t available, struct rendezvous *out)
{
    struct rendezvous_shared *shared = mem;
    uint32_t ranks;

    if (available < sizeof(*shared) || (uintptr_t)mem % 64 != 0 ||
        shared->magic != RENDEZVOUS_MAGIC)
        return log_fail(
            STATUS_INVALID, "rendezvous: there is none at this place (%zu bytes)", available);
    ranks = shared->ranks;
    if (rendezvous_bytes(ranks) == 0 || rendezvous_bytes(ranks) > available)
        return log_fail(
            STATUS_INVALID, "rendezvous: %u ranks do not fit into %zu bytes", ranks, available);
    *out = (struct rendezvous){.shared = shared, .ranks = ranks};
    return STATUS_OK;
}

/* Logs who has not joined `round`: the first few by name when there are many. */
static enum status missing(const struct rendezvous *r, uint32_t round, uint64_t waited_ns)
{
    double seconds = (double)waited_ns / 1e9;
    int digits = seconds < 10 ? 1 : 0;
    char names[256];
    size_t length = 0;
    uint32_t count = 0, named = 0;

    for (uint32_t i = 0; i < r->ranks; i++) {
        if ((int32_t)(flag_value(&r->shared->seats[i].joined) - round) >= 0)
            continue;
        count++;
        if (length >= sizeof(names) - 16)
            continue;
        length += (size_t)snprintf(
            names + length, sizeof(names) - length, "%s%u", named > 0 ? ", " : "", i);
        named++;
    }
    if (count == 0) /* the last one came just now, too late for us */
        return log_fail(
            STATUS_TIMEOUT, "rendezvous: joining took longer than %.*f s", digits, seconds);
    return log_fail(STATUS_TIMEOUT, "rendezvous: rank%s %s%s of %u did not join within %.*f s",
        count > 1 ? "s" : "", names, named < count ? ", ..." : "", r->ranks, digits, seconds);
}

static enum status wait_for_all(const struct rendezvous *r, uint32_t rank, uint32_t round,
    const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    uint64_t started = spin_now_ns();

    for (uint32_t i = 0; i < r->ranks; i++) {
        enum status s = flag_wait(&r->shared->seats[i].joined, round, abort_word, deadline_ns);

        if (s == STATUS_DEAD)
            return log_fail(
                s, "rendezvous: the group was stopped while rank %u waited for rank %u", rank, i);
        if (s == STATUS_TIMEOUT)
            return missing(r, round, deadline_ns > started ? deadline_ns - started : 0);
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

enum status rendezvous_join(struct rendezvous *r, uint32_t rank, uint32_t generation,
    const void *blob, size_t blob_bytes, const _Atomic uint32_t *abort_word, uint64_t deadline_ns)
{
    struct rendezvous_seat *seat;
    enum status s;
    uint32_t round;

    if (r->shared->generation != generation)
        return log_fail(STATUS_INVALID,
            "rendezvous: belongs to generation %u, rank %u to generation %u: it must end",
            r->shared->generation, rank, generation);
    if (rank >= r->ranks || blob_bytes > RENDEZVOUS_BLOB_BYTES)
        return log_fail(STATUS_INVALID,
            "rendezvous: rank %u of %u with %zu bytes: at most %d bytes are possible", rank,
            r->ranks, blob_bytes, RENDEZVOUS_BLOB_BYTES);
    seat = &r->shared->seats[rank];
    round = flag_value(&seat->joined) + 1;
    if (blob_bytes > 0)
        memcpy(seat->blob[round & 1], blob, blob_bytes);
    seat->blob_bytes[round & 1] = (uint32_t)blob_bytes;
    flag_publish(&seat->joined, round);                        /* E1 */
    s = wait_for_all(r, rank, round, abort_word, deadline_ns); /* E1 */
    if (s == STATUS_OK)
        r->round = round;
    return s;
}

const void *rendezvous_blob(const struct rendezvous *r, uint32_t rank, size_t *bytes)
{
    const struct rendezvous_seat *seat;
    uint32_t length;

    if (rank >= r->ranks || r->round == 0)
        return NULL;
    seat = &r->shared->seats[rank];
    length = seat->blob_bytes[r->round & 1];
    *bytes = length < RENDEZVOUS_BLOB_BYTES ? length : RENDEZVOUS_BLOB_BYTES;
    return seat->blob[r->round & 1];
}
