/* test_wire.c - libquern against servers of another version, broken ones, and ones that end. */
#include <poll.h>
#include <stdbool.h>

#include "tests/client/fake_server.h"

/* Growth ------------------------------------------------------------------------------------- */

static void each_kind_of_event_has_what_it_is_about(void **state)
{
    const struct frame_loading loading = {.fixed = sizeof(loading), .loaded = 1, .total = 4};
    const struct frame_ready ready = {.fixed = sizeof(ready), .vocab = 99, .max_model_len = 77,
        .generation = 4};
    const struct frame_accepted accepted = {.fixed = sizeof(accepted), .prompt_tokens = 5, .key = 6,
        .seed = 7};
    const struct frame_paused paused = {.fixed = sizeof(paused), .paused = 1, .generation = 5};
    const struct frame_paused back = {.fixed = sizeof(back), .generation = 6};
    struct fake f = fake_open();
    const struct quern_event *e;
    size_t n;

    (void)state;
    fake_frame(&f, FRAME_LOADING, 0, &loading, sizeof(loading), NULL, 0);
    e = next_of(f.q, QUERN_EVENT_LOADING);
    assert_true(quern_event_progress(e) == 0.25f);
    assert_int_equal(quern_vocab_size(f.q), 0);
    assert_string_equal(quern_model_name(f.q), "");
    fake_frame(&f, FRAME_READY, 0, &ready, sizeof(ready), "org/model", 9);
    e = next_of(f.q, QUERN_EVENT_READY);
    assert_int_equal(quern_event_generation(e), 4);
    assert_int_equal(quern_vocab_size(f.q), 99);
    assert_int_equal(quern_context_size(f.q), 77);
    assert_int_equal(quern_generation(f.q), 4);
    assert_string_equal(quern_model_name(f.q), "org/model");
    assert_string_equal(quern_server_version(f.q), "9.9");
    fake_frame(&f, FRAME_ACCEPTED, 8, &accepted, sizeof(accepted), NULL, 0);
    e = next_of(f.q, QUERN_EVENT_ACCEPTED);
    assert_int_equal(quern_event_request(e), 8);
    assert_int_equal(quern_event_prompt_tokens(e), 5);
    assert_int_equal(quern_event_key(e), 6);
    assert_int_equal(quern_event_seed(e), 7);
    fake_tokens(&f, 8, 3, 2, "\xc3\xa9");
    e = next_of(f.q, QUERN_EVENT_TEXT);
    assert_string_equal(quern_event_text(e, &n), "\xc3\xa9");
    assert_int_equal(n, 2);
    assert_memory_equal(quern_event_ids(e, &n), ((const int32_t[]){4, 5}), 8);
    assert_int_equal(n, 2);
    assert_int_equal(quern_event_after(e), 3);
    assert_string_equal(quern_event_message(e), "");
    quern_event_logprobs(e, &n);
    assert_int_equal(n, 0);
    fake_frame(&f, FRAME_PAUSED, 8, &paused, sizeof(paused), "rank 1 died", 11);
    e = next_of(f.q, QUERN_EVENT_PAUSED);
    assert_string_equal(quern_event_message(e), "rank 1 died");
    assert_string_equal(quern_event_text(e, &n), "");
    assert_int_equal(n, 0);
    fake_frame(&f, FRAME_PAUSED, 8, &back, sizeof(back), NULL, 0);
    e = next_of(f.q, QUERN_EVENT_CONTINUED);
    assert_int_equal(quern_event_generation(e), 6);
    fake_done(&f, 8, QUERN_FINISH_LENGTH);
    e = next_of(f.q, QUERN_EVENT_DONE);
    assert_true(quern_event_is_last(e));
    assert_int_equal(quern_event_finish(e), QUERN_FINISH_LENGTH);
    assert_int_equal(quern_event_output_tokens(e), 7);
    assert_int_equal(quern_event_restarts(e), 2);
    assert_true(quern_event_first_token_s(e) == 1.5 && quern_event_total_s(e) == 2.5);
    fake_error(&f, 9, QUERN_CODE_OVERLOADED, "too much");
    e = next_of(f.q, QUERN_EVENT_ERROR);
    assert_int_equal(quern_event_request(e), 9);
    assert_true(quern_event_is_last(e));
    assert_int_equal(quern_event_code(e), QUERN_CODE_OVERLOADED);
    assert_int_equal(quern_event_retry(e), 1);
    assert_int_equal(quern_event_server_fault(e), 1);
    fake_close(&f);
}

/* A fixed part with 24 bytes more than this version has. */
struct longer {
    unsigned char bytes[sizeof(struct frame_done) + 24];
    size_t n;
};

static struct longer longer(const void *fixed, size_t n)
{
    struct longer l = {.n = n + 24};

