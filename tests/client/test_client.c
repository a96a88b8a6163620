/* test_client.c - libquern against the real program: requests to one private runtime. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "quern.h"
#include "tests/client/client_support.h"

enum { ANSWER = 4096 };

static struct quern *shared;

static const int32_t prompt_ids[] = {410, 403, 258, 367}; /* "Once upon a time" */

/* The request's text, and its last event. */
static const struct quern_event *answer(struct quern *q, uint64_t id, char text[ANSWER])
{
    const struct quern_event *e;

    text[0] = '\0';
    for (;;) {
        const char *more;
        size_t n;

        e = next(q);
        if (quern_event_request(e) != id)
            continue;
        if (quern_event_is_last(e))
            return e;
        more = quern_event_text(e, &n);
        assert_int_equal(strlen(more), n);
        assert_true(strlen(text) + n < ANSWER);
        strcat(text, more);
    }
}

static void a_request_is_answered(void **state)
{
    char text[ANSWER];
    const struct quern_event *e;

    (void)state;
    e = answer(shared, ask(shared, story(12)), text);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_DONE);
    assert_int_equal(quern_event_finish(e), QUERN_FINISH_LENGTH);
    assert_int_equal(quern_event_prompt_tokens(e), 4);
    assert_int_equal(quern_event_output_tokens(e), 12);
    assert_int_equal(quern_event_restarts(e), 0);
    assert_true(quern_event_first_token_s(e) > 0);
    assert_true(quern_event_total_s(e) >= quern_event_first_token_s(e));
    assert_string_equal(text, ", there was a little girl named Lily who loved to play");
}

static void the_model_is_known_once_it_is_ready(void **state)
{
    (void)state;
    assert_int_equal(quern_vocab_size(shared), 8192);
    assert_int_equal(quern_context_size(shared), 2048);
    assert_string_equal(quern_model_name(shared), "storyteller");
    assert_int_equal(quern_generation(shared), 1);
    assert_string_equal(quern_server_version(shared), QUERN_VERSION);
}

static void an_accepted_request_has_the_key_it_was_given(void **state)
{
    struct quern_request *r = story(2);
    const struct quern_event *e;
    char text[ANSWER];
    uint64_t id, first;

    (void)state;
    id = submit(shared, r);
    first = quern_request_key(r);
    e = await(shared, QUERN_EVENT_ACCEPTED);
    assert_true(quern_event_key(e) == first);
    assert_int_equal(quern_event_prompt_tokens(e), 4);
    answer(shared, id, text);
    id = submit(shared, r);
    assert_true(quern_request_key(r) != first); /* another, each time */
    answer(shared, id, text);
    assert_int_equal(quern_request_set_u64(r, QUERN_PARAM_SEED, 77), QUERN_OK);
    id = submit(shared, r);
    assert_int_equal(quern_event_seed(await(shared, QUERN_EVENT_ACCEPTED)), 77);
    answer(shared, id, text);
    quern_request_free(r);
}

static void ids_in_are_as_good_as_text(void **state)
{
    struct quern_request *r = story(5);
    const struct quern_event *e;
    int32_t got[5];
    size_t n = 0;

    (void)state;
    assert_int_equal(quern_request_set_ids(r, prompt_ids, 4), QUERN_OK);
    ask(shared, r);
    next_of(shared, QUERN_EVENT_ACCEPTED);
    for (e = next(shared); quern_event_kind(e) != QUERN_EVENT_DONE; e = next(shared)) {
        size_t more;
        const int32_t *ids = quern_event_ids(e, &more);

        assert_int_equal(quern_event_kind(e), QUERN_EVENT_TEXT);
        assert_int_equal(quern_event_after(e), n);
        assert_true(n + more <= 5);
        memcpy(got + n, ids, more * sizeof(*got));
        n += more;
    }
    assert_int_equal(n, 5);
    assert_memory_equal(got, ((const int32_t[]){11, 365, 273, 258, 445}), sizeof(got));
}

