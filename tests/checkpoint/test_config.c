/* test_config.c - config.json in both spellings, its refusals, YaRN, generation_config.json. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "checkpoint/config.h"
#include "checkpoint/generation.h"
#include "quern/log.h"
#include "temp_dir.h"

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

#define SHAPE "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 2, " \
              "\"num_attention_heads\": 8, \"vocab_size\": 320"
#define QWEN3 "\"model_type\": \"qwen3\", " SHAPE

static enum status read_text(const char *json, struct model_config *cfg)
{
    return config_read_file(temp_dir_write(&temp, "config.json", json, strlen(json)), cfg);
}

static struct model_config read_good(const char *json)
{
    struct model_config cfg;

    if (read_text(json, &cfg) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    return cfg;
}

static void assert_refused(const char *json, const char *why)
{
    struct model_config cfg = { .hidden = -7 };

    if (read_text(json, &cfg) != STATUS_INVALID)
        fail_msg("accepted: %s", json);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
    assert_int_equal(cfg.hidden, -7);
}

static void absent_fields_have_the_documented_defaults(void **state)
{
    struct model_config cfg = read_good("{" QWEN3 "}");

    (void)state;
    assert_int_equal(cfg.architecture, ARCHITECTURE_QWEN3);
    assert_int_equal(cfg.head_dim, 128);
    assert_int_equal(cfg.kv_heads, 8);
    assert_int_equal(cfg.max_position, 32768);
    assert_true(cfg.rope_theta == 10000.0);
    assert_true(cfg.rms_eps == 1e-6f);
    assert_int_equal(cfg.dtype, DTYPE_BF16);
    assert_false(cfg.tied);
    assert_false(cfg.attention_bias);
    assert_false(cfg.rope.yarn);
    assert_int_equal(cfg.bos, -1);
    assert_int_equal(cfg.n_eos, 0);
}

static void both_spellings_mean_the_same(void **state)
{
    struct model_config old = read_good(
        "{" QWEN3 ", \"rope_theta\": 5000000, \"torch_dtype\": \"float16\", \"rope_scaling\": "
        "{\"type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 64}}");
    struct model_config new = read_good(
        "{" QWEN3 ", \"dtype\": \"float16\", \"rope_parameters\": {\"rope_theta\": 5000000.0, "
        "\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 64}}");

    (void)state;
    assert_int_equal(old.dtype, DTYPE_F16);
    assert_int_equal(new.dtype, DTYPE_F16);
    assert_true(old.rope_theta == 5e6 && new.rope_theta == 5e6);
    assert_true(old.rope.yarn && new.rope.yarn);
    assert_int_equal(old.rope.original_max, 64);
    assert_int_equal(new.rope.original_max, 64);
    assert_true(old.rope.factor == 4.0 && new.rope.factor == 4.0);
}

static void rope_scaling_replaces_rope_parameters(void **state)
{
    struct model_config cfg = read_good(
        "{" QWEN3 ", \"rope_theta\": 3, \"rope_parameters\": {\"rope_theta\": 7, \"rope_type\": "
        "\"yarn\", \"factor\": 2}, \"rope_scaling\": {\"rope_type\": \"default\"}}");

    (void)state;
    assert_false(cfg.rope.yarn);
    assert_true(cfg.rope_theta == 3.0);
    cfg = read_good("{" QWEN3 ", \"rope_theta\": 3, \"rope_scaling\": null, "
                    "\"rope_parameters\": {\"rope_theta\": 7}}");
    assert_true(cfg.rope_theta == 7.0);
}

static void eos_is_an_id_or_a_list(void **state)
{
    struct model_config cfg = read_good("{" QWEN3 ", \"eos_token_id\": 5, \"bos_token_id\": 3}");

    (void)state;
    assert_int_equal(cfg.n_eos, 1);
    assert_int_equal(cfg.eos[0], 5);
    assert_int_equal(cfg.bos, 3);
    cfg = read_good("{" QWEN3 ", \"eos_token_id\": [5, 6, 5], \"bos_token_id\": null}");
    assert_int_equal(cfg.n_eos, 2);
    assert_int_equal(cfg.bos, -1);
}

static void what_quern_does_not_run_is_refused_by_name(void **state)
{
    (void)state;
    assert_refused("{\"model_type\": \"qwen3_next\"}",
                   "model_type qwen3_next is not one quern runs: it runs qwen3");
    assert_refused("{\"architectures\": [\"LlamaForCausalLM\"]}", "LlamaForCausalLM");
    assert_refused("{}", "model_type is missing");
    assert_refused("{\"model_type\": \"qwen3_moe\", \"num_local_experts\": 8, " SHAPE "}",
                   "Mixture of Experts is not supported by this version");
    assert_refused("{" QWEN3 ", \"use_sliding_window\": true}", "use_sliding_window");
    assert_refused("{" QWEN3 ", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}",
                   "layer_types[1] is sliding_attention");
    assert_refused("{" QWEN3 ", \"hidden_act\": \"gelu\"}", "hidden_act gelu");
    assert_refused("{" QWEN3 ", \"rope_scaling\": {\"rope_type\": \"llama3\"}}",
                   "rope type llama3 is not supported");
    assert_refused("{" QWEN3 ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
                   "rope type linear");
    assert_refused("{" QWEN3 ", \"torch_dtype\": \"float64\"}", "torch_dtype float64");
    assert_refused("{" QWEN3 ", \"partial_rotary_factor\": 0.5}", "partial_rotary_factor");
}

static void bad_values_are_refused_by_field(void **state)
{
    (void)state;
    assert_refused("{\"model_type\": \"qwen3\"}", "hidden_size is missing");
    assert_refused("{" QWEN3 ", \"num_key_value_heads\": 3}",
                   "num_attention_heads 8 is not a multiple of num_key_value_heads 3");
    assert_refused("{" QWEN3 ", \"num_key_value_heads\": 0}", "num_key_value_heads is 0");
    assert_refused("{" QWEN3 ", \"head_dim\": 33}", "head_dim 33 is odd");
    assert_refused("{" QWEN3 ", \"head_dim\": -2}", "head_dim is -2");
    assert_refused("{" QWEN3 ", \"head_dim\": 128.0}", "head_dim is 128.0");
    assert_refused("{" QWEN3 ", \"head_dim\": \"128\"}", "head_dim is \"128\"");
    assert_refused("{" QWEN3 ", \"max_position_embeddings\": 99999999999}",
                   "max_position_embeddings is 99999999999");
    assert_refused("{" QWEN3 ", \"rms_norm_eps\": -1}", "rms_norm_eps");
    assert_refused("{" QWEN3 ", \"rope_theta\": 0}", "rope_theta");
    assert_refused("{" QWEN3 ", \"tie_word_embeddings\": 1}", "tie_word_embeddings is 1");
    assert_refused("{" QWEN3 ", \"eos_token_id\": [-1]}", "eos_token_id has -1");
    assert_refused("{" QWEN3 ", \"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}",
                   "more than 16 token ids");
    assert_refused("{" QWEN3 ", \"vocab_size\": 9}", "duplicate object key");
    assert_refused("[1]", "config.json: the top level is not a JSON object");
    assert_refused("{\n\"model_type\":", "config.json: line 2: not valid JSON");
    assert_refused("", "config.json is empty, not JSON: download it again");
}

static void what_lies_in_the_place_of_config_json_is_named(void **state)
{
    struct model_config cfg;

    (void)state;
    assert_refused("version https://git-lfs.github.com/spec/v1\noid sha256:0",
                   "/config.json is a Git LFS pointer, not JSON: run `git lfs pull`");
    assert_refused("<!doctype html><html>", "/config.json is a web page");
    assert_int_equal(unlink(temp_dir_file(&temp, "config.json")), 0);
    assert_int_equal(mkfifo(temp.joined, 0600), 0);
    alarm(20); /* what waits for a writer ends the test */
    assert_int_equal(config_read(temp.path, &cfg), STATUS_INVALID);
    alarm(0);
    assert_non_null(strstr(log_last_error(), "/config.json is a pipe, not a file"));
    assert_int_equal(unlink(temp.joined), 0);
    assert_int_equal(mkdir(temp.joined, 0700), 0);
    assert_int_equal(config_read(temp.path, &cfg), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "/config.json is a directory, not a file"));
}

