/* test_requests.c - the journal: late messages, limits, ends; children that say what they like. */
#include "tests/supervisor/supervisor_fixture.h"

#include "text/vocab_table.h"

static const int32_t prompt[] = {5, 6, 7};

static const struct params four_tokens = {.given = 1u << PARAM_MAX_TOKENS, .max_tokens = 4};

/* At rank 0, the client told no more than that it is accepted. */
static struct request *running(struct fixture *f, struct client *c, uint64_t number)
{
    struct told t;

    submit(c, number, PROMPT_IDS, &four_tokens, prompt, sizeof(prompt));
    hears(c, &t, FRAME_ACCEPTED, number);
    ranks_push(&f->sv);
    assert_int_equal(request_of(c, number)->state, REQUEST_RUNNING);
    return request_of(c, number);
}

/* At the text worker. */
static struct request *encoding(struct fixture *f, struct client *c, uint64_t number)
{
    submit(c, number, PROMPT_TEXT, &four_tokens, "abc", 3);
    text_push(&f->sv);
    assert_int_equal(request_of(c, number)->state, REQUEST_ENCODING);
    return request_of(c, number);
}

static void end(struct fixture *f, struct client *c, uint64_t number)
{
    struct told t;

    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = request_of(c, number)->id,
        .finish = QUERN_FINISH_STOP});
    do
        assert_true(hear(c, &t));
    while (t.header.type != FRAME_DONE);
    assert_null(request_of(c, number));
}

/* Late messages ---------------------------------------------------------------------------- */

static uint64_t place_of(const struct supervisor *sv, const struct request *r)
{
    uint64_t i = 0;

    while (sv->table[i] != r)
        i++;
    return i;
}

static void late_token_of_an_ended_request_is_not_the_next_one_s(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, 1);
    uint64_t old = r->id, place = place_of(&f->sv, r);
    struct frame_tokens t;
    struct told told;

    end(f, c, 1);
    r = running(f, c, 2);
    assert_int_equal(place_of(&f->sv, r), place);
    rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = old, .token = 11});
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = old, .finish = QUERN_FINISH_STOP});
    rank_tells(f, (struct token_msg){.kind = TOKEN_ERROR, .id = old});
    hears_nothing(c);
    rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = r->id, .token = 12});
    hears(c, &told, FRAME_TOKENS, 2);
    memcpy(&t, told.payload, sizeof(t));
    assert_int_equal(t.n_ids, 1);
    assert_int_equal(t.after, 0);
    assert_int_equal(*(int32_t *)(void *)(told.payload + sizeof(t)), 12);
    end(f, c, 2);
}

static void late_reply_of_the_text_worker_is_not_the_next_one_s(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = encoding(f, c, 1);
    uint64_t old = r->id, place = place_of(&f->sv, r);
    struct told t;

    text_tells(f, old, prompt, 3);
    hears(c, &t, FRAME_ACCEPTED, 1);
    ranks_push(&f->sv);
    text_tells(f, old, prompt, 2); /* it has its ids */
    assert_int_equal(r->n_ids, 3);
    assert_int_equal(r->state, REQUEST_RUNNING);
    end(f, c, 1);
    r = encoding(f, c, 2);
    assert_int_equal(place_of(&f->sv, r), place);
    text_tells(f, old, prompt, 1);
    assert_int_equal(r->state, REQUEST_ENCODING);
    hears_nothing(c);
    text_tells(f, r->id, prompt, 2);
    hears(c, &t, FRAME_ACCEPTED, 2);
    assert_int_equal(r->n_ids, 2);
}

/* And what rank 0 says of a request that it does not have. */
static void token_of_a_request_that_waits_is_dropped(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct told t;

    submit(c, 1, PROMPT_IDS, &four_tokens, prompt, sizeof(prompt));
    hears(c, &t, FRAME_ACCEPTED, 1);
    rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = request_of(c, 1)->id, .token = 3});
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = request_of(c, 1)->id});
    hears_nothing(c);
    assert_int_equal(request_of(c, 1)->state, REQUEST_QUEUED);
    assert_int_equal(request_of(c, 1)->answers[0].n_ids, 0);
}

/* Ends ------------------------------------------------------------------------------------- */

