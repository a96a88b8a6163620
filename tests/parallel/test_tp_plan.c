/* test_tp_plan.c - which rule decides, and that every fault names its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "parallel/tp_plan.h"
#include "parallel/tp_plan_match.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"

enum { LAYERS = 2, PER_LAYER = 15 };

static struct temp_dir dir;
static char names[3 + LAYERS * PER_LAYER][64];
static struct plan_module modules[3 + LAYERS * PER_LAYER];
static int n_modules;

static void add(enum module_kind kind, const char *name)
{
    snprintf(names[n_modules], sizeof(names[0]), "%s", name);
    modules[n_modules] = (struct plan_module){.name = names[n_modules], .kind = kind};
    n_modules++;
}

static void add_layer(int layer)
{
    static const struct {
        const char *tail;
        enum module_kind kind;
    } tails[PER_LAYER] = {
        {"self_attn.q_proj", KIND_LINEAR}, {"self_attn.k_proj", KIND_LINEAR},
        {"self_attn.v_proj", KIND_LINEAR}, {"self_attn.o_proj", KIND_LINEAR},
        {"self_attn.q_norm", KIND_HEAD_NORM}, {"self_attn.k_norm", KIND_HEAD_NORM},
        {"mlp.gate_proj", KIND_LINEAR}, {"mlp.up_proj", KIND_LINEAR},
        {"mlp.down_proj", KIND_LINEAR}, {"input_layernorm", KIND_NORM},
        {"post_attention_layernorm", KIND_NORM}, {"self_attn", KIND_MODULE}, {"mlp", KIND_MODULE},
        {"self_attn.qkv_proj", KIND_FUSED}, {"mlp.gate_up_proj", KIND_FUSED},
    };
    char name[64];

    for (int i = 0; i < PER_LAYER; i++) {
        snprintf(name, sizeof(name), "model.layers.%d.%s", layer, tails[i].tail);
        add(tails[i].kind, name);
    }
}

static int set_up(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    add(KIND_EMBEDDING, "model.embed_tokens");
    for (int layer = 0; layer < LAYERS; layer++)
        add_layer(layer);
    add(KIND_NORM, "model.norm");
    add(KIND_LINEAR, "lm_head");
    return 0;
}

static int take_down(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

static const char *write_plan(const char *text)
{
    return temp_dir_write(&dir, "plan.json", text, strlen(text));
}

static struct tp_plan *open_plan(const char *text)
{
    struct tp_plan *plan;

    if (tp_plan_open(write_plan(text), &plan) != STATUS_OK)
        fail_msg("%s", log_last_error());
    return plan;
}

static void has(const struct tp_plan *plan, const char *module, enum module_kind kind,
    const char *strategy, int line)
{
    assert_string_equal(tp_plan_strategy(plan, module, kind)->name, strategy);
    assert_int_equal(tp_plan_line(plan, module), line);
}

static void auto_is_qwen3s_own_plan(void **state)
{
    static const struct {
        const char *module, *strategy;
        enum module_kind kind;
    } facts[] = {
        {"model.embed_tokens", "embedding_rowwise", KIND_EMBEDDING},
        {"model.layers.0.self_attn.q_proj", "colwise", KIND_LINEAR},
        {"model.layers.35.self_attn.k_proj", "colwise", KIND_LINEAR},
        {"model.layers.7.self_attn.v_proj", "colwise", KIND_LINEAR},
        {"model.layers.7.self_attn.q_norm", "replicated_with_grad_allreduce", KIND_HEAD_NORM},
        {"model.layers.7.self_attn.k_norm", "replicated_with_grad_allreduce", KIND_HEAD_NORM},
        {"model.layers.7.self_attn.o_proj", "rowwise", KIND_LINEAR},
        {"model.layers.7.mlp.gate_proj", "colwise", KIND_LINEAR},
        {"model.layers.7.mlp.up_proj", "colwise", KIND_LINEAR},
        {"model.layers.7.mlp.down_proj", "rowwise", KIND_LINEAR},
        {"model.layers.7.input_layernorm", "replicate", KIND_NORM},
        {"model.layers.7.mlp", "replicate", KIND_MODULE},
        {"model.norm", "replicate", KIND_NORM},
        {"lm_head", "colwise_gather_output", KIND_LINEAR},
    };
    struct tp_plan *plan, *again;

    (void)state;
    assert_int_equal(tp_plan_open(NULL, &plan), STATUS_OK);
    assert_int_equal(tp_plan_open("auto", &again), STATUS_OK);
    assert_string_equal(tp_plan_name(plan), "auto");
    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        has(plan, facts[i].module, facts[i].kind, facts[i].strategy, 0);
        has(again, facts[i].module, facts[i].kind, facts[i].strategy, 0);
    }
    assert_int_equal(tp_plan_check(plan, modules, n_modules), STATUS_OK);
    tp_plan_close(plan);
    tp_plan_close(again);
    tp_plan_close(NULL);
}

static void a_file_says_which_line_decided(void **state)
{
    struct tp_plan *plan = open_plan(
        "{\n"
        "  \"layers.*.self_attn.q_proj\": \"colwise\",\n"
        "  \"model.layers.*.self_attn.o_proj\": \"rowwise\", \"layers.*.mlp.up_proj\":\n"
        "     \"colwise\",\n"
        "\n"
        "  \"layers.*.mlp.\\u0064own_proj\": \"rowwise\"\n"
        "}\n");

    (void)state;
    assert_string_equal(tp_plan_name(plan), "plan.json");
    has(plan, "model.layers.1.self_attn.q_proj", KIND_LINEAR, "colwise", 2);
    has(plan, "model.layers.0.self_attn.o_proj", KIND_LINEAR, "rowwise", 3);
    has(plan, "model.layers.0.mlp.up_proj", KIND_LINEAR, "colwise", 3);
    has(plan, "model.layers.0.mlp.down_proj", KIND_LINEAR, "rowwise", 6);
    has(plan, "model.layers.0.mlp.gate_proj", KIND_LINEAR, "replicate", 0);
    has(plan, "model.embed_tokens", KIND_EMBEDDING, "embedding_rowwise", 0);
    has(plan, "lm_head", KIND_LINEAR, "replicate", 0);
    assert_int_equal(tp_plan_check(plan, modules, n_modules), STATUS_OK);
    tp_plan_close(plan);
}

static void the_most_specific_pattern_decides(void **state)
{
    struct tp_plan *plan = open_plan(
        "{ \"layers.0.mlp.down_proj\": \"replicate\",\n"
        "  \"layers.*.mlp.down_proj\": \"rowwise\",\n"
        "  \"layers.*.*.*_proj\": \"colwise\",\n"
        "  \"layers.*.mlp.*_proj\": \"colwise_rep\",\n"
        "  \"layers.*.mlp.*p_proj\": \"colwise\",\n"
        "  \"layers.*.self_attn.o_proj.weight\": \"rowwise_rep\",\n"
        "  \"layers.1.self_attn.o_proj\": \"replicate\",\n"
        "  \"model.layers.*.self_attn.q_proj\": \"colwise_rep\",\n"
        "  \"layers.*.self_attn.q_proj\": \"colwise\" }");

    (void)state;
    has(plan, "model.layers.0.mlp.down_proj", KIND_LINEAR, "replicate", 1);
    has(plan, "model.layers.1.mlp.down_proj", KIND_LINEAR, "rowwise", 2);
    has(plan, "model.layers.1.self_attn.k_proj", KIND_LINEAR, "colwise", 3);
    has(plan, "model.layers.1.mlp.gate_proj", KIND_LINEAR, "colwise_gather_output", 4);
    has(plan, "model.layers.1.mlp.up_proj", KIND_LINEAR, "colwise", 5); /* longer */
    has(plan, "model.layers.1.self_attn.o_proj", KIND_LINEAR, "rowwise_split_input", 6);
    has(plan, "model.layers.1.self_attn.q_proj", KIND_LINEAR, "colwise", 9); /* later */
    assert_int_equal(tp_plan_check(plan, modules, n_modules), STATUS_OK);
    tp_plan_close(plan);
}

