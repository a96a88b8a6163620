/* test_config_rope.c - rope in config.json: YaRN's rules, its context, and every frequency's bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "checkpoint/config.h"
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
    /* one of the two alone changes nothing */
    cfg = read_good("{" QWEN3 ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                    "\"mscale\": 2}}");
    assert_true(fabs(cfg.rope.attention_factor - 1.138629436111989) < 1e-15);
    cfg = read_good("{" QWEN3 ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                    "\"mscale_all_dim\": 2}}");
    assert_true(fabs(cfg.rope.attention_factor - 1.138629436111989) < 1e-15);
}

static void yarn_lengthens_the_context(void **state)
{
    struct model_config cfg = read_good(
        "{" QWEN3 ", \"max_position_embeddings\": 40960, \"rope_scaling\": {\"rope_type\": "
        "\"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 32768}}");

    (void)state;
    assert_int_equal(cfg.max_position, 131072);
    assert_int_equal(cfg.rope.original_max, 32768);
    cfg = read_good("{" QWEN3 ", \"max_position_embeddings\": 40960, \"rope_scaling\": "
                    "{\"type\": \"yarn\", \"factor\": 2}}");
    assert_int_equal(cfg.rope.original_max, 40960);
    assert_int_equal(cfg.max_position, 81920);
    cfg = read_good("{" QWEN3 ", \"max_position_embeddings\": 40960, \"rope_scaling\": {\"type\": "
                    "\"yarn\", \"factor\": 1, \"original_max_position_embeddings\": 32768}}");
    assert_int_equal(cfg.max_position, 40960);
    cfg = read_good("{" QWEN3 ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 1e6}}");
    assert_int_equal(cfg.max_position, 1 << 30);
}

/* Every bit, also where a ramp's end is beyond the lanes and a head is no power of two wide. */
static void rope_is_what_transformers_computes(void **state)
{
    const char *tests = getenv("QUERN_TEST_DATA");
    json_t *cases, *one, *fields, *value;
    const char *key;
    char path[PATH_MAX];
    size_t i;

    (void)state;
    snprintf(path, sizeof(path), "%s/golden/rope.json", tests != NULL ? tests : "tests");
    cases = json_load_file(path, 0, NULL);
    assert_non_null(cases);
    json_array_foreach(cases, i, one) {
        const json_t *want = json_object_get(one, "inv_freq");
        struct model_config cfg;
        float inv[64], m;
        char *text;

        fields = json_loads("{" QWEN3 "}", 0, NULL);
        json_object_foreach(json_object_get(one, "config"), key, value)
            json_object_set(fields, key, value);
        text = json_dumps(fields, 0);
        cfg = read_good(text);
        config_rope_inv_freq(&cfg, inv, &m);
        assert_int_equal(json_array_size(want), cfg.head_dim / 2);
        for (int lane = 0; lane < cfg.head_dim / 2; lane++)
            if (inv[lane] != strtof(json_string_value(json_array_get(want, (size_t)lane)), NULL))
                fail_msg("lane %d of %s is %a", lane, text, (double)inv[lane]);
        assert_true(m == strtof(json_string_value(json_object_get(one, "attention_factor")), NULL));
        free(text);
        json_decref(fields);
    }
    assert_true(i >= 9);
    json_decref(cases);
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

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(yarn_has_the_published_numbers),
        IN_TEMP(yarn_defaults_are_resolved),
        IN_TEMP(yarn_lengthens_the_context),
        IN_TEMP(rope_is_what_transformers_computes),
        IN_TEMP(plain_rope_is_float32_powf_and_reciprocal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
