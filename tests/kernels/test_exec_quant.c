/* test_exec_quant.c - a row-parallel product with quantised activations, on the CPU backend.
 *
 * Whatever the number of ranks and wherever the cuts fall, inside groups too: codes and scales
 * are those of the whole row, bit for bit, and the sum over ranks is the definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "exec_mill.h"
#include "tests/kernels/quant_case.h"

enum { K = 300, N = 37, TOKENS = 11 };

static float table[MILL_VOCAB * K];

struct setting {
    enum weight_format format;
    struct activation_rule rule;
    float divisor;
    enum compute compute;
};

static const struct setting settings[] = {
    {WEIGHT_INT8, {ACTIVATION_PLAIN, 0, 0, 0}, 0, COMPUTE_F32},
    {WEIGHT_INT4, {ACTIVATION_PLAIN, 0, 0, 0}, 0, COMPUTE_BF16},
    {WEIGHT_INT8, {ACTIVATION_INT8, 0, 0, 0}, 127, COMPUTE_F32},
    {WEIGHT_INT8, {ACTIVATION_INT8, 128, 0, 0}, 127.5f, COMPUTE_BF16},
    {WEIGHT_FP8, {ACTIVATION_FP8, 0, 0, 0}, 448, COMPUTE_F32},
    {WEIGHT_FP8, {ACTIVATION_FP8, 128, 0, 0}, 448, COMPUTE_BF16},
    {WEIGHT_FP8, {ACTIVATION_FP8, 0, 0, 0.01f}, 448, COMPUTE_F32},
    {WEIGHT_INT4, {ACTIVATION_FP8, 0, 0, 0}, 448, COMPUTE_F32},
};

/* What one token's codes and scales must be. */
struct token {
    uint8_t codes[K];
    float scales[K], x[K]; /* [group], [K] */
    double y[N];
};

static bool plain(const struct setting *s)
{
    return s->rule.kind == ACTIVATION_PLAIN;
}

