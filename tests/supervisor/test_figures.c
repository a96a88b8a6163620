/* test_figures.c - what the server says that it counted. */
#include <jansson.h>

#include "tests/supervisor/supervisor_fixture.h"

static const int32_t prompt[] = {5, 6, 7};

static void ask_with(struct client *c, uint64_t number, const void *bytes, uint32_t n)
{
    struct frame_header h = {.type = FRAME_ASK_STATS, .id = number, .bytes = n};

    take_ask_stats(c, &h, bytes);
}

static long figure(struct client *c, const char *name)
{
    static uint64_t number = 100;
    struct frame_ask_stats ask = {.fixed = sizeof(ask)};
    struct frame_stats answer;
    struct frame_header h;
    json_t *json;
    long value;

    ask_with(c, ++number, &ask, sizeof(ask));
    assert_true(c->out.n > sizeof(h) + sizeof(answer));
    memcpy(&h, c->out.mem, sizeof(h));
    assert_int_equal(h.type, FRAME_STATS);
    assert_int_equal(h.id, number);
    assert_int_equal(c->out.n, sizeof(h) + h.bytes); /* one frame */
    memcpy(&answer, c->out.mem + sizeof(h), sizeof(answer));
    assert_int_equal(answer.fixed, sizeof(answer));
    json = json_loadb(c->out.mem + sizeof(h) + sizeof(answer),
        h.bytes - sizeof(answer), JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json_object_get(json, name));
    value = (long)json_integer_value(json_object_get(json, name));
    c->out.n = 0;
    json_decref(json);
    return value;
}

static void what_waits_for_the_text_worker_or_for_rank_0_waits(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv), *other = client_come(&f->sv);
    struct told t;

    assert_int_equal(figure(c, "waiting"), 0);
    submit(c, 1, PROMPT_TEXT, &(struct params){0}, "abc", 3);
    assert_int_equal(figure(other, "waiting"), 1);
    submit(c, 2, PROMPT_IDS, &(struct params){0}, prompt, sizeof(prompt));
    hears(c, &t, FRAME_ACCEPTED, 2);
    assert_int_equal(figure(c, "waiting"), 2);
    text_push(&f->sv);
    assert_int_equal(figure(c, "waiting"), 2);
    stats_set(&f->sv.shared.control->stats, STAT_WAITING, 5);
    assert_int_equal(figure(c, "waiting"), 7);
    ranks_push(&f->sv);
    assert_int_equal(figure(c, "waiting"), 6); /* 2 runs */
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = request_of(c, 2)->id});
    hears(c, &t, FRAME_DONE, 2);
    take_cancel(c, 1);
    text_tells(f, request_of(c, 1)->id, prompt, 3);
    hears(c, &t, FRAME_DONE, 1);
    assert_int_equal(figure(c, "waiting"), 5);
    assert_int_equal(figure(c, "clients"), 2);
}

static void what_dead_ranks_counted_is_not_lost(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct stats *s = &f->sv.shared.control->stats;

    stats_set(s, STAT_OUTPUT_TOKENS, 70);
    stats_set(s, STAT_RUNNING, 3);
    assert_int_equal(figure(c, "output_tokens"), 70);
    assert_int_equal(figure(c, "running"), 3);
    assert_int_equal(figure(c, "restarts"), 0);
    figures_take_over(&f->sv);
    shared_close(&f->sv.shared);
    f->sv.generation++;
    assert_int_equal(figure(c, "output_tokens"), 70);
    assert_int_equal(figure(c, "running"), 0);
    assert_int_equal(shared_create(&f->sv.config, f->sv.generation, f->sv.bell_fd, &f->sv.shared),
        STATUS_OK);
    stats_set(&f->sv.shared.control->stats, STAT_OUTPUT_TOKENS, 7);
    assert_int_equal(figure(c, "output_tokens"), 77);
    assert_int_equal(figure(c, "restarts"), 1);
}

static void questions_that_cannot_be_are_refused(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct frame_ask_stats ask = {.fixed = sizeof(ask), .flags = 3};
    const uint32_t longer[] = {12, 0, 9}, behind[] = {8, 0, 0};

    ask_with(c, 1, &ask, sizeof(ask));
    hears_error(c, 1, QUERN_CODE_UNKNOWN, "flags 0x3");
    ask_with(c, 2, &ask, 3);
    hears_error(c, 2, QUERN_CODE_BAD_REQUEST, "it has 8 at least");
    ask_with(c, 3, longer, sizeof(longer));
    hears_error(c, 3, QUERN_CODE_UNKNOWN, "a field at byte 8");
    ask_with(c, 4, behind, sizeof(behind));
    hears_error(c, 4, QUERN_CODE_BAD_REQUEST, "nothing behind");
    submit(c, 5, PROMPT_TEXT, &(struct params){0}, "abc", 3);
    ask_with(c, 5, behind, 8);
    hears_error(c, 5, QUERN_CODE_NUMBER_IN_USE, "use another");
    assert_non_null(request_of(c, 5));
    hears_nothing(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_SUPERVISOR(what_waits_for_the_text_worker_or_for_rank_0_waits),
        ON_A_SUPERVISOR(what_dead_ranks_counted_is_not_lost),
        ON_A_SUPERVISOR(questions_that_cannot_be_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
