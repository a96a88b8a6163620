/* test_generation.c - generation_config.json: defaults, the ids that end, what is warned about. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "checkpoint/generation.h"
#include "quern/log.h"
#include "temp_dir.h"

#define SHAPE "\"model_type\": \"qwen3\", \"hidden_size\": 64, \"intermediate_size\": 96, " \
              "\"num_hidden_layers\": 2, \"num_attention_heads\": 8, \"vocab_size\": 320"

static struct temp_dir temp;

static int make_temp(void **state)
{
    (void)state;
    temp_dir_make(&temp);
    return 0;
}

static int remove_temp(void **state)
{
    (void)state;
    temp_dir_remove(&temp);
    return 0;
}

static void write_generation(const char *json)
{
    temp_dir_write(&temp, "generation_config.json", json, strlen(json));
}

static struct generation_defaults read_generation(const char *json)
{
    struct model_config cfg = { .eos = { 5 }, .n_eos = 1 };
    struct generation_defaults g;

    write_generation(json);
    if (generation_read(temp.path, &cfg, &g) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    return g;
}

static void generation_eos_is_the_union(void **state)
{
    struct generation_defaults g = read_generation(
        "{\"do_sample\": true, \"eos_token_id\": [7, 5], \"temperature\": 0.6, \"top_k\": 20, "
        "\"top_p\": 0.95, \"pad_token_id\": 1}");

    (void)state;
    assert_true(g.do_sample);
    assert_true(g.temperature == 0.6f && g.top_p == 0.95f && g.min_p == 0.0f);
    assert_int_equal(g.top_k, 20);
    assert_int_equal(g.n_eos, 2);
    assert_int_equal(g.eos[0], 5);
    assert_int_equal(g.eos[1], 7);
    generation_free(&g);
}

static void penalty_and_least_length_are_defaults(void **state)
{
    struct model_config cfg = { .eos = { 5 }, .n_eos = 1 };
    struct generation_defaults g = read_generation(
        "{\"repetition_penalty\": 1.05, \"min_new_tokens\": 3}");

    (void)state;
    assert_true(g.repetition_penalty == 1.05f);
    assert_int_equal(g.min_new_tokens, 3);
    generation_free(&g);
    g = read_generation("{}");
    assert_true(g.repetition_penalty == 1.0f);
    assert_int_equal(g.min_new_tokens, 0);
    generation_free(&g);
    write_generation("{\"repetition_penalty\": 0}");
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_INVALID);
    write_generation("{\"min_new_tokens\": -1}");
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_INVALID);
}

/* More than a model_config keeps: they are read once more. */
static void every_id_of_a_long_list_ends_an_answer(void **state)
{
    struct generation_defaults g;
    struct model_config cfg;
    char json[4096] = "{" SHAPE ", \"eos_token_id\": [0";

    (void)state;
    for (int id = 1; id < 300; id++)
        snprintf(json + strlen(json), sizeof(json) - strlen(json), ", %d", id);
    strcat(json, "]}");
    temp_dir_write(&temp, "config.json", json, strlen(json));
    assert_int_equal(config_read(temp.path, &cfg), STATUS_OK);
    write_generation("{\"eos_token_id\": [299, 300]}");
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_OK);
    assert_int_equal(g.n_eos, 301);
    for (int id = 0; id < 301; id++)
        assert_int_equal(g.eos[id], id);
    generation_free(&g);
}

static char heard[4096];

static void hear(void *context, enum log_level level, const char *line)
{
    (void)context;
    if (level == LOG_LEVEL_WARN)
        snprintf(heard + strlen(heard), sizeof(heard) - strlen(heard), "%s\n", line);
}

static const char *warnings_of(const char *json)
{
    struct generation_defaults g;

    heard[0] = '\0';
    log_set_level(LOG_LEVEL_WARN);
    log_set_sink(hear, NULL);
    g = read_generation(json);
    log_set_sink(NULL, NULL);
    generation_free(&g);
    return heard;
}

static void keys_that_change_answers_are_warned_about_in_one_line(void **state)
{
    (void)state;
    assert_string_equal(warnings_of("{\"no_repeat_ngram_size\": 3, \"num_beams\": 4, "
                                    "\"bad_words_ids\": [[5]], \"stop_strings\": [\"x\"]}"),
                        "generation_config.json asks for no_repeat_ngram_size, num_beams, "
                        "bad_words_ids, stop_strings, which this version does not do: answers are "
                        "as without\n");
    assert_string_equal(warnings_of(
        "{\"repetition_penalty\": 1, \"num_beams\": 1, \"no_repeat_ngram_size\": 0, "
        "\"bad_words_ids\": [], \"suppress_tokens\": null, \"sequence_bias\": {}, "
        "\"typical_p\": 1.0, \"guidance_scale\": null, \"max_new_tokens\": 2048, "
        "\"cache_implementation\": \"static\", \"length_penalty\": 2.0, "
        "\"transformers_version\": \"4.51.0\", \"watermarking_config\": false}"), "");
    /* what bears on sampling alone, without and with it */
    assert_string_equal(warnings_of("{\"typical_p\": 0.5, \"eta_cutoff\": 0.1}"), "");
    assert_string_equal(warnings_of("{\"typical_p\": 0.5, \"do_sample\": true, \"top_k\": 1}"),
                        "");
    assert_non_null(strstr(warnings_of("{\"typical_p\": 0.5, \"do_sample\": true}"), "typical_p"));
    assert_non_null(strstr(warnings_of("{\"min_length\": \"5\"}"), "min_length"));
}

