/* test_submit.c - requests as the protocol has them: accepted, told apart, refused by code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/e2e/raw_client.h"

static struct raw_server server;

static const char prompt[] = "Once upon a time";
#define PROMPT prompt, sizeof(prompt) - 1

static void an_accepted_request_has_a_key_a_seed_and_its_length(void **state)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 2);
    struct frame_accepted a;
    struct raw_client c;
    struct raw_frame f;
    uint64_t drawn[2];

    (void)state;
    raw_connect(&c, &server);
    for (int i = 0; i < 2; i++) { /* drawn, and never the same twice */
        assert_true(raw_submit(&c, 1, p, PROMPT));
        f = raw_await(&c, FRAME_ACCEPTED);
        raw_fixed(&f, &a, sizeof(a));
        assert_int_equal(f.header.id, 1);
        assert_int_equal(a.prompt_tokens, 4);
        assert_int_not_equal(a.key, 0);
        drawn[i] = a.seed;
        free(f.payload);
        free(raw_await(&c, FRAME_DONE).payload);
    }
    assert_true(drawn[0] != drawn[1]);
    RAW_GIVE(p, PARAM_SEED, seed, 7);
    RAW_GIVE(p, PARAM_KEY, key, 0x1234567890abcdef);
    assert_true(raw_submit(&c, 1, p, PROMPT));
    f = raw_await(&c, FRAME_ACCEPTED);
    raw_fixed(&f, &a, sizeof(a));
    assert_int_equal(a.seed, 7);
    assert_true(a.key == 0x1234567890abcdef);
    free(f.payload);
    raw_close(&c);
}

static void a_drawn_seed_given_again_tells_the_same_story(void **state)
{
    struct raw_params p = raw_params(PROMPT_TEXT, 40);
    struct frame_accepted a;
    struct raw_client c;
    struct raw_frame f;
    char *drawn, *given;

    (void)state;
    RAW_GIVE(p, PARAM_TEMPERATURE, temperature, 1.2f);
    RAW_GIVE(p, PARAM_IGNORE_EOS, ignore_eos, 1);
    raw_connect(&c, &server);
    assert_true(raw_submit(&c, 1, p, PROMPT));
    f = raw_await(&c, FRAME_ACCEPTED);
    raw_fixed(&f, &a, sizeof(a));
    free(f.payload);
    assert_int_equal(raw_answer(&c, 1, &drawn), FRAME_DONE);
    RAW_GIVE(p, PARAM_SEED, seed, a.seed);
    assert_true(raw_submit(&c, 1, p, PROMPT));
    assert_int_equal(raw_answer(&c, 1, &given), FRAME_DONE);
    assert_string_equal(drawn, given);
    free(drawn);
    free(given);
    raw_close(&c);
}

static void tokenize_gives_the_prompt_s_ids_and_computes_nothing(void **state)
{
    static const int32_t want[] = {410, 403, 258, 367};
    struct raw_params p = {.task = TASK_TOKENIZE, .prompt = PROMPT_TEXT};
    struct frame_tokens t;
    struct frame_done d;
    struct raw_client c;
    struct raw_frame f;

    (void)state;
    raw_connect(&c, &server);
    assert_true(raw_submit(&c, 1, p, PROMPT));
    f = raw_await(&c, FRAME_TOKENS);
    raw_fixed(&f, &t, sizeof(t));
    assert_int_equal(t.n_ids, 4);
    assert_int_equal(t.text_bytes, 0);
    assert_memory_equal(raw_rest(&f), want, sizeof(want));
    free(f.payload);
    f = raw_await(&c, FRAME_DONE);
    raw_fixed(&f, &d, sizeof(d));
    assert_int_equal(d.output_tokens, 0);
    free(f.payload);
    raw_close(&c);
}

/* DESIGN's and the protocol's default. */
static void an_answer_without_a_limit_has_256_tokens(void **state)
{
    struct raw_params p = {.prompt = PROMPT_TEXT};
    struct frame_done d;
    struct raw_client c;
    struct raw_frame f;

    (void)state;
    RAW_GIVE(p, PARAM_IGNORE_EOS, ignore_eos, 1);
    raw_connect(&c, &server);
    assert_true(raw_submit(&c, 1, p, PROMPT));
    f = raw_await(&c, FRAME_DONE);
    raw_fixed(&f, &d, sizeof(d));
    assert_int_equal(d.finish, QUERN_FINISH_LENGTH);
    assert_int_equal(d.output_tokens, 256);
    assert_int_equal(d.more, 0);
    free(f.payload);
    raw_close(&c);
}

