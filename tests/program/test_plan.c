/* test_plan.c - writing a plan, packing it, and refusing every broken one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "quern/plan.h"

enum { GENERATION = 3, FUZZ_CASES = 20000, FUZZ_SEED = 20261122 };

static const struct plan_limits limits = {.max_slots = 8, .max_tokens = 64, .max_outputs = 40,
    .max_blocks_per_slot = 6, .n_blocks = 20, .block_size = 16, .vocab = 100};

/* Two starts, one of them with lists; three changes; three rows: a decode with a guess, a prefill whose
 * last tokens are scored, logits of a prompt's end. */
static void write_plan(struct plan *p)
{
    static const int32_t words[] = {4, 0x3f800000, 50, 0, 2, 8, 9, 1, 3, 77};

    plan_begin(p, &limits, GENERATION, 41);
    plan_starts(p)[p->n_starts++] = (struct slot_start){.slot = 5, .sampling = {.top_p = 1}};
    plan_starts(p)[p->n_starts++] = (struct slot_start){.slot = 7, .n_prompt = 3,
        .sampling = {.temperature = 0.7f, .top_p = 0.8f, .min_p = 0.1f, .top_k = 20, .seed = 9,
            .repetition = 1.1f, .min_tokens = 2, .n_bias = 4, .n_bad = 5, .n_ends = 1}};
    memcpy(plan_words(p), words, sizeof(words));
    p->n_words = sizeof(words) / sizeof(words[0]);
    plan_changes(p)[p->n_changes++] = (struct block_change){.slot = 5, .index = 0, .block = 19};
    plan_changes(p)[p->n_changes++] = (struct block_change){.slot = 7, .index = 0, .block = 2};
    plan_changes(p)[p->n_changes++] = (struct block_change){.slot = 2, .index = 5, .block = 0};
    plan_rows(p)[p->n_rows++] = (struct plan_row){.slot = 2, .n_tokens = 2, .n_outputs = 2,
        .kind = ROW_DECODE, .output = OUTPUT_TOKEN};
    plan_rows(p)[p->n_rows++] = (struct plan_row){.slot = 5, .first_token = 2, .n_tokens = 4,
        .n_outputs = 3, .kind = ROW_PREFILL, .output = OUTPUT_SCORE, .next_id = 60};
    plan_rows(p)[p->n_rows++] = (struct plan_row){.slot = 7, .first_token = 6, .n_tokens = 3,
        .n_outputs = 2, .kind = ROW_PREFILL, .output = OUTPUT_LOGITS};
    for (int i = 0; i < 9; i++)
        plan_tokens(p)[p->n_tokens++] = i == 0 ? token_from_slot(2) : 99 - i;
    p->n_outputs = 7;
    p->n_decode = 1;
}

static struct plan *new_plan(void)
{
    struct plan *p = calloc(1, plan_max_bytes(&limits));

    assert_non_null(p);
    write_plan(p);
    return p;
}

static enum status check(const struct plan *p)
{
    return plan_check(p, plan_max_bytes(&limits), &limits, GENERATION);
}

static void packing_keeps_everything_and_drops_the_gaps(void **state)
{
    struct plan *wide = new_plan(), *packed = new_plan();

    (void)state;
    assert_int_equal(check(wide), STATUS_OK);
    plan_pack(packed);
    assert_int_equal(check(packed), STATUS_OK);
    assert_int_equal(plan_check(packed, packed->bytes, &limits, GENERATION), STATUS_OK);
    assert_true(packed->bytes < wide->bytes);
    assert_int_equal(packed->bytes, (sizeof(struct plan) + 2 * sizeof(struct slot_start) +
        3 * sizeof(struct block_change) + 3 * sizeof(struct plan_row) + (9 + 10) * sizeof(int32_t) + 7) /
        8 * 8);
    assert_memory_equal(plan_starts(wide), plan_starts(packed), 2 * sizeof(struct slot_start));
    assert_memory_equal(plan_changes(wide), plan_changes(packed), 3 * sizeof(struct block_change));
    assert_memory_equal(plan_rows(wide), plan_rows(packed), 3 * sizeof(struct plan_row));
    assert_memory_equal(plan_tokens(wide), plan_tokens(packed), 9 * sizeof(int32_t));
    assert_memory_equal(plan_words(wide), plan_words(packed), 10 * sizeof(int32_t));
    assert_int_equal(packed->number, 41);
    plan_pack(packed); /* again: nothing moves */
    assert_memory_equal(plan_tokens(wide), plan_tokens(packed), 9 * sizeof(int32_t));
    assert_memory_equal(plan_words(wide), plan_words(packed), 10 * sizeof(int32_t));
    free(wide);
    free(packed);
}

