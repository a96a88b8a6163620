/* coll_shm.c - one-shot collectives: write yours, raise a flag, read everybody's.
 *
 * Floor of an all-reduce of n floats on r ranks: each rank writes 4n bytes and
 * reads 4nr; at decode sizes (4 to 20 KiB, in cache) the flag's hop dominates.
 * Two-shot pays from three ranks and large n; it is another row.
 *
 * Edges: E1 part -> flag_publish -> flag_wait -> read: bytes exist before the
 * flag says so. E2 a rank reuses buffer e only in call e + 2, after waiting for
 * all flags of e + 1, which their owners raise after having read e. */
#include "parallel/coll_shm.h"

#include <stdlib.h>
#include <string.h>

#include "ipc/flag.h"
#include "ipc/spin.h"
#include "quern/log.h"

enum { MAX_RANKS = 16, LINE = 64 };

/* A barrier's flags: one per thread of a rank, each with its own count of calls. */
struct channel {
    size_t data[2]; /* heap offsets, alternating */
    size_t flags;   /* struct shm_flag [threads] */
    uint32_t *epoch; /* [threads * (LINE / 4)], local: each thread writes its own line */
};

struct coll_shm {
    struct comm comm;
    struct coll_shm_options o;
    struct channel reduce, gather;
};

static struct shm_flag *flag_of(const struct coll_shm *c, const struct channel *ch, int rank,
    int thread)
{
    return (struct shm_flag *)symheap_at(c->o.heap, (uint32_t)rank, ch->flags) + thread;
}

/* Thread `thread`'s part of this call is in our region: says so, waits for its peers'. */
static enum status meet(struct coll_shm *c, struct channel *ch, int thread, uint32_t epoch)
{
    uint64_t deadline = spin_deadline_ns(c->o.deadline_ns);

    flag_publish(flag_of(c, ch, c->o.rank, thread), epoch); /* E1 */
    for (int r = 0; r < c->o.size; r++) {
        enum status s;

        if (r == c->o.rank)
            continue;
        s = flag_wait(flag_of(c, ch, r, thread), epoch, c->o.abort_word, deadline); /* E1, E2 */
        if (s == STATUS_TIMEOUT)
            return log_fail(s, "rank %d waited %llu s for rank %d in a collective: is it stopped?",
                c->o.rank, (unsigned long long)(c->o.deadline_ns / 1000000000u), r);
        if (s != STATUS_OK)
            return s;
    }
    return STATUS_OK;
}

static uint32_t next_epoch(struct channel *ch, int thread)
{
    return ++ch->epoch[(size_t)thread * (LINE / sizeof(uint32_t))];
}

static enum status oneshot_all_reduce(struct comm *comm, int thread, int threads, float *x,
    size_t n)
{
    struct coll_shm *c = comm->state;
    uint32_t epoch = next_epoch(&c->reduce, thread);
    size_t data = c->reduce.data[epoch & 1];
    /* Whole cache lines per thread: no two threads write one. */
    size_t lines = (n * sizeof(float) + LINE - 1) / LINE, per_line = LINE / sizeof(float);
    size_t first = lines * (size_t)thread / (size_t)threads * per_line;
    size_t last = lines * ((size_t)thread + 1) / (size_t)threads * per_line;
    const float *src[MAX_RANKS];
    enum status s;

    if (n > c->o.reduce_floats)
        return log_fail(STATUS_INTERNAL, "an all-reduce of %zu floats, room for %zu", n,
            c->o.reduce_floats);
    if (last > n)
        last = n;
    for (int r = 0; r < c->o.size; r++)
        src[r] = (const float *)symheap_at(c->o.heap, (uint32_t)r, data) + first;
    if (first < last)
        memcpy((float *)symheap_at(c->o.heap, (uint32_t)c->o.rank, data) + first, x + first,
            (last - first) * sizeof(float));
    s = meet(c, &c->reduce, thread, epoch);
    if (s == STATUS_OK && first < last)
        c->o.sum_ranks(x + first, src, c->o.size, last - first);
    return s;
}

/* Puts `bytes` of ours where peers can read them; OK with the heap offset of everybody's. */
static enum status share(struct coll_shm *c, const void *mine, size_t bytes, size_t *data)
{
    uint32_t epoch = next_epoch(&c->gather, 0);

