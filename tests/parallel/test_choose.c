/* test_choose.c - the table of choices: measured or default, the same on every rank, and obeyed. */
#include "parallel/coll_internal.h"
#include "tests/parallel/coll_support.h"

static void index_is_the_nearest_size(void **state)
{
    (void)state;
    assert_int_equal(choice_index(0), 0);
    assert_int_equal(choice_index(1024), 0);
    assert_int_equal(choice_index(1440), 0);
    assert_int_equal(choice_index(1441), 1);
    assert_int_equal(choice_index(2048), 1);
    assert_int_equal(choice_index(2880), 1);
    assert_int_equal(choice_index(3000), 2);
    for (int i = 0; i < CHOICE_SIZES; i++)
        assert_int_equal(choice_index((size_t)CHOICE_LEAST << i), i);
    assert_int_equal(choice_index(SIZE_MAX), CHOICE_SIZES - 1);
}

static void default_table_serves_every_size(void **state)
{
    (void)state;
    for (int size = 2; size <= COMM_MAX_RANKS; size++) {
        struct coll_shm_options o = {
            .size = size, .reduce_floats = 1 << 20, .add_norm = add_and_norm};
        struct choice c;

        choice_default(&o, &c);
        assert_int_equal(c.measured, 0);
        for (int k = 0; k < CHOICE_KINDS; k++)
            for (int i = 0; i < CHOICE_SIZES; i++) {
                assert_true(c.algorithm[k][i] < COLL_ALGORITHMS);
                /* what pays at a size pays at larger ones, and with more ranks */
                assert_true(i == 0 || c.algorithm[k][i] >= c.algorithm[k][i - 1]);
            }
        assert_int_equal(c.algorithm[CHOICE_REDUCE][0], COLL_SHM_ONESHOT);
    }
}

static struct choice table_of(const float us[COLL_ALGORITHMS], uint8_t by_default)
{
    struct choice c = {0};

    memset(c.algorithm, by_default, sizeof(c.algorithm));
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        c.us[CHOICE_REDUCE][a][3] = us[a];
    choice_take_fastest(&c);
    return c;
}

/* {one-shot, two-shot}; 0: has no time. */
static void more_meetings_must_be_faster_by_a_twentieth(void **state)
{
    static const struct {
        float us[COLL_ALGORITHMS];
        uint8_t by_default, want;
    } cases[] = {
        {{10, 9.4f}, COLL_SHM_ONESHOT, COLL_SHM_TWOSHOT},
        {{10, 9.6f}, COLL_SHM_ONESHOT, COLL_SHM_ONESHOT},
        {{10, 9.6f}, COLL_SHM_TWOSHOT, COLL_SHM_ONESHOT}, /* what was the default does not count */
        {{10, 11}, COLL_SHM_TWOSHOT, COLL_SHM_ONESHOT},
        {{10, 0}, COLL_SHM_TWOSHOT, COLL_SHM_ONESHOT},
        {{0, 10}, COLL_SHM_ONESHOT, COLL_SHM_TWOSHOT},
        {{0, 0}, COLL_SHM_TWOSHOT, COLL_SHM_TWOSHOT},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(table_of(cases[i].us, cases[i].by_default).algorithm[CHOICE_REDUCE][3],
            cases[i].want);
}

static void more_meetings_that_paid_are_kept_where_nothing_was_measured(void **state)
{
    static const float two[COLL_ALGORITHMS] = {10, 5}, one[COLL_ALGORITHMS] = {5, 10};
    struct choice c = table_of(two, COLL_SHM_ONESHOT);

    (void)state;
    for (int i = 0; i < CHOICE_SIZES; i++) {
        assert_int_equal(c.algorithm[CHOICE_REDUCE][i],
            i < 3 ? COLL_SHM_ONESHOT : COLL_SHM_TWOSHOT);
        assert_int_equal(c.algorithm[CHOICE_FUSED][i], COLL_SHM_ONESHOT); /* another kind */
    }
    c = table_of(one, COLL_SHM_TWOSHOT);
    for (int i = 0; i < CHOICE_SIZES; i++) /* but fewer say nothing of larger sizes */
        assert_int_equal(c.algorithm[CHOICE_REDUCE][i],
            i == 3 ? COLL_SHM_ONESHOT : COLL_SHM_TWOSHOT);
}

static void algorithm_that_is_not_there_is_refused_with_those_that_are(void **state)
{
    int index = -1;

    (void)state;
    assert_int_equal(coll_algorithm_find("nccl", &index), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "nccl"));
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        assert_non_null(strstr(log_last_error(), coll_algorithms[a]->name));
    assert_int_equal(index, -1);
    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        assert_int_equal(coll_algorithm_find(coll_algorithms[a]->name, &index), STATUS_OK);
        assert_int_equal(index, a);
    }
}

