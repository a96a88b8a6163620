/* test_autoround.c - auto-round's packings are GPTQ's and AWQ's; other tools' checkpoints are named. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/scheme.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/quant/quant_support.h"

#define Q "model.layers.0.self_attn.q_proj"
#define O "model.layers.0.self_attn.o_proj"
#define DOWN "model.layers.0.mlp.down_proj"

/* A golden checkpoint whose config.json says `quantization` instead. */
static void open_as(struct quant_model *m, struct temp_dir *dir, const char *name,
    const char *quantization)
{
    char golden[1024], path[1100], real[PATH_MAX];
    json_t *root, *changed = json_loads(quantization, 0, NULL);

    temp_dir_make(dir);
    assert_non_null(realpath(golden_path(golden, name), real));
    snprintf(path, sizeof(path), "%s/config.json", golden);
    root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    assert_non_null(changed);
    json_object_set_new(root, "quantization_config", changed);
    assert_int_equal(json_dump_file(root, temp_dir_file(dir, "config.json"), 0), 0);
    json_decref(root);
    strncat(real, "/model.safetensors", sizeof(real) - strlen(real) - 1);
    assert_int_equal(symlink(real, temp_dir_file(dir, "model.safetensors")), 0);
    if (quant_model_open(m, dir->path, NULL) != STATUS_OK)
        fail_msg("%s: %s", quantization, log_last_error());
}

static void assert_same_weights(const char *name, const char *quantization)
{
    struct module_shape modules[LAYER_MODULES];
    struct quant_model want, got;
    struct temp_dir dir;
    char golden[1024];

    assert_int_equal(quant_model_open(&want, golden_path(golden, name), NULL), STATUS_OK);
    open_as(&got, &dir, name, quantization);
    layer_modules(&want.cfg, 0, modules);
    for (int i = 0; i < LAYER_MODULES; i++) {
        const struct module_shape *s = &modules[i];
        struct loaded x, y;

        assert_int_equal(loaded_part(&want, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &x),
            STATUS_OK);
        if (loaded_part(&got, s->name, s->rows, s->cols, 0, s->rows, 0, s->cols, &y) != STATUS_OK)
            fail_msg("%s: %s", s->name, log_last_error());
        assert_memory_equal(x.value, y.value, (size_t)s->rows * s->cols * sizeof(float));
        loaded_free(&want, &x);
        loaded_free(&got, &y);
    }
    quant_model_close(&want);
    quant_model_close(&got);
    temp_dir_remove(&dir);
}

#define AUTO "{\"quant_method\": \"auto-round\", \"data_type\": \"int\", \"sym\": "

static void packings_are_those_of_gptq_and_awq(void **state)
{
    (void)state;
    assert_same_weights("quant/gptq_v1", AUTO "true, \"bits\": 4, \"group_size\": 32, "
        "\"packing_format\": \"auto_round:auto_gptq\", \"autoround_version\": \"0.9\"}");
    assert_same_weights("quant/gptq_v1", "{\"quant_method\": \"intel/auto-round\", "
        "\"bits\": 4, \"group_size\": 32, \"sym\": true}");
    assert_same_weights("quant/gptq_v1_8bit", AUTO "false, \"bits\": 8, \"group_size\": 32, "
        "\"packing_format\": \"auto_round:auto_gptq\", \"act_bits\": 16}");
    assert_same_weights("quant/gptq_v2_asym", AUTO "false, \"bits\": 4, \"group_size\": 32, "
        "\"packing_format\": \"auto_round\"}");
    assert_same_weights("quant/gptq_v2_asym", AUTO "false, \"bits\": 4, \"group_size\": 32, "
        "\"packing_format\": \"auto_round:gptqmodel\"}");
    assert_same_weights("quant/awq_g32", AUTO "false, \"bits\": 4, \"group_size\": 32, "
        "\"packing_format\": \"auto_round:auto_awq\"}");
    assert_same_weights("quant/gptq_v1_dynamic", AUTO "true, \"bits\": 4, \"group_size\": -1, "
        "\"packing_format\": \"auto_round:auto_gptq\", \"extra_config\": {\"" O "\": "
        "{\"bits\": 16, \"data_type\": \"fp\"}, \"down_.roj$\": {\"bits\": 8, "
        "\"group_size\": 16}}}");
    assert_int_equal(backend_bytes_held(), 0);
}

