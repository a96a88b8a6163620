/* test_plan.c - quern plan tells what would run; plans and plugins of a user's own are obeyed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"
#include "tests/e2e/golden.h"

enum { HIDDEN = 256, LAYERS = 8 }; /* the storyteller's */

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

static json_t *plan_of(const char *const words[])
{
    json_error_t error;
    struct command c;
    json_t *plan;

    child_run(&c, NULL, words);
    plan = json_loads(c.out, 0, &error);
    if (c.status != 0 || plan == NULL)
        fail_msg("quern plan ...: status %d, \"%s\", line %d: %s", c.status, c.err, error.line,
            error.text);
    child_free(&c);
    return plan;
}

#define PLAN(...) plan_of((const char *const[]){"plan", "--json", __VA_ARGS__, NULL})

static int integer(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        fail_msg("no number %s", key);
    return (int)json_integer_value(value);
}

/* Bytes of all kinds that a rank, or the rank that needs most of each, takes. */
static int64_t memory_of(const json_t *object)
{
    json_t *memory = json_object_get(object, "memory"), *bytes;
    const char *kind;
    int64_t all = 0;

    assert_int_equal(json_object_size(memory), 6);
    json_object_foreach(memory, kind, bytes)
        all += json_integer_value(bytes);
    return all;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    if (text == NULL)
        fail_msg("no text %s", key);
    return text;
}

static json_t *tensor_of(const json_t *plan, const char *name)
{
    json_t *tensor;
    size_t i;

    json_array_foreach(json_object_get(plan, "tensors"), i, tensor)
        if (strcmp(text_of(tensor, "name"), name) == 0)
            return tensor;
    fail_msg("no tensor %s", name);
    return NULL;
}

static int pair(const json_t *part, const char *key, size_t i)
{
    return (int)json_integer_value(json_array_get(json_object_get(part, key), i));
}

/* The ranks' ranges of `key`, in order: from 0 to `total`, without a hole (KV heads may lie on
 * several ranks). */
static void covers(const json_t *tensor, const char *key, int total)
{
    int end = 0;
    json_t *part;
    size_t i;

    json_array_foreach(json_object_get(tensor, "ranks"), i, part) {
        int first = pair(part, key, 0), n = pair(part, key, 1);

        if (first > end || first + n < end)
            fail_msg("%s: rank %d has %s %d + %d behind %d", text_of(tensor, "name"), (int)i, key,
                first, n, end);
        end = first + n;
    }
    assert_int_equal(end, total);
}

static void check_tensor(const json_t *tensor, int64_t sums[])
{
    const json_t *shape = json_object_get(tensor, "shape");
    const char *placement = text_of(tensor, "placement");
    json_t *part;
    size_t i;

    if (strcmp(placement, "shard(0)") == 0)
        covers(tensor, "rows", (int)json_integer_value(json_array_get(shape, 0)));
    if (strcmp(placement, "shard(1)") == 0)
        covers(tensor, "cols", (int)json_integer_value(json_array_get(shape, 1)));
    json_array_foreach(json_object_get(tensor, "ranks"), i, part)
        sums[i] += integer(part, "bytes");
}

static void slices_cover_every_tensor_and_add_up(void **state)
{
    static const char *const tps[] = {"1", "2", "3", "4"};

    (void)state;
    for (int tp = 1; tp <= 4; tp++) {
        json_t *plan = PLAN("--tp", tps[tp - 1]), *ranks = json_object_get(plan, "ranks"), *tensor;
        int64_t sums[4] = {0};
        size_t i;

        json_array_foreach(json_object_get(plan, "tensors"), i, tensor)
            check_tensor(tensor, sums);
        assert_int_equal(json_array_size(ranks), tp);
        for (int rank = 0; rank < tp; rank++)
            assert_int_equal(sums[rank], integer(json_object_get(
                json_array_get(ranks, (size_t)rank), "memory"), "weights"));
        json_decref(plan);
    }
}

