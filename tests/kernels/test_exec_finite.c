/* test_exec_finite.c - a row whose logits are not finite says so, and harms no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec_group.h"
#include "exec_model.h"
#include "quern/log.h"

enum { BAD = 1000 }; /* on the last of several ranks; no other id leads to it */

static const struct rank_options rank_f32 = {.size = 1, .threads = 2, .format = WEIGHT_F32,
    .compute = COMPUTE_F32, .kv_dtype = DTYPE_F32, .layer = true};

static const struct sampling ways[SLOTS] = {
    {.temperature = 0, .top_p = 1},
    {.temperature = 1.5f, .top_p = 1, .seed = 1},
    {.temperature = 1, .top_p = 0.95f, .seed = 2},
    {.temperature = 2, .top_p = 0.9f, .top_k = 12, .min_p = 0.01f, .seed = 3},
};

static char heard[512];

static void hear(void *context, enum log_level level, const char *line)
{
    (void)context;
    if (level == LOG_LEVEL_WARN)
        snprintf(heard + strlen(heard), sizeof(heard) - strlen(heard), "%s\n", line);
}

static struct shared *open_ranks(struct rank *ranks, const struct model *m, int size)
{
    struct shared *g = group_open(size, rank_f32.threads);

    heard[0] = '\0';
    for (int r = 0; r < size; r++) {
        struct rank_options o = rank_f32;

        o.rank = r;
        o.size = size;
        o.comm = size > 1 ? group_comm(g, r) : NULL;
        rank_open(&ranks[r], m, &o);
    }
    return g;
}

static void close_ranks(struct shared *g, struct rank *ranks, int size)
{
    for (int r = 0; r < size; r++)
        rank_close(&ranks[r]);
    shared_close(g);
}

/* One more token for each slot, which starts with `first` [SLOTS]; NULL: goes on. */
static void step(struct rank *ranks, int size, const int32_t *first, int32_t *ids)
{
    uint64_t number = 0;

    for (int r = 0; r < size; r++) {
        rank_begin(&ranks[r]);
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            int32_t token = first != NULL ? first[slot] : token_from_slot(slot);

            if (first != NULL)
                rank_start(&ranks[r], slot, &ways[slot]);
            rank_row(&ranks[r], slot, &token, 1, OUTPUT_TOKEN, 1);
        }
        assert_int_equal(rank_submit(&ranks[r], &number), STATUS_OK);
    }
    for (int r = 0; r < size; r++) {
        struct step_result result = rank_wait(&ranks[r], number);

        if (r > 0)
            assert_memory_equal(result.ids, ids, SLOTS * sizeof(*ids));
        memcpy(ids, result.ids, SLOTS * sizeof(*ids));
    }
}

/* Token BAD has no place in the table: whoever has it in its context is broken, for ever. */
static void row_that_is_not_finite_is_broken_and_its_neighbours_are_not(void **state)
{
    struct model *m = *state;
    float was = m->embed[BAD * HIDDEN + 3];

    for (int size = 1; size <= GROUP_MAX; size *= 2)
        for (uint32_t bad = 0; bad < SLOTS; bad++) {
            int32_t first[SLOTS] = {1, 2, 3, 4}, want[2][SLOTS], got[2][SLOTS];
            struct rank ranks[GROUP_MAX];
            struct shared *g = open_ranks(ranks, m, size);

            for (int k = 0; k < 2; k++)
                step(ranks, size, k == 0 ? first : NULL, want[k]);
            close_ranks(g, ranks, size);
            m->embed[BAD * HIDDEN + 3] = NAN;
            first[bad] = BAD;
            g = open_ranks(ranks, m, size);
            for (int k = 0; k < 2; k++)
                step(ranks, size, k == 0 ? first : NULL, got[k]);
            close_ranks(g, ranks, size);
            m->embed[BAD * HIDDEN + 3] = was;
            want[0][bad] = want[1][bad] = BROKEN_ID;
            assert_memory_equal(got, want, sizeof(want));
        }
}

/* One id's logit, on one rank: all ranks say the same of every row. */
static void one_logit_on_one_rank_breaks_the_row_on_all(void **state)
{
    static const int32_t first[SLOTS] = {1, 2, 3, 4};
    struct model *m = *state;
    float was = m->head[BAD * HIDDEN];
    int32_t got[SLOTS];

    for (int size = 1; size <= GROUP_MAX; size *= 2) {
        struct rank ranks[GROUP_MAX];
        struct shared *g;

        m->head[BAD * HIDDEN] = NAN;
        g = open_ranks(ranks, m, size);
        step(ranks, size, first, got);
        for (int slot = 0; slot < SLOTS; slot++)
            assert_int_equal(got[slot], BROKEN_ID);
        close_ranks(g, ranks, size);
        m->head[BAD * HIDDEN] = was;
    }
}

/* Asked for: the operation that it begins with, whichever rank looks; otherwise nothing is said. */
static void first_operation_is_named_when_asked_for(void **state)
{
    static const int32_t first[SLOTS] = {1, 2, 3, 4};
    struct model *m = *state;
    float was = m->norm2[5];
    int32_t got[SLOTS];

    m->norm2[5] = INFINITY;
    for (int asked = 0; asked < 2; asked++)
        for (int size = 1; size <= 2; size *= 2) {
            struct rank ranks[GROUP_MAX];
            struct shared *g;

            setenv("QUERN_CHECK_FINITE", asked ? "1" : "0", 1);
            g = open_ranks(ranks, m, size);
            log_set_sink(hear, NULL);
            for (int k = 0; k < 2; k++)
                step(ranks, size, k == 0 ? first : NULL, got);
            log_set_sink(log_to_stderr, NULL);
            assert_int_equal(got[0], BROKEN_ID);
            if (!asked)
                assert_string_equal(heard, "");
            else /* once by each rank */
                assert_string_equal(heard,
                    size == 1
                        ? "step 0: the output of add_norm of layer 0, norm2 is not finite, first in "
                          "row 0\n"
                        : "step 0: the output of add_norm of layer 0, norm2 is not finite, first in "
                          "row 0\nstep 0: the output of add_norm of layer 0, norm2 is not finite, "
                          "first in row 0\n");
            close_ranks(g, ranks, size);
        }
    unsetenv("QUERN_CHECK_FINITE");
    m->norm2[5] = was;
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
        cmocka_unit_test(row_that_is_not_finite_is_broken_and_its_neighbours_are_not),
        cmocka_unit_test(one_logit_on_one_rank_breaks_the_row_on_all),
        cmocka_unit_test(first_operation_is_named_when_asked_for),
    };

    return cmocka_run_group_tests(tests, make_model, free_model);
}
