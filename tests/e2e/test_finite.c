/* test_finite.c - a damaged weight ends requests with an error that names the step, never with
 * token 0 for ever; on request, the first operation is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"

static struct temp_dir dir;

static void copy_story_file(const char *name)
{
    char path[4096];
    unsigned char *mem = malloc(32 << 20);
    FILE *f = fopen(story_file(path, name), "r");
    size_t n;

    assert_non_null(mem);
    assert_non_null(f);
    n = fread(mem, 1, 32 << 20, f);
    fclose(f);
    temp_dir_write(&dir, name, mem, n);
    free(mem);
}

/* Writes bf16 NaN over the tensor's first number, where one of the two shards has it. */
static void damage(const char *tensor)
{
    static const char *const shards[] = {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    static char header[1 << 16];
    int done = 0;

    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(temp_dir_file(&dir, shards[i]), "r+");
        char quoted[256], *at;
        unsigned long first;
        uint64_t bytes;

        assert_non_null(f);
        assert_int_equal(fread(&bytes, 8, 1, f), 1);
        assert_true(bytes < sizeof(header));
        assert_int_equal(fread(header, bytes, 1, f), 1);
        header[bytes] = '\0';
        snprintf(quoted, sizeof(quoted), "\"%s\"", tensor);
        if ((at = strstr(header, quoted)) != NULL &&
            (at = strstr(at, "\"data_offsets\"")) != NULL && sscanf(at, "\"data_offsets\":[%lu",
                &first) == 1) {
            fseek(f, (long)(8 + bytes + first), SEEK_SET);
            done += (int)fwrite("\xc0\x7f", 2, 1, f);
        }
        fclose(f);
    }
    assert_int_equal(done, 1);
}

/* The storyteller in a folder of this test's own, to be damaged. */
static int copy_model(void **state)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};

    (void)state;
    temp_dir_make(&dir);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        copy_story_file(names[i]);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

/* Exit status 1, no id, and `line` among what is said. */
static void run_says(const char *const env[], const char *tp, const char *temperature,
    const char *line)
{
    struct command c;

    child_run(&c, env, (const char *const[]){"run", "-m", dir.path, "--tp", tp, "--threads", "1",
        "--temperature", temperature, "--seed", "1", "-n", "5", "--print-ids", "Once upon", NULL});
    if (c.status != 1 || strstr(c.err, line) == NULL || strpbrk(c.out, "0123456789") != NULL)
        fail_msg("tp %s, temperature %s: status %d, \"%s\", \"%s\"; wanted 1 and \"%s\"", tp,
            temperature, c.status, c.out, c.err, line);
    child_free(&c);
}

static const char said[] = "step 0 gave logits that are not finite";

static void damaged_norm_is_an_error_that_names_the_step(void **state)
{
    (void)state;
    damage("model.norm.weight");
    for (int t = 0; t < 3; t++) {
        static const char *const tps[] = {"1", "2", "4"};

        run_says(NULL, tps[t], "0", said);
        run_says(NULL, tps[t], "0.8", said);
    }
}

static void first_layer_that_is_not_finite_is_named_on_request(void **state)
{
    static const char *const env[] = {"QUERN_CHECK_FINITE=1", NULL};

    (void)state;
    damage("model.layers.5.post_attention_layernorm.weight");
    run_says(env, "1", "0", "of layer 5, model.layers.5.post_attention_layernorm.weight is not finite");
    run_says(env, "2", "0", "of layer 5, model.layers.5.post_attention_layernorm.weight is not finite");
    run_says(env, "1", "0", said);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(damaged_norm_is_an_error_that_names_the_step, copy_model,
            remove_model),
        cmocka_unit_test_setup_teardown(first_layer_that_is_not_finite_is_named_on_request,
            copy_model, remove_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