static void the_largest_plan_fits_its_room(void **state)
{
    struct plan *p = calloc(1, plan_max_bytes(&limits));

    (void)state;
    plan_begin(p, &limits, GENERATION, 0);
    assert_int_equal(p->bytes, plan_max_bytes(&limits));
    for (uint32_t s = 0; s < limits.max_slots; s++) {
        plan_starts(p)[p->n_starts++] = (struct slot_start){.slot = s};
        plan_rows(p)[p->n_rows++] = (struct plan_row){.slot = s, .first_token = s * 8,
            .n_tokens = 8, .n_outputs = 5, .output = OUTPUT_LOGITS};
        p->n_outputs += 5;
    }
    p->n_tokens = limits.max_tokens;
    p->n_words = SAMPLING_WORDS;
    while (p->n_changes < plan_max_changes(&limits)) {
        plan_changes(p)[p->n_changes] = (struct block_change){p->n_changes % 8, 5, 19};
        p->n_changes++;
    }
    assert_int_equal(check(p), STATUS_OK);
    plan_pack(p);
    assert_int_equal(p->bytes, plan_max_bytes(&limits));
    assert_int_equal(check(p), STATUS_OK);
    free(p);
}

static void limits_beyond_a_message_are_zero_bytes(void **state)
{
    struct plan_limits huge = limits;

    (void)state;
    huge.max_blocks_per_slot = UINT32_MAX;
    assert_int_equal(plan_max_bytes(&huge), 0);
    huge = limits;
    huge.max_slots = UINT32_MAX;
    assert_int_equal(plan_max_bytes(&huge), 0);
}

static void many_long_sequences_make_no_large_plan(void **state)
{
    struct plan_limits many = {.max_slots = 512, .max_tokens = 8192, .max_outputs = 8192,
        .max_blocks_per_slot = 262144 / 16, .n_blocks = 1 << 20, .block_size = 16, .vocab = 151936};

    (void)state;
    assert_in_range(plan_max_bytes(&many), 1, 400000);
}

static void a_stop_carries_nothing(void **state)
{
    struct plan *p = calloc(1, plan_max_bytes(&limits));

    (void)state;
    plan_begin(p, &limits, GENERATION, 5);
    p->flags = PLAN_STOP;
    plan_pack(p);
    assert_int_equal(check(p), STATUS_OK);
    p->n_outputs = 1;
    assert_int_equal(check(p), STATUS_INVALID);
    free(p);
}

/* Each breaks a good plan in one place. */
#define BREAK(name, change)                  \
    static void break_##name(struct plan *p) \
    {                                        \
        change;                              \
    }
