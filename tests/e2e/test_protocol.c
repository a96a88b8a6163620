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
    struct raw_frame more;

    raw_refused(c, 0, QUERN_CODE_BAD_FRAME, line);
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
    raw_fixed(&f, &hello, sizeof(hello));
    assert_int_equal(hello.protocol, PROTOCOL_VERSION);
    assert_int_equal(hello.generation, 1);
    assert_int_not_equal(hello.instance, 0);
    assert_string_equal(raw_rest(&f), QUERN_VERSION);
    free(f.payload);
    assert_true(raw_next(&c, &f));
    assert_int_equal(f.header.type, FRAME_READY);
    raw_fixed(&f, &ready, sizeof(ready));
    assert_int_equal(ready.vocab, 8192);
    assert_int_equal(ready.max_model_len, 2048);
    assert_string_equal(raw_rest(&f), "storyteller");
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
        .id = 1}, flagged = {.type = FRAME_CANCEL, .flags = 1, .id = 1};
    static const unsigned strange[] = {0, 5, 63, FRAME_HELLO, FRAME_ERROR, 0xffff};
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_send(&c, &huge, sizeof(huge));
    ends_with(&c, "larger than the protocol's");
    raw_connect(&c, &server);
    raw_send(&c, &flagged, sizeof(flagged));
    ends_with(&c, "has flags 0x1, there are none");
    raw_connect(&c, &server);
    raw_send_frame(&c, FRAME_CANCEL, 1, "x", 1);
    ends_with(&c, "has no payload");
    raw_connect(&c, &server);
    raw_submit(&c, 0, raw_params(PROMPT_TEXT, 4), PROMPT);
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
    struct raw_params p = raw_endless(PROMPT_TEXT, 2000);
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    for (uint64_t id = 1; id <= 20; id++)
        assert_true(raw_submit(&c, id, p, PROMPT));
    free(raw_await(&c, FRAME_TOKENS).payload);
    raw_send_frame(&c, 9, 1, NULL, 0);
    ends_with(&c, "type 9");
    raw_assert_well(&server);
}

/* A SUBMIT of 12 tokens after the prompt, whole; returns its bytes. */
static size_t whole_submit(uint64_t id, unsigned char *whole)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 12);
    struct frame_header h = {.type = FRAME_SUBMIT, .id = id};
    size_t n = raw_payload(&p, sizeof(prompt) - 1, whole + sizeof(h));

    memcpy(whole + sizeof(h) + n, prompt, sizeof(prompt) - 1);
    h.bytes = (uint32_t)(n + sizeof(prompt) - 1);
    memcpy(whole, &h, sizeof(h));
    return sizeof(h) + h.bytes;
}
enum { WHOLE = sizeof(struct frame_header) + RAW_PAYLOAD + sizeof(prompt) };

static void half_a_frame_harms_nobody(void **state)
{
    unsigned char whole[WHOLE];
    struct raw_client c;

    (void)state;
    for (size_t n = 1; n < whole_submit(1, whole); n++) {
        raw_connect(&c, &server);
        assert_true(raw_send(&c, whole, n));
        raw_close(&c);
    }
    raw_assert_well(&server);
}

static void a_frame_may_come_byte_by_byte(void **state)
{
    unsigned char whole[WHOLE];
    size_t n = whole_submit(77, whole);
    struct raw_client c;
    char *text;

    (void)state;
    raw_connect(&c, &server);
    for (size_t i = 0; i < n; i++)
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
                                    : raw_send_frame(&c, 1 + draw() % 4, draw() % 4, bytes, n);
        }
        raw_close(&c);
    }
    raw_assert_well(&server);
}

/* Growth ------------------------------------------------------------------------------------- */

/* A SUBMIT with `more` bytes behind its fixed part, each `byte`; or with fewer than that has. */
static void submit_of_length(struct raw_client *c, uint64_t id, int more, int byte)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 2);
    unsigned char bytes[RAW_PAYLOAD + 64 + sizeof(prompt)];
    size_t n = raw_payload(&p, sizeof(prompt) - 1, bytes), fixed = sizeof(struct frame_submit);
    uint32_t said = (uint32_t)((int)fixed + more);

    memmove(bytes + said, bytes + fixed, n - fixed);
    for (size_t i = fixed; i < said; i++)
        bytes[i] = (unsigned char)byte;
    memcpy(bytes, &said, sizeof(said));
    n += said - fixed;
    memcpy(bytes + n, prompt, sizeof(prompt) - 1);
    assert_true(raw_send_frame(c, FRAME_SUBMIT, id, bytes, n + sizeof(prompt) - 1));
}

