/* test_ring.c - the message ring: alone, and against a model. */
#include "tests/ipc/ring_pair.h"

#include <stdbool.h>

static void impossible_sizes_are_refused(void **state)
{
    _Alignas(64) static unsigned char mem[4096];

    (void)state;
    assert_int_equal(ring_bytes(0, 8), 0);
    assert_int_equal(ring_bytes(3, 8), 0);
    assert_int_equal(ring_bytes(8, 0), 0);
    assert_int_equal(ring_bytes(8, UINT32_MAX), 0);
    assert_int_equal(ring_init(mem, 12, 8, 1), STATUS_INVALID);
    assert_int_equal(ring_init(mem + 8, 8, 8, 1), STATUS_INVALID);
    assert_int_equal(ring_bytes(4, 13), ring_bytes(4, 16));
    assert_true(ring_bytes(1u << 31, INT32_MAX) > (size_t)1 << 61);
}

static void another_generation_cannot_attach(void **state)
{
    struct pair *p = *state;
    struct ring r = {.slots = 99};

    assert_int_equal(
        ring_attach(p->views.a.base, p->views.a.bytes, GENERATION + 1, &r), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation 7, this process to generation 8"));
    assert_int_equal(r.slots, 99);
}

static void header_that_lies_is_refused(void **state)
{
    struct pair *p = *state;
    struct ring_shared *shared = p->views.a.base;
    struct ring r;

    assert_int_equal(ring_attach(shared, ring_bytes(SLOTS, 4) - 1, GENERATION, &r), STATUS_INVALID);
    assert_int_equal(ring_attach(shared, 16, GENERATION, &r), STATUS_INVALID);
    shared->slots = 1u << 30;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    shared->slots = 7;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    shared->slots = SLOTS;
    shared->slot_bytes = UINT32_MAX;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    shared->slot_bytes = 4;
    shared->magic++;
    assert_int_equal(ring_attach(shared, p->views.a.bytes, GENERATION, &r), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "none at this place"));
}

static void later_changes_of_the_header_do_no_harm(void **state)
{
    struct pair *p = *state;
    struct ring_shared *shared = p->views.a.base;
    uint32_t got;

    shared->slots = 1u << 31;
    shared->slot_bytes = 1u << 30;
    for (uint32_t i = 0; i < 3 * SLOTS; i++) {
        assert_int_equal(send(p, i), STATUS_OK);
        assert_int_equal(receive(p, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
}

static void full_ring_says_again_until_released(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(p, i), STATUS_OK);
    assert_int_equal(send(p, 100), STATUS_AGAIN);
    assert_int_equal(ring_pending(&p->consumer), SLOTS);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 0);
    assert_int_equal(send(p, 100), STATUS_OK);
    assert_int_equal(send(p, 101), STATUS_AGAIN);
}

static void reserved_slot_is_unseen_until_published(void **state)
{
    struct pair *p = *state;
    const void *got;
    void *slot;

    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_AGAIN);
    assert_int_equal(ring_reserve(&p->producer, &slot), STATUS_OK);
    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_AGAIN);
    assert_int_equal(ring_pending(&p->producer), 0);
    ring_publish(&p->producer);
    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_OK);
    assert_int_equal(ring_pending(&p->producer), 1);
}

static void peeked_slot_is_not_overwritten(void **state)
{
    struct pair *p = *state;
    const void *got;
    uint32_t value;

    assert_int_equal(send(p, 1), STATUS_OK);
    assert_int_equal(ring_peek(&p->consumer, &got), STATUS_OK);
    for (uint32_t i = 1; i < SLOTS; i++)
        assert_int_equal(send(p, 50 + i), STATUS_OK);
    assert_int_equal(send(p, 99), STATUS_AGAIN);
    memcpy(&value, got, sizeof(value));
    assert_int_equal(value, 1);
}

/* Whatever is left over by their size. */
static void slots_are_aligned_to_8_bytes(void **state)
{
    (void)state;
    for (uint32_t slot_bytes = 1; slot_bytes <= 17; slot_bytes++) {
        struct pair p;

        pair_open(&p, SLOTS, slot_bytes, 0);
        for (uint32_t i = 0; i < SLOTS; i++) {
            void *slot;

            assert_int_equal(ring_reserve_at(&p.producer, i, &slot), STATUS_OK);
            assert_int_equal((uintptr_t)slot % 8, 0);
        }
        views_close(&p.views);
    }
}

static void many_become_readable_in_one_go(void **state)
{
    struct pair *p = *state;
    const void *seen;
    uint32_t got;
    void *slot;

    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(ring_reserve_at(&p->producer, i, &slot), STATUS_OK);
        *(uint32_t *)slot = 20 + i;
        assert_int_equal(ring_peek(&p->consumer, &seen), STATUS_AGAIN);
    }
    ring_publish_many(&p->producer, 5);
    assert_int_equal(ring_pending(&p->consumer), 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(receive(p, &got), STATUS_OK);
        assert_int_equal(got, 20 + i);
    }
    assert_int_equal(receive(p, &got), STATUS_AGAIN);
}

static void more_than_there_is_room_for_are_not_reserved(void **state)
{
    struct pair *p = *state;
    uint32_t got;
    void *slot;

    assert_int_equal(send(p, 1), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS - 2, &slot), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS - 1, &slot), STATUS_AGAIN);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS - 1, &slot), STATUS_OK);
    assert_int_equal(ring_reserve_at(&p->producer, SLOTS, &slot), STATUS_AGAIN);
    assert_int_equal(ring_reserve_at(&p->producer, UINT32_MAX, &slot), STATUS_AGAIN);
    ring_close(&p->producer);
    assert_int_equal(ring_reserve_at(&p->producer, 0, &slot), STATUS_CLOSED);
}

