/* test_answers.c - the journal of a request's choices: how each ends, and what is told again. */
#include "tests/supervisor/supervisor_fixture.h"

#include "text/vocab_table.h"

enum { PLACES = 26 };

static const int32_t prompt[] = {5, 6, 7};

/* Token i is the letter 'a' + i. */
static struct {
    struct vocab_table_header header;
    uint32_t offsets[PLACES + 1];
    uint8_t flags[PLACES], blob[PLACES];
} letters;

static void use_letters(struct supervisor *sv)
{
    letters.header = (struct vocab_table_header){VOCAB_TABLE_MAGIC, VOCAB_TABLE_VERSION, PLACES, PLACES};
    for (uint32_t i = 0; i <= PLACES; i++)
        letters.offsets[i] = i;
    for (uint32_t i = 0; i < PLACES; i++)
        letters.blob[i] = (uint8_t)('a' + i);
    assert_int_equal(vocab_table_attach(&letters, sizeof(letters), &sv->vocab), STATUS_OK);
}

/* A list of one text, as a parameter. */
static struct param_bytes one_text(unsigned char *mem, const char *text)
{
    uint32_t n = (uint32_t)strlen(text);

    memcpy(mem, &n, sizeof(n));
    memcpy(mem + sizeof(n), text, n);
    return (struct param_bytes){mem, (uint32_t)sizeof(n) + n};
}

static struct request *running(struct fixture *f, struct client *c, const struct params *p)
{
    struct told t;

    use_letters(&f->sv);
    submit(c, 1, PROMPT_IDS, p, prompt, sizeof(prompt));
    hears(c, &t, FRAME_ACCEPTED, 1);
    ranks_push(&f->sv);
    assert_int_equal(request_of(c, 1)->state, REQUEST_RUNNING);
    return request_of(c, 1);
}

static void says(struct fixture *f, const struct request *r, uint32_t choice, const char *text)
{
    for (; *text != '\0'; text++)
        rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = r->id, .choice = choice,
            .token = *text - 'a'});
}

static void hears_text(struct client *c, uint32_t choice, uint64_t after, uint32_t n_ids,
    const char *text)
{
    struct frame_tokens t;
    struct told told;

    hears(c, &told, FRAME_TOKENS, 1);
    memcpy(&t, told.payload, sizeof(t));
    assert_int_equal(t.choice, choice);
    assert_int_equal(t.after, after);
    assert_int_equal(t.n_ids, n_ids);
    assert_int_equal(t.text_bytes, strlen(text));
    assert_memory_equal(told.payload + sizeof(t) + n_ids * sizeof(int32_t), text, strlen(text));
}

static struct frame_done hears_done(struct client *c, uint32_t choice, enum quern_finish finish,
    uint32_t more)
{
    struct frame_done d;
    struct told told;

    hears(c, &told, FRAME_DONE, 1);
    memcpy(&d, told.payload, sizeof(d));
    assert_int_equal(d.choice, choice);
    assert_int_equal(d.finish, finish);
    assert_int_equal(d.more, more);
    return d;
}

/* What was pushed last, of that kind. */
static struct request_msg pushed(struct fixture *f, enum request_kind kind)
{
    struct request_msg m = {.kind = UINT16_MAX};
    const void *slot;

    while (ring_peek(&f->sv.shared.requests, &slot) == STATUS_OK) {
        m = *(const struct request_msg *)slot;
        ring_release(&f->sv.shared.requests);
    }
    assert_int_equal(m.kind, kind);
    return m;
}

#define GIVEN(key) (1ull << (key))

static const struct params three = {.given = GIVEN(PARAM_CHOICES) | GIVEN(PARAM_MAX_TOKENS),
    .choices = 3, .max_tokens = 9};

static void each_choice_has_its_own_ids_and_its_own_end(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &three);
    struct request_msg m = pushed(f, REQUEST_SUBMIT);

    assert_int_equal(m.n_answers, 3);
    assert_int_equal(f->sv.n_running, 3);
    says(f, r, 1, "xy");
    says(f, r, 0, "a");
    hears_text(c, 0, 0, 1, "a");
    hears_text(c, 1, 0, 2, "xy");
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id, .choice = 1, .token = 4,
        .is_eos = 1, .finish = QUERN_FINISH_STOP, .output_tokens = 3});
    assert_int_equal(hears_done(c, 1, QUERN_FINISH_STOP, 2).output_tokens, 3);
    says(f, r, 1, "z"); /* rank 0 has let go of it: this cannot be */
    says(f, r, 2, "b");
    hears_text(c, 2, 0, 1, "b");
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id, .choice = 2,
        .finish = QUERN_FINISH_LENGTH, .output_tokens = 1});
    hears_done(c, 2, QUERN_FINISH_LENGTH, 1);
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id, .choice = 0, .token = 9,
        .finish = QUERN_FINISH_STOP, .output_tokens = 2});
    hears_done(c, 0, QUERN_FINISH_STOP, 0);
    hears_nothing(c);
    assert_int_equal(f->sv.n_running, 0);
    assert_int_equal(f->sv.n_requests, 0);
}

