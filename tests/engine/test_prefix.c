/* test_prefix.c - what sequences share, one rule at a time: blocks.h alone, and through plans. */
#include "engine/blocks.h"
#include "engine/engine.h"
#include "quern/log.h"
#include "tests/engine/fake_device.h"
#include "tests/ipc/ipc_support.h"

enum { CONTEXT = FAKE_BLOCKS * FAKE_BLOCK_SIZE };

struct bench {
    struct engine *engine;
    struct fake_device device;
    struct plan *plan;
    uint32_t answered;
};

static void note_event(void *context, const struct engine_event *e)
{
    struct bench *b = context;

    b->answered += e->kind == ENGINE_DONE;
}

static int open_bench(void **state)
{
    struct engine_options o = {.limits = fake_limits, .generation = 1, .max_model_len = CONTEXT,
        .max_chunk = 12};
    struct bench *b = calloc(1, sizeof(*b));

    *state = b;
    b->plan = malloc(plan_max_bytes(&fake_limits));
    return engine_open(&o, &b->engine) == STATUS_OK ? 0 : -1;
}

static int close_bench(void **state)
{
    struct bench *b = *state;

    engine_close(b->engine);
    free(b->plan);
    free(b);
    return 0;
}

static void add(struct bench *b, const int32_t *ids, uint32_t n, uint32_t max_tokens)
{
    static uint64_t id;

    assert_int_equal(engine_add(b->engine, &(struct engine_request){.id = ++id, .ids = ids,
        .n_ids = n, .max_tokens = max_tokens, .ignore_eos = true, .sampling = {.top_p = 1}}),
        STATUS_OK);
}

static bool step(struct bench *b)
{
    const struct fake_step *f;

    if (engine_plan(b->engine, b->plan) != STATUS_OK)
        return false;
    fake_submit(&b->device, b->plan);
    if (b->device.wrong != NULL)
        fail_msg("%s", b->device.wrong);
    f = fake_finish(&b->device);
    engine_done(b->engine, f->number, f->ids, NULL, note_event, b);
    return true;
}

static void count_up(int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i % FAKE_VOCAB);
}

static void an_ended_prompt_is_found_again_but_for_its_last_token(void **state)
{
    struct bench *b = *state;
    int32_t ids[16];

    count_up(ids, 16);
    add(b, ids, 16, 1);
    while (step(b))
        ;
    add(b, ids, 16, 1); /* four blocks: the last is computed again */
    step(b);
    assert_int_equal(b->plan->n_tokens, 4);
    assert_int_equal(plan_starts(b->plan)->length, 12);
    add(b, ids, 15, 1);
    step(b);
    assert_int_equal(b->plan->n_tokens, 3);
    assert_int_equal(engine_counts(b->engine).prefix_hit, 24);
    assert_int_equal(engine_counts(b->engine).prefix_asked, 47);
}

static void the_next_turn_of_a_chat_finds_the_last_answer(void **state)
{
    struct bench *b = *state;
    int32_t ids[40];

    count_up(ids, 40);
    add(b, ids, 6, 14);
    while (step(b))
        ;
    fake_answer(ids, 6, 0, ids + 6, 14); /* 20 ids; the last one was never computed */
    add(b, ids, 24, 1);
    step(b);
    assert_int_equal(plan_starts(b->plan)->length, 16);
}

static void requests_that_come_together_compute_what_they_share_once(void **state)
{
    struct bench *b = *state;
    int32_t ids[40];
    uint32_t tokens = 0;

    count_up(ids, 40);
    for (int32_t i = 0; i < 3; i++) { /* 32 ids are the same, four are its own */
        for (int32_t o = 32; o < 36; o++)
            ids[o] = i;
        add(b, ids, 36, 1);
    }
    while (step(b))
        tokens += b->plan->n_tokens;
    assert_int_equal(b->answered, 3);
    assert_int_equal(tokens, 36 + 2 * 4);
}

static void another_request_does_not_wait_behind_one_that_waits_for_a_prefix(void **state)
{
    struct bench *b = *state;
    int32_t ids[40], other[2] = {7, 3};

    count_up(ids, 40);
    add(b, ids, 20, 1);
    add(b, ids, 20, 1);
    add(b, other, 2, 1);
    step(b);
    assert_int_equal(b->plan->n_starts, 2);
    assert_int_equal(plan_rows(b->plan)[1].n_tokens, 2);
}

static void a_short_prompt_goes_beside_a_long_one(void **state)
{
    struct bench *b = *state;
    int32_t ids[80], other[2] = {7, 3};

    count_up(ids, 80);
    add(b, ids, 80, 1);
    add(b, other, 2, 1);
    step(b);
    assert_int_equal(b->plan->n_rows, 2);
    assert_int_equal(plan_rows(b->plan)[0].n_tokens, 6); /* half of 12 */
    assert_int_equal(b->answered, 1);
    step(b);
    assert_int_equal(plan_rows(b->plan)[0].n_tokens, 12);
}