static void exceptions_by_name_win_over_expressions(void **state)
{
    struct quant_model m;
    struct temp_dir dir;

    (void)state;
    open_as(&m, &dir, "quant/gptq_v1", AUTO "true, \"bits\": 4, \"extra_config\": {\"mlp.*\": "
        "{\"bits\": 16}, \"" DOWN "\": {\"bits\": 8}, \"modelxlayers\": {\"bits\": 8}}}");
    assert_int_equal(quant_rule_of(&m.loader, DOWN)->bits, 8);
    assert_null(quant_rule_of(&m.loader, "model.layers.0.mlp.up_proj"));
    assert_null(quant_rule_of(&m.loader, "model.layers.0.mlp"));
    assert_int_equal(quant_rule_of(&m.loader, Q)->bits, 4);
    assert_int_equal(quant_rule_of(&m.loader, "model.layers.0.xmodel")->bits, 4);
    quant_model_close(&m);
    temp_dir_remove(&dir);
}

/* config.json with this after its shape; the message of opening it. */
static void assert_refused(const char *more, const char *why)
{
    struct quant_scheme *scheme = NULL;
    struct temp_dir dir;
    char json[1024];

    temp_dir_make(&dir);
    snprintf(json, sizeof(json), "{\"model_type\": \"qwen3\", %s}", more);
    temp_dir_write(&dir, "config.json", json, strlen(json));
    assert_int_equal(quant_open(dir.path, NULL, &scheme), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
    temp_dir_remove(&dir);
}

#define CONFIG "\"quantization_config\": "

static void what_auto_round_has_and_quern_has_not_is_named(void **state)
{
    (void)state;
    assert_refused(CONFIG AUTO "true, \"packing_format\": \"auto_round:llm_compressor\"}",
        "packing_format auto_round:llm_compressor is not supported");
    assert_refused(CONFIG AUTO "true, \"act_bits\": 8}", "data_type int and act_bits 8 is not");
    assert_refused(CONFIG "{\"quant_method\": \"auto-round\", \"data_type\": \"mx_fp\"}",
        "data_type mx_fp");
    assert_refused(CONFIG AUTO "true, \"bits\": 2}", "bits 2 is not supported");
    assert_refused(CONFIG AUTO "true, \"extra_config\": {\"a\": 4}}", "extra_config a is not");
    assert_refused(CONFIG AUTO "true, \"extra_config\": {\"a\": {\"bits\": 3}}}", "bits 3");
    assert_refused(CONFIG AUTO "true, \"extra_config\": {\"(\": {\"bits\": 8}}}",
        "is not a regular expression");
}

static void checkpoints_of_other_tools_are_named(void **state)
{
    (void)state;
    assert_refused("\"quantization\": {\"group_size\": 64, \"bits\": 4}",
        "this is a checkpoint of MLX's, of 4 bits: get the repository that it was made from");
    assert_refused("\"quantization\": {\"group_size\": 64, \"bits\": 8}, " CONFIG
        "{\"group_size\": 64, \"bits\": 8}", "this is a checkpoint of MLX's, of 8 bits");
    assert_refused(CONFIG "{\"load_in_4bit\": true}", "quant_method bitsandbytes is not supported");
    assert_refused(CONFIG "{\"quant_method\": \"bitsandbytes\"}", "bitsandbytes is not supported");
    assert_refused(CONFIG "{\"quant_method\": \"hqq\"}", "quant_method hqq is not supported: quern "
        "reads fp8, compressed-tensors, awq, gptq, auto-round");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packings_are_those_of_gptq_and_awq),
        cmocka_unit_test(exceptions_by_name_win_over_expressions),
        cmocka_unit_test(what_auto_round_has_and_quern_has_not_is_named),
        cmocka_unit_test(checkpoints_of_other_tools_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
