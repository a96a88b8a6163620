/* test_client.c - libquern against the real program: requests to one private runtime. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "quern.h"
#include "tests/client/client_support.h"

enum { ANSWER = 4096 };

static struct quern *shared;

/* The request's text, and its last event. */
static void answer(struct quern *q, uint64_t id, char text[ANSWER], struct quern_event *e)
{
    text[0] = '\0';
    for (;;) {
        next(q, e);
        if (e->id != id)
            continue;
        if (e->kind != QUERN_EVENT_TEXT)
            return;
        assert_int_equal(e->text[e->text_bytes], '\0');
        assert_true(strlen(text) + e->text_bytes < ANSWER);
        strcat(text, e->text);
    }
}

static void a_request_is_answered(void **state)
{
    struct quern_request r = story(12);
    char text[ANSWER];
    struct quern_event e;

    (void)state;
    answer(shared, submit(shared, &r), text, &e);
    assert_int_equal(e.kind, QUERN_EVENT_DONE);
    assert_int_equal(e.finish, QUERN_FINISH_LENGTH);
    assert_int_equal(e.prompt_tokens, 4);
    assert_int_equal(e.output_tokens, 12);
    assert_true(e.first_token_s > 0 && e.total_s >= e.first_token_s);
    assert_string_equal(text, ", there was a little girl named Lily who loved to play");
}

static void ids_in_are_as_good_as_text(void **state)
{
    static const int32_t ids[] = {410, 403, 258, 367};
    struct quern_request r = story(5);
    struct quern_event e;
    int32_t got[5];
    size_t n = 0;
    uint64_t id;

    (void)state;
    r.text = NULL;
    r.ids = ids;
    r.n_ids = 4;
    id = submit(shared, &r);
    for (next(shared, &e); e.kind != QUERN_EVENT_DONE; next(shared, &e)) {
        assert_int_equal(e.kind, QUERN_EVENT_TEXT);
        assert_int_equal(e.id, id);
        assert_true(n + e.n_ids <= 5);
        memcpy(got + n, e.ids, e.n_ids * sizeof(*got));
        n += e.n_ids;
    }
    assert_int_equal(n, 5);
    assert_memory_equal(got, ((const int32_t[]){11, 365, 273, 258, 445}), sizeof(got));
}

static void messages_are_rendered_and_answered(void **state)
{
    struct quern_request r = story(8);
    char text[ANSWER];
    struct quern_event e;

    (void)state;
    r.text = NULL;
    r.messages = "{\"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story.\"}], "
                 "\"add_generation_prompt\": true}";
    answer(shared, submit(shared, &r), text, &e);
    if (e.kind != QUERN_EVENT_DONE)
        fail_msg("messages: %s", e.text);
    assert_true(e.prompt_tokens > 6);
    r.messages = "{\"messages\": 7}";
    answer(shared, submit(shared, &r), text, &e);
    assert_int_equal(e.kind, QUERN_EVENT_ERROR);
    assert_non_null(strstr(e.text, "messages"));
}

static void two_requests_are_interleaved_and_told_apart(void **state)
{
    struct quern_request one = story(60), two = story(60);
    char first[ANSWER] = "", second[ANSWER] = "";
    uint64_t a, b;
    int open = 2, turns = 0;
    uint64_t last = 0;

    (void)state;
    one.ignore_eos = two.ignore_eos = 1;
    a = submit(shared, &one);
    b = submit(shared, &two);
    assert_int_not_equal(a, b);
    while (open > 0) {
        struct quern_event e;

        next(shared, &e);
        assert_true(e.id == a || e.id == b);
        turns += e.id != last;
        last = e.id;
        if (e.kind == QUERN_EVENT_TEXT)
            strcat(e.id == a ? first : second, e.text);
        else
            open--;
    }
    assert_string_equal(first, second);
    assert_true(turns > 2);
}