static void a_running_request_s_number_and_key_are_taken(void **state)
{
    struct raw_params p = raw_endless(PROMPT_TEXT, 400);
    struct raw_client c;
    char *text;

    (void)state;
    RAW_GIVE(p, PARAM_KEY, key, 99);
    raw_connect(&c, &server);
    assert_true(raw_submit(&c, 5, p, PROMPT));
    assert_true(raw_submit(&c, 5, p, PROMPT));
    raw_refused(&c, 5, QUERN_CODE_NUMBER_IN_USE, "use another");
    assert_true(raw_submit(&c, 6, p, PROMPT));
    raw_refused(&c, 6, QUERN_CODE_NUMBER_IN_USE, "a request with the key 0x63");
    assert_int_equal(raw_answer(&c, 5, &text), FRAME_DONE); /* the first goes on */
    free(text);
    RAW_GIVE(p, PARAM_MAX_TOKENS, max_tokens, 2);
    assert_true(raw_submit(&c, 5, p, PROMPT)); /* and now both are free again */
    assert_int_equal(raw_answer(&c, 5, &text), FRAME_DONE);
    free(text);
    raw_close(&c);
}

static void bad_parameters_are_told_one_by_one(void **state)
{
    static const int32_t ids[] = {1, 8192}, negative[] = {-1};
    struct raw_params text = raw_params(PROMPT_TEXT, 4), p;
    struct raw_client c;
    uint64_t id = 0;

    (void)state;
    raw_connect(&c, &server);
#define REFUSED(line, key, field, value)                                                           \
    p = text, RAW_GIVE(p, key, field, value), assert_true(raw_submit(&c, ++id, p, PROMPT)),        \
    raw_refused(&c, id, QUERN_CODE_BAD_REQUEST, line)
    REFUSED("max_tokens 0: it goes from 1", PARAM_MAX_TOKENS, max_tokens, 0);
    REFUSED("temperature 100.5: it goes from 0 to 100", PARAM_TEMPERATURE, temperature, 100.5f);
    REFUSED("temperature -1", PARAM_TEMPERATURE, temperature, -1);
    REFUSED("temperature nan", PARAM_TEMPERATURE, temperature, NAN);
    REFUSED("temperature inf", PARAM_TEMPERATURE, temperature, INFINITY);
    REFUSED("top_p 0: it goes from above 0 to 1", PARAM_TOP_P, top_p, 0);
    REFUSED("top_p 1.5", PARAM_TOP_P, top_p, 1.5f);
    REFUSED("top_p nan", PARAM_TOP_P, top_p, NAN);
    REFUSED("min_p 2", PARAM_MIN_P, min_p, 2);
    REFUSED("min_p nan", PARAM_MIN_P, min_p, NAN);
    REFUSED("top_k", PARAM_TOP_K, top_k, UINT32_MAX);
    REFUSED("ignore_eos 2", PARAM_IGNORE_EOS, ignore_eos, 2);
#undef REFUSED
#define REFUSED(line, kind, ...)                                                                   \
    p = text, p.prompt = (kind), assert_true(raw_submit(&c, ++id, p, __VA_ARGS__)),                \
    raw_refused(&c, id, QUERN_CODE_BAD_REQUEST, line)
    REFUSED("the prompt is empty", PROMPT_TEXT, NULL, 0);
    REFUSED("the prompt is empty", PROMPT_CHAT, NULL, 0);
    REFUSED("7 bytes of token ids", PROMPT_IDS, "1234567", 7);
    REFUSED("token id 8192 is out of range", PROMPT_IDS, ids, sizeof(ids));
    REFUSED("token id -1 is out of range", PROMPT_IDS, negative, sizeof(negative));
    REFUSED("not UTF-8: byte 3 is 0xff", PROMPT_TEXT, "abc\xff", 4);
    REFUSED("the request", PROMPT_CHAT, "{\"messages\": [", 14);
    REFUSED("messages", PROMPT_CHAT, "{}", 2);
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
    assert_true(raw_submit(&c, 1, raw_params(PROMPT_IDS, 1), mem, IDS * sizeof(int32_t)));
    raw_refused(&c, 1, QUERN_CODE_TOO_LONG, "the prompt has 100000 tokens, the context holds 2048");
    for (int i = 0; i < BYTES; i += 16)
        memcpy(mem + i, "Once upon a time", 16);
    assert_true(raw_submit(&c, 2, raw_params(PROMPT_TEXT, 1), mem, BYTES));
    raw_refused(&c, 2, QUERN_CODE_TOO_LONG, "tokens, the context holds 2048");
    for (int i = 0; i < RARE; i += 3) /* a token for each byte: more ids than a ring buffer takes */
        memcpy(mem + i, "\xe1\x8e\xa0", 3);
    assert_true(raw_submit(&c, 3, raw_params(PROMPT_TEXT, 1), mem, RARE));
    raw_refused(&c, 3, QUERN_CODE_TOO_LONG, "tokens, more than any context holds");
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
        cmocka_unit_test(an_accepted_request_has_a_key_a_seed_and_its_length),
        cmocka_unit_test(a_drawn_seed_given_again_tells_the_same_story),
        cmocka_unit_test(tokenize_gives_the_prompt_s_ids_and_computes_nothing),
        cmocka_unit_test(an_answer_without_a_limit_has_256_tokens),
        cmocka_unit_test(a_running_request_s_number_and_key_are_taken),
        cmocka_unit_test(bad_parameters_are_told_one_by_one),
        cmocka_unit_test(prompts_longer_than_the_context_get_one_error),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
