/* test_room.c - writers that wait for room, on a bell of their own.
 *
 * The three things that can be full (ring, ring buffer, broadcast ring) are
 * driven through one table by the loop that doorbell.h prints: a writer that
 * finds no room sleeps, a reader that made some rings. Whatever is so small
 * that nearly every message waits. */
#include "tests/ipc/ipc_support.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "ipc/broadcast_ring.h"
#include "ipc/doorbell.h"
#include "ipc/ring.h"
#include "ipc/ring_buffer.h"

enum { GENERATION = 4, MESSAGES = 3000, SLOTS = 2, BUFFER = 256, PIECE = 128, LIMIT_MS = 5000 };

/* One message's number; the buffer's bytes repeat it. */
struct note {
    uint64_t number, at, end;
};

struct channel;
struct kind {
    const char *name;
    enum status (*put)(struct channel *c, uint64_t number); /* OK or AGAIN */
    enum status (*take)(struct channel *c, uint64_t *number);
};

struct channel {
    const struct kind *kind;
    struct segment memory, words;
    struct ring ring;
    struct ring_buffer buffer;
    struct broadcast_ring broadcast;
    struct doorbell work, room;
    uint64_t next;      /* writer: the number it wants to put */
    enum status sent;   /* writer: how it ended */
};

static enum status ring_put(struct channel *c, uint64_t number)
{
    void *slot;
    enum status s = ring_reserve(&c->ring, &slot);

    if (s == STATUS_OK) {
        ((struct note *)slot)->number = number;
        ring_publish(&c->ring);
    }
    return s;
}

static enum status ring_take(struct channel *c, uint64_t *number)
{
    const void *slot;
    enum status s = ring_peek(&c->ring, &slot);

    if (s == STATUS_OK) {
        *number = ((const struct note *)slot)->number;
        ring_release(&c->ring);
    }
    return s;
}

static enum status buffer_put(struct channel *c, uint64_t number)
{
    struct note note = {.number = number};
    void *slot;
    enum status s = ring_reserve(&c->ring, &slot);

    if (s == STATUS_OK)
        s = ring_buffer_alloc(&c->buffer, PIECE, &note.at, &note.end);
    if (s != STATUS_OK)
        return s;
    memset(ring_buffer_at(&c->buffer, note.at, PIECE), (int)(number & 0xff), PIECE);
    *(struct note *)slot = note;
    ring_publish(&c->ring);
    return STATUS_OK;
}

static enum status buffer_take(struct channel *c, uint64_t *number)
{
    const unsigned char *bytes;
    const void *slot;
    struct note note;
    enum status s = ring_peek(&c->ring, &slot);

    if (s != STATUS_OK)
        return s;
    note = *(const struct note *)slot;
    bytes = ring_buffer_at(&c->buffer, note.at, PIECE);
    *number = bytes[PIECE - 1] == (note.number & 0xff) ? note.number : UINT64_MAX;
    ring_release(&c->ring);
    return ring_buffer_release(&c->buffer, note.end);
}

static enum status broadcast_put(struct channel *c, uint64_t number)
{
    void *slot;
    enum status s = broadcast_ring_reserve(&c->broadcast, &slot);

    if (s == STATUS_OK) {
        ((struct note *)slot)->number = number;
        broadcast_ring_publish(&c->broadcast);
    }
    return s;
}

static enum status broadcast_take(struct channel *c, uint64_t *number)
{
    const void *slot;
    enum status s = broadcast_ring_peek(&c->broadcast, 0, &slot);

    if (s == STATUS_OK) {
        *number = ((const struct note *)slot)->number;
        broadcast_ring_release(&c->broadcast, 0);
    }
    return s;
}

static const struct kind kinds[] = {
    {.name = "ring", .put = ring_put, .take = ring_take},
    {.name = "ring buffer", .put = buffer_put, .take = buffer_take},
    {.name = "broadcast ring", .put = broadcast_put, .take = broadcast_take},
};

enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* The ring has room for many where the buffer beside it is what fills up. */
static void channel_open(struct channel *c, const struct kind *kind)
{
    struct segment_cursor cursor = {0};
    uint32_t slots = kind->put == buffer_put ? 64 : SLOTS;
    size_t ring_at = segment_carve(&cursor, ring_bytes(slots, sizeof(struct note)), 64);
    size_t buffer_at = segment_carve(&cursor, ring_buffer_bytes(BUFFER), 64);
    size_t broadcast_at =
        segment_carve(&cursor, broadcast_ring_bytes(SLOTS, sizeof(struct note)), 64);
    size_t bytes;
    char *base;

    *c = (struct channel){.kind = kind};
    assert_int_equal(segment_carved(&cursor, &bytes), STATUS_OK);
    assert_int_equal(segment_create("test", bytes, &c->memory), STATUS_OK);
    assert_int_equal(segment_create("bells", 128, &c->words), STATUS_OK);
    base = c->memory.base;
    assert_int_equal(ring_init(base + ring_at, slots, sizeof(struct note), GENERATION), STATUS_OK);
    assert_int_equal(ring_buffer_init(base + buffer_at, BUFFER, GENERATION), STATUS_OK);
    assert_int_equal(broadcast_ring_init(
        base + broadcast_at, SLOTS, sizeof(struct note), 1, GENERATION), STATUS_OK);
    assert_int_equal(ring_attach(base + ring_at, bytes, GENERATION, &c->ring), STATUS_OK);
    assert_int_equal(ring_buffer_attach(
        base + buffer_at, bytes - buffer_at, GENERATION, &c->buffer), STATUS_OK);
    assert_int_equal(broadcast_ring_attach(
        base + broadcast_at, bytes - broadcast_at, GENERATION, &c->broadcast), STATUS_OK);
    assert_int_equal(doorbell_open(segment_at(&c->words, 0, 64), &c->work), STATUS_OK);
    assert_int_equal(doorbell_open(segment_at(&c->words, 64, 64), &c->room), STATUS_OK);
}