/* As older versions of Transformers saved them, and its newer ones read them. */
static void keys_in_config_json_count_where_there_is_no_generation_config(void **state)
{
    static const char json[] = "{" SHAPE ", \"do_sample\": true, \"temperature\": 0.5, "
                               "\"eos_token_id\": 5, \"no_repeat_ngram_size\": 3}";
    struct model_config cfg = { .eos = { 5 }, .n_eos = 1 };
    struct generation_defaults g;

    (void)state;
    temp_dir_write(&temp, "config.json", json, strlen(json));
    assert_string_equal(warnings_of("{\"top_k\": 7}"), ""); /* the other file's alone */
    unlink(temp_dir_file(&temp, "generation_config.json"));
    heard[0] = '\0';
    log_set_sink(hear, NULL);
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_OK);
    log_set_sink(NULL, NULL);
    assert_true(g.do_sample && g.temperature == 0.5f && g.top_k == 0);
    assert_int_equal(g.n_eos, 1);
    assert_string_equal(heard, "config.json asks for no_repeat_ngram_size, which this version does "
                               "not do: answers are as without\n");
    generation_free(&g);
    unlink(temp_dir_file(&temp, "config.json"));
}

static void a_top_p_of_zero_keeps_the_likeliest(void **state)
{
    struct generation_defaults g = read_generation("{\"do_sample\": true, \"top_p\": 0}");

    (void)state;
    assert_true(g.top_p > 0.0f && g.top_p < 1e-5f);
    generation_free(&g);
}

static void what_lies_in_the_place_of_generation_config_is_named(void **state)
{
    struct model_config cfg = { 0 };
    struct generation_defaults g;

    (void)state;
    temp_dir_write(&temp, "generation_config.json", "", 0);
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "/generation_config.json is empty, not JSON"));
    assert_int_equal(unlink(temp.joined), 0);
    assert_int_equal(mkfifo(temp.joined, 0600), 0);
    alarm(20);
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_INVALID);
    alarm(0);
    assert_int_equal(unlink(temp.joined), 0);
    assert_int_equal(symlink("../../blobs/9f", temp.joined), 0);
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "is a link to ../../blobs/9f, which is not there"));
}

static void generation_without_a_file_is_greedy(void **state)
{
    struct model_config cfg = { .eos = { 5, 6 }, .n_eos = 2 };
    struct generation_defaults g;

    (void)state;
    assert_int_equal(generation_read("/nonexistent", &cfg, &g), STATUS_OK);
    assert_false(g.do_sample);
    assert_int_equal(g.n_eos, 2);
    assert_int_equal(g.top_k, 0);
    generation_free(&g);
    assert_int_equal(generation_read("synth:0.6b", &cfg, &g), STATUS_OK);
    assert_false(g.do_sample);
    generation_free(&g);
}

static void generation_refuses_by_field(void **state)
{
    struct model_config cfg = { 0 };
    struct generation_defaults g;

    (void)state;
    write_generation("{\"top_p\": 1.5}");
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation_config.json: top_p is 1.5"));
}

static void storyteller_has_two_ids_that_end(void **state)
{
    const char *data = getenv("QUERN_DATADIR");
    struct generation_defaults g;
    struct model_config cfg;
    char dir[PATH_MAX];

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models/storyteller", data != NULL ? data : "share");
    assert_int_equal(config_read(dir, &cfg), STATUS_OK);
    assert_int_equal(generation_read(dir, &cfg, &g), STATUS_OK);
    assert_int_equal(g.n_eos, 2);
    assert_int_equal(g.eos[0], 8154);
    assert_int_equal(g.eos[1], 8152);
    generation_free(&g);
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(generation_eos_is_the_union),
        IN_TEMP(penalty_and_least_length_are_defaults),
        IN_TEMP(generation_refuses_by_field),
        IN_TEMP(every_id_of_a_long_list_ends_an_answer),
        IN_TEMP(keys_that_change_answers_are_warned_about_in_one_line),
        IN_TEMP(keys_in_config_json_count_where_there_is_no_generation_config),
        IN_TEMP(a_top_p_of_zero_keeps_the_likeliest),
        IN_TEMP(what_lies_in_the_place_of_generation_config_is_named),
        cmocka_unit_test(generation_without_a_file_is_greedy),
        cmocka_unit_test(storyteller_has_two_ids_that_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
