/* test_builder.c - layers put together: what is reduced, gathered and cut between them, and which
 * neighbours are refused. What a rank loads: test_slices.c. What comes out: test_layers.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/layers/layer_model.h"

static struct temp_dir folder;

static const char *plan_file(const char *json)
{
    return temp_dir_write(&folder, "plan.json", json, strlen(json));
}

#define Q "model.layers.0.self_attn.q_proj"
#define QKV Q "+model.layers.0.self_attn.k_proj+model.layers.0.self_attn.v_proj"
#define O "model.layers.0.self_attn.o_proj"
#define GATE_UP "model.layers.0.mlp.gate_proj+model.layers.0.mlp.up_proj"
#define DOWN "model.layers.0.mlp.down_proj"

static const struct op *must_find(const struct program *p, const char *name)
{
    const struct op *op = find_weight(p, name);

    if (op == NULL)
        fail_msg("no operation has weight %s", name);
    return op;
}

static void must_build(enum status s)
{
    if (s != STATUS_OK)
        fail_msg("%s", log_last_error());
}

static enum op_kind next_kind(const struct program *p, const char *weight)
{
    return must_find(p, weight)[1].kind;
}

static int count_communication(const struct program *p)
{
    static const enum op_kind kinds[] = {OP_ALL_REDUCE, OP_REDUCE_SCATTER, OP_GATHER_ROWS,
        OP_GATHER_COLS, OP_SLICE_COLS, OP_SLICE_ROWS, OP_REDUCE_ADD_NORM, OP_AMAX, OP_MAX_REDUCE};
    int n = 0;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        n += count_ops(p, kinds[i]);
    return n;
}

/* Sums ------------------------------------------------------------------------------------- */

static void partial_sum_that_meets_a_norm_is_reduced_in_it(void **state)
{
    const struct layer_options o = {0};
    struct layer_model m;

    (void)state;
    for (int size = 2; size <= 4; size++)
        for (int rank = 0; rank < size; rank++) {
            must_build(layer_model_build(&m, &o, rank, size));
            assert_int_equal(count_ops(&m.program, OP_ALL_REDUCE), 1); /* the embedding */
            assert_int_equal(m.program.ops[1].kind, OP_EMBED);
            assert_int_equal(m.program.ops[2].kind, OP_ALL_REDUCE);
            assert_int_equal(count_ops(&m.program, OP_REDUCE_ADD_NORM), 2 * LAYERS);
            assert_int_equal(count_ops(&m.program, OP_ADD_NORM), 0);
            assert_int_equal(next_kind(&m.program, O), OP_REDUCE_ADD_NORM);
            assert_int_equal(next_kind(&m.program, DOWN), OP_REDUCE_ADD_NORM);
            assert_int_equal(count_communication(&m.program), 1 + 2 * LAYERS);
            layer_model_end(&m);
        }
}

static void one_rank_communicates_nothing_under_any_plan(void **state)
{
    static const char *const plans[] = {NULL, "sequence.json", "gathered.json", "local.json"};
    struct layer_model m;

    (void)state;
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        const char *data = getenv("QUERN_TEST_DATA");
        char path[512];
        struct layer_options o = {.bias = true, .plan = plans[i] != NULL ? path : NULL};

        snprintf(path, sizeof(path), "%s/e2e/plans/%s", data != NULL ? data : "tests", plans[i]);
        must_build(layer_model_build(&m, &o, 0, 1));
        assert_int_equal(count_communication(&m.program), 0);
        for (int k = 0; k < m.program.n_buffers; k++)
            assert_int_not_equal(m.program.buffers[k].place, PLACE_PARTIAL);
        layer_model_end(&m);
    }
}

static void forgotten_reduce_is_found_when_the_program_is_built(void **state)
{
    const struct layer_options o = {0};
    struct layer_model m;
    struct embedding own;
    int x, h;

    (void)state;
    layer_model_begin(&m, &o, 0, 2);
    builder_op(&m.b, (struct op){.kind = OP_BEGIN, .layer = -1, .in = {-1, -1}, .out = -1});
    x = embedding_layer(&m.b, "model.embed_tokens", VOCAB, HIDDEN, &own);
    h = builder_buffer(&m.b, "h", EXTENT_TOKENS, HIDDEN);
    builder_op(&m.b, (struct op){.kind = OP_NORM, .layer = 0, .in = {x, -1}, .out = h,
        .weight = builder_vector(&m.b, "model.norm.weight", HIDDEN, 0, HIDDEN, NULL)});
    assert_int_equal(builder_finish(&m.b), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "x is Partial here: only all_reduce"));
    layer_model_end(&m);
}

