/* test_coll.c - collectives over shared memory, between forked ranks with threads.
 *
 * Each rank makes its inputs from (rank, call, index), so that it can compute
 * for itself what the answer must be, bit for bit: the sum in rank order. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "ipc/flag.h"
#include "ipc/symheap_shm.h"
#include "parallel/coll_shm.h"
#include "tests/ipc/ipc_support.h"

enum { MOST_RANKS = 4, MOST_THREADS = 2, MOST_FLOATS = 5000, GATHER_BYTES = 4096, CALLS = 2000 };

static const size_t sizes[] = {1, 3, 15, 16, 17, 31, 129, 1000, 4097, 2, MOST_FLOATS};
enum { SIZES = sizeof(sizes) / sizeof(sizes[0]) };

/* A segment with the abort word on its first page and the heap behind it. */
struct world {
    struct segment segment;
    _Atomic uint32_t *abort_word;
    struct coll_shm_options options;
    int calls;
    bool (*body)(struct world *w, struct comm *c);
};

static void sum_in_order(float *dst, const float *const *src, int ranks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float sum = 0;

        for (int r = 0; r < ranks; r++)
            sum += src[r][i];
        dst[i] = sum;
    }
}

/* Of many magnitudes, so that another order gives other bits. */
static float input(int rank, int call, size_t i)
{
    uint64_t x = (uint64_t)rank << 48 ^ (uint64_t)call << 24 ^ i;
    uint64_t r = test_random(&x);

    return (float)(int32_t)(uint32_t)r * (1.0f / (float)(1u << (r >> 32) % 30));
}

static void world_open(struct world *w, int size, int threads)
{
    size_t region;

    *w = (struct world){.calls = CALLS};
    w->options = (struct coll_shm_options){.size = size, .threads = threads,
        .reduce_floats = MOST_FLOATS, .gather_bytes = GATHER_BYTES,
        .deadline_ns = TEST_PATIENCE_NS, .sum_ranks = sum_in_order};
    region = symheap_bytes((uint32_t)size, coll_shm_heap_bytes(&w->options));
    assert_int_equal(segment_create("test", SYMHEAP_PAGE + region, &w->segment), STATUS_OK);
    w->abort_word = w->segment.base;
    w->options.abort_word = w->abort_word;
}

static bool live(struct world *w, int rank)
{
    struct symheap heap;
    struct comm *comm;
    bool good;

    if (symheap_attach((char *)w->segment.base + SYMHEAP_PAGE, w->segment.bytes - SYMHEAP_PAGE,
            (uint32_t)w->options.size, coll_shm_heap_bytes(&w->options), &heap) != STATUS_OK)
        return false;
    w->options.heap = &heap;
    w->options.rank = rank;
    if (coll_shm_open(&w->options, &comm) != STATUS_OK)
        return false;
    good = w->body(w, comm);
    coll_shm_close(comm);
    return good;
}

static pid_t start_rank(struct world *w, int rank)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(live(w, rank) ? 0 : 1);
    assert_true(pid > 0);
    return pid;
}

static void run_ranks(struct world *w, bool (*body)(struct world *, struct comm *))
{
    pid_t pids[MOST_RANKS];

    w->body = body;
    for (int r = 0; r < w->options.size; r++)
        pids[r] = start_rank(w, r);
    for (int r = 0; r < w->options.size; r++)
        child_must_succeed(pids[r]);
}

/* all_reduce, by every thread ---------------------------------------------------------------- */

struct team {
    struct world *w;
    struct comm *comm;
    pthread_barrier_t barrier;
    float x[MOST_FLOATS + 16];
    bool wrong; /* thread 0 writes */
};

struct member {
    struct team *team;
    int thread;
};

static bool right_sum(const struct team *t, int call, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float want = 0;

        for (int r = 0; r < t->comm->size; r++)
            want += input(r, call, i);
        if (memcmp(&want, &t->x[i], sizeof(want)) != 0)
            return false;
    }
    return t->x[n] == -1; /* nothing behind it is touched */
}

static void *reduce_all(void *context)
{
    struct member *m = context;
    struct team *t = m->team;
    int threads = t->w->options.threads;

    for (int call = 0; call < t->w->calls; call++) {
        size_t n = sizes[call % SIZES];
        enum status s;

        if (m->thread == 0) {
            for (size_t i = 0; i < n; i++)
                t->x[i] = input(t->comm->rank, call, i);
            t->x[n] = -1;
        }
        pthread_barrier_wait(&t->barrier);
        s = t->comm->row->all_reduce_f32(t->comm, m->thread, threads, t->x, n);
        if (s != STATUS_OK)
            _exit(2);
        pthread_barrier_wait(&t->barrier);
        if (m->thread == 0 && !right_sum(t, call, n))
            t->wrong = true;
    }
    return NULL;
}

