/* test_likelihood.c - the storyteller's likelihood of stories it has not seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/safetensors.h"
#include "tests/e2e/command.h"

enum { TOKENS = 1024 };

static int ids[TOKENS];
static char ids_text[8 * TOKENS];

/* nll.txt as one JSON string through quern tokenize: its first 1024 ids, nothing before them. */
static int read_ids(void **state)
{
    const char *words[] = {"tokenize", NULL};
    char path[4096], *line;
    json_t *text, *all;
    struct command c;
    size_t at = 0;
    FILE *f = fopen(story_file(path, "nll.txt"), "rb");
    char story[16384];

    (void)state;
    if (f == NULL)
        return -1;
    story[fread(story, 1, sizeof(story) - 1, f)] = '\0';
    fclose(f);
    text = json_string(story);
    line = json_dumps(text, JSON_ENCODE_ANY);
    child_start(&c, NULL, words, line);
    if (child_finish(&c, 20000) != 0)
        return -1;
    all = json_loads(c.out, 0, NULL);
    for (size_t i = 0; i < TOKENS; i++) {
        ids[i] = (int)json_integer_value(json_array_get(all, i));
        at += (size_t)snprintf(ids_text + at, sizeof(ids_text) - at, "%s%d", i > 0 ? "," : "", ids[i]);
    }
    json_decref(all);
    json_decref(text);
    free(line);
    child_free(&c);
    return 0;
}

static double row_nll(const float *logits, uint64_t vocab, int next)
{
    double most = logits[0], sum = 0;

    for (uint64_t i = 1; i < vocab; i++)
        most = logits[i] > most ? logits[i] : most;
    for (uint64_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - most);
    return most + log(sum) - logits[next];
}

static double mean_nll(const char *const extra[])
{
    char output[256];
    const char *words[COMMAND_ARGS] = {"logits", "--ids", ids_text, "--last", "1024", "-o", output};
    const struct tensor_view *logits;
    struct safetensors *file;
    struct command c;
    double sum = 0;
    float *values;

    for (int i = 0; extra[i] != NULL; i++)
        words[7 + i] = extra[i];
    snprintf(output, sizeof(output), "%s/quern-nll-%d.safetensors",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
    if (child_run(&c, NULL, words) != 0)
        fail_msg("quern logits: %s", c.err);
    child_free(&c);
    assert_int_equal(safetensors_open(output, &file), STATUS_OK);
    logits = safetensors_find(file, "logits");
    assert_non_null(logits);
    values = malloc(logits->bytes);
    assert_non_null(values);
    assert_int_equal(tensor_read(logits, 0, logits->bytes, values), STATUS_OK);
    for (int i = 0; i + 1 < TOKENS; i++)
        sum += row_nll(values + (size_t)i * logits->shape[1], logits->shape[1], ids[i + 1]);
    free(values);
    safetensors_close(file);
    unlink(output);
    return sum / (TOKENS - 1);
}

static void check(double bound, const char *const extra[])
{
    double nll = mean_nll(extra);

    print_message("# mean negative log-likelihood %.5f\n", nll);
    if (!(fabs(nll - 1.3737) <= bound))
        fail_msg("mean negative log-likelihood %.5f is not 1.3737 +- %g", nll, bound);
}

static void f32_likelihood_is_the_reference(void **state)
{
    (void)state;
    check(0.0005, (const char *[]){"--compute", "f32", "--kv-dtype", "f32", NULL});
}

static void default_likelihood_is_near(void **state)
{
    (void)state;
    check(0.01, (const char *[]){"--tp", "1", NULL});
    check(0.01, (const char *[]){"--kv-dtype", "f16", "--tp", "2", NULL});
    check(0.01, (const char *[]){"--kv-dtype", "fp8", "--tp", "2", NULL});
}

/* The whole way of a quantised model: weights cut to int8 while they load, activations as they are
 * or per token. */
static void int8_costs_little_likelihood(void **state)
{
    (void)state;
    check(0.01, (const char *[]){"--quant", "int8", "--tp", "2", NULL});
    check(0.01, (const char *[]){"--quant", "int8", "--quant-activations", "dynamic", "--tp", "2",
        NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_likelihood_is_the_reference),
        cmocka_unit_test(default_likelihood_is_near),
        cmocka_unit_test(int8_costs_little_likelihood),
    };

    return cmocka_run_group_tests(tests, read_ids, NULL);
}
