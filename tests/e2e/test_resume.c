/* test_resume.c - an answer outlives its connection, for as long as was asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/raw_client.h"

enum { TOKENS = 300, KEY = 4711 };

static const char prompt[] = "Once upon a time";
static struct raw_server server;

/* What of an answer has come. */
struct answer {
    int32_t ids[4096];
    uint32_t n, prompt_tokens;
    char text[1 << 16];
    size_t bytes;
    bool accepted, done;
    uint64_t key, seed;
};

static void note_tokens(struct answer *a, const struct raw_frame *f, uint32_t first)
{
    struct frame_tokens t;
    const char *rest = raw_rest(f);

    raw_fixed(f, &t, sizeof(t));
    assert_int_equal(t.after, first + a->n);
    memcpy(a->ids + a->n, rest, t.n_ids * sizeof(int32_t));
    memcpy(a->text + a->bytes, rest + t.n_ids * sizeof(int32_t), t.text_bytes);
    a->n += t.n_ids;
    a->bytes += t.text_bytes;
}

/* Reads until `ids` of the answer are there, or its end; `first`: ids it had before. */
static void read_answer(struct raw_client *c, struct answer *a, uint32_t first, uint32_t ids)
{
    while (!a->done && a->n < ids) {
        struct frame_accepted accepted;
        struct raw_frame f;

        assert_true(raw_next(c, &f));
        if (f.header.type == FRAME_TOKENS)
            note_tokens(a, &f, first);
        if (f.header.type == FRAME_ERROR)
            fail_msg("%s", raw_rest(&f));
        if (f.header.type == FRAME_ACCEPTED) {
            raw_fixed(&f, &accepted, sizeof(accepted));
            a->accepted = true;
            a->key = accepted.key;
            a->seed = accepted.seed;
            a->prompt_tokens = accepted.prompt_tokens;
        }
        a->done = f.header.type == FRAME_DONE;
        free(f.payload);
    }
}

static struct raw_params kept_for(uint32_t seconds, uint64_t key)
{
    struct raw_params p = raw_endless(PROMPT_TEXT, TOKENS);

    RAW_GIVE(p, PARAM_TEMPERATURE, temperature, 1);
    RAW_GIVE(p, PARAM_SEED, seed, 5);
    RAW_GIVE(p, PARAM_KEEP, keep_s, seconds);
    RAW_GIVE(p, PARAM_KEY, key, key);
    return p;
}

/* The answer of one connection that nothing happened to. */
static const struct answer *whole(void)
{
    static struct answer a;
    struct raw_params p = kept_for(0, KEY);
    struct raw_client c;

    if (a.done)
        return &a;
    raw_connect(&c, &server);
    raw_submit(&c, 1, p, prompt, strlen(prompt));
    read_answer(&c, &a, 0, UINT32_MAX);
    assert_int_equal(a.n, TOKENS);
    raw_close(&c);
    return &a;
}

static void an_answer_goes_on_where_its_lost_connection_was(void **state)
{
    static struct answer before, after;
    const struct answer *want = whole();
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, kept_for(60, KEY), prompt, strlen(prompt));
    read_answer(&c, &before, 0, 20);
    raw_close(&c);
    raw_connect(&c, &server);
    raw_resume(&c, 9, KEY, before.n);
    read_answer(&c, &after, before.n, UINT32_MAX);
    assert_true(after.accepted);
    assert_int_equal(after.key, KEY);
    assert_int_equal(after.seed, 5);
    assert_int_equal(after.prompt_tokens, want->prompt_tokens);
    assert_int_equal(before.n + after.n, TOKENS);
    assert_memory_equal(before.ids, want->ids, before.n * sizeof(int32_t));
    assert_memory_equal(after.ids, want->ids + before.n, after.n * sizeof(int32_t));
    assert_int_equal(before.bytes + after.bytes, want->bytes);
    assert_memory_equal(before.text, want->text, before.bytes);
    assert_memory_equal(after.text, want->text + before.bytes, after.bytes);
    raw_close(&c);
}

