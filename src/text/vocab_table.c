/* vocab_table.c - checks first, then pointers.
 *
 * Every size is computed in 64 bits from 32-bit counts, so nothing can wrap
 * before it was compared with the memory that is really there. */
#include "text/vocab_table.h"

#include <string.h>

#include "quern/log.h"

size_t vocab_table_size(uint32_t count, uint32_t blob_bytes)
{
    return sizeof(struct vocab_table_header) + ((size_t)count + 1) * sizeof(uint32_t) + count
           + blob_bytes;
}

static bool offsets_ascend(const uint32_t *offsets, uint32_t count, uint32_t blob_bytes)
{
    if (offsets[0] != 0 || offsets[count] != blob_bytes)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (offsets[i] > offsets[i + 1])
            return false;
    return true;
}

enum status vocab_table_attach(const void *mem, size_t bytes, struct vocab_table *out)
{
    struct vocab_table_header h;
    struct vocab_table t;

    if (bytes < sizeof(h) || (uintptr_t)mem % _Alignof(uint32_t) != 0)
        return log_fail(STATUS_INVALID, "vocabulary table: %zu bytes cannot hold one", bytes);
    memcpy(&h, mem, sizeof(h));
    if (h.magic != VOCAB_TABLE_MAGIC || h.version != VOCAB_TABLE_VERSION)
        return log_fail(STATUS_INVALID,
            "vocabulary table: magic %08x version %u, expected %08x and %d: "
            "the text worker is of another build", h.magic, h.version, VOCAB_TABLE_MAGIC,
            VOCAB_TABLE_VERSION);
    if (h.count > VOCAB_TABLE_MOST_TOKENS || vocab_table_size(h.count, h.blob_bytes) > bytes)
        return log_fail(STATUS_INVALID,
            "vocabulary table: %u tokens of %u bytes do not fit into %zu bytes", h.count,
            h.blob_bytes, bytes);
    t = (struct vocab_table){ .count = h.count, .blob_bytes = h.blob_bytes };
    t.offsets = (const uint32_t *)((const unsigned char *)mem + sizeof(h));
    t.flags = (const uint8_t *)(t.offsets + h.count + 1);
    t.blob = t.flags + h.count;
    if (!offsets_ascend(t.offsets, t.count, t.blob_bytes))
        return log_fail(STATUS_INVALID, "vocabulary table: its offsets do not ascend");
    *out = t;
    return STATUS_OK;
}

bool vocab_table_get(const struct vocab_table *t, int32_t id, const uint8_t **bytes,
    size_t *count, bool *special)
{
    uint32_t from, to;

    if (id < 0 || (uint32_t)id >= t->count)
        return false;
    from = t->offsets[id];
    to = t->offsets[id + 1];
    if (from > to || to > t->blob_bytes) /* changed since it was attached */
        return false;
    *bytes = t->blob + from;
    *count = to - from;
    *special = (t->flags[id] & VOCAB_TABLE_SPECIAL) != 0;
    return true;
}