static void a_fused_name_stands_for_parts_that_nothing_names(void **state)
{
    struct tp_plan *plan = open_plan("{\n \"layers.*.mlp.gate_up_proj\": \"packed_colwise\",\n"
                                     " \"layers.*.self_attn.qkv_proj.weight\": \"replicate\",\n"
                                     " \"layers.1.self_attn.*_proj\": \"colwise_rep\",\n"
                                     " \"layers.1.mlp.up_proj\": \"colwise\" }");

    (void)state;
    assert_int_equal(tp_plan_check(plan, modules, n_modules), STATUS_OK);
    has(plan, "model.layers.0.mlp.gate_proj", KIND_LINEAR, "packed_colwise", 2);
    has(plan, "model.layers.0.mlp.up_proj", KIND_LINEAR, "packed_colwise", 2);
    has(plan, "model.layers.1.mlp.up_proj", KIND_LINEAR, "colwise", 5);
    has(plan, "model.layers.0.self_attn.v_proj", KIND_LINEAR, "replicate", 3);
    has(plan, "model.layers.1.self_attn.v_proj", KIND_LINEAR, "colwise_gather_output", 4);
    has(plan, "model.layers.0.mlp.down_proj", KIND_LINEAR, "replicate", 0);
    tp_plan_close(plan);
}

