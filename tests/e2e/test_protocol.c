/* test_protocol.c - `quern serve --socket`, spoken to by clients that do it wrong.
 *
 * One server lives through all of it; after each test a good client still gets
 * the right answer, and at the end it stops in good order. What clients did wrong
 * is told to them alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

enum { RANDOM_ROUNDS = 150 };

static struct raw_server server;
static uint32_t noise;

static const char prompt[] = "Once upon a time";
#define PROMPT prompt, sizeof(prompt) - 1

static uint32_t draw(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 17;
    noise ^= noise << 5;
    return noise;
}

/* The connection ends, after an ERROR of its own with `line` in it. */
static void ends_with(struct raw_client *c, const char *line)
{
    struct raw_frame f = raw_await(c, FRAME_ERROR), more;

    assert_int_equal(f.header.id, 0);
    if (strstr((char *)f.payload, line) == NULL)
        fail_msg("the server said \"%s\", not \"%s\"", (char *)f.payload, line);
    free(f.payload);
    assert_false(raw_next(c, &more));
    raw_close(c);
}

static void a_connection_begins_with_hello_and_ready(void **state)
{
    struct raw_client c;
    struct frame_hello hello;
    struct frame_ready ready;
    struct raw_frame f;

    (void)state;
    raw_assert_well(&server);
    raw_connect(&c, &server);
    assert_true(raw_next(&c, &f));
    assert_int_equal(f.header.type, FRAME_HELLO);
    memcpy(&hello, f.payload, sizeof(hello));
    assert_int_equal(hello.protocol, PROTOCOL_VERSION);
    free(f.payload);
    assert_true(raw_next(&c, &f));
    assert_int_equal(f.header.type, FRAME_READY);
    memcpy(&ready, f.payload, sizeof(ready));
    assert_int_equal(ready.vocab, 8192);
    assert_int_equal(ready.max_model_len, 2048);
    free(f.payload);
    raw_close(&c);
}