static void a_broken_choice_ends_all_of_them_with_one_error(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &three);

    pushed(f, REQUEST_SUBMIT);
    says(f, r, 0, "a");
    hears_text(c, 0, 0, 1, "a");
    rank_tells(f, (struct token_msg){.kind = TOKEN_ERROR, .id = r->id, .choice = 1,
        .error = TOKEN_ERROR_LOGITS, .detail = {7}});
    hears_nothing(c); /* rank 0 has the others still */
    ranks_push(&f->sv);
    assert_int_equal(pushed(f, REQUEST_CANCEL).choice, ALL_CHOICES);
    for (uint32_t i = 0; i < 3; i += 2)
        rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id, .choice = i,
            .finish = QUERN_FINISH_CANCELLED, .output_tokens = i == 0});
    hears_error(c, 1, QUERN_CODE_MODEL, "step 7");
    hears_nothing(c);
    assert_int_equal(f->sv.n_requests, 0);
}

static void choices_that_have_ended_are_not_computed_again_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &three);
    struct request_msg m;
    const int32_t *words;

    pushed(f, REQUEST_SUBMIT);
    says(f, r, 0, "ab");
    says(f, r, 2, "klm");
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id, .choice = 2,
        .finish = QUERN_FINISH_LENGTH, .output_tokens = 3});
    answers_take_back(r);
    request_move(r, REQUEST_QUEUED);
    request_queue(r, true);
    assert_int_equal(f->sv.n_running, 0);
    ranks_push(&f->sv);
    m = pushed(f, REQUEST_SUBMIT);
    assert_int_equal(m.n_prompt, 3);
    assert_int_equal(m.n_answers, 2);
    assert_int_equal(m.n_words, 3 + 2 + 2 + 2);
    words = ring_buffer_at(&f->sv.shared.request_bytes, m.at, m.n_words * sizeof(*words));
    assert_memory_equal(words, ((const int32_t[]){5, 6, 7, 0, 2, 0, 1, 1, 0}), 9 * sizeof(*words));
    request_stop(r);
}

static const char stop_word[] = "cde";

static void a_stop_text_ends_the_answer_before_it_and_none_of_it_is_told(void **state)
{
    unsigned char mem[16];
    struct params p = {.given = GIVEN(PARAM_STOP) | GIVEN(PARAM_MAX_TOKENS), .max_tokens = 20,
        .stop = one_text(mem, stop_word)};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &p);
    struct frame_done d;

    pushed(f, REQUEST_SUBMIT);
    says(f, r, 0, "abcd");
    hears_text(c, 0, 0, 4, "ab");
    says(f, r, 0, "x");
    hears_text(c, 0, 4, 1, "cdx");
    says(f, r, 0, "cd");
    hears_text(c, 0, 5, 2, "");
    says(f, r, 0, "efg"); /* f and g come before rank 0 has heard of it */
    hears_text(c, 0, 7, 1, "");
    hears_nothing(c);
    ranks_push(&f->sv);
    assert_int_equal(pushed(f, REQUEST_CANCEL).choice, 0);
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id,
        .finish = QUERN_FINISH_CANCELLED, .output_tokens = 10});
    d = hears_done(c, 0, QUERN_FINISH_STOP, 0);
    assert_int_equal(d.output_tokens, 8);
    assert_int_equal(d.stop_kind, STOP_TEXT);
    assert_int_equal(d.stop, 0);
    hears_nothing(c);
}

static void held_back_text_is_told_at_another_end(void **state)
{
    unsigned char mem[16];
    struct params p = {.given = GIVEN(PARAM_STOP) | GIVEN(PARAM_MIN_TOKENS) | GIVEN(PARAM_MAX_TOKENS),
        .min_tokens = 3, .max_tokens = 7, .stop = one_text(mem, stop_word)};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &p);

    says(f, r, 0, "cde"); /* too early to count */
    hears_text(c, 0, 0, 3, "cde");
    says(f, r, 0, "zzcd");
    hears_text(c, 0, 3, 4, "zz");
    rank_tells(f, (struct token_msg){.kind = TOKEN_DONE, .id = r->id,
        .finish = QUERN_FINISH_LENGTH, .output_tokens = 7});
    hears_text(c, 0, 7, 0, "cd");
    hears_done(c, 0, QUERN_FINISH_LENGTH, 0);
}

