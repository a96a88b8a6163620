/* test_frame.c - frames out of bytes that come as they please. */
#include <string.h>

#include "msg/frame.h"
#include "quern/log.h"
#include "tests/ipc/ipc_support.h"

enum { FRAMES = 300, STREAM_BYTES = 8 << 20 };

static size_t append(unsigned char *stream, size_t at, const struct frame_header *h,
    const void *payload)
{
    memcpy(stream + at, h, sizeof(*h));
    if (h->bytes > 0)
        memcpy(stream + at + sizeof(*h), payload, h->bytes);
    return at + sizeof(*h) + h->bytes;
}

static void protocol_structs_have_no_holes(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct frame_header), 16);
    assert_int_equal(sizeof(struct frame_submit), 40);
    assert_int_equal(sizeof(struct frame_resume), 8);
    assert_int_equal(sizeof(struct frame_hello), 8);
    assert_int_equal(sizeof(struct frame_loading), 16);
    assert_int_equal(sizeof(struct frame_ready), 8);
    assert_int_equal(sizeof(struct frame_tokens), 16);
    assert_int_equal(sizeof(struct frame_done), 32);
}

static void nothing_comes_out_of_nothing(void **state)
{
    struct frame_reader r;
    struct frame_header h = {.type = 7};
    const void *payload = &r;

    (void)state;
    frame_reader_init(&r);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
    assert_int_equal(frame_reader_feed(&r, "", 0), STATUS_OK);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
    assert_int_equal(h.type, 7);
    assert_ptr_equal(payload, &r);
    frame_reader_free(&r);
    frame_reader_free(&r);
}

static void frame_is_whole_with_its_last_byte(void **state)
{
    struct frame_header sent = {.bytes = 5, .type = FRAME_ERROR, .id = UINT64_MAX}, h;
    unsigned char stream[64];
    size_t n = append(stream, 0, &sent, "hello");
    struct frame_reader r;
    const void *payload;

    (void)state;
    frame_reader_init(&r);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
        assert_int_equal(frame_reader_feed(&r, stream + i, 1), STATUS_OK);
    }
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_OK);
    assert_memory_equal(&h, &sent, sizeof(h));
    assert_memory_equal(payload, "hello", 5);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
    frame_reader_free(&r);
}

/* Frame i's payload is made from its number, so that it need not be kept. */
static void fill_payload(unsigned char *payload, uint32_t bytes, uint64_t id)
{
    for (uint32_t i = 0; i < bytes; i++)
        payload[i] = (unsigned char)(id * 31 + i);
}

static uint32_t random_length(uint64_t *seed)
{
    uint64_t r = test_random(seed);

    return (uint32_t)(r % 16 == 0 ? r >> 8 & 0x3ffff : r % 4 == 0 ? 0 : r >> 8 & 0x3ff);
}

static size_t make_stream(unsigned char *stream, uint64_t *seed)
{
    static unsigned char payload[1 << 18];
    size_t n = 0;

    for (uint64_t id = 0; id < FRAMES; id++) {
        struct frame_header h = {
            .bytes = random_length(seed), .type = (uint16_t)test_random(seed), .id = id};

        if (n + sizeof(h) + h.bytes > STREAM_BYTES)
            break;
        fill_payload(payload, h.bytes, id);
        n = append(stream, n, &h, payload);
    }
    return n;
}

static void check_frame(const struct frame_header *h, const void *payload, uint64_t id)
{
    static unsigned char want[1 << 18];

    assert_int_equal(h->id, id);
    fill_payload(want, h->bytes, id);
    assert_memory_equal(payload, want, h->bytes);
}

static void frames_survive_any_cuts(void **state)
{
    unsigned char *stream = malloc(STREAM_BYTES);
    uint64_t seed = test_seed(), id = 0;
    size_t n = make_stream(stream, &seed), at = 0;
    struct frame_reader r;

    (void)state;
    frame_reader_init(&r);
    while (at < n) {
        uint64_t x = test_random(&seed);
        size_t cut = x % 8 == 0 ? (size_t)(x >> 8) % 100000 : (size_t)(x >> 8) % 64;
        struct frame_header h;
        const void *payload;

        cut = cut < n - at ? cut : n - at;
        assert_int_equal(frame_reader_feed(&r, stream + at, cut), STATUS_OK);
        at += cut;
        while (frame_reader_next(&r, &h, &payload) == STATUS_OK)
            check_frame(&h, payload, id++);
    }
    assert_int_equal(id, FRAMES);
    frame_reader_free(&r);
    free(stream);
}