/* It has ended, was told, and is told again. */
static void an_ended_answer_is_kept_and_told_from_any_place(void **state)
{
    const struct answer *want = whole();
    struct raw_client c;
    static struct answer first;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, kept_for(60, KEY + 1), prompt, strlen(prompt));
    read_answer(&c, &first, 0, UINT32_MAX);
    for (uint32_t after = 0; after <= TOKENS; after += 50) {
        static struct answer again;

        memset(&again, 0, sizeof(again));
        raw_resume(&c, 100 + after, KEY + 1, after);
        read_answer(&c, &again, after, UINT32_MAX);
        assert_true(again.done);
        assert_int_equal(after + again.n, TOKENS);
        assert_memory_equal(again.ids, want->ids + after, again.n * sizeof(int32_t));
        assert_memory_equal(again.text, want->text + want->bytes - again.bytes, again.bytes);
    }
    raw_resume(&c, 7, KEY + 1, TOKENS + 1);
    raw_refused(&c, 7, QUERN_CODE_BAD_REQUEST, "the answer has 300 ids");
    raw_close(&c);
}

static void what_nobody_asked_to_keep_is_gone_with_its_connection(void **state)
{
    static struct answer a;
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, kept_for(0, KEY + 2), prompt, strlen(prompt));
    read_answer(&c, &a, 0, 5);
    raw_close(&c);
    raw_connect(&c, &server);
    raw_resume(&c, 1, KEY + 2, 0);
    raw_refused(&c, 1, QUERN_CODE_NOT_FOUND, "there is no request with the key");
    raw_close(&c);
}

static void what_was_kept_is_gone_when_its_time_is_over(void **state)
{
    static struct answer a;
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, kept_for(1, KEY + 3), prompt, strlen(prompt));
    read_answer(&c, &a, 0, 5);
    raw_close(&c);
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 300000000}, NULL);
    raw_connect(&c, &server);
    raw_resume(&c, 1, KEY + 3, 0);
    raw_refused(&c, 1, QUERN_CODE_NOT_FOUND, "there is no request with the key");
    raw_close(&c);
}

static void the_last_to_resume_has_it_and_the_other_hears_so(void **state)
{
    const struct answer *want = whole();
    static struct answer first, second;
    struct raw_client one, two;

    (void)state;
    raw_connect(&one, &server);
    raw_connect(&two, &server);
    raw_submit(&one, 1, kept_for(60, KEY + 4), prompt, strlen(prompt));
    read_answer(&one, &first, 0, 5);
    raw_resume(&two, 3, KEY + 4, 0);
    raw_refused(&one, 1, QUERN_CODE_TAKEN_OVER, "another connection has resumed");
    read_answer(&two, &second, 0, UINT32_MAX);
    assert_int_equal(second.bytes, want->bytes);
    assert_memory_equal(second.text, want->text, want->bytes);
    raw_close(&one);
    raw_close(&two);
}

static void a_cancelled_request_is_not_resumed(void **state)
{
    static struct answer a;
    struct raw_client c;

    (void)state;
    raw_connect(&c, &server);
    raw_submit(&c, 1, kept_for(60, KEY + 5), prompt, strlen(prompt));
    read_answer(&c, &a, 0, 5);
    raw_send_frame(&c, FRAME_CANCEL, 1, NULL, 0);
    raw_resume(&c, 2, KEY + 5, 0);
    raw_refused(&c, 2, QUERN_CODE_NOT_FOUND, "there is no request with the key");
    raw_close(&c);
}

static int start(void **state)
{
    (void)state;
    raw_server_start(&server, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    raw_server_stop(&server, "");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_goes_on_where_its_lost_connection_was),
        cmocka_unit_test(an_ended_answer_is_kept_and_told_from_any_place),
        cmocka_unit_test(what_nobody_asked_to_keep_is_gone_with_its_connection),
        cmocka_unit_test(what_was_kept_is_gone_when_its_time_is_over),
        cmocka_unit_test(the_last_to_resume_has_it_and_the_other_hears_so),
        cmocka_unit_test(a_cancelled_request_is_not_resumed),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
