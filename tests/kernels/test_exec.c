/* test_exec.c - the CPU backend: a small model against its formulas, and against itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "exec_model.h"
#include "kernels/cpu/cpu.h"
#include "quern/log.h"

enum { LONG = 280 }; /* LONG crosses an attention split */

static const struct rank_options alone_f32 = {.size = 1, .threads = 1, .format = WEIGHT_F32,
    .compute = COMPUTE_F32, .kv_dtype = DTYPE_F32, .layer = true};
static const struct rank_options alone_bf16 = {.size = 1, .threads = 1, .format = WEIGHT_BF16,
    .compute = COMPUTE_BF16, .kv_dtype = DTYPE_BF16, .layer = true};
static const struct rank_options alone_fp8 = {.size = 1, .threads = 1, .format = WEIGHT_BF16,
    .compute = COMPUTE_BF16, .kv_dtype = DTYPE_E4M3, .layer = true};

/* Runs `ids` in slot 0 in chunks of at most `chunk`; logits [n, VOCAB] of all positions. */
static void run_chunks(struct rank *r, const int32_t *ids, uint32_t n, uint32_t chunk,
    float *logits)
{
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t count = n - at < chunk ? n - at : chunk;
        struct step_result result;
        uint64_t number;

        rank_begin(r);
        if (at == 0)
            rank_start(r, 0, NULL);
        rank_row(r, 0, ids + at, count, OUTPUT_LOGITS, count);
        assert_int_equal(rank_submit(r, &number), STATUS_OK);
        result = rank_wait(r, number);
        assert_int_equal(result.n_outputs, count);
        assert_int_equal(result.ids[0], -1);
        assert_non_null(result.logits);
        memcpy(logits + (size_t)at * VOCAB, result.logits, (size_t)count * VOCAB * sizeof(float));
    }
}

/* Logits of the LONG prompt with these options, in one chunk unless told otherwise. */
static float *logits_with(const struct model *m, const struct rank_options *o, uint32_t chunk)
{
    float *logits = malloc(sizeof(float) * LONG * VOCAB);
    int32_t ids[LONG];
    struct rank r;

    assert_non_null(logits);
    prompt_of(ids, LONG);
    rank_open(&r, m, o);
    run_chunks(&r, ids, LONG, chunk, logits);
    rank_close(&r);
    return logits;
}

static void the_formulas_are_computed(void **state)
{
    const struct model *m = *state;
    double *want = malloc(sizeof(double) * LONG * VOCAB);
    enum cpu_isa levels[ISA_LEVELS];
    int32_t ids[LONG];

    prompt_of(ids, LONG);
    model_forward(m, ids, LONG, true, want);
    for (int i = 0, n = cpu_isa_levels(levels); i < n; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct rank_options o = alone_f32;
            float *got;
            double error;

            o.isa = cpu_isa_name(levels[i]);
            o.format = bf16 ? WEIGHT_BF16 : WEIGHT_F32; /* weights are exact in both */
            o.threads = 2;
            got = logits_with(m, &o, LONG);
            error = relative_error(got, want, (size_t)LONG * VOCAB);
            print_message("# %s, %s weights: %.2g\n", o.isa, bf16 ? "bf16" : "f32", error);
            assert_true(error < 1e-5);
            free(got);
        }
    free(want);
}

static void bf16_rounds_a_little(void **state)
{
    double *want = malloc(sizeof(double) * LONG * VOCAB);
    float *got = logits_with(*state, &alone_bf16, LONG);
    int32_t ids[LONG];
    double error;

    prompt_of(ids, LONG);
    model_forward(*state, ids, LONG, true, want);
    error = relative_error(got, want, (size_t)LONG * VOCAB);
    print_message("# %.2g\n", error);
    assert_true(error > 1e-5 && error < 2e-2);
    free(got);
    free(want);
}

/* e4m3's last bit is an eighth of a value, so each of k and v is off by a sixteenth at most; what
 * is made of many of them by less. */