static void messages_are_rendered_and_answered(void **state)
{
    static const char good[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Tell me a "
                               "story.\"}], \"add_generation_prompt\": true}";
    struct quern_request *r = story(8);
    const struct quern_event *e;
    char text[ANSWER];

    (void)state;
    quern_request_set_chat(r, good, QUERN_STRLEN);
    e = answer(shared, submit(shared, r), text);
    if (quern_event_kind(e) != QUERN_EVENT_DONE)
        fail_msg("messages: %s", quern_event_message(e));
    assert_true(quern_event_prompt_tokens(e) > 6);
    quern_request_set_chat(r, "{\"messages\": 7}", QUERN_STRLEN);
    e = answer(shared, ask(shared, r), text);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_ERROR);
    assert_int_equal(quern_event_code(e), QUERN_CODE_BAD_REQUEST);
    assert_int_equal(quern_event_server_fault(e), 0);
    assert_int_equal(quern_event_retry(e), 0);
    assert_non_null(strstr(quern_event_message(e), "messages"));
}

static void two_requests_are_interleaved_and_told_apart(void **state)
{
    char first[ANSWER] = "", second[ANSWER] = "";
    uint64_t a = ask(shared, endless(60)), b = ask(shared, endless(60)), last = 0;
    int open = 2, turns = 0;

    (void)state;
    assert_int_not_equal(a, b);
    while (open > 0) {
        const struct quern_event *e = next(shared);
        uint64_t id = quern_event_request(e);

        assert_true(id == a || id == b);
        turns += id != last;
        last = id;
        strcat(id == a ? first : second, quern_event_text(e, NULL));
        open -= quern_event_is_last(e);
    }
    assert_string_equal(first, second);
    assert_true(turns > 2);
}

static void *cancel_it(void *id)
{
    return quern_cancel(shared, *(uint64_t *)id) == QUERN_OK ? id : NULL;
}

static void a_cancelled_request_still_ends(void **state)
{
    char text[ANSWER];
    const struct quern_event *e;
    uint64_t id = ask(shared, endless(2000));
    pthread_t other;
    void *done;

    (void)state;
    await(shared, QUERN_EVENT_TEXT);
    assert_int_equal(quern_cancel(shared, id + 1000), QUERN_OK);
    assert_int_equal(pthread_create(&other, NULL, cancel_it, &id), 0);
    pthread_join(other, &done);
    assert_non_null(done);
    assert_int_equal(quern_cancel(shared, id), QUERN_OK);
    e = answer(shared, id, text);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_DONE);
    assert_int_equal(quern_event_finish(e), QUERN_FINISH_CANCELLED);
    assert_true(quern_event_output_tokens(e) < 2000);
}

static void a_timeout_passes_in_its_time(void **state)
{
    const struct quern_event *e = NULL;
    long start = now_ms();

    (void)state;
    assert_int_equal(quern_next(shared, 0, &e), QUERN_AGAIN);
    assert_int_equal(quern_next(shared, 80, &e), QUERN_AGAIN);
    assert_true(now_ms() - start >= 80);
    assert_null(e);
}

static void wrong_requests_are_refused_in_words(void **state)
{
    struct quern_request *r = quern_request_new();
    char text[ANSWER];
    const struct quern_event *e;
    uint64_t id = 99;

    (void)state;
    assert_int_equal(quern_submit(shared, r, &id), QUERN_INVALID);
    assert_non_null(strstr(quern_error(shared), "a request without a prompt"));
    assert_int_equal(quern_error_code(shared), QUERN_CODE_BAD_REQUEST);
    assert_int_equal(id, 99); /* written only on success */
    assert_int_equal(quern_request_set_ids(r, prompt_ids, SIZE_MAX / 4 + 2), /* times four it is 4 */
        QUERN_INVALID);
    assert_non_null(strstr(quern_error(NULL), "larger than the protocol's"));
    assert_int_equal(quern_request_set_text(r, "x", 20 << 20), QUERN_INVALID);
    quern_request_set_ids(r, (const int32_t[]){1, 8192}, 2);
    e = answer(shared, ask(shared, r), text);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_ERROR);
    assert_non_null(strstr(quern_event_message(e), "token id 8192"));
    e = answer(shared, ask(shared, story(4)), text);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_DONE); /* the connection is well */
}