static void a_cancelled_request_still_ends(void **state)
{
    struct quern_request r = story(2000);
    char text[ANSWER];
    struct quern_event e;
    uint64_t id;

    (void)state;
    r.ignore_eos = 1;
    id = submit(shared, &r);
    do
        next(shared, &e);
    while (e.kind != QUERN_EVENT_TEXT);
    assert_int_equal(quern_cancel(shared, id), QUERN_OK);
    assert_int_equal(quern_cancel(shared, id), QUERN_OK);
    assert_int_equal(quern_cancel(shared, id + 1000), QUERN_OK);
    answer(shared, id, text, &e);
    assert_int_equal(e.kind, QUERN_EVENT_DONE);
    assert_int_equal(e.finish, QUERN_FINISH_CANCELLED);
    assert_true(e.output_tokens < 2000);
}

static void a_timeout_passes_in_its_time(void **state)
{
    struct quern_event e;
    long start = now_ms();

    (void)state;
    assert_int_equal(quern_next(shared, 0, &e), QUERN_AGAIN);
    assert_int_equal(quern_next(shared, 80, &e), QUERN_AGAIN);
    assert_true(now_ms() - start >= 80);
}

static void wrong_requests_are_refused_in_words(void **state)
{
    struct quern_request r = story(4);
    char text[ANSWER];
    struct quern_event e;
    uint64_t id = 99;

    (void)state;
    r.messages = "{}";
    assert_int_equal(quern_submit(shared, &r, &id), QUERN_INVALID);
    assert_non_null(strstr(quern_error(shared), "2 of text, ids and messages: give one"));
    r.text = r.messages = NULL;
    assert_int_equal(quern_submit(shared, &r, &id), QUERN_INVALID);
    r.ids = (const int32_t[]){1};
    r.n_ids = SIZE_MAX / 4 + 2; /* times four it is 4 */
    assert_int_equal(quern_submit(shared, &r, &id), QUERN_INVALID);
    assert_non_null(strstr(quern_error(shared), "larger than the protocol's"));
    assert_int_equal(id, 99); /* written only on success */
    r = story(4);
    r.text_bytes = 20 << 20;
    assert_int_equal(quern_submit(shared, &r, &id), QUERN_INVALID);
    r = story(4);
    r.top_p = 7;
    answer(shared, submit(shared, &r), text, &e);
    assert_int_equal(e.kind, QUERN_EVENT_ERROR);
    assert_non_null(strstr(e.text, "top_p 7"));
    r = story(4);
    answer(shared, submit(shared, &r), text, &e);
    assert_int_equal(e.kind, QUERN_EVENT_DONE); /* the connection is well */
}

static void a_prompt_may_hold_nul(void **state)
{
    struct quern_request r = story(2);
    char text[ANSWER];
    struct quern_event e;

    (void)state;
    r.text = "a\0b";
    r.text_bytes = 3;
    answer(shared, submit(shared, &r), text, &e);
    assert_int_equal(e.kind, QUERN_EVENT_DONE);
    assert_in_range(e.prompt_tokens, 3, 5);
}

static int spawn_shared(void **state)
{
    struct quern_options o = {.size = sizeof(o), .compute = "f32", .kv_dtype = "f32"};
    struct quern_event e = {.kind = QUERN_EVENT_LOADING};

    (void)state;
    if (quern_spawn(&o, &shared) != QUERN_OK)
        return -1;
    while (e.kind == QUERN_EVENT_LOADING)
        if (quern_next(shared, PATIENCE_MS, &e) < 0)
            return -1;
    return e.kind == QUERN_EVENT_READY ? 0 : -1;
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
        cmocka_unit_test(ids_in_are_as_good_as_text),
        cmocka_unit_test(messages_are_rendered_and_answered),
        cmocka_unit_test(two_requests_are_interleaved_and_told_apart),
        cmocka_unit_test(a_cancelled_request_still_ends),
        cmocka_unit_test(a_timeout_passes_in_its_time),
        cmocka_unit_test(wrong_requests_are_refused_in_words),
        cmocka_unit_test(a_prompt_may_hold_nul),
    };

    return cmocka_run_group_tests(tests, spawn_shared, close_shared);
}