/* The dispatcher -------------------------------------------------------------------------- */

/* Sums of each size of the table that fits, and a fused one; right, whoever serves them. */
static bool runs_all_sizes(struct team *t, int thread)
{
    static float x[MOST_FLOATS], y[MOST_FLOATS], out[MOST_FLOATS], w[MOST_FLOATS];
    struct fused_norm_args a = {.out = out, .x = x, .y = y, .w = w, .rows = 8, .cols = 16};
    bool good = true;

    for (int call = 0; call < 24; call++) {
        size_t n = call % 6 == 5 ? MOST_FLOATS : (size_t)128 << call % 6;

        if (thread == 0)
            for (size_t i = 0; i < n; i++)
                x[i] = input(t->rank, call, i);
        pthread_barrier_wait(&t->barrier);
        if (t->comm->row->all_reduce_f32(t->comm, thread, t->threads, x, n) != STATUS_OK)
            return false;
        pthread_barrier_wait(&t->barrier);
        for (size_t i = 0; thread == 0 && i < n; i++)
            good = good && same_bits(x[i], wanted_sum(t->size, call, i));
        pthread_barrier_wait(&t->barrier);
    }
    return t->comm->row->fused_all_reduce_norm(t->comm, thread, t->threads, &a) == STATUS_OK &&
           good;
}

static uint64_t ran(const struct team *t, enum coll_op op, int algorithm)
{
    return coll_auto_counts(t->comm)->calls[op][algorithm];
}

static bool measures_and_obeys(struct team *t, int thread)
{
    const struct choice *c = coll_auto_choice(t->comm);
    uint64_t want[COLL_ALGORITHMS] = {0};

    if (!runs_all_sizes(t, thread))
        return false;
    pthread_barrier_wait(&t->barrier);
    if (thread != 0)
        return true;
    for (int call = 0; call < 24; call++) {
        size_t n = call % 6 == 5 ? MOST_FLOATS : (size_t)128 << call % 6;

        want[c->algorithm[CHOICE_REDUCE][choice_index(n * 4 / (size_t)t->threads)]]++;
    }
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (ran(t, COLL_ALL_REDUCE, a) != want[a])
            return false;
    /* with so much time, however busy the machine is */
    return c->measured >= 1 && c->us[CHOICE_REDUCE][COLL_SHM_ONESHOT][0] > 0 &&
           c->us[CHOICE_REDUCE][COLL_SHM_TWOSHOT][0] > 0 && ran(t, COLL_MAX_REDUCE, 0) == 0;
}

static void measured_table_is_what_runs(void **state)
{
    (void)state;
    worlds_run(measures_and_obeys, 1, LONG_ENOUGH_NS);
}

static bool threads_count_alike(struct team *t, int thread)
{
    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        struct coll_shm *c = coll_auto_algorithm(t->comm, a)->state;
        const uint32_t *epoch = c->every.epoch;

        if (epoch[0] == 0 || epoch[(size_t)thread * (CHANNEL_LINE / 4)] != epoch[0])
            return false;
    }
    return true;
}

/* One thread measured; a buffer that alternates for it must alternate for all (R1). */
static void threads_that_did_not_measure_count_along(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 2);
    w.measure_ns = LONG_ENOUGH_NS;
    world_run(&w, threads_count_alike);
    segment_close(&w.segment);
}

static bool tells_its_table(struct team *t, int thread)
{
    struct choice all[MOST_RANKS];

    (void)thread;
    if (t->comm->row->all_gather(t->comm, coll_auto_choice(t->comm), sizeof(all[0]), all) !=
        STATUS_OK)
        return false;
    for (int r = 0; r < t->size; r++)
        if (memcmp(&all[r], coll_auto_choice(t->comm), sizeof(all[r])) != 0)
            return false;
    return true;
}