    memset(l.bytes, 0xee, sizeof(l.bytes));
    memcpy(l.bytes, fixed, n);
    memcpy(l.bytes, &(uint32_t){(uint32_t)l.n}, sizeof(uint32_t));
    return l;
}

static void what_a_later_server_adds_is_passed_over(void **state)
{
    const struct frame_tokens tokens = {.choice = 2, .n_ids = 1, .text_bytes = 2, .logprobs_bytes = 4};
    const struct frame_done done = {.finish = 99, .choice = 1, .more = 1};
    struct fake f = fake_silent();
    struct longer l = longer(&(struct frame_hello){.protocol = PROTOCOL_VERSION}, 24);
    const struct quern_event *e;
    size_t n;

    (void)state;
    fake_frame(&f, FRAME_HELLO, 0, l.bytes, l.n, "10", 2);
    fake_frame(&f, 90, 0, "?", 1, NULL, 0);
    fake_frame(&f, 0xffff, 7, NULL, 0, NULL, 0);
    l = longer(&tokens, sizeof(tokens));
    fake_frame(&f, FRAME_TOKENS, 1, l.bytes, l.n, "\1\0\0\0hi\1\2\3\4more", 14);
    e = next_of(f.q, QUERN_EVENT_TEXT);
    assert_string_equal(quern_server_version(f.q), "10");
    assert_string_equal(quern_event_text(e, NULL), "hi");
    assert_int_equal(quern_event_choice(e), 2);
    assert_memory_equal(quern_event_logprobs(e, &n), "\1\2\3\4", 4);
    assert_int_equal(n, 4);
    l = longer(&done, sizeof(done));
    fake_frame(&f, FRAME_DONE, 1, l.bytes, l.n, NULL, 0);
    e = next_of(f.q, QUERN_EVENT_DONE);
    assert_int_equal(quern_event_finish(e), 99);
    assert_int_equal(quern_event_choice(e), 1);
    assert_int_equal(quern_event_more(e), 1);
    assert_false(quern_event_is_last(e)); /* another choice goes on */
    fake_error(&f, 1, 777, "new");
    e = next_of(f.q, QUERN_EVENT_ERROR);
    assert_int_equal(quern_event_code(e), 777);
    fake_close(&f);
}

/* Broken servers ----------------------------------------------------------------------------- */

/* What was sent is refused for that reason, for good, and the connection is let go. */
static void breaks(struct fake *f, const char *line)
{
    const struct quern_event *e = NULL;
    char byte, text[1024];

    assert_int_equal(quern_next(f->q, PATIENCE_MS, &e), QUERN_INVALID);
    snprintf(text, sizeof(text), "%s", quern_error(f->q));
    if (strstr(text, line) == NULL)
        fail_msg("\"%s\", not \"%s\"", text, line);
    assert_int_equal(quern_error_code(f->q), QUERN_CODE_BAD_FRAME);
    assert_int_equal(quern_next(f->q, PATIENCE_MS, &e), QUERN_INVALID);
    assert_string_equal(quern_error(f->q), text);
    assert_null(e);
    assert_int_equal(recv(f->fd, &byte, 1, 0), 0);
    fake_close(f);
}

static void servers_that_break_the_protocol_are_left(void **state)
{
    struct frame_header h = {.bytes = FRAME_MAX_BYTES + 1, .type = FRAME_DONE, .id = 1};
    struct frame_tokens t = {.fixed = sizeof(t), .n_ids = 2, .text_bytes = 3};
    struct frame_done d = {.fixed = DONE_LEAST - 1};
    struct fake f = fake_open();

    (void)state;
    fake_send(&f, &h, sizeof(h));
    breaks(&f, "larger than the protocol's");
    f = fake_open();
    h = (struct frame_header){.type = FRAME_DONE, .flags = 8, .id = 1};
    fake_send(&f, &h, sizeof(h));
    breaks(&f, "has flags 0x8");
    f = fake_open();
    fake_frame(&f, FRAME_TOKENS, 1, &t, sizeof(t), "12345678ab", 10);
    breaks(&f, "2 ids, 3 bytes of text and 0 of logprobs has 10 bytes");
    f = fake_open();
    fake_frame(&f, FRAME_TOKENS, 1, &t, sizeof(t), "12345678abcd", 12);
    breaks(&f, "has 12 bytes");
    f = fake_open();
    t.n_ids = UINT32_MAX;
    t.text_bytes = 15; /* in 32 bits the sum is the 11 that follow */
    fake_frame(&f, FRAME_TOKENS, 1, &t, sizeof(t), "12345678abc", 11);
    breaks(&f, "4294967295 ids");
    f = fake_open();
    fake_frame(&f, FRAME_DONE, 1, &d, sizeof(d), NULL, 0);
    breaks(&f, "says that its fixed part has 47: it has 48 at least");
    f = fake_open();
    d.fixed = sizeof(d) + 1;
    fake_frame(&f, FRAME_DONE, 1, &d, sizeof(d), NULL, 0);
    breaks(&f, "says that its fixed part has 57");
    f = fake_open();
    fake_frame(&f, FRAME_ERROR, 0, "\1", 1, NULL, 0);
    breaks(&f, "a frame of type 69 and 1 bytes");
    f = fake_silent();
    fake_hello(&f, PROTOCOL_VERSION + 1);
    breaks(&f, "the server speaks protocol 2, this libquern 1: use the same version of both");
}

