/* test_symheap.c - the symmetric heap. */
#include "tests/ipc/ipc_support.h"

#include <string.h>

#include "ipc/symheap_shm.h"

enum { RANKS = 4, REGION = 16384 };

static int setup(void **state)
{
    static struct views v;

    views_open(&v, symheap_bytes(RANKS, REGION));
    *state = &v;
    return 0;
}

static int teardown(void **state)
{
    views_close(*state);
    return 0;
}

static struct symheap heap_in(const struct segment *s)
{
    struct symheap h = {0};

    assert_int_equal(symheap_attach(s->base, s->bytes, RANKS, REGION, &h), STATUS_OK);
    return h;
}

/* ---- the heap ---- */

static void same_steps_give_the_same_offsets(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t of_a, of_b;

    for (size_t bytes = 1; bytes < 2000; bytes *= 3) {
        assert_int_equal(symheap_alloc(&a, bytes, 64, &of_a), STATUS_OK);
        assert_int_equal(symheap_alloc(&b, bytes, 64, &of_b), STATUS_OK);
        assert_int_equal(of_a, of_b);
        assert_int_equal(of_a % 64, 0);
    }
    assert_int_equal(symheap_signature(&a), symheap_signature(&b));
}

static void other_steps_give_another_signature(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t offset;

    symheap_alloc(&a, 100, 64, &offset);
    symheap_alloc(&b, 101, 64, &offset); /* the same room, not the same size */
    assert_int_not_equal(symheap_signature(&a), symheap_signature(&b));
}

static void other_alignments_give_another_signature(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t of_a, of_b;

    symheap_alloc(&a, 100, 64, &of_a);
    symheap_alloc(&b, 100, 128, &of_b); /* the first time the same place, the next time not */
    assert_int_equal(of_a, of_b);
    assert_int_not_equal(symheap_signature(&a), symheap_signature(&b));
}

static void offset_means_one_place_per_rank(void **state)
{
    struct views *v = *state;
    struct symheap a = heap_in(&v->a), b = heap_in(&v->b);
    size_t offset;

    assert_int_equal(symheap_alloc(&a, 8, 8, &offset), STATUS_OK);
    for (uint32_t r = 0; r < RANKS; r++)
        memcpy(symheap_at(&a, r, offset), &(uint64_t){1000 + r}, 8);
    for (uint32_t r = 0; r < RANKS; r++) {
        uint64_t got;

        memcpy(&got, symheap_at(&b, r, offset), 8);
        assert_int_equal(got, 1000 + r);
    }
}

static void places_outside_are_null(void **state)
{
    struct symheap h = heap_in(&((struct views *)*state)->a);

    assert_null(symheap_at(&h, RANKS, 0));
    assert_null(symheap_at(&h, 0, REGION));
    assert_ptr_equal(symheap_at(&h, RANKS - 1, REGION - 1), h.base + RANKS * REGION - 1);
}

static void full_region_is_an_error_with_numbers(void **state)
{
    struct symheap h = heap_in(&((struct views *)*state)->a);
    size_t offset = 99;

    assert_int_equal(symheap_alloc(&h, REGION - 64, 64, &offset), STATUS_OK);
    offset = 99;
    assert_int_equal(symheap_alloc(&h, 65, 64, &offset), STATUS_NOMEM);
    assert_non_null(strstr(log_last_error(), "65 bytes do not fit, 16320 of 16384"));
    assert_int_equal(symheap_alloc(&h, SIZE_MAX, 64, &offset), STATUS_NOMEM);
    assert_int_equal(symheap_alloc(&h, 1, 48, &offset), STATUS_INVALID);
    assert_int_equal(offset, 99);
    assert_int_equal(symheap_alloc(&h, 64, 64, &offset), STATUS_OK);
}

static void heap_that_does_not_fit_is_refused(void **state)
{
    struct views *v = *state;
    struct symheap h;

    assert_int_equal(symheap_attach(v->a.base, v->a.bytes - 1, RANKS, REGION, &h), STATUS_INVALID);
    assert_int_equal(symheap_attach(v->a.base, v->a.bytes, RANKS + 1, REGION, &h), STATUS_INVALID);
    assert_int_equal(symheap_attach(v->a.base, v->a.bytes, RANKS, SIZE_MAX, &h), STATUS_INVALID);
    assert_int_equal(symheap_bytes(0, 1), 0);
    assert_int_equal(symheap_bytes(UINT32_MAX, SIZE_MAX / 4), 0);
    assert_int_equal(symheap_bytes(2, 1), 2 * SYMHEAP_PAGE);
}

#define ON_A_HEAP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_HEAP(same_steps_give_the_same_offsets),
        ON_A_HEAP(other_steps_give_another_signature),
        ON_A_HEAP(other_alignments_give_another_signature),
        ON_A_HEAP(offset_means_one_place_per_rank),
        ON_A_HEAP(places_outside_are_null),
        ON_A_HEAP(full_region_is_an_error_with_numbers),
        ON_A_HEAP(heap_that_does_not_fit_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