/* Three ranks share two KV heads, and rank 1 has both: its cache is twice the others'. */
static void memory_holds_where_rank_0_has_not_most(void **state)
{
    static const char like[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"hidden_size\": 64, "
        "\"intermediate_size\": 64, \"num_hidden_layers\": 8, \"num_attention_heads\": 10, "
        "\"num_key_value_heads\": 2, \"head_dim\": 128, \"vocab_size\": 400, "
        "\"max_position_embeddings\": 32768, \"tie_word_embeddings\": true, "
        "\"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0, \"hidden_act\": \"silu\"}";
    char model[4096];
    json_t *plan, *rank, *first;
    int64_t all = 0;
    size_t i;

    (void)state;
    snprintf(model, sizeof(model), "synth:%s",
        temp_dir_write(&dir, "kv.json", like, sizeof(like) - 1));
    plan = PLAN("-m", model, "--tp", "3", "--memory", "600M");
    first = json_array_get(json_object_get(plan, "ranks"), 0);
    json_array_foreach(json_object_get(plan, "ranks"), i, rank) {
        assert_int_equal(integer(rank, "kv_heads"), i == 1 ? 2 : 1);
        /* blocks are as many on each rank */
        assert_int_equal(integer(json_object_get(rank, "memory"), "kv_cache") /
            integer(rank, "kv_per_token"), integer(json_object_get(first, "memory"), "kv_cache") /
            integer(first, "kv_per_token"));
        all += memory_of(rank);
    }
    assert_true(all <= INT64_C(600) << 20);
    json_decref(plan);
}

static void is(const json_t *plan, const char *name, const char *strategy, const char *placement)
{
    const json_t *tensor = tensor_of(plan, name);

    assert_string_equal(text_of(tensor, "strategy"), strategy);
    assert_string_equal(text_of(tensor, "placement"), placement);
}

static void auto_is_qwen3s_own_plan(void **state)
{
    json_t *plan = PLAN("--tp", "2");

    (void)state;
    assert_string_equal(text_of(plan, "plan"), "auto");
    is(plan, "model.embed_tokens.weight", "embedding_rowwise", "shard(0)");
    is(plan, "model.layers.7.self_attn.k_proj.weight", "colwise", "shard(0)");
    is(plan, "model.layers.7.self_attn.q_norm.weight", "replicated_with_grad_allreduce",
        "replicate");
    is(plan, "model.layers.0.self_attn.o_proj.weight", "rowwise", "shard(1)");
    is(plan, "model.layers.0.mlp.up_proj.weight", "colwise", "shard(0)");
    is(plan, "model.layers.0.mlp.down_proj.weight", "rowwise", "shard(1)");
    is(plan, "model.norm.weight", "replicate", "replicate");
    json_decref(plan);
}

/* The embedding's sum, and two for each layer. */
static void communication_is_what_the_sums_take(void **state)
{
    json_t *alone = PLAN("--tp", "1"), *two = PLAN("--tp", "2");
    const json_t *traffic = json_object_get(two, "communication");
    size_t i;
    json_t *layer;

    (void)state;
    assert_int_equal(integer(json_object_get(alone, "communication"), "bytes_per_token"), 0);
    assert_int_equal(integer(traffic, "before_layers"), HIDDEN * 4);
    assert_int_equal(json_array_size(json_object_get(traffic, "layers")), LAYERS);
    json_array_foreach(json_object_get(traffic, "layers"), i, layer)
        assert_int_equal(json_integer_value(layer), 2 * HIDDEN * 4);
    assert_int_equal(integer(traffic, "bytes_per_token"), (2 * LAYERS + 1) * HIDDEN * 4);
    json_decref(alone);
    json_decref(two);
}

static void a_program_begins_and_samples(void **state)
{
    json_t *plan = PLAN("--tp", "2"), *program = json_object_get(plan, "program"), *op;
    int partial = 0;
    size_t i, n = json_array_size(program);

    (void)state;
    assert_string_equal(text_of(json_array_get(program, 0), "op"), "begin");
    assert_string_equal(text_of(json_array_get(program, n - 1), "op"), "sample");
    json_array_foreach(program, i, op) {
        const json_t *written = json_object_get(op, "writes");

        if (written != NULL && strcmp(text_of(written, "placement"), "partial") == 0)
            partial++;
    }
    assert_int_equal(partial, 2 * LAYERS + 1); /* each is then summed, or program_check() refuses */
    json_decref(plan);
}

static void equal_layers_are_told_once(void **state)
{
    struct command c;

    (void)state;
    child_run(&c, NULL, (const char *const[]){"plan", "--tp", "3", NULL});
    assert_int_equal(c.status, 0);
    assert_string_equal(c.err, "");
    assert_non_null(strstr(c.out, "\n  layers 1-7: as layer 0\n"));
    assert_null(strstr(c.out, "\n  layer 1:"));
    assert_non_null(strstr(c.out, "\n  rank 2 "));
    assert_non_null(strstr(c.out, "\nCOMMUNICATION"));
    assert_non_null(strstr(c.out, "KV cache for a token: the largest rank has"));
    child_free(&c);
}

/* Models that no machine here could hold, on as many ranks as there can be. */
static void large_models_are_planned_without_their_weights(void **state)
{
    json_t *plan = PLAN("-m", "synth:32b", "--tp", "16"), *ranks = json_object_get(plan, "ranks");

    (void)state;
    assert_int_equal(json_array_size(ranks), 16);
    assert_int_equal(integer(json_array_get(ranks, 15), "heads"), 4);
    assert_int_equal(integer(json_array_get(ranks, 15), "kv_heads"), 1);
    json_decref(plan);
}

/* A user's own ------------------------------------------------------------------------------ */

static const char *write_plan(char path[1024], const char *text)
{
    snprintf(path, 1024, "%s", temp_dir_write(&dir, "plan.json", text, strlen(text)));
    return path;
}

static const char light_plan[] = "{\n"
                                 "  \"layers.*.self_attn.*_proj\": \"colwise\",\n"
                                 "  \"layers.*.self_attn.o_proj\": \"rowwise\",\n"
                                 "  \"layers.*.mlp.*_proj\": \"light_colwise\",\n"
                                 "  \"layers.*.mlp.down_proj\": \"light_rowwise\",\n"
                                 "  \"lm_head\": \"colwise_gather_output\"\n"
                                 "}\n";

/* Where make puts a module of the examples or the tests, or libtool. */
static const char *module_path(char path[4096], const char *name)
{
    const char *folder = getenv("QUERN_EXAMPLES");

    if (folder == NULL)
        folder = "examples";
    snprintf(path, 4096, "%s/%s.so", folder, name);
    if (access(path, R_OK) != 0)
        snprintf(path, 4096, "%s/.libs/%s.so", folder, name);
    return path;
}

static const char *plugin(char path[4096])
{
    return module_path(path, "02_strategy_plugin");
}

static void a_plugins_strategy_cuts_as_it_says(void **state)
{
    char plan_path[1024], module[4096];
    json_t *plan = PLAN("--tp", "2", "--plugin", plugin(module), "--tp-plan",
        write_plan(plan_path, light_plan));
    const json_t *up = tensor_of(plan, "model.layers.3.mlp.up_proj.weight"),
                 *down = tensor_of(plan, "model.layers.3.mlp.down_proj.weight");
    const json_t *ranks = json_object_get(up, "ranks");

    (void)state;
    assert_string_equal(text_of(plan, "plan"), "plan.json");
    assert_string_equal(text_of(up, "strategy"), "light_colwise");
    assert_int_equal(integer(up, "line"), 4);
    assert_int_equal(integer(down, "line"), 5);
    assert_int_equal(pair(json_array_get(ranks, 0), "rows", 1), 288); /* 18 of 48 units of 16 */
    assert_int_equal(pair(json_array_get(ranks, 1), "rows", 0), 288);
    assert_int_equal(pair(json_array_get(json_object_get(down, "ranks"), 0), "cols", 1), 288);
    json_decref(plan);
}

/* The golden story, with a module's strategies over two ranks. */
static void tells_the_same_story(const char *module, const char *plan, const char *batched_tokens)
{
    struct golden stories[GOLDEN_MOST];
    char plan_path[1024];
    struct command c;

    assert_true(golden_read(stories) > 0);
    child_run(&c, NULL,
        (const char *const[]){"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype",
            "f32", "--tp", "2", "--max-batched-tokens", batched_tokens, "--plugin", module,
            "--tp-plan", write_plan(plan_path, plan), "--print-ids", stories[0].text, NULL});
    if (c.status != 0)
        fail_msg("%s", c.err);
    c.out[strcspn(c.out, "\n")] = '\0';
    assert_string_equal(c.out, stories[0].greedy);
    child_free(&c);
}

static void a_plugins_strategy_tells_the_same_story(void **state)
{
    char module[4096];

    (void)state;
    tells_the_same_story(plugin(module), light_plan, "512");
}

/* gate and up are one product: what is printed of each is still what its own line says. */
static void modules_of_a_product_are_told_by_their_own_lines(void **state)
{
    static const char text[] = "{\n"
                               "  \"layers.*.mlp.gate_proj\": \"colwise\",\n"
                               "  \"layers.*.mlp.up_proj\": \"packed_colwise\",\n"
                               "  \"layers.*.mlp.down_proj\": \"packed_rowwise\"\n"
                               "}\n";
    char path[1024];
    json_t *plan = PLAN("--tp", "2", "--tp-plan", write_plan(path, text));

    (void)state;
    is(plan, "model.layers.0.mlp.gate_proj.weight", "colwise", "shard(0)");
    is(plan, "model.layers.0.mlp.up_proj.weight", "packed_colwise", "shard(0)");
    json_decref(plan);
}

/* Rows of the MLP and of logits, scattered and gathered: wider than the residual stream. */
static void rows_wider_than_hidden_are_scattered_and_gathered(void **state)
{
    static const char rows_plan[] = "{\n"
                                    "  \"layers.*.mlp.gate_up_proj\": \"rows_of_whole\",\n"
                                    "  \"lm_head\": \"rows_of_sum\"\n}\n";
    char module[4096];

    (void)state;
    tells_the_same_story(module_path(module, "rows_plugin"), rows_plan, "16");
}

/* That plugin makes rank 0 light, but memory is for all. */
static void memory_holds_where_rank_0_is_light(void **state)
{
    char path[4096], plan_path[1024];
    json_t *plan = PLAN("-m", "synth:0.6b", "--tp", "2", "--memory", "6G", "--plugin",
                plugin(path), "--tp-plan", write_plan(plan_path, light_plan)),
           *rank;
    int64_t all = 0;
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(plan, "ranks"), i, rank)
        all += memory_of(rank);
    assert_true(all <= INT64_C(6) << 30);
    json_decref(plan);
}