static void stars_stay_within_a_part(void **state)
{
    char text[64];

    (void)state;
    assert_true(plan_pattern_matches("layers.*.mlp", "model.layers.12.mlp"));
    assert_true(plan_pattern_matches("model.layers.*.mlp", "model.layers.12.mlp"));
    assert_true(plan_pattern_matches("*", "lm_head"));
    assert_true(plan_pattern_matches("*.norm", "model.norm"));
    assert_true(plan_pattern_matches("layers.1*.a*b*c", "model.layers.12.axxbbyc"));
    assert_false(plan_pattern_matches("*", "layers.1"));
    assert_false(plan_pattern_matches("layers.*", "model.layers.12.mlp"));
    assert_false(plan_pattern_matches("layers.*.mlp.*", "model.layers.12.mlp"));
    assert_false(plan_pattern_matches("model.lm_head", "lm_head"));
    assert_false(plan_pattern_matches("layers.1.mlp", "model.layers.12.mlp"));
    assert_string_equal(plan_general_name("model.layers.12.mlp.up_proj", text, sizeof(text)),
        "layers.*.mlp.up_proj");
    assert_string_equal(plan_general_name("lm_head", text, sizeof(text)), "lm_head");
}

/* Opening or checking fails with this line. */
static void refuses(const char *text, const char *why)
{
    struct tp_plan *plan = NULL;
    enum status s = tp_plan_open(write_plan(text), &plan);

    if (s == STATUS_OK)
        s = tp_plan_check(plan, modules, n_modules);
    if (s != STATUS_INVALID || strstr(log_last_error(), why) == NULL)
        fail_msg("%s: %s, \"%s\", does not say \"%s\"", text, status_name(s), log_last_error(),
            why);
    tp_plan_close(plan);
}

static void files_that_are_no_plan_are_refused(void **state)
{
    struct tp_plan *plan = NULL;

    (void)state;
    refuses("", "plan.json:1: ");
    refuses("{\n \"lm_head\": \"colwise\"\n \"norm\": \"replicate\" }", "plan.json:3: ");
    refuses("[]", "plan.json:1: a plan is an object");
    refuses("{}", "plan.json:1: the plan is empty");
    refuses("{ \"lm_head\": \"colwise\",\n\n \"lm_head\": \"replicate\" }",
        "plan.json:3: duplicate");
    refuses("{ \"lm_head\":\n 3 }", "plan.json:1: \"lm_head\" wants the name of a strategy");
    refuses("{ \"norm\": \"replicate\",\n \"lm_head\": {\"name\": \"colwise\"} }",
        "plan.json:2: \"lm_head\" wants the name of a strategy");
    refuses("{ \"lm_head\": null }", "wants the name of a strategy");
    refuses("{ \"layers..mlp\": \"replicate\" }", "plan.json:1: pattern \"layers..mlp\"");
    refuses("{ \"lm head\": \"replicate\" }", "plan.json:1: a blank or a control character");
    refuses("{ \"lm_head\": \"col\\nwise\" }", "plan.json:1: a blank or a control character");
    refuses("{ \"\": \"replicate\" }", "plan.json:1: pattern \"\"");
    refuses("{ \"layers.*.self_attn.q_proj.bias\": \"colwise\" }", "a bias goes with its weight");
    assert_int_equal(tp_plan_open("/nowhere/plan.json", &plan), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/nowhere/plan.json: No such file"));
    assert_int_equal(tp_plan_open(dir.path, &plan), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "is a directory, not a file"));
    assert_int_equal(mkfifo(temp_dir_file(&dir, "pipe.json"), 0600), 0);
    assert_int_equal(tp_plan_open(dir.joined, &plan), STATUS_INVALID); /* and does not wait for it */
    assert_non_null(strstr(log_last_error(), "is a pipe, not a file"));
    assert_null(plan);
}