static void missing_config_names_its_path(void **state)
{
    struct model_config cfg;

    (void)state;
    assert_int_equal(config_read("/nonexistent", &cfg), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/nonexistent/config.json: No such file"));
}

static void yarn_has_the_published_numbers(void **state)
{
    struct model_config cfg = read_good(
        "{" QWEN3 ", \"rope_theta\": 1000000, \"max_position_embeddings\": 131072, "
        "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
        "\"original_max_position_embeddings\": 32768}}");
    float inv[64], m;
    double low, high;

    (void)state;
    assert_true(fabs(cfg.rope.attention_factor - 1.138629436111989) < 1e-15);
    config_yarn_range(&cfg, &low, &high);
    assert_true(low == 23.0 && high == 40.0);
    config_rope_inv_freq(&cfg, inv, &m);
    assert_true(m == 1.138629436111989f);
    for (int i = 0; i < 64; i++) {
        double plain = pow(1e6, -i / 64.0), ramp = fmin(fmax((i - low) / (high - low), 0.0), 1.0);

        assert_true(fabs(inv[i] / ((1 - ramp) * plain + ramp * plain / 4) - 1) < 1e-6);
    }
    cfg.rope_theta = 5e6;
    cfg.rope.original_max = 262144;
    config_yarn_range(&cfg, &low, &high);
    assert_true(low == 29.0 && high == 45.0);
    cfg.rope.truncate = false;
    config_yarn_range(&cfg, &low, &high);
    assert_true(low > 29.0 && low < 30.0 && high > 44.0 && high < 45.0);
}

static void yarn_defaults_are_resolved(void **state)
{
    struct model_config cfg = read_good(
        "{" QWEN3 ", \"max_position_embeddings\": 256, \"rope_scaling\": {\"rope_type\": "
        "\"yarn\", \"factor\": null, \"beta_fast\": 0, \"beta_slow\": null, \"mscale\": 0, "
        "\"original_max_position_embeddings\": 64, \"attention_factor\": null}}");

    (void)state;
    assert_true(cfg.rope.factor == 4.0);
    assert_true(cfg.rope.beta_fast == 32.0 && cfg.rope.beta_slow == 1.0);
    assert_true(fabs(cfg.rope.attention_factor - 1.138629436111989) < 1e-15);
    cfg = read_good("{" QWEN3 ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                    "\"mscale\": 2, \"mscale_all_dim\": 1}}");
    assert_int_equal(cfg.rope.original_max, 32768);
    assert_true(fabs(cfg.rope.attention_factor - 1.277258872223978 / 1.138629436111989) < 1e-15);
    cfg = read_good("{" QWEN3 ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                    "\"attention_factor\": 1.5, \"mscale\": 2, \"mscale_all_dim\": 1}}");
    assert_true(cfg.rope.attention_factor == 1.5);
}

static void plain_rope_is_float32_powf_and_reciprocal(void **state)
{
    struct model_config cfg = read_good("{" QWEN3 ", \"rope_theta\": 1000000}");
    float inv[64], m;

    (void)state;
    config_rope_inv_freq(&cfg, inv, &m);
    assert_true(m == 1.0f);
    assert_true(inv[0] == 1.0f);
    for (int i = 0; i < 64; i++)
        assert_true(inv[i] == 1.0f / powf(1e6f, (float)(2 * i) / 128.0f));
}

static struct generation_defaults read_generation(const char *json)
{
    struct model_config cfg = { .eos = { 5 }, .n_eos = 1 };
    struct generation_defaults g;

    temp_dir_write(&temp, "generation_config.json", json, strlen(json));
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
    assert_int_equal(generation_read("synth:0.6b", &cfg, &g), STATUS_OK);
    assert_false(g.do_sample);
}

static void generation_refuses_by_field(void **state)
{
    struct model_config cfg = { 0 };
    struct generation_defaults g;
    static const char bad[] = "{\"top_p\": 1.5}";

    (void)state;
    temp_dir_write(&temp, "generation_config.json", bad, strlen(bad));
    assert_int_equal(generation_read(temp.path, &cfg, &g), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "generation_config.json: top_p is 1.5"));
}