static void refuses(const char *plan, const char *line, const char *const words[])
{
    char path[1024];
    struct command c;

    write_plan(path, plan);
    child_run(&c, NULL, words);
    if (c.status != 1 || strstr(c.err, line) == NULL || c.out_bytes != 0)
        fail_msg("status %d, \"%s\" does not say \"%s\"", c.status, c.err, line);
    child_free(&c);
}

#define REFUSES(plan, line, ...)                                                                   \
    refuses(plan, line, (const char *const[]){__VA_ARGS__, "--tp-plan", path, NULL})

static void plans_that_cannot_be_are_told_where(void **state)
{
    char path[1024], module[4096];

    (void)state;
    snprintf(path, sizeof(path), "%s", temp_dir_file(&dir, "plan.json"));
    REFUSES("{\n\"layers.*.mlp.gat_proj\": \"colwise\" }",
        "plan.json:2: pattern layers.*.mlp.gat_proj matches no module of this model: did you mean "
        "layers.*.mlp.gate_proj?", "plan", "--tp", "2");
    REFUSES("{ \"lm_head\": \"colwize\" }", "plan.json:1: unknown strategy \"colwize\"", "plan");
    REFUSES("{ \"lm_head\": \"colwize\" }", "plan.json:1: unknown strategy \"colwize\"", "run",
        "x");
    REFUSES(light_plan, "plan.json:4: unknown strategy \"light_colwise\"", "plan", "--tp", "2");
    REFUSES("{\n\n\"layers.*.self_attn.*_proj\": \"colwise\",\n"
            "\"layers.*.self_attn.o_proj\": \"replicate\" }",
        "plan.json", "plan", "--tp", "2");
    REFUSES("{}", "--plugin /nowhere.so: No such file or directory", "plan", "--plugin",
        "/nowhere.so");
    /* two cuts of one product */
    REFUSES("{ \"layers.*.mlp.gate_proj\": \"light_colwise\",\n"
            "\"layers.*.mlp.up_proj\": \"colwise\",\n"
            "\"layers.*.mlp.down_proj\": \"rowwise\" }",
        "up_proj (line 2 of plan.json) is colwise: they belong to one product", "plan", "--tp", "2",
        "--plugin", plugin(module));
    unlink(path);
    refuses("{}", "--tp-plan /nowhere.json: No such file or directory",
        (const char *const[]){"plan", "--tp-plan", "/nowhere.json", NULL});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_cover_every_tensor_and_add_up),
        cmocka_unit_test(memory_holds_where_rank_0_has_not_most),
        cmocka_unit_test(auto_is_qwen3s_own_plan),
        cmocka_unit_test(communication_is_what_the_sums_take),
        cmocka_unit_test(a_program_begins_and_samples),
        cmocka_unit_test(equal_layers_are_told_once),
        cmocka_unit_test(large_models_are_planned_without_their_weights),
        cmocka_unit_test(a_plugins_strategy_cuts_as_it_says),
        cmocka_unit_test(a_plugins_strategy_tells_the_same_story),
        cmocka_unit_test(rows_wider_than_hidden_are_scattered_and_gathered),
        cmocka_unit_test(memory_holds_where_rank_0_is_light),
        cmocka_unit_test(modules_of_a_product_are_told_by_their_own_lines),
        cmocka_unit_test(plans_that_cannot_be_are_told_where),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
