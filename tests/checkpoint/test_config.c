/* test_config.c - config.json in both spellings, its refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <time.h>

#include "checkpoint/config.h"
#include "checkpoint/config_json.h"
#include "checkpoint/json_numbers.h"
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

/* Values that other programs leave under keys that matter, and that change nothing. */
static void values_that_do_not_matter_are_read(void **state)
{
    struct model_config cfg = read_good("{" QWEN3 ", \"bos_token_id\": -5, \"eos_token_id\": -1}");

    (void)state;
    assert_int_equal(cfg.bos, -1);
    assert_int_equal(cfg.n_eos, 0);
    cfg = read_good("{" QWEN3 ", \"eos_token_id\": [-1, 7, 99999999999]}");
    assert_int_equal(cfg.n_eos, 1);
    assert_int_equal(cfg.eos[0], 7);
    cfg = read_good("{" QWEN3 ", \"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}");
    assert_int_equal(cfg.n_eos, CONFIG_EOS_MAX);
    assert_int_equal(read_good("{" QWEN3 ", \"eos_token_id\": []}").n_eos, 0);
    read_good("{" QWEN3 ", \"hidden_act\": \"swish\", \"layer_types\": null}");
    read_good("{" QWEN3 ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 1.0}}");
    read_good("{" QWEN3 ", \"rope_scaling\": {}}");
}

static void numbers_of_foreign_keys_are_what_python_reads(void **state)
{
    struct model_config cfg = read_good(
        "{" QWEN3 ", \"router_z_loss\": NaN, \"a\": [Infinity, -Infinity,1e400,-1E+999, -0.5e-999],"
        "\"b\":123456789012345678901234567890,\"c\":-9223372036854775809,\"d\":\"NaN\","
        "\"e\":{\"\\\"NaN\":NaN}, \"bos_token_id\": 9}");

    (void)state;
    assert_int_equal(cfg.bos, 9);
    assert_refused("{" QWEN3 ", \"a\": nan}", "not valid JSON");
    assert_refused("{" QWEN3 ", \"a\": 099999999999999999999}", "not valid JSON");
    assert_refused("{" QWEN3 ", \"a\": 1.e999}", "not valid JSON");
    assert_refused("{" QWEN3 ", \"a\": NaNN}", "not valid JSON");
    assert_refused("{" QWEN3 ", \"a\": \"NaN", "not valid JSON");
    assert_refused("{" QWEN3 ", \"a\": NaN", "not valid JSON");
}

static void foreign_numbers_are_written_as_they_were(void **state)
{
    static const char text[] = "{\"a\": NaN, \"b\": [-Infinity, 12345678901234567890123, \"NaN\"], "
                               "\"c\": {\"\\\"\": -1e400, \"d\": \"\\u0001x\"}}";
    char *written = NULL;
    size_t n = 0;
    json_t *root;
    FILE *out;

    (void)state;
    assert_int_equal(json_read_file(temp_dir_write(&temp, "n.json", text, strlen(text)), 1 << 20,
                                    &root), STATUS_OK);
    out = open_memstream(&written, &n);
    assert_int_equal(json_write(root, out), STATUS_OK);
    fclose(out);
    assert_string_equal(written, "{\n  \"a\": NaN,\n  \"b\": [\n    -Infinity,\n"
        "    12345678901234567890123,\n    \"NaN\"\n  ],\n  \"c\": {\n    \"\\\"\": -1e400,\n"
        "    \"d\": \"\\u0001x\"\n  }\n}\n");
    free(written);
    json_decref(root);
}

/* Marking and restoring is the text again, whatever it is, and what jansson reads it reads still. */
static void marked_texts_are_themselves_again(void **state)
{
    static const char *const pieces[] = { "NaN", "-Infinity", "Infinity", "1e999", "-", "12", "0",
        "99999999999999999999", ".5", "E+7", "\"", "\\", "\\\"", "{", "}", "[", "]", ",", ":",
        " ", "true", "\"a\"", "-0.0", "1e", "\xff" };
    const char *given = getenv("QUERN_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL), x = 2 * seed + 1;

    (void)state;
    print_message("# QUERN_TEST_SEED=%llu\n", (unsigned long long)seed);
    for (int i = 0; i < 20000; i++) {
        char text[256] = "", *marked;
        size_t n = 0, marked_bytes;
        json_t *before, *after;

        for (int p = 0; p < 12; p++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s",
                                  pieces[(x >> 8) % (sizeof(pieces) / sizeof(pieces[0]))]);
        }
        assert_int_equal(json_numbers_mark(text, n, &marked, &marked_bytes), STATUS_OK);
        before = json_loadb(text, n, JSON_DECODE_ANY, NULL);
        after = json_loadb(marked, marked_bytes, JSON_DECODE_ANY, NULL);
        assert_true(before == NULL || json_equal(before, after));
        json_decref(before);
        json_decref(after);
        json_numbers_restore(marked);
        assert_string_equal(marked, text);
        free(marked);
    }
}

