/* test_scheme.c - configurations: who is quantised by what, and what is refused by name. */
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

#define CT(group, more) \
    "{\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", " \
    "\"config_groups\": {\"group_0\": " group "}" more "}"
#define INT8_WEIGHTS "\"weights\": {\"num_bits\": 8, \"type\": \"int\", \"strategy\": \"channel\"}"

/* The message of opening a checkpoint with this quantization_config; "" if it opens. */
static const char *message_of(const char *quantization)
{
    static char line[LOG_LINE_BYTES];
    struct quant_scheme *scheme = NULL;
    struct temp_dir dir;

    line[0] = '\0';
    temp_dir_make(&dir);
    write_checkpoint(dir.path, quantization, NULL, 0);
    if (quant_open(dir.path, NULL, &scheme) == STATUS_INVALID)
        snprintf(line, sizeof(line), "%s", log_last_error());
    else
        quant_close(scheme);
    temp_dir_remove(&dir);
    return line;
}

static void assert_refused(const char *quantization, const char *why)
{
    const char *line = message_of(quantization);

    if (strstr(line, why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", line, why);
}

static void layouts_that_are_not_read_are_named(void **state)
{
    (void)state;
    assert_refused("{\"quant_method\": \"mxfp4\"}", "quant_method mxfp4 is not supported");
    assert_refused("{\"bits\": 4}", "quant_method is missing");
    assert_refused("[]", "quantization_config must be an object");
    assert_refused("{\"quant_method\": \"awq\", \"version\": \"gemv\"}",
        "AWQ version gemv is not supported: quern reads gemm");
    assert_refused("{\"quant_method\": \"awq\", \"version\": \"gemv_fast\"}", "gemv_fast");
    assert_refused("{\"quant_method\": \"awq\", \"version\": \"marlin\"}", "marlin");
    assert_refused("{\"quant_method\": \"awq\", \"bits\": 3}", "bits 3 is not supported: use 4");
    assert_refused("{\"quant_method\": \"gptq\", \"checkpoint_format\": \"marlin\"}",
        "checkpoint_format marlin is not supported");
    assert_refused("{\"quant_method\": \"gptq\", \"is_marlin_format\": true}", "marlin");
    assert_refused("{\"quant_method\": \"gptq\", \"bits\": 3}", "bits 3 is not supported");
    assert_refused("{\"quant_method\": \"gptq\", \"pack_dtype\": \"int16\"}", "pack_dtype int16");
    assert_refused("{\"quant_method\": \"gptq\", \"dynamic\": {\"(\": {}}}",
        "is not a regular expression");
    assert_refused("{\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}", "fmt e5m2 is not supported");
    assert_refused("{\"quant_method\": \"fp8\", \"weight_block_size\": [128]}",
        "weight_block_size must be two numbers");
    assert_refused("{\"quant_method\": \"fp8\", \"activation_scheme\": \"static\", "
        "\"weight_block_size\": [128, 128]}", "blocks have dynamic activations");
    assert_refused("{\"quant_method\": \"blockwise_int8\", \"activation_scheme\": \"static\"}",
        "static is not supported");
}

static void compressed_schemes_that_are_not_read_are_named(void **state)
{
    (void)state;
    assert_refused(CT("{\"format\": \"nvfp4-pack-quantized\", " INT8_WEIGHTS "}", ""),
        "group_0: format nvfp4-pack-quantized is not supported");
    assert_refused(CT("{\"format\": \"mxfp4-pack-quantized\", " INT8_WEIGHTS "}", ""), "mxfp4");
    assert_refused(CT("{\"format\": \"mxfp8-quantized\", " INT8_WEIGHTS "}", ""), "mxfp8");
    assert_refused(CT("{\"format\": \"marlin-24\", " INT8_WEIGHTS "}", ""), "marlin-24");
    assert_refused(CT("{" INT8_WEIGHTS "}", ", \"transform_config\": {\"config_groups\": {}}"),
        "transform_config is not supported");
    assert_refused(CT("{" INT8_WEIGHTS "}", ", \"sparsity_config\": {\"format\": "
        "\"sparse-bitmask\"}"), "sparsity format sparse-bitmask");
    assert_refused("{\"quant_method\": \"compressed-tensors\"}", "config_groups is missing");
    assert_refused(CT("{\"weights\": {\"num_bits\": 3}}", ""), "weights of 3 bits");
    assert_refused(CT("{\"weights\": {\"type\": \"float\"}}", ""), "type float");
    assert_refused(CT("{\"weights\": {\"strategy\": \"tensor_group\"}}", ""), "tensor_group");
    assert_refused(CT("{\"weights\": {\"dynamic\": \"local\"}}", ""), "dynamic \"local\"");
    assert_refused(CT("{" INT8_WEIGHTS ", \"input_activations\": {\"num_bits\": 4}}", ""),
        "activations of 4 bits");
    assert_refused(CT("{" INT8_WEIGHTS ", \"input_activations\": {\"symmetric\": false}}", ""),
        "asymmetric activations");
    assert_refused(CT("{" INT8_WEIGHTS ", \"input_activations\": {\"dynamic\": false, "
        "\"strategy\": \"token\"}}", ""), "static activations with strategy token");
    assert_refused(CT("{" INT8_WEIGHTS ", \"output_activations\": {}}", ""), "output_activations");
    assert_refused(CT("{" INT8_WEIGHTS "}", ""), "targets must be an array");
    assert_refused(CT("{" INT8_WEIGHTS ", \"targets\": [\"re:(\"]}", ""),
        "\"(\" is not a regular expression");
}

/* Rules ---------------------------------------------------------------------------------------- */

struct opened {
    struct temp_dir dir;
    struct quant_model model;
};

static void open_with(struct opened *o, const char *quantization, const struct made_tensor *tensors,
    size_t count)
{
    temp_dir_make(&o->dir);
    write_checkpoint(o->dir.path, quantization, tensors, count);
    assert_int_equal(quant_model_open(&o->model, o->dir.path, NULL), STATUS_OK);
}

static void close_it(struct opened *o)
{
    quant_model_close(&o->model);
    temp_dir_remove(&o->dir);
}

static const struct quant_rule *rule(struct opened *o, const char *module)
{
    return quant_rule_of(&o->model.loader, module);
}

static void presets_become_rules(void **state)
{
    struct opened o;

    (void)state;
    open_with(&o, "{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128], "
        "\"modules_to_not_convert\": [\"lm_head\", \"o_proj\"]}", NULL, 0);
    assert_ptr_equal(rule(&o, Q)->method, &quant_fp8);
    assert_int_equal(rule(&o, Q)->act.group, 128);
    assert_true(rule(&o, Q)->act.least == 1e-10f / 448.0f);
    assert_null(rule(&o, O));
    assert_null(rule(&o, "lm_head"));
    assert_null(rule(&o, "model.embed_tokens"));
    assert_int_equal(quant_col_group(&o.model.loader, Q), 128);
    close_it(&o);
    open_with(&o, "{\"quant_method\": \"w8a8_int8\"}", NULL, 0);
    assert_int_equal(rule(&o, Q)->act.kind, ACTIVATION_INT8);
    assert_true(rule(&o, Q)->act.divisor == 127);
    assert_int_equal(quant_col_group(&o.model.loader, Q), 1);
    close_it(&o);
    open_with(&o, "{\"quant_method\": \"w8a8_fp8\"}", NULL, 0);
    assert_int_equal(rule(&o, Q)->act.kind, ACTIVATION_FP8);
    assert_true(rule(&o, Q)->act.divisor == 448 && rule(&o, Q)->act.least == 1 / (448.0f * 512));
    close_it(&o);
    open_with(&o, "{\"quant_method\": \"awq\", \"w_bit\": 4, \"q_group_size\": 64}", NULL, 0);
    assert_int_equal(rule(&o, Q)->group, 64);
    close_it(&o);
}

static void ignored_layers_win_over_their_alias(void **state)
{
    struct opened o;

    (void)state;
    open_with(&o, "{\"quant_method\": \"fp8\", \"ignored_layers\": [\"o_proj\"], "
        "\"modules_to_not_convert\": [\"q_proj\"]}", NULL, 0);
    assert_non_null(rule(&o, Q));
    assert_null(rule(&o, O));
    close_it(&o);
    open_with(&o, "{\"quant_method\": \"fp8\", \"ignored_layers\": [], "
        "\"modules_to_not_convert\": [\"q_proj\", \"mlp.down\"]}", NULL, 0);
    assert_null(rule(&o, Q));
    assert_non_null(rule(&o, DOWN)); /* whole components only */
    close_it(&o);
}

static void targets_are_names_expressions_and_classes(void **state)
{
    struct opened o;

    (void)state;
    open_with(&o, "{\"quant_method\": \"compressed-tensors\", \"format\": \"mixed-precision\", "
        "\"ignore\": [\"lm_head\", \"re:.*k_proj\"], \"config_groups\": {"
        "\"a\": {\"targets\": [\"Linear\"], \"format\": \"int-quantized\", " INT8_WEIGHTS "}, "
        "\"b\": {\"targets\": [\"re:model\\\\.layers\\\\.0\\\\.mlp\"], \"format\": "
        "\"pack-quantized\", \"weights\": {\"num_bits\": 4, \"group_size\": 32}}, "
        "\"c\": {\"targets\": [\"" O "\"], \"format\": \"float-quantized\", "
        "\"weights\": {\"type\": \"float\", \"strategy\": \"channel\"}}}}", NULL, 0);
    assert_ptr_equal(rule(&o, Q)->method, &quant_int8);
    assert_ptr_equal(rule(&o, DOWN)->method, &quant_packed);
    assert_int_equal(rule(&o, DOWN)->strategy, STRATEGY_GROUP);
    assert_ptr_equal(rule(&o, O)->method, &quant_fp8);
    assert_null(rule(&o, "model.layers.0.self_attn.k_proj"));
    assert_null(rule(&o, "lm_head"));
    assert_null(rule(&o, "model.embed_tokens"));
    close_it(&o);
}

/* As compressed-tensors' match_targets() has it, whatever the order of the groups. */
static void names_win_over_expressions_and_these_by_their_text(void **state)
{
    struct opened o;

    (void)state;
    open_with(&o, "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
        "\"config_groups\": {"
        "\"a\": {\"targets\": [\"re:model.*mlp\", \"re:.*self_attn\"], "
        "\"weights\": {\"num_bits\": 4, \"group_size\": 16}}, "
        "\"b\": {\"targets\": [\"re:.*down\"], "
        "\"weights\": {\"num_bits\": 4, \"group_size\": 32}}, "
        "\"c\": {\"targets\": [\"" O "\"], "
        "\"weights\": {\"num_bits\": 4, \"group_size\": 64}}}}", NULL, 0);
    assert_int_equal(rule(&o, O)->group, 64);
    assert_int_equal(rule(&o, DOWN)->group, 32); /* ".*down" sorts before "model" */
    assert_int_equal(rule(&o, Q)->group, 16);
    assert_int_equal(rule(&o, "model.layers.0.mlp.up_proj")->group, 16);
    close_it(&o);
}

static void expressions_match_from_the_beginning(void **state)
{
    struct pattern *p;

    (void)state;
    assert_int_equal(pattern_open("x", "re:layers", PATTERN_NAME, &p), STATUS_OK);
    assert_false(pattern_matches_name(p, "model.layers.0"));
    assert_true(pattern_matches_name(p, "layers.0"));
    pattern_free(p);
    assert_int_equal(pattern_open("x", "re:layers\\.\\d{,2}", PATTERN_NAME, &p), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "write {0,n}"));
    assert_int_equal(pattern_open("x", "re:.*layers\\.[12]\\.", PATTERN_NAME, &p), STATUS_OK);
    assert_true(pattern_matches_name(p, "model.layers.2.mlp"));
    assert_false(pattern_matches_name(p, "model.layers.3.mlp"));
    pattern_free(p);
}

static void dynamic_rules_change_or_skip_modules(void **state)
{
    struct opened o;

    (void)state;
    open_with(&o, "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"sym\": true, "
        "\"dynamic\": {\"-:.*o_proj\": {}, \"+:.*down_proj\": {\"bits\": 8, \"group_size\": -1}, "
        "\".*v_proj\": {\"group_size\": 32}}}", NULL, 0);
    assert_int_equal(rule(&o, Q)->bits, 4);
    assert_null(rule(&o, O));
    assert_int_equal(rule(&o, DOWN)->bits, 8);
    assert_int_equal(rule(&o, DOWN)->group, 0);
    assert_int_equal(rule(&o, "model.layers.0.self_attn.v_proj")->group, 32);
    assert_true(rule(&o, Q)->zeros_less_one);
    close_it(&o);
}

static void a_plain_weight_is_plain_whatever_lies_beside_it(void **state)
{
    static const struct made_tensor tensors[] = {
        {Q ".weight", FILE_BF16, 2, {16, 16}, NULL},
        {Q ".weight_scale_inv", FILE_BF16, 2, {1, 1}, NULL},
        {O ".weight", FILE_F8_E4M3, 2, {16, 16}, NULL},
    };
    struct opened o;

    (void)state;
    open_with(&o, "{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}", tensors, 3);
    assert_ptr_equal(quant_method_of(&o.model.loader, Q), &quant_none);
    assert_ptr_equal(quant_method_of(&o.model.loader, O), &quant_fp8);
    close_it(&o);
}

static void older_files_are_read_beside_the_config(void **state)
{
    static const char gptq[] = "{\"bits\": 8, \"group_size\": 64, \"desc_act\": true}";
    static const char modelopt[] = "{\"quantization\": {\"quant_algo\": \"NVFP4\"}}";
    struct quant_scheme *scheme = NULL;
    struct opened o;

    (void)state;
    temp_dir_make(&o.dir);
    write_checkpoint(o.dir.path, NULL, NULL, 0);
    temp_dir_write(&o.dir, "quantize_config.json", gptq, sizeof(gptq) - 1);
    assert_int_equal(quant_model_open(&o.model, o.dir.path, NULL), STATUS_OK);
    assert_int_equal(rule(&o, Q)->bits, 8);
    assert_true(rule(&o, Q)->indexed);
    close_it(&o);
    temp_dir_make(&o.dir);
    write_checkpoint(o.dir.path, NULL, NULL, 0);
    temp_dir_write(&o.dir, "hf_quant_config.json", modelopt, sizeof(modelopt) - 1);
    assert_int_equal(quant_open(o.dir.path, NULL, &scheme), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "ModelOpt's NVFP4 is not supported"));
    temp_dir_remove(&o.dir);
}

