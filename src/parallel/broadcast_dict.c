/* broadcast_dict.c - count, metadata, a vote, payload.
 *
 * The vote is what keeps the ranks in step: a rank that cannot take part says
 * so when nothing is under way yet, and then nobody does. Received metadata
 * are another process's bytes: they are checked before a size is believed. */
#include "parallel/broadcast_dict.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"

enum { ALIGN = 16 };

size_t dict_item_bytes(const struct dict_item *item)
{
    size_t bytes;

    if (item->dtype >= DTYPE_COUNT || item->n_dims > DICT_MAX_DIMS)
        return SIZE_MAX;
    bytes = dtype_bytes((enum dtype)item->dtype);
    for (uint32_t i = 0; i < item->n_dims; i++)
        if (__builtin_mul_overflow(bytes, item->shape[i], &bytes))
            return SIZE_MAX;
    return bytes > SIZE_MAX / 2 ? SIZE_MAX : bytes;
}

/* The bytes of all data, each padded to ALIGN. INVALID names the item. */
static enum status check_items(const struct dict *d, size_t *bytes)
{
    size_t all = 0;

    for (uint32_t i = 0; i < d->n; i++) {
        const struct dict_item *item = &d->items[i];
        size_t one = dict_item_bytes(item);

        if (memchr(item->name, 0, sizeof(item->name)) == NULL)
            return log_fail(STATUS_INVALID, "broadcast_dict: name %u is longer than %d bytes", i,
                DICT_NAME_BYTES - 1);
        if (one == SIZE_MAX ||
            __builtin_add_overflow(all, (one + ALIGN - 1) / ALIGN * ALIGN, &all))
            return log_fail(STATUS_INVALID,
                "broadcast_dict: \"%s\" has a type or shape that cannot be", item->name);
    }
    if (all > SIZE_MAX / 2)
        return log_fail(STATUS_INVALID, "broadcast_dict: %zu bytes in all cannot be", all);
    *bytes = all;
    return STATUS_OK;
}

/* The worst status of all ranks; those that had no fault of their own are told. */
static enum status vote(struct comm *host, enum status mine)
{
    int32_t word = mine, all[COMM_MAX_RANKS];
    enum status s = host->row->all_gather(host, &word, sizeof(word), all);

    if (s != STATUS_OK || mine != STATUS_OK)
        return s != STATUS_OK ? s : mine;
    for (int r = 0; r < host->size; r++)
        if (all[r] != STATUS_OK)
            return log_fail((enum status)all[r], "broadcast_dict: place %d of the group: %s", r,
                status_name((enum status)all[r]));
    return STATUS_OK;
}

/* Receivers: room for `n` items of metadata. */
static enum status make_items(struct dict *d, uint32_t n)
{
    if (n > DICT_MAX_ITEMS)
        return log_fail(STATUS_INVALID, "broadcast_dict: %u items, at most %d", n, DICT_MAX_ITEMS);
    d->items = calloc((size_t)n + 1, sizeof(*d->items));
    if (d->items == NULL)
        return log_fail(STATUS_NOMEM, "broadcast_dict: no memory for %u items", n);
    d->n = n;
    return STATUS_OK;
}

/* Receivers: room for the data; pointers of the root's process are replaced. */
static enum status make_data(struct dict *d, size_t bytes)
{
    char *at = aligned_alloc(ALIGN, bytes + ALIGN);

    for (uint32_t i = 0; i < d->n; i++)
        d->items[i].data = NULL;
    if (at == NULL)
        return log_fail(STATUS_NOMEM, "broadcast_dict: no memory for %zu bytes", bytes);
    d->items[d->n].data = at; /* one behind the last: the block, for dict_free() */
    for (uint32_t i = 0; i < d->n; i++) {
        d->items[i].data = at;
        at += (dict_item_bytes(&d->items[i]) + ALIGN - 1) / ALIGN * ALIGN;
    }
    return STATUS_OK;
}

static enum status send_items(struct comm *host, int root, struct dict *d)
{
    uint32_t n = d->n;
    size_t bytes;
    enum status s = n <= DICT_MAX_ITEMS
                        ? check_items(d, &bytes)
                        : log_fail(STATUS_INVALID, "broadcast_dict: %u items, at most %d", n,
                              DICT_MAX_ITEMS);
    enum status all = host->row->broadcast(host, root, &n, sizeof(n));

    if (all == STATUS_OK)
        all = vote(host, s);
    if (all == STATUS_OK)
        all = host->row->broadcast(host, root, d->items, n * sizeof(*d->items));
    return all == STATUS_OK ? vote(host, STATUS_OK) : all;
}

static enum status receive_items(struct comm *host, int root, struct dict *d)
{
    uint32_t n = 0;
    size_t bytes;
    enum status mine, s = host->row->broadcast(host, root, &n, sizeof(n));

    if (s == STATUS_OK)
        s = vote(host, make_items(d, n));
    if (s == STATUS_OK)
        s = host->row->broadcast(host, root, d->items, n * sizeof(*d->items));
    if (s != STATUS_OK)
        return s;
    d->items[n].data = NULL;
    mine = check_items(d, &bytes);
    if (mine == STATUS_OK)
        mine = make_data(d, bytes);
    return vote(host, mine);
}

static enum status move_payload(struct comm *channel, int root, struct dict *d)
{
    enum status s = STATUS_OK;

    for (uint32_t i = 0; s == STATUS_OK && i < d->n; i++)
        s = channel->row->broadcast(channel, root, d->items[i].data,
            dict_item_bytes(&d->items[i]));
    return s;
}

enum status broadcast_dict(struct comm *host, struct comm *channel, int root, struct dict *d)
{
    struct dict got = {0};
    enum status s;

    if (host == NULL || channel == NULL || host->size == 1)
        return STATUS_OK;
    if (host->rank == root) {
        s = send_items(host, root, d);
        return s == STATUS_OK ? move_payload(channel, root, d) : s;
    }
    s = receive_items(host, root, &got);
    if (s == STATUS_OK)
        s = move_payload(channel, root, &got);
    if (s != STATUS_OK)
        dict_free(&got);
    else
        *d = got;
    return s;
}

void dict_free(struct dict *d)
{
    if (d->items != NULL)
        free(d->items[d->n].data);
    free(d->items);
    *d = (struct dict){0};
}
