/* test_sampled.c - from seed to text: what the storyteller says when it is sampled, as computed by
 * Transformers and a sampler of its own (tests/golden/make_sampled.py), at every ISA level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"

enum { NUMBER = 32 };

static json_t *runs;

static int read_runs(void **state)
{
    json_error_t error;
    char path[4096];

    (void)state;
    runs = json_load_file(test_file(path, "golden/sampled.json"), JSON_REJECT_DUPLICATES, &error);
    return json_array_size(runs) > 0 ? 0 : -1;
}

static int free_runs(void **state)
{
    (void)state;
    json_decref(runs);
    return 0;
}

static const char *text_of(const json_t *run, const char *key)
{
    const char *text = json_string_value(json_object_get(run, key));

    assert_non_null(text);
    return text;
}

static const char *number_of(char text[NUMBER], const json_t *run, const char *key)
{
    assert_true(json_is_number(json_object_get(run, key)));
    snprintf(text, NUMBER, "%.9g", json_number_value(json_object_get(run, key)));
    return text;
}

/* "1,2,3" */
static void wanted_ids(const json_t *run, char *text, size_t room)
{
    json_t *id;
    size_t i, at = 0;

    json_array_foreach(json_object_get(run, "ids"), i, id)
        at += (size_t)snprintf(text + at, room - at, "%s%d", i > 0 ? "," : "",
            (int)json_integer_value(id));
    assert_true(at > 0 && at < room);
}

static void says(const json_t *run, const char *isa, const char *tp, bool print_ids)
{
    char level[64], temperature[NUMBER], top_k[NUMBER], top_p[NUMBER], min_p[NUMBER], n[NUMBER];
    char want[1024];
    const char *env[] = {level, NULL};
    struct command c;

    snprintf(level, sizeof(level), "QUERN_CPU_ISA=%s", isa);
    snprintf(n, sizeof(n), "%zu", json_array_size(json_object_get(run, "ids")));
    child_run(&c, env, (const char *const[]){"run", "--compute", "f32", "--kv-dtype", "f32",
        "--threads", "1", "--tp", tp, "--seed", text_of(run, "seed"), "--temperature",
        number_of(temperature, run, "temperature"), "--top-k", number_of(top_k, run, "top_k"),
        "--top-p", number_of(top_p, run, "top_p"), "--min-p", number_of(min_p, run, "min_p"), "-n",
        n, "--ignore-eos", text_of(run, "prompt"), print_ids ? "--print-ids" : NULL, NULL});
    if (print_ids)
        wanted_ids(run, want, sizeof(want));
    else
        snprintf(want, sizeof(want), "%s", text_of(run, "text"));
    if (c.out_bytes > 0)
        c.out[c.out_bytes - 1] = '\0'; /* the one newline */
    if (c.status != 0 || strcmp(c.out, want) != 0)
        fail_msg("\"%s\", seed %s, at %s, tp %s: status %d, got %s, want %s; it said %s",
            text_of(run, "prompt"), text_of(run, "seed"), isa, tp, c.status, c.out, want, c.err);
    child_free(&c);
}

static void seeds_give_their_ids_at_every_level(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    json_t *run;
    size_t i;

    (void)state;
    for (int k = 0, n = cpu_isa_levels(levels); k < n; k++) {
        print_message("# %s\n", cpu_isa_name(levels[k]));
        json_array_foreach(runs, i, run)
            says(run, cpu_isa_name(levels[k]), "1", true);
    }
}

static void seeds_give_their_text(void **state)
{
    json_t *run;
    size_t i;

    (void)state;
    json_array_foreach(runs, i, run)
        says(run, "", "1", false);
}

static void seeds_give_their_ids_over_ranks(void **state)
{
    static const char *const tps[] = {"2", "3", "4"};
    json_t *run;
    size_t i;

    (void)state;
    json_array_foreach(runs, i, run)
        says(run, "", tps[i % 3], true);
}

/* The checkpoint's own defaults ------------------------------------------------------------ */

static struct temp_dir dir;

/* The storyteller with another generation_config.json. */
static void make_model(const char *config)
{
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
        "model.safetensors.index.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors"};
    char from[4096], whole[PATH_MAX];

    temp_dir_make(&dir);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_non_null(realpath(story_file(from, names[i]), whole));
        assert_int_equal(symlink(whole, temp_dir_file(&dir, names[i])), 0);
    }
    temp_dir_write(&dir, "generation_config.json", config, strlen(config));
}

/* Ids for a seed, with no word about how to sample; malloc'ed. */
static char *ids_by_default(const char *config, const char *seed, const char *extra)
{
    struct command c;
    char *ids;

    make_model(config);
    child_run(&c, NULL, (const char *const[]){"run", "-m", dir.path, "--compute", "f32",
        "--kv-dtype", "f32", "--threads", "1", "-n", "24", "--ignore-eos", "--seed", seed,
        "--print-ids", "Once upon a time", extra, NULL});
    temp_dir_remove(&dir);
    if (c.status != 0)
        fail_msg("%s: status %d, %s", config, c.status, c.err);
    ids = strdup(c.out);
    assert_non_null(ids);
    child_free(&c);
    return ids;
}

static void do_sample_false_is_greedy_whatever_the_temperature(void **state)
{
    static const char no[] = "{\"do_sample\": false, \"temperature\": 1.5}",
                      yes[] = "{\"do_sample\": true, \"temperature\": 1.5}";
    char *greedy = ids_by_default(yes, "1", "--greedy"), *one = ids_by_default(no, "1", NULL),
         *two = ids_by_default(no, "2", NULL), *sampled = ids_by_default(yes, "1", NULL),
         *other = ids_by_default(yes, "2", NULL);

    (void)state;
    assert_string_equal(one, greedy);
    assert_string_equal(two, greedy);
    assert_string_not_equal(sampled, greedy);
    assert_string_not_equal(sampled, other);
    free(greedy);
    free(one);
    free(two);
    free(sampled);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_give_their_ids_at_every_level),
        cmocka_unit_test(seeds_give_their_text),
        cmocka_unit_test(seeds_give_their_ids_over_ranks),
        cmocka_unit_test(do_sample_false_is_greedy_whatever_the_temperature),
    };

    return cmocka_run_group_tests(tests, read_runs, free_runs);
}