static void every_rank_holds_the_leaders_table(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 4, 1);
    w.measure_ns = LONG_ENOUGH_NS;
    world_run(&w, tells_its_table);
    segment_close(&w.segment);
}

/* What the forced algorithm cannot do, another does, and the log says so. */
static char info[LOG_LINE_BYTES];

static void keep_info(void *context, enum log_level level, const char *line)
{
    (void)context;
    if (level == LOG_LEVEL_INFO)
        memcpy(info, line, strlen(line) + 1);
}

static bool is_forced(struct team *t, int thread)
{
    float x[8] = {0};
    uint64_t by_twoshot;

    if (!runs_all_sizes(t, thread))
        return false;
    pthread_barrier_wait(&t->barrier);
    if (t->comm->row->reduce_scatter_rows(t->comm, thread, t->threads, x, 4, 2) != STATUS_OK)
        return false;
    pthread_barrier_wait(&t->barrier);
    if (thread != 0)
        return true;
    by_twoshot = ran(t, COLL_ALL_REDUCE, COLL_SHM_TWOSHOT);
    return by_twoshot == 24 && ran(t, COLL_ALL_REDUCE, COLL_SHM_ONESHOT) == 0 &&
           ran(t, COLL_FUSED_NORM, COLL_SHM_TWOSHOT) == 1 &&
           ran(t, COLL_REDUCE_SCATTER, COLL_SHM_ONESHOT) == 1 &&
           strstr(info, "QUERN_COLL=shm_twoshot cannot do reduce_scatter_rows") != NULL;
}

static void forced_algorithm_runs_where_it_can(void **state)
{
    (void)state;
    setenv("QUERN_COLL", "shm_twoshot", 1);
    log_set_sink(keep_info, NULL);
    log_set_level(LOG_LEVEL_INFO);
    worlds_run(is_forced, 1, LONG_ENOUGH_NS);
    log_set_sink(NULL, NULL);
    unsetenv("QUERN_COLL");
}

/* Fewer rows than ranks: two-shot declines on all ranks alike, one-shot does it. */
static bool falls_back_when_declined(struct team *t, int thread)
{
    float x[16] = {0}, y[16] = {0}, out[16], w[16] = {0};
    struct fused_norm_args a = {.out = out, .x = x, .y = y, .w = w, .rows = 1, .cols = 16};

    return t->comm->row->fused_all_reduce_norm(t->comm, thread, 1, &a) == STATUS_OK &&
           ran(t, COLL_FUSED_NORM, COLL_SHM_ONESHOT) == 1 &&
           ran(t, COLL_FUSED_NORM, COLL_SHM_TWOSHOT) == 0;
}

static void declined_fused_call_goes_to_another(void **state)
{
    struct world w;

    (void)state;
    setenv("QUERN_COLL", "shm_twoshot", 1);
    world_open(&w, 3, 1);
    world_run(&w, falls_back_when_declined);
    segment_close(&w.segment);
    unsetenv("QUERN_COLL");
}

static bool fuses_nothing(struct team *t, int thread)
{
    float x[4] = {0};
    struct fused_norm_args a = {.out = x, .x = x, .y = x, .w = x, .rows = 4, .cols = 1};

    return t->comm->row->fused_all_reduce_norm(t->comm, thread, 1, &a) == STATUS_UNSUPPORTED &&
           t->comm->row->all_reduce_f32(t->comm, thread, 1, x, 4) == STATUS_OK;
}

static void without_a_norm_nothing_is_fused(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    w.options.add_norm = NULL;
    w.measure_ns = LONG_ENOUGH_NS;
    world_run(&w, fuses_nothing);
    segment_close(&w.segment);
}

/* Refusals -------------------------------------------------------------------------------- */

/* A rank that must not get a dispatcher, and whose error line must have these words. */
static void rank_is_refused(struct world *w, int rank, const char *words)
{
    struct comm *comm = NULL;

    if (!world_attach(w, rank) ||
        coll_auto_open(&w->options, w->measure_ns, &comm) != STATUS_INVALID)
        _exit(1);
    _exit(comm == NULL && strstr(log_last_error(), words) != NULL ? 0 : 2);
}

