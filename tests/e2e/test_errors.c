/* test_errors.c - bad input gets one clear line, the right exit status, and leaves nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/e2e/command.h"
#include "tests/e2e/raw_client.h"

static char dir[256]; /* a folder of this test's own */

static void write_text(const char *name, const char *text)
{
    char path[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path); /* what a failed test left may be a link to the storyteller's */
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* One line on standard error with `line` in it, nothing on standard output. */
static void refuses(int status, const char *line, const char *const words[])
{
    struct command c;
    const char *end;

    child_run(&c, NULL, words);
    end = strchr(c.err, '\n');
    if (c.status != status || strstr(c.err, line) == NULL || strncmp(c.err, "quern: ", 7) != 0 ||
        end == NULL || end[1] != '\0' || c.out_bytes != 0)
        fail_msg("quern %s %s ...: status %d, standard output \"%s\", standard error \"%s\"; wanted "
                 "status %d and one line with \"%s\"", words[0], words[1], c.status, c.out, c.err,
            status, line);
    child_free(&c);
}

#define REFUSES(status, line, ...) refuses(status, line, (const char *const[]){__VA_ARGS__, NULL})

static void wrong_usage_is_exit_status_2(void **state)
{
    (void)state;
    REFUSES(2, "unknown command \"sing\"", "sing");
    REFUSES(2, "unknown option --loud", "run", "--loud", "x");
    REFUSES(2, "-n needs a value", "run", "x", "-n");
    REFUSES(2, "--max-tokens 0: it wants a whole number from 1", "run", "-n", "0", "x");
    REFUSES(2, "--tp two: it wants a whole number", "run", "--tp", "two", "x");
    REFUSES(2, "--compute f64: it wants one of bf16|f32", "run", "--compute", "f64", "x");
    REFUSES(2, "--top-p 1.5: it wants a number", "run", "--top-p", "1.5", "x");
    REFUSES(2, "--memory much: it wants bytes", "run", "--memory", "much", "x");
    REFUSES(2, "takes one PROMPT", "run");
    REFUSES(2, "takes one PROMPT", "run", "Once", "upon");
    REFUSES(2, "the prompt is empty", "run", "");
    REFUSES(2, "the prompt is empty", "run", "-");
    REFUSES(2, "it wants token ids, such as 1,2,3", "run", "--ids", "1,,2");
    REFUSES(2, "it wants token ids, such as 1,2,3", "run", "--ids", "-4");
    REFUSES(2, "wants --ids and -o FILE", "logits", "--ids", "1");
    REFUSES(2, "wants --socket PATH", "serve");
    REFUSES(2, "one word too many", "tokenize", "word");
    REFUSES(2, "wants --like NAME", "synth", "dir");
}

static void prompts_that_cannot_be_are_told_why(void **state)
{
    char ids[8 * 2100] = "1";

    (void)state;
    for (int i = 1; i < 2048; i++)
        strcat(ids, ",1");
    REFUSES(1, "the prompt has 2048 tokens, the context holds 2048 with at least one new one", "run",
        "--ids", ids);
    strcat(ids, ",1");
    REFUSES(1, "the prompt has 2049 tokens, the context holds 2048: shorten it", "logits", "--ids", ids,
        "-o", "/dev/null");
    REFUSES(1, "token id 8192 is out of range: this model has ids 0 to 8191", "run", "--ids",
        "1,8192");
    REFUSES(1, "not UTF-8: byte 3 is 0xff", "run", "abc\xff");
    REFUSES(1, "the prompt has 40 tokens, the context holds 32", "run", "--max-model-len", "32",
        "--ids", "1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10");
    REFUSES(1, "token id 8192 is out of range", "logits", "--ids", "8192", "-o", "/dev/null");
    REFUSES(1, "--last 3: the prompt has 2 tokens", "logits", "--ids", "1,2", "--last", "3", "-o",
        "/dev/null");
}

static void models_that_cannot_be_are_told_why(void **state)
{
    char path[4096];

    (void)state;
    REFUSES(1, "no model /nowhere", "run", "-m", "/nowhere", "x");
    REFUSES(1, "tp 5 needs 5 query heads, this model has 4: use at most 4", "run", "--tp", "5", "x");
    REFUSES(1, "--max-model-len 4096 is more than this model's 2048", "run", "--max-model-len",
        "4096", "x");
    write_text("config.json", "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"]}");
    REFUSES(1, "llama", "logits", "-m", dir, "--ids", "1", "-o", "/dev/null");
    write_text("config.json", "{\"model_type\": ");
    REFUSES(1, "config.json", "logits", "-m", dir, "--ids", "1", "-o", "/dev/null");
    REFUSES(1, "the weights take 1.2 GB: use a smaller model", "logits", "-m", "synth:0.6b",
        "--memory", "300M", "--ids", "1", "-o", "/dev/null");
    REFUSES(1, "synth:7b", "logits", "-m", "synth:7b", "--ids", "1", "-o", "/dev/null");
    REFUSES(1, "has no config.json", "logits", "-m", test_file(path, "golden/qwen3-tokenizer"),
        "--ids", "1", "-o", "/dev/null");
}

