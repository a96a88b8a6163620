/* test_ring_buffer.c - payloads beside a ring. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "ipc/ring_buffer.h"
#include "ipc/ring.h"

enum { GENERATION = 5, CAPACITY = 1024 };

struct ends {
    struct views views;
    struct ring_buffer producer, consumer;
};

static int setup(void **state)
{
    static struct ends e;

    views_open(&e.views, ring_buffer_bytes(CAPACITY));
    assert_int_equal(ring_buffer_init(e.views.a.base, CAPACITY, GENERATION), STATUS_OK);
    assert_int_equal(
        ring_buffer_attach(e.views.a.base, e.views.a.bytes, GENERATION, &e.producer), STATUS_OK);
    assert_int_equal(
        ring_buffer_attach(e.views.b.base, e.views.b.bytes, GENERATION, &e.consumer), STATUS_OK);
    *state = &e;
    return 0;
}

static int teardown(void **state)
{
    views_close(&((struct ends *)*state)->views);
    return 0;
}

static void allocations_are_aligned_and_apart(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    assert_int_equal(ring_buffer_alloc(&e->producer, 1, &offset, &end), STATUS_OK);
    assert_int_equal(offset, 0);
    assert_int_equal(end, 64);
    assert_int_equal(ring_buffer_alloc(&e->producer, 100, &offset, &end), STATUS_OK);
    assert_int_equal(offset, 64);
    assert_int_equal(end, 192);
    assert_int_equal((uintptr_t)ring_buffer_at(&e->consumer, offset, 100) % 64, 0);
}

static void bytes_arrive_in_the_other_mapping(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    assert_int_equal(ring_buffer_alloc(&e->producer, 6, &offset, &end), STATUS_OK);
    memcpy(ring_buffer_at(&e->producer, offset, 6), "hello", 6);
    assert_string_equal(ring_buffer_at(&e->consumer, offset, 6), "hello");
}

static void full_ring_buffer_says_again_until_released(void **state)
{
    struct ends *e = *state;
    uint64_t offset, first, second, third;

    assert_int_equal(ring_buffer_alloc(&e->producer, 512, &offset, &first), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 512, &offset, &second), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 1, &offset, &third), STATUS_AGAIN);
    assert_int_equal(ring_buffer_release(&e->consumer, first), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 512, &offset, &third), STATUS_OK);
    assert_int_equal(offset, 0);
    assert_int_equal(ring_buffer_release(&e->consumer, third), STATUS_OK);
}

static void allocation_is_never_cut_at_the_end(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    assert_int_equal(ring_buffer_alloc(&e->producer, 448, &offset, &end), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 448, &offset, &end), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 256, &offset, &end), STATUS_AGAIN);
    assert_int_equal(ring_buffer_release(&e->consumer, 448), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 256, &offset, &end), STATUS_OK);
    assert_int_equal(offset, 0); /* 128 bytes at the end were skipped */
    assert_int_equal(end, CAPACITY + 256);
}

static void half_the_capacity_always_fits_an_empty_ring_buffer(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    for (int i = 0; i < 100; i++) {
        assert_int_equal(ring_buffer_alloc(&e->producer, 64, &offset, &end), STATUS_OK);
        assert_int_equal(ring_buffer_release(&e->consumer, end), STATUS_OK);
        assert_int_equal(ring_buffer_alloc(&e->producer, CAPACITY / 2, &offset, &end), STATUS_OK);
        assert_int_equal(ring_buffer_release(&e->consumer, end), STATUS_OK);
    }
}

static void more_than_half_is_refused_with_both_numbers(void **state)
{
    struct ends *e = *state;
    uint64_t offset = 1, end = 2;

    assert_int_equal(ring_buffer_alloc(&e->producer, CAPACITY / 2 + 1, &offset, &end), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "513 bytes"));
    assert_non_null(strstr(log_last_error(), "half of its 1024"));
    assert_int_equal(ring_buffer_alloc(&e->producer, SIZE_MAX, &offset, &end), STATUS_INVALID);
    assert_int_equal(offset, 1);
    assert_int_equal(end, 2);
}

