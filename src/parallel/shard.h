/* shard.h - which part of a tensor a rank owns.
 *
 * A shard is a contiguous range per rank, never a division: ranges may differ
 * in length, and everything sized by them is sized by the longest. */
#ifndef QUERN_PARALLEL_SHARD_H
#define QUERN_PARALLEL_SHARD_H

#include <stdint.h>

#include "quern/status.h"

struct range {
    uint32_t first, count;
};

/* `total` cut in multiples of `unit` (the last may be short), as evenly as whole units allow,
 * longer ranges first. Where there are fewer units than ranks, the unit is 1. */
struct range shard_range(uint32_t total, uint32_t unit, int rank, int size);

/* Query heads, as even as can be, and the KV heads that cover them: one that two ranks need lives
 * on both. Where that would give the largest rank more KV heads than dealing out whole KV groups
 * does, whole groups are dealt out. */
struct head_shard {
    struct range q, kv;
};
struct head_shard shard_heads(uint32_t heads, uint32_t kv_heads, int rank, int size);

/* The KV heads that query heads q (one or more) read, where `group` of them share one. */
struct range shard_cover(struct range q, uint32_t group);

/* Can `size` ranks share this many query heads? INVALID (logged) with the number that can. */
enum status shard_check(uint32_t heads, int size);

#endif