static void an_e4m3_cache_rounds_by_its_last_bit(void **state)
{
    double *want = malloc(sizeof(double) * LONG * VOCAB);
    enum cpu_isa levels[ISA_LEVELS];
    int32_t ids[LONG];

    prompt_of(ids, LONG);
    model_forward(*state, ids, LONG, true, want);
    for (int i = 0, n = cpu_isa_levels(levels); i < n; i++) {
        struct rank_options o = alone_f32;
        float *got;
        double error;

        o.isa = cpu_isa_name(levels[i]);
        o.kv_dtype = DTYPE_E4M3;
        got = logits_with(*state, &o, LONG);
        error = relative_error(got, want, (size_t)LONG * VOCAB);
        print_message("# %s: %.2g\n", o.isa, error);
        assert_true(error > 1e-5 && error < 0x1p-4);
        free(got);
    }
    free(want);
}

static void threads_do_not_change_a_bit(void **state)
{
    const struct rank_options *const all[] = {&alone_f32, &alone_bf16, &alone_fp8};

    for (int i = 0; i < 3; i++) {
        float *one = logits_with(*state, all[i], LONG);

        for (int threads = 2; threads <= 3; threads++) {
            struct rank_options o = *all[i];
            float *more;

            o.threads = threads;
            more = logits_with(*state, &o, LONG);
            assert_memory_equal(one, more, sizeof(float) * LONG * VOCAB);
            free(more);
        }
        free(one);
    }
}

static void chunks_and_decoding_do_not_change_a_bit(void **state)
{
    const struct rank_options *const all[] = {&alone_f32, &alone_bf16, &alone_fp8};
    static const uint32_t chunks[] = {64, 17, 1};

    for (int i = 0; i < 3; i++) {
        float *whole = logits_with(*state, all[i], LONG);

        for (int c = 0; c < 3; c++) {
            struct rank_options o = *all[i];
            float *cut;

            o.threads = 2;
            cut = logits_with(*state, &o, chunks[c]);
            assert_memory_equal(whole, cut, sizeof(float) * LONG * VOCAB);
            free(cut);
        }
        free(whole);
    }
}

/* Decoding: greedy continuation, each step waited for before the next is planned. */
static void continue_waiting(struct rank *r, const int32_t *prompt, uint32_t n, int steps,
    const struct sampling *s, int32_t *out)
{
    uint64_t number;

    rank_begin(r);
    rank_start(r, 1, s);
    rank_row(r, 1, prompt, n, OUTPUT_TOKEN, 1);
    for (int i = 0; i < steps; i++) {
        assert_int_equal(rank_submit(r, &number), STATUS_OK);
        out[i] = rank_wait(r, number).ids[0];
        assert_true(out[i] >= 0 && out[i] < VOCAB);
        rank_begin(r);
        rank_row(r, 1, &out[i], 1, OUTPUT_TOKEN, 1);
    }
}

static void a_step_ahead_gives_the_same_ids(void **state)
{
    enum { STEPS = 40, PROMPT = 9 };
    const struct sampling settings[] = {{.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 0.9f, .top_k = 30, .seed = 99}};

    for (int i = 0; i < 2; i++) {
        struct rank_options o = alone_bf16;
        int32_t prompt[PROMPT], want[STEPS], last = token_from_slot(1);
        struct step_result result;
        uint64_t numbers[STEPS];
        struct rank r;

        o.threads = 2;
        prompt_of(prompt, PROMPT);
        rank_open(&r, *state, &o);
        continue_waiting(&r, prompt, PROMPT, STEPS, &settings[i], want);

        rank_begin(&r);
        rank_start(&r, 1, &settings[i]);
        rank_row(&r, 1, prompt, PROMPT, OUTPUT_TOKEN, 1);
        assert_int_equal(rank_submit(&r, &numbers[0]), STATUS_OK);
        for (int k = 1; k < STEPS; k++) {
            rank_begin(&r);
            rank_row(&r, 1, &last, 1, OUTPUT_TOKEN, 1);
            assert_int_equal(rank_submit(&r, &numbers[k]), STATUS_OK);
            result = rank_wait(&r, numbers[k - 1]);
            assert_int_equal(result.ids[0], want[k - 1]);
        }
        assert_int_equal(rank_wait(&r, numbers[STEPS - 1]).ids[0], want[STEPS - 1]);
        /* An older one is gone, and says so. */
        assert_int_equal(cpu_backend.wait(r.executable, numbers[0], &result), STATUS_INVALID);
        assert_int_equal(result.number, numbers[STEPS - 2]);
        rank_close(&r);
    }
}