static void offsets_outside_are_null(void **state)
{
    struct ends *e = *state;

    assert_non_null(ring_buffer_at(&e->consumer, 0, CAPACITY));
    assert_non_null(ring_buffer_at(&e->consumer, CAPACITY, 0));
    assert_null(ring_buffer_at(&e->consumer, 1, CAPACITY));
    assert_null(ring_buffer_at(&e->consumer, CAPACITY + 1, 0));
    assert_null(ring_buffer_at(&e->consumer, UINT64_MAX, 2));
    assert_null(ring_buffer_at(&e->consumer, 0, SIZE_MAX));
}

static void end_that_was_not_allocated_is_refused(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    assert_int_equal(ring_buffer_alloc(&e->producer, 64, &offset, &end), STATUS_OK);
    assert_int_equal(ring_buffer_release(&e->consumer, end + 64), STATUS_INVALID);
    assert_int_equal(ring_buffer_release(&e->consumer, end), STATUS_OK);
    assert_int_equal(ring_buffer_release(&e->consumer, end - 64), STATUS_INVALID);
    assert_int_equal(ring_buffer_release(&e->consumer, UINT64_MAX), STATUS_INVALID);
}

static void later_end_releases_all_before_it(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    for (int i = 0; i < 16; i++)
        assert_int_equal(ring_buffer_alloc(&e->producer, 64, &offset, &end), STATUS_OK);
    assert_int_equal(ring_buffer_release(&e->consumer, end), STATUS_OK);
    for (int i = 0; i < 16; i++)
        assert_int_equal(ring_buffer_alloc(&e->producer, 64, &offset, &end), STATUS_OK);
}

static void nothing_can_be_allocated_too(void **state)
{
    struct ends *e = *state;
    uint64_t offset, end;

    assert_int_equal(ring_buffer_alloc(&e->producer, 0, &offset, &end), STATUS_OK);
    assert_int_equal(end, 0);
    assert_non_null(ring_buffer_at(&e->consumer, offset, 0));
    assert_int_equal(ring_buffer_release(&e->consumer, end), STATUS_OK);
}

static void header_that_lies_is_refused(void **state)
{
    struct ends *e = *state;
    struct ring_buffer_shared *shared = e->views.a.base;
    size_t bytes = e->views.a.bytes;
    struct ring_buffer a;

    assert_int_equal(ring_buffer_attach(shared, bytes, GENERATION + 1, &a), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation 5, this process to generation 6"));
    assert_int_equal(
        ring_buffer_attach(shared, ring_buffer_bytes(CAPACITY) - 1, GENERATION, &a), STATUS_INVALID);
    shared->capacity = UINT64_MAX;
    assert_int_equal(ring_buffer_attach(shared, bytes, GENERATION, &a), STATUS_INVALID);
    shared->capacity = CAPACITY - 8;
    assert_int_equal(ring_buffer_attach(shared, bytes, GENERATION, &a), STATUS_INVALID);
    shared->capacity = 0;
    assert_int_equal(ring_buffer_attach(shared, bytes, GENERATION, &a), STATUS_INVALID);
    shared->magic++;
    assert_int_equal(ring_buffer_attach(shared, bytes, GENERATION, &a), STATUS_INVALID);
    assert_int_equal(ring_buffer_init(shared, 0, 1), STATUS_INVALID);
    assert_int_equal(ring_buffer_init((char *)shared + 8, 128, 1), STATUS_INVALID);
}

/* ---- which bytes are used ---- */

static void empty_ring_buffer_begins_at_its_first_byte(void **state)
{
    struct ends *e = *state;
    uint64_t offset, first, second;

    assert_int_equal(ring_buffer_alloc(&e->producer, 300, &offset, &first), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 1, &offset, &second), STATUS_OK);
    assert_int_equal(offset, 320);
    assert_int_equal(ring_buffer_release(&e->consumer, first), STATUS_OK);
    assert_int_equal(ring_buffer_alloc(&e->producer, 1, &offset, &second), STATUS_OK);
    assert_int_equal(offset, 384); /* one is still there */
    assert_int_equal(ring_buffer_release(&e->consumer, second), STATUS_OK);
    for (int i = 0; i < 16; i++) { /* nothing was skipped: all of it is room */
        assert_int_equal(ring_buffer_alloc(&e->producer, 64, &offset, &second), STATUS_OK);
        assert_int_equal(offset, 64 * i);
    }
    assert_int_equal(ring_buffer_alloc(&e->producer, 64, &offset, &second), STATUS_AGAIN);
}