static void cancelled_request_of_a_worker_ends_when_that_says_so(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *text = encoding(f, c, 1), *rank = running(f, c, 2);
    struct told t;

    take_cancel(c, 1);
    take_cancel(c, 2);
    hears_nothing(c);
    assert_int_equal(text->state, REQUEST_ENCODING);
    assert_int_equal(rank->state, REQUEST_RUNNING);
    assert_int_equal(f->sv.n_running, 1);
    submit(c, 2, PROMPT_IDS, &four_tokens, prompt, sizeof(prompt));
    hears_error(c, 2, QUERN_CODE_NUMBER_IN_USE, "use another");
    text_tells(f, text->id, prompt, 3);
    hears(c, &t, FRAME_DONE, 1);
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = rank->id,
        .finish = QUERN_FINISH_CANCELLED});
    hears(c, &t, FRAME_DONE, 2);
    assert_int_equal(f->sv.n_running, 0);
    assert_int_equal(f->sv.n_requests, 0);
    hears_nothing(c);
}

static void cancelled_request_that_waits_ends_at_once(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct told t;

    submit(c, 1, PROMPT_TEXT, &four_tokens, "abc", 3);
    submit(c, 2, PROMPT_IDS, &four_tokens, prompt, sizeof(prompt));
    hears(c, &t, FRAME_ACCEPTED, 2);
    take_cancel(c, 1);
    take_cancel(c, 2);
    hears(c, &t, FRAME_DONE, 1);
    hears(c, &t, FRAME_DONE, 2);
    assert_int_equal(f->sv.n_requests, 0);
    text_push(&f->sv);
    ranks_push(&f->sv);
    assert_int_equal(ring_pending(&f->sv.text.requests), 0);
    assert_int_equal(ring_pending(&f->sv.shared.requests), 0);
}

/* Token 0 is the first two bytes of a euro sign, token 1 an "a". */
static void half_a_character_at_an_answer_s_end_is_told_as_one_that_cannot_be(void **state)
{
    static const struct {
        struct vocab_table_header header;
        uint32_t offsets[3];
        uint8_t flags[2], blob[3];
    } table = {.header = {VOCAB_TABLE_MAGIC, VOCAB_TABLE_VERSION, 2, 3}, .offsets = {0, 2, 3},
        .blob = {0xe2, 0x82, 'a'}};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r;
    struct frame_tokens t;
    struct told told;

    assert_int_equal(vocab_table_attach(&table, sizeof(table), &f->sv.vocab), STATUS_OK);
    r = running(f, c, 1);
    rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = r->id, .token = 1});
    rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = r->id, .token = 0});
    hears(c, &told, FRAME_TOKENS, 1);
    memcpy(&t, told.payload, sizeof(t));
    assert_int_equal(t.n_ids, 2);
    assert_int_equal(t.text_bytes, 1);
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id, .finish = QUERN_FINISH_LENGTH,
        .output_tokens = 2});
    hears(c, &told, FRAME_TOKENS, 1);
    memcpy(&t, told.payload, sizeof(t));
    assert_int_equal(t.after, 2);
    assert_int_equal(t.n_ids, 0);
    assert_int_equal(t.text_bytes, 3);
    assert_memory_equal(told.payload + sizeof(t), "\xef\xbf\xbd", 3);
    hears(c, &told, FRAME_DONE, 1);
}

/* What rank 0 is asked for ------------------------------------------------------------------ */

static int32_t top_k_asked(struct fixture *f, struct client *c, const struct params *p)
{
    const void *slot;
    int32_t top_k;

    submit(c, 1, PROMPT_IDS, p, prompt, sizeof(prompt));
    ranks_push(&f->sv);
    assert_int_equal(ring_peek(&f->sv.shared.requests, &slot), STATUS_OK);
    top_k = ((const struct request_msg *)slot)->sampling.top_k;
    ring_release(&f->sv.shared.requests);
    end(f, c, 1);
    return top_k;
}

static void top_k_of_0_is_not_the_model_s(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);

    assert_int_equal(top_k_asked(f, c, &four_tokens), FIXTURE_TOP_K);
    assert_int_equal(top_k_asked(f, c, &(struct params){.given = 1u << PARAM_TOP_K, .top_k = 0}), 0);
    assert_int_equal(top_k_asked(f, c, &(struct params){.given = 1u << PARAM_TOP_K, .top_k = 7}), 7);
}

/* Limits ----------------------------------------------------------------------------------- */

