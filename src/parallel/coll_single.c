/* coll_single.c - what one thread of each rank exchanges: records, logits, broadcasts.
 *
 * On a channel of their own: the threads that stay away do not count along. The
 * buffers alternate as in coll_oneshot.c. A broadcast of any length goes in
 * pieces; gathers are bounded by what the group was opened for. */
#include <stdbool.h>

#include "parallel/coll_internal.h"
#include "quern/log.h"

/* Puts `bytes` of ours where peers can read them; OK with which buffer it is. */
static enum status share(struct coll_shm *c, enum coll_op op, const void *mine, size_t bytes,
    int *which)
{
    struct channel *ch = &c->single;
    uint32_t epoch = channel_next(ch, 0);

    if (bytes > ch->bytes[0])
        return log_fail(STATUS_INTERNAL, "%s of %zu bytes, room for %zu", coll_op_name(op), bytes,
            ch->bytes[0]);
    *which = epoch & 1;
    if (bytes > 0)
        copy_bytes(channel_at(ch, c->o.rank, *which), mine, bytes);
    return channel_meet(ch, 0, epoch);
}

enum status single_all_gather(struct comm *comm, const void *mine, size_t bytes, void *all)
{
    struct coll_shm *c = coll_of(comm);
    int which;
    enum status s = share(c, COLL_ALL_GATHER, mine, bytes, &which);

    for (int r = 0; s == STATUS_OK && bytes > 0 && r < c->o.size; r++)
        copy_bytes((char *)all + (size_t)r * bytes, channel_at(&c->single, r, which), bytes);
    return s;
}

enum status single_gather_rows(struct comm *comm, int root, const void *mine, size_t rows,
    const size_t *sizes, const size_t *offsets, void *out, size_t out_stride)
{
    struct coll_shm *c = coll_of(comm);
    int which;
    enum status s = share(c, COLL_GATHER_ROWS, mine, rows * sizes[c->o.rank], &which);

    if (s != STATUS_OK || c->o.rank != root)
        return s;
    for (int r = 0; r < c->o.size; r++) {
        const char *src = channel_at(&c->single, r, which);

        for (size_t row = 0; row < rows; row++)
            copy_bytes((char *)out + row * out_stride + offsets[r], src + row * sizes[r], sizes[r]);
    }
    return STATUS_OK;
}

enum status single_broadcast(struct comm *comm, int root, void *data, size_t bytes)
{
    struct coll_shm *c = coll_of(comm);
    bool sends = c->o.rank == root;

    for (size_t done = 0, n; done < bytes; done += n) {
        int which;
        enum status s;

        n = bytes - done < c->single.bytes[0] ? bytes - done : c->single.bytes[0];
        s = share(c, COLL_BROADCAST, (char *)data + done, sends ? n : 0, &which);
        if (s != STATUS_OK)
            return s;
        if (!sends)
            copy_bytes((char *)data + done, channel_at(&c->single, root, which), n);
    }
    return STATUS_OK;
}
