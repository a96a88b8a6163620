/* test_coll_ends.c - how collectives end when they cannot go on, and what cannot be opened. */
#include "parallel/coll_internal.h"
#include "tests/parallel/coll_support.h"

/* Every operation of one algorithm, whose peers do not come, is ended by the abort word. */
static bool all_are_ended(struct comm *c)
{
    const enum status want = STATUS_DEAD;
    static float x[64], y[64];
    struct fused_norm_args a = {.out = x, .x = y, .y = y, .w = x, .rows = 4, .cols = 4};
    struct column_map map = {.n_parts = 1, .cols = 8};

    for (int r = 0; r < 2; r++) {
        map.parts[0].first[r] = 4 * (uint32_t)r;
        map.parts[0].count[r] = 4;
    }
    if (c->row->all_reduce_f32(c, 0, 1, x, 4) != want ||
        c->row->max_reduce_f32(c, 0, 1, x, 4) != want ||
        c->row->fused_all_reduce_norm(c, 0, 1, &a) != want)
        return false;
    return c->row->broadcast == NULL ||
           (c->row->reduce_scatter_rows(c, 0, 1, x, 4, 4) == want &&
               c->row->all_gather_rows(c, 0, 1, x, 4, 4) == want &&
               c->row->all_gather_cols(c, 0, 1, y, 4, x, 4, &map) == want &&
               c->row->all_gather(c, y, 4, x) == want && c->row->broadcast(c, 1, x, 4) == want);
}

static bool waits_for_the_abort_word(struct team *t, int thread)
{
    (void)thread;
    if (t->rank == 1) {
        nap_ms(50);
        /* release: as member_fail() sets it */
        atomic_store_explicit(t->w->abort_word, 1, memory_order_release);
        return true;
    }
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (!all_are_ended(t->algorithms[a]))
            return false;
    return all_are_ended(t->comm);
}

static void abort_word_ends_every_wait(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    world_run(&w, waits_for_the_abort_word);
    segment_close(&w.segment);
}

/* Rank 1 ends after two calls. */
static bool loses_its_peer(struct team *t, int thread)
{
    float x[17] = {0};
    enum status s = STATUS_OK;
    int calls = 0;

    (void)thread;
    while (s == STATUS_OK && (t->rank == 0 || calls < 2)) {
        s = t->comm->row->all_reduce_f32(t->comm, 0, 1, x, 17);
        calls += s == STATUS_OK;
    }
    if (t->rank == 1)
        return s == STATUS_OK;
    return s == STATUS_TIMEOUT && calls == 2 &&
           strstr(log_last_error(), "rank 0 waited") != NULL &&
           strstr(log_last_error(), "for rank 1") != NULL;
}

static void dead_peer_is_named_at_the_deadline(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    w.options.deadline_ns = 1000000000;
    world_run(&w, loses_its_peer);
    segment_close(&w.segment);
}

static bool asks_too_much(struct team *t, int thread)
{
    static float x[MOST_FLOATS + 1];
    struct comm *c = t->comm;
    struct column_map map = {.n_parts = 1, .cols = 2 * ROW_FLOATS};

    map.parts[0].count[0] = ROW_FLOATS + 1;
    if (c->row->all_gather_cols(c, thread, 1, x, ROW_FLOATS + 1, x, 1, &map) != STATUS_INTERNAL)
        return false;
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (t->algorithms[a]->row->all_reduce_f32(t->algorithms[a], 0, 1, x, MOST_FLOATS + 1) !=
            STATUS_INTERNAL)
            return false;
    return c->row->all_gather(c, x, GATHER_BYTES + 1, x) == STATUS_INTERNAL &&
           c->row->reduce_scatter_rows(c, 0, 1, x, 1, MOST_FLOATS + 1) == STATUS_INTERNAL;
}

static void more_than_there_is_room_for_is_an_error(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    world_run(&w, asks_too_much);
    segment_close(&w.segment);
}

