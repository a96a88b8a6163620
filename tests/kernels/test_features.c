/* test_features.c - which levels there are, and how one is chosen. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "tests/kernels/support.h"

static void scalar_is_always_there_and_comes_first(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    assert_in_range(n, 1, ISA_LEVELS);
    for (int i = 0; i < n; i++)
        assert_int_equal(levels[i], i); /* each level contains those below it */
}

static void every_level_fills_the_whole_table(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int i = 0; i < n; i++) {
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[i]), &t), STATUS_OK);
        assert_int_equal(t.isa, levels[i]);
        assert_string_equal(t.name, cpu_isa_name(levels[i]));
        for (int f = 0; f < WEIGHT_FORMATS; f++)
            for (int c = 0; c < 2; c++) {
                assert_non_null(t.linear[f][c].name);
                assert_non_null(t.linear[f][c].apply);
            }
        assert_true(t.attention && t.add_norm && t.qk_rope && t.silu_mul && t.sum_ranks);
        assert_true(t.round_bf16 && t.round_bf16_f32 && t.lookup && t.argmax);
        assert_true(t.amax && t.quantize);
    }
}

static void a_forced_level_is_what_runs(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int i = 0; i < n; i++) {
        const char *name = cpu_isa_name(levels[i]);
        struct cpu_kernels t;

        assert_int_equal(cpu_kernels_select(name, &t), STATUS_OK);
        assert_memory_equal(t.linear[WEIGHT_BF16][COMPUTE_BF16].name, name, strlen(name));
    }
}

static void the_environment_chooses_and_an_argument_overrules_it(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);
    struct cpu_kernels t;

    (void)state;
    setenv("QUERN_CPU_ISA", "scalar", 1);
    assert_int_equal(cpu_kernels_select(NULL, &t), STATUS_OK);
    assert_int_equal(t.isa, ISA_SCALAR);
    assert_int_equal(cpu_kernels_select(cpu_isa_name(levels[n - 1]), &t), STATUS_OK);
    assert_int_equal(t.isa, levels[n - 1]);
    unsetenv("QUERN_CPU_ISA");
    assert_int_equal(cpu_kernels_select(NULL, &t), STATUS_OK);
    assert_int_equal(t.isa, levels[n - 1]);
}

static void a_level_that_is_not_there_is_an_error_naming_those_that_are(void **state)
{
    static const char *const words[] = {"amx", "sse9", "AVX2", "scalar "};
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);
    struct cpu_kernels t = {.name = "untouched"};

    (void)state;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        assert_int_equal(cpu_kernels_select(words[i], &t), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), words[i]));
        assert_non_null(strstr(log_last_error(), "scalar"));
        assert_string_equal(t.name, "untouched");
    }
    for (int i = n; i < ISA_LEVELS; i++) {
        assert_int_equal(cpu_kernels_select(cpu_isa_name((enum cpu_isa)i), &t), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "this CPU cannot"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalar_is_always_there_and_comes_first),
        cmocka_unit_test(every_level_fills_the_whole_table),
        cmocka_unit_test(a_forced_level_is_what_runs),
        cmocka_unit_test(the_environment_chooses_and_an_argument_overrules_it),
        cmocka_unit_test(a_level_that_is_not_there_is_an_error_naming_those_that_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