static void neighbours_do_not_change_a_bit(void **state)
{
    float *want = logits_with(*state, &alone_bf16, LONG);
    struct rank_options o = alone_bf16;
    int32_t ids[LONG];
    struct step_result result;
    uint64_t number;
    struct rank r;

    o.threads = 2;
    prompt_of(ids, LONG);
    rank_open(&r, *state, &o);
    rank_begin(&r);
    for (uint32_t slot = 1; slot < SLOTS; slot++)
        rank_start(&r, slot, NULL);
    rank_row(&r, 2, ids + 50, 20, OUTPUT_NONE, 0);
    rank_row(&r, 1, ids, 60, OUTPUT_LOGITS, 60);
    rank_row(&r, 3, ids + 9, 1, OUTPUT_TOKEN, 1);
    assert_int_equal(rank_submit(&r, &number), STATUS_OK);
    result = rank_wait(&r, number);
    assert_int_equal(result.n_outputs, 61);
    assert_memory_equal(result.logits, want, sizeof(float) * 60 * VOCAB);
    assert_true(result.ids[59] == -1 && result.ids[60] >= 0);
    rank_begin(&r);
    rank_row(&r, 3, ids + 10, 5, OUTPUT_TOKEN, 1);
    rank_row(&r, 1, ids + 60, 3, OUTPUT_LOGITS, 2);
    assert_int_equal(rank_submit(&r, &number), STATUS_OK);
    result = rank_wait(&r, number);
    assert_memory_equal(result.logits + VOCAB, want + 61 * VOCAB, sizeof(float) * 2 * VOCAB);
    rank_close(&r);
    free(want);
}

/* A peer that comes when the test lets it. */
static enum status held_reduce(struct comm *c, int thread, int threads, float *x, size_t n)
{
    (void)thread;
    (void)threads;
    (void)x;
    (void)n;
    pthread_mutex_lock(c->state);
    pthread_mutex_unlock(c->state);
    return STATUS_OK;
}

static void a_full_queue_answers_again_and_takes_it_later(void **state)
{
    static const struct comm_row row = {.name = "held", .all_reduce_f32 = held_reduce};
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct comm comm = {.rank = 1, .size = 2, .row = &row, .state = &gate};
    struct rank_options o = alone_f32;
    const int32_t ids[] = {1, 2, 3, 4};
    uint64_t numbers[BACKEND_DEPTH + 1];
    struct rank r;

    o.rank = 1;
    o.size = 2;
    o.comm = &comm;
    rank_open(&r, *state, &o);
    pthread_mutex_lock(&gate);
    for (int i = 0; i <= BACKEND_DEPTH; i++) {
        rank_begin(&r);
        rank_start(&r, 0, NULL);
        rank_row(&r, 0, ids, 4, OUTPUT_NONE, 0);
        if (i < BACKEND_DEPTH)
            assert_int_equal(rank_submit(&r, &numbers[i]), STATUS_OK);
    }
    assert_int_equal(rank_submit(&r, &numbers[BACKEND_DEPTH]), STATUS_AGAIN);
    assert_int_equal(rank_submit(&r, &numbers[BACKEND_DEPTH]), STATUS_AGAIN);
    pthread_mutex_unlock(&gate);
    rank_wait(&r, numbers[0]);
    assert_int_equal(rank_submit(&r, &numbers[BACKEND_DEPTH]), STATUS_OK);
    assert_int_equal(rank_wait(&r, numbers[BACKEND_DEPTH]).n_outputs, 0);
    rank_close(&r);
}

static void a_position_without_a_block_fails_the_device(void **state)
{
    struct rank_options o = alone_f32;
    const int32_t id = 3;
    struct step_result result = {0};
    uint64_t first, second;
    struct rank r;

    o.threads = 3;
    rank_open(&r, *state, &o);
    rank_begin(&r);
    rank_row(&r, 2, &id, 1, OUTPUT_TOKEN, 1); /* never started: it has no blocks */
    assert_int_equal(rank_submit(&r, &first), STATUS_OK);
    rank_begin(&r);
    rank_start(&r, 0, NULL);
    rank_row(&r, 0, &id, 1, OUTPUT_TOKEN, 1);
    assert_int_equal(rank_submit(&r, &second), STATUS_OK);
    assert_int_equal(cpu_backend.wait(r.executable, first, &result), STATUS_INTERNAL);
    assert_non_null(strstr(log_last_error(), "slot 2 has no KV block"));
    assert_int_equal(cpu_backend.wait(r.executable, second, &result), STATUS_INTERNAL);
    assert_int_equal(rank_submit(&r, &second), STATUS_INTERNAL);
    assert_null(result.ids);
    rank_close(&r);
}