BREAK(bytes, p->bytes = UINT32_MAX)
BREAK(short, p->bytes = sizeof(*p) - 1)
BREAK(generation, p->generation++)
BREAK(flags, p->flags = 2)
BREAK(n_starts, p->n_starts = 9)
BREAK(n_changes, p->n_changes = 0x40000001)
BREAK(n_rows, p->n_rows = 2)
BREAK(n_tokens, p->n_tokens = 10)
BREAK(n_tokens_huge, p->n_tokens = UINT32_MAX)
BREAK(n_outputs, p->n_outputs = 6)
BREAK(starts_at, p->starts_at += 4)
BREAK(changes_at, p->changes_at = p->bytes - 8)
BREAK(rows_at, p->rows_at = 8)
BREAK(tokens_at, p->tokens_at = UINT32_MAX - 3)
BREAK(tokens_align, p->tokens_at += 2)
BREAK(start_slot, plan_starts(p)[1].slot = 8)
BREAK(start_length, plan_starts(p)[0].length = 97)
BREAK(start_twice, plan_starts(p)[1].slot = 5)
BREAK(temperature, plan_starts(p)[1].sampling.temperature = NAN)
BREAK(top_p, plan_starts(p)[1].sampling.top_p = 1.5f)
BREAK(min_p, plan_starts(p)[1].sampling.min_p = -0.1f)
BREAK(change_slot, plan_changes(p)[0].slot = 8)
BREAK(change_index, plan_changes(p)[2].index = 6)
BREAK(change_block, plan_changes(p)[1].block = 20)
BREAK(change_tier, plan_changes(p)[1].block = block_number(1, 2))
BREAK(change_last_tier, plan_changes(p)[1].block = block_number(15, 2))
BREAK(row_slot, plan_rows(p)[0].slot = UINT32_MAX)
BREAK(row_twice, plan_rows(p)[2].slot = 2)
BREAK(row_kind, plan_rows(p)[0].kind = 2)
BREAK(row_output, plan_rows(p)[0].output = 3)
BREAK(row_empty, plan_rows(p)[0].n_tokens = 0)
BREAK(row_gap, plan_rows(p)[2].first_token = 7)
BREAK(row_long, plan_rows(p)[2].n_tokens = UINT32_MAX - 5)
BREAK(row_outputs, plan_rows(p)[2].n_outputs = 4)
BREAK(row_none, plan_rows(p)[0].n_outputs = 1)
BREAK(row_adapter, plan_rows(p)[0].adapter = 1)
BREAK(token_high, plan_tokens(p)[0] = 100)
BREAK(token_slot, plan_tokens(p)[0] = token_from_slot(8))
BREAK(guess_slot, plan_tokens(p)[1] = token_from_slot(2))
BREAK(token_low, plan_tokens(p)[4] = INT32_MIN)

BREAK(repetition, plan_starts(p)[1].sampling.repetition = -1)
BREAK(frequency, plan_starts(p)[1].sampling.frequency = NAN)
BREAK(presence, plan_starts(p)[1].sampling.presence = INFINITY)
BREAK(logprobs, plan_starts(p)[1].sampling.logprobs = LOGPROBS_MOST + 2)
BREAK(n_bias, plan_starts(p)[1].sampling.n_bias = 3)
BREAK(n_bad, plan_starts(p)[1].sampling.n_bad = 4)
BREAK(n_ends, plan_starts(p)[1].sampling.n_ends = 2)
BREAK(n_ends_huge, plan_starts(p)[1].sampling.n_ends = UINT32_MAX)
BREAK(first_word, plan_starts(p)[1].first_word = 1)
BREAK(n_words, p->n_words = SAMPLING_WORDS + 1)
BREAK(words_at, p->words_at = p->bytes)
BREAK(bias_id, plan_words(p)[0] = 100)
BREAK(bias_nan, plan_words(p)[1] = 0x7fc00000)
BREAK(bad_run_empty, plan_words(p)[4] = 0)
BREAK(bad_run_long, plan_words(p)[7] = 2)
BREAK(bad_id, plan_words(p)[8] = -1)
BREAK(end_id, plan_words(p)[9] = 100)
BREAK(next_id, plan_rows(p)[1].next_id = 100)
BREAK(next_id_of_none, plan_rows(p)[2].next_id = 1)
BREAK(n_decode, p->n_decode = 0)
BREAK(n_decode_more, p->n_decode = 2)
BREAK(n_decode_huge, p->n_decode = 4)
BREAK(decode_none, plan_rows(p)[0].output = OUTPUT_NONE)
BREAK(decode_logits, plan_rows(p)[0].output = OUTPUT_LOGITS)

