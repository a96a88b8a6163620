/* shard.c - ranges: the arithmetic that everything cut over ranks agrees on. */
#include "parallel/shard.h"

#include <stdbool.h>

#include "quern/log.h"

struct range shard_range(uint32_t total, uint32_t unit, int rank, int size)
{
    uint32_t r = (uint32_t)rank, n = (uint32_t)size;
    uint32_t units = (total + unit - 1) / unit, each, extra, first, last;

    if (units < n) {
        unit = 1;
        units = total;
    }
    each = units / n;
    extra = units % n;
    first = (r * each + (r < extra ? r : extra)) * unit;
    last = first + (each + (r < extra ? 1 : 0)) * unit;
    if (last > total)
        last = total;
    return (struct range){.first = first, .count = last - first};
}

struct range shard_cover(struct range q, uint32_t group)
{
    uint32_t first = q.first / group;

    return (struct range){.first = first, .count = (q.first + q.count - 1) / group - first + 1};
}

static struct head_shard by_query_heads(uint32_t heads, uint32_t group, int rank, int size)
{
    struct head_shard s = {.q = shard_range(heads, 1, rank, size)};

    s.kv = shard_cover(s.q, group);
    return s;
}

static bool takes_more(uint32_t heads, uint32_t group, int size, uint32_t most)
{
    for (int rank = 0; rank < size; rank++)
        if (by_query_heads(heads, group, rank, size).kv.count > most)
            return true;
    return false;
}

struct head_shard shard_heads(uint32_t heads, uint32_t kv_heads, int rank, int size)
{
    uint32_t group = heads / kv_heads, most = shard_range(kv_heads, 1, 0, size).count;
    struct head_shard s;

    if ((uint32_t)size > kv_heads || !takes_more(heads, group, size, most))
        return by_query_heads(heads, group, rank, size);
    s.kv = shard_range(kv_heads, 1, rank, size);
    s.q = (struct range){.first = s.kv.first * group, .count = s.kv.count * group};
    return s;
}

enum status shard_check(uint32_t heads, int size)
{
    if (size < 1)
        return log_fail(STATUS_INVALID, "tp %d is not a number of ranks: use 1 to %u", size, heads);
    if ((uint32_t)size > heads)
        return log_fail(STATUS_INVALID, "tp %d needs %d query heads, this model has %u: use at "
            "most %u", size, size, heads, heads);
    return STATUS_OK;
}