static bool reduces_all(struct world *w, struct comm *c)
{
    static struct team t;
    struct member members[MOST_THREADS];
    pthread_t threads[MOST_THREADS];
    int n = w->options.threads;

    t.w = w;
    t.comm = c;
    pthread_barrier_init(&t.barrier, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        members[i] = (struct member){&t, i};
        if (i > 0 && pthread_create(&threads[i], NULL, reduce_all, &members[i]) != 0)
            return false;
    }
    reduce_all(&members[0]);
    for (int i = 1; i < n; i++)
        pthread_join(threads[i], NULL);
    return !t.wrong;
}

static void all_reduce_is_the_sum_in_rank_order(void **state)
{
    (void)state;
    for (int size = 2; size <= MOST_RANKS; size++)
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            struct world w;

            world_open(&w, size, threads);
            /* Waiters must not burn the cores their peers need. */
            flag_spin_iterations = size * threads > 2 ? 20 : 2000;
            run_ranks(&w, reduces_all);
            segment_close(&w.segment);
        }
}

/* Gathers ------------------------------------------------------------------------------------ */

static unsigned char byte_of(int rank, int call, size_t i)
{
    return (unsigned char)(rank * 61 + call * 7 + (int)i);
}

static bool gathers_all(struct world *w, struct comm *c)
{
    static unsigned char mine[GATHER_BYTES], all[MOST_RANKS * GATHER_BYTES];

    for (int call = 0; call < w->calls; call++) {
        size_t n = (size_t)(call * 37) % (GATHER_BYTES + 1);

        for (size_t i = 0; i < n; i++)
            mine[i] = byte_of(c->rank, call, i);
        if (c->row->all_gather(c, mine, n, all) != STATUS_OK)
            return false;
        for (int r = 0; r < c->size; r++)
            for (size_t i = 0; i < n; i++)
                if (all[(size_t)r * n + i] != byte_of(r, call, i))
                    return false;
    }
    return true;
}

static void all_gather_brings_everybodys_bytes(void **state)
{
    struct world w;

    (void)state;
    for (int size = 2; size <= MOST_RANKS; size++) {
        world_open(&w, size, 1);
        w.calls = 500;
        flag_spin_iterations = size > 2 ? 20 : 2000;
        run_ranks(&w, gathers_all);
        segment_close(&w.segment);
    }
}

/* Columns of different widths, with a gap at the end of each row that stays as it was. */
static bool gathers_rows(struct world *w, struct comm *c)
{
    static const size_t widths[MOST_RANKS] = {12, 5, 9, 1};
    static unsigned char mine[64 * 12], out[64 * 40];
    size_t offsets[MOST_RANKS] = {0}, stride = 3;
    int root;

    for (int r = 0; r < c->size; r++) {
        offsets[r] = r > 0 ? offsets[r - 1] + widths[r - 1] : 0;
        stride += widths[r];
    }
    for (int call = 0; call < w->calls; call++) {
        size_t rows = 1 + (size_t)call % 40;

        root = call % c->size;
        memset(out, 0xee, sizeof(out));
        for (size_t i = 0; i < rows * widths[c->rank]; i++)
            mine[i] = byte_of(c->rank, call, i);
        if (c->row->gather_rows(c, root, mine, rows, widths, offsets, out, stride) != STATUS_OK)
            return false;
        for (size_t at = 0; at < sizeof(out); at++) {
            size_t row = at / stride, col = at % stride;
            unsigned char want = 0xee;

            for (int r = 0; r < c->size; r++)
                if (root == c->rank && row < rows && col >= offsets[r] &&
                    col < offsets[r] + widths[r])
                    want = byte_of(r, call, row * widths[r] + col - offsets[r]);
            if (out[at] != want)
                return false;
        }
    }
    return true;
}

static void rows_are_gathered_at_the_root_alone(void **state)
{
    struct world w;

    (void)state;
    for (int size = 2; size <= MOST_RANKS; size++) {
        world_open(&w, size, 1);
        w.calls = 200;
        flag_spin_iterations = size > 2 ? 20 : 2000;
        run_ranks(&w, gathers_rows);
        segment_close(&w.segment);
    }
}