static void a_connection_has_so_many_requests_and_no_more(void **state)
{
    struct supervisor *sv = &((struct fixture *)*state)->sv;
    struct client *c = client_come(sv), *other = client_come(sv);

    for (uint64_t number = 1; number <= MOST_REQUESTS_EACH; number++)
        submit(c, number, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_nothing(c);
    submit(c, MOST_REQUESTS_EACH + 1, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_error(c, MOST_REQUESTS_EACH + 1, QUERN_CODE_QUOTA, "this connection has 65536 requests");
    assert_null(request_of(c, MOST_REQUESTS_EACH + 1));
    submit(other, 1, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_nothing(other);
    take_cancel(c, 77);
    hears(c, &(struct told){0}, FRAME_DONE, 77);
    submit(c, 77, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_nothing(c);
}

static void all_connections_have_so_many_requests_and_no_more(void **state)
{
    struct supervisor *sv = &((struct fixture *)*state)->sv;
    struct client *c = client_come(sv);

    sv->n_requests += MOST_REQUESTS - 1; /* others' */
    submit(c, 1, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_nothing(c);
    submit(c, 2, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_error(c, 2, QUERN_CODE_OVERLOADED, "there are 262144 requests already");
    take_cancel(c, 1);
    hears(c, &(struct told){0}, FRAME_DONE, 1);
    submit(c, 2, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_nothing(c);
    sv->n_requests -= MOST_REQUESTS - 1;
}

static void prompts_under_way_take_so_much_and_no_more(void **state)
{
    enum { PIECE = 1 << 20, PIECES = MOST_PROMPT_BYTES_EACH / PIECE };
    struct supervisor *sv = &((struct fixture *)*state)->sv;
    struct client *c = client_come(sv), *other = client_come(sv);
    char *text = calloc(1, PIECE);

    assert_non_null(text);
    for (uint64_t number = 1; number <= PIECES; number++)
        submit(c, number, PROMPT_TEXT, &four_tokens, text, PIECE);
    hears_nothing(c);
    submit(c, PIECES + 1, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_error(c, PIECES + 1, QUERN_CODE_QUOTA, "the prompts of this connection take 64 MiB");
    sv->prompt_bytes += MOST_PROMPT_BYTES - MOST_PROMPT_BYTES_EACH - 3; /* others' */
    submit(other, 1, PROMPT_TEXT, &four_tokens, "xyz", 3);
    hears_nothing(other);
    submit(other, 2, PROMPT_TEXT, &four_tokens, "x", 1);
    hears_error(other, 2, QUERN_CODE_OVERLOADED, "requests take 256 MiB already");
    sv->prompt_bytes -= MOST_PROMPT_BYTES - MOST_PROMPT_BYTES_EACH - 3;
    free(text);
}

/* A hundred MiB more than all may have at once. */
static void prompts_that_are_done_with_count_no_more(void **state)
{
    enum { PIECE = 1 << 20, PIECES = MOST_PROMPT_BYTES / PIECE + 100 };
    struct supervisor *sv = &((struct fixture *)*state)->sv;
    struct client *c = client_come(sv);
    char *text = calloc(1, PIECE);

    assert_non_null(text);
    for (uint64_t number = 1; number <= PIECES; number++) {
        submit(c, number, PROMPT_TEXT, &four_tokens, text, PIECE);
        take_cancel(c, number);
        hears(c, &(struct told){0}, FRAME_DONE, number);
    }
    assert_int_equal(sv->prompt_bytes, 0);
    assert_int_equal(c->prompt_bytes, 0);
    assert_int_equal(c->n_requests, 0);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_SUPERVISOR(late_token_of_an_ended_request_is_not_the_next_one_s),
        ON_A_SUPERVISOR(late_reply_of_the_text_worker_is_not_the_next_one_s),
        ON_A_SUPERVISOR(token_of_a_request_that_waits_is_dropped),
        ON_A_SUPERVISOR(cancelled_request_of_a_worker_ends_when_that_says_so),
        ON_A_SUPERVISOR(cancelled_request_that_waits_ends_at_once),
        ON_A_SUPERVISOR(half_a_character_at_an_answer_s_end_is_told_as_one_that_cannot_be),
        ON_A_SUPERVISOR(top_k_of_0_is_not_the_model_s),
        ON_A_SUPERVISOR(a_connection_has_so_many_requests_and_no_more),
        ON_A_SUPERVISOR(all_connections_have_so_many_requests_and_no_more),
        ON_A_SUPERVISOR(prompts_under_way_take_so_much_and_no_more),
        ON_A_SUPERVISOR(prompts_that_are_done_with_count_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