static void quantising_at_load_needs_a_plain_checkpoint(void **state)
{
    static const struct quant_options int8 = {.method = "int8"}, fp8 = {.method = "fp8"};
    struct quant_scheme *scheme = NULL;
    struct temp_dir dir;

    (void)state;
    temp_dir_make(&dir);
    write_checkpoint(dir.path, "{\"quant_method\": \"w8a8_int8\"}", NULL, 0);
    assert_int_equal(quant_open(dir.path, &int8, &scheme), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is quantised already: leave --quant out"));
    write_checkpoint(dir.path, NULL, NULL, 0);
    assert_int_equal(quant_open(dir.path, NULL, &scheme), STATUS_OK);
    assert_null(scheme);
    assert_int_equal(quant_open(dir.path, &(struct quant_options){.head = "none"}, &scheme),
        STATUS_OK);
    assert_null(scheme);
    assert_int_equal(quant_open("synth:0.6b", &fp8, &scheme), STATUS_OK);
    quant_close(scheme);
    temp_dir_remove(&dir);
}

static void options_that_do_not_fit_are_refused(void **state)
{
    static const struct {
        struct quant_options options;
        const char *words;
    } rows[] = {
        {{.method = "int5"}, "--quant int5 is not known: use int8, int4 or fp8"},
        {{.method = "int8", .head = "int4"}, "--quant-head int4 is not known: use int8 or none"},
        {{.method = "int8", .activations = "fp8"},
            "--quant-activations fp8 is not known: use auto, none or dynamic"},
        {{.method = "int4", .activations = "dynamic"}, "int4 quantises weights alone"},
        {{.activations = "dynamic"}, "--quant-activations dynamic goes with --quant int8 or fp8"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct quant_scheme *scheme = NULL;

        assert_int_equal(quant_open("synth:0.6b", &rows[i].options, &scheme), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), rows[i].words));
        assert_null(scheme);
    }
}

