/* test_exec_ops.c - operations between ranks, and products with quantised activations, on the
 * CPU backend with a group of threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "exec_mill.h"
#include "tests/kernels/quant_case.h"

enum { COLS = 33, SEED = 20261123 };

static const float MARKED = 7777.0f;
static float table[MILL_VOCAB * COLS], ones[COLS], bias[COLS];

/* What run() does on every group size and thread count, for steps of several lengths: `build`
 * makes each rank's program, `look` judges what it left. */
struct trial {
    void (*build)(struct mill *m);
    void (*look)(const struct mill *m, uint32_t rows, struct comm_rows own);
    enum group_fused fused;
};

static void mark(struct mill *m)
{
    for (int b = 0; b < m->program.n_buffers; b++)
        for (size_t i = 0; i < (size_t)MILL_TOKENS * m->program.buffers[b].cols; i++)
            m->executable->buffers[b][i] = MARKED;
}

static void run_group(const struct trial *p, int size, int threads)
{
    static const uint32_t lengths[] = {1, 2, 5, 17, MILL_TOKENS};
    struct shared *g = group_open(size, threads);
    struct mill mills[GROUP_MAX];

    group_set_fused(g, p->fused);
    for (int r = 0; r < size; r++) {
        mill_open(&mills[r], size > 1 ? group_comm(g, r) : NULL, threads, COMPUTE_F32, table, COLS);
        p->build(&mills[r]);
        mill_load(&mills[r]);
    }
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        for (int r = 0; r < size; r++)
            mark(&mills[r]);
        mill_step(mills, size, lengths[i]);
        for (int r = 0; r < size; r++)
            p->look(&mills[r], lengths[i], comm_own_rows(lengths[i], r, size));
    }
    for (int r = 0; r < size; r++)
        mill_close(&mills[r]);
    shared_close(g);
}

static void run(const struct trial *p)
{
    for (int size = 1; size <= GROUP_MAX; size++)
        for (int threads = 1; threads <= 2; threads++)
            run_group(p, size, threads);
}

static const float *table_row(uint32_t row)
{
    return table + (size_t)mill_id(row) * COLS;
}

/* rms_norm of factor * the table's row, in double. */
static double normed(uint32_t row, double factor, uint32_t col)
{
    double squares = 0;

    for (int i = 0; i < COLS; i++)
        squares += factor * table_row(row)[i] * factor * table_row(row)[i];
    return factor * table_row(row)[col] / sqrt(squares / COLS + 1e-6);
}

static void near(float got, double want)
{
    if (!(fabs(got - want) <= 1e-5 * (1 + fabs(want))))
        fail_msg("%g is not %g", (double)got, want);
}

static bool alone(const struct mill *m)
{
    return m->comm == NULL;
}

/* Sequence shards ---------------------------------------------------------------------------- */

static int second_embedding(struct mill *m)
{
    int y = mill_buffer(m, "y", COLS, alone(m) ? PLACE_REPLICATE : PLACE_PARTIAL);
    struct op op = m->program.ops[1];

    op.out = y;
    mill_op(m, op);
    return y;
}

/* On own rows x += y and h = norm(x) + bias; then x is gathered, z = norm(x). */
static void build_sequence(struct mill *m)
{
    int y = second_embedding(m);
    int h = mill_buffer(m, "h", COLS, alone(m) ? PLACE_REPLICATE : PLACE_SEQUENCE);
    int z = mill_buffer(m, "z", COLS, PLACE_REPLICATE);

    if (!alone(m)) {
        mill_in_place(m, OP_REDUCE_SCATTER, m->x);
        mill_in_place(m, OP_REDUCE_SCATTER, y);
    }
    mill_op(m, (struct op){.kind = OP_ADD_NORM, .in = {m->x, y}, .out = h,
        .weight = mill_vector(m, ones, COLS)});
    mill_op(m, (struct op){.kind = OP_ADD_BIAS, .in = {h, -1}, .out = h,
        .weight = mill_vector(m, bias, COLS)});
    mill_in_place(m, OP_GATHER_ROWS, m->x);
    mill_op(m, (struct op){.kind = OP_NORM, .in = {m->x, -1}, .out = z,
        .weight = mill_vector(m, ones, COLS)});
}

static void look_sequence(const struct mill *m, uint32_t rows, struct comm_rows own)
{
    const int x = 0, h = 2, z = 3;

    for (uint32_t r = 0; r < MILL_TOKENS; r++)
        for (uint32_t i = 0; i < COLS; i++) {
            if (r >= own.first && r < own.first + own.count)
                near(mill_row(m, h, r)[i], normed(r, 2, i) + bias[i]);
            else
                assert_true(mill_row(m, h, r)[i] == MARKED);
            if (r >= rows)
                continue;
            near(mill_row(m, x, r)[i], 2.0 * table_row(r)[i]);
            near(mill_row(m, z, r)[i], normed(r, 2, i));
        }
}

