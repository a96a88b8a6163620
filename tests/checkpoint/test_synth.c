/* test_synth.c - made weights: any slice equals the whole, and disk equals memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/generation.h"
#include "checkpoint/synth.h"
#include "checkpoint/synth_tokenizer.h"
#include "quern/log.h"
#include "tests/checkpoint/made_file.h"
#include "tools/synth_write.h"

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

static const char *write_config(const char *more)
{
    char json[1024];

    snprintf(json, sizeof(json),
             "{\"model_type\": \"qwen3\", \"hidden_size\": 48, \"intermediate_size\": 80, "
             "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
             "\"head_dim\": 16, \"vocab_size\": 300%s}", more);
    return temp_dir_write(&temp, "tiny.json", json, strlen(json));
}

static struct weight_source *open_like(const char *like, uint64_t seed, struct model_config *cfg)
{
    struct weight_source *src = NULL;

    if (synth_config(like, cfg) != STATUS_OK || synth_open(like, seed, cfg, &src) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    return src;
}

static void presets_have_the_published_sizes(void **state)
{
    static const struct {
        const char *name;
        uint64_t parameters, tensors;
    } known[] = {
        { "0.6b", 596049920, 310 },    { "1.7b", 1720574976, 310 },
        { "4b", 4022468096, 398 },     { "8b", 8190735360, 399 },
        { "14b", 14768307200, 443 },   { "synth:32b", 32762123264, 707 },
    };

    (void)state;
    for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
        struct model_config cfg;
        uint64_t bytes = 0;

        assert_int_equal(synth_config(known[k].name, &cfg), STATUS_OK);
        assert_int_equal(synth_tensor_count(&cfg), known[k].tensors);
        for (uint64_t i = 0; i < known[k].tensors; i++) {
            char name[SYNTH_NAME_BYTES];
            struct tensor_view view;

            synth_tensor_at(&cfg, i, name, &view);
            bytes += view.bytes;
        }
        assert_int_equal(bytes, 2 * known[k].parameters);
    }
}

static void unknown_presets_are_refused(void **state)
{
    struct model_config cfg;

    (void)state;
    assert_int_equal(synth_config("synth:9b", &cfg), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "synth:9b is unknown: use 0.6b"));
    assert_int_equal(synth_config("30b-a3b", &cfg), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "Mixture of Experts is not supported"));
    assert_int_equal(synth_config("synth:/nonexistent.json", &cfg), STATUS_IO);
}

static void sources_know_exactly_their_tensors(void **state)
{
    static const char *const others[] = {
        "lm_head.weight", "model.layers.3.mlp.up_proj.weight", "model.layers.-1.mlp.up_proj.weight",
        "model.layers.01.mlp.up_proj.weight", "model.layers.+1.mlp.up_proj.weight",
        "model.layers. 1.mlp.up_proj.weight", "model.layers.1mlp.up_proj.weight",
        "model.layers.1.", "model.layers.0.self_attn.q_proj.bias", "",
    };
    struct model_config cfg;
    struct weight_source *src = open_like(write_config(", \"tie_word_embeddings\": true"), 1, &cfg);
    enum dtype stored;

    (void)state;
    for (uint64_t i = 0; i < synth_tensor_count(&cfg); i++) {
        char name[SYNTH_NAME_BYTES];
        struct tensor_view view;

        synth_tensor_at(&cfg, i, name, &view);
        assert_int_equal(source_check(src, name, view.shape[0], view.shape[1], &stored),
                         STATUS_OK);
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_false(source_has(src, others[i]));
    source_close(src);
    src = open_like(write_config(", \"attention_bias\": true"), 1, &cfg);
    assert_true(source_has(src, "model.layers.2.self_attn.o_proj.bias"));
    assert_true(source_has(src, "lm_head.weight"));
    source_close(src);
}

static void slices_equal_the_whole(void **state)
{
    static const char *const types[] = { "bfloat16", "float16", "float32" };
    enum { ROWS = 300, COLS = 48 };
    static float whole[ROWS * COLS], part[ROWS * COLS];
    static uint16_t half[ROWS * COLS];

    (void)state;
    for (size_t t = 0; t < 3; t++) {
        const char *name = "model.embed_tokens.weight";
        struct model_config cfg;
        struct weight_source *src;
        char dtype[64];

        snprintf(dtype, sizeof(dtype), ", \"dtype\": \"%s\"", types[t]);
        src = open_like(write_config(dtype), 7, &cfg);
        assert_int_equal(source_read(src, name, 0, ROWS, 0, COLS, DTYPE_F32, whole), STATUS_OK);
        assert_int_equal(source_read(src, name, 0, ROWS, 0, COLS, DTYPE_BF16, half), STATUS_OK);
        for (int i = 0; i < ROWS * COLS; i++)
            assert_int_equal(half[i], f32_to_bf16(whole[i]));
        assert_int_equal(source_read(src, name, 100, 150, 0, COLS, DTYPE_F32, part), STATUS_OK);
        assert_memory_equal(part, whole + 100 * COLS, 150 * COLS * sizeof(float));
        assert_int_equal(source_read(src, name, 3, 200, 5, 17, DTYPE_F32, part), STATUS_OK);
        for (int r = 0; r < 200; r++)
            assert_memory_equal(part + r * 17, whole + (3 + r) * COLS + 5, 17 * sizeof(float));
        source_close(src);
    }
}

static void values_have_the_documented_spread(void **state)
{
    enum { ROWS = 300, COLS = 48, N = ROWS * COLS };
    static float x[N], other[N];
    struct model_config cfg;
    struct weight_source *src = open_like(write_config(""), 7, &cfg);
    double sum = 0, squares = 0;
    int same = 0;

    (void)state;
    assert_int_equal(source_read(src, "lm_head.weight", 0, ROWS, 0, COLS, DTYPE_F32, x),
                     STATUS_OK);
    assert_int_equal(source_read(src, "model.embed_tokens.weight", 0, ROWS, 0, COLS, DTYPE_F32,
                                 other), STATUS_OK);
    for (int i = 0; i < N; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
        same += x[i] == other[i];
    }
    assert_true(fabs(sum / N) < 0.01);
    assert_true(fabs(squares / N * COLS - 1.0) < 0.05);
    assert_true(same < N / 50);
    assert_int_equal(source_read(src, "model.norm.weight", 0, COLS, 0, 0, DTYPE_F32, x),
                     STATUS_OK);
    for (int i = 0; i < COLS; i++)
        assert_true(x[i] > 0.6f && x[i] < 1.4f);
    source_close(src);
}

/* The arithmetic is a contract: "synth:8b --seed 0" must mean the same weights everywhere. */
static void values_never_change(void **state)
{
    static const float embed[4] = {
        0x1.6c00b6p-4f, -0x1.9400cap-4f, -0x1.20009p-2f, -0x1.f000f8p-4f,
    };
    static const float norm[2] = { 0x1.fce1dep-1f, 0x1.06689cp+0f };
    struct model_config cfg;
    struct weight_source *src = open_like(write_config(", \"dtype\": \"float32\""), 5, &cfg);
    float x[4];

    (void)state;
    assert_int_equal(source_read(src, "model.embed_tokens.weight", 299, 1, 44, 4, DTYPE_F32, x),
                     STATUS_OK);
    for (int i = 0; i < 4; i++)
        assert_true(x[i] == embed[i]);
    assert_int_equal(source_read(src, "model.norm.weight", 0, 2, 0, 0, DTYPE_F32, x), STATUS_OK);
    for (int i = 0; i < 2; i++)
        assert_true(x[i] == norm[i]);
    source_close(src);
}