/* A checkpoint whose activations are quantised, static scales included, served with weights alone. */
static void activations_can_be_left_as_they_are(void **state)
{
    static const char *const folders[] = {"quant/ct_w8a8", "quant/ct_fp8_static",
        "quant/ct_w4afp8", "quant/fp8_block_bf16", "quant/blockwise_int8"};
    char path[1024];

    (void)state;
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
        for (int none = 0; none < 2; none++) {
            const struct quant_options o = {.activations = none ? "none" : "auto"};
            struct quant_model m;
            const struct quant_rule *r;

            assert_int_equal(quant_model_open(&m, golden_path(path, folders[i]), &o), STATUS_OK);
            r = quant_rule_of(&m.loader, "model.layers.0.self_attn.q_proj");
            assert_non_null(r);
            assert_true((r->act.kind == ACTIVATION_PLAIN) == (none == 1));
            assert_true(!none || !r->act.fixed);
            quant_model_close(&m);
        }
}

/* Damage ------------------------------------------------------------------------------------- */

static uint32_t state_of_random;

static uint32_t random_below(uint32_t n)
{
    state_of_random = state_of_random * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(state_of_random >> 8) * n >> 24);
}

/* Changes a few bytes of JSON text; NULL when it is none any more. */
static json_t *damaged(const json_t *config)
{
    static const char letters[] = "0123456789-{}[]\",:abcdefginorstu. ";
    char *text = json_dumps(config, JSON_COMPACT);
    json_t *changed;

    for (uint32_t i = 1 + random_below(3); i > 0; i--)
        text[random_below((uint32_t)strlen(text))] = letters[random_below(sizeof(letters) - 1)];
    changed = json_loads(text, 0, NULL);
    free(text);
    return changed;
}

