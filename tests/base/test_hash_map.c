/* test_hash_map.c - the map against a plain array, on keys that like to meet. */
#include <string.h>

#include "base/hash_map.h"
#include "base/list.h"
#include "tests/ipc/ipc_support.h"

enum { KEYS = 512, STEPS = 200000 };

static void map_is_what_an_array_is(void **state)
{
    uint64_t seed = test_seed();
    struct hash_map m = {0};
    char places[KEYS], *want[KEYS] = {0};

    (void)state;
    for (int i = 0; i < STEPS; i++) {
        uint32_t k = (uint32_t)(test_random(&seed) % KEYS);
        uint64_t key = (uint64_t)k << (k % 3 * 20); /* small ones, and multiples of powers of two */
        uint64_t what = test_random(&seed) % (i / 10000 % 2 == 0 ? 3 : 5);

        if (what == 0 || what > 2) {
            hash_map_remove(&m, key);
            want[k] = NULL;
        } else if (what == 1) {
            want[k] = &places[test_random(&seed) % KEYS];
            assert_int_equal(hash_map_put(&m, key, want[k]), STATUS_OK);
        }
        assert_ptr_equal(hash_map_get(&m, key), want[k]);
        if (i % 1000 == 0)
            for (uint32_t j = 0; j < KEYS; j++)
                assert_ptr_equal(hash_map_get(&m, (uint64_t)j << (j % 3 * 20)), want[j]);
    }
    hash_map_free(&m);
}

static void empty_map_has_nothing_and_takes_nothing_away(void **state)
{
    struct hash_map m = {0};

    (void)state;
    assert_null(hash_map_get(&m, 0));
    hash_map_remove(&m, 0);
    assert_int_equal(hash_map_put(&m, 0, &m), STATUS_OK);
    assert_ptr_equal(hash_map_get(&m, 0), &m);
    hash_map_remove(&m, 0);
    assert_null(hash_map_get(&m, 0));
    assert_int_equal(m.used, 0);
    hash_map_free(&m);
    hash_map_free(&m);
}

struct item {
    int number;
    struct list_node node;
};

static void list_keeps_its_order_through_removals(void **state)
{
    struct item items[5] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}, {.number = 4}};
    struct list_node head;
    int want[] = {4, 0, 3}, n = 0;

    (void)state;
    list_init(&head);
    assert_true(list_empty(&head));
    for (int i = 0; i < 4; i++)
        list_append(&head, &items[i].node);
    list_prepend(&head, &items[4].node);
    list_remove(&items[1].node);
    list_remove(&items[2].node);
    list_remove(&items[2].node); /* on none: no effect */
    assert_false(list_on(&items[2].node));
    for (struct list_node *at = head.next; at != &head; at = at->next)
        assert_int_equal(LIST_OF(at, struct item, node)->number, want[n++]);
    assert_int_equal(n, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_is_what_an_array_is),
        cmocka_unit_test(empty_map_has_nothing_and_takes_nothing_away),
        cmocka_unit_test(list_keeps_its_order_through_removals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