static void frames_behind_a_broken_one_are_no_events(void **state)
{
    struct fake f = fake_open();

    (void)state;
    fake_frame(&f, FRAME_DONE, 1, "\1", 1, NULL, 0);
    fake_done(&f, 1, 0);
    breaks(&f, "a frame of type 68 and 1 bytes");
}

/* Ends --------------------------------------------------------------------------------------- */

static void what_a_server_said_before_it_closed_is_heard(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;

    (void)state;
    fake_tokens(&f, 1, 0, 1, "a");
    fake_error(&f, 0, QUERN_CODE_STOPPING, "the server is stopping");
    close(f.fd);
    f.fd = -1;
    for (int i = 0; i < 3; i++) /* into nowhere: EPIPE is not what is to be told */
        ask(f.q, story(1));
    next_of(f.q, QUERN_EVENT_TEXT);
    e = next_of(f.q, QUERN_EVENT_ERROR);
    assert_int_equal(quern_event_request(e), 0);
    assert_true(quern_event_is_last(e));
    assert_int_equal(quern_event_code(e), QUERN_CODE_STOPPING);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(quern_next(f.q, PATIENCE_MS, &e), QUERN_DEAD);
        assert_string_equal(quern_error(f.q), "the server is stopping");
        assert_int_equal(quern_error_code(f.q), QUERN_CODE_STOPPING);
    }
    fake_close(&f);
}

/* A server that has not read all closes with a reset. */
static void a_reset_does_not_hide_the_reason(void **state)
{
    struct fake f = fake_open();

    (void)state;
    ask(f.q, story(1));
    fake_error(&f, 0, QUERN_CODE_BAD_FRAME, "a frame of type 9 is none a client sends");
    close(f.fd);
    f.fd = -1;
    assert_int_equal(quern_event_code(next_of(f.q, QUERN_EVENT_ERROR)), QUERN_CODE_BAD_FRAME);
    assert_int_equal(quern_next(f.q, PATIENCE_MS, &(const struct quern_event *){NULL}), QUERN_DEAD);
    assert_string_equal(quern_error(f.q), "a frame of type 9 is none a client sends");
    fake_close(&f);
}

/* It may wait for us: then nobody would ever end. What comes meanwhile is heard. */
static void after_the_reason_nobody_is_waited_for(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;
    long start = now_ms();
    int s;

    (void)state;
    fake_error(&f, 0, QUERN_CODE_BAD_REQUEST, "no model");
    next_of(f.q, QUERN_EVENT_ERROR);
    fake_tokens(&f, 1, 0, 1, "late");
    next_of(f.q, QUERN_EVENT_TEXT);
    while ((s = quern_next(f.q, 50, &e)) == QUERN_AGAIN)
        assert_true(now_ms() - start < 5000);
    assert_int_equal(s, QUERN_DEAD);
    assert_string_equal(quern_error(f.q), "no model");
    fake_close(&f);
}

static void a_server_that_just_closes_is_told(void **state)
{
    struct fake f = fake_open();
    const struct quern_event *e;

    (void)state;
    fake_send(&f, "half", 4);
    close(f.fd);
    f.fd = -1;
    assert_int_equal(quern_next(f.q, PATIENCE_MS, &e), QUERN_DEAD);
    assert_string_equal(quern_error(f.q), "the quern runtime closed the connection");
    assert_int_equal(quern_error_code(f.q), QUERN_CODE_NONE);
    fake_close(&f);
}

/* Tokenizing --------------------------------------------------------------------------------- */

enum { OWN = 1 };
#define OWN_ID (UINT64_C(1) << 63 | OWN)