/* The rest fits: nothing but the one promise is broken. */
BREAK(top_p_nan, plan_starts(p)[0].sampling.top_p = NAN)
BREAK(min_p_nan, plan_starts(p)[0].sampling.min_p = NAN)
BREAK(temperature_infinite, plan_starts(p)[0].sampling.temperature = INFINITY)

static void break_row_empty_that_fits(struct plan *p)
{
    plan_rows(p)[1].n_tokens = 0;
    plan_rows(p)[2].first_token = 2;
    plan_rows(p)[2].n_tokens = 7;
}

static void break_row_outputs_that_fit(struct plan *p)
{
    plan_rows(p)[2].n_outputs = plan_rows(p)[2].n_tokens + 1;
    p->n_outputs = 9;
}

static void break_row_none_that_fits(struct plan *p)
{
    plan_rows(p)[2].output = OUTPUT_NONE;
}

static void break_guess_without_an_output(struct plan *p)
{
    plan_rows(p)[0].n_outputs = 1;
    p->n_outputs = 6;
}

/* As many tokens as there may be, an output of each. */
static void break_outputs_that_fit(struct plan *p)
{
    uint32_t n = limits.max_outputs + 1;

    p->n_starts = p->n_changes = p->n_decode = 0;
    p->n_rows = 1;
    p->n_tokens = p->n_outputs = n;
    plan_rows(p)[0] = (struct plan_row){
        .slot = 5, .n_tokens = n, .n_outputs = n, .output = OUTPUT_LOGITS};
    memset(plan_tokens(p), 0, n * sizeof(int32_t));
}

static void outputs_up_to_the_limit_pass_and_no_more(void **state)
{
    struct plan *p = new_plan();

    (void)state;
    break_outputs_that_fit(p);
    p->n_tokens = p->n_outputs = limits.max_outputs;
    plan_rows(p)[0].n_tokens = plan_rows(p)[0].n_outputs = limits.max_outputs;
    assert_int_equal(check(p), STATUS_OK);
    break_outputs_that_fit(p);
    assert_int_equal(check(p), STATUS_INVALID);
    free(p);
}

static void every_broken_field_is_refused(void **state)
{
    static void (*const breaks[])(struct plan *p) = {break_bytes, break_short, break_generation,
        break_flags, break_n_starts, break_n_changes, break_n_rows, break_n_tokens,
        break_n_tokens_huge, break_n_outputs, break_starts_at, break_changes_at, break_rows_at,
        break_tokens_at, break_tokens_align, break_start_slot, break_start_length, break_start_twice,
        break_temperature, break_top_p, break_min_p, break_change_slot, break_change_index,
        break_change_block, break_change_tier, break_change_last_tier, break_row_slot,
        break_row_twice, break_row_kind, break_row_output, break_row_empty, break_row_gap,
        break_row_long, break_row_outputs, break_row_none, break_row_adapter, break_token_high, break_token_slot, break_token_low, break_top_p_nan,
        break_min_p_nan, break_temperature_infinite, break_row_empty_that_fits,
        break_row_outputs_that_fit, break_row_none_that_fits, break_guess_without_an_output,
        break_guess_slot, break_repetition, break_frequency, break_presence, break_logprobs,
        break_n_bias, break_n_bad, break_n_ends, break_n_ends_huge, break_first_word, break_n_words,
        break_words_at, break_bias_id, break_bias_nan, break_bad_run_empty, break_bad_run_long,
        break_bad_id, break_end_id, break_next_id, break_next_id_of_none, break_n_decode,
        break_n_decode_more, break_n_decode_huge, break_decode_none, break_decode_logits};

    (void)state;
    for (size_t i = 0; i < sizeof(breaks) / sizeof(breaks[0]); i++)
        for (int packed = 0; packed < 2; packed++) {
            struct plan *p = new_plan();

            if (packed)
                plan_pack(p);
            breaks[i](p);
            if (check(p) != STATUS_INVALID)
                fail_msg("break %zu passed", i);
            assert_non_null(strstr(log_last_error(), "plan: "));
            free(p);
        }
}

