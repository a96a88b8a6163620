/* test_coll.c - every collective of every algorithm, between forked ranks with threads.
 *
 * And between ranks that are threads of one process: the thread sanitizer sees
 * what they share, which it does not between processes.
 *
 * The mixed test draws operation, algorithm and shape at random, all ranks and
 * threads alike from one printed seed, and compares each result bit for bit
 * with a straight computation. */
#include "tests/parallel/coll_support.h"

enum { MIXED_CALLS = 2000, SHARED_CALLS = 400, MOST_ROWS = 60, MOST_ROW_BYTES = 32 };

/* A rank's buffers: thread 0 fills and checks, all threads call. */
struct buffers {
    float x[MOST_FLOATS + 1], y[MOST_FLOATS], out[MOST_RANKS * MOST_ROWS * ROW_FLOATS + 1];
    float w[MOST_FLOATS], want_x[MOST_FLOATS], want[MOST_FLOATS];
    unsigned char part[GATHER_BYTES], parts[MOST_RANKS * GATHER_BYTES];
};
static struct buffers buffers[MOST_RANKS];
static _Thread_local struct buffers *data;

/* What a call is, the same on every rank and thread. */
struct call {
    int number;
    enum coll_op op;
    struct comm *comm;
    size_t rows, cols;
};

static struct call draw_call(struct team *t, int number, uint64_t *random)
{
    struct call c = {.number = number, .op = (enum coll_op)(test_random(random) % COLL_OPS)};
    uint64_t who = test_random(random) % (COLL_ALGORITHMS + 1);
    size_t most;

    c.comm = who < COLL_ALGORITHMS && (coll_algorithms[who]->ops & 1u << c.op) != 0
                 ? t->algorithms[who]
                 : t->comm;
    c.rows = 1 + test_random(random) % (test_random(random) % 3 == 0 ? 3 : MOST_ROWS);
    most = MOST_FLOATS / c.rows;
    c.cols = 1 + test_random(random) % (test_random(random) % 2 == 0 ? most : 1 + most / 16);
    return c;
}

static void fill(struct team *t, const struct call *c)
{
    size_t n = c->rows * c->cols;

    for (size_t i = 0; i < n; i++) {
        data->x[i] = input(t->rank, c->number, i);
        data->y[i] = data->x[i];
        data->out[i] = -1;
    }
    data->x[n] = data->out[n] = -1;
}

/* Sums and maxima --------------------------------------------------------------------------- */

static float wanted_max(int size, int call, size_t i)
{
    float want = input(0, call, i);

    for (int r = 1; r < size; r++)
        want = fmaxf(want, input(r, call, i));
    return want;
}

static bool right_x(struct team *t, const struct call *c, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (!same_bits(data->x[i], c->op == COLL_MAX_REDUCE ? wanted_max(t->size, c->number, i)
                                                           : wanted_sum(t->size, c->number, i)))
            return false;
    return data->x[c->rows * c->cols] == -1; /* nothing behind it is touched */
}

static bool reduces(struct team *t, int thread, const struct call *c)
{
    const struct comm_row *row = c->comm->row;
    size_t n = c->rows * c->cols;
    enum status s = c->op == COLL_ALL_REDUCE
                        ? row->all_reduce_f32(c->comm, thread, t->threads, data->x, n)
                        : row->max_reduce_f32(c->comm, thread, t->threads, data->x, n);

    pthread_barrier_wait(&t->barrier);
    return s == STATUS_OK && (thread != 0 || right_x(t, c, 0, n));
}

static bool scatters_sums(struct team *t, int thread, const struct call *c)
{
    struct comm_rows own = comm_own_rows(c->rows, t->rank, t->size);
    enum status s =
        c->comm->row->reduce_scatter_rows(c->comm, thread, t->threads, data->x, c->rows, c->cols);

    pthread_barrier_wait(&t->barrier);
    return s == STATUS_OK && (thread != 0 || right_x(t, c, own.first * c->cols,
                                                 (own.first + own.count) * c->cols));
}

/* x and w of the norm are the same on all ranks: they come from nobody's number. */
static void fill_norm(struct team *t, const struct call *c)
{
    size_t n = c->rows * c->cols;

    for (size_t i = 0; i < n; i++) {
        data->x[i] = data->want_x[i] = input(99, c->number, i);
        data->want[i] = wanted_sum(t->size, c->number, i);
    }
    for (size_t i = 0; i < c->cols; i++)
        data->w[i] = (float)i * 0.25f - 3;
}

