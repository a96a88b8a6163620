/* test_exec_group.c - ranks that run one program together, as threads of this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "exec_group.h"
#include "exec_model.h"
#include "kernels/cpu/exec.h"

static const struct rank_options rank_f32 = {.size = 1, .threads = 1, .format = WEIGHT_F32,
    .compute = COMPUTE_F32, .kv_dtype = DTYPE_F32, .layer = true};
static const struct rank_options rank_bf16 = {.size = 1, .threads = 1, .format = WEIGHT_BF16,
    .compute = COMPUTE_BF16, .kv_dtype = DTYPE_BF16, .layer = true};

/* Every rank is told the same; waits for all and returns rank 0's result. */
static struct step_result step_all(struct rank *ranks, int size)
{
    struct step_result results[GROUP_MAX];
    uint64_t number = 0;

    for (int r = 0; r < size; r++)
        assert_int_equal(rank_submit(&ranks[r], &number), STATUS_OK);
    for (int r = 0; r < size; r++) {
        results[r] = rank_wait(&ranks[r], number);
        assert_memory_equal(results[r].ids, results[0].ids,
            results[0].n_outputs * sizeof(int32_t));
        if (r > 0)
            assert_null(results[r].logits);
    }
    return results[0];
}

static struct shared *open_ranks(struct rank *ranks, const struct model *m,
    const struct rank_options *options, int size)
{
    struct shared *g = group_open(size, options->threads);

    for (int r = 0; r < size; r++) {
        struct rank_options o = *options;

        o.rank = r;
        o.size = size;
        o.comm = group_comm(g, r);
        rank_open(&ranks[r], m, &o);
    }
    return g;
}

/* They gave no more at once than the backend says, and used that room where it was `full`. */
static void gave_what_was_said(const struct shared *g, const struct rank *ranks, bool full)
{
    const struct program_shape *shape = &ranks[0].program.shape; /* rank 0 has the most ids */
    size_t room = cpu_backend.gather_bytes(&shape->limits, shape->vocab_rows);

    assert_true(group_most_given(g) <= room);
    if (full)
        assert_int_equal(group_most_given(g), room);
}

static void close_ranks(struct shared *g, struct rank *ranks, int size)
{
    for (int r = 0; r < size; r++)
        rank_close(&ranks[r]);
    shared_close(g);
}

static void ranks_compute_the_formulas_together(void **state)
{
    enum { N = 40 };
    double want[N * VOCAB];
    int32_t ids[N];

    prompt_of(ids, N);
    model_forward(*state, ids, N, true, want);
    for (int size = 1; size <= GROUP_MAX; size *= 2)
        for (int threads = 1; threads <= 2; threads++) {
            struct rank_options o = rank_f32;
            struct rank ranks[GROUP_MAX];
            struct shared *g;
            double error;

            o.threads = threads;
            g = open_ranks(ranks, *state, &o, size);
            for (int r = 0; r < size; r++) {
                rank_begin(&ranks[r]);
                rank_start(&ranks[r], 0, NULL);
                rank_row(&ranks[r], 0, ids, N, OUTPUT_LOGITS, N);
            }
            error = relative_error(step_all(ranks, size).logits, want, N * VOCAB);
            print_message("# %d ranks of %d threads: %.2g\n", size, threads, error);
            assert_true(error < 1e-5);
            close_ranks(g, ranks, size);
        }
}

static const struct sampling group_settings[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1.5f, .top_p = 1, .seed = 1},
    {.temperature = 1, .top_p = 0.95f, .seed = 2},
    {.temperature = 2, .top_p = 0.9f, .top_k = 12, .min_p = 0.01f, .seed = 3, .choice = 1},
};

/* Four sequences, each sampled its own way, without the layer: logits have the same bits on
 * any number of ranks, so ids must be the same. */