static bool mixes_calls(struct world *w, struct comm *c)
{
    for (int call = 0; call < w->calls; call++) {
        float x[33], y[4];
        float mine = (float)(c->rank + call);
        float want = 0;

        for (int r = 0; r < c->size; r++)
            want += (float)(r + call);
        for (int i = 0; i < 33; i++)
            x[i] = mine;
        if (c->row->all_reduce_f32(c, 0, 1, x, 33) != STATUS_OK || x[32] != want)
            return false;
        if (call % 3 == 0 && (c->row->all_gather(c, &mine, sizeof(mine), y) != STATUS_OK ||
            y[c->size - 1] != (float)(c->size - 1 + call)))
            return false;
    }
    return true;
}

static void reduces_and_gathers_do_not_mix_up(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 3, 1);
    flag_spin_iterations = 20;
    run_ranks(&w, mixes_calls);
    segment_close(&w.segment);
}

/* Ends ----------------------------------------------------------------------------------------- */

static bool waits_alone(struct world *w, struct comm *c)
{
    float x[4] = {1, 2, 3, 4};
    char all[16];

    (void)w;
    return c->row->all_reduce_f32(c, 0, 1, x, 4) == STATUS_DEAD &&
           c->row->all_gather(c, x, 4, all) == STATUS_DEAD;
}

static void abort_word_ends_a_wait(void **state)
{
    struct world w;
    pid_t pid;

    (void)state;
    world_open(&w, 2, 1);
    w.body = waits_alone;
    pid = start_rank(&w, 0);
    nap_ms(50);
    /* release: as member_fail() sets it */
    atomic_store_explicit(w.abort_word, 1, memory_order_release);
    child_must_succeed(pid);
    segment_close(&w.segment);
}

/* Rank 1 ends after two calls. */
static bool loses_its_peer(struct world *w, struct comm *c)
{
    float x[17] = {0};
    enum status s = STATUS_OK;
    int calls = 0;

    (void)w;
    while (s == STATUS_OK && (c->rank == 0 || calls < 2)) {
        s = c->row->all_reduce_f32(c, 0, 1, x, 17);
        calls += s == STATUS_OK;
    }
    if (c->rank == 1)
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
    run_ranks(&w, loses_its_peer);
    segment_close(&w.segment);
}

static bool asks_too_much(struct world *w, struct comm *c)
{
    static float x[MOST_FLOATS + 1];

    (void)w;
    return c->row->all_reduce_f32(c, 0, 1, x, MOST_FLOATS + 1) == STATUS_INTERNAL &&
           c->row->all_gather(c, x, GATHER_BYTES + 1, x) == STATUS_INTERNAL;
}

static void more_than_there_is_room_for_is_an_error(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    run_ranks(&w, asks_too_much);
    segment_close(&w.segment);
}

static void impossible_sizes_are_refused(void **state)
{
    struct coll_shm_options o = {.size = 17, .threads = 1};
    struct comm *comm = NULL;

    (void)state;
    assert_int_equal(coll_shm_open(&o, &comm), STATUS_INVALID);
    o.size = 0;
    assert_int_equal(coll_shm_open(&o, &comm), STATUS_INVALID);
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
    assert_int_equal(coll_shm_open(&w.options, &comm), STATUS_NOMEM);
    assert_null(comm);
    segment_close(&w.segment);
}

static void bytes_asked_for_are_bytes_taken(void **state)
{
    struct world w;
    struct symheap heap;
    struct comm *comm;

    (void)state;
    world_open(&w, 2, 2);
    assert_int_equal(symheap_attach((char *)w.segment.base + SYMHEAP_PAGE,
        w.segment.bytes - SYMHEAP_PAGE, 2, coll_shm_heap_bytes(&w.options), &heap), STATUS_OK);
    w.options.heap = &heap;
    assert_int_equal(coll_shm_open(&w.options, &comm), STATUS_OK);
    assert_true(heap.used <= heap.region_bytes);
    assert_string_equal(comm->row->name, "shm_oneshot");
    coll_shm_close(comm);
    segment_close(&w.segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_reduce_is_the_sum_in_rank_order),
        cmocka_unit_test(all_gather_brings_everybodys_bytes),
        cmocka_unit_test(rows_are_gathered_at_the_root_alone),
        cmocka_unit_test(reduces_and_gathers_do_not_mix_up),
        cmocka_unit_test(abort_word_ends_a_wait),
        cmocka_unit_test(dead_peer_is_named_at_the_deadline),
        cmocka_unit_test(more_than_there_is_room_for_is_an_error),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(heap_too_small_is_refused),
        cmocka_unit_test(bytes_asked_for_are_bytes_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