static void of_a_key_that_is_there_twice_the_last_counts(void **state)
{
    (void)state;
    assert_int_equal(read_good("{\"vocab_size\": \"x\", " QWEN3 "}").vocab, 320);
    assert_int_equal(read_good("{" QWEN3 ", \"vocab_size\": 9}").vocab, 9);
}

static void every_spelling_of_a_type_is_known(void **state)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } types[] = {
        { "torch.bfloat16", DTYPE_BF16 }, { "torch.float16", DTYPE_F16 }, { "half", DTYPE_F16 },
        { "float", DTYPE_F32 }, { "torch.float32", DTYPE_F32 }, { "float64", DTYPE_F32 },
        { "float8_e4m3fn", DTYPE_BF16 }, { "torch.float8_e5m2", DTYPE_BF16 }, { "auto", DTYPE_BF16 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        char json[512];

        snprintf(json, sizeof(json), "{" QWEN3 ", \"dtype\": \"%s\"}", types[i].name);
        assert_int_equal(read_good(json).dtype, types[i].dtype);
        snprintf(json, sizeof(json), "{" QWEN3 ", \"torch_dtype\": \"%s\"}", types[i].name);
        assert_int_equal(read_good(json).dtype, types[i].dtype);
    }
    assert_int_equal(read_good("{" QWEN3 ", \"dtype\": \"float16\", \"torch_dtype\": "
                               "\"float32\"}").dtype, DTYPE_F16);
}

#define SLIDING QWEN3 ", \"use_sliding_window\": true, \"max_position_embeddings\": 256"

/* The decisions of Transformers' Qwen3Config, which were asked of it. */
static void windows_matter_where_a_layer_slides(void **state)
{
    (void)state;
    read_good("{" SLIDING ", \"sliding_window\": 64, \"max_window_layers\": 2}");
    read_good("{" SLIDING ", \"sliding_window\": 64}"); /* 28 layers are full by default */
    read_good("{" SLIDING ", \"sliding_window\": null, \"max_window_layers\": 0}");
    read_good("{" SLIDING ", \"sliding_window\": 256, \"max_window_layers\": 0}");
    read_good("{" SLIDING ", \"max_window_layers\": 0}"); /* 4096 */
    read_good("{" SLIDING ", \"sliding_window\": 64, \"max_window_layers\": 0, \"layer_types\": "
              "[\"full_attention\", \"full_attention\"]}");
    read_good("{" QWEN3 ", \"use_sliding_window\": false, \"sliding_window\": -1, "
              "\"max_window_layers\": 0}");
    assert_refused("{" SLIDING ", \"sliding_window\": 255, \"max_window_layers\": 1}",
                   "config.json: layer 1 slides (use_sliding_window, sliding_window 255)");
    assert_refused("{" SLIDING ", \"sliding_window\": 64, \"layer_types\": "
                   "[\"full_attention\", \"sliding_attention\"]}", "layer 1 slides");
    assert_refused("{" QWEN3 ", \"layer_types\": [\"sliding_attention\", \"full_attention\"]}",
                   "layer_types[0] is sliding_attention, but use_sliding_window is false");
    assert_refused("{" SLIDING ", \"sliding_window\": 256, \"max_window_layers\": 0, "
                   "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.0}}", "layer 0 slides");
}

static void a_classifier_has_labels(void **state)
{
    struct model_config cfg;

    (void)state;
    cfg = read_good("{" QWEN3 ", \"architectures\": [\"Qwen3ForSequenceClassification\"]}");
    assert_int_equal(cfg.labels, 2);
    cfg = read_good("{" QWEN3 ", \"architectures\": [\"Qwen3ForSequenceClassification\"], "
                    "\"id2label\": {\"0\": \"no\", \"1\": \"so\", \"2\": \"yes\"}}");
    assert_int_equal(cfg.labels, 3);
    cfg = read_good("{" QWEN3 ", \"architectures\": [\"Qwen3ForSequenceClassification\"], "
                    "\"num_labels\": 1}");
    assert_int_equal(cfg.labels, 1);
    cfg = read_good("{" QWEN3 ", \"num_labels\": 7}");
    assert_int_equal(cfg.labels, 0);
    assert_refused("{" QWEN3 ", \"architectures\": [\"Qwen3ForSequenceClassification\"], "
                   "\"num_labels\": 0}", "num_labels");
}