static bool fuses(struct team *t, int thread, const struct call *c)
{
    size_t n = c->rows * c->cols;
    struct fused_norm_args a = {.out = data->out, .x = data->x, .y = data->y, .w = data->w,
        .eps = 1e-6f, .rows = c->rows, .cols = c->cols};
    enum status s;

    if (thread == 0)
        fill_norm(t, c);
    pthread_barrier_wait(&t->barrier);
    s = c->comm->row->fused_all_reduce_norm(c->comm, thread, t->threads, &a);
    pthread_barrier_wait(&t->barrier);
    if (s == STATUS_UNSUPPORTED) /* too few rows to share out; nothing was done */
        return c->comm == t->algorithms[COLL_SHM_TWOSHOT] && c->rows < (size_t)t->size &&
               same_bits(data->x[0], input(99, c->number, 0));
    if (s != STATUS_OK || thread != 0)
        return s == STATUS_OK;
    /* the plain way: sum, then the norm's own row */
    add_and_norm(data->y, data->want_x, data->want, data->w, a.eps, (uint32_t)c->cols, 0,
        (uint32_t)c->rows);
    return memcmp(data->x, data->want_x, n * sizeof(float)) == 0 &&
           memcmp(data->out, data->y, n * sizeof(float)) == 0 && data->out[n] == -1;
}

/* Gathers of every thread ------------------------------------------------------------------- */

static bool gathers_rows_of_all(struct team *t, int thread, const struct call *c)
{
    enum status s;

    if (thread == 0)
        for (size_t i = 0; i < c->rows * c->cols; i++) {
            struct comm_rows own = comm_own_rows(c->rows, t->rank, t->size);
            bool ours = i / c->cols >= own.first && i / c->cols < own.first + own.count;

            data->x[i] = ours ? input(7, c->number, i) : -2;
        }
    pthread_barrier_wait(&t->barrier);
    s = c->comm->row->all_gather_rows(c->comm, thread, t->threads, data->x, c->rows, c->cols);
    pthread_barrier_wait(&t->barrier);
    for (size_t i = 0; thread == 0 && i < c->rows * c->cols; i++)
        if (!same_bits(data->x[i], input(7, c->number, i)))
            return false;
    return s == STATUS_OK && data->x[c->rows * c->cols] == -1;
}

/* Two parts, of uneven widths, the second overlapping on neighbours; one column of nobody. */
static struct column_map draw_map(const struct team *t, const struct call *c)
{
    struct column_map m = {.n_parts = 2};
    uint32_t each = 1 + (uint32_t)c->cols % 90, first = 0;

    for (int r = 0; r < t->size; r++) {
        m.parts[0].first[r] = first;
        m.parts[0].count[r] = each + (uint32_t)((r + c->number) % 3);
        first += m.parts[0].count[r];
    }
    m.parts[1].at = first + 1;
    for (int r = 0; r < t->size; r++) {
        m.parts[1].first[r] = (uint32_t)r / 2 * 5;
        m.parts[1].count[r] = 5;
    }
    m.cols = m.parts[1].at + (uint32_t)(t->size + 1) / 2 * 5;
    return m;
}

/* What stands in a global column. */
static float cell(const struct call *c, size_t row, uint32_t col)
{
    return input(5, c->number, row * 1000 + col);
}

static void fill_columns(const struct call *c, const struct column_map *m, int rank)
{
    float *to = data->y;

    for (size_t row = 0; row < c->rows; row++)
        for (int p = 0; p < m->n_parts; p++)
            for (uint32_t i = 0; i < m->parts[p].count[rank]; i++)
                *to++ = cell(c, row, m->parts[p].at + m->parts[p].first[rank] + i);
    for (size_t i = 0; i < c->rows * m->cols; i++)
        data->out[i] = -1;
}

static bool right_columns(const struct call *c, const struct column_map *m)
{
    for (size_t row = 0; row < c->rows; row++)
        for (uint32_t col = 0; col < m->cols; col++) {
            bool nobodys = col == m->parts[1].at - 1;

            if (!same_bits(data->out[row * m->cols + col], nobodys ? -1 : cell(c, row, col)))
                return false;
        }
    return true;
}