static void several_frames_of_one_feed_come_in_order(void **state)
{
    unsigned char stream[512];
    struct frame_reader r;
    struct frame_header h;
    const void *payload;
    size_t n = 0;

    (void)state;
    for (uint64_t id = 1; id <= 9; id++)
        n = append(stream, n, &(struct frame_header){.bytes = 8, .id = id}, &id);
    frame_reader_init(&r);
    assert_int_equal(frame_reader_feed(&r, stream, n), STATUS_OK);
    for (uint64_t id = 1; id <= 9; id++) {
        assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_OK);
        assert_int_equal(h.id, id);
        assert_memory_equal(payload, &id, 8);
    }
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
    frame_reader_free(&r);
}

static void frame_too_large_is_refused_by_its_header(void **state)
{
    struct frame_header sent = {.bytes = FRAME_MAX_BYTES, .type = FRAME_SUBMIT}, h;
    struct frame_reader r;
    const void *payload;

    (void)state;
    frame_reader_init(&r);
    assert_int_equal(frame_reader_feed(&r, &sent, sizeof(sent)), STATUS_OK);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
    frame_reader_free(&r);
    sent.bytes++;
    assert_int_equal(frame_reader_feed(&r, &sent, sizeof(sent)), STATUS_OK);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(),
        "16777217 bytes is larger than the protocol's 16777216"));
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_INVALID);
    frame_reader_free(&r);
}

static void short_fixed_part_is_refused(void **state)
{
    struct frame_header h = {.bytes = sizeof(struct frame_submit) - 1, .type = FRAME_SUBMIT};
    unsigned char payload[sizeof(struct frame_submit)] = {1};
    struct frame_submit submit = {.kind = 99};

    (void)state;
    assert_int_equal(frame_fixed(&h, payload, &submit, sizeof(submit)), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "type 1 has 39 bytes, it needs at least 40"));
    assert_int_equal(submit.kind, 99);
    h.bytes++;
    assert_int_equal(frame_fixed(&h, payload, &submit, sizeof(submit)), STATUS_OK);
    assert_int_equal(submit.kind, 1);
}

/* What a reader does with bytes of no meaning: frames within what was fed, or a refusal. */
static void feed_noise(uint64_t *seed)
{
    struct frame_reader r;
    enum status s = STATUS_AGAIN;
    size_t fed = 0, taken = 0;

    frame_reader_init(&r);
    for (int i = 0; i < 40 && s == STATUS_AGAIN; i++) {
        unsigned char bytes[256];
        size_t n = (size_t)(test_random(seed) % sizeof(bytes));
        struct frame_header h;
        const void *payload;

        for (size_t j = 0; j < n; j++) /* many zeroes: lengths that are sometimes small */
            bytes[j] = test_random(seed) % 4 != 0 ? 0 : (unsigned char)test_random(seed);
        assert_int_equal(frame_reader_feed(&r, bytes, n), STATUS_OK);
        fed += n;
        while ((s = frame_reader_next(&r, &h, &payload)) == STATUS_OK) {
            taken += sizeof(h) + h.bytes;
            assert_true(taken <= fed);
            assert_true((const unsigned char *)payload >= r.mem);
            assert_true((const unsigned char *)payload + h.bytes <= r.mem + r.end);
        }
        assert_true(s == STATUS_AGAIN || s == STATUS_INVALID);
    }
    assert_true(r.room <= 64 << 10);
    frame_reader_free(&r);
}

static void noise_does_no_harm(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (int i = 0; i < 2000; i++)
        feed_noise(&seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protocol_structs_have_no_holes),
        cmocka_unit_test(nothing_comes_out_of_nothing),
        cmocka_unit_test(frame_is_whole_with_its_last_byte),
        cmocka_unit_test(frames_survive_any_cuts),
        cmocka_unit_test(several_frames_of_one_feed_come_in_order),
        cmocka_unit_test(frame_too_large_is_refused_by_its_header),
        cmocka_unit_test(short_fixed_part_is_refused),
        cmocka_unit_test(noise_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