static size_t resident_pages(const struct segment *s)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (s->bytes + page - 1) / page, n = 0;
    unsigned char *there = malloc(pages);

    assert_non_null(there);
    assert_int_equal(mincore(s->base, s->bytes, there), 0);
    for (size_t i = 0; i < pages; i++)
        n += there[i] & 1;
    free(there);
    return n;
}

static void small_messages_through_an_empty_ring_buffer_take_few_pages(void **state)
{
    const size_t capacity = 64 << 20;
    struct ring_buffer producer, consumer;
    uint64_t seed = test_seed(), offset, end;
    struct views v;

    (void)state;
    views_open(&v, ring_buffer_bytes(capacity));
    assert_int_equal(ring_buffer_init(v.a.base, capacity, GENERATION), STATUS_OK);
    assert_int_equal(ring_buffer_attach(v.a.base, v.a.bytes, GENERATION, &producer), STATUS_OK);
    assert_int_equal(ring_buffer_attach(v.b.base, v.b.bytes, GENERATION, &consumer), STATUS_OK);
    for (int i = 0; i < 10000; i++) {
        size_t bytes = 1 + test_random(&seed) % 8192;

        assert_int_equal(ring_buffer_alloc(&producer, bytes, &offset, &end), STATUS_OK);
        memset(ring_buffer_at(&producer, offset, bytes), 1, bytes);
        assert_int_equal(ring_buffer_release(&consumer, end), STATUS_OK);
    }
    assert_in_range(resident_pages(&v.a), 1, 3); /* the header, and what 8 KiB lie on */
    views_close(&v);
}

enum { ACTS = 200000, OUTSTANDING = 40 };

/* What was sent and not yet released, oldest first. */
struct reference {
    struct {
        uint64_t offset, bytes, end;
        unsigned char mark;
    } sent[OUTSTANDING];
    int n;
};

/* What has no bytes is in nobody's way. */
static void check_apart(const struct reference *r, uint64_t offset, uint64_t bytes)
{
    for (int i = 0; i < r->n; i++)
        assert_true(bytes == 0 || r->sent[i].bytes == 0 ||
                    offset + bytes <= r->sent[i].offset ||
                    r->sent[i].offset + r->sent[i].bytes <= offset);
}

static void send_random(struct ends *e, struct reference *r, uint64_t random)
{
    uint64_t bytes = random % (CAPACITY / 2 >> random / 4096 % 6), offset, end;
    enum status s = ring_buffer_alloc(&e->producer, bytes, &offset, &end);

    if (s == STATUS_AGAIN)
        assert_true(r->n > 0);
    if (s == STATUS_AGAIN)
        return;
    assert_int_equal(s, STATUS_OK);
    assert_true(r->n > 0 || offset == 0);
    check_apart(r, offset, bytes);
    r->sent[r->n].offset = offset;
    r->sent[r->n].bytes = bytes;
    r->sent[r->n].end = end;
    r->sent[r->n].mark = (unsigned char)(random >> 32);
    memset(ring_buffer_at(&e->producer, offset, bytes), r->sent[r->n].mark, bytes);
    r->n++;
}