    if (bytes > c->o.gather_bytes)
        return log_fail(STATUS_INTERNAL, "a gather of %zu bytes, room for %zu", bytes,
            c->o.gather_bytes);
    *data = c->gather.data[epoch & 1];
    memcpy(symheap_at(c->o.heap, (uint32_t)c->o.rank, *data), mine, bytes);
    return meet(c, &c->gather, 0, epoch);
}

static enum status oneshot_all_gather(struct comm *comm, const void *mine, size_t bytes, void *all)
{
    struct coll_shm *c = comm->state;
    size_t data;
    enum status s = share(c, mine, bytes, &data);

    for (int r = 0; s == STATUS_OK && r < c->o.size; r++)
        memcpy((char *)all + (size_t)r * bytes, symheap_at(c->o.heap, (uint32_t)r, data), bytes);
    return s;
}

static enum status oneshot_gather_rows(struct comm *comm, int root, const void *mine, size_t rows,
    const size_t *sizes, const size_t *offsets, void *out, size_t out_stride)
{
    struct coll_shm *c = comm->state;
    size_t data;
    enum status s = share(c, mine, rows * sizes[c->o.rank], &data);

    if (s != STATUS_OK || c->o.rank != root)
        return s;
    for (int r = 0; r < c->o.size; r++) {
        const char *src = symheap_at(c->o.heap, (uint32_t)r, data);

        for (size_t row = 0; row < rows; row++)
            memcpy((char *)out + row * out_stride + offsets[r], src + row * sizes[r], sizes[r]);
    }
    return STATUS_OK;
}

static const struct comm_row oneshot = {
    .name = "shm_oneshot",
    .all_reduce_f32 = oneshot_all_reduce,
    .all_gather = oneshot_all_gather,
    .gather_rows = oneshot_gather_rows,
};

static size_t page_up(size_t bytes)
{
    return (bytes + SYMHEAP_PAGE - 1) & ~(size_t)(SYMHEAP_PAGE - 1);
}

size_t coll_shm_heap_bytes(const struct coll_shm_options *o)
{
    size_t flags = page_up((size_t)o->threads * sizeof(struct shm_flag));

    return 2 * (page_up(o->reduce_floats * sizeof(float)) + page_up(o->gather_bytes)) + 2 * flags;
}

static enum status channel_open(struct coll_shm *c, struct channel *ch, size_t bytes)
{
    struct symheap *heap = c->o.heap;
    enum status s = symheap_alloc(heap, bytes, SYMHEAP_PAGE, &ch->data[0]);

    if (s == STATUS_OK)
        s = symheap_alloc(heap, bytes, SYMHEAP_PAGE, &ch->data[1]);
    if (s == STATUS_OK)
        s = symheap_alloc(heap, (size_t)c->o.threads * sizeof(struct shm_flag), SYMHEAP_PAGE,
            &ch->flags);
    if (s != STATUS_OK)
        return s;
    ch->epoch = aligned_alloc(LINE, (size_t)c->o.threads * LINE);
    if (ch->epoch == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a channel of %d threads", c->o.threads);
    memset(ch->epoch, 0, (size_t)c->o.threads * LINE);
    return STATUS_OK;
}

enum status coll_shm_open(const struct coll_shm_options *o, struct comm **out)
{
    struct coll_shm *c;
    enum status s;

    if (o->size < 1 || o->size > MAX_RANKS)
        return log_fail(STATUS_INVALID, "%d ranks: shared memory serves 1 to %d", o->size, MAX_RANKS);
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a group's channels");
    c->o = *o;
    c->comm = (struct comm){.rank = o->rank, .size = o->size, .row = &oneshot, .state = c};
    s = channel_open(c, &c->reduce, o->reduce_floats * sizeof(float));
    if (s == STATUS_OK)
        s = channel_open(c, &c->gather, o->gather_bytes);
    if (s != STATUS_OK) {
        coll_shm_close(&c->comm);
        return s;
    }
    *out = &c->comm;
    return STATUS_OK;
}

void coll_shm_close(struct comm *comm)
{
    struct coll_shm *c;

    if (comm == NULL)
        return;
    c = comm->state;
    free(c->reduce.epoch);
    free(c->gather.epoch);
    free(c);
}