/* o's bias goes to the stream, so that its sum stays one operation with the norm. */
static void row_parallel_bias_is_added_once_beside_the_sum(void **state)
{
    const struct layer_options o = {.bias = true};
    struct layer_model m;

    (void)state;
    for (int size = 1; size <= 2; size++)
        for (int rank = 0; rank < size; rank++) {
            const struct op *bias;

            must_build(layer_model_build(&m, &o, rank, size));
            assert_int_equal(count_ops(&m.program, OP_ADD_BIAS), LAYERS);
            bias = must_find(&m.program, O ".bias");
            assert_int_equal(bias->kind, OP_ADD_BIAS);
            assert_int_equal(bias->weight->n, HIDDEN);
            assert_int_equal(bias[1].kind, size > 1 ? OP_REDUCE_ADD_NORM : OP_ADD_NORM);
            assert_int_equal(bias->in[0], bias[1].in[0]);
            assert_int_not_equal(bias->in[0], bias[1].in[1]);
            layer_model_end(&m);
        }
}

/* Rows of a sequence ------------------------------------------------------------------------- */

#define SEQUENCE_ATTENTION "\"layers.*.self_attn.q_proj\": \"colwise\",\n" \
    "\"layers.*.self_attn.k_proj\": \"colwise\",\n\"layers.*.self_attn.v_proj\": \"colwise\",\n" \
    "\"layers.*.self_attn.o_proj\": \"rowwise\""

static void sequence_parallel_norms_scatter_before_and_gather_behind(void **state)
{
    char path[512];
    const char *data = getenv("QUERN_TEST_DATA");
    const struct layer_options o = {.plan = path};
    struct layer_model m;
    const struct program *p = &m.program;

    (void)state;
    snprintf(path, sizeof(path), "%s/e2e/plans/sequence.json", data != NULL ? data : "tests");
    must_build(layer_model_build(&m, &o, 1, 3));
    assert_int_equal(p->ops[1].kind, OP_EMBED);
    assert_int_equal(p->ops[2].kind, OP_REDUCE_SCATTER);
    assert_int_equal(p->ops[3].kind, OP_NORM);
    assert_int_equal(p->ops[4].kind, OP_GATHER_ROWS);
    assert_int_equal(must_find(p, QKV)[-1].kind, OP_GATHER_ROWS);
    assert_int_equal(next_kind(p, O), OP_REDUCE_SCATTER);
    assert_int_equal(must_find(p, O)[2].kind, OP_ADD_NORM);
    assert_int_equal(must_find(p, O)[3].kind, OP_GATHER_ROWS);
    assert_int_equal(must_find(p, GATE_UP)[-1].kind, OP_GATHER_ROWS);
    assert_int_equal(next_kind(p, DOWN), OP_REDUCE_SCATTER);
    /* x, o and down of each layer; each norm's output. The residual stream stays cut. */
    assert_int_equal(count_ops(p, OP_REDUCE_SCATTER), 1 + 2 * LAYERS);
    assert_int_equal(count_ops(p, OP_GATHER_ROWS), 1 + 2 * LAYERS);
    assert_int_equal(count_ops(p, OP_ALL_REDUCE) + count_ops(p, OP_REDUCE_ADD_NORM), 0);
    layer_model_end(&m);
}

static void sequence_parallel_norm_among_whole_ones_converts_both_ways(void **state)
{
    const struct layer_options o = {.plan = plan_file("{\n"
        "\"layers.*.post_attention_layernorm\": \"sequence_parallel\",\n"
        SEQUENCE_ATTENTION "\n}")};
    struct layer_model m;
    const struct program *p = &m.program;

    (void)state;
    must_build(layer_model_build(&m, &o, 0, 2));
    /* x was whole: it is cut where it lies, and gathered again for the next norm */
    assert_int_equal(count_ops(p, OP_SLICE_ROWS), LAYERS);
    assert_int_equal(count_ops(p, OP_REDUCE_SCATTER), LAYERS);
    assert_int_equal(count_ops(p, OP_GATHER_ROWS), 2 * LAYERS);
    layer_model_end(&m);
}

/* Columns ------------------------------------------------------------------------------------ */