static void others_events_wait_while_a_prompt_is_tokenized(void **state)
{
    struct fake f = fake_open();
    struct quern_request *r = story(1);
    struct pollfd p = {.fd = quern_fd(f.q), .events = POLLIN};
    const int32_t *ids;
    size_t n;

    (void)state;
    fake_tokens(&f, 5, 0, 1, "before");
    fake_tokens(&f, OWN_ID, 0, 2, "");
    fake_tokens(&f, 5, 1, 1, "between");
    fake_tokens(&f, OWN_ID, 2, 3, "");
    fake_done(&f, OWN_ID, 0);
    fake_tokens(&f, 5, 2, 1, "after");
    assert_int_equal(quern_tokenize(f.q, r, PATIENCE_MS, &ids, &n), QUERN_OK);
    assert_int_equal(n, 5);
    assert_memory_equal(ids, ((const int32_t[]){1, 2, 3, 4, 5}), 5 * sizeof(*ids));
    assert_int_equal(poll(&p, 1, 0), 1); /* there are events, although the socket is empty */
    assert_string_equal(quern_event_text(next(f.q), NULL), "before");
    assert_string_equal(quern_event_text(next(f.q), NULL), "between");
    assert_string_equal(quern_event_text(next(f.q), NULL), "after");
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(ids[4], 5); /* lent on */
    quern_request_free(r);
    fake_close(&f);
}

static void late_ids_of_a_prompt_are_no_events(void **state)
{
    struct fake f = fake_open();
    struct quern_request *r = story(1);
    const struct quern_event *e;
    struct frame_header h;
    size_t n = 7;

    (void)state;
    assert_int_equal(quern_count_tokens(f.q, r, 20, &n), QUERN_AGAIN);
    assert_int_equal(n, 7);
    assert_true(fake_submitted(&f).h.id == OWN_ID);
    fake_read(&f, &h, sizeof(h));
    assert_int_equal(h.type, FRAME_CANCEL); /* nobody wants it any more */
    assert_true(h.id == OWN_ID);
    fake_tokens(&f, OWN_ID, 0, 2, "");
    fake_done(&f, OWN_ID, QUERN_FINISH_CANCELLED);
    assert_int_equal(quern_next(f.q, 20, &e), QUERN_AGAIN);
    fake_error(&f, OWN_ID + 1, QUERN_CODE_INTERNAL, "broken");
    assert_int_equal(quern_count_tokens(f.q, r, PATIENCE_MS, &n), QUERN_IO);
    assert_string_equal(quern_error(f.q), "broken");
    assert_int_equal(quern_error_code(f.q), QUERN_CODE_INTERNAL);
    fake_error(&f, 0, QUERN_CODE_STOPPING, "stopping"); /* in the middle of it */
    close(f.fd);
    f.fd = -1;
    assert_int_equal(quern_count_tokens(f.q, r, PATIENCE_MS, &n), QUERN_DEAD);
    assert_string_equal(quern_error(f.q), "stopping");
    next_of(f.q, QUERN_EVENT_ERROR);
    quern_request_free(r);
    fake_close(&f);
}

static void figures_are_lent_and_are_no_event(void **state)
{
    const struct frame_stats s = {.fixed = sizeof(s)};
    struct fake f = fake_open();
    const char *json = NULL, *more;

    (void)state;
    fake_tokens(&f, 5, 0, 1, "before");
    fake_frame(&f, FRAME_STATS, OWN_ID, &s, sizeof(s), "{\"running\":3}", 13);
    assert_int_equal(quern_stats(f.q, PATIENCE_MS, &json), QUERN_OK);
    assert_string_equal(json, "{\"running\":3}");
    fake_frame(&f, FRAME_STATS, OWN_ID, &s, sizeof(s), "late", 4); /* nobody waits for it */
    fake_frame(&f, FRAME_STATS, 5, &s, sizeof(s), "strange", 7);   /* nobody has asked */
    fake_tokens(&f, 5, 1, 1, "after");
    assert_string_equal(quern_event_text(next(f.q), NULL), "before");
    assert_string_equal(quern_event_text(next(f.q), NULL), "after");
    assert_string_equal(json, "{\"running\":3}"); /* lent on */
    assert_int_equal(quern_stats(f.q, 20, &more), QUERN_AGAIN);
    fake_error(&f, OWN_ID + 2, QUERN_CODE_UNKNOWN, "an older server");
    assert_int_equal(quern_stats(f.q, PATIENCE_MS, &more), QUERN_INVALID);
    assert_string_equal(quern_error(f.q), "an older server");
    assert_int_equal(quern_error_code(f.q), QUERN_CODE_UNKNOWN);
    fake_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_kind_of_event_has_what_it_is_about),
        cmocka_unit_test(what_a_later_server_adds_is_passed_over),
        cmocka_unit_test(servers_that_break_the_protocol_are_left),
        cmocka_unit_test(frames_behind_a_broken_one_are_no_events),
        cmocka_unit_test(what_a_server_said_before_it_closed_is_heard),
        cmocka_unit_test(a_reset_does_not_hide_the_reason),
        cmocka_unit_test(after_the_reason_nobody_is_waited_for),
        cmocka_unit_test(a_server_that_just_closes_is_told),
        cmocka_unit_test(others_events_wait_while_a_prompt_is_tokenized),
        cmocka_unit_test(late_ids_of_a_prompt_are_no_events),
        cmocka_unit_test(figures_are_lent_and_are_no_event),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