static void impossible_sizes_are_refused(void **state)
{
    struct coll_shm_options o = {.threads = 1};
    struct comm *comm = NULL;

    (void)state;
    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        o.size = coll_algorithms[a]->max_ranks + 1;
        assert_int_equal(coll_shm_open(coll_algorithms[a], &o, &comm), STATUS_INVALID);
        o.size = coll_algorithms[a]->min_ranks - 1;
        assert_int_equal(coll_shm_open(coll_algorithms[a], &o, &comm), STATUS_INVALID);
    }
    assert_null(comm);
    coll_shm_close(NULL);
}

static void heap_too_small_is_refused(void **state)
{
    struct world w;
    struct symheap heap;
    struct comm *comm = NULL;

    (void)state;
    world_open(&w, 2, 1);
    assert_int_equal(symheap_attach((char *)w.segment.base + SYMHEAP_PAGE,
        w.segment.bytes - SYMHEAP_PAGE, 2, SYMHEAP_PAGE, &heap), STATUS_OK);
    w.options.heap = &heap;
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        assert_int_equal(coll_shm_open(coll_algorithms[a], &w.options, &comm), STATUS_NOMEM);
    assert_null(comm);
    segment_close(&w.segment);
}

static void bytes_asked_for_are_bytes_taken(void **state)
{
    struct world w;
    struct comm *comm;

    (void)state;
    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        struct symheap heap;

        world_open(&w, 2, 2);
        assert_int_equal(symheap_attach((char *)w.segment.base + SYMHEAP_PAGE,
            w.segment.bytes - SYMHEAP_PAGE, 2, coll_shm_heap_bytes(coll_algorithms[a], &w.options),
            &heap), STATUS_OK);
        w.options.heap = &heap;
        assert_int_equal(coll_shm_open(coll_algorithms[a], &w.options, &comm), STATUS_OK);
        assert_true(heap.used <= heap.region_bytes);
        assert_true(heap.region_bytes - heap.used < SYMHEAP_PAGE);
        assert_string_equal(comm->row->name, coll_algorithms[a]->name);
        coll_shm_close(comm);
        segment_close(&w.segment);
    }
}

/* Ranges of elements and of rows, of every number up to `MOST` over every number of ranks. */
static void own_ranges_fit_the_room_that_is_made_for_them(void **state)
{
    enum { MOST = 300 };

    (void)state;
    for (int size = 2; size <= COMM_MAX_RANKS; size++)
        for (size_t n = 1; n <= MOST; n++) {
            size_t most = own_most(n, size);

            for (int r = 0; r < size; r++)
                for (size_t fewer = 1; fewer <= n; fewer++)
                    assert_true(span_part(fewer, r, size).count <= most);
            for (size_t rows = (size_t)size; rows <= n; rows++)
                assert_true(span_of_rows(rows, n / rows, 0, size).count <= most);
            assert_true(most <= n + COLL_LINE_FLOATS); /* and are no excuse for a whole buffer */
        }
}

/* What the group says to itself does not count on what the program gathers. */
static bool agrees_in_little_room(struct team *t, int thread)
{
    float x[4] = {1, 2, 3, 4};

    return t->comm->row->all_reduce_f32(t->comm, thread, 1, x, 4) == STATUS_OK &&
           x[3] == 4.0f * (float)t->size;
}

static void program_that_gathers_nothing_still_agrees(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, MOST_RANKS, 1);
    w.options.gather_bytes = 1;
    w.measure_ns = LONG_ENOUGH_NS;
    world_run(&w, agrees_in_little_room);
    segment_close(&w.segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(abort_word_ends_every_wait),
        cmocka_unit_test(dead_peer_is_named_at_the_deadline),
        cmocka_unit_test(more_than_there_is_room_for_is_an_error),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(heap_too_small_is_refused),
        cmocka_unit_test(bytes_asked_for_are_bytes_taken),
        cmocka_unit_test(own_ranges_fit_the_room_that_is_made_for_them),
        cmocka_unit_test(program_that_gathers_nothing_still_agrees),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
