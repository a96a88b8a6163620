/* test_load_memory.c - while a rank loads, it holds its own shard and little else.
 *
 * A checkpoint of 200 MB is written and loaded by two ranks, and what each
 * has in memory is read from /proc every millisecond: anonymous and shared
 * pages, which tell that the shard was there, and the kernel's own record of
 * the most there was of everything, pages of the mapped file included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"

enum { RANKS = 2, PATIENCE_MS = 120000 };

static const uint64_t allowance = 64u << 20;

static struct temp_dir folder;
static char checkpoint[1024], redundant[1024], output[1024];

static const char like[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", "
    "\"hidden_size\": 1024, \"intermediate_size\": 4096, \"num_hidden_layers\": 4, "
    "\"num_attention_heads\": 16, \"num_key_value_heads\": 8, \"head_dim\": 128, "
    "\"vocab_size\": 32768, \"tie_word_embeddings\": true, \"rms_norm_eps\": 1e-6, "
    "\"rope_theta\": 1000000.0, \"max_position_embeddings\": 2048, \"torch_dtype\": \"bfloat16\", "
    "\"hidden_act\": \"silu\", \"attention_bias\": false, \"bos_token_id\": 1, "
    "\"eos_token_id\": 2}";

/* The table alone is more than the allowance. */
static const char like_untied[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], "
    "\"model_type\": \"qwen3\", \"hidden_size\": 1024, \"intermediate_size\": 1024, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 16, \"num_key_value_heads\": 8, "
    "\"head_dim\": 64, \"vocab_size\": 49152, \"tie_word_embeddings\": false, "
    "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, \"max_position_embeddings\": 2048, "
    "\"torch_dtype\": \"bfloat16\", \"hidden_act\": \"silu\", \"attention_bias\": false, "
    "\"bos_token_id\": 1, \"eos_token_id\": 2}";

#define SMALL "--tp", "2", "--threads", "1", "--max-seqs", "1", "--max-batched-tokens", "16", \
    "--max-model-len", "64"

static bool synth(const char *name, const char *text, char path[1024])
{
    char config[1024];
    struct command c;
    bool done;

    snprintf(config, sizeof(config), "%s",
        temp_dir_write(&folder, "like.json", text, strlen(text)));
    snprintf(path, 1024, "%s", temp_dir_file(&folder, name));
    child_run(&c, NULL, (const char *[]){"synth", "--like", config, "--seed", "7", path, NULL});
    done = c.status == 0;
    if (!done)
        print_message("# quern synth: %s\n", c.err);
    child_free(&c);
    return done;
}

static size_t data_at(const json_t *header, const char *tensor, size_t *bytes)
{
    const json_t *offsets = json_object_get(json_object_get(header, tensor), "data_offsets");
    size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));

    *bytes = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
    return begin;
}

/* Makes lm_head the embedding once more, as Qwen3-0.6B has it on its disk. */
static bool repeat_table(const char *dir)
{
    char path[2048];
    uint64_t length = 0;
    size_t from, to, bytes = 0, there = 0;
    json_t *header, *config;
    char *map;
    FILE *f;

    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    f = fopen(path, "r+e");
    if (f == NULL || fread(&length, sizeof(length), 1, f) != 1)
        return false;
    header = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL);
    from = 8 + length + data_at(header, "model.embed_tokens.weight", &bytes);
    to = 8 + length + data_at(header, "lm_head.weight", &there);
    json_decref(header);
    fseek(f, 0, SEEK_END);
    map = mmap(NULL, (size_t)ftell(f), PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0);
    if (map == MAP_FAILED || bytes == 0 || bytes != there)
        return false;
    memcpy(map + to, map + from, bytes);
    munmap(map, (size_t)ftell(f));
    fclose(f);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    config = json_load_file(path, 0, NULL);
    json_object_set_new(config, "tie_word_embeddings", json_true());
    bytes = (size_t)json_dump_file(config, path, 0);
    json_decref(config);
    return bytes == 0;
}

static int write_checkpoint(void **state)
{
    (void)state;
    temp_dir_make(&folder);
    snprintf(output, sizeof(output), "%s", temp_dir_file(&folder, "logits.safetensors"));
    return synth("checkpoint", like, checkpoint) && synth("redundant", like_untied, redundant) &&
                   repeat_table(redundant)
               ? 0
               : -1;
}

static int remove_checkpoint(void **state)
{
    (void)state;
    temp_dir_remove(&folder);
    return 0;
}

