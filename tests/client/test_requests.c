/* test_requests.c - libquern: what its requests send, to a server that a test plays. */
#include <math.h>
#include <poll.h>
#include <stdbool.h>

#include "tests/client/fake_server.h"

static void a_request_goes_out_as_it_was_set(void **state)
{
    struct fake f = fake_open();
    struct quern_request *r = quern_request_new();
    struct submitted s;
    uint64_t id;

    (void)state;
    quern_request_set_text(r, "not this", 8);
    quern_request_set_ids(r, (const int32_t[]){5, 6}, 2); /* the last prompt counts */
    set_int(r, QUERN_PARAM_TOP_K, 7);
    set_int(r, QUERN_PARAM_TOP_K, 20); /* and the last value */
    set_int(r, QUERN_PARAM_MAX_TOKENS, UINT32_MAX);
    set_int(r, QUERN_PARAM_TEMPERATURE, 2); /* each setter for each type */
    assert_int_equal(quern_request_set_real(r, QUERN_PARAM_KEEP, 60), QUERN_OK);
    assert_int_equal(quern_request_set_real(r, QUERN_PARAM_TOP_P, 0.5), QUERN_OK);
    assert_int_equal(quern_request_set_u64(r, QUERN_PARAM_SEED, UINT64_MAX), QUERN_OK);
    assert_int_equal(quern_request_set_bytes(r, QUERN_PARAM_MIN_P, &(float){0.25f}, 4), QUERN_OK);
    set_int(r, QUERN_PARAM_PRIORITY, -7);
    id = submit(f.q, r);
    s = fake_submitted(&f);
    assert_int_equal(s.params.priority, -7);
    assert_int_equal(s.h.id, id);
    assert_int_equal(s.f.task, TASK_COMPLETE);
    assert_int_equal(s.f.prompt, PROMPT_IDS);
    assert_int_equal(s.f.prompt_bytes, 8);
    assert_memory_equal(s.prompt, "\5\0\0\0\6\0\0\0", 8);
    assert_int_equal(s.params.top_k, 20);
    assert_int_equal(s.params.max_tokens, UINT32_MAX);
    assert_true(s.params.temperature == 2 && s.params.top_p == 0.5f && s.params.min_p == 0.25f);
    assert_int_equal(s.params.keep_s, 60);
    assert_true(s.params.seed == UINT64_MAX);
    assert_false(params_has(&s.params, PARAM_IGNORE_EOS));
    assert_true(s.params.key != 0 && s.params.key == quern_request_key(r)); /* known at once */
    assert_int_equal(quern_request_set_u64(r, QUERN_PARAM_KEY, 42), QUERN_OK);
    set_int(r, QUERN_PARAM_TOP_K, 1);
    assert_int_equal(quern_request_set_task(r, QUERN_TASK_TOKENIZE), QUERN_OK);
    assert_true(submit(f.q, r) > id);
    s = fake_submitted(&f);
    assert_int_equal(s.f.task, TASK_TOKENIZE);
    assert_int_equal(s.params.key, 42);
    assert_int_equal(s.params.top_k, 1);
    assert_int_equal(quern_request_key(r), 42);
    quern_request_free(r);
    fake_close(&f);
}

/* A request stays as it was when a value is refused. */
static void values_that_cannot_be_are_refused_where_they_are_set(void **state)
{
    struct quern_request *r = story(3);
    struct fake f = fake_open();
    struct submitted s;

    (void)state;
#define REFUSED(status, line, call)                                                                \
    assert_int_equal(call, status), assert_non_null(strstr(quern_error(NULL), line))
    REFUSED(QUERN_INVALID, "max_tokens 0", quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, 0));
    REFUSED(QUERN_INVALID, "-1 is not", quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, -1));
    REFUSED(QUERN_INVALID, "is not between 0 and 4294967295",
        quern_request_set_int(r, QUERN_PARAM_MAX_TOKENS, INT64_C(1) << 32));
    REFUSED(QUERN_INVALID, "-1 is not", quern_request_set_int(r, QUERN_PARAM_SEED, -1));
    REFUSED(QUERN_INVALID, "priority -1001", quern_request_set_real(r, QUERN_PARAM_PRIORITY, -1001));
    REFUSED(QUERN_INVALID, "is not between", quern_request_set_u64(r, QUERN_PARAM_PRIORITY,
        UINT64_MAX));
    REFUSED(QUERN_INVALID, "is not between", quern_request_set_int(r, QUERN_PARAM_PRIORITY,
        INT64_MIN));
    REFUSED(QUERN_INVALID, "no whole number", quern_request_set_real(r, QUERN_PARAM_TOP_K, 1.5));
    REFUSED(QUERN_INVALID, "no whole number",
        quern_request_set_real(r, QUERN_PARAM_SEED, (double)INFINITY));
    REFUSED(QUERN_INVALID, "temperature -1", quern_request_set_int(r, QUERN_PARAM_TEMPERATURE, -1));
    REFUSED(QUERN_INVALID, "top_p 0", quern_request_set_real(r, QUERN_PARAM_TOP_P, 0));
    REFUSED(QUERN_INVALID, "key 0", quern_request_set_u64(r, QUERN_PARAM_KEY, 0));
    REFUSED(QUERN_INVALID, "a value of 3 bytes",
        quern_request_set_bytes(r, QUERN_PARAM_TOP_K, "abc", 3));
    REFUSED(QUERN_UNKNOWN, "parameter 63", quern_request_set_int(r, 63, 1));
    REFUSED(QUERN_UNKNOWN, "parameter", quern_request_set_real(r, -1, 1e300));
    REFUSED(QUERN_UNKNOWN, "parameter 0", quern_request_set_u64(r, 0, UINT64_MAX));
    REFUSED(QUERN_UNKNOWN, "task 9", quern_request_set_task(r, 9));
