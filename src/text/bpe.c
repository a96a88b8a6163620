/* bpe.c - one order of merges, three ways to reach it.
 *
 * A word cache first: running text is mostly the same few thousand words. A
 * piece of up to SHORT_BYTES bytes is merged in a small array, searched from
 * end to end for each merge, which beats any cleverer structure at that size.
 * A longer piece is a linked list over its bytes with a heap of candidate
 * merges, each one 64-bit number (rank, then position), so that the heap's order
 * is the rule of the format itself. Entries are not removed when a merge makes
 * them stale: one is valid exactly if its rank is still the rank of the pair
 * that starts at its position. */
#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "quern/log.h"

#define BPE_NO_PAIR UINT64_MAX
#define NO_RANK UINT32_MAX
#define NO_POSITION UINT32_MAX

enum {
    SHORT_BYTES = 48,
    CACHE_WORDS = 1 << 15,
    CACHED_BYTES = 34,
    CACHED_IDS = 7,
    FIRST_SLOTS = 1 << 15, /* a table is three quarters full at most */
    MOST_SLOTS = 1 << 30,
};

struct bpe_word { /* one cache line; text_bytes 0: free */
    uint8_t text_bytes, id_count;
    char text[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
};
_Static_assert(sizeof(struct bpe_word) == 64, "a cached word is one cache line");

bool token_ids_reserve(struct token_ids *t, size_t more)
{
    size_t room = t->room == 0 ? 64 : t->room;
    int32_t *grown;

    if (t->room - t->count >= more)
        return true;
    while (room - t->count < more)
        room *= 2;
    grown = realloc(t->ids, room * sizeof(*grown));
    if (grown == NULL)
        return false;
    t->ids = grown;
    t->room = room;
    return true;
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t slot_of(uint64_t pair)
{
    return (uint32_t)((pair ^ pair >> 29) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

/* The slot that holds `pair`, or the free one where it belongs. */
static struct bpe_merge *find_slot(const struct bpe *b, uint64_t pair)
{
    uint32_t at = slot_of(pair) & b->mask;

    while (b->merges[at].pair != pair && b->merges[at].pair != BPE_NO_PAIR)
        at = (at + 1) & b->mask;
    return &b->merges[at];
}

/* A table of so many slots in place of the one that is there. */
static enum status make_slots(struct bpe *b, uint32_t slots)
{
    struct bpe_merge *old = b->merges, *fresh = malloc(slots * sizeof(*fresh));
    uint32_t old_slots = old == NULL ? 0 : b->mask + 1;

    if (fresh == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a table of %u merges", slots);
    memset(fresh, 0xff, slots * sizeof(*fresh)); /* every pair is BPE_NO_PAIR */
    b->merges = fresh;
    b->mask = slots - 1;
    for (uint32_t i = 0; i < old_slots; i++)
        if (old[i].pair != BPE_NO_PAIR)
            *find_slot(b, old[i].pair) = old[i];
    free(old);
    return STATUS_OK;
}

enum status bpe_init(struct bpe *b)
{
    *b = (struct bpe){ .cache = calloc(CACHE_WORDS, sizeof(*b->cache)) };
    if (b->cache == NULL)
        return log_fail(STATUS_NOMEM, "out of memory for a cache of words");
    return make_slots(b, FIRST_SLOTS);
}

static void scratch_free(struct bpe_scratch *s)
{
    free(s->id);
    free(s->next);
    free(s->prev);
    free(s->rank);
    free(s->heap);
    *s = (struct bpe_scratch){ 0 };
}

void bpe_free(struct bpe *b)
{
    free(b->merges);
    free(b->cache);
    scratch_free(&b->scratch);
    *b = (struct bpe){ 0 };
}

enum status bpe_add_merge(struct bpe *b, int32_t left, int32_t right, int32_t merged)
{
    struct bpe_merge m = { .pair = pair_of(left, right), .rank = b->count, .merged = merged };
    struct bpe_merge *slot = find_slot(b, m.pair);

    if (slot->pair == BPE_NO_PAIR && b->used >= b->mask / 4 * 3) {
        enum status s = b->mask + 1 < MOST_SLOTS
                            ? make_slots(b, 2 * (b->mask + 1))
                            : log_fail(STATUS_NOMEM, "%u merges are too many", b->count);

        if (s != STATUS_OK)
            return s;
        slot = find_slot(b, m.pair);
    }
    b->used += slot->pair == BPE_NO_PAIR;
    b->count++;
    *slot = m;
    return STATUS_OK;
}

static uint32_t rank_of(const struct bpe *b, int32_t left, int32_t right)
{
    return find_slot(b, pair_of(left, right))->rank; /* a free slot's is NO_RANK */
}

/* At most SHORT_BYTES bytes: returns how many ids were written. */
static size_t encode_short(const struct bpe *b, const char *piece, size_t bytes, int32_t *id)
{
    uint32_t rank[SHORT_BYTES];
    size_t n = bytes;

    for (size_t i = 0; i < n; i++)
        id[i] = b->byte_id[(unsigned char)piece[i]];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, id[i], id[i + 1]);
    while (n > 1) {
        size_t best = 0;

        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == NO_RANK)
            break;
        id[best] = find_slot(b, pair_of(id[best], id[best + 1]))->merged;
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof(*id));
        if (best + 1 < n)
            memmove(rank + best, rank + best + 1, (n - best - 1) * sizeof(*rank));
        if (best + 1 < n)
            rank[best] = rank_of(b, id[best], id[best + 1]);
        if (best > 0)
            rank[best - 1] = rank_of(b, id[best - 1], id[best]);
    }
    return n;
}

static void sift_up(uint64_t *heap, size_t at)
{
    uint64_t moving = heap[at];

    for (; at > 0 && heap[(at - 1) / 2] > moving; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = moving;
}

static void sift_down(uint64_t *heap, size_t count, size_t at)
{
    uint64_t moving = heap[at];

    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= moving)
            break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

/* Every byte is pushed once at first and each merge pushes at most two more
 * entries, having popped one: 2n entries are always enough. */
static bool scratch_reserve(struct bpe_scratch *s, size_t bytes)
{
    if (s->room >= bytes)
        return true;
    scratch_free(s);
    s->id = malloc(bytes * sizeof(*s->id));
    s->next = malloc(bytes * sizeof(*s->next));
    s->prev = malloc(bytes * sizeof(*s->prev));
    s->rank = malloc(bytes * sizeof(*s->rank));
    s->heap = malloc(2 * bytes * sizeof(*s->heap));
    if (!s->id || !s->next || !s->prev || !s->rank || !s->heap) {
        scratch_free(s);
        return false;
    }
    s->room = bytes;
    return true;
}

/* The list of single bytes, and a heap of all merges that it allows. */
static size_t fill_list(const struct bpe *b, const char *piece, size_t bytes)
{
    const struct bpe_scratch *s = &b->scratch;
    size_t heap_count = 0;

    for (size_t i = 0; i < bytes; i++) {
        s->id[i] = b->byte_id[(unsigned char)piece[i]];
        s->prev[i] = i == 0 ? NO_POSITION : (uint32_t)(i - 1);
        s->next[i] = i + 1 == bytes ? NO_POSITION : (uint32_t)(i + 1);
    }
    for (size_t i = 0; i < bytes; i++) {
        s->rank[i] = i + 1 == bytes ? NO_RANK : rank_of(b, s->id[i], s->id[i + 1]);
        if (s->rank[i] != NO_RANK)
            s->heap[heap_count++] = (uint64_t)s->rank[i] << 32 | i;
    }
    for (size_t i = heap_count / 2; i-- > 0;)
        sift_down(s->heap, heap_count, i);
    return heap_count;
}

/* The pair that starts at `at` is a new one: its rank, and its place in the heap. */
static void renew(const struct bpe *b, uint32_t at, size_t *heap_count)
{
    const struct bpe_scratch *s = &b->scratch;

    s->rank[at] = s->next[at] == NO_POSITION ? NO_RANK
                                             : rank_of(b, s->id[at], s->id[s->next[at]]);
    if (s->rank[at] == NO_RANK)
        return;
    s->heap[*heap_count] = (uint64_t)s->rank[at] << 32 | at;
    sift_up(s->heap, (*heap_count)++);
}

/* Joins the token at `at` with its successor, which leaves the list. */
static void join(const struct bpe *b, uint32_t at, size_t *heap_count)
{
    const struct bpe_scratch *s = &b->scratch;
    uint32_t gone = s->next[at], after = s->next[gone];

    s->id[at] = find_slot(b, pair_of(s->id[at], s->id[gone]))->merged;
    s->rank[gone] = NO_RANK; /* its entries are stale */
    s->next[at] = after;
    if (after != NO_POSITION)
        s->prev[after] = at;
    renew(b, at, heap_count);
    if (s->prev[at] != NO_POSITION)
        renew(b, s->prev[at], heap_count);
}

static enum status encode_long(struct bpe *b, const char *piece, size_t bytes,
    struct token_ids *out)
{
    const struct bpe_scratch *s = &b->scratch;
    size_t heap_count;

    if (bytes > INT32_MAX)
        return log_fail(STATUS_INVALID, "a piece of %zu bytes is too long to tokenize", bytes);
    if (!scratch_reserve(&b->scratch, bytes) || !token_ids_reserve(out, bytes))
        return log_fail(STATUS_NOMEM, "out of memory to tokenize a piece of %zu bytes", bytes);
    heap_count = fill_list(b, piece, bytes);
    while (heap_count > 0) {
        uint64_t top = s->heap[0];
        uint32_t at = (uint32_t)top;

        s->heap[0] = s->heap[--heap_count];
        if (heap_count > 0)
            sift_down(s->heap, heap_count, 0);
        if (s->rank[at] == top >> 32)
            join(b, at, &heap_count);
    }
    for (uint32_t at = 0; at != NO_POSITION; at = s->next[at])
        out->ids[out->count++] = s->id[at];
    return STATUS_OK;
}

enum status bpe_encode(struct bpe *b, const char *piece, size_t bytes, struct token_ids *out)
{
    struct bpe_word *word;
    size_t count;

    if (bytes > SHORT_BYTES)
        return encode_long(b, piece, bytes, out);
    if (!token_ids_reserve(out, SHORT_BYTES))
        return log_fail(STATUS_NOMEM, "out of memory for %zu token ids", out->count);
    word = &b->cache[XXH3_64bits(piece, bytes) % CACHE_WORDS];
    if (word->text_bytes == bytes && memcmp(word->text, piece, bytes) == 0) {
        memcpy(out->ids + out->count, word->ids, sizeof(word->ids));
        out->count += word->id_count;
        return STATUS_OK;
    }
    count = encode_short(b, piece, bytes, out->ids + out->count);
    if (bytes <= CACHED_BYTES && count <= CACHED_IDS) {
        word->text_bytes = (uint8_t)bytes;
        word->id_count = (uint8_t)count;
        memcpy(word->text, piece, bytes);
        memcpy(word->ids, out->ids + out->count, count * sizeof(*word->ids));
    }
    out->count += count;
    return STATUS_OK;
}
