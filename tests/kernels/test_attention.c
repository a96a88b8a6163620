/* test_attention.c - attention of every level against the textbook formula in double. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/kernels/attention_case.h"

/* out [head_dim] of one token and head. */
static void formula(const struct attention_case *c, uint32_t token, uint32_t head, double *out)
{
    const struct attention_args *a = &c->args;
    uint32_t d = a->kv.head_dim, n = a->position[token] + 1, kv = c->q_to_kv[head];
    const float *q = a->q + token * a->ld_q + (size_t)head * d;
    double *p = take_exact(n * sizeof(*p)), max = -INFINITY, sum = 0;

    for (uint32_t pos = 0; pos < n; pos++) {
        p[pos] = 0;
        for (uint32_t i = 0; i < d; i++)
            p[pos] += (double)q[i] * c->keys[((size_t)pos * a->kv.kv_heads + kv) * d + i];
        p[pos] *= (double)a->scale;
        max = fmax(max, p[pos]);
    }
    for (uint32_t pos = 0; pos < n; pos++)
        sum += p[pos] = exp(p[pos] - max);
    for (uint32_t i = 0; i < d; i++) {
        out[i] = 0;
        for (uint32_t pos = 0; pos < n; pos++)
            out[i] += p[pos] / sum * c->values[((size_t)pos * a->kv.kv_heads + kv) * d + i];
    }
    free(p);
}

static void check(const struct cpu_kernels *t, struct attention_shape s, uint64_t seed)
{
    struct attention_case c = attention_case_make(s, seed);
    size_t n = c.out_floats;
    float *want = take_exact(n * sizeof(*want));
    double row[256], error;

    memcpy(want, c.out, n * sizeof(*want));
    for (uint32_t token = 0; token < s.tokens; token++)
        for (uint32_t h = 0; h < s.heads; h++) {
            formula(&c, token, h, row);
            for (uint32_t i = 0; i < s.head_dim; i++)
                want[token * c.args.ld_out + (size_t)h * s.head_dim + i] = (float)row[i];
        }
    t->attention(&c.args, 0, s.tokens * s.kv_heads);
    error = relative_error(c.out, want, n);
    if (!(error <= 2e-6))
        fail_msg("%s length %u heads %u/%u head_dim %u block %u dtype %d: error %g", t->name,
            s.length, s.heads, s.kv_heads, s.head_dim, s.block_size, (int)s.dtype, error);
    for (uint32_t token = 0; token < s.tokens; token++) /* columns behind the heads are untouched */
        for (size_t i = (size_t)s.heads * s.head_dim; i < c.args.ld_out; i++)
            assert_true(c.out[token * c.args.ld_out + i] == want[token * c.args.ld_out + i]);
    free(want);
    attention_case_free(&c);
}

static void check_levels(const struct attention_shape *shapes, size_t n)
{
    uint64_t seed = seed_new(__func__);
    enum cpu_isa levels[ISA_LEVELS];
    int n_levels = cpu_isa_levels(levels);

    for (int l = 0; l < n_levels; l++) {
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
        for (size_t i = 0; i < n; i++)
            check(&t, shapes[i], seed + i);
    }
}

#define SHAPE(l, h, k, d, b, t, type) \
    {.length = l, .heads = h, .kv_heads = k, .head_dim = d, .block_size = b, .tokens = t, \
        .dtype = type}

static void every_length_and_head_size_gives_the_formula(void **state)
{
    static const struct attention_shape shapes[] = {
        SHAPE(1, 1, 1, 2, 1, 1, DTYPE_F32),        SHAPE(3, 2, 1, 6, 2, 3, DTYPE_F32),
        SHAPE(16, 2, 2, 16, 16, 4, DTYPE_F32),     SHAPE(17, 4, 2, 18, 16, 2, DTYPE_F32),
        SHAPE(255, 4, 2, 64, 16, 3, DTYPE_F32),    SHAPE(256, 4, 2, 64, 32, 2, DTYPE_F32),
        SHAPE(257, 4, 2, 64, 16, 3, DTYPE_F32),    SHAPE(513, 6, 2, 128, 256, 2, DTYPE_F32),
        SHAPE(1030, 5, 1, 80, 7, 2, DTYPE_F32),    SHAPE(300, 8, 8, 254, 64, 2, DTYPE_F32),
        SHAPE(600, 2, 1, 256, 16, 1, DTYPE_F32),   SHAPE(40, 40, 1, 32, 16, 2, DTYPE_F32),
    };

    (void)state;
    check_levels(shapes, sizeof(shapes) / sizeof(shapes[0]));
}

static void narrow_caches_are_read_exactly(void **state)
{
    static const struct attention_shape shapes[] = {
        SHAPE(257, 4, 2, 64, 16, 3, DTYPE_BF16), SHAPE(257, 4, 2, 64, 16, 3, DTYPE_F16),
        SHAPE(70, 3, 3, 22, 5, 4, DTYPE_BF16),   SHAPE(70, 3, 3, 22, 5, 4, DTYPE_F16),
        SHAPE(520, 16, 8, 128, 32, 2, DTYPE_BF16),
        /* codes of 16 lanes, fewer, and both; blocks whose codes are no whole floats */
        SHAPE(257, 4, 2, 64, 16, 3, DTYPE_E4M3), SHAPE(70, 3, 3, 22, 5, 4, DTYPE_E4M3),
        SHAPE(520, 16, 8, 128, 32, 2, DTYPE_E4M3), SHAPE(33, 2, 1, 2, 1, 2, DTYPE_E4M3),
        SHAPE(40, 2, 2, 14, 3, 3, DTYPE_E4M3), SHAPE(300, 8, 8, 254, 64, 2, DTYPE_E4M3),
        SHAPE(600, 2, 1, 256, 16, 1, DTYPE_E4M3),
    };

    (void)state;
    check_levels(shapes, sizeof(shapes) / sizeof(shapes[0]));
}

/* Scores hundreds apart: the exponential of all but the largest is nothing, and no infinity or
 * NaN comes of it, also where the largest lies in the first split of several. */
static void large_scores_do_not_overflow(void **state)
{
    struct attention_shape s = SHAPE(600, 2, 1, 32, 16, 1, DTYPE_F32);
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (uint32_t peak = 0; peak < s.length; peak += 299)
        for (int l = 0; l < n; l++) {
            struct attention_case c = attention_case_make(s, 5);
            const struct kv_view *kv = &c.args.kv;
            float k[32];
            struct cpu_kernels t;

            assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[l]), &t), STATUS_OK);
            for (int i = 0; i < 32; i++) {
                c.q[i] = c.q[32 + i] = 10.0f;
                k[i] = 1000.0f;
            }
            cache_put(kv, kv->k, c.table[peak / 16], 0, peak % 16, k);
            t.attention(&c.args, 0, 1);
            for (size_t i = 0; i < 32; i++)
                assert_float_equal(c.out[i], c.values[peak * 32 + i], 1e-6);
            attention_case_free(&c);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_length_and_head_size_gives_the_formula),
        cmocka_unit_test(narrow_caches_are_read_exactly),
        cmocka_unit_test(large_scores_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
