/* test_plan_bytes.c - what quern plan says a rank takes, against what a running rank has taken.
 *
 * The backend maps memory without reserving it, and nothing else in a rank does so once malloc()
 * keeps to one arena: those mappings are its weights, buffers, logits, workspace and KV cache, to
 * the page. Symmetric memory lies in the memfd that ranks share. What the plan gives each tensor is
 * held against the tensor's own shape. */
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

enum { PAGE = 4096, MOST_RANKS = 4 };

static const uint64_t ring_room = 256 << 10; /* of the plan ring, which lies beside it */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool counts_all = false; /* the sanitizer's own mappings are like the backend's */
#else
static const bool counts_all = true;
#endif

/* Heads that three ranks share unevenly, biases, and an MLP that no panel of 16 divides. */
static const char like[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"hidden_size\": 192, "
    "\"intermediate_size\": 500, \"num_hidden_layers\": 5, \"num_attention_heads\": 10, "
    "\"num_key_value_heads\": 2, \"head_dim\": 64, \"vocab_size\": 4001, "
    "\"max_position_embeddings\": 1024, \"tie_word_embeddings\": false, \"attention_bias\": true, "
    "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, \"hidden_act\": \"silu\"}";

static struct temp_dir dir;
static char model[4096];

static int write_config(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    snprintf(model, sizeof(model), "synth:%s",
        temp_dir_write(&dir, "like.json", like, sizeof(like) - 1));
    return setenv("MALLOC_ARENA_MAX", "1", 1);
}

static int remove_config(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

#define OPTIONS(tp)                                                                               \
    "-m", model, "--tp", tp, "--threads", "2", "--max-seqs", "5", "--max-model-len", "512",       \
        "--max-batched-tokens", "96", "--memory", "2G"

static json_t *plan_of(const char *tp)
{
    struct command c;
    json_t *plan;

    child_run(&c, NULL, (const char *const[]){"plan", "--json", OPTIONS(tp), NULL});
    plan = json_loads(c.out, 0, NULL);
    if (c.status != 0 || plan == NULL)
        fail_msg("quern plan at tp %s: status %d, %s", tp, c.status, c.err);
    child_free(&c);
    return plan;
}

static uint64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_integer(value));
    return (uint64_t)json_integer_value(value);
}

static const json_t *rank_of(const json_t *plan, size_t rank)
{
    return json_array_get(json_object_get(plan, "ranks"), rank);
}

static const json_t *memory_of(const json_t *plan, size_t rank)
{
    return json_object_get(rank_of(plan, rank), "memory");
}

/* What a process has mapped, in bytes. */
struct taken {
    uint64_t unreserved; /* anonymous, writable, not reserved */
    uint64_t step;       /* the memfd of plan ring and symmetric memory */
    int mappings;        /* of the first kind */
};

static struct taken taken_by(pid_t pid)
{
    struct taken t = {0};
    char path[64], line[512];
    unsigned long kib = 0;
    bool anonymous = false, step = false;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long from, to, offset, inode;
        char permissions[8], name[256] = "";

        if (sscanf(line, "%lx-%lx %7s %lx %*s %lu %255s", &from, &to, permissions, &offset, &inode,
                name) >= 5) {
            anonymous = inode == 0 && name[0] == '\0' && permissions[1] == 'w';
            step = strncmp(name, "/memfd:quern-step", 17) == 0;
        } else if (sscanf(line, "Size: %lu kB", &kib) == 1) {
            t.step += step ? kib * 1024 : 0;
        } else if (strncmp(line, "VmFlags:", 8) == 0 && anonymous && strstr(line, " nr") != NULL) {
            t.unreserved += kib * 1024;
            t.mappings++;
        }
    }
    fclose(f);
    return t;
}

static void check_rank(const json_t *plan, size_t rank, size_t ranks, pid_t pid)
{
    const json_t *kinds = memory_of(plan, rank);
    uint64_t memory = number(kinds, "weights") + number(kinds, "buffers") +
                      number(kinds, "kv_cache") + number(kinds, "logits") +
                      number(kinds, "workspace");
    /* each weight is a mapping of whole pages, of which there are fewer than tensors */
    uint64_t rounding = (json_array_size(json_object_get(plan, "tensors")) + 2) * PAGE;
    uint64_t shared = ranks * number(kinds, "symmetric");
    struct taken t = taken_by(pid);

    print_message("# rank %zu of %zu: %.3f MB said, %.3f MB taken; shared %.3f of %.3f MB\n",
        rank, ranks, (double)memory / 1e6, (double)t.unreserved / 1e6, (double)shared / 1e6,
        (double)t.step / 1e6);
    assert_true(t.unreserved >= memory && t.mappings > 0);
    assert_true(t.unreserved <= memory + rounding || !counts_all);
    assert_true(t.step >= shared && t.step < shared + ring_room);
    assert_true((shared == 0) == (ranks == 1)); /* alone there is nobody to tell */
}