static void sample_group(const struct model *m, int size, int threads, int steps, int32_t *out)
{
    struct rank_options o = rank_bf16;
    struct rank ranks[GROUP_MAX];
    struct shared *g;

    o.threads = threads;
    o.layer = false;
    g = open_ranks(ranks, m, &o, size);
    for (int k = 0; k < steps; k++) {
        struct step_result result;

        for (int r = 0; r < size; r++) {
            rank_begin(&ranks[r]);
            for (uint32_t slot = 0; slot < SLOTS; slot++) {
                int32_t token = k == 0 ? (int32_t)slot : token_from_slot(slot);

                if (k == 0)
                    rank_start(&ranks[r], slot, &group_settings[slot]);
                rank_row(&ranks[r], slot, &token, 1, OUTPUT_TOKEN, 1);
            }
        }
        result = step_all(ranks, size);
        memcpy(out + k * SLOTS, result.ids, SLOTS * sizeof(*out));
    }
    /* Once for the ranges, then once a step; and whole rows of the third slot, whose nucleus is
     * longer than two ranks' lists. */
    if (size == 2)
        assert_in_range(group_gathers(g), 1 + steps + 1, 1 + 2 * steps);
    print_message("# %d ranks: %d gathers in %d steps\n", size, group_gathers(g), steps);
    close_ranks(g, ranks, size);
}

static void any_number_of_ranks_samples_the_same_ids(void **state)
{
    enum { STEPS = 50 };
    int32_t want[STEPS * SLOTS], got[STEPS * SLOTS];

    sample_group(*state, 1, 2, STEPS, want);
    for (int size = 2; size <= GROUP_MAX; size++) {
        sample_group(*state, size, size == 3 ? 2 : 1, STEPS, got);
        assert_memory_equal(want, got, sizeof(want));
    }
}

/* As many logits as there can be, then as many lists and logprobs: with few ids these are the most. */
static void ranks_gather_no_more_than_the_backend_says(void **state)
{
    enum { N = TOKENS };
    struct sampling lists = group_settings[2];
    struct rank_options o = rank_f32;
    struct rank ranks[GROUP_MAX];
    int32_t ids[N];
    struct shared *g;

    prompt_of(ids, N);
    o.layer = false;
    lists.logprobs = 1 + LOGPROBS_MOST;
    g = open_ranks(ranks, *state, &o, 2);
    for (int r = 0; r < 2; r++) {
        rank_begin(&ranks[r]);
        rank_start(&ranks[r], 0, NULL);
        rank_row(&ranks[r], 0, ids, N, OUTPUT_LOGITS, N);
    }
    step_all(ranks, 2);
    gave_what_was_said(g, ranks, false);
    for (int r = 0; r < 2; r++) {
        rank_begin(&ranks[r]);
        rank_start(&ranks[r], 0, &lists);
        rank_guesses(&ranks[r], 0, ids, N);
    }
    step_all(ranks, 2);
    gave_what_was_said(g, ranks, true);
    close_ranks(g, ranks, 2);
}

/* Lists count where logits are few. */
static void room_to_gather_holds_a_record_for_every_output(void **state)
{
    const size_t record = sizeof(struct shard_record) + sizeof(struct logprob_shard);
    const struct plan_limits limits = {.max_slots = 512, .max_outputs = 512};
    const struct plan_limits fewer = {.max_slots = 512, .max_outputs = 3};

    (void)state;
    assert_int_equal(cpu_backend.gather_bytes(&limits, 1), 512 * record);
    assert_int_equal(cpu_backend.gather_bytes(&fewer, 1), 3 * record);
    assert_int_equal(cpu_backend.gather_bytes(&limits, 1 << 20), (size_t)512 << 22);
}

static int make_model(void **state)
{
    *state = malloc(sizeof(struct model));
    if (*state == NULL)
        return -1;
    model_fill(*state, MODEL_SEED);
    return 0;
}

static int free_model(void **state)
{
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_compute_the_formulas_together),
        cmocka_unit_test(any_number_of_ranks_samples_the_same_ids),
        cmocka_unit_test(ranks_gather_no_more_than_the_backend_says),
        cmocka_unit_test(room_to_gather_holds_a_record_for_every_output),
    };

    return cmocka_run_group_tests(tests, make_model, free_model);
}