static bool gathers_columns(struct team *t, int thread, struct call *c)
{
    struct column_map m = draw_map(t, c);
    size_t mine = m.parts[0].count[t->rank] + m.parts[1].count[t->rank];
    enum status s;

    while (c->rows * 100 > MOST_FLOATS)
        c->rows /= 2;
    if (thread == 0)
        fill_columns(c, &m, t->rank);
    pthread_barrier_wait(&t->barrier);
    s = c->comm->row->all_gather_cols(c->comm, thread, t->threads, data->y, mine, data->out, c->rows,
        &m);
    pthread_barrier_wait(&t->barrier);
    return s == STATUS_OK && (thread != 0 || right_columns(c, &m));
}

/* Calls of one thread ------------------------------------------------------------------------- */

static unsigned char byte_of(int rank, int call, size_t i)
{
    return (unsigned char)(rank * 61 + call * 7 + (int)i);
}

static bool gathers_bytes(struct team *t, const struct call *c)
{
    unsigned char *mine = data->part, *all = data->parts;
    size_t n = c->rows * c->cols % (GATHER_BYTES + 1);

    for (size_t i = 0; i < n; i++)
        mine[i] = byte_of(t->rank, c->number, i);
    if (c->comm->row->all_gather(c->comm, mine, n, all) != STATUS_OK)
        return false;
    for (int r = 0; r < t->size; r++)
        for (size_t i = 0; i < n; i++)
            if (all[(size_t)r * n + i] != byte_of(r, c->number, i))
                return false;
    return true;
}

/* Columns of different widths, with a gap at the end of each row that stays as it was. */
static bool gathers_rows_at_root(struct team *t, const struct call *c)
{
    static const size_t widths[MOST_RANKS] = {12, 5, 9, 1};
    unsigned char *mine = data->part, *out = data->parts;
    size_t offsets[MOST_RANKS] = {0}, stride = 3;
    int root = c->number % t->size;

    for (int r = 0; r < t->size; r++) {
        offsets[r] = r > 0 ? offsets[r - 1] + widths[r - 1] : 0;
        stride += widths[r];
    }
    memset(out, 0xee, MOST_ROWS * MOST_ROW_BYTES);
    for (size_t i = 0; i < c->rows * widths[t->rank]; i++)
        mine[i] = byte_of(t->rank, c->number, i);
    if (c->comm->row->gather_rows(c->comm, root, mine, c->rows, widths, offsets, out, stride) !=
        STATUS_OK)
        return false;
    for (size_t at = 0; at < MOST_ROWS * MOST_ROW_BYTES; at++) {
        size_t row = at / stride, col = at % stride;
        unsigned char want = 0xee;

        for (int r = 0; r < t->size; r++)
            if (root == t->rank && row < c->rows && col >= offsets[r] &&
                col < offsets[r] + widths[r])
                want = byte_of(r, c->number, row * widths[r] + col - offsets[r]);
        if (out[at] != want)
            return false;
    }
    return true;
}

static bool broadcasts(struct team *t, const struct call *c)
{
    int root = c->number % t->size;
    size_t bytes = c->rows * c->cols * sizeof(float); /* up to five pieces */

    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)data->x)[i] = t->rank == root ? byte_of(root, c->number, i) : 0;
    if (c->comm->row->broadcast(c->comm, root, data->x, bytes) != STATUS_OK)
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (((unsigned char *)data->x)[i] != byte_of(root, c->number, i))
            return false;
    return true;
}

/* All of them, mixed -------------------------------------------------------------------------- */

static bool makes_call(struct team *t, int thread, struct call *c)
{
    switch (c->op) {
    case COLL_ALL_REDUCE:
    case COLL_MAX_REDUCE: return reduces(t, thread, c);
    case COLL_REDUCE_SCATTER: return scatters_sums(t, thread, c);
    case COLL_ALL_GATHER_ROWS: return gathers_rows_of_all(t, thread, c);
    case COLL_ALL_GATHER_COLS: return gathers_columns(t, thread, c);
    case COLL_FUSED_NORM: return fuses(t, thread, c);
    case COLL_ALL_GATHER: return thread != 0 || gathers_bytes(t, c);
    case COLL_GATHER_ROWS: return thread != 0 || gathers_rows_at_root(t, c);
    case COLL_BROADCAST: return thread != 0 || broadcasts(t, c);
    case COLL_OPS: break;
    }
    return false;
}