#undef REFUSED
    submit(f.q, r);
    s = fake_submitted(&f);
    assert_int_equal(s.params.max_tokens, 3);
    assert_true(s.params.temperature == 0);
    quern_request_free(r);
    fake_close(&f);
}

static void resume_and_cancel_name_their_request(void **state)
{
    struct fake f = fake_open();
    struct frame_resume resume;
    struct frame_header h;
    uint64_t id;

    (void)state;
    assert_int_equal(quern_resume(f.q, 0xabcdef, 17, &id), QUERN_OK);
    fake_read(&f, &h, sizeof(h));
    assert_int_equal(h.type, FRAME_RESUME);
    assert_int_equal(h.id, id);
    assert_int_equal(h.bytes, sizeof(resume));
    fake_read(&f, &resume, sizeof(resume));
    assert_int_equal(resume.fixed, sizeof(resume));
    assert_int_equal(resume.key, 0xabcdef);
    assert_int_equal(resume.after, 17);
    assert_int_equal(quern_cancel(f.q, 5), QUERN_OK);
    fake_read(&f, &h, sizeof(h));
    assert_int_equal(h.type, FRAME_CANCEL);
    assert_int_equal(h.id, 5);
    assert_int_equal(h.bytes, 0);
    fake_close(&f);
}

/* 15 MiB each: the socket takes a few hundred KiB, 32 MiB are kept. */
static void submit_never_blocks_and_loses_nothing(void **state)
{
    enum { BYTES = 15 << 20, FIT = 2 };
    char *text = malloc(BYTES), *got = malloc(BYTES);
    struct quern_request *r = quern_request_new();
    struct fake f = fake_open();
    struct pollfd p = {.fd = quern_fd(f.q), .events = POLLIN};
    size_t left = 0;
    long start = now_ms();
    int n = 0;

    (void)state;
    for (int i = 0; i < BYTES; i++)
        text[i] = (char)(i % 251);
    assert_int_equal(quern_next(f.q, 0, &(const struct quern_event *){NULL}), QUERN_AGAIN);
    quern_request_set_text(r, text, BYTES);
    while (n < 10 && quern_submit(f.q, r, NULL) == QUERN_OK)
        n++;
    assert_int_equal(n, FIT);
    assert_int_equal(quern_submit(f.q, r, NULL), QUERN_AGAIN);
    assert_true(now_ms() - start < 3000);
    assert_int_equal(quern_next(f.q, 0, &(const struct quern_event *){NULL}), QUERN_AGAIN);
    assert_int_equal(poll(&p, 1, 0), 0); /* the socket is full: nothing to do */
    left = FIT * (sizeof(struct frame_header) + sizeof(struct frame_submit) +
                     sizeof(struct param_header) + 8 + (size_t)BYTES);
    for (size_t at = 0; left > 0; at++) {
        size_t part = left < BYTES ? left : BYTES;
        ssize_t more;

        while ((more = recv(f.fd, got, part, MSG_DONTWAIT)) > 0) {
            left -= (size_t)more;
            part = left < BYTES ? left : BYTES;
        }
        if (left > 0)
            assert_int_equal(poll(&p, 1, 1000), 1); /* there is room again, and it says so */
        assert_int_equal(quern_next(f.q, 0, &(const struct quern_event *){NULL}), QUERN_AGAIN);
    }
    assert_int_equal(poll(&p, 1, 0), 0);
    ask(f.q, story(1)); /* what follows begins where it should */
    assert_int_equal(fake_submitted(&f).f.prompt_bytes, 16);
    quern_request_free(r);
    free(text);
    free(got);
    fake_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_goes_out_as_it_was_set),
        cmocka_unit_test(values_that_cannot_be_are_refused_where_they_are_set),
        cmocka_unit_test(resume_and_cancel_name_their_request),
        cmocka_unit_test(submit_never_blocks_and_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