static void a_prompt_may_hold_nul(void **state)
{
    struct quern_request *r = story(2);
    char text[ANSWER];
    const struct quern_event *e;

    (void)state;
    quern_request_set_text(r, "a\0b", 3);
    e = answer(shared, ask(shared, r), text);
    assert_int_equal(quern_event_kind(e), QUERN_EVENT_DONE);
    assert_in_range(quern_event_prompt_tokens(e), 3, 5);
}

static void prompts_are_tokenized_and_counted_beside_answers(void **state)
{
    struct quern_request *r = story(5);
    char text[ANSWER], same[ANSWER];
    const struct quern_event *e;
    const int32_t *ids;
    size_t n;
    uint64_t id;

    (void)state;
    id = ask(shared, endless(300));
    assert_int_equal(quern_tokenize(shared, r, PATIENCE_MS, &ids, &n), QUERN_OK);
    assert_int_equal(n, 4);
    assert_memory_equal(ids, prompt_ids, sizeof(prompt_ids));
    assert_int_equal(quern_count_tokens(shared, r, PATIENCE_MS, &n), QUERN_OK);
    assert_int_equal(n, 4);
    e = answer(shared, id, text); /* nothing of it is lost */
    assert_int_equal(quern_event_output_tokens(e), 300);
    answer(shared, ask(shared, endless(300)), same);
    assert_string_equal(text, same);
    quern_request_set_text(r, "abc\xff", 4);
    assert_int_equal(quern_count_tokens(shared, r, PATIENCE_MS, &n), QUERN_INVALID);
    assert_non_null(strstr(quern_error(shared), "not UTF-8"));
    assert_int_equal(quern_error_code(shared), QUERN_CODE_BAD_REQUEST);
    quern_request_free(r);
}

/* A program that waits for this connection and others, with poll(2) alone. */
static void an_answer_comes_through_poll(void **state)
{
    struct pollfd p = {.fd = quern_fd(shared), .events = POLLIN};
    const struct quern_event *e = NULL;
    int s, tokens = 0;
    size_t n;

    (void)state;
    assert_true(p.fd >= 0);
    ask(shared, endless(200));
    while (e == NULL || !quern_event_is_last(e)) {
        assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
        s = quern_next(shared, 0, &e); /* one event a time: the next ones are in the buffer */
        assert_true(s == QUERN_OK || s == QUERN_AGAIN);
        if (s == QUERN_OK && quern_event_kind(e) == QUERN_EVENT_TEXT)
            tokens += (quern_event_ids(e, &n), (int)n);
    }
    assert_int_equal(tokens, 200);
    assert_int_equal(poll(&p, 1, 20), 0);
}

static int spawn_shared(void **state)
{
    const struct quern_event *e = NULL;

    (void)state;
    if (spawn(&shared, (const char *[]){"compute", "f32", "kv-dtype", "f32", NULL}) != QUERN_OK)
        return -1;
    do
        if (quern_next(shared, PATIENCE_MS, &e) < 0)
            return -1;
    while (quern_event_kind(e) == QUERN_EVENT_LOADING);
    return quern_event_kind(e) == QUERN_EVENT_READY ? 0 : -1;
}

static int close_shared(void **state)
{
    (void)state;
    quern_close(shared);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_answered),
        cmocka_unit_test(the_model_is_known_once_it_is_ready),
        cmocka_unit_test(an_accepted_request_has_the_key_it_was_given),
        cmocka_unit_test(ids_in_are_as_good_as_text),
        cmocka_unit_test(messages_are_rendered_and_answered),
        cmocka_unit_test(two_requests_are_interleaved_and_told_apart),
        cmocka_unit_test(a_cancelled_request_still_ends),
        cmocka_unit_test(a_timeout_passes_in_its_time),
        cmocka_unit_test(wrong_requests_are_refused_in_words),
        cmocka_unit_test(a_prompt_may_hold_nul),
        cmocka_unit_test(prompts_are_tokenized_and_counted_beside_answers),
        cmocka_unit_test(an_answer_comes_through_poll),
    };

    return cmocka_run_group_tests(tests, spawn_shared, close_shared);
}