static void rules_that_cannot_be_name_their_line(void **state)
{
    (void)state;
    refuses("{ \"lm_head\": \"colwise\",\n \"layers.*.mlp.gat_proj\": \"colwise\" }",
        "plan.json:2: pattern layers.*.mlp.gat_proj matches no module of this model: did you mean "
        "layers.*.mlp.gate_proj?");
    refuses("{ \"layers.9.mlp.up_proj\": \"colwise\" }", "matches no module");
    refuses("{ \"layers.*.mlp.weight\": \"colwise\" }", "matches no module");
    refuses("{\n\n\"lm_head\": \"colwize\" }",
        "plan.json:3: unknown strategy \"colwize\": did you mean colwise?");
    refuses("{ \"layers.*.mlp.experts\": \"moe_tp_experts\" }",
        "plan.json:1: strategy \"moe_tp_experts\" needs Mixture-of-Experts layers");
    refuses("{ \"layers.*.self_attn.q_proj\":\n \"sequence_parallel\" }",
        "plan.json:1: strategy sequence_parallel of pattern layers.*.self_attn.q_proj is for "
        "norms, and model.layers.0.self_attn.q_proj is a linear layer");
    refuses("{ \"layers.*.*_layernorm\": \"colwise\" }", "is for linear layers, and");
    refuses("{ \"layers.*.self_attn.*_norm\": \"sequence_parallel\" }", "is a norm of heads");
    refuses("{ \"embed_tokens\": \"rowwise\" }", "is an embedding");
    /* gate would go to some ranks, up to the others */
    refuses("{ \"lm_head\": \"colwise\",\n \"layers.*.mlp.gate_up_proj\": \"colwise\" }",
        "plan.json:2: strategy colwise of pattern layers.*.mlp.gate_up_proj is for linear layers, "
        "and model.layers.0.mlp.gate_up_proj is a fused linear layer");
}

/* The wider pattern matches norms as well; a narrower one decides there. */
static void a_rule_answers_only_where_it_decides(void **state)
{
    struct tp_plan *plan = open_plan("{ \"layers.*.mlp.*\": \"colwise\",\n"
                                     "  \"layers.*.mlp\": \"all_reduce\",\n"
                                     "  \"layers.*.*\": \"replicate\" }");

    (void)state;
    assert_int_equal(tp_plan_check(plan, modules, n_modules), STATUS_OK);
    has(plan, "model.layers.0.mlp", KIND_MODULE, "all_reduce", 2);
    has(plan, "model.layers.0.self_attn", KIND_MODULE, "replicate", 3);
    tp_plan_close(plan);
}

/* Bytes changed and ends cut off: an answer, never a crash. */
static void broken_files_do_no_harm(void **state)
{
    static const char whole[] = "{ \"layers.*.self_attn.q_proj\": \"colwise\",\n"
                                " \"\\u0064.*\": \"row\\\\wise\",\n\"lm_head\": \"replicate\" }\n";
    static const char letters[] = "\"\\{}[]:,.*\n u01ab";
    unsigned seed = 20261122;

    (void)state;
    print_message("# seed %u\n", seed);
    srand(seed);
    for (int i = 0; i < 2000; i++) {
        char text[2 * sizeof(whole)];
        struct tp_plan *plan = NULL;
        size_t n = sizeof(whole) - 1;

        memcpy(text, whole, n);
        for (int k = rand() % 4; k >= 0; k--) {
            size_t at = (size_t)rand() % n;

            if (rand() % 2 == 0)
                text[at] = letters[(size_t)rand() % (sizeof(letters) - 1)];
            else
                n = at + 1;
        }
        if (tp_plan_open(temp_dir_write(&dir, "plan.json", text, n), &plan) == STATUS_OK)
            (void)tp_plan_check(plan, modules, n_modules);
        tp_plan_close(plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_is_qwen3s_own_plan),
        cmocka_unit_test(a_file_says_which_line_decided),
        cmocka_unit_test(the_most_specific_pattern_decides),
        cmocka_unit_test(a_fused_name_stands_for_parts_that_nothing_names),
        cmocka_unit_test(stars_stay_within_a_part),
        cmocka_unit_test(files_that_are_no_plan_are_refused),
        cmocka_unit_test(rules_that_cannot_be_name_their_line),
        cmocka_unit_test(a_rule_answers_only_where_it_decides),
        cmocka_unit_test(broken_files_do_no_harm),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