static void gathered_and_split_columns_are_mapped(void **state)
{
    const struct layer_options o = {.plan = plan_file("{\n"
        "\"layers.*.self_attn.q_proj\": \"colwise_gather_output\",\n"
        "\"layers.*.self_attn.k_proj\": \"colwise_gather_output\",\n"
        "\"layers.*.self_attn.v_proj\": \"colwise_gather_output\",\n"
        "\"layers.*.self_attn.o_proj\": \"rowwise_split_input\"\n}")};
    struct layer_model m;

    (void)state;
    for (int rank = 0; rank < 3; rank++) { /* three ranks share two KV heads */
        const struct op *gather, *split;

        must_build(layer_model_build(&m, &o, rank, 3));
        assert_int_equal(m.program.shape.heads, HEADS); /* every rank attends with all */
        gather = must_find(&m.program, QKV) + 1;
        assert_int_equal(gather->kind, OP_GATHER_COLS);
        assert_int_equal(gather->map->n_parts, 3);
        assert_int_equal(gather->map->cols, (HEADS + 2 * KV_HEADS) * HEAD_DIM);
        assert_int_equal(gather->map->parts[1].at, HEADS * HEAD_DIM);
        split = must_find(&m.program, O) - 1;
        assert_int_equal(split->kind, OP_SLICE_COLS);
        assert_int_equal(split->map->cols, HEADS * HEAD_DIM);
        assert_int_equal(split->map->parts[0].count[rank], must_find(&m.program, O)->weight->k);
        layer_model_end(&m);
    }
}

static void heads_follow_the_shard(void **state)
{
    const struct layer_options o = {0};
    struct layer_model m;

    (void)state;
    for (int rank = 0; rank < 3; rank++) {
        struct head_shard own = shard_heads(HEADS, KV_HEADS, rank, 3);

        must_build(layer_model_build(&m, &o, rank, 3));
        assert_int_equal(m.program.shape.heads, own.q.count);
        assert_int_equal(m.program.shape.kv_heads, own.kv.count);
        for (uint32_t h = 0; h < own.q.count; h++)
            assert_int_equal(m.program.shape.q_to_kv[h],
                (own.q.first + h) / (HEADS / KV_HEADS) - own.kv.first);
        layer_model_end(&m);
    }
}

static void container_that_is_all_reduced_ends_whole(void **state)
{
    const struct layer_options o = {.plan = plan_file("{\n\"layers.*.mlp\": \"all_reduce\",\n"
        "\"layers.*.mlp.gate_proj\": \"colwise\",\n\"layers.*.mlp.up_proj\": \"colwise\",\n"
        "\"layers.*.mlp.down_proj\": \"rowwise\",\n" SEQUENCE_ATTENTION "\n}")};
    struct layer_model m;

    (void)state;
    must_build(layer_model_build(&m, &o, 0, 2));
    assert_int_equal(next_kind(&m.program, O), OP_REDUCE_ADD_NORM);
    assert_int_equal(next_kind(&m.program, DOWN), OP_ALL_REDUCE);
    assert_int_equal(must_find(&m.program, DOWN)[2].kind, OP_ADD_NORM);
    layer_model_end(&m);
}

/* Neighbours --------------------------------------------------------------------------------- */

/* Built on two ranks: one error, with all of these words in it. */
static void refused(const char *json, const char *const words[])
{
    const struct layer_options o = {.plan = plan_file(json)};
    struct layer_model m;

    assert_int_equal(layer_model_build(&m, &o, 1, 2), STATUS_INVALID);
    for (int i = 0; words[i] != NULL; i++)
        if (strstr(log_last_error(), words[i]) == NULL)
            fail_msg("\"%s\" is not in: %s", words[i], log_last_error());
    layer_model_end(&m);
}

static void neighbours_that_do_not_fit_are_refused_by_line(void **state)
{
    (void)state;
    refused("{\n\"layers.*.mlp.gate_proj\": \"colwise\",\n\"layers.*.mlp.up_proj\": \"colwise\",\n"
        "\"layers.*.mlp.down_proj\": \"replicate\"\n}",
        (const char *[]){"model.layers.0.mlp.gate_proj (line 2 of ", DOWN " (line 4 of ",
            "plan.json", NULL});
    refused("{\n\n\"layers.*.mlp.down_proj\": \"rowwise\"\n}",
        (const char *[]){DOWN " (line 3 of ", "model.layers.0.mlp.gate_proj", "whole", NULL});
    refused("{\n\"layers.*.self_attn.o_proj\": \"packed_rowwise\"\n}",
        (const char *[]){O " (line 2 of ", Q, NULL});
    refused("{\n\"lm_head\": \"rowwise\"\n}", (const char *[]){"lm_head (line 2 of ", NULL});
}

