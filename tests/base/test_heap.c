/* test_heap.c - a heap against an array that is searched. */
#include "base/heap.h"
#include "base/list.h"
#include "tests/ipc/ipc_support.h"

enum { NODES = 300, CALLS = 200000 };

struct item {
    struct heap_node node;
    uint32_t value, index;
};

static bool goes_before(const struct heap_node *a, const struct heap_node *b)
{
    const struct item *x = LIST_OF(a, struct item, node), *y = LIST_OF(b, struct item, node);

    return x->value != y->value ? x->value < y->value : x->index < y->index;
}

static struct item *first_of(struct item *items)
{
    struct item *first = NULL;

    for (uint32_t i = 0; i < NODES; i++)
        if (heap_on(&items[i].node) &&
            (first == NULL || goes_before(&items[i].node, &first->node)))
            first = &items[i];
    return first;
}

static void the_first_is_the_first_whoever_comes_and_leaves(void **state)
{
    static struct item items[NODES];
    uint64_t seed = test_seed();
    struct heap h;

    (void)state;
    heap_init(&h, goes_before);
    assert_null(heap_first(&h));
    for (int i = 0; i < CALLS; i++) {
        uint32_t draw = (uint32_t)test_random(&seed);
        struct item *it = &items[draw % NODES], *first;

        if (draw >> 16 & 1 && h.root != NULL && (i / 1000 & 1)) /* by turns it grows and shrinks */
            it = LIST_OF(heap_first(&h), struct item, node);
        if (heap_on(&it->node)) {
            heap_remove(&h, &it->node);
            assert_false(heap_on(&it->node));
        } else {
            it->value = draw >> 20 & 15;
            it->index = (uint32_t)(it - items);
            heap_insert(&h, &it->node);
        }
        heap_remove(&h, &(struct heap_node){0}); /* in none */
        first = first_of(items);
        assert_ptr_equal(heap_first(&h), first != NULL ? &first->node : NULL);
    }
}

/* A million that come in order and leave in order: quadratic would be hours. */
static void many_in_a_row_cost_no_more_each(void **state)
{
    enum { MANY = 1 << 20 };
    struct item *items = calloc(MANY, sizeof(*items));
    struct heap h;

    (void)state;
    assert_non_null(items);
    heap_init(&h, goes_before);
    for (uint32_t i = 0; i < MANY; i++) {
        items[i].value = i % 2 == 0 ? i : MANY - i;
        items[i].index = i;
        heap_insert(&h, &items[i].node);
    }
    for (uint32_t i = 0, before = 0; i < MANY; i++) {
        struct item *it = LIST_OF(heap_first(&h), struct item, node);

        assert_true(it->value >= before);
        before = it->value;
        heap_remove(&h, &it->node);
    }
    assert_null(heap_first(&h));
    free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_is_the_first_whoever_comes_and_leaves),
        cmocka_unit_test(many_in_a_row_cost_no_more_each),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