/* What each rank's weights take, as `quern plan` says. */
static void read_shards(const char *model, const char *quant, uint64_t shards[RANKS])
{
    struct command c;
    json_t *root, *ranks;

    child_run(&c, NULL, (const char *[]){"plan", "-m", model, SMALL, "--json",
        quant != NULL ? "--quant" : NULL, quant, NULL});
    if (c.status != 0)
        fail_msg("quern plan: %s", c.err);
    root = json_loads(c.out, 0, NULL);
    ranks = json_object_get(root, "ranks");
    assert_int_equal(json_array_size(ranks), RANKS);
    for (size_t r = 0; r < RANKS; r++)
        shards[r] =
            (uint64_t)json_integer_value(json_object_get(
                json_object_get(json_array_get(ranks, r), "memory"), "weights"));
    json_decref(root);
    child_free(&c);
}

/* A process of the family, in bytes. */
struct footprint {
    pid_t pid;
    uint64_t peak_own; /* the most anonymous and shared pages that were seen */
    uint64_t peak;     /* with pages of files */
};

static uint64_t field(const char *status, const char *name)
{
    const char *at = strstr(status, name);

    return at != NULL ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

static void look(struct footprint *f)
{
    char path[64], status[4096];
    uint64_t own;
    FILE *file;
    size_t n;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)f->pid);
    file = fopen(path, "re");
    if (file == NULL)
        return;
    n = fread(status, 1, sizeof(status) - 1, file);
    fclose(file);
    status[n] = '\0';
    own = field(status, "RssAnon:") + field(status, "RssShmem:");
    if (own > f->peak_own)
        f->peak_own = own;
    if (field(status, "VmHWM:") > f->peak)
        f->peak = field(status, "VmHWM:");
}

static bool has_ended(pid_t pid)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

/* The ranks of the runtime that the command starts, by their names. */
static int watch(pid_t root, struct footprint ranks[RANKS])
{
    static const char *const names[RANKS] = {"quern-r00", "quern-r01"};
    const struct timespec pause = {.tv_nsec = 1000000};
    int seen = 0;

    while (!has_ended(root)) {
        seen = 0;
        for (int i = 0; i < RANKS; i++) {
            if (ranks[i].pid == 0)
                ranks[i].pid = child_named(root, names[i]);
            if (ranks[i].pid != 0)
                look(&ranks[i]);
            seen += ranks[i].pid != 0;
        }
        nanosleep(&pause, NULL);
    }
    return seen;
}

/* Every rank was seen with its whole shard, and never with 64 MiB more. */
static void stays_within(const char *model, const char *quant)
{
    struct footprint ranks[RANKS] = {{0}};
    uint64_t shards[RANKS];
    struct command c;
    int n;

    read_shards(model, quant, shards);
    child_start(&c, NULL, (const char *[]){"logits", "-m", model, SMALL, "--ids", "5,6,7",
        "-o", output, quant != NULL ? "--quant" : NULL, quant, NULL}, NULL);
    n = watch(c.pid, ranks);
    if (child_finish(&c, PATIENCE_MS) != 0)
        fail_msg("quern logits: %s", c.err);
    child_free(&c);
    assert_int_equal(n, RANKS);
    for (int r = 0; r < RANKS; r++) {
        print_message("# %s, rank %d: shard %.1f MB, peak %.1f MB, with pages of files %.1f MB\n",
            quant != NULL ? quant : "bf16", r, (double)shards[r] / 1e6,
            (double)ranks[r].peak_own / 1e6, (double)ranks[r].peak / 1e6);
        assert_true(ranks[r].peak_own > shards[r] - shards[r] / 16);
        assert_true(ranks[r].peak_own < shards[r] + allowance);
        assert_true(ranks[r].peak < shards[r] + allowance);
    }
}

static void plain_weights_stay_within_the_shard(void **state)
{
    (void)state;
    stays_within(checkpoint, NULL);
}

static void weights_quantised_while_loading_stay_within_the_shard(void **state)
{
    (void)state;
    stays_within(checkpoint, "int4");
}

static void head_that_repeats_the_embedding_stays_within_the_shard(void **state)
{
    (void)state;
    stays_within(redundant, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_weights_stay_within_the_shard),
        cmocka_unit_test(weights_quantised_while_loading_stay_within_the_shard),
        cmocka_unit_test(head_that_repeats_the_embedding_stays_within_the_shard),
    };

    return cmocka_run_group_tests(tests, write_checkpoint, remove_checkpoint);
}