static void receive_first(struct ends *e, struct reference *r)
{
    const unsigned char *got =
        ring_buffer_at(&e->consumer, r->sent[0].offset, r->sent[0].bytes);

    for (uint64_t i = 0; i < r->sent[0].bytes; i++)
        assert_int_equal(got[i], r->sent[0].mark);
    assert_int_equal(ring_buffer_release(&e->consumer, r->sent[0].end), STATUS_OK);
    memmove(r->sent, r->sent + 1, (size_t)--r->n * sizeof(r->sent[0]));
}

/* Phases that fill it and phases that drain it: it is full and empty again and again. */
static void what_is_not_released_is_never_given_again(void **state)
{
    struct reference r = {.n = 0};
    uint64_t seed = test_seed();

    for (int i = 0; i < ACTS; i++) {
        uint64_t random = test_random(&seed);
        bool sends = random % 8 < (i / 64 % 2 ? 6 : 2);

        if (sends && r.n < OUTSTANDING)
            send_random(*state, &r, random / 8);
        else if (r.n > 0)
            receive_first(*state, &r);
    }
}

/* ---- with a ring, both ends at once ---- */

enum { MESSAGES = 10000, RING_SLOTS = 16 };

struct note {
    uint64_t offset, end, bytes;
};

struct post {
    struct views views;
    struct ring sender, receiver;
    struct ring_buffer producer, consumer;
    uint64_t seed, deadline_ns;
    bool sent;
};

static void post_open(struct post *p)
{
    struct segment_cursor c = {0};
    size_t ring_offset = segment_carve(&c, ring_bytes(RING_SLOTS, sizeof(struct note)), 64);
    size_t ring_buffer_offset = segment_carve(&c, ring_buffer_bytes(4096), 64), bytes;
    void *ring, *buffer;

    assert_int_equal(segment_carved(&c, &bytes), STATUS_OK);
    views_open(&p->views, bytes);
    ring = segment_at(&p->views.a, ring_offset, 0);
    buffer = segment_at(&p->views.a, ring_buffer_offset, 0);
    bytes = p->views.a.bytes;
    assert_int_equal(ring_init(ring, RING_SLOTS, sizeof(struct note), GENERATION), STATUS_OK);
    assert_int_equal(ring_buffer_init(buffer, 4096, GENERATION), STATUS_OK);
    assert_int_equal(ring_attach(ring, bytes, GENERATION, &p->sender), STATUS_OK);
    assert_int_equal(
        ring_buffer_attach(buffer, bytes - ring_buffer_offset, GENERATION, &p->producer), STATUS_OK);
    ring = segment_at(&p->views.b, ring_offset, 0);
    buffer = segment_at(&p->views.b, ring_buffer_offset, 0);
    assert_int_equal(ring_attach(ring, bytes, GENERATION, &p->receiver), STATUS_OK);
    assert_int_equal(
        ring_buffer_attach(buffer, bytes - ring_buffer_offset, GENERATION, &p->consumer), STATUS_OK);
    p->deadline_ns = spin_deadline_ns(TEST_PATIENCE_NS);
}

/* No memset(): thread sanitizer must see each byte written. */
static void fill(unsigned char *to, uint64_t bytes, uint64_t n)
{
    for (uint64_t i = 0; i < bytes; i++)
        to[i] = (unsigned char)(n + i);
}

/* OK sent; AGAIN no room in the ring or the buffer. */
static enum status post_one(struct post *p, uint64_t n, uint64_t bytes)
{
    struct note note = {.bytes = bytes};
    enum status s;
    void *slot;

    s = ring_reserve(&p->sender, &slot); /* first the slot, then the bytes */
    if (s != STATUS_OK)
        return s;
    s = ring_buffer_alloc(&p->producer, bytes, &note.offset, &note.end);
    if (s != STATUS_OK)
        return s;
    fill(ring_buffer_at(&p->producer, note.offset, bytes), bytes, n);
    memcpy(slot, &note, sizeof(note));
    ring_publish(&p->sender);
    return STATUS_OK;
}

