/* test_exec_sampling.c - guesses, scores, logprobs and edited logits through a program's steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exec_group.h"
#include "exec_model.h"
#include "kernels/cpu/exec.h"
#include "tests/support/random.h"

static const struct rank_options f32_rank = {.size = 1, .threads = 2, .format = WEIGHT_F32,
    .compute = COMPUTE_F32, .kv_dtype = DTYPE_F32, .layer = true};

struct ranks {
    struct rank rank[GROUP_MAX];
    struct shared *group;
    int size;
};

static void open_ranks(struct ranks *r, const struct model *m, const struct rank_options *options,
    int size)
{
    r->size = size;
    r->group = group_open(size, options->threads);
    for (int i = 0; i < size; i++) {
        struct rank_options o = *options;

        o.rank = i;
        o.size = size;
        o.comm = group_comm(r->group, i);
        rank_open(&r->rank[i], m, &o);
    }
}

static void close_ranks(struct ranks *r)
{
    for (int i = 0; i < r->size; i++)
        rank_close(&r->rank[i]);
    shared_close(r->group);
}

/* All ranks have the same ids; rank 0 alone has logprobs. */
static struct step_result step(struct ranks *r)
{
    struct step_result results[GROUP_MAX];
    uint64_t number = 0;

    for (int i = 0; i < r->size; i++)
        assert_int_equal(rank_submit(&r->rank[i], &number), STATUS_OK);
    for (int i = 0; i < r->size; i++) {
        results[i] = rank_wait(&r->rank[i], number);
        assert_memory_equal(results[i].ids, results[0].ids, results[0].n_outputs * sizeof(int32_t));
        if (i > 0)
            assert_null(results[i].logprobs);
    }
    return results[0];
}

#define EACH_RANK(r, call)                     \
    do {                                       \
        for (int i_ = 0; i_ < (r)->size; i_++) { \
            struct rank *rank = &(r)->rank[i_]; \
            call;                              \
        }                                      \
    } while (0)

/* Logprobs --------------------------------------------------------------------------------- */

/* ln softmax of id, in double. */
static double logprob(const double *logits, int32_t id)
{
    double max = logits[0], sum = 0;

    for (int i = 1; i < VOCAB; i++)
        max = logits[i] > max ? logits[i] : max;
    for (int i = 0; i < VOCAB; i++)
        sum += exp(logits[i] - max);
    return logits[id] - max - log(sum);
}

static void check_logprobs(const struct token_logprob *got, const double *logits, int32_t id,
    uint32_t n_top)
{
    assert_int_equal(got[0].id, id);
    assert_true(fabs((double)got[0].logprob - logprob(logits, id)) < 2e-5);
    for (uint32_t i = 1; i <= n_top; i++) {
        assert_true(fabs((double)got[i].logprob - logprob(logits, got[i].id)) < 2e-5);
        assert_true(i == 1 || got[i].logprob <= got[i - 1].logprob);
    }
    for (int v = 0; n_top > 0 && v < VOCAB; v++) { /* none that is left out is likelier */
        bool among = false;

        for (uint32_t i = 1; i <= n_top; i++)
            among |= got[i].id == v;
        assert_true(among || logprob(logits, v) < (double)got[n_top].logprob + 2e-5);
    }
}

/* A prompt in two chunks, each id scored, then an id sampled under penalties. */
static void score_prompt(const struct model *m, int size, struct token_logprob *out)
{
    enum { N = 23, CUT = 9, TOP = 5 };
    const struct sampling s = {.temperature = 1, .top_p = 1, .seed = 5, .logprobs = 1 + TOP,
        .repetition = 3, .frequency = 1};
    double logits[N * VOCAB];
    int32_t ids[N];
    struct step_result result;
    struct ranks r;

    prompt_of(ids, N);
    model_forward(m, ids, N, true, logits);
    open_ranks(&r, m, &f32_rank, size);
    EACH_RANK(&r, (rank_begin(rank), rank_start_with(rank, 1, &s, N, NULL),
                   rank_scores(rank, 1, ids, CUT, ids[CUT])));
    result = step(&r);
    assert_int_equal(result.n_outputs, CUT);
    for (int i = 0; i < CUT; i++) {
        assert_int_equal(result.ids[i], NO_ID);
        check_logprobs(result.logprobs + i * (LOGPROBS_MOST + 1), logits + i * VOCAB, ids[i + 1],
            TOP);
        out[i] = result.logprobs[i * (LOGPROBS_MOST + 1)];
    }
    EACH_RANK(&r, (rank_begin(rank), rank_scores(rank, 1, ids + CUT, N - CUT, -1)));
    result = step(&r);
    for (int i = CUT; i < N; i++) {
        int32_t id = i + 1 < N ? ids[i + 1] : result.ids[i - CUT];

        check_logprobs(result.logprobs + (i - CUT) * (LOGPROBS_MOST + 1), logits + i * VOCAB, id,
            TOP); /* of the logits as they are, not as penalties make them */
        out[i] = result.logprobs[(i - CUT) * (LOGPROBS_MOST + 1)];
    }
    close_ranks(&r);
}