static void assert_same_weights(const char *like, uint64_t seed, const char *dir)
{
    struct model_config cfg;
    struct weight_source *src = open_like(like, seed, &cfg);
    struct checkpoint *c;

    if (checkpoint_open(dir, &c) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    assert_int_equal(checkpoint_count(c), synth_tensor_count(&cfg));
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const struct tensor_view *view = checkpoint_at(c, i);
        struct source_tensor t;
        char *made = malloc(view->bytes), *written = tensor_bytes(view);

        assert_non_null(made);
        assert_true(src->ops->find(src, view->name, &t));
        assert_int_equal(t.view.bytes, view->bytes);
        assert_int_equal(t.view.dtype, view->dtype);
        assert_memory_equal(t.view.shape, view->shape, sizeof(view->shape));
        synth_fill(seed, view, 0, view->bytes / (file_dtype_bits(view->dtype) / 8), made);
        assert_memory_equal(made, written, view->bytes);
        free(written);
        free(made);
    }
    checkpoint_close(c);
    source_close(src);
}

static void written_checkpoint_equals_memory(void **state)
{
    static const char *const more[] = {
        "", ", \"dtype\": \"float16\", \"attention_bias\": true",
        ", \"torch_dtype\": \"float32\", \"tie_word_embeddings\": true, \"eos_token_id\": [7, 9]",
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct model_config made, read;
        struct generation_defaults in_memory, on_disk;
        char like[PATH_MAX], name[32], dir[PATH_MAX];

        snprintf(like, sizeof(like), "synth:%s", write_config(more[i]));
        snprintf(name, sizeof(name), "out%zu", i);
        snprintf(dir, sizeof(dir), "%s", temp_dir_file(&temp, name));
        if (synth_write_sharded(like, 3, dir, i == 0 ? UINT64_MAX : 20000) != STATUS_OK)
            fail_msg("%s", log_last_error());
        assert_same_weights(like, 3, dir);
        assert_int_equal(access(temp_dir_file(&temp, i == 0 ? "out0/model.safetensors"
                                              : i == 1 ? "out1/model.safetensors.index.json"
                                                       : "out2/model.safetensors.index.json"),
                                F_OK), 0);
        assert_int_equal(source_config(like, &made), STATUS_OK);
        assert_int_equal(source_config(dir, &read), STATUS_OK);
        assert_int_equal(read.dtype, made.dtype);
        assert_int_equal(generation_read(like, &made, &in_memory), STATUS_OK);
        assert_int_equal(generation_read(dir, &read, &on_disk), STATUS_OK);
        assert_int_equal(in_memory.n_eos, on_disk.n_eos);
        for (int e = 0; e < on_disk.n_eos; e++)
            assert_int_equal(in_memory.eos[e], on_disk.eos[e]);
        generation_free(&in_memory);
        generation_free(&on_disk);
    }
}

