/* test_quantize.c - what `quern quantize` writes, against Transformers that loaded the same bytes.
 *
 * golden/quantize has, for each case, the logits that Transformers with
 * compressed-tensors gave and a hash of the files it read (make_quantize.py).
 * So the files written today are files that Transformers loads, and quern
 * reads them as it does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint/safetensors.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"
#include "tests/e2e/reference.h"

enum { QUANTIZE_WORDS = 6 };

struct quantize_case {
    const char *name, *model;
    const char *words[QUANTIZE_WORDS];
};

static const struct quantize_case weights_alone[] = {
    {"int8", "tied", {"--quant", "int8"}},
    {"int8_odd", "odd", {"--quant", "int8"}},
    {"int4", "tied", {"--quant", "int4", "--group", "16"}},
    {"int4_head", "untied", {"--quant", "int4", "--group", "32", "--quant-head", "int8"}},
    {"fp8", "untied", {"--quant", "fp8"}},
    {"fp8_odd", "odd", {"--quant", "fp8"}},
    {"bias_int8", "bias", {"--quant", "int8", "--quant-head", "int8"}},
};
static const struct quantize_case with_activations[] = {
    {"int8_dynamic", "tied", {"--quant", "int8", "--quant-activations", "dynamic"}},
};

static void write_case(const struct quantize_case *q, const char *out)
{
    const char *words[COMMAND_ARGS] = {"quantize", "-m"};
    char model[4096], name[64];
    struct command c;
    int n = 3;

    snprintf(name, sizeof(name), "golden/models/%s", q->model);
    words[2] = test_file(model, name);
    for (int i = 0; i < QUANTIZE_WORDS && q->words[i] != NULL; i++)
        words[n++] = q->words[i];
    words[n] = out;
    if (child_run(&c, NULL, words) != 0)
        fail_msg("quern quantize %s: %s", q->name, c.err);
    child_free(&c);
}

static uint64_t hash_of(const char *dir, const char *name)
{
    char path[4200];
    void *bytes = malloc(1 << 20);
    uint64_t hash;
    size_t n;
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    assert_non_null(bytes);
    n = fread(bytes, 1, 1 << 20, f);
    assert_true(n > 0 && n < 1 << 20);
    hash = XXH3_64bits(bytes, n);
    fclose(f);
    free(bytes);
    return hash;
}

static void assert_bytes_are_those_read(const char *dir, const char *reference)
{
    static const char *const files[2] = {"config.json", "model.safetensors"};
    struct safetensors *st;
    const struct tensor_view *written;

    assert_int_equal(safetensors_open(reference, &st), STATUS_OK);
    written = safetensors_find(st, "written");
    assert_non_null(written);
    assert_int_equal(written->bytes, 16);
    for (int i = 0; i < 2; i++) {
        uint64_t want;

        assert_int_equal(tensor_read(written, 8 * (uint64_t)i, 8, &want), STATUS_OK);
        if (hash_of(dir, files[i]) != want)
            fail_msg("%s is not what Transformers read: run tests/golden/make_quantize.py", files[i]);
    }
    safetensors_close(st);
}

static void check(const struct quantize_case *q, const char *tp, double bound)
{
    const struct way way = {NULL, {"--compute", "f32", "--kv-dtype", "f32", "--tp", tp, NULL}};
    char reference[4096], name[64], out[512];
    struct temp_dir dir;
    double error;

    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s/out", dir.path);
    snprintf(name, sizeof(name), "golden/quantize/%s.safetensors", q->name);
    test_file(reference, name);
    write_case(q, out);
    assert_bytes_are_those_read(out, reference);
    error = reference_error_apart(out, reference, &way);
    print_message("# %s at tp %s: %.2e\n", q->name, tp, error);
    if (!(error <= bound))
        fail_msg("%s at tp %s: relative error %.3e, at most %g is right", q->name, tp, error, bound);
    temp_dir_remove(&dir);
}

static void transformers_gives_the_same_logits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(weights_alone) / sizeof(weights_alone[0]); i++)
        check(&weights_alone[i], i % 2 == 0 ? "1" : "2", 1e-3);
}

/* Each rounds activations by its own rule (127.5 there, 127 here), so codes differ. */
static void transformers_is_near_where_activations_are_quantised(void **state)
{
    (void)state;
    check(&with_activations[0], "1", 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transformers_gives_the_same_logits),
        cmocka_unit_test(transformers_is_near_where_activations_are_quantised),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