static void modules_of_one_product_must_be_placed_alike(void **state)
{
    (void)state;
    refused("{\n\"layers.*.self_attn.q_proj\": \"colwise\"\n}",
        (const char *[]){Q " (line 2 of ", "model.layers.0.self_attn.k_proj", "colwise",
            "replicate", NULL});
    refused("{\n\"layers.*.self_attn.q_proj\": \"colwise\",\n"
        "\"layers.*.self_attn.k_proj\": \"colwise\",\n"
        "\"layers.*.self_attn.v_proj\": \"colwise_rep\"\n}",
        (const char *[]){Q " (line 2 of ", "model.layers.0.self_attn.v_proj (line 4 of ", NULL});
    refused("{\n\"layers.0.mlp.up_proj\": \"colwise\"\n}",
        (const char *[]){"model.layers.0.mlp.up_proj (line 2 of ", "mlp.gate_proj", NULL});
}

static void heads_cut_by_inputs_are_refused(void **state)
{
    (void)state;
    refused("{\n\"layers.*.self_attn.q_proj\": \"rowwise\",\n"
        "\"layers.*.self_attn.k_proj\": \"rowwise\",\n"
        "\"layers.*.self_attn.v_proj\": \"rowwise\"\n}",
        (const char *[]){Q, "rowwise", "heads are cut by outputs", NULL});
}

static void layers_that_would_attend_unlike_are_refused(void **state)
{
    (void)state;
    refused("{\n\"layers.0.self_attn.q_proj\": \"colwise\",\n"
        "\"layers.0.self_attn.k_proj\": \"colwise\",\n\"layers.0.self_attn.v_proj\": \"colwise\",\n"
        "\"layers.0.self_attn.o_proj\": \"rowwise\"\n}",
        (const char *[]){"model.layers.1.self_attn", "attend alike", NULL});
}

/* Tied ------------------------------------------------------------------------------------- */

/* The head's weight where the embedding is the head. */
static const struct weight *head_of(const struct program *p)
{
    for (int i = p->n_ops - 1; i > 0; i--)
        if (p->ops[i].kind == OP_LINEAR)
            return p->ops[i].weight;
    return NULL;
}