/* As many tensors as fit go into a file, one that is filled to the byte included. */
static void shards_are_full_and_the_index_counts_them(void **state)
{
    enum { FIRST_SHARD = 3 };
    char like[PATH_MAX], dir[PATH_MAX], name[SYNTH_NAME_BYTES], file[64];
    uint64_t limit = 0, used = 0, total = 0;
    struct model_config cfg;
    struct tensor_view view;
    json_t *index, *map;
    int shard = 1;

    (void)state;
    snprintf(like, sizeof(like), "%s", write_config(""));
    snprintf(dir, sizeof(dir), "%s", temp_dir_file(&temp, "shards"));
    assert_int_equal(synth_config(like, &cfg), STATUS_OK);
    for (size_t i = 0; i < FIRST_SHARD; i++) {
        synth_tensor_at(&cfg, i, name, &view);
        limit += view.bytes;
    }
    assert_int_equal(synth_write_sharded(like, 0, dir, limit), STATUS_OK);
    index = json_load_file(temp_dir_file(&temp, "shards/model.safetensors.index.json"), 0, NULL);
    map = json_object_get(index, "weight_map");
    assert_non_null(map);
    for (size_t i = 0; i < synth_tensor_count(&cfg); i++) {
        synth_tensor_at(&cfg, i, name, &view);
        if (used > 0 && used + view.bytes > limit) {
            shard++;
            used = 0;
        }
        used += view.bytes;
        total += view.bytes;
        assert_true(i >= FIRST_SHARD || shard == 1);
        assert_true(i != FIRST_SHARD || shard == 2);
        snprintf(file, sizeof(file), "model-%05d-of-", shard);
        assert_memory_equal(json_string_value(json_object_get(map, name)), file, strlen(file));
    }
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"),
                         "total_size")), total);
    assert_int_equal(json_object_size(map), synth_tensor_count(&cfg));
    json_decref(index);
}