/* Of every tier, the first and the last; what --kv-blocks allows at most are numbers of one. */
static void a_number_is_a_tier_above_an_index(void **state)
{
    (void)state;
    for (uint32_t tier = 0; tier < 16; tier++)
        for (int last = 0; last < 2; last++) {
            uint32_t index = last ? 268435456 - 1 : 0, number = block_number(tier, index);

            assert_int_equal(block_tier(number), tier);
            assert_int_equal(block_index(number), index);
            assert_true(tier > 0 || number == index);
        }
}

static void a_tier_that_is_not_there_is_named(void **state)
{
    struct plan *p = new_plan();

    (void)state;
    break_change_tier(p);
    assert_int_equal(check(p), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "block 2 of tier 1, this device has 1"));
    free(p);
}

static uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static volatile uint64_t sum_read; /* so that the reads are made */

/* Whatever passes must be safe to read in full: the sanitizers watch. */
static uint64_t read_all(const struct plan *p)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < p->n_starts; i++)
        for (uint32_t w = 0; w < sampling_words(&plan_starts(p)[i].sampling); w++)
            sum += (uint32_t)plan_words(p)[plan_starts(p)[i].first_word + w];
    for (uint32_t i = 0; i < p->n_changes; i++)
        sum += plan_changes(p)[i].block;
    for (uint32_t r = 0; r < p->n_rows; r++)
        for (uint32_t t = 0; t < plan_rows(p)[r].n_tokens; t++)
            sum += (uint32_t)plan_tokens(p)[plan_rows(p)[r].first_token + t];
    return sum;
}

static void damaged_messages_do_no_harm(void **state)
{
    uint64_t random = FUZZ_SEED;
    int passed = 0;

    (void)state;
    print_message("# seed %d\n", FUZZ_SEED);
    for (int i = 0; i < FUZZ_CASES; i++) {
        struct plan *whole = new_plan(), *p;
        size_t bytes;

        plan_pack(whole);
        bytes = whole->bytes - (random_next(&random) % 8 == 0 ? random_next(&random) % 64 : 0);
        p = malloc(bytes); /* no byte more: reading past it is seen */
        assert_non_null(p);
        memcpy(p, whole, bytes);
        for (uint32_t n = random_next(&random) % 3; n > 0; n--)
            ((unsigned char *)p)[random_next(&random) % bytes] ^= 1u << random_next(&random) % 8;
        if (plan_check(p, bytes, &limits, GENERATION) == STATUS_OK) {
            passed++;
            sum_read += read_all(p);
        }
        free(p);
        free(whole);
    }
    assert_true(passed > 0 && passed < FUZZ_CASES);
    assert_int_equal(plan_check((struct plan *)(uint64_t[8]){0}, 0, &limits, 0), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_keeps_everything_and_drops_the_gaps),
        cmocka_unit_test(the_largest_plan_fits_its_room),
        cmocka_unit_test(limits_beyond_a_message_are_zero_bytes),
        cmocka_unit_test(many_long_sequences_make_no_large_plan),
        cmocka_unit_test(a_stop_carries_nothing),
        cmocka_unit_test(a_number_is_a_tier_above_an_index),
        cmocka_unit_test(a_tier_that_is_not_there_is_named),
        cmocka_unit_test(every_broken_field_is_refused),
        cmocka_unit_test(outputs_up_to_the_limit_pass_and_no_more),
        cmocka_unit_test(damaged_messages_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
