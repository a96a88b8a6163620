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
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/safetensors.h"
#include "kernels/cpu/cpu.h"
#include "tests/e2e/command.h"

static const char *const models[] = {
    "tied", "untied", "odd", "bias", "yarn", "sharded", "old", "wide"};
enum { MODELS = sizeof(models) / sizeof(models[0]), MOST_IDS = 256 };

struct reference {
    struct safetensors *file;
    struct tensor_view logits;
    char dir[4096], ids[8 * MOST_IDS], last[16];
};

static struct tensor_view view_of(const struct safetensors *file, const char *name)
{
    const struct tensor_view *found = safetensors_find(file, name);

    assert_non_null(found);
    return *found;
}

static void open_reference(struct reference *r, const char *name)
{
    char path[4200], under[128];
    struct tensor_view ids;
    size_t at = 0;
    uint64_t n;

    snprintf(under, sizeof(under), "golden/models/%s", name);
    test_file(r->dir, under);
    snprintf(path, sizeof(path), "%s/reference.safetensors", r->dir);
    assert_int_equal(safetensors_open(path, &r->file), STATUS_OK);
    ids = view_of(r->file, "ids");
    r->logits = view_of(r->file, "logits");
    n = ids.shape[0];
    assert_in_range(n, 1, MOST_IDS);
    for (uint64_t i = 0; i < n; i++) {
        int32_t id;

        memcpy(&id, (const char *)ids.data + 4 * i, 4);
        at += (size_t)snprintf(r->ids + at, sizeof(r->ids) - at, "%s%d", i > 0 ? "," : "", id);
    }
    snprintf(r->last, sizeof(r->last), "%d", (int)n);
}

/* What to add to the command, and under which ISA. */
struct way {
    const char *isa;
    const char *words[10];
};

static char output[256];

static void run_logits(const struct reference *r, const struct way *way)
{
    const char *words[COMMAND_ARGS] = {"logits", "-m", r->dir, "--ids", r->ids, "--last", r->last,
        "-o", output};
    char isa[64];
    const char *env[] = {isa, NULL};
    struct command c;
    int n = 9;

    for (int i = 0; way->words[i] != NULL; i++)
        words[n++] = way->words[i];
    snprintf(isa, sizeof(isa), "QUERN_CPU_ISA=%s", way->isa);
    if (child_run(&c, env, words) != 0)
        fail_msg("quern logits on %s: %s", r->dir, c.err);
    child_free(&c);
}

static double relative_error(const struct tensor_view *got, const struct tensor_view *want)
{
    double d = 0, norm = 0;

    assert_int_equal(got->bytes, want->bytes);
    for (uint64_t i = 0; i < want->bytes / 4; i++) {
        float g, w;

        memcpy(&g, (const char *)got->data + 4 * i, 4);
        memcpy(&w, (const char *)want->data + 4 * i, 4);
        d += ((double)g - w) * ((double)g - w);
        norm += (double)w * w;
    }
    return sqrt(d / norm);
}

static double error_of(const char *name, const struct way *way)
{
    struct safetensors *file;
    struct tensor_view got;
    struct reference r;
    double error;

    open_reference(&r, name);
    run_logits(&r, way);
    assert_int_equal(safetensors_open(output, &file), STATUS_OK);
    got = view_of(file, "logits");
    error = relative_error(&got, &r.logits);
    safetensors_close(file);
    safetensors_close(r.file);
    unlink(output);
    return error;
}

#define F32 "--compute", "f32", "--kv-dtype", "f32"

static void check_all(const struct way *way, double bound)
{
    for (int i = 0; i < MODELS; i++) {
        double error = error_of(models[i], way);

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

static char *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    char *mem = malloc(64 << 20);

    assert_non_null(f);
    assert_non_null(mem);
    *bytes = fread(mem, 1, 64 << 20, f);
    fclose(f);
    return mem;
}

/* The file, byte for byte, however the prompt is cut and the cache is laid out. */
static void chunks_and_blocks_change_no_bit(void **state)
{
    static const char *const cuts[][2] = {{"512", "32"}, {"16", "32"}, {"17", "3"}, {"1", "1"}};
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);
    struct reference r;

    (void)state;
    open_reference(&r, "yarn");
    for (int level = 0; level < n; level++) {
        char *first = NULL;
        size_t first_bytes = 0;

        for (int i = 0; i < 4; i++) {
            const struct way way = {cpu_isa_name(levels[level]), {"--max-batched-tokens", cuts[i][0],
                "--max-seqs", "1", "--block-size", cuts[i][1], NULL}};
            size_t bytes;
            char *got;

            run_logits(&r, &way);
            got = read_file(output, &bytes);
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
    unlink(output);
    safetensors_close(r.file);
}

static void threads_change_no_bit(void **state)
{
    static const char *const threads[] = {"1", "2", "3"};
    char *first = NULL;
    struct reference r;

    (void)state;
    open_reference(&r, "odd");
    for (int i = 0; i < 3; i++) {
        const struct way way = {"scalar", {"--threads", threads[i], NULL}};
        size_t bytes;
        char *got;

        run_logits(&r, &way);
        got = read_file(output, &bytes);
        if (first != NULL)
            assert_memory_equal(got, first, bytes);
        if (first == NULL)
            first = got;
        else
            free(got);
    }
    free(first);
    unlink(output);
    safetensors_close(r.file);
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

    snprintf(output, sizeof(output), "%s/quern-logits-%d.safetensors",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
