/* test_frame.c - frames out of bytes that come as they please. */
#include <string.h>

#include "msg/frame.h"
#include "quern.h"
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
    assert_int_equal(sizeof(struct frame_submit), SUBMIT_LEAST);
    assert_int_equal(sizeof(struct frame_resume), RESUME_LEAST);
    assert_int_equal(sizeof(struct frame_hello), HELLO_LEAST);
    assert_int_equal(sizeof(struct frame_loading), LOADING_LEAST);
    assert_int_equal(sizeof(struct frame_ready), READY_LEAST + 8); /* fingerprint */
    assert_int_equal(sizeof(struct frame_accepted), ACCEPTED_LEAST);
    assert_int_equal(sizeof(struct frame_tokens), TOKENS_LEAST);
    assert_int_equal(sizeof(struct frame_done), DONE_LEAST + 8); /* stop_kind, stop */
    assert_int_equal(sizeof(struct frame_error), ERROR_LEAST);
    assert_int_equal(sizeof(struct frame_paused), PAUSED_LEAST);
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

/* A fixed part of `fixed` bytes in a payload of `bytes`. */
static enum status read_fixed(uint32_t fixed, uint32_t bytes, struct frame_tokens *t, size_t *rest_bytes)
{
    unsigned char payload[256] = {0};
    struct frame_header h = {.bytes = bytes, .type = FRAME_TOKENS};
    const void *rest;
    enum status s;

    memcpy(payload, &fixed, sizeof(fixed));
    for (uint32_t i = 4; i < sizeof(payload); i++)
        payload[i] = (unsigned char)i;
    s = frame_fixed(&h, payload, t, sizeof(*t), TOKENS_LEAST, &rest, rest_bytes);
    if (s == STATUS_OK)
        assert_ptr_equal(rest, payload + fixed);
    return s;
}

static void fixed_parts_that_cannot_be_are_refused(void **state)
{
    struct frame_tokens t = {.choice = 99};
    size_t rest;

    (void)state;
    assert_int_equal(read_fixed(TOKENS_LEAST - 1, 100, &t, &rest), STATUS_INVALID);
    assert_int_equal(read_fixed(TOKENS_LEAST, TOKENS_LEAST - 1, &t, &rest), STATUS_INVALID);
    assert_int_equal(read_fixed(UINT32_MAX, 100, &t, &rest), STATUS_INVALID);
    assert_int_equal(read_fixed(0, 0, &t, &rest), STATUS_INVALID);
    assert_int_equal(read_fixed(32, 3, &t, &rest), STATUS_INVALID);
    assert_int_equal(t.choice, 99);
    assert_int_equal(read_fixed(TOKENS_LEAST, TOKENS_LEAST, &t, &rest), STATUS_OK);
    assert_int_equal(t.choice, 0x07060504);
    assert_int_equal(rest, 0);
}

static void fixed_part_of_a_later_version_is_skipped_to_what_follows(void **state)
{
    struct frame_tokens t;
    size_t rest;

    (void)state;
    assert_int_equal(read_fixed(sizeof(t) + 24, 200, &t, &rest), STATUS_OK);
    assert_int_equal(rest, 200 - sizeof(t) - 24);
    assert_int_equal(t.choice, 0x07060504);
}

static void server_refuses_fields_it_does_not_know_unless_they_are_zero(void **state)
{
    unsigned char payload[64] = {40}; /* frame_submit has 24 */
    struct frame_header h = {.bytes = sizeof(payload), .type = FRAME_SUBMIT};
    struct frame_submit submit;
    const void *rest;
    size_t rest_bytes;

    (void)state;
    assert_int_equal(frame_fixed_known(&h, payload, &submit, sizeof(submit), SUBMIT_LEAST, &rest,
        &rest_bytes), STATUS_OK);
    assert_int_equal(rest_bytes, 24);
    for (size_t i = sizeof(submit); i < 40; i++) {
        payload[i] = 1;
        assert_int_equal(frame_fixed_known(&h, payload, &submit, sizeof(submit), SUBMIT_LEAST,
            &rest, &rest_bytes), STATUS_UNKNOWN);
        payload[i] = 0;
    }
    payload[40] = 1; /* behind it: the parameters' business */
    assert_int_equal(frame_fixed_known(&h, payload, &submit, sizeof(submit), SUBMIT_LEAST, &rest,
        &rest_bytes), STATUS_OK);
}

static void frame_with_flags_is_refused(void **state)
{
    struct frame_header sent = {.type = FRAME_CANCEL, .flags = 1, .id = 1}, h;
    struct frame_reader r;
    const void *payload;

    (void)state;
    frame_reader_init(&r);
    assert_int_equal(frame_reader_feed(&r, &sent, sizeof(sent)), STATUS_OK);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_INVALID);
    frame_reader_free(&r);
}

static void large_frame_leaves_no_memory_behind(void **state)
{
    static unsigned char bytes[1 << 20];
    struct frame_header sent = {.bytes = sizeof(bytes), .type = FRAME_SUBMIT, .id = 1}, h;
    struct frame_reader r;
    const void *payload;

    (void)state;
    frame_reader_init(&r);
    assert_int_equal(frame_reader_feed(&r, &sent, sizeof(sent)), STATUS_OK);
    assert_int_equal(frame_reader_feed(&r, bytes, sizeof(bytes)), STATUS_OK);
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_OK);
    assert_true(r.room > sizeof(bytes));
    assert_int_equal(frame_reader_next(&r, &h, &payload), STATUS_AGAIN);
    assert_int_equal(r.room, 0);
    frame_reader_free(&r);
}

static void error_codes_say_whose_fault_and_whether_to_retry(void **state)
{
    (void)state;
    assert_int_equal(frame_error_of(QUERN_CODE_BAD_REQUEST).fault, FAULT_CALLER);
    assert_int_equal(frame_error_of(QUERN_CODE_BAD_REQUEST).retry, 0);
    assert_int_equal(frame_error_of(QUERN_CODE_QUOTA).fault, FAULT_CALLER);
    assert_int_equal(frame_error_of(QUERN_CODE_QUOTA).retry, 1);
    assert_int_equal(frame_error_of(QUERN_CODE_OVERLOADED).fault, FAULT_SERVER);
    assert_int_equal(frame_error_of(QUERN_CODE_OVERLOADED).retry, 1);
    assert_int_equal(frame_error_of(QUERN_CODE_MODEL).retry, 0);
    assert_int_equal(frame_error_of(12345).fault, FAULT_SERVER);
    assert_int_equal(frame_error_of(12345).retry, 0);
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
        cmocka_unit_test(fixed_parts_that_cannot_be_are_refused),
        cmocka_unit_test(fixed_part_of_a_later_version_is_skipped_to_what_follows),
        cmocka_unit_test(server_refuses_fields_it_does_not_know_unless_they_are_zero),
        cmocka_unit_test(frame_with_flags_is_refused),
        cmocka_unit_test(large_frame_leaves_no_memory_behind),
        cmocka_unit_test(error_codes_say_whose_fault_and_whether_to_retry),
        cmocka_unit_test(noise_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