static void what_a_later_client_says_is_refused_unless_it_is_zero(void **state)
{
    struct frame_resume resume = {.fixed = sizeof(resume), .flags = 2, .key = 1};
    struct raw_params p = raw_params(PROMPT_TEXT, 2);
    struct frame_submit flagged = {.fixed = sizeof(flagged), .flags = 4, .prompt_bytes = 1};
    struct raw_client c;
    char *text;

    (void)state;
    raw_connect(&c, &server);
    submit_of_length(&c, 1, 16, 0);
    assert_int_equal(raw_answer(&c, 1, &text), FRAME_DONE);
    free(text);
    submit_of_length(&c, 2, 16, 1);
    raw_refused(&c, 2, QUERN_CODE_UNKNOWN, "uses a field at byte 24");
    p.task = 4;
    assert_true(raw_submit(&c, 3, p, PROMPT));
    raw_refused(&c, 3, QUERN_CODE_UNKNOWN, "task 4");
    p.task = TASK_COMPLETE;
    p.prompt = 3;
    assert_true(raw_submit(&c, 4, p, PROMPT));
    raw_refused(&c, 4, QUERN_CODE_UNKNOWN, "a prompt of kind 3");
    assert_true(raw_send_frame(&c, FRAME_RESUME, 5, &resume, sizeof(resume)));
    raw_refused(&c, 5, QUERN_CODE_UNKNOWN, "flags 0x2");
    flagged.prompt_bytes = 0;
    assert_true(raw_send_frame(&c, FRAME_SUBMIT, 6, &flagged, sizeof(flagged)));
    raw_refused(&c, 6, QUERN_CODE_UNKNOWN, "flags 0x4");
    raw_close(&c);
}

/* One parameter, in raw bytes. */
static void submit_param(struct raw_client *c, uint64_t id, struct param_header h, const void *value,
    size_t bytes)
{
    struct frame_submit submit = {.fixed = sizeof(submit),
        .params_bytes = (uint32_t)(sizeof(h) + bytes), .prompt_bytes = 1};
    unsigned char all[256];
    size_t n = sizeof(submit);

    memcpy(all, &submit, sizeof(submit));
    memcpy(all + n, &h, sizeof(h));
    memcpy(all + n + sizeof(h), value, bytes);
    n += sizeof(h) + bytes;
    all[n++] = 'x';
    assert_true(raw_send_frame(c, FRAME_SUBMIT, id, all, n));
}

static void parameters_that_cannot_be_are_refused_by_name_or_number(void **state)
{
    static const uint32_t two[] = {3, PARAM_MAX_TOKENS, 4, 3};
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
#define REFUSED(code, line, ...)                                                                   \
    submit_param(&c, 1, (struct param_header)__VA_ARGS__), raw_refused(&c, 1, code, line)
    REFUSED(QUERN_CODE_UNKNOWN, "parameter 63", {63, 0, 4}, two, 4);
    REFUSED(QUERN_CODE_UNKNOWN, "parameter 65535", {65535, 0, 4}, two, 4);
    REFUSED(QUERN_CODE_UNKNOWN, "parameter 0", {0, 0, 4}, two, 4);
    REFUSED(QUERN_CODE_UNKNOWN, "has flags", {PARAM_MAX_TOKENS, 1, 4}, two, 4);
    REFUSED(QUERN_CODE_BAD_REQUEST, "max_tokens: a value of 2 bytes", {PARAM_MAX_TOKENS, 0, 2}, two, 2);
    REFUSED(QUERN_CODE_BAD_REQUEST, "is said to have 5 bytes, 4 are there", {PARAM_MAX_TOKENS, 0, 5}, two,
        4);
    REFUSED(QUERN_CODE_BAD_REQUEST, "end within one", {PARAM_MAX_TOKENS, 0, 4}, two, 7);
    REFUSED(QUERN_CODE_BAD_REQUEST, "max_tokens is given twice", {PARAM_MAX_TOKENS, 0, 4}, two, 16);
    REFUSED(QUERN_CODE_BAD_REQUEST, "key 0", {PARAM_KEY, 0, 8}, "\0\0\0\0\0\0\0", 8);
#undef REFUSED
    raw_close(&c);
    raw_assert_well(&server);
}

static void lengths_that_do_not_add_up_are_refused(void **state)
{
    struct frame_submit submit = {.fixed = sizeof(submit), .prompt_bytes = 3};
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    assert_true(raw_send_frame(&c, FRAME_SUBMIT, 1, &submit, sizeof(submit)));
    raw_refused(&c, 1, QUERN_CODE_BAD_REQUEST, "are not the 0 that follow");
    submit.params_bytes = UINT32_MAX;
    assert_true(raw_send_frame(&c, FRAME_SUBMIT, 1, &submit, sizeof(submit)));
    raw_refused(&c, 1, QUERN_CODE_BAD_REQUEST, "are not the 0 that follow");
    submit.fixed = sizeof(submit) - 1;
    assert_true(raw_send_frame(&c, FRAME_SUBMIT, 1, &submit, sizeof(submit)));
    raw_refused(&c, 1, QUERN_CODE_BAD_REQUEST, "it has 24 at least");
    submit.fixed = UINT32_MAX;
    assert_true(raw_send_frame(&c, FRAME_SUBMIT, 1, &submit, sizeof(submit)));
    raw_refused(&c, 1, QUERN_CODE_BAD_REQUEST, "it has 24 at least");
    assert_true(raw_send_frame(&c, FRAME_RESUME, 1, &submit, 3));
    raw_refused(&c, 1, QUERN_CODE_BAD_REQUEST, "it has 24 at least");
    raw_close(&c);
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
        cmocka_unit_test(what_a_later_client_says_is_refused_unless_it_is_zero),
        cmocka_unit_test(parameters_that_cannot_be_are_refused_by_name_or_number),
        cmocka_unit_test(lengths_that_do_not_add_up_are_refused),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