/* The golden models have no tokenizer files. */
static void ids_need_no_tokenizer_and_text_is_told_so(void **state)
{
    char path[4096];
    struct command c;
    int ids[4] = {-1, -1, -1, -1};

    (void)state;
    test_file(path, "golden/models/tied");
    child_run(&c, NULL, (const char *const[]){"run", "-m", path, "--ids", "1,2,3", "--print-ids",
        "-n", "4", "--ignore-eos", "--greedy", NULL});
    assert_int_equal(c.status, 0);
    assert_int_equal(sscanf(c.out, "%d,%d,%d,%d\n", &ids[0], &ids[1], &ids[2], &ids[3]), 4);
    for (int i = 0; i < 4; i++)
        assert_in_range(ids[i], 0, 319);
    child_free(&c);
    child_run(&c, NULL, (const char *const[]){"run", "-m", path, "--ids", "1,2,3", "-n", "4",
        "--ignore-eos", "--greedy", NULL});
    assert_int_equal(c.status, 0);
    assert_string_equal(c.out, "\n"); /* ids without a text */
    assert_non_null(strstr(c.err, "the new ids have no text: --print-ids prints them"));
    child_free(&c);
    REFUSES(1, "no tokenizer files: give it token ids (--ids and --print-ids)", "run", "-m", path,
        "x");
    REFUSES(1, "tokenizer.json", "tokenize", "-m", path);
}

/* The storyteller's tokenizer has 8178 tokens, its config.json 8192 rows. */
static void detokenize_takes_padding_rows_for_nothing_as_run_does(void **state)
{
    struct command c;

    (void)state;
    child_start(&c, NULL, (const char *const[]){"detokenize", NULL}, "[8178, 64, 8191]\n[8192]\n");
    assert_int_equal(child_finish(&c, 20000), 1);
    assert_string_equal(c.out, "\"a\"\n");
    assert_non_null(strstr(c.err, "line 2: element 0 is not a token id (0 to 8191)"));
    child_free(&c);
}