static void sequence_shards_touch_their_own_rows_only(void **state)
{
    const struct trial p = {build_sequence, look_sequence, FUSED_MISSING};

    (void)state;
    run(&p);
}

/* x whole, then cut by rows without any traffic, then whole again. */
static void build_slices(struct mill *m)
{
    int h = mill_buffer(m, "h", COLS, alone(m) ? PLACE_REPLICATE : PLACE_SEQUENCE);

    if (!alone(m))
        mill_in_place(m, OP_ALL_REDUCE, m->x);
    mill_in_place(m, OP_SLICE_ROWS, m->x);
    mill_op(m, (struct op){.kind = OP_NORM, .in = {m->x, -1}, .out = h,
        .weight = mill_vector(m, ones, COLS)});
    mill_in_place(m, OP_GATHER_ROWS, h);
}

static void look_slices(const struct mill *m, uint32_t rows, struct comm_rows own)
{
    (void)own;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < COLS; i++)
            near(mill_row(m, 1, r)[i], normed(r, 1, i));
}

static void rows_are_cut_and_gathered(void **state)
{
    const struct trial p = {build_slices, look_slices, FUSED_MISSING};

    (void)state;
    run(&p);
}

/* Columns ------------------------------------------------------------------------------------ */

/* Two parts, [0, 20) and [20, 33): the first uneven, the second with ranges that overlap. */
static struct column_map map_of(int size)
{
    struct column_map map = {.n_parts = 2, .cols = COLS, .parts = {[1] = {.at = 20}}};

    for (int r = 0; r < size; r++) {
        uint32_t all = (uint32_t)(size * size), next = (uint32_t)((r + 1) * (r + 1));

        map.parts[0].first[r] = 20 * (uint32_t)(r * r) / all;
        map.parts[0].count[r] = 20 * next / all - map.parts[0].first[r];
        map.parts[1].first[r] = (uint32_t)r;
        map.parts[1].count[r] = 13 - (uint32_t)size + 1;
    }
    return map;
}

static struct column_map maps[GROUP_MAX + 1];

static void build_columns(struct mill *m)
{
    int size = alone(m) ? 1 : m->comm->size, rank = alone(m) ? 0 : m->comm->rank;
    uint32_t own = maps[size].parts[0].count[rank] + maps[size].parts[1].count[rank];
    int cut = mill_buffer(m, "cut", own, PLACE_SHARD);
    int whole = mill_buffer(m, "whole", COLS, PLACE_REPLICATE);

    if (!alone(m))
        mill_in_place(m, OP_ALL_REDUCE, m->x);
    mill_op(m, (struct op){.kind = OP_SLICE_COLS, .in = {m->x, -1}, .out = cut,
        .map = &maps[size]});
    mill_op(m, (struct op){.kind = OP_GATHER_COLS, .in = {cut, -1}, .out = whole,
        .map = &maps[size]});
}

static void look_columns(const struct mill *m, uint32_t rows, struct comm_rows own)
{
    int size = alone(m) ? 1 : m->comm->size, rank = alone(m) ? 0 : m->comm->rank;
    const struct column_map *map = &maps[size];

    (void)own;
    for (uint32_t r = 0; r < rows; r++) {
        const float *cut = mill_row(m, 1, r);

        for (int p = 0; p < 2; p++) {
            const float *there = table_row(r) + map->parts[p].at + map->parts[p].first[rank];
            uint32_t n = map->parts[p].count[rank];

            assert_memory_equal(cut, there, n * sizeof(*cut));
            cut += n;
        }
        assert_memory_equal(mill_row(m, 2, r), table_row(r), COLS * sizeof(float));
    }
}

static void columns_are_cut_and_gathered(void **state)
{
    const struct trial p = {build_columns, look_columns, FUSED_MISSING};

    (void)state;
    for (int size = 1; size <= GROUP_MAX; size++)
        maps[size] = map_of(size);
    run(&p);
}

/* Reduce, add, norm -------------------------------------------------------------------------- */

static void build_fused(struct mill *m)
{
    int y = second_embedding(m);
    int h = mill_buffer(m, "h", COLS, PLACE_REPLICATE);
    enum op_kind kind = alone(m) ? OP_ADD_NORM : OP_REDUCE_ADD_NORM;

    if (!alone(m))
        mill_in_place(m, OP_ALL_REDUCE, m->x);
    mill_op(m, (struct op){.kind = kind, .in = {m->x, y}, .out = h,
        .weight = mill_vector(m, ones, COLS)});
}