static void logprobs_are_the_softmax_s_on_any_number_of_ranks(void **state)
{
    struct token_logprob out[GROUP_MAX + 1][23] = {{{0}}};

    for (int size = 1; size <= GROUP_MAX; size *= 2)
        score_prompt(*state, size, out[size]);
    for (int size = 2; size <= GROUP_MAX; size *= 2)
        for (int i = 0; i < 23; i++) {
            assert_int_equal(out[size][i].id, out[1][i].id);
            assert_true(fabsf(out[size][i].logprob - out[1][i].logprob) < 2e-5f);
        }
}

/* Edited ----------------------------------------------------------------------------------- */

enum { ROUNDS = 40 };

static const struct sampling edited[SLOTS] = {
    {.temperature = 0, .top_p = 1, .repetition = 1.3f, .presence = 0.5f},
    {.temperature = 1.5f, .top_p = 1, .seed = 1, .frequency = 0.7f, .n_bias = 4},
    {.temperature = 1, .top_p = 0.95f, .seed = 2, .repetition = 0.8f, .n_bad = 9, .logprobs = 1},
    {.temperature = 2, .top_p = 0.9f, .top_k = 12, .seed = 3, .min_tokens = 15, .n_ends = 3},
};

/* Ids that a run without lists gives, so that they are what the lists forbid. */
static void lists_for(uint32_t slot, const int32_t *seen, int32_t *words)
{
    const float up = 4, down = -6;

    switch (slot) {
    case 1:
        words[0] = seen[0];
        memcpy(&words[1], &down, sizeof(down));
        words[2] = 77;
        memcpy(&words[3], &up, sizeof(up));
        break;
    case 2:
        memcpy(words, (int32_t[]){1, seen[0], 2, seen[1], seen[2], 3, seen[4], seen[5], seen[6]},
            9 * sizeof(*words));
        break;
    case 3: memcpy(words, seen, 3 * sizeof(*words)); break;
    }
}

/* out [ROUNDS][SLOTS]; the sequences start as if `given` of those rounds had been before. */
static void run_edited(const struct model *m, int size, const int32_t (*seen)[ROUNDS],
    const int32_t (*before)[SLOTS], int given, int32_t (*out)[SLOTS])
{
    struct rank_options o = f32_rank;
    struct ranks r;

    o.layer = false; /* logits have the same bits on any number of ranks */
    open_ranks(&r, m, &o, size);
    for (int k = given; k < ROUNDS; k++) {
        EACH_RANK(&r, rank_begin(rank));
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            int32_t words[16], ids[ROUNDS + 1] = {(int32_t)slot}, next = token_from_slot(slot);
            struct sampling s = edited[slot];

            if (seen == NULL)
                s.n_bias = s.n_bad = s.n_ends = 0;
            else
                lists_for(slot, seen[slot], words);
            for (int i = 0; i < given; i++)
                ids[i + 1] = before[i][slot];
            if (k == given)
                EACH_RANK(&r, (rank_start_with(rank, slot, &s, 1, words),
                               rank_row(rank, slot, ids, 1 + (uint32_t)given, OUTPUT_TOKEN, 1)));
            else
                EACH_RANK(&r, rank_row(rank, slot, &next, 1, OUTPUT_TOKEN, 1));
        }
        memcpy(out[k], step(&r).ids, sizeof(out[k]));
    }
    close_ranks(&r);
}

static void edited_logits_give_the_same_ids_on_any_ranks_and_from_any_start(void **state)
{
    int32_t plain[ROUNDS][SLOTS], want[ROUNDS][SLOTS], got[ROUNDS][SLOTS], seen[SLOTS][ROUNDS];

    run_edited(*state, 1, NULL, NULL, 0, plain);
    for (int k = 0; k < ROUNDS; k++)
        for (int slot = 0; slot < SLOTS; slot++)
            seen[slot][k] = plain[k][slot];
    run_edited(*state, 1, seen, NULL, 0, want);
    assert_int_not_equal(want[0][2], seen[2][0]); /* a bad word */
    assert_int_not_equal(want[0][3], seen[3][0]); /* too early an end */
    for (int k = 0; k < 15; k++)
        for (int i = 0; i < 3; i++)
            assert_int_not_equal(want[k][3], seen[3][i]);
    for (int size = 2; size <= GROUP_MAX; size++) {
        run_edited(*state, size, seen, NULL, 0, got);
        assert_memory_equal(want, got, sizeof(want));
    }
    memcpy(got, want, sizeof(want));
    run_edited(*state, 2, seen, (const int32_t(*)[SLOTS])want, 13, got); /* as after a restart */
    assert_memory_equal(want, got, sizeof(want));
}