/* The storyteller with a chat template that is no Jinja. */
static void a_broken_chat_template_is_no_harm_to_text(void **state)
{
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";
    char path[4096], from[PATH_MAX], link[512];
    struct raw_server server;
    struct raw_client client;
    struct command c;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(link, sizeof(link), "%s/%s", dir, names[i]);
        unlink(link);
        assert_non_null(realpath(story_file(path, names[i]), from));
        assert_int_equal(symlink(from, link), 0);
    }
    write_text("chat_template.jinja", "a\n{% endfor %}");
    child_run(&c, NULL, (const char *const[]){"run", "-m", dir, "-n", "4", "--greedy",
        "Once upon a time", NULL});
    assert_int_equal(c.status, 0);
    assert_string_equal(c.out, ", there was a\n");
    assert_non_null(strstr(c.err, "chat_template.jinja: line 2: "));
    assert_non_null(strstr(c.err, "a chat is refused, text and ids are served"));
    child_free(&c);
    raw_server_start(&server, (const char *const[]){"-m", dir, NULL});
    raw_connect(&client, &server);
    raw_submit(&client, 1, raw_params(PROMPT_CHAT, 4), chat, strlen(chat));
    raw_refused(&client, 1, QUERN_CODE_BAD_REQUEST, "chat_template.jinja: line 2: ");
    raw_close(&client);
    raw_server_stop(&server, "quern: chat_template.jinja: line 2: the statement 'endfor' is not "
        "done, or its block was not begun: a chat is refused, text and ids are served\n");
    REFUSES(1, "chat_template.jinja: line 2: ", "template", "-m", dir);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(link, sizeof(link), "%s/%s", dir, names[i]);
        unlink(link);
    }
    snprintf(link, sizeof(link), "%s/chat_template.jinja", dir);
    unlink(link);
}

/* The `tied` model's weights under a config that wants others. */
static void weights_that_do_not_fit_the_config_are_told_why(void **state)
{
    static const char *const config =
        "{\"model_type\": \"qwen3\", \"hidden_size\": 64, \"intermediate_size\": %d, "
        "\"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
        "\"head_dim\": 32, \"vocab_size\": 320, \"tie_word_embeddings\": true, "
        "\"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-6}";
    char weights[4096], link[512], text[1024];

    (void)state;
    snprintf(link, sizeof(link), "%s/model.safetensors", dir);
    assert_int_equal(symlink(test_file(weights, "golden/models/tied/model.safetensors"), link), 0);
    snprintf(text, sizeof(text), config, 160, 2);
    write_text("config.json", text);
    REFUSES(1, "mlp.gate_proj.weight has shape [144,64], this model needs [160,64]", "logits", "-m",
        dir, "--ids", "1", "-o", "/dev/null");
    snprintf(text, sizeof(text), config, 144, 40);
    write_text("config.json", text);
    REFUSES(1, "model.layers.", "logits", "-m", dir, "--ids", "1", "-o", "/dev/null");
    unlink(link);
    write_text("model.safetensors", "short");
    REFUSES(1, "model.safetensors", "logits", "-m", dir, "--ids", "1", "-o", "/dev/null");
    unlink(link);
    REFUSES(1, "model.safetensors", "logits", "-m", dir, "--ids", "1", "-o", "/dev/null");
}

/* A plan is as large as a step's tokens and one table, not as all tables. */
static void many_sequences_of_many_blocks_run(void **state)
{
    struct command c;

    (void)state;
    child_run(&c, NULL, (const char *const[]){"run", "--max-seqs", "1024", "--block-size", "1",
        "-n", "4", "--greedy", "Once upon a time", NULL});
    assert_int_equal(c.status, 0);
    assert_string_equal(c.out, ", there was a\n");
    child_free(&c);
}

static void failing_ranks_say_it_once(void **state)
{
    (void)state;
    REFUSES(1, "the weights take 1.2 GB: use a smaller model", "run", "-m", "synth:0.6b",
        "--memory", "300M", "--tp", "4", "x");
}

static void no_file_is_left_half_written(void **state)
{
    char out[512], part[600];
    struct stat st;

    (void)state;
    snprintf(out, sizeof(out), "%s/logits.safetensors", dir);
    REFUSES(1, "out of range", "logits", "--ids", "1,99999", "-o", out);
    assert_int_not_equal(stat(out, &st), 0);
    snprintf(part, sizeof(part), "%s/none/logits.safetensors", dir);
    REFUSES(1, "cannot be written", "logits", "--ids", "1", "-o", part);
    write_text("occupied", "x");
    snprintf(part, sizeof(part), "%s", dir);
    REFUSES(1, dir, "synth", "--like", "0.6b", part); /* a folder with files in it */
}