static void look_fused(const struct mill *m, uint32_t rows, struct comm_rows own)
{
    (void)own;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < COLS; i++) {
            near(mill_row(m, 0, r)[i], 2.0 * table_row(r)[i]);
            near(mill_row(m, 2, r)[i], normed(r, 2, i));
        }
}

static void a_fused_reduce_runs_or_is_done_in_three(void **state)
{
    (void)state;
    for (int fused = FUSED_MISSING; fused <= FUSED_WORKS; fused++)
        run(&(struct trial){build_fused, look_fused, (enum group_fused)fused});
}

static void a_group_that_cannot_is_refused_at_load(void **state)
{
    static const struct comm_row row = {.name = "poor"};
    struct comm comm = {.rank = 1, .size = 2, .row = &row};
    struct executable *x = NULL;
    struct mill m;

    (void)state;
    mill_open(&m, &comm, 1, COMPUTE_F32, table, COLS);
    mill_in_place(&m, OP_REDUCE_SCATTER, m.x);
    assert_int_equal(cpu_backend.program_load(m.device, &m.program, &x), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "poor has no reduce-scatter"));
    assert_null(x);
    mill_close(&m);
}

/* Products ----------------------------------------------------------------------------------- */

static struct quant_case *product_case(enum weight_format format, uint32_t n, uint64_t *seed)
{
    return case_make(format, 1, n, COLS, &(struct scale_layout){.group = 8, .zeros = true},
        &(struct activation_rule){.kind = ACTIVATION_PLAIN}, true, seed);
}

/* Two products side by side in one buffer. */
static void parts_of_a_buffer_are_written_in_place(void **state)
{
    uint64_t seed = SEED;
    struct quant_case *a = product_case(WEIGHT_INT8, 19, &seed);
    struct quant_case *b = product_case(WEIGHT_INT4, 10, &seed);
    struct mill m;
    int out;

    (void)state;
    mill_open(&m, NULL, 2, COMPUTE_F32, table, COLS);
    out = mill_buffer(&m, "out", 29, PLACE_SHARD);
    b->weight.bias = b->bias;
    mill_op(&m, (struct op){.kind = OP_LINEAR, .in = {m.x, -1}, .out = out, .weight = &a->weight});
    mill_op(&m, (struct op){.kind = OP_LINEAR, .in = {m.x, -1}, .out = out, .out_col = 19,
        .weight = &b->weight});
    mill_load(&m);
    mark(&m);
    mill_step(&m, 1, 7);
    for (uint32_t r = 0; r < MILL_TOKENS; r++)
        for (uint32_t i = 0; i < 29; i++) {
            const float *w = i < 19 ? a->values + i * COLS : b->values + (i - 19) * COLS;
            double sum = i < 19 ? 0 : b->bias[i - 19];

            for (int k = 0; k < COLS; k++)
                sum += (double)w[k] * table_row(r)[k];
            if (r < 7)
                near(mill_row(&m, out, r)[i], sum);
            else
                assert_true(mill_row(&m, out, r)[i] == MARKED);
        }
    mill_close(&m);
    case_free(a);
    case_free(b);
}

static void an_embedding_may_be_quantised(void **state)
{
    uint64_t seed = SEED;
    struct quant_case *c = product_case(WEIGHT_INT8, MILL_VOCAB, &seed);
    struct mill m;

    (void)state;
    mill_open(&m, NULL, 2, COMPUTE_BF16, table, COLS);
    m.program.ops[1].weight = &c->weight;
    mill_load(&m);
    mill_step(&m, 1, 9);
    for (uint32_t r = 0; r < 9; r++)
        assert_memory_equal(mill_row(&m, m.x, r), c->values + mill_id(r) * COLS,
            COLS * sizeof(float));
    mill_close(&m);
    case_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequence_shards_touch_their_own_rows_only),
        cmocka_unit_test(rows_are_cut_and_gathered),
        cmocka_unit_test(columns_are_cut_and_gathered),
        cmocka_unit_test(a_fused_reduce_runs_or_is_done_in_three),
        cmocka_unit_test(a_group_that_cannot_is_refused_at_load),
        cmocka_unit_test(parts_of_a_buffer_are_written_in_place),
        cmocka_unit_test(an_embedding_may_be_quantised),
    };
    uint64_t seed = SEED;

    for (int i = 0; i < MILL_VOCAB * COLS; i++)
        table[i] = random_float(&seed);
    for (int i = 0; i < COLS; i++) {
        ones[i] = 1;
        bias[i] = random_float(&seed);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