/* Guesses ---------------------------------------------------------------------------------- */

static const struct sampling guessed[] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_p = 0.9f, .seed = 8, .repetition = 1.2f, .frequency = 0.3f, .logprobs = 3},
};

/* ids [ROUNDS] one at a time, and what is told of each. */
static void run_plain(const struct model *m, const struct sampling *s, int32_t first, int32_t *ids,
    struct token_logprob *told)
{
    struct ranks r;

    open_ranks(&r, m, &f32_rank, 1);
    for (int k = 0; k < ROUNDS; k++) {
        struct step_result result;
        int32_t token = k == 0 ? first : token_from_slot(2);

        rank_begin(&r.rank[0]);
        if (k == 0)
            rank_start_with(&r.rank[0], 2, s, 1, NULL);
        rank_row(&r.rank[0], 2, &token, 1, OUTPUT_TOKEN, 1);
        result = step(&r);
        ids[k] = result.ids[0];
        if (s->logprobs > 0)
            memcpy(&told[k * 3], result.logprobs, 3 * sizeof(*told));
    }
    close_ranks(&r);
}

/* Some guesses are right, up to one that is not. */
static uint32_t make_guesses(uint64_t *seed, const int32_t *ids, int k, int32_t *out)
{
    uint32_t n = (uint32_t)(test_random(seed) % 6), right = (uint32_t)(test_random(seed) % 6);

    for (uint32_t i = 0; i < n; i++)
        out[i] = k + (int)i < ROUNDS && i < right ? ids[k + (int)i]
                                                  : (int32_t)(test_random(seed) % VOCAB);
    return n;
}

static void run_guessing(const struct model *m, const struct sampling *s, int32_t first, int size,
    const int32_t *ids, const struct token_logprob *told, uint64_t *seed)
{
    struct rank_options o = f32_rank;
    uint32_t rows = 0;
    struct ranks r;

    o.threads = size == 1 ? 2 : 1;
    open_ranks(&r, m, &o, size);
    for (int k = 0; k < ROUNDS;) {
        int32_t tokens[8] = {k == 0 ? first : token_from_slot(2)};
        uint32_t n = make_guesses(seed, ids, k, tokens + 1), right = 1;
        struct step_result result;

        while (right <= n && k + (int)right <= ROUNDS && tokens[right] == ids[k + (int)right - 1])
            right++;
        EACH_RANK(&r, rank_begin(rank));
        if (k == 0)
            EACH_RANK(&r, rank_start_with(rank, 2, s, 1, NULL));
        EACH_RANK(&r, rank_guesses(rank, 2, tokens, 1 + n));
        result = step(&r);
        for (uint32_t i = 0; i <= n; i++) {
            if (i >= right)
                assert_int_equal(result.ids[i], NO_ID);
            else if (k + (int)i < ROUNDS)
                assert_int_equal(result.ids[i], ids[k + (int)i]);
            if (i < right && k + (int)i < ROUNDS && s->logprobs > 0 && size == 1)
                assert_memory_equal(result.logprobs + i * (LOGPROBS_MOST + 1),
                    &told[(k + (int)i) * 3], 3 * sizeof(*told));
        }
        EACH_RANK(&r, rank_take_back(rank, 2, 1 + n - right));
        k += (int)right;
        rows++;
    }
    assert_true(rows < ROUNDS);
    close_ranks(&r);
}

static void guesses_give_the_ids_of_one_step_each(void **state)
{
    uint64_t seed = test_seed();

    for (size_t g = 0; g < sizeof(guessed) / sizeof(guessed[0]); g++)
        for (int32_t first = 3; first < 6; first++) {
            struct token_logprob told[ROUNDS * 3];
            int32_t ids[ROUNDS];

            run_plain(*state, &guessed[g], first, ids, told);
            run_guessing(*state, &guessed[g], first, 1, ids, told, &seed);
        }
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
        cmocka_unit_test(logprobs_are_the_softmax_s_on_any_number_of_ranks),
        cmocka_unit_test(edited_logits_give_the_same_ids_on_any_ranks_and_from_any_start),
        cmocka_unit_test(guesses_give_the_ids_of_one_step_each),
    };

    return cmocka_run_group_tests(tests, make_model, free_model);
}