static void the_socket_is_its_owner_s_alone(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(stat(server.path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_second_server_leaves_the_first_alone(void **state)
{
    const char *words[] = {"serve", "--socket", server.path, NULL};
    const char *empty[] = {"serve", "--socket", "", NULL};
    struct command c;

    (void)state;
    assert_int_equal(child_run(&c, NULL, words), 1);
    assert_non_null(strstr(c.err, "another server listens there"));
    assert_ptr_equal(strchr(c.err, '\n'), c.err + c.err_bytes - 1);
    child_free(&c);
    assert_int_equal(child_run(&c, NULL, empty), 1);
    assert_non_null(strstr(c.err, "a socket's path has 1 to"));
    child_free(&c);
    raw_assert_well(&server);
}

static void frames_that_break_the_rules_end_their_connection(void **state)
{
    static const struct frame_header huge = {.bytes = FRAME_MAX_BYTES + 1, .type = FRAME_SUBMIT,
        .id = 1};
    static const unsigned strange[] = {0, 4, 63, FRAME_HELLO, FRAME_ERROR, 0xffff};
    struct frame_submit p = raw_params(SUBMIT_TEXT, 4);
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_send(&c, &huge, sizeof(huge));
    ends_with(&c, "larger than the protocol's");
    raw_connect(&c, &server);
    raw_send_frame(&c, FRAME_SUBMIT, 1, &p, sizeof(p) - 1);
    ends_with(&c, "it needs at least 40");
    raw_connect(&c, &server);
    raw_submit(&c, 0, p, PROMPT);
    ends_with(&c, "no request number");
    for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++) {
        raw_connect(&c, &server);
        raw_send_frame(&c, strange[i], 1, NULL, 0);
        ends_with(&c, "is none a client sends");
    }
    raw_assert_well(&server);
}

static void a_broken_frame_ends_the_connection_s_requests(void **state)
{
    struct frame_submit p = raw_params(SUBMIT_TEXT, 2000);
    struct raw_client c;

    (void)state;
    p.flags = SUBMIT_IGNORE_EOS;
    raw_connect(&c, &server);
    for (uint64_t id = 1; id <= 20; id++)
        assert_true(raw_submit(&c, id, p, PROMPT));
    free(raw_await(&c, FRAME_TOKENS).payload);
    raw_send_frame(&c, 9, 1, NULL, 0);
    ends_with(&c, "type 9");
    raw_assert_well(&server);
}

static void half_a_frame_harms_nobody(void **state)
{
    struct frame_submit p = raw_params(SUBMIT_TEXT, 4);
    struct frame_header h = {.bytes = sizeof(p) + 100, .type = FRAME_SUBMIT, .id = 1};
    unsigned char whole[sizeof(h) + sizeof(p)];
    struct raw_client c;

    (void)state;
    memcpy(whole, &h, sizeof(h));
    memcpy(whole + sizeof(h), &p, sizeof(p));
    for (size_t n = 1; n <= sizeof(whole); n++) {
        raw_connect(&c, &server);
        assert_true(raw_send(&c, whole, n));
        raw_close(&c);
    }
    raw_assert_well(&server);
}

static void a_frame_may_come_byte_by_byte(void **state)
{
    struct frame_submit p = raw_params(SUBMIT_TEXT, 12);
    struct frame_header h = {.bytes = sizeof(p) + 16, .type = FRAME_SUBMIT, .id = 77};
    unsigned char whole[sizeof(h) + sizeof(p) + 16];
    struct raw_client c;
    char *text;

    (void)state;
    memcpy(whole, &h, sizeof(h));
    memcpy(whole + sizeof(h), &p, sizeof(p));
    memcpy(whole + sizeof(h) + sizeof(p), prompt, 16);
    raw_connect(&c, &server);
    for (size_t i = 0; i < sizeof(whole); i++)
        assert_true(raw_send(&c, whole + i, 1));
    assert_int_equal(raw_answer(&c, 77, &text), FRAME_DONE);
    assert_memory_equal(text, ", there was", 11);
    free(text);
    raw_close(&c);
}

/* Bytes of no sense, and frames that nearly make some. */
static void random_bytes_never_harm_the_server(void **state)
{
    const char *seed = getenv("QUERN_TEST_SEED");

    (void)state;
    noise = seed != NULL ? (uint32_t)strtoul(seed, NULL, 10) : (uint32_t)time(NULL) | 1;
    printf("# QUERN_TEST_SEED=%u\n", noise);
    for (int round = 0; round < RANDOM_ROUNDS; round++) {
        unsigned char bytes[600];
        struct raw_client c;
        bool going = true;

        raw_connect(&c, &server);
        for (int frames = 0; going && frames < 20; frames++) {
            size_t n = draw() % sizeof(bytes);

            for (size_t i = 0; i < n; i++)
                bytes[i] = (unsigned char)(draw() % 4 == 0 ? draw() : 0);
            going = draw() % 4 == 0 ? raw_send(&c, bytes, n)
                                    : raw_send_frame(&c, 1 + draw() % 3, draw() % 4, bytes, n);
        }
        raw_close(&c);
    }
    raw_assert_well(&server);
}

static void resume_is_answered(void **state)
{
    struct frame_resume after = {.after = 3};
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    assert_true(raw_send_frame(&c, FRAME_RESUME, 5, &after, sizeof(after)));
    raw_refused(&c, 5, "submit it again");
    raw_close(&c);
}

static void a_running_request_s_number_is_taken(void **state)
{
    struct frame_submit p = raw_params(SUBMIT_TEXT, 400);
    struct raw_client c;
    struct raw_frame f;
    char *text;

    (void)state;
    p.flags = SUBMIT_IGNORE_EOS;
    raw_connect(&c, &server);
    assert_true(raw_submit(&c, 5, p, PROMPT));
    assert_true(raw_submit(&c, 5, p, PROMPT));
    f = raw_await(&c, FRAME_ERROR);
    assert_int_equal(f.header.id, 5);
    assert_non_null(strstr((char *)f.payload, "use another"));
    free(f.payload);
    assert_int_equal(raw_answer(&c, 5, &text), FRAME_DONE); /* the first goes on */
    free(text);
    p.max_tokens = 2;
    assert_true(raw_submit(&c, 5, p, PROMPT)); /* and now it is free again */
    assert_int_equal(raw_answer(&c, 5, &text), FRAME_DONE);
    free(text);
    raw_close(&c);
}

static void bad_parameters_are_told_one_by_one(void **state)
{
    static const int32_t ids[] = {1, 8192}, negative[] = {-1};
    struct frame_submit text = raw_params(SUBMIT_TEXT, 4), p;
    struct raw_client c;
    uint64_t id = 0;

    (void)state;
    raw_connect(&c, &server);
#define REFUSED(line, field, value, ...)                                                           \
    p = text, p.field = (value), assert_true(raw_submit(&c, ++id, p, __VA_ARGS__)),                \
    raw_refused(&c, id, line)
    REFUSED("a request of kind 3", kind, 3, PROMPT);
    REFUSED("a request of kind 4294967295", kind, UINT32_MAX, PROMPT);
    REFUSED("the prompt is empty", kind, SUBMIT_TEXT, NULL, 0);
    REFUSED("the prompt is empty", kind, SUBMIT_CHAT, NULL, 0);
    REFUSED("7 bytes of token ids", kind, SUBMIT_IDS, "1234567", 7);
    REFUSED("token id 8192 is out of range", kind, SUBMIT_IDS, ids, sizeof(ids));
    REFUSED("token id -1 is out of range", kind, SUBMIT_IDS, negative, sizeof(negative));
    REFUSED("max_tokens is 0", max_tokens, 0, PROMPT);
    REFUSED("they go up to", temperature, 100.5f, PROMPT);
    REFUSED("they go up to", temperature, NAN, PROMPT);
    REFUSED("they go up to", temperature, INFINITY, PROMPT);
    REFUSED("they go up to", top_p, 0, PROMPT);
    REFUSED("they go up to", top_p, 1.5f, PROMPT);
    REFUSED("they go up to", top_p, NAN, PROMPT);
    REFUSED("they go up to", min_p, 2, PROMPT);
    REFUSED("they go up to", min_p, NAN, PROMPT);
    REFUSED("not UTF-8: byte 3 is 0xff", kind, SUBMIT_TEXT, "abc\xff", 4);
    REFUSED("the request", kind, SUBMIT_CHAT, "{\"messages\": [", 14);
    REFUSED("messages", kind, SUBMIT_CHAT, "{}", 2);
#undef REFUSED
    raw_close(&c);
    raw_assert_well(&server);
}

static void prompts_longer_than_the_context_get_one_error(void **state)
{
    enum { IDS = 100000, BYTES = 10 << 20, RARE = 15 << 20 };
    char *mem = malloc(RARE);
    struct raw_client c;

    (void)state;
    assert_non_null(mem);
    raw_connect(&c, &server);
    for (int i = 0; i < IDS; i++)
        ((int32_t *)(void *)mem)[i] = i % 8192;
    assert_true(raw_submit(&c, 1, raw_params(SUBMIT_IDS, 1), mem, IDS * sizeof(int32_t)));
    raw_refused(&c, 1, "the prompt has 100000 tokens, the context holds 2048");
    for (int i = 0; i < BYTES; i += 16)
        memcpy(mem + i, "Once upon a time", 16);
    assert_true(raw_submit(&c, 2, raw_params(SUBMIT_TEXT, 1), mem, BYTES));
    raw_refused(&c, 2, "tokens, the context holds 2048");
    for (int i = 0; i < RARE; i += 3) /* a token for each byte: more ids than a ring buffer takes */
        memcpy(mem + i, "\xe1\x8e\xa0", 3);
    assert_true(raw_submit(&c, 3, raw_params(SUBMIT_TEXT, 1), mem, RARE));
    raw_refused(&c, 3, "tokens, more than any context holds");
    raw_close(&c);
    free(mem);
    raw_assert_well(&server);
}

static int start_server(void **state)
{
    static const char *const exact[] = {"--compute", "f32", "--kv-dtype", "f32", NULL};

    (void)state;
    raw_server_start(&server, exact);
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    raw_server_stop(&server, "");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_connection_begins_with_hello_and_ready),
        cmocka_unit_test(the_socket_is_its_owner_s_alone),
        cmocka_unit_test(a_second_server_leaves_the_first_alone),
        cmocka_unit_test(frames_that_break_the_rules_end_their_connection),
        cmocka_unit_test(a_broken_frame_ends_the_connection_s_requests),
        cmocka_unit_test(half_a_frame_harms_nobody),
        cmocka_unit_test(a_frame_may_come_byte_by_byte),
        cmocka_unit_test(random_bytes_never_harm_the_server),
        cmocka_unit_test(resume_is_answered),
        cmocka_unit_test(a_running_request_s_number_is_taken),
        cmocka_unit_test(bad_parameters_are_told_one_by_one),
        cmocka_unit_test(prompts_longer_than_the_context_get_one_error),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