/* Or it would write into blocks that are somebody else's by now. */
static void a_slot_that_starts_again_has_none_of_its_old_blocks(void **state)
{
    const int32_t ids[BLOCK + 1] = {3};
    struct step_result result = {0};
    uint64_t number;
    struct rank r;

    rank_open(&r, *state, &alone_f32);
    rank_begin(&r);
    rank_start(&r, 1, NULL);
    rank_row(&r, 1, ids, BLOCK + 1, OUTPUT_TOKEN, 1);
    assert_int_equal(rank_submit(&r, &number), STATUS_OK);
    rank_wait(&r, number);
    rank_begin(&r);
    rank_start(&r, 1, NULL);
    rank_row(&r, 1, ids, BLOCK + 1, OUTPUT_TOKEN, 1);
    r.plan->n_changes = 1; /* of its positions 0 .. BLOCK - 1 */
    assert_int_equal(rank_submit(&r, &number), STATUS_OK);
    assert_int_equal(cpu_backend.wait(r.executable, number, &result), STATUS_INTERNAL);
    assert_non_null(strstr(log_last_error(), "slot 1 has no KV block for its positions 0 to 8"));
    rank_close(&r);
}

/* A peer that dies in the third reduce, as the last thread is the first to see. */
static int reduces;

static enum status dying_reduce(struct comm *c, int thread, int threads, float *x, size_t n)
{
    static _Thread_local int calls;

    (void)c;
    (void)x;
    (void)n;
    if (thread == 0)
        reduces++;
    return ++calls == 3 && thread == threads - 1 ? STATUS_DEAD : STATUS_OK;
}

static void a_dead_peer_ends_the_step_and_the_device(void **state)
{
    static const struct comm_row row = {.name = "dying", .all_reduce_f32 = dying_reduce};
    struct comm comm = {.rank = 1, .size = 2, .row = &row};
    struct rank_options o = alone_f32;
    struct step_result result;
    const int32_t ids[2] = {1, 2};
    uint64_t first, second;
    struct rank r;

    o.threads = 3;
    o.rank = 1;
    o.size = 2;
    o.comm = &comm;
    reduces = 0;
    rank_open(&r, *state, &o);
    rank_begin(&r);
    rank_start(&r, 0, NULL);
    rank_row(&r, 0, ids, 2, OUTPUT_NONE, 0);
    assert_int_equal(rank_submit(&r, &first), STATUS_OK);
    rank_begin(&r);
    rank_row(&r, 0, ids, 1, OUTPUT_NONE, 0);
    assert_int_equal(rank_submit(&r, &second), STATUS_OK);
    assert_int_equal(cpu_backend.wait(r.executable, second, &result), STATUS_DEAD);
    assert_non_null(strstr(log_last_error(), "a process died"));
    assert_int_equal(cpu_backend.wait(r.executable, first, &result), STATUS_DEAD);
    assert_int_equal(rank_submit(&r, &first), STATUS_DEAD);
    assert_int_equal(reduces, 3); /* the second step reduced nothing */
    rank_close(&r);
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
        cmocka_unit_test(the_formulas_are_computed),
        cmocka_unit_test(bf16_rounds_a_little),
        cmocka_unit_test(an_e4m3_cache_rounds_by_its_last_bit),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(chunks_and_decoding_do_not_change_a_bit),
        cmocka_unit_test(a_step_ahead_gives_the_same_ids),
        cmocka_unit_test(neighbours_do_not_change_a_bit),
        cmocka_unit_test(a_full_queue_answers_again_and_takes_it_later),
        cmocka_unit_test(a_position_without_a_block_fails_the_device),
        cmocka_unit_test(a_slot_that_starts_again_has_none_of_its_old_blocks),
        cmocka_unit_test(a_dead_peer_ends_the_step_and_the_device),
    };

    return cmocka_run_group_tests(tests, make_model, free_model);
}