static void tied_table_is_one_weight_where_both_are_cut_alike(void **state)
{
    static const struct {
        const char *plan;
        bool shared;
    } rows[] = {
        {"{\"embed_tokens\": \"embedding_rowwise\", \"lm_head\": \"colwise\"}", true},
        {"{\"embed_tokens\": \"embedding_rowwise\", \"lm_head\": \"colwise_gather_output\"}", true},
        {"{\"embed_tokens\": \"replicate\", \"lm_head\": \"replicate\"}", true},
        {"{\"embed_tokens\": \"replicate\", \"lm_head\": \"colwise\"}", false},
        {"{\"embed_tokens\": \"embedding_rowwise\", \"lm_head\": \"replicate\"}", false},
        {"{\"embed_tokens\": \"embedding_colwise\", \"lm_head\": \"colwise\"}", false},
        {"{\"embed_tokens\": \"embedding_rowwise\", \"lm_head\": \"rowwise_split_input\"}", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (int size = 1; size <= 3; size++) {
            const struct layer_options o = {.plan = plan_file(rows[i].plan)};
            struct layer_model m;
            bool shared;

            must_build(layer_model_build(&m, &o, size - 1, size));
            shared = head_of(&m.program) == must_find(&m.program, "model.embed_tokens")->weight;
            if (shared != (rows[i].shared || size == 1))
                fail_msg("%s at tp %d: %s", rows[i].plan, size, shared ? "shared" : "not shared");
            layer_model_end(&m);
        }
}

/* Some checkpoints of tied models have the table as lm_head.weight alone. */
static void the_table_goes_by_embed_tokens_whatever_it_is_called(void **state)
{
    const struct layer_options o = {.untied = true,
        .plan = plan_file("{\"embed_tokens\": \"replicate\", \"lm_head\": \"colwise\"}")};
    struct layer_model m;
    struct embedding own;

    (void)state;
    layer_model_begin(&m, &o, 1, 2);
    embedding_layer(&m.b, "lm_head", VOCAB, HIDDEN, &own);
    must_build(m.b.status);
    assert_int_equal(own.rows.count, VOCAB);
    assert_string_equal(own.table->name, "lm_head");
    layer_model_end(&m);
}

/* Quantised ---------------------------------------------------------------------------------- */

static void maxima_are_reduced_where_a_cut_falls_into_a_group(void **state)
{
    const struct quant_options quant = {.method = "fp8", .head = "none",
        .activations = "dynamic"};
    struct layer_options o = {.inner = 256};
    struct layer_model m;

    (void)state;
    assert_int_equal(quant_open("synth:0.6b", &quant, &o.scheme), STATUS_OK);
    for (int size = 1; size <= 3; size++)
        for (int rank = 0; rank < size; rank++) {
            /* Groups of 128 inputs: o has one, so any cut is within it. At tp 2 down's two
             * groups are a rank's each; at tp 3 they are cut. */
            int reduced = size == 1 ? 0 : size == 2 ? 1 : 2;

            must_build(layer_model_build(&m, &o, rank, size));
            assert_int_equal(count_ops(&m.program, OP_AMAX), reduced * LAYERS);
            assert_int_equal(count_ops(&m.program, OP_MAX_REDUCE), reduced * LAYERS);
            if (size > 1) {
                const struct op *linear = must_find(&m.program, O);

                while (linear->kind != OP_LINEAR)
                    linear++;
                assert_int_equal(linear[-1].kind, OP_MAX_REDUCE);
                assert_int_equal(linear->in[1], linear[-1].in[0]);
                assert_int_equal(linear[-2].kind, OP_AMAX);
                assert_int_equal(linear[-2].out, linear->in[1]);
                assert_int_equal(linear[-2].in[0], linear->in[0]);
            }
            layer_model_end(&m);
        }
    quant_close(o.scheme);
}

static const char int8_config[] = "{\"quantization_config\": {\"quant_method\": "
    "\"compressed-tensors\", \"format\": \"int-quantized\", \"ignore\": [\"lm_head\"], "
    "\"config_groups\": {\"group_0\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 8, "
    "\"type\": \"int\", \"symmetric\": true, \"strategy\": \"channel\", \"dynamic\": false}, "
    "\"input_activations\": {\"num_bits\": 8, \"type\": \"int\", \"symmetric\": true, "
    "\"strategy\": \"token\", \"dynamic\": true}}}}}";

static void parts_that_do_not_merge_are_products_of_their_own(void **state)
{
    struct layer_options o = {.int8 = true};
    struct layer_model m;

    (void)state;
    temp_dir_write(&folder, "config.json", int8_config, sizeof(int8_config) - 1);
    assert_int_equal(quant_open(folder.path, NULL, &o.scheme), STATUS_OK);
    for (int size = 1; size <= 2; size++) {
        const struct op *k;

        o.plain = NULL;
        must_build(layer_model_build(&m, &o, 0, size));
        must_find(&m.program, QKV);
        layer_model_end(&m);

        o.plain = "model.layers.0.self_attn.k_proj";
        must_build(layer_model_build(&m, &o, 0, size));
        k = must_find(&m.program, o.plain);
        assert_int_equal(k->weight->format, WEIGHT_F32);
        assert_int_equal(k[-1].weight->format, WEIGHT_INT8);
        assert_int_equal(k[-1].out, k->out);
        assert_int_equal(k[-1].out_col, 0);
        assert_int_equal(k->out_col, k[-1].weight->n);
        assert_int_equal(k[1].out_col, k[-1].weight->n + k->weight->n);
        assert_int_equal(k[1].out_col + k[1].weight->n, m.program.buffers[k->out].cols);
        layer_model_end(&m);
    }
    quant_close(o.scheme);
}

static int open_folder(void **state)
{
    (void)state;
    temp_dir_make(&folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    temp_dir_remove(&folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(partial_sum_that_meets_a_norm_is_reduced_in_it),
        cmocka_unit_test(one_rank_communicates_nothing_under_any_plan),
        cmocka_unit_test(forgotten_reduce_is_found_when_the_program_is_built),
        cmocka_unit_test(row_parallel_bias_is_added_once_beside_the_sum),
        cmocka_unit_test(sequence_parallel_norms_scatter_before_and_gather_behind),
        cmocka_unit_test(sequence_parallel_norm_among_whole_ones_converts_both_ways),
        cmocka_unit_test(gathered_and_split_columns_are_mapped),
        cmocka_unit_test(heads_follow_the_shard),
        cmocka_unit_test(container_that_is_all_reduced_ends_whole),
        cmocka_unit_test(neighbours_that_do_not_fit_are_refused_by_line),
        cmocka_unit_test(modules_of_one_product_must_be_placed_alike),
        cmocka_unit_test(heads_cut_by_inputs_are_refused),
        cmocka_unit_test(layers_that_would_attend_unlike_are_refused),
        cmocka_unit_test(tied_table_is_one_weight_where_both_are_cut_alike),
        cmocka_unit_test(the_table_goes_by_embed_tokens_whatever_it_is_called),
        cmocka_unit_test(maxima_are_reduced_where_a_cut_falls_into_a_group),
        cmocka_unit_test(parts_that_do_not_merge_are_products_of_their_own),
    };

    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
