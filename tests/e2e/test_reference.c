/* test_reference.c - quern logits against Hugging Face Transformers, on tiny random models.
 *
 * tests/golden/models/NAME/reference.safetensors has ids and float32 logits
 * (made by tests/golden/make_reference.py). The bounds are relative errors over
 * the whole tensor. Scalar rows are the reference rows, the others fast ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/e2e/reference.h"

static const char *const models[] = {
    "tied", "untied", "odd", "bias", "yarn", "sharded", "old", "wide"};
enum { MODELS = sizeof(models) / sizeof(models[0]) };

#define F32 "--compute", "f32", "--kv-dtype", "f32"

static void check_all(const struct way *way, double bound)
{
    for (int i = 0; i < MODELS; i++) {
        char dir[128];
        double error;

        snprintf(dir, sizeof(dir), "golden/models/%s", models[i]);
        error = reference_error(dir, "logits", way);

        print_message("# %s, %s: %.2e\n", models[i], way->isa, error);
        if (!(error <= bound))
            fail_msg("%s at isa %s: relative error %.3e, at most %.0e is right", models[i], way->isa,
                error, bound);
    }
}

static void reference_rows_agree_with_transformers(void **state)
{
    (void)state;
    check_all(&(struct way){"scalar", {F32, NULL}}, 1e-4);
}

static void fast_rows_agree_with_transformers(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int i = 1; i < n; i++)
        check_all(&(struct way){cpu_isa_name(levels[i]), {F32, NULL}}, 1e-3);
}

static void defaults_agree_with_transformers(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int i = 0; i < n; i++)
        check_all(&(struct way){cpu_isa_name(levels[i]), {NULL}}, 2e-2);
}

static void f16_cache_agrees_with_transformers(void **state)
{
    (void)state;
    check_all(&(struct way){"scalar", {"--kv-dtype", "f16", NULL}}, 2e-2);
}

static void ranks_agree_with_transformers(void **state)
{
    static const char *const tps[] = {"2", "3", "4"};

    (void)state;
    for (int i = 0; i < 3; i++) {
        const struct way way = {"scalar", {F32, "--tp", tps[i], "--threads", "2", NULL}};

        check_all(&way, 1e-4);
    }
}

/* The file, byte for byte, however the prompt is cut and the cache is laid out. */
static void cuts_change_no_bit(const char *isa, const char *kv_dtype)
{
    static const char *const cuts[][2] = {{"512", "16"}, {"7", "256"}, {"17", "3"}, {"1", "1"}};
    char *first = NULL;
    unsigned long first_bytes = 0;

    for (int i = 0; i < 4; i++) {
        const struct way way = {isa, {"--max-batched-tokens", cuts[i][0], "--max-seqs", "1",
            "--block-size", cuts[i][1], "--kv-dtype", kv_dtype, NULL}};
        unsigned long bytes;
        char *got = reference_bytes("golden/models/yarn", &way, &bytes);

        if (first == NULL) {
            first = got;
            first_bytes = bytes;
            continue;
        }
        assert_int_equal(bytes, first_bytes);
        assert_memory_equal(got, first, bytes);
        free(got);
    }
    free(first);
}

static void chunks_and_blocks_change_no_bit(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int level = 0; level < n; level++) {
        cuts_change_no_bit(cpu_isa_name(levels[level]), "bf16");
        cuts_change_no_bit(cpu_isa_name(levels[level]), "fp8");
    }
}

static void threads_change_no_bit(void **state)
{
    static const char *const threads[] = {"1", "2", "3"};
    char *first = NULL;

    (void)state;
    for (int i = 0; i < 3; i++) {
        const struct way way = {"scalar", {"--threads", threads[i], NULL}};
        unsigned long bytes;
        char *got = reference_bytes("golden/models/odd", &way, &bytes);

        if (first != NULL)
            assert_memory_equal(got, first, bytes);
        if (first == NULL)
            first = got;
        else
            free(got);
    }
    free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_rows_agree_with_transformers),
        cmocka_unit_test(fast_rows_agree_with_transformers),
        cmocka_unit_test(defaults_agree_with_transformers),
        cmocka_unit_test(f16_cache_agrees_with_transformers),
        cmocka_unit_test(ranks_agree_with_transformers),
        cmocka_unit_test(chunks_and_blocks_change_no_bit),
        cmocka_unit_test(threads_change_no_bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