static void ranks_that_would_choose_differently_are_refused(void **state)
{
    (void)state;
    for (int measure = 0; measure < 2; measure++) {
        struct world w;
        pid_t pids[3];

        world_open(&w, 3, 1);
        w.measure_ns = measure ? LONG_ENOUGH_NS : 0;
        for (int r = 0; r < 3; r++) {
            pids[r] = fork();
            if (pids[r] == 0) {
                if (r == 1)
                    setenv("QUERN_COLL", "shm_twoshot", 1);
                rank_is_refused(&w, r, "QUERN_COLL");
            }
        }
        for (int r = 0; r < 3; r++)
            child_must_succeed(pids[r]);
        segment_close(&w.segment);
    }
}

/* Rank 1's table has another entry than was published. */
static bool differs_in_one_entry(struct team *t, int thread)
{
    struct choice c = *coll_auto_choice(t->comm);
    enum status s;

    (void)thread;
    if (choice_agree(t->comm, &t->w->options, &c) != STATUS_OK)
        return false;
    if (t->rank == 1)
        c.algorithm[CHOICE_FUSED][7] ^= 1;
    s = choice_agree(t->comm, &t->w->options, &c);
    return s == STATUS_INVALID && strstr(log_last_error(), t->rank == 0 ? "rank 1" : "rank 0");
}

static void table_hash_mismatch_is_refused(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    world_run(&w, differs_in_one_entry);
    segment_close(&w.segment);
}

/* Rank 1 was opened for another size, one after another of those that shape buffers and calls. */
static bool differs_in_one_size(struct team *t, int thread)
{
    const struct choice *c = coll_auto_choice(t->comm);

    (void)thread;
    for (int i = 0; i < 6; i++) {
        struct coll_shm_options o = t->w->options;
        enum status s;

        if (t->rank == 1) {
            o.threads += i == 0;
            o.reduce_floats += i == 1;
            o.gather_bytes += i == 2;
            o.row_floats += i == 3;
            o.norm_cols += i == 4;
            o.add_norm = i == 5 ? NULL : o.add_norm;
        }
        s = choice_agree(t->comm, &o, c);
        if (s != STATUS_INVALID || strstr(log_last_error(), "are QUERN_COLL, the options") == NULL)
            return false;
    }
    return choice_agree(t->comm, &t->w->options, c) == STATUS_OK;
}

static void ranks_of_other_sizes_are_refused(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 2, 1);
    world_run(&w, differs_in_one_size);
    segment_close(&w.segment);
}

static void unknown_algorithm_is_refused_before_anyone_waits(void **state)
{
    struct world w;
    struct comm *comm = NULL;

    (void)state;
    world_open(&w, 2, 1);
    assert_true(world_attach(&w, 0));
    setenv("QUERN_COLL", "ring", 1);
    assert_int_equal(coll_auto_open(&w.options, LONG_ENOUGH_NS, &comm), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "shm_oneshot, shm_twoshot"));
    assert_null(comm);
    unsetenv("QUERN_COLL");
    segment_close(&w.segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(index_is_the_nearest_size),
        cmocka_unit_test(default_table_serves_every_size),
        cmocka_unit_test(more_meetings_must_be_faster_by_a_twentieth),
        cmocka_unit_test(more_meetings_that_paid_are_kept_where_nothing_was_measured),
        cmocka_unit_test(algorithm_that_is_not_there_is_refused_with_those_that_are),
        cmocka_unit_test(measured_table_is_what_runs),
        cmocka_unit_test(threads_that_did_not_measure_count_along),
        cmocka_unit_test(every_rank_holds_the_leaders_table),
        cmocka_unit_test(forced_algorithm_runs_where_it_can),
        cmocka_unit_test(declined_fused_call_goes_to_another),
        cmocka_unit_test(without_a_norm_nothing_is_fused),
        cmocka_unit_test(ranks_that_would_choose_differently_are_refused),
        cmocka_unit_test(table_hash_mismatch_is_refused),
        cmocka_unit_test(ranks_of_other_sizes_are_refused),
        cmocka_unit_test(unknown_algorithm_is_refused_before_anyone_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