static bool makes_calls(struct team *t, int thread, int calls)
{
    uint64_t random = t->w->seed;

    data = &buffers[t->rank];
    for (int i = 0; i < calls; i++) {
        struct call c = draw_call(t, i, &random);

        if (thread == 0)
            fill(t, &c);
        pthread_barrier_wait(&t->barrier);
        if (!makes_call(t, thread, &c)) {
            fprintf(stderr, "rank %d thread %d: call %d, %s by %s of %zu x %zu\n", t->rank, thread,
                i, coll_op_name(c.op), c.comm->row->name, c.rows, c.cols);
            return false;
        }
        pthread_barrier_wait(&t->barrier);
    }
    return true;
}

static bool makes_all_calls(struct team *t, int thread)
{
    return makes_calls(t, thread, MIXED_CALLS);
}

static bool makes_shared_calls(struct team *t, int thread)
{
    return makes_calls(t, thread, SHARED_CALLS);
}

static void mixed_calls_give_the_straight_answer_in_every_bit(void **state)
{
    (void)state;
    worlds_run(makes_all_calls, test_seed(), 0);
}

static void calls_after_measuring_give_it_too(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 3, 2);
    w.measure_ns = LONG_ENOUGH_NS;
    w.seed = test_seed();
    world_run(&w, makes_all_calls);
    segment_close(&w.segment);
}

/* What one rank writes and another reads is in order: a race shows under the thread sanitizer. */
static void ranks_that_are_threads_of_one_process_give_it_too(void **state)
{
    uint64_t seed = test_seed();

    (void)state;
    for (int size = 2; size <= MOST_RANKS; size++)
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            struct world w;

            world_open(&w, size, threads);
            w.seed = seed;
            w.measure_ns = size == 2 ? LONG_ENOUGH_NS : 0;
            world_run_in_threads(&w, makes_shared_calls);
            segment_close(&w.segment);
        }
}

/* Without a barrier of its own a rank may be one call ahead of another, over and over. */
static bool repeats_small_sums(struct team *t, int thread)
{
    (void)thread;
    for (int call = 0; call < 3000; call++) {
        struct comm *c = t->algorithms[call / 7 % COLL_ALGORITHMS];
        size_t n = 1 + (size_t)call % 40;
        float x[40];

        for (size_t i = 0; i < n; i++)
            x[i] = input(t->rank, call, i);
        if (c->row->all_reduce_f32(c, 0, 1, x, n) != STATUS_OK ||
            !same_bits(x[n - 1], wanted_sum(t->size, call, n - 1)))
            return false;
    }
    return true;
}

static void many_small_sums_in_a_row_are_right(void **state)
{
    (void)state;
    for (int size = 2; size <= MOST_RANKS; size++) {
        struct world w;

        world_open(&w, size, 1);
        world_run(&w, repeats_small_sums);
        segment_close(&w.segment);
    }
}

static bool keeps_nan(struct team *t, int thread)
{
    for (int a = 0; a < COLL_ALGORITHMS; a++) {
        float x[3] = {t->rank == 1 ? NAN : 1.0f, t->rank == 0 ? NAN : 5.0f, -1.0f - (float)t->rank};

        if (t->algorithms[a]->row->max_reduce_f32(t->algorithms[a], thread, 1, x, 3) != STATUS_OK ||
            !isnan(x[0]) || !isnan(x[1]) || x[2] != -1.0f)
            return false;
    }
    return true;
}

static void maximum_of_a_nan_is_nan(void **state)
{
    struct world w;

    (void)state;
    world_open(&w, 3, 1);
    world_run(&w, keeps_nan);
    segment_close(&w.segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_calls_give_the_straight_answer_in_every_bit),
        cmocka_unit_test(calls_after_measuring_give_it_too),
        cmocka_unit_test(ranks_that_are_threads_of_one_process_give_it_too),
        cmocka_unit_test(many_small_sums_in_a_row_are_right),
        cmocka_unit_test(maximum_of_a_nan_is_nan),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