static void closed_ring_still_drains(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    assert_int_equal(send(p, 1), STATUS_OK);
    assert_int_equal(send(p, 2), STATUS_OK);
    ring_close(&p->producer);
    ring_close(&p->producer);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 2);
    assert_int_equal(receive(p, &got), STATUS_CLOSED);
}

static void closed_ring_takes_no_more(void **state)
{
    struct pair *p = *state;

    ring_close(&p->consumer);
    assert_int_equal(send(p, 1), STATUS_CLOSED);
}

static void indices_wrap_at_two_to_the_32(void **state)
{
    struct pair p;
    uint32_t got;

    (void)state;
    pair_open(&p, SLOTS, 4, UINT32_MAX - 2);
    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(&p, i), STATUS_OK);
    assert_int_equal(send(&p, 99), STATUS_AGAIN);
    assert_int_equal(ring_pending(&p.consumer), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        assert_int_equal(receive(&p, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
    assert_int_equal(receive(&p, &got), STATUS_AGAIN);
    views_close(&p.views);
}

static void damaged_indices_are_reported(void **state)
{
    struct pair *p = *state;
    struct ring_shared *shared = p->views.a.base;
    uint32_t got;

    atomic_store_explicit(&shared->tail, 1000, memory_order_relaxed);
    assert_int_equal(receive(p, &got), STATUS_INTERNAL);
    assert_int_equal(send(p, 1), STATUS_INTERNAL);
    assert_non_null(strstr(log_last_error(), "damaged"));
}

static void late_end_goes_on_where_the_ring_stands(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(send(p, i), STATUS_OK);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.a.base, p->views.a.bytes, GENERATION, &p->consumer), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.b.base, p->views.b.bytes, GENERATION, &p->producer), STATUS_OK);
    assert_int_equal(send(p, 5), STATUS_OK);
    for (uint32_t i = 1; i < 6; i++) {
        assert_int_equal(receive(p, &got), STATUS_OK);
        assert_int_equal(got, i);
    }
    assert_int_equal(receive(p, &got), STATUS_AGAIN);
}

static void late_producer_of_a_full_ring_finds_it_full(void **state)
{
    struct pair *p = *state;
    uint32_t got;

    for (uint32_t i = 0; i < SLOTS; i++)
        assert_int_equal(send(p, i), STATUS_OK);
    assert_int_equal(
        ring_attach(p->views.b.base, p->views.b.bytes, GENERATION, &p->producer), STATUS_OK);
    assert_int_equal(send(p, 100), STATUS_AGAIN);
    assert_int_equal(receive(p, &got), STATUS_OK);
    assert_int_equal(got, 0);
}

/* As many as go, at most `wanted`, in one publish. */
static uint32_t send_several(struct pair *p, uint32_t first, uint32_t wanted)
{
    uint32_t n = 0;
    void *slot;

    while (n < wanted && ring_reserve_at(&p->producer, n, &slot) == STATUS_OK)
        *(uint32_t *)slot = first + n++;
    ring_publish_many(&p->producer, n);
    return n;
}

static void random_batches_match_a_queue(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (uint32_t slots = 1; slots <= 64; slots *= 4) {
        uint32_t sent = 0, received = 0, got;
        struct pair p;

        pair_open(&p, slots, 4, UINT32_MAX - 500);
        for (int i = 0; i < 3000; i++) {
            uint32_t wanted = (uint32_t)(test_random(&seed) % (slots + 2));
            uint32_t room = slots - (sent - received), n = send_several(&p, sent, wanted);

            assert_int_equal(n, wanted < room ? wanted : room);
            sent += n;
            for (uint64_t k = test_random(&seed) % (slots + 2); k > 0 && received < sent; k--) {
                assert_int_equal(receive(&p, &got), STATUS_OK);
                assert_int_equal(got, received++);
            }
        }
        views_close(&p.views);
    }
}

static void random_steps_match_a_queue(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (uint32_t slots = 1; slots <= 64; slots *= 4) {
        uint32_t sent = 0, received = 0, got;
        struct pair p;

        pair_open(&p, slots, 4, UINT32_MAX - 500);
        for (int i = 0; i < 5000; i++)
            if (test_random(&seed) & 1) {
                enum status s = send(&p, sent);

                assert_int_equal(s, sent - received == slots ? STATUS_AGAIN : STATUS_OK);
                sent += s == STATUS_OK;
            } else {
                enum status s = receive(&p, &got);

                assert_int_equal(s, sent == received ? STATUS_AGAIN : STATUS_OK);
                if (s == STATUS_OK)
                    assert_int_equal(got, received++);
            }
        views_close(&p.views);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(impossible_sizes_are_refused),
        ON_A_RING(another_generation_cannot_attach),
        ON_A_RING(header_that_lies_is_refused),
        ON_A_RING(later_changes_of_the_header_do_no_harm),
        ON_A_RING(full_ring_says_again_until_released),
        ON_A_RING(reserved_slot_is_unseen_until_published),
        ON_A_RING(peeked_slot_is_not_overwritten),
        cmocka_unit_test(slots_are_aligned_to_8_bytes),
        ON_A_RING(many_become_readable_in_one_go),
        ON_A_RING(more_than_there_is_room_for_are_not_reserved),
        ON_A_RING(closed_ring_still_drains),
        ON_A_RING(closed_ring_takes_no_more),
        cmocka_unit_test(indices_wrap_at_two_to_the_32),
        ON_A_RING(damaged_indices_are_reported),
        ON_A_RING(late_end_goes_on_where_the_ring_stands),
        ON_A_RING(late_producer_of_a_full_ring_finds_it_full),
        cmocka_unit_test(random_batches_match_a_queue),
        cmocka_unit_test(random_steps_match_a_queue),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
