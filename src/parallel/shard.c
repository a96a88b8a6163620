/* shard.c - ranges: the arithmetic that everything cut over ranks agrees on. */
#include "parallel/shard.h"

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

uint32_t shard_longest(uint32_t total, uint32_t unit, int size)
{
    uint32_t longest = 0;

    for (int rank = 0; rank < size; rank++) {
        uint32_t count = shard_range(total, unit, rank, size).count;

        if (count > longest)
            longest = count;
    }
    return longest;
}

struct head_shard shard_heads(uint32_t heads, uint32_t kv_heads, int rank, int size)
{
    uint32_t group = heads / kv_heads;
    struct head_shard s;

    if ((uint32_t)size <= kv_heads) {
        s.kv = shard_range(kv_heads, 1, rank, size);
        s.q = (struct range){.first = s.kv.first * group, .count = s.kv.count * group};
        return s;
    }
    s.q = shard_range(heads, 1, rank, size);
    s.kv.first = s.q.first / group;
    s.kv.count = (s.q.first + s.q.count - 1) / group - s.kv.first + 1;
    return s;
}

enum status shard_check(uint32_t heads, int size)
{
    if (size < 1)
        return log_fail(STATUS_INVALID, "tp %d is not a number of ranks: use 1 to %u", size, heads);
    if ((uint32_t)size > heads)
        return log_fail(STATUS_INVALID, "tp %d needs %d query heads, this model has %u: use at most %u",
            size, size, heads, heads);
    return STATUS_OK;
}
