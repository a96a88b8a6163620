/* test_broadcast_dict.c - dicts of tensors from each root; refusals that leave the group usable. */
#include "parallel/broadcast_dict.h"
#include "tests/parallel/coll_support.h"

enum { ITEMS = 9 };

/* Item i of root `root`: its bytes come from both numbers. */
static void describe(struct dict_item *item, int root, uint32_t i)
{
    *item = (struct dict_item){.dtype = (i + (uint32_t)root) % DTYPE_COUNT, .n_dims = i % 5};
    snprintf(item->name, sizeof(item->name), "layers.%u.of.%d", i, root);
    for (uint32_t d = 0; d < item->n_dims; d++)
        item->shape[d] = i == 4 && d == 0 ? 0 : 3 + d * i; /* one is empty, one has many pieces */
}

static unsigned char byte_at(int root, uint32_t item, size_t at)
{
    return (unsigned char)(root * 31 + (int)item * 7 + (int)(at * 2654435761u >> 7));
}

static bool make(struct dict *d, int root)
{
    d->n = ITEMS;
    d->items = calloc(ITEMS + 1, sizeof(*d->items));
    for (uint32_t i = 0; d->items != NULL && i < ITEMS; i++) {
        size_t bytes;
        unsigned char *data;

        describe(&d->items[i], root, i);
        bytes = dict_item_bytes(&d->items[i]);
        data = d->items[i].data = malloc(bytes + 1);
        for (size_t at = 0; data != NULL && at < bytes; at++)
            data[at] = byte_at(root, i, at);
    }
    return d->items != NULL;
}

static void unmake(struct dict *d)
{
    for (uint32_t i = 0; i < d->n; i++)
        free(d->items[i].data);
    free(d->items);
}

static bool is_right(const struct dict *d, int root)
{
    for (uint32_t i = 0; i < d->n; i++) {
        struct dict_item want;
        const struct dict_item *got = &d->items[i];

        describe(&want, root, i);
        if (strcmp(want.name, got->name) != 0 || want.dtype != got->dtype ||
            want.n_dims != got->n_dims ||
            memcmp(want.shape, got->shape, sizeof(want.shape)) != 0 ||
            (uintptr_t)got->data % 16 != 0)
            return false;
        for (size_t at = 0; at < dict_item_bytes(got); at++)
            if (((unsigned char *)got->data)[at] != byte_at(root, i, at))
                return false;
    }
    return d->n == ITEMS;
}

static bool sends_from_each_root(struct team *t, int thread)
{
    (void)thread;
    for (int root = 0; root < t->size; root++) {
        struct dict d = {0};
        enum status s;
        bool good = t->rank != root || make(&d, root);

        s = broadcast_dict(t->comm, t->algorithms[COLL_SHM_ONESHOT], root, &d);
        good = good && s == STATUS_OK && (t->rank == root || is_right(&d, root));
        if (t->rank == root)
            unmake(&d);
        else
            dict_free(&d);
        if (!good)
            return false;
    }
    return true;
}

static void everybody_gets_names_types_shapes_and_data(void **state)
{
    (void)state;
    for (int size = 2; size <= MOST_RANKS; size++) {
        struct world w;

        world_open(&w, size, 1);
        world_run(&w, sends_from_each_root);
        segment_close(&w.segment);
    }
}

/* Refused on all ranks, and then an empty dict goes through. */
static bool refuses(struct team *t, struct dict *bad)
{
    struct dict none = {0}, got = {.n = 77};
    enum status s = broadcast_dict(t->comm, t->comm, 0, t->rank == 0 ? bad : &got);

    if (s != STATUS_INVALID || (t->rank != 0 && (got.n != 77 || got.items != NULL)))
        return false;
    s = broadcast_dict(t->comm, t->comm, 0, &none);
    if (t->rank != 0)
        dict_free(&none);
    return s == STATUS_OK;
}

static bool refuses_all_that_cannot_be(struct team *t, int thread)
{
    static char data[16];
    struct dict_item item = {.name = "x", .dtype = DTYPE_F32, .n_dims = 1, .shape = {4},
        .data = data};
    struct dict one = {.n = 1, .items = &item}, many = {.n = DICT_MAX_ITEMS + 1, .items = &item};
    /* together, and padded, the last 16 bytes below 2^64 */
    struct dict_item halves[2] = {
        {.name = "a", .dtype = DTYPE_U8, .n_dims = 1, .shape = {INT64_MAX}, .data = data},
        {.name = "b", .dtype = DTYPE_U8, .n_dims = 1, .shape = {INT64_MAX - 15}, .data = data}};
    struct dict two = {.n = 2, .items = halves};
    bool good = refuses(t, &many) && refuses(t, &two);

    (void)thread;
    item.dtype = DTYPE_COUNT;
    good = good && refuses(t, &one);
    item.dtype = DTYPE_F32;
    item.n_dims = DICT_MAX_DIMS + 1;
    good = good && refuses(t, &one);
    item.n_dims = 2;
    item.shape[0] = item.shape[1] = UINT64_C(1) << 33;
    good = good && refuses(t, &one);
    item.n_dims = 1;
    item.shape[0] = 4;
    memset(item.name, 'n', sizeof(item.name));
    return good && refuses(t, &one);
}

static void what_cannot_be_is_refused_everywhere_and_the_group_lives(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 3, 1);
    world_run(&w, refuses_all_that_cannot_be);
    segment_close(&w.segment);
}

/* Under address sanitizer too malloc() shall say no instead of ending the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

/* Rank 1 has no memory for so much; rank 0 has nothing to send it for. */
static bool has_no_room(struct team *t, int thread)
{
    struct dict_item item = {.name = "huge", .dtype = DTYPE_U8, .n_dims = 1,
        .shape = {UINT64_C(1) << 62}};
    struct dict d = {0};

    (void)thread;
    if (t->rank == 0)
        d = (struct dict){.n = 1, .items = &item};
    return broadcast_dict(t->comm, t->comm, 0, &d) == STATUS_NOMEM &&
           (t->rank == 0 || d.items == NULL);
}

static void no_memory_on_one_rank_is_told_to_all(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    world_run(&w, has_no_room);
    segment_close(&w.segment);
}

static void alone_there_is_nothing_to_do(void **state)
{
    struct dict d = {0};

    (void)state;
    assert_int_equal(broadcast_dict(NULL, NULL, 0, &d), STATUS_OK);
    dict_free(&d);
}

static void sizes_that_overflow_are_no_sizes(void **state)
{
    struct dict_item item = {.dtype = DTYPE_BF16, .n_dims = 3, .shape = {3, 5, 7}};

    (void)state;
    assert_int_equal(dict_item_bytes(&item), 210);
    item.n_dims = 0;
    assert_int_equal(dict_item_bytes(&item), 2);
    item.n_dims = 1;
    item.shape[0] = UINT64_MAX;
    assert_int_equal(dict_item_bytes(&item), SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everybody_gets_names_types_shapes_and_data),
        cmocka_unit_test(what_cannot_be_is_refused_everywhere_and_the_group_lives),
        cmocka_unit_test(no_memory_on_one_rank_is_told_to_all),
        cmocka_unit_test(alone_there_is_nothing_to_do),
        cmocka_unit_test(sizes_that_overflow_are_no_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