static void resume(struct client *c, uint64_t number, uint64_t key, uint64_t after)
{
    struct frame_resume f = {.fixed = sizeof(f), .key = key, .after = after};

    take_resume(c, &(struct frame_header){.id = number, .type = FRAME_RESUME, .bytes = sizeof(f)}, &f);
}

static void what_is_told_again_has_the_text_that_was_held_back_there(void **state)
{
    unsigned char mem[16];
    struct params p = {.given = GIVEN(PARAM_STOP) | GIVEN(PARAM_KEY) | GIVEN(PARAM_MAX_TOKENS),
        .key = 77, .max_tokens = 20, .stop = one_text(mem, stop_word)};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &p);
    struct told t;

    says(f, r, 0, "abcdx");
    hears_text(c, 0, 0, 5, "abcdx");
    resume(c, 1, 77, 3); /* the c of "abc" was held back then: it comes with what is behind it */
    hears_error(c, 1, QUERN_CODE_NUMBER_IN_USE, "");
    resume(c, 2, 77, 3);
    hears_error(c, 1, QUERN_CODE_TAKEN_OVER, "");
    hears(c, &t, FRAME_ACCEPTED, 2);
    hears(c, &t, FRAME_TOKENS, 2);
    assert_int_equal(((struct frame_tokens *)(void *)t.payload)->after, 3);
    assert_int_equal(((struct frame_tokens *)(void *)t.payload)->text_bytes, 3);
    assert_memory_equal(t.payload + sizeof(struct frame_tokens) + 2 * sizeof(int32_t), "cdx", 3);
}

/* Two ids a token: itself, and the likeliest. */
static void logprobs_are_told_beside_their_ids(void **state)
{
    const struct token_logprob one[] = {{2, -0.5f}, {9, -0.25f}};
    struct params p = {.given = GIVEN(PARAM_LOGPROBS), .logprobs = 1};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &p);
    struct frame_tokens t;
    struct told told;

    assert_int_equal(pushed(f, REQUEST_SUBMIT).sampling.logprobs, 2);
    rank_tells(f, (struct token_msg){.kind = TOKEN_ID, .id = r->id, .token = 2}); /* without: damaged */
    hears_nothing(c);
    rank_tells_with(f, (struct token_msg){.kind = TOKEN_ID, .id = r->id, .token = 2}, one, 2);
    hears(c, &told, FRAME_TOKENS, 1);
    memcpy(&t, told.payload, sizeof(t));
    assert_int_equal(t.n_ids, 1);
    assert_int_equal(t.logprobs_bytes, sizeof(one));
    assert_memory_equal(told.payload + sizeof(t) + sizeof(int32_t) + t.text_bytes, one, sizeof(one));
}

static void the_prompt_is_told_as_it_is_scored_and_before_the_answer(void **state)
{
    const struct token_logprob scores[] = {{6, -1}, {7, -2}};
    struct params p = {.given = GIVEN(PARAM_PROMPT_LOGPROBS), .prompt_logprobs = 0};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &p);
    struct frame_tokens t;
    struct told told;

    for (uint32_t i = 1; i <= 2; i++) {
        rank_tells_with(f, (struct token_msg){.kind = TOKEN_SCORED, .id = r->id, .position = i},
            &scores[i - 1], 1);
        hears(c, &told, FRAME_PROMPT, 1);
        memcpy(&t, told.payload, sizeof(t));
        assert_int_equal(t.after, i == 1 ? 0 : 2);
        assert_int_equal(t.n_ids, i == 1 ? 2 : 1);
        assert_memory_equal(told.payload + sizeof(t), &prompt[t.after], t.n_ids * sizeof(int32_t));
        if (i == 1)
            assert_memory_equal(told.payload + sizeof(t) + t.n_ids * sizeof(int32_t) + t.text_bytes,
                (&(int32_t){NO_ID}), sizeof(int32_t));
        assert_memory_equal(told.payload + told.header.bytes - sizeof(*scores), &scores[i - 1],
            sizeof(*scores));
    }
    says(f, r, 0, "a");
    hears_text(c, 0, 0, 1, "a");
}

