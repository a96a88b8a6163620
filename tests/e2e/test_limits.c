/* test_limits.c - runtimes of odd sizes: many sequences, few ids, short steps.
 *
 * What ranks exchange in a step is sized when the runtime starts; here steps are as full as they
 * can be, so that what is sized too small for its writer shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_sampled_sequences_of_few_ids_a_rank_fit_their_exchange),
        cmocka_unit_test(one_sequence_of_one_token_a_step_fits_its_exchange),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