static void other_kinds_of_model_are_named(void **state)
{
    static const struct {
        const char *class, *why;
    } others[] = {
        { "Qwen3ForTokenClassification", "is a tagger" },
        { "Qwen3ForQuestionAnswering", "is a span finder" },
        { "Qwen3ForMultimodal", "Qwen3ForMultimodal is not one quern runs: where the weights" },
    };
    char json[512];

    (void)state;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        snprintf(json, sizeof(json), "{" QWEN3 ", \"architectures\": [\"%s\"]}", others[i].class);
        assert_refused(json, others[i].why);
    }
    assert_refused("{\"model_type\": \"qwen2\", " SHAPE "}", "model_type qwen2 is not one");
    assert_refused("{\"model_type\": \"llama\", " SHAPE "}", "model_type llama is not one");
    read_good("{" QWEN3 ", \"architectures\": [\"FSDPQwen3ForCausalLM\"]}");
    read_good("{" QWEN3 ", \"architectures\": [\"Mine\", \"Qwen3ForCausalLM\"]}");
    read_good("{" QWEN3 ", \"architectures\": [\"Qwen3Model\"]}");
    read_good("{" QWEN3 ", \"architectures\": []}");
    read_good("{" SHAPE ", \"architectures\": [\"Qwen3Model\"]}");
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
    assert_refused("{" QWEN3 ", \"layer_types\": [\"full_attention\", \"chunked_attention\"]}",
                   "layer_types[1] is chunked_attention");
    assert_refused("{" QWEN3 ", \"hidden_act\": \"gelu\"}", "hidden_act gelu");
    assert_refused("{" QWEN3 ", \"rope_scaling\": {\"rope_type\": \"llama3\"}}",
                   "rope type llama3 is not supported");
    assert_refused("{" QWEN3 ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}",
                   "rope type linear");
    assert_refused("{" QWEN3 ", \"torch_dtype\": \"bfloat17\"}", "torch_dtype bfloat17");
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
    assert_refused("{" QWEN3 ", \"eos_token_id\": [\"<|im_end|>\"]}",
                   "eos_token_id has \"<|im_end|>\", it must hold token ids");
    assert_refused("{" QWEN3 ", \"eos_token_id\": [1.5]}", "eos_token_id has 1.5");
    assert_refused("{" QWEN3 ", \"rms_norm_eps\": NaN}", "rms_norm_eps is NaN, it must be a number");
    assert_refused("{" QWEN3 ", \"rope_theta\": 1e999}", "rope_theta is 1e999");
    assert_refused("{" QWEN3 ", \"head_dim\": 99999999999999999999}",
                   "head_dim is 99999999999999999999");
    assert_refused("{" QWEN3 ", \"layer_types\": [\"full_attention\"]}",
                   "layer_types must have num_hidden_layers 2 entries");
    assert_refused("{" QWEN3 ", \"layer_types\": \"full_attention\"}", "layer_types must have");
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

static void storyteller_is_read(void **state)
{
    const char *data = getenv("QUERN_DATADIR");
    char dir[PATH_MAX];
    struct model_config cfg;

    (void)state;
    snprintf(dir, sizeof(dir), "%s/models/storyteller", data != NULL ? data : "share");
    assert_int_equal(config_read(dir, &cfg), STATUS_OK);
    assert_int_equal(cfg.hidden, 256);
    assert_int_equal(cfg.kv_heads, 2);
    assert_true(cfg.tied);
    assert_true(cfg.rope_theta == 1e6);
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(absent_fields_have_the_documented_defaults),
        IN_TEMP(both_spellings_mean_the_same),
        IN_TEMP(rope_scaling_replaces_rope_parameters),
        IN_TEMP(eos_is_an_id_or_a_list),
        IN_TEMP(what_quern_does_not_run_is_refused_by_name),
        IN_TEMP(bad_values_are_refused_by_field),
        IN_TEMP(what_lies_in_the_place_of_config_json_is_named),
        cmocka_unit_test(missing_config_names_its_path),
        IN_TEMP(values_that_do_not_matter_are_read),
        IN_TEMP(numbers_of_foreign_keys_are_what_python_reads),
        IN_TEMP(foreign_numbers_are_written_as_they_were),
        cmocka_unit_test(marked_texts_are_themselves_again),
        IN_TEMP(of_a_key_that_is_there_twice_the_last_counts),
        IN_TEMP(every_spelling_of_a_type_is_known),
        IN_TEMP(windows_matter_where_a_layer_slides),
        IN_TEMP(a_classifier_has_labels),
        IN_TEMP(other_kinds_of_model_are_named),
        cmocka_unit_test(storyteller_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