/* Before the prompt is told no answer can be: parked, it would never go on. */
static void an_answer_is_not_parked_while_its_prompt_is_scored(void **state)
{
    static const struct token_logprob score = {6, -1};
    const struct params p = {.given = GIVEN(PARAM_PROMPT_LOGPROBS) | GIVEN(PARAM_CHOICES) |
        GIVEN(PARAM_MAX_TOKENS), .choices = 2, .max_tokens = 4 * PARK_AT};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct request *r = running(f, c, &p);

    for (int i = 0; i < PARK_AT + 10; i++)
        says(f, r, 1, "a");
    assert_false(r->parking);
    hears_nothing(c);
    for (uint32_t i = 1; i <= 2; i++)
        rank_tells_with(f, (struct token_msg){.kind = TOKEN_SCORED, .id = r->id, .position = i},
            &score, 1);
    says(f, r, 1, "a");
    assert_true(r->parking);
    request_stop(r);
}

static void a_prompt_of_one_id_has_logprobs_of_nothing(void **state)
{
    const struct params p = {.given = GIVEN(PARAM_PROMPT_LOGPROBS), .prompt_logprobs = 3};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct told told;

    use_letters(&f->sv);
    submit(c, 1, PROMPT_IDS, &p, prompt, sizeof(prompt[0]));
    hears(c, &told, FRAME_ACCEPTED, 1);
    hears_nothing(c); /* the table of texts may not be there yet */
    ranks_push(&f->sv);
    hears(c, &told, FRAME_PROMPT, 1);
    for (size_t i = 0; i < 4; i++)
        assert_memory_equal(told.payload + told.header.bytes - 8 * (4 - i), (&(int32_t){NO_ID}), 4);
}

static void what_the_text_worker_says_of_bad_words_is_checked(void **state)
{
    static const int32_t replies[][4] = {{5, 1, FIXTURE_VOCAB}, {5, -1, 3}, {5, 0, 1, 2}, {5, 3, 1}};
    static const uint32_t lengths[] = {3, 3, 4, 3};
    unsigned char mem[16];
    struct params p = {.given = GIVEN(PARAM_BAD_WORDS), .bad_words = one_text(mem, "ab")};
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct told t;

    for (uint64_t i = 0; i < 4; i++) {
        submit(c, 1 + i, PROMPT_TEXT, &p, "x", 1);
        text_push(&f->sv);
        text_tells_with(f, request_of(c, 1 + i)->id, replies[i], lengths[i], lengths[i] - 1);
        hears(c, &t, FRAME_ACCEPTED, 1 + i);
        ranks_push(&f->sv);
        hears_error(c, 1 + i, QUERN_CODE_BAD_REQUEST, "bad_words");
    }
}

static void ids_of_lists_are_the_model_s_or_refused(void **state)
{
    static const struct {
        int32_t id;
        float bias;
    } bias = {FIXTURE_VOCAB, 1};
    static const uint32_t run[] = {1, FIXTURE_VOCAB};
    static const int32_t stop = FIXTURE_VOCAB;
    const struct params wrong[] = {
        {.given = GIVEN(PARAM_LOGIT_BIAS), .logit_bias = {(const void *)&bias, sizeof(bias)}},
        {.given = GIVEN(PARAM_BAD_IDS), .bad_ids = {(const void *)run, sizeof(run)}},
        {.given = GIVEN(PARAM_STOP_IDS), .stop_ids = {(const void *)&stop, sizeof(stop)}},
    };
    struct fixture *f = *state;
    struct client *c = client_come(&f->sv);
    struct told t;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        submit(c, 1 + i, PROMPT_IDS, &wrong[i], prompt, sizeof(prompt));
        hears(c, &t, FRAME_ACCEPTED, 1 + i);
        ranks_push(&f->sv);
        hears_error(c, 1 + i, QUERN_CODE_BAD_REQUEST, "token id 100 is out of range");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_A_SUPERVISOR(each_choice_has_its_own_ids_and_its_own_end),
        ON_A_SUPERVISOR(a_broken_choice_ends_all_of_them_with_one_error),
        ON_A_SUPERVISOR(choices_that_have_ended_are_not_computed_again_after_a_restart),
        ON_A_SUPERVISOR(a_stop_text_ends_the_answer_before_it_and_none_of_it_is_told),
        ON_A_SUPERVISOR(held_back_text_is_told_at_another_end),
        ON_A_SUPERVISOR(what_is_told_again_has_the_text_that_was_held_back_there),
        ON_A_SUPERVISOR(logprobs_are_told_beside_their_ids),
        ON_A_SUPERVISOR(the_prompt_is_told_as_it_is_scored_and_before_the_answer),
        ON_A_SUPERVISOR(an_answer_is_not_parked_while_its_prompt_is_scored),
        ON_A_SUPERVISOR(a_prompt_of_one_id_has_logprobs_of_nothing),
        ON_A_SUPERVISOR(what_the_text_worker_says_of_bad_words_is_checked),
        ON_A_SUPERVISOR(ids_of_lists_are_the_model_s_or_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