static void channel_close(struct channel *c)
{
    doorbell_close(&c->work);
    doorbell_close(&c->room);
    segment_close(&c->words);
    segment_close(&c->memory);
}

/* What the writer asks for while it waits: it puts, so that nothing is left to do after. */
static bool has_put(void *context)
{
    struct channel *c = context;

    c->sent = c->kind->put(c, c->next);
    return c->sent != STATUS_AGAIN;
}

static void write_all(struct channel *c)
{
    for (c->next = 0; c->next < MESSAGES; c->next++) {
        if (!has_put(c) &&
            doorbell_await(&c->room, -1, has_put, c, 0) != STATUS_OK)
            c->sent = STATUS_IO;
        if (c->sent != STATUS_OK)
            return;
        doorbell_ring(&c->work);
    }
}

/* Sleeps with a limit: a wait that ends by it is a lost wake-up, of one side or the other. */
static bool wait_for_one(struct channel *c, uint64_t *number)
{
    enum status s = c->kind->take(c, number);

    while (s == STATUS_AGAIN) {
        doorbell_ring(&c->room);
        doorbell_arm(&c->work);
        s = c->kind->take(c, number);
        if (s == STATUS_AGAIN && doorbell_wait(&c->work, -1, LIMIT_MS) != STATUS_OK)
            s = STATUS_TIMEOUT;
        doorbell_disarm(&c->work);
        if (s == STATUS_AGAIN)
            s = c->kind->take(c, number);
    }
    return s == STATUS_OK;
}

static bool read_all(struct channel *c)
{
    for (uint64_t n = 0, number; n < MESSAGES; n++)
        if (!wait_for_one(c, &number) || number != n)
            return false;
    return true;
}

static void *writing_thread(void *context)
{
    write_all(context);
    return NULL;
}

static void give_up(struct channel *c)
{
    ring_close(&c->ring);
    broadcast_ring_close(&c->broadcast);
    doorbell_ring(&c->room);
}

static void writer_thread_sleeps_until_there_is_room(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct channel c;
        pthread_t writer;
        bool received;

        channel_open(&c, &kinds[k]);
        assert_int_equal(pthread_create(&writer, NULL, writing_thread, &c), 0);
        received = read_all(&c);
        if (!received)
            give_up(&c);
        pthread_join(writer, NULL);
        if (!received || c.sent != STATUS_OK)
            fail_msg("%s: received %d, sent %d", kinds[k].name, received, c.sent);
        channel_close(&c);
    }
}

static bool writing_child(void *context)
{
    struct channel *c = context;

    alarm(120); /* a lost wake-up would last for ever */
    write_all(c);
    return c->sent == STATUS_OK;
}

static void writer_process_sleeps_until_there_is_room(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct channel c;
        pid_t writer;

        channel_open(&c, &kinds[k]);
        writer = child_start(writing_child, &c);
        if (!read_all(&c))
            fail_msg("%s: a wrong message, or a wake-up was lost", kinds[k].name);
        child_must_succeed(writer);
        channel_close(&c);
    }
}

/* What the eventfd has counted: the system calls that ringing cost. */
static uint64_t writes(struct doorbell *d)
{
    uint64_t count = 0;

    return read(d->fd, &count, sizeof(count)) < 0 ? 0 : count;
}

static void making_room_that_nobody_waits_for_costs_no_call(void **state)
{
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        struct channel c;
        uint64_t number;

        channel_open(&c, &kinds[k]);
        for (uint64_t n = 0; n < 100; n++) {
            assert_int_equal(c.kind->put(&c, n), STATUS_OK);
            assert_int_equal(c.kind->take(&c, &number), STATUS_OK);
            assert_int_equal(doorbell_ring(&c.room), STATUS_OK);
        }
        assert_int_equal(writes(&c.room), 0);
        channel_close(&c);
    }
}

/* Two words on one eventfd: only the one that is armed wakes. */
static void shared_bell_wakes_for_what_is_waited_for(void **state)
{
    struct channel c;
    struct doorbell room;

    (void)state;
    channel_open(&c, &kinds[0]);
    doorbell_share(c.room.shared, &c.work, &room);
    doorbell_arm(&room);
    assert_int_equal(doorbell_ring(&c.work), STATUS_OK);
    assert_int_equal(doorbell_wait(&room, -1, 0), STATUS_AGAIN);
    assert_int_equal(doorbell_ring(&room), STATUS_OK);
    assert_int_equal(doorbell_wait(&room, -1, 0), STATUS_OK);
    doorbell_disarm(&room);
    doorbell_arm(&c.work);
    assert_int_equal(doorbell_ring(&room), STATUS_OK);
    assert_int_equal(doorbell_wait(&c.work, -1, 0), STATUS_AGAIN);
    assert_int_equal(doorbell_ring(&c.work), STATUS_OK);
    assert_int_equal(doorbell_wait(&c.work, -1, 0), STATUS_OK);
    doorbell_disarm(&c.work);
    channel_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writer_thread_sleeps_until_there_is_room),
        cmocka_unit_test(writer_process_sleeps_until_there_is_room),
        cmocka_unit_test(making_room_that_nobody_waits_for_costs_no_call),
        cmocka_unit_test(shared_bell_wakes_for_what_is_waited_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