static void load_all(struct quant_model *m)
{
    struct module_shape modules[LAYER_MODULES];
    struct loaded w;

    layer_modules(&m->cfg, 0, modules);
    for (int i = 0; i < LAYER_MODULES; i++)
        if (loaded_part(m, modules[i].name, modules[i].rows, modules[i].cols, 1,
                modules[i].rows - 1, 3, modules[i].cols - 3, &w) == STATUS_OK)
            loaded_free(m, &w);
}

/* A golden checkpoint's tensors under a damaged configuration: loaded or refused, no more. */
static void try_damage(const char *golden, struct temp_dir *dir, json_t *root, json_t *changed)
{
    char target[PATH_MAX + 32];
    struct quant_model m = {0};

    snprintf(target, sizeof(target), "%s/model.safetensors", golden);
    json_object_set_new(root, "quantization_config", changed);
    unlink(temp_dir_file(dir, "model.safetensors"));
    assert_int_equal(symlink(target, temp_dir_file(dir, "model.safetensors")), 0);
    assert_int_equal(json_dump_file(root, temp_dir_file(dir, "config.json"), 0), 0);
    if (quant_model_open(&m, dir->path, NULL) != STATUS_OK)
        return;
    load_all(&m);
    quant_model_close(&m);
}

static void damaged_configurations_are_refused_or_loaded(void **state)
{
    static const char *const names[] = {"quant/awq_g32", "quant/gptq_v1_dynamic",
        "quant/ct_w4a16_asym", "quant/ct_fp8_static", "quant/fp8_block_bf16", "quant/ct_w4afp8",
        "quant/w8a8_int8"};
    const char *seed = getenv("QUERN_TEST_SEED");

    (void)state;
    state_of_random = seed != NULL ? (uint32_t)strtoul(seed, NULL, 10) : 1;
    print_message("# seed %u (QUERN_TEST_SEED)\n", state_of_random);
    for (int i = 0; i < 7 * 60; i++) {
        char golden[1024], real[PATH_MAX], path[1100];
        json_t *root, *changed;
        struct temp_dir dir;

        assert_non_null(realpath(golden_path(golden, names[i % 7]), real));
        snprintf(path, sizeof(path), "%s/config.json", golden);
        root = json_load_file(path, 0, NULL);
        assert_non_null(root);
        changed = damaged(json_object_get(root, "quantization_config"));
        temp_dir_make(&dir);
        if (changed != NULL)
            try_damage(real, &dir, root, changed);
        temp_dir_remove(&dir);
        json_decref(root);
    }
    assert_int_equal(backend_bytes_held(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_that_are_not_read_are_named),
        cmocka_unit_test(compressed_schemes_that_are_not_read_are_named),
        cmocka_unit_test(presets_become_rules),
        cmocka_unit_test(ignored_layers_win_over_their_alias),
        cmocka_unit_test(targets_are_names_expressions_and_classes),
        cmocka_unit_test(names_win_over_expressions_and_these_by_their_text),
        cmocka_unit_test(expressions_match_from_the_beginning),
        cmocka_unit_test(dynamic_rules_change_or_skip_modules),
        cmocka_unit_test(a_plain_weight_is_plain_whatever_lies_beside_it),
        cmocka_unit_test(older_files_are_read_beside_the_config),
        cmocka_unit_test(quantising_at_load_needs_a_plain_checkpoint),
        cmocka_unit_test(options_that_do_not_fit_are_refused),
        cmocka_unit_test(activations_can_be_left_as_they_are),
        cmocka_unit_test(damaged_configurations_are_refused_or_loaded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