static void full_directories_are_left_alone(void **state)
{
    char like[PATH_MAX], dir[PATH_MAX];

    (void)state;
    snprintf(like, sizeof(like), "%s", write_config(""));
    assert_int_equal(synth_write(like, 0, temp.path), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "exists and is not empty"));
    snprintf(dir, sizeof(dir), "%s/", temp_dir_file(&temp, "empty"));
    assert_int_equal(mkdir(dir, 0777), 0);
    if (synth_write(like, 0, dir) != STATUS_OK)
        fail_msg("%s", log_last_error());
    assert_int_equal(access(temp_dir_file(&temp, "empty/model.safetensors"), F_OK), 0);
    assert_int_equal(synth_write(like, 0, "/nonexistent/x"), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "cannot make the directory"));
}

/* What tokenizer.json says of `cfg`, parsed. */
static json_t *tokenizer_of(const struct model_config *cfg)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    json_t *root;

    assert_non_null(out);
    assert_int_equal(synth_tokenizer_write(cfg, out), STATUS_OK);
    fclose(out);
    root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    free(text);
    return root;
}

static void assert_tokenizer(const struct model_config *cfg, size_t vocab, size_t added,
                             int eos, const char *eos_text)
{
    json_t *root = tokenizer_of(cfg), *token;
    const json_t *table = json_object_get(json_object_get(root, "model"), "vocab");
    const json_t *list = json_object_get(root, "added_tokens");
    bool found = false;
    size_t i;

    assert_int_equal(json_object_size(table), vocab);
    assert_int_equal(json_array_size(list), added);
    json_array_foreach(list, i, token)
        if (json_integer_value(json_object_get(token, "id")) == eos)
            found = strcmp(json_string_value(json_object_get(token, "content")), eos_text) == 0;
    assert_true(found);
    json_decref(root);
}

static void tokenizers_have_their_special_tokens(void **state)
{
    struct model_config cfg;

    (void)state;
    assert_int_equal(synth_config("0.6b", &cfg), STATUS_OK);
    assert_tokenizer(&cfg, 151643, 26, 151645, "<|im_end|>");
    assert_int_equal(synth_config(write_config(""), &cfg), STATUS_OK);
    assert_tokenizer(&cfg, 300, 2, 299, "<|im_end|>");
    assert_int_equal(synth_config(write_config(", \"bos_token_id\": 2, \"eos_token_id\": [2, 4]"),
                                  &cfg), STATUS_OK);
    assert_tokenizer(&cfg, 300, 2, 4, "<|eos_1|>");
    assert_tokenizer(&cfg, 300, 2, 2, "<|endoftext|>");
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_the_published_sizes),
        cmocka_unit_test(unknown_presets_are_refused),
        IN_TEMP(sources_know_exactly_their_tensors),
        IN_TEMP(slices_equal_the_whole),
        IN_TEMP(values_have_the_documented_spread),
        IN_TEMP(values_never_change),
        IN_TEMP(written_checkpoint_equals_memory),
        IN_TEMP(shards_are_full_and_the_index_counts_them),
        IN_TEMP(full_directories_are_left_alone),
        IN_TEMP(tokenizers_have_their_special_tokens),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