static float scale_of(const struct setting *s, const float *x, uint32_t n)
{
    float amax = 0;

    for (uint32_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    return s->rule.fixed > 0 ? s->rule.fixed : fmaxf(amax / s->divisor, 1e-10f);
}

static uint8_t code_of(const struct setting *s, float x, float scale)
{
    if (s->rule.kind == ACTIVATION_INT8)
        return (uint8_t)(int8_t)fminf(fmaxf(rintf(x / scale), -128), 127);
    if (s->rule.group == 0 && s->rule.fixed <= 0)
        return f32_to_e4m3(x * (1 / scale));
    return f32_to_e4m3(x / scale);
}

static double coded_value(const struct setting *s, const struct token *t, uint32_t i,
    uint32_t group)
{
    if (plain(s))
        return t->x[i];
    return (s->rule.kind == ACTIVATION_INT8 ? (double)(int8_t)t->codes[i]
                                            : (double)e4m3_to_f32(t->codes[i])) *
        t->scales[i / group];
}

static void define(struct token *t, const struct setting *s, const struct quant_case *c,
    uint32_t row)
{
    uint32_t group = s->rule.group > 0 ? s->rule.group : K;

    for (uint32_t i = 0; i < K; i++) {
        float x = table[(size_t)mill_id(row) * K + i];

        t->x[i] = s->compute == COMPUTE_BF16 ? bf16_round(x) : x;
    }
    for (uint32_t g = 0; !plain(s) && g * group < K; g++) {
        uint32_t n = K - g * group < group ? K - g * group : group;

        t->scales[g] = scale_of(s, t->x + g * group, n);
        for (uint32_t i = g * group; i < g * group + n; i++)
            t->codes[i] = code_of(s, t->x[i], t->scales[g]);
    }
    for (int n = 0; n < N; n++) {
        t->y[n] = 0;
        for (uint32_t i = 0; i < K; i++)
            t->y[n] += coded_value(s, t, i, group) * c->values[(size_t)n * K + i];
    }
}

/* Unevenly, and through groups of 128. */
static struct column_map map_of(int size)
{
    struct column_map map = {.n_parts = 1, .cols = K};

    for (int r = 0; r < size; r++) {
        map.parts[0].first[r] = K * (uint32_t)(r * r) / (uint32_t)(size * size);
        map.parts[0].count[r] =
            K * (uint32_t)((r + 1) * (r + 1)) / (uint32_t)(size * size) - map.parts[0].first[r];
    }
    return map;
}

static int add_maxima(struct mill *m, const struct setting *s, const struct weight *w, int cut)
{
    int amax;

    if (m->comm == NULL || plain(s) || s->rule.fixed > 0)
        return -1;
    amax = mill_buffer(m, "amax", w->quant.act_groups, PLACE_REPLICATE);
    mill_op(m, (struct op){.kind = OP_AMAX, .in = {cut, -1}, .out = amax, .weight = w});
    mill_in_place(m, OP_MAX_REDUCE, amax);
    return amax;
}

/* Returns the buffer of the product. */
static int build(struct mill *m, const struct setting *s, const struct weight *w,
    const struct column_map *map)
{
    int cut = mill_buffer(m, "cut", w->k, PLACE_SHARD), amax, y;

    if (m->comm != NULL)
        mill_in_place(m, OP_ALL_REDUCE, m->x);
    mill_op(m, (struct op){.kind = OP_SLICE_COLS, .in = {m->x, -1}, .out = cut, .map = map});
    amax = add_maxima(m, s, w, cut);
    y = mill_buffer(m, "y", N, m->comm != NULL ? PLACE_PARTIAL : PLACE_REPLICATE);
    mill_op(m, (struct op){.kind = OP_LINEAR, .in = {cut, amax}, .out = y, .weight = w});
    if (m->comm != NULL)
        mill_in_place(m, OP_ALL_REDUCE, y);
    return y;
}

static void look(const struct mill *m, const struct setting *s, const struct quant_case *part,
    const struct token *tokens, int y)
{
    const struct weight_quant *q = &part->weight.quant;
    uint32_t k = part->weight.k, groups = 1, group = 0;

    if (q->act_group > 0) {
        group = q->act_first / q->act_group;
        groups = (q->act_first + k - 1) / q->act_group - group + 1;
    }
    for (uint32_t r = 0; r < TOKENS; r++) {
        double worst = 0, size = 0;

        if (!plain(s)) {
            assert_memory_equal(m->executable->codes + r * code_stride(k),
                tokens[r].codes + q->act_first, k);
            assert_memory_equal(m->executable->scales + r * groups, tokens[r].scales + group,
                groups * sizeof(float));
        }
        for (int n = 0; n < N; n++) {
            worst = fmax(worst, fabs(mill_row(m, y, r)[n] - tokens[r].y[n]));
            size = fmax(size, fabs(tokens[r].y[n]));
        }
        if (!(worst <= 3e-6 * size))
            fail_msg("format %d, activation %d: error %g", s->format, s->rule.kind, worst / size);
    }
}

static void check(const struct setting *s, const struct quant_case *c, const struct token *tokens,
    int size, int threads)
{
    struct shared *g = group_open(size, threads);
    struct column_map map = map_of(size);
    struct quant_case *parts[GROUP_MAX];
    struct mill mills[GROUP_MAX];
    int y = -1;

    for (int r = 0; r < size; r++) {
        uint32_t from = map.parts[0].first[r];

        parts[r] = case_cut(c, from, from + map.parts[0].count[r]);
        mill_open(&mills[r], size > 1 ? group_comm(g, r) : NULL, threads, s->compute, table, K);
        y = build(&mills[r], s, &parts[r]->weight, &map);
        mill_load(&mills[r]);
    }
    mill_step(mills, size, TOKENS);
    for (int r = 0; r < size; r++)
        look(&mills[r], s, parts[r], tokens, y);
    for (int r = 0; r < size; r++) {
        mill_close(&mills[r]);
        case_free(parts[r]);
    }
    shared_close(g);
}

static void any_number_of_ranks_has_the_codes_of_the_whole_row(void **state)
{
    uint64_t seed = seed_new(__func__);

    (void)state;
    for (int i = 0; i < MILL_VOCAB * K; i++)
        table[i] = random_float(&seed);
    memset(table + (size_t)mill_id(3) * K, 0, K * sizeof(float)); /* a token of zeros */
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        const struct setting *s = &settings[i];
        struct quant_case *c = case_make(s->format, 1, N, K, &(struct scale_layout){.group = 128},
            &s->rule, false, &seed);
        struct token *tokens = take_exact(TOKENS * sizeof(*tokens));

        c->weight.quant.act_divisor = s->divisor;
        c->weight.quant.act_least = 1e-10f;
        c->weight.quant.act_groups =
            s->rule.group > 0 ? (K + s->rule.group - 1) / s->rule.group : 1;
        for (uint32_t r = 0; r < TOKENS; r++)
            define(&tokens[r], s, c, r);
        for (int size = 1; size <= GROUP_MAX; size++)
            check(s, c, tokens, size, size == 3 ? 2 : 1);
        free(tokens);
        case_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_ranks_has_the_codes_of_the_whole_row),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