static bool post_all(void *context)
{
    struct post *p = context;

    for (uint64_t n = 0, bytes = 1; n < MESSAGES;) {
        enum status s = post_one(p, n, bytes);

        if (s == STATUS_AGAIN && spin_now_ns() < p->deadline_ns) {
            sched_yield();
        } else if (s != STATUS_OK) {
            return false;
        } else {
            bytes = test_random(&p->seed) % 2049;
            n++;
        }
    }
    ring_close(&p->sender);
    return true;
}

static bool intact(struct post *p, const struct note *note, uint64_t n)
{
    const unsigned char *got = ring_buffer_at(&p->consumer, note->offset, note->bytes);

    for (uint64_t i = 0; got != NULL && i < note->bytes; i++)
        if (got[i] != (unsigned char)(n + i))
            return false;
    return got != NULL && ring_buffer_release(&p->consumer, note->end) == STATUS_OK;
}

static bool collect_all(struct post *p)
{
    for (uint64_t n = 0;;) {
        const void *slot;
        enum status s = ring_peek(&p->receiver, &slot);

        if (s == STATUS_AGAIN && spin_now_ns() < p->deadline_ns) {
            sched_yield();
        } else if (s != STATUS_OK) {
            return s == STATUS_CLOSED && n == MESSAGES;
        } else {
            if (!intact(p, slot, n++))
                return false;
            ring_release(&p->receiver);
        }
    }
}

static void *posting_thread(void *context)
{
    struct post *p = context;

    p->sent = post_all(p);
    return NULL;
}

static void threads_exchange_payloads_of_any_length(void **state)
{
    struct post p = {.seed = test_seed()};
    pthread_t sender;
    bool received;

    (void)state;
    post_open(&p);
    p.receiver = p.sender; /* one mapping: thread sanitizer goes by addresses */
    p.consumer = p.producer;
    assert_int_equal(pthread_create(&sender, NULL, posting_thread, &p), 0);
    received = collect_all(&p);
    pthread_join(sender, NULL);
    assert_true(p.sent);
    assert_true(received);
    views_close(&p.views);
}

static void processes_exchange_payloads_of_any_length(void **state)
{
    struct post p = {.seed = test_seed()};
    bool received;
    pid_t sender;

    (void)state;
    post_open(&p);
    sender = child_start(post_all, &p);
    received = collect_all(&p);
    child_must_succeed(sender);
    assert_true(received);
    views_close(&p.views);
}

#define ON_A_RING_BUFFER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_RING_BUFFER(allocations_are_aligned_and_apart),
        ON_A_RING_BUFFER(bytes_arrive_in_the_other_mapping),
        ON_A_RING_BUFFER(full_ring_buffer_says_again_until_released),
        ON_A_RING_BUFFER(allocation_is_never_cut_at_the_end),
        ON_A_RING_BUFFER(half_the_capacity_always_fits_an_empty_ring_buffer),
        ON_A_RING_BUFFER(more_than_half_is_refused_with_both_numbers),
        ON_A_RING_BUFFER(offsets_outside_are_null),
        ON_A_RING_BUFFER(end_that_was_not_allocated_is_refused),
        ON_A_RING_BUFFER(later_end_releases_all_before_it),
        ON_A_RING_BUFFER(nothing_can_be_allocated_too),
        ON_A_RING_BUFFER(header_that_lies_is_refused),
        ON_A_RING_BUFFER(empty_ring_buffer_begins_at_its_first_byte),
        cmocka_unit_test(small_messages_through_an_empty_ring_buffer_take_few_pages),
        ON_A_RING_BUFFER(what_is_not_released_is_never_given_again),
        cmocka_unit_test(threads_exchange_payloads_of_any_length),
        cmocka_unit_test(processes_exchange_payloads_of_any_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
