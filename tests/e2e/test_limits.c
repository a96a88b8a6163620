/* test_limits.c - runtimes of odd sizes: many sequences, few ids, short steps.
 *
 * What ranks exchange in a step is sized when the runtime starts; here steps are as full as they
 * can be, so that what is sized too small for its writer shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/raw_client.h"

static struct temp_dir dir;

static int set_up(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    return 0;
}

static int take_down(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

/* "synth:FILE", of so few ids as a tokenizer can have. */
static const char *few_ids(char model[4096])
{
    static const char like[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"hidden_size\": 16, "
        "\"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, "
        "\"num_key_value_heads\": 2, \"head_dim\": 8, \"vocab_size\": 300, "
        "\"max_position_embeddings\": 64, \"tie_word_embeddings\": true, "
        "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, \"hidden_act\": \"silu\"}";

    snprintf(model, 4096, "synth:%s", temp_dir_write(&dir, "few.json", like, sizeof(like) - 1));
    return model;
}

/* `requests` at once, each sampled through a short list; all end well. */
static void sample_at_once(const char *tp, const char *seqs, int requests)
{
    struct raw_params p = raw_endless(PROMPT_IDS, 24);
    const int32_t prompt[] = {1, 2};
    struct raw_server server;
    struct raw_client c;
    char model[4096];

    raw_server_start(&server, (const char *const[]){"-m", few_ids(model), "--tp", tp,
        "--threads", "1", "--max-seqs", seqs, "--max-batched-tokens", seqs, NULL});
    raw_connect(&c, &server);
    RAW_GIVE(p, PARAM_TEMPERATURE, temperature, 1);
    RAW_GIVE(p, PARAM_TOP_K, top_k, 20);
    for (int id = 1; id <= requests; id++) {
        RAW_GIVE(p, PARAM_SEED, seed, (uint64_t)id);
        assert_true(raw_submit(&c, (uint64_t)id, p, prompt, sizeof(prompt)));
    }
    for (int left = requests; left > 0;) {
        struct raw_frame f;

        assert_true(raw_next(&c, &f));
        if (f.header.type == FRAME_ERROR)
            fail_msg("request %d: %s", (int)f.header.id, raw_rest(&f));
        left -= f.header.type == FRAME_DONE;
        free(f.payload);
    }
    raw_close(&c);
    raw_server_stop(&server, "");
}

static void many_sampled_sequences_of_few_ids_a_rank_fit_their_exchange(void **state)
{
    (void)state;
    sample_at_once("4", "512", 512);
    sample_at_once("2", "40", 40);
}

static void one_sequence_of_one_token_a_step_fits_its_exchange(void **state)
{
    (void)state;
    sample_at_once("4", "1", 3);
}

/* Kernels have room for heads of 256: such a model runs, and a wider one is refused, not begun. */
static void heads_as_wide_as_the_kernels_allow_run_and_no_wider(void **state)
{
    static const char wide[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"hidden_size\": 16, "
        "\"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
        "\"num_key_value_heads\": 1, \"head_dim\": %d, \"vocab_size\": 300, "
        "\"max_position_embeddings\": 64, \"tie_word_embeddings\": true, "
        "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, \"hidden_act\": \"silu\"}";
    static const int head_dims[] = {256, 258, 512};

    (void)state;
    for (int i = 0; i < 3; i++) {
        char text[1024], model[4096];
        int n = snprintf(text, sizeof(text), wide, head_dims[i]);
        struct command c;

        snprintf(model, sizeof(model), "synth:%s",
            temp_dir_write(&dir, "wide.json", text, (size_t)n));
        child_run(&c, NULL, (const char *const[]){"run", "-m", model, "--ids", "1,2", "-n", "3",
            "--ignore-eos", "--print-ids", NULL});
        assert_int_equal(c.status, i == 0 ? 0 : 1);
        if (i > 0 && (strstr(c.err, "head_dim is") == NULL || strstr(c.err, "256") == NULL))
            fail_msg("head_dim %d: %s", head_dims[i], c.err);
        child_free(&c);
    }
}

/* Numbers that are chosen ------------------------------------------------------------------ */

static json_t *plan_with(const char *const words[])
{
    struct command c;
    json_t *plan;

    child_run(&c, NULL, words);
    plan = json_loads(c.out, 0, NULL);
    if (c.status != 0 || plan == NULL)
        fail_msg("quern plan: status %d, %s", c.status, c.err);
    child_free(&c);
    return plan;
}

static uint64_t number(const json_t *object, const char *key)
{
    assert_true(json_is_integer(json_object_get(object, key)));
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

static uint64_t memory_sum(const json_t *memory)
{
    static const char *const kinds[] = {
        "weights", "buffers", "kv_cache", "logits", "workspace", "symmetric"};
    uint64_t all = 0;

    for (int i = 0; i < 6; i++)
        all += number(memory, kinds[i]);
    return all;
}

static void step_has_a_token_for_every_sequence(void **state)
{
    char model[4096];
    json_t *plan = plan_with((const char *const[]){"plan", "--json", "-m", few_ids(model),
        "--max-seqs", "64", "--max-batched-tokens", "16", NULL});

    (void)state;
    assert_int_equal(number(plan, "max_seqs"), 64);
    assert_int_equal(number(plan, "max_batched_tokens"), 64);
    json_decref(plan);
    plan = plan_with((const char *const[]){"plan", "--json", "-m", few_ids(model), "--max-seqs",
        "4", "--max-batched-tokens", "16", NULL});
    assert_int_equal(number(plan, "max_batched_tokens"), 16);
    json_decref(plan);
}

/* A default context is halved until two of it fit beside what is fixed, down to a sixteenth: then
 * one must. */
static void check_context(const char *memory_text, uint64_t memory, uint64_t want)
{
    json_t *plan = plan_with((const char *const[]){"plan", "--json", "-m", "synth:0.6b",
        "--memory", memory_text, "--threads", "1", NULL});
    const json_t *rank = json_array_get(json_object_get(plan, "ranks"), 0);
    const json_t *memory_of = json_object_get(rank, "memory");
    uint64_t cache = number(memory_of, "kv_cache"), fixed = memory_sum(memory_of) - cache;
    uint64_t context = number(plan, "max_model_len") * number(rank, "kv_per_token");

    assert_int_equal(number(plan, "max_model_len"), want);
    assert_true(fixed + cache <= memory && cache >= context);
    if (want > 40960 / 16)
        assert_true(fixed + 2 * context <= memory);
    if (want < 40960)
        assert_true(fixed + 4 * context > memory);
    json_decref(plan);
}

static void does_not_fit(const char *memory, const char *option, const char *value,
    const char *why)
{
    struct command c;

    child_run(&c, NULL, (const char *const[]){"plan", "-m", "synth:0.6b", "--memory", memory,
        option, value, NULL});
    if (c.status != 1 || strstr(c.err, why) == NULL)
        fail_msg("--memory %s %s %s: status %d, %s", memory, option, value, c.status, c.err);
    child_free(&c);
}

static void context_is_halved_to_fit_the_memory_and_no_further(void **state)
{
    const uint64_t gib = UINT64_C(1) << 30;

    (void)state;
    check_context("16G", 16 * gib, 40960);
    check_context("8G", 8 * gib, 20480);
    check_context("5G", 5 * gib, 10240);
    check_context("1700M", UINT64_C(1700) << 20, 2560);
    /* what was asked for is not made smaller, and there is a least that is of use */
    does_not_fit("5G", "--max-model-len", "40960", "the KV cache takes 4.7 GB: use a smaller "
        "--max-model-len or --kv-blocks, or a larger --memory");
    does_not_fit("1500M", "--max-seqs", "16", "the KV cache takes 293.6 MB: use a smaller "
        "--max-model-len");
}

/* A model of 1.2 GB, and one option each that makes another kind too large. */
static void what_does_not_fit_is_named_with_the_option_that_changes_it(void **state)
{
    struct command c;

    (void)state;
    does_not_fit("800M", "--max-model-len", "64",
        "the weights take 1.2 GB: use a smaller model or --quant, or a larger --memory");
    does_not_fit("4G", "--max-batched-tokens", "65536",
        "the buffers take 5.6 GB: use a smaller --max-batched-tokens");
    does_not_fit("2G", "--kv-blocks", "100000", "the KV cache takes 183.5 GB: use a smaller "
        "--kv-blocks, or a larger --memory");
    does_not_fit("2G", "--max-seqs", "1024", "the logits take 1.9 GB: use fewer --max-seqs");
    child_run(&c, NULL, (const char *const[]){"plan", "-m", "synth:0.6b", "--memory", "2G",
        "--threads", "256", "--max-seqs", "256", NULL});
    assert_int_equal(c.status, 1);
    assert_non_null(strstr(c.err, "the workspace takes 1."));
    assert_non_null(strstr(c.err, " GB: use fewer --max-seqs or --threads"));
    child_free(&c);
}

/* What is not enough is told of every rank's share, and by how much. */
static void what_does_not_fit_is_counted_over_all_ranks(void **state)
{
    struct command c;
    char model[4096];

    (void)state;
    child_run(&c, NULL, (const char *const[]){"plan", "-m", few_ids(model), "--tp", "2",
        "--threads", "1", "--max-batched-tokens", "4096", "--memory", "2M", NULL});
    if (c.status != 1 || strstr(c.err, "this model needs ") == NULL ||
        strstr(c.err, " on 2 ranks, ") == NULL ||
        strstr(c.err, " more than the 2.1 MB that are allowed (weights 0.") == NULL ||
        strstr(c.err, ", symmetric memory ") == NULL)
        fail_msg("status %d, %s", c.status, c.err);
    child_free(&c);
}

/* Of the rank that needs most of a kind: logits are rank 0's, and heads are not even. */
static void memory_is_told_at_the_start_as_it_is_planned(void **state)
{
    static const char *const kinds[][2] = {{"weights", "weights"}, {"buffers", "buffers"},
        {"KV cache", "kv_cache"}, {"logits", "logits"}, {"workspace", "workspace"},
        {"symmetric memory", "symmetric"}};
    static const char *const tps[] = {"1", "2", "3"};

    (void)state;
    for (int i = 0; i < 3; i++) {
        json_t *plan = plan_with((const char *const[]){"plan", "--json", "--tp", tps[i],
            "--threads", "2", "--memory", "400M", NULL});
        const json_t *memory = json_object_get(plan, "memory");
        struct command c;

        child_run(&c, NULL, (const char *const[]){"run", "--log-level", "info", "--tp", tps[i],
            "--threads", "2", "--memory", "400M", "-n", "1", "Once", NULL});
        assert_int_equal(c.status, 0);
        for (int k = 0; k < 6; k++) {
            char words[64];

            snprintf(words, sizeof(words), "%s %.1f MB", kinds[k][0],
                (double)number(memory, kinds[k][1]) / 1e6);
            if (strstr(c.err, words) == NULL)
                fail_msg("tp %s: \"%s\" is not told: %s", tps[i], words, c.err);
        }
        child_free(&c);
        json_decref(plan);
    }
}

static void logits_are_for_the_sequences_and_not_for_every_token(void **state)
{
    static const char *const ways[][4] = {/* sequences, tokens, tp, outputs */
        {"4", "128", "1", "32"}, {"4", "2048", "1", "32"}, {"64", "2048", "1", "64"},
        {"4", "8", "1", "8"}, {"4", "128", "2", "32"}};
    char model[4096];

    (void)state;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        json_t *plan = plan_with((const char *const[]){"plan", "--json", "-m", few_ids(model),
            "--max-seqs", ways[i][0], "--max-batched-tokens", ways[i][1], "--tp", ways[i][2],
            NULL});
        uint64_t shares = ways[i][2][0] == '1' ? 1 : 2;
        /* the rows that go into the head, its logits, and two steps' results, each of 300 ids */
        uint64_t floats = strtoul(ways[i][3], NULL, 10) * (16 + 300 / shares + 2 * 300);
        uint64_t said = number(json_object_get(plan, "memory"), "logits");

        if (said < floats * sizeof(float) || said > floats * sizeof(float) + 2048)
            fail_msg("way %zu: %llu bytes of logits, %llu floats", i, (unsigned long long)said,
                (unsigned long long)floats);
        json_decref(plan);
    }
}

/* Chunks ----------------------------------------------------------------------------------- */

enum { IDS = 64, VOCAB = 300 };

/* The last `last` rows of logits; malloc'ed. */
static float *logits_with(const char *chunk, int last)
{
    char model[4096], ids[IDS * 4 + 1] = "", output[1024], k[16];
    size_t bytes = (size_t)last * VOCAB * sizeof(float), at = 0;
    float *logits = malloc(bytes);
    struct command c;
    FILE *f;

    for (int i = 0; i < IDS; i++)
        at += (size_t)snprintf(ids + at, sizeof(ids) - at, "%s%d", i > 0 ? "," : "", i * 7 % 256);
    snprintf(k, sizeof(k), "%d", last);
    few_ids(model);
    snprintf(output, sizeof(output), "%s", temp_dir_file(&dir, "logits.safetensors"));
    child_run(&c, NULL, (const char *const[]){"logits", "-m", model, "--ids", ids, "--last", k,
        "-o", output, "--max-seqs", "1", "--max-batched-tokens", chunk, "--threads", "1", NULL});
    if (c.status != 0)
        fail_msg("quern logits --last %d in chunks of %s: %s", last, chunk, c.err);
    child_free(&c);
    f = fopen(output, "r");
    assert_non_null(f);
    assert_non_null(logits);
    assert_int_equal(fseek(f, -(long)bytes, SEEK_END), 0);
    assert_int_equal(fread(logits, 1, bytes, f), bytes);
    fclose(f);
    return logits;
}

/* 64 ids in chunks of 1, of 16, and as a whole, of which a step gives 32 at most: from one row to
 * all, with and without a chunk's border. */
static void last_positions_are_the_same_across_chunks(void **state)
{
    static const int lasts[] = {1, 15, 16, 17, 31, 32, 33, 48, 63, 64};
    float *all = logits_with("1", IDS);

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(lasts) / sizeof(lasts[0]); i++) {
        int last = lasts[i / 2];
        float *some = logits_with(i % 2 == 0 ? "16" : "64", last);

        assert_memory_equal(some, all + (size_t)(IDS - last) * VOCAB,
            (size_t)last * VOCAB * sizeof(float));
        free(some);
    }
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_sampled_sequences_of_few_ids_a_rank_fit_their_exchange),
        cmocka_unit_test(one_sequence_of_one_token_a_step_fits_its_exchange),
        cmocka_unit_test(heads_as_wide_as_the_kernels_allow_run_and_no_wider),
        cmocka_unit_test(step_has_a_token_for_every_sequence),
        cmocka_unit_test(context_is_halved_to_fit_the_memory_and_no_further),
        cmocka_unit_test(what_does_not_fit_is_named_with_the_option_that_changes_it),
        cmocka_unit_test(what_does_not_fit_is_counted_over_all_ranks),
        cmocka_unit_test(memory_is_told_at_the_start_as_it_is_planned),
        cmocka_unit_test(logits_are_for_the_sequences_and_not_for_every_token),
        cmocka_unit_test(last_positions_are_the_same_across_chunks),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