static void ranks_take_what_the_plan_says(void **state)
{
    static const char *const tps[] = {"1", "2", "3", "4"};

    (void)state;
    for (size_t tp = 1; tp <= MOST_RANKS; tp++) {
        json_t *plan = plan_of(tps[tp - 1]);
        struct raw_server server;
        struct raw_client client;

        raw_server_start(&server, (const char *const[]){OPTIONS(tps[tp - 1]), NULL});
        raw_connect(&client, &server);
        free(raw_await(&client, FRAME_READY).payload);
        for (size_t rank = 0; rank < tp; rank++) {
            char name[16];

            snprintf(name, sizeof(name), "quern-r%02zu", rank);
            check_rank(plan, rank, tp, raw_server_member(&server, name));
        }
        raw_close(&client);
        raw_server_stop(&server, "");
        json_decref(plan);
    }
}

static void context_costs_what_its_heads_and_layers_take(void **state)
{
    static const char *const tps[] = {"1", "2", "3"};

    (void)state;
    for (size_t tp = 1; tp <= 3; tp++) {
        json_t *plan = plan_of(tps[tp - 1]);

        for (size_t rank = 0; rank < tp; rank++) {
            const json_t *said = rank_of(plan, rank);
            /* k and v, bf16, of 64 each, in 5 layers; then 5 contexts of 512 */
            uint64_t token = number(said, "kv_heads") * 2 * 2 * 64 * 5;

            assert_int_equal(number(said, "kv_per_token"), token);
            assert_int_equal(number(memory_of(plan, rank), "kv_cache"), token * 5 * 512);
        }
        json_decref(plan);
    }
}

/* A matrix lies in panels of 16 rows and pairs of columns of bf16, a vector in f32. Several that
 * are one product share its last panel: their parts are exact there but for that one. */
static uint64_t check_tensor(const json_t *tensor, size_t rank)
{
    const json_t *part = json_array_get(json_object_get(tensor, "ranks"), rank);
    const json_t *shape = json_object_get(tensor, "shape");
    uint64_t rows = (uint64_t)json_integer_value(json_array_get(json_object_get(part, "rows"), 1));
    uint64_t cols, bytes = number(part, "bytes"), row;

    if (json_array_size(shape) == 1) {
        assert_int_equal(bytes, rows * sizeof(float));
        return bytes;
    }
    cols = (uint64_t)json_integer_value(
        json_object_get(part, "cols") != NULL
            ? json_array_get(json_object_get(part, "cols"), 1)
            : json_array_get(shape, 1));
    row = (cols + 1) / 2 * 4;
    if (bytes < rows * row || bytes > (rows + 15) * row)
        fail_msg("%s, rank %zu: %llu bytes for %llu rows of %llu",
            json_string_value(json_object_get(tensor, "name")), rank, (unsigned long long)bytes,
            (unsigned long long)rows, (unsigned long long)row);
    return bytes;
}

static void tensors_take_what_their_shape_does(void **state)
{
    static const char *const tps[] = {"1", "2", "3", "4"};

    (void)state;
    for (size_t tp = 1; tp <= MOST_RANKS; tp++) {
        json_t *plan = plan_of(tps[tp - 1]), *tensor;
        uint64_t sums[MOST_RANKS] = {0};
        size_t i, biases = 0;

        json_array_foreach(json_object_get(plan, "tensors"), i, tensor) {
            biases += strstr(json_string_value(json_object_get(tensor, "name")), ".bias") != NULL;
            for (size_t rank = 0; rank < tp; rank++)
                sums[rank] += check_tensor(tensor, rank);
        }
        for (size_t rank = 0; rank < tp; rank++)
            assert_int_equal(sums[rank], number(memory_of(plan, rank), "weights"));
        assert_int_equal(biases, 4 * 5);
        json_decref(plan);
    }
}

static void check_evenness(const json_t *plan, const char *name, const char *key, bool kind,
    size_t tp)
{
    const json_t *said = json_object_get(plan, name);
    uint64_t most = 0, sum = 0;

    for (size_t rank = 0; rank < tp; rank++) {
        uint64_t bytes = number(kind ? memory_of(plan, rank) : rank_of(plan, rank), key);

        sum += bytes;
        most = bytes > most ? bytes : most;
    }
    assert_int_equal(number(said, "largest"), most);
    assert_float_equal(json_real_value(json_object_get(said, "mean")), (double)sum / (double)tp,
        1e-3);
    assert_float_equal(json_real_value(json_object_get(said, "largest_to_mean")),
        (double)most * (double)tp / (double)sum, 1e-9);
}

static void evenness_is_of_all_ranks(void **state)
{
    json_t *plan = plan_of("3");

    (void)state;
    assert_true(number(memory_of(plan, 0), "weights") != number(memory_of(plan, 1), "weights"));
    check_evenness(plan, "weights_evenness", "weights", true, 3);
    check_evenness(plan, "kv_evenness", "kv_per_token", false, 3);
    json_decref(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_take_what_the_plan_says),
        cmocka_unit_test(context_costs_what_its_heads_and_layers_take),
        cmocka_unit_test(tensors_take_what_their_shape_does),
        cmocka_unit_test(evenness_is_of_all_ranks),
    };

    return cmocka_run_group_tests(tests, write_config, remove_config);
}