static void the_youngest_gives_way_and_goes_on_as_if_nothing_had_been(void **state)
{
    struct bench *b = *state;
    int32_t ids[2][44];

    for (int i = 0; i < 2; i++) { /* each will need 22 of the 24 blocks */
        count_up(ids[i], 44);
        ids[i][0] = i + 1;
        add(b, ids[i], 44, 44);
    }
    while (step(b))
        ;
    assert_int_equal(b->answered, 2);
    assert_int_equal(engine_counts(b->engine).preemptions, 1);
    assert_int_equal(engine_counts(b->engine).blocks_used, 0);
    assert_true(engine_idle(b->engine));
}

/* blocks.h alone -------------------------------------------------------------------------- */

static void leaves_go_before_what_they_continue_and_the_oldest_first(void **state)
{
    const int32_t ids[4][2] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}};
    struct content at[5] = {{0}}, found;
    struct blocks *b;
    uint64_t hash[5] = {0};
    uint32_t block[4], taken;

    (void)state;
    assert_int_equal(blocks_open(4, 2, &b), STATUS_OK);
    for (int i = 0; i < 4; i++) { /* one chain */
        assert_true(block_take(b, &block[i]));
        hash[i + 1] = block_hash(b, hash[i], ids[i]);
        assert_true(block_keep(b, block[i], &at[i], hash[i + 1], ids[i], 1, &at[i + 1]));
    }
    assert_false(block_take(b, &taken));
    for (int i = 0; i < 4; i++) /* the wrong way round: the beginning is the oldest */
        block_give(b, block[i]);
    assert_int_equal(blocks_available(b), 4);
    for (int i = 3; i >= 0; i--) {
        assert_true(block_take(b, &taken));
        assert_int_equal(taken, block[i]);
        for (int o = 0; o < 4; o++)
            assert_int_equal(block_find(b, &at[o], hash[o + 1], ids[o], &found), o < i);
    }
    blocks_close(b);
}

/* The same hash is claimed for other ids, and the same ids behind another block. */
static void equal_hashes_alone_find_nothing(void **state)
{
    const int32_t ids[2] = {1, 2}, other[2] = {1, 3};
    struct content root = {0}, first, second, found;
    struct blocks *b;
    uint32_t block[2];

    (void)state;
    assert_int_equal(blocks_open(4, 2, &b), STATUS_OK);
    assert_true(block_take(b, &block[0]) && block_take(b, &block[1]));
    assert_true(block_keep(b, block[0], &root, 77, ids, 1, &first));
    assert_false(block_find(b, &root, 77, other, &found));
    assert_false(block_find(b, &first, 77, ids, &found));
    assert_true(block_keep(b, block[1], &first, 77, ids, 1, &second));
    assert_true(block_find(b, &first, 77, ids, &found));
    assert_int_equal(found.block, block[1]);
    block_forget(b, block[0]);
    assert_false(block_find(b, &root, 77, ids, &found));
    assert_false(block_keep(b, block[1], &first, 78, other, 1, &found)); /* its place is gone */
    blocks_close(b);
}

static void a_block_that_all_continue_in_use_can_still_be_taken(void **state)
{
    const int32_t ids[2] = {1, 2};
    struct content root = {0}, first, second;
    struct blocks *b;
    uint32_t block[2], taken;

    (void)state;
    assert_int_equal(blocks_open(2, 2, &b), STATUS_OK);
    assert_true(block_take(b, &block[0]) && block_take(b, &block[1]));
    assert_true(block_keep(b, block[0], &root, 1, ids, 1, &first));
    assert_true(block_keep(b, block[1], &first, 2, ids, 1, &second));
    block_give(b, block[0]);
    assert_true(block_take(b, &taken));
    assert_int_equal(taken, block[0]);
    block_give(b, block[1]);
    assert_true(block_take(b, &taken));
    blocks_close(b);
}

#define PREFIX_TEST(test) cmocka_unit_test_setup_teardown(test, open_bench, close_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PREFIX_TEST(an_ended_prompt_is_found_again_but_for_its_last_token),
        PREFIX_TEST(the_next_turn_of_a_chat_finds_the_last_answer),
        PREFIX_TEST(requests_that_come_together_compute_what_they_share_once),
        PREFIX_TEST(another_request_does_not_wait_behind_one_that_waits_for_a_prefix),
        PREFIX_TEST(a_short_prompt_goes_beside_a_long_one),
        PREFIX_TEST(the_youngest_gives_way_and_goes_on_as_if_nothing_had_been),
        cmocka_unit_test(leaves_go_before_what_they_continue_and_the_oldest_first),
        cmocka_unit_test(equal_hashes_alone_find_nothing),
        cmocka_unit_test(a_block_that_all_continue_in_use_can_still_be_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