static void storyteller_is_read(void **state)
{
    const char *data = getenv("QUERN_DATADIR");
    char dir[PATH_MAX];
    struct model_config cfg;
    struct generation_defaults g;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models/storyteller", data != NULL ? data : "share");
    assert_int_equal(config_read(dir, &cfg), STATUS_OK);
    assert_int_equal(cfg.hidden, 256);
    assert_int_equal(cfg.kv_heads, 2);
    assert_true(cfg.tied);
    assert_true(cfg.rope_theta == 1e6);
    assert_int_equal(generation_read(dir, &cfg, &g), STATUS_OK);
    assert_int_equal(g.n_eos, 2);
    assert_int_equal(g.eos[0], 8154);
    assert_int_equal(g.eos[1], 8152);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(absent_fields_have_the_documented_defaults, make_temp,
                                        remove_temp),
        cmocka_unit_test_setup_teardown(both_spellings_mean_the_same, make_temp, remove_temp),
        cmocka_unit_test_setup_teardown(rope_scaling_replaces_rope_parameters, make_temp,
                                        remove_temp),
        cmocka_unit_test_setup_teardown(eos_is_an_id_or_a_list, make_temp, remove_temp),
        cmocka_unit_test_setup_teardown(what_quern_does_not_run_is_refused_by_name, make_temp,
                                        remove_temp),
        cmocka_unit_test_setup_teardown(bad_values_are_refused_by_field, make_temp, remove_temp),
        cmocka_unit_test_setup_teardown(what_lies_in_the_place_of_config_json_is_named, make_temp,
                                        remove_temp),
        cmocka_unit_test(missing_config_names_its_path),
        cmocka_unit_test_setup_teardown(yarn_has_the_published_numbers, make_temp, remove_temp),
        cmocka_unit_test_setup_teardown(yarn_defaults_are_resolved, make_temp, remove_temp),
        cmocka_unit_test_setup_teardown(plain_rope_is_float32_powf_and_reciprocal, make_temp,
                                        remove_temp),
        cmocka_unit_test_setup_teardown(generation_eos_is_the_union, make_temp, remove_temp),
        cmocka_unit_test(generation_without_a_file_is_greedy),
        cmocka_unit_test_setup_teardown(generation_refuses_by_field, make_temp, remove_temp),
        cmocka_unit_test(storyteller_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
