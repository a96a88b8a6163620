/* test_shard.c - ranges cover everything once, whatever the numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "parallel/shard.h"
#include "quern/log.h"

enum { MAX_RANKS = 16 };

/* Consecutive, without gap or overlap, longer ones first, the same unit between. */
static void check_cover(uint32_t total, uint32_t unit, int size)
{
    uint32_t at = 0, last = UINT32_MAX;

    for (int rank = 0; rank < size; rank++) {
        struct range r = shard_range(total, unit, rank, size);

        assert_int_equal(r.first, at);
        at += r.count;
        if (rank + 1 < size && (total + unit - 1) / unit >= (uint32_t)size)
            assert_int_equal(at % unit, 0);
        assert_true(r.count <= last);
        last = r.count;
    }
    assert_int_equal(at, total);
}

static void ranges_cover_everything_once(void **state)
{
    static const uint32_t units[] = {1, 2, 16, 32, 128};

    (void)state;
    for (uint32_t total = 0; total <= 700; total++)
        for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++)
            for (int size = 1; size <= MAX_RANKS; size++)
                check_cover(total, units[u], size);
    for (int size = 1; size <= MAX_RANKS; size++)
        check_cover(151936, 16, size);
}

static void ranges_differ_by_one_unit_at_most(void **state)
{
    (void)state;
    for (uint32_t units = 1; units <= 60; units++)
        for (int size = 1; size <= MAX_RANKS && (uint32_t)size <= units; size++) {
            uint32_t most = shard_range(units * 16, 16, 0, size).count;
            uint32_t least = shard_range(units * 16, 16, size - 1, size).count;

            assert_true(most - least <= 16);
        }
}

static void uneven_totals_are_cut_in_whole_units(void **state)
{
    (void)state;
    /* 5 units of 16 over 2 ranks, the last of 4 elements */
    assert_int_equal(shard_range(68, 16, 0, 2).count, 48);
    assert_int_equal(shard_range(68, 16, 1, 2).first, 48);
    assert_int_equal(shard_range(68, 16, 1, 2).count, 20);
    /* fewer units than ranks: single elements */
    assert_int_equal(shard_range(20, 16, 0, 3).count, 7);
    assert_int_equal(shard_range(20, 16, 2, 3).count, 6);
}

static void check_heads(uint32_t heads, uint32_t kv_heads, int size)
{
    uint32_t group = heads / kv_heads, at = 0, kv_seen = 0;

    for (int rank = 0; rank < size; rank++) {
        struct head_shard s = shard_heads(heads, kv_heads, rank, size);

        assert_int_equal(s.q.first, at);
        at += s.q.count;
        assert_true(s.q.count >= 1);
        assert_true(s.kv.first + s.kv.count <= kv_heads);
        assert_true(s.kv.first <= kv_seen); /* none is left out */
        if (s.kv.first + s.kv.count > kv_seen)
            kv_seen = s.kv.first + s.kv.count;
        for (uint32_t q = s.q.first; q < at; q++) {
            assert_true(q / group >= s.kv.first);
            assert_true(q / group < s.kv.first + s.kv.count);
        }
        /* and none is there for nothing */
        assert_int_equal(s.q.first / group, s.kv.first);
        assert_int_equal((at - 1) / group, s.kv.first + s.kv.count - 1);
    }
    assert_int_equal(at, heads);
    assert_int_equal(kv_seen, kv_heads);
}

static void kv_heads_cover_query_heads(void **state)
{
    static const uint32_t shapes[][2] = {
        {16, 8}, {32, 8}, {64, 8}, {40, 8}, {4, 2}, {8, 4}, {6, 3}, {12, 4}, {16, 16}, {7, 1},
        {1, 1}, {14, 2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        for (int size = 1; size <= MAX_RANKS && (uint32_t)size <= shapes[i][0]; size++)
            check_heads(shapes[i][0], shapes[i][1], size);
}

/* Against whole KV groups: the largest rank has no more KV heads and no more query heads. */
static void largest_rank_is_as_small_as_can_be(void **state)
{
    uint32_t q = 0, kv = 0, all = 0;

    (void)state;
    for (int size = 1; size <= 8; size++) {
        uint32_t most = (8 + (uint32_t)size - 1) / (uint32_t)size;

        for (int rank = 0; rank < size; rank++) {
            assert_true(shard_heads(32, 8, rank, size).kv.count <= most);
            assert_true(shard_heads(32, 8, rank, size).q.count <= 4 * most);
        }
    }
    for (int rank = 0; rank < 7; rank++) {
        struct head_shard s = shard_heads(32, 8, rank, 7);

        q = s.q.count > q ? s.q.count : q;
        kv = s.kv.count > kv ? s.kv.count : kv;
    }
    assert_int_equal(q, 5); /* whole groups: 8 */
    assert_int_equal(kv, 2);
    for (int rank = 0; rank < 5; rank++) /* evenly some rank would have three KV heads */
        all += shard_heads(32, 8, rank, 5).kv.count;
    assert_int_equal(all, 8);
    assert_int_equal(shard_heads(32, 8, 15, 16).kv.first, 7);
    assert_int_equal(shard_heads(32, 8, 15, 16).kv.count, 1);
}

static void rank_counts_that_cannot_be_are_refused(void **state)
{
    (void)state;
    assert_int_equal(shard_check(16, 1), STATUS_OK);
    assert_int_equal(shard_check(16, 16), STATUS_OK);
    assert_int_equal(shard_check(16, 20), STATUS_INVALID);
    assert_string_equal(log_last_error(),
        "tp 20 needs 20 query heads, this model has 16: use at most 16");
    assert_int_equal(shard_check(16, 0), STATUS_INVALID);
    assert_int_equal(shard_check(16, -1), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "use 1 to 16"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_cover_everything_once),
        cmocka_unit_test(ranges_differ_by_one_unit_at_most),
        cmocka_unit_test(uneven_totals_are_cut_in_whole_units),
        cmocka_unit_test(kv_heads_cover_query_heads),
        cmocka_unit_test(largest_rank_is_as_small_as_can_be),
        cmocka_unit_test(rank_counts_that_cannot_be_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