static void forced_rows_that_are_not_there_are_errors(void **state)
{
    static const char *const words[] = {"run", "-n", "1", "x", NULL};
    static const char *const isa[] = {"QUERN_CPU_ISA=avx1024", NULL}, *const loop[] = {
        "QUERN_LOOP=poll", NULL};
    struct command c;

    (void)state;
    assert_int_equal(child_run(&c, isa, words), 1);
    assert_non_null(strstr(c.err, "QUERN_CPU_ISA=avx1024"));
    child_free(&c);
    assert_int_equal(child_run(&c, loop, words), 1);
    assert_non_null(strstr(c.err, "\"poll\""));
    child_free(&c);
    REFUSES(1, "CUDA", "run", "--backend", "cuda", "x");
}

static void help_and_version_work_for_all_commands(void **state)
{
    static const char *const commands[] = {"run", "serve", "logits", "tokenize", "detokenize",
        "template", "synth", "bench", "doctor"};
    struct command c;

    (void)state;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        assert_int_equal(child_run(&c, NULL, (const char *[]){commands[i], "--help", NULL}), 0);
        assert_non_null(strstr(c.out, commands[i]));
        assert_string_equal(c.err, "");
        child_free(&c);
        assert_int_equal(child_run(&c, NULL, (const char *[]){commands[i], "--version", NULL}), 0);
        assert_memory_equal(c.out, "quern ", 6);
        child_free(&c);
    }
}

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "%s/quern-errors-XXXXXX",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(dir) == NULL;
}

static int remove_dir(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/occupied", dir);
    unlink(path);
    return rmdir(dir); /* fails when a command left something there */
}

/* A model whose codes are not where its configuration says. */
static void a_tensor_that_is_missing_is_named_once(void **state)
{
    char config[8192] = "", path[4096], real[PATH_MAX], link[512], *method;
    FILE *f = fopen(test_file(path, "golden/quant/w8a8_int8/config.json"), "r");

    (void)state;
    assert_non_null(f);
    assert_true(fread(config, 1, sizeof(config) - 1, f) > 0);
    fclose(f);
    method = strstr(config, "\"w8a8_int8\"");
    assert_non_null(method);
    memcpy(method, "\"awq\"      ", 11);
    write_text("config.json", config);
    snprintf(link, sizeof(link), "%s/model.safetensors", dir);
    assert_non_null(realpath(test_file(path, "golden/quant/w8a8_int8/model.safetensors"), real));
    assert_int_equal(symlink(real, link), 0);
    REFUSES(1, "q_proj.scales is missing", "plan", "-m", dir);
    REFUSES(1, "q_proj.scales is missing", "logits", "-m", dir, "--ids", "1", "-o", "/dev/null");
    unlink(link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_usage_is_exit_status_2),
        cmocka_unit_test(prompts_that_cannot_be_are_told_why),
        cmocka_unit_test(models_that_cannot_be_are_told_why),
        cmocka_unit_test(ids_need_no_tokenizer_and_text_is_told_so),
        cmocka_unit_test(detokenize_takes_padding_rows_for_nothing_as_run_does),
        cmocka_unit_test(a_broken_chat_template_is_no_harm_to_text),
        cmocka_unit_test(weights_that_do_not_fit_the_config_are_told_why),
        cmocka_unit_test(many_sequences_of_many_blocks_run),
        cmocka_unit_test(failing_ranks_say_it_once),
        cmocka_unit_test(no_file_is_left_half_written),
        cmocka_unit_test(forced_rows_that_are_not_there_are_errors),
        cmocka_unit_test(help_and_version_work_for_all_commands),
        cmocka_unit_test(a_tensor_that_is_missing_is_named_once),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
