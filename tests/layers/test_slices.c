/* test_slices.c - what each rank loads of a model, compared with what the checkpoint has; what is
 * said when something is missing; and that every plan in the tree makes a program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layers/placement.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/layers/layer_model.h"

#define LAYER "model.layers.1."

static void must_build(enum status s)
{
    if (s != STATUS_OK)
        fail_msg("%s", log_last_error());
}

static const struct weight *weight_of(const struct layer_model *m, const char *name)
{
    const struct op *op = find_weight(&m->program, name);

    if (op == NULL)
        fail_msg("no operation has weight %s", name);
    return op->weight;
}

/* Rows x columns of `name`, as they lie in `got`. */
static void check_rows(const struct layer_model *m, const float *got, const char *name,
    struct range rows, struct range cols)
{
    for (uint32_t r = 0; r < rows.count; r++)
        for (uint32_t c = 0; c < cols.count; c++)
            assert_true(got[(size_t)r * cols.count + c] ==
                fake_source_element(&m->source, name, rows.first + r, cols.first + c));
}

static struct range times(struct range r, uint32_t n)
{
    return (struct range){.first = r.first * n, .count = r.count * n};
}

static const struct range whole = {.count = HIDDEN}, one = {.count = 1};

static void check_qkv(const struct layer_model *m, int rank, int size)
{
    const struct weight *w = weight_of(m, LAYER "self_attn.q_proj+" LAYER "self_attn.k_proj+"
        LAYER "self_attn.v_proj");
    struct head_shard own = shard_heads(HEADS, KV_HEADS, rank, size);
    struct range q = times(own.q, HEAD_DIM), kv = times(own.kv, HEAD_DIM);
    const float *k = (const float *)w->data + (size_t)q.count * HIDDEN;

    assert_int_equal(w->n, q.count + 2 * kv.count);
    check_rows(m, w->data, LAYER "self_attn.q_proj.weight", q, whole);
    check_rows(m, k, LAYER "self_attn.k_proj.weight", kv, whole);
    check_rows(m, k + (size_t)kv.count * HIDDEN, LAYER "self_attn.v_proj.weight", kv, whole);
    check_rows(m, w->bias, LAYER "self_attn.q_proj.bias", q, one);
    check_rows(m, w->bias + q.count, LAYER "self_attn.k_proj.bias", kv, one);
    check_rows(m, w->bias + q.count + kv.count, LAYER "self_attn.v_proj.bias", kv, one);
    w = weight_of(m, LAYER "self_attn.o_proj");
    assert_int_equal(w->n, HIDDEN);
    assert_int_equal(w->k, q.count);
    check_rows(m, w->data, LAYER "self_attn.o_proj.weight", whole, q);
}

static void check_o_bias(const struct layer_model *m)
{
    assert_null(weight_of(m, LAYER "self_attn.o_proj")->bias);
    check_rows(m, weight_of(m, LAYER "self_attn.o_proj.bias")->data, LAYER "self_attn.o_proj.bias",
        whole, one);
}

static void check_mlp(const struct layer_model *m, struct range inner)
{
    const struct weight *w = weight_of(m, LAYER "mlp.gate_proj+" LAYER "mlp.up_proj");

    check_rows(m, w->data, LAYER "mlp.gate_proj.weight", inner, whole);
    check_rows(m, (const float *)w->data + (size_t)inner.count * HIDDEN, LAYER "mlp.up_proj.weight",
        inner, whole);
    w = weight_of(m, LAYER "mlp.down_proj");
    assert_int_equal(w->k, inner.count);
    check_rows(m, w->data, LAYER "mlp.down_proj.weight", whole, inner);
}

/* Parts of one tensor: each at its offset, cut as if it were alone. */
static void check_merged(const struct layer_model *m, int rank, int size, uint32_t inner)
{
    const struct weight *qkv = weight_of(m, LAYER "self_attn.qkv_proj+" LAYER
        "self_attn.qkv_proj+" LAYER "self_attn.qkv_proj");
    const struct weight *gate_up =
        weight_of(m, LAYER "mlp.gate_up_proj+" LAYER "mlp.gate_up_proj");
    struct head_shard own = shard_heads(HEADS, KV_HEADS, rank, size);
    struct range q = times(own.q, HEAD_DIM), kv = times(own.kv, HEAD_DIM);
    struct range half = shard_range(inner, 16, rank, size);
    const float *at = qkv->data;

    check_rows(m, at, LAYER "self_attn.qkv_proj.weight", q, whole);
    at += (size_t)q.count * HIDDEN;
    kv.first += HEADS * HEAD_DIM;
    check_rows(m, at, LAYER "self_attn.qkv_proj.weight", kv, whole);
    check_rows(m, qkv->bias + q.count, LAYER "self_attn.qkv_proj.bias", kv, one);
    at += (size_t)kv.count * HIDDEN;
    kv.first += KV_HEADS * HEAD_DIM;
    check_rows(m, at, LAYER "self_attn.qkv_proj.weight", kv, whole);
    check_rows(m, gate_up->data, LAYER "mlp.gate_up_proj.weight", half, whole);
    at = (const float *)gate_up->data + (size_t)half.count * HIDDEN;
    half.first += inner;
    check_rows(m, at, LAYER "mlp.gate_up_proj.weight", half, whole);
}

/* What the plan calls the parts of gate_up_proj, and which of its rows are theirs. */
static void check_names(const struct layer_model *m, uint32_t inner)
{
    const struct planned_weight *p = m->b.first;

    while (p != NULL && strcmp(p->modules[0], LAYER "mlp.gate_up_proj") != 0)
        p = p->next;
    assert_non_null(p);
    assert_string_equal(p->as[0], LAYER "mlp.gate_proj");
    assert_string_equal(p->as[1], LAYER "mlp.up_proj");
    assert_int_equal(p->parts[0].as_row, 0);
    assert_int_equal(p->parts[1].as_row, inner);
    assert_int_equal(p->parts[1].as_rows, inner);
}

static void merged_tensors_are_loaded_part_by_part(void **state)
{
    const struct layer_options o = {.bias = true, .inner = 40, .merged = true};

    (void)state;
    for (int size = 1; size <= 4; size++)
        for (int rank = 0; rank < size; rank++) {
            struct layer_model m;

            must_build(layer_model_build(&m, &o, rank, size));
            assert_int_equal(builder_load(&m.b), STATUS_OK);
            check_merged(&m, rank, size, 40);
            check_names(&m, 40);
            layer_model_end(&m);
        }
}

static void parts_stored_twice_are_read_from_tensors_of_their_own(void **state)
{
    const struct layer_options o = {.bias = true, .inner = 40, .merged = true, .twice = true};

    (void)state;
    for (int size = 1; size <= 3; size++)
        for (int rank = 0; rank < size; rank++) {
            struct layer_model m;

            must_build(layer_model_build(&m, &o, rank, size));
            assert_int_equal(builder_load(&m.b), STATUS_OK);
            check_qkv(&m, rank, size);
            check_mlp(&m, shard_range(40, 16, rank, size));
            layer_model_end(&m);
        }
}

static void each_rank_loads_its_own_part(void **state)
{
    const struct layer_options o = {.bias = true, .inner = 40};

    (void)state;
    for (int size = 1; size <= 4; size++)
        for (int rank = 0; rank < size; rank++) {
            struct layer_model m;

            must_build(layer_model_build(&m, &o, rank, size));
            assert_int_equal(layer_model_held, 0); /* nothing is taken before it is known */
            assert_int_equal(builder_load(&m.b), STATUS_OK);
            assert_int_equal(layer_model_held, m.b.weight_bytes);
            assert_true(m.progressed > 0 && m.progressed <= m.b.weight_bytes);
            check_rows(&m, weight_of(&m, "model.embed_tokens")->data, "model.embed_tokens.weight",
                shard_range(VOCAB, 16, rank, size), whole);
            check_qkv(&m, rank, size);
            check_o_bias(&m);
            check_mlp(&m, shard_range(40, 16, rank, size));
            check_rows(&m, weight_of(&m, "model.norm.weight")->data, "model.norm.weight", whole,
                one);
            layer_model_end(&m);
            assert_int_equal(layer_model_held, 0);
        }
}

/* Shards of all ranks together are the model: replicated KV heads and vectors aside. */
static void shards_add_up(void **state)
{
    const struct layer_options o = {.untied = true};
    size_t alone;
    struct layer_model m;

    (void)state;
    must_build(layer_model_build(&m, &o, 0, 1));
    alone = m.b.weight_bytes;
    layer_model_end(&m);
    for (int size = 2; size <= 4; size++) {
        const size_t vectors = LAYERS * (2 * HIDDEN + 2 * HEAD_DIM) + HIDDEN;
        size_t sum = 0, kv = 0;

        for (int rank = 0; rank < size; rank++) {
            must_build(layer_model_build(&m, &o, rank, size));
            sum += m.b.weight_bytes;
            kv += shard_heads(HEADS, KV_HEADS, rank, size).kv.count;
            layer_model_end(&m);
        }
        assert_int_equal(sum, alone + ((size_t)size - 1) * vectors * sizeof(float) +
            (kv - KV_HEADS) * 2 * LAYERS * HEAD_DIM * HIDDEN * sizeof(float));
    }
}

static void built_and_never_loaded_leaves_nothing(void **state)
{
    const struct layer_options o = {0};
    struct layer_model m;

    (void)state;
    must_build(layer_model_build(&m, &o, 1, 2));
    layer_model_end(&m);
    layer_model_end(&m);
    assert_int_equal(layer_model_held, 0);
}

/* What is not there --------------------------------------------------------------------- */

static void missing_tensor_is_an_error_that_names_it(void **state)
{
    static const char *const names[] = {"model.embed_tokens.weight", "model.norm.weight",
        LAYER "self_attn.q_proj.bias",
        LAYER "self_attn.o_proj.bias", LAYER "self_attn.k_norm.weight",
        LAYER "mlp.down_proj.weight"};
    struct layer_model m;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        for (int size = 1; size <= 2; size++) {
            const struct layer_options o = {.bias = true, .missing = names[i]};

            assert_int_equal(layer_model_build(&m, &o, 0, size), STATUS_INVALID);
            assert_non_null(strstr(log_last_error(), names[i]));
            layer_model_end(&m);
        }
    assert_int_equal(layer_model_held, 0);
}

static void wrong_shape_is_an_error_that_names_both(void **state)
{
    const struct layer_options o = {0};
    struct embedding own;
    struct layer_model m;

    (void)state;
    layer_model_begin(&m, &o, 0, 1);
    embedding_layer(&m.b, "model.embed_tokens", VOCAB + 1, HIDDEN, &own);
    assert_int_equal(builder_finish(&m.b), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "[56,24]"));
    assert_non_null(strstr(log_last_error(), "[57,24]"));
    layer_model_end(&m);
}

static void more_heads_than_a_rank_has_room_for_are_refused(void **state)
{
    const struct attention_shape shape = {.hidden = HIDDEN, .heads = 2000, .kv_heads = 2,
        .head_dim = 2};
    const struct layer_options o = {0};
    const struct weight *bias;
    struct layer_model m;

    (void)state;
    layer_model_begin(&m, &o, 0, 1);
    attention_layer(&m.b, 0, "model.layers.0.self_attn", &shape,
        builder_buffer(&m.b, "h", EXTENT_TOKENS, HIDDEN), &bias);
    assert_int_equal(m.b.status, STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "2000 query heads are too many for one rank"));
    assert_non_null(strstr(log_last_error(), "use tp 16"));
    layer_model_end(&m);
}

static void cut_that_leaves_a_rank_nothing_names_the_module_and_the_most(void **state)
{
    const struct layer_options o = {.inner = 3};
    struct layer_model m;

    (void)state;
    must_build(layer_model_build(&m, &o, 2, 3));
    layer_model_end(&m);
    for (int rank = 0; rank < 4; rank++) { /* all of them see it */
        assert_int_equal(layer_model_build(&m, &o, rank, 4), STATUS_INVALID);
        assert_non_null(strstr(log_last_error(), "model.layers.0.mlp.gate_proj has 3 to cut"));
        assert_non_null(strstr(log_last_error(), "use at most 3"));
        layer_model_end(&m);
    }
}

static void too_many_buffers_are_an_error(void **state)
{
    const struct layer_options o = {0};
    struct layer_model m;

    (void)state;
    layer_model_begin(&m, &o, 0, 1);
    for (int i = 0; i < PROGRAM_MAX_BUFFERS; i++)
        assert_int_equal(builder_buffer(&m.b, "b", EXTENT_TOKENS, (uint32_t)i + 1), i);
    assert_int_equal(builder_buffer(&m.b, "b", EXTENT_TOKENS, 1), 0); /* the same one */
    assert_int_equal(builder_buffer(&m.b, "c", EXTENT_TOKENS, 1), -1);
    assert_int_equal(builder_finish(&m.b), STATUS_INVALID);
    layer_model_end(&m);
}

static void ranks_agree_about_their_shares(void **state)
{
    const struct layer_options o = {0}, other = {.inner = 64};
    struct layer_model m;
    uint64_t first, second;

    (void)state;
    must_build(layer_model_build(&m, &o, 0, 3));
    first = place_hash(&m.b);
    layer_model_end(&m);
    for (int rank = 1; rank < 3; rank++) {
        must_build(layer_model_build(&m, &o, rank, 3));
        assert_true(place_hash(&m.b) == first);
        layer_model_end(&m);
    }
    must_build(layer_model_build(&m, &other, 0, 3));
    second = place_hash(&m.b);
    layer_model_end(&m);
    assert_true(second != first);
}

/* [0, 16), [16, 48), [48, 56): an even cut has the last one, too. */
static int two_units_in_the_middle(uint32_t total, uint32_t unit, int rank, int size,
    uint32_t *first, uint32_t *count)
{
    const uint32_t ends[] = {0, unit, 3 * unit, total};

    if (size != 3)
        return -1;
    *first = ends[rank];
    *count = ends[rank + 1] - ends[rank];
    return 0;
}

static int weights_of(const struct layer_model *m, const char *module)
{
    int n = 0;

    for (const struct planned_weight *p = m->b.first; p != NULL; p = p->next)
        n += strcmp(p->modules[0], module) == 0;
    return n;
}

static void ranks_share_the_table_alike(void **state)
{
    static const char plan[] =
        "{\"embed_tokens\": \"two_in_the_middle\", \"lm_head\": \"colwise\"}";
    const struct strategy row = {.name = "two_in_the_middle", .cut = CUT_ROWS, .in = IN_REPLICATE,
        .out = OUT_PARTIAL, .applies = KIND_EMBEDDING, .slice = two_units_in_the_middle};
    struct temp_dir folder;
    struct layer_options o = {0};

    (void)state;
    assert_int_equal(strategy_register(&row), STATUS_OK);
    temp_dir_make(&folder);
    o.plan = temp_dir_write(&folder, "plan.json", plan, strlen(plan));
    for (int rank = 0; rank < 3; rank++) {
        struct layer_model m;

        must_build(layer_model_build(&m, &o, rank, 3));
        assert_int_equal(weights_of(&m, "model.embed_tokens"), 2);
        layer_model_end(&m);
    }
    temp_dir_remove(&folder);
}

/* Plans --------------------------------------------------------------------------------- */

static void build_everywhere(const char *plan)
{
    for (int variant = 0; variant < 4; variant++)
        for (int size = 1; size <= 4; size++)
            for (int rank = 0; rank < size; rank++) {
                const struct layer_options o = {.plan = plan, .bias = variant & 1,
                    .untied = variant & 2, .inner = variant & 1 ? 72 : 40};
                struct layer_model m;

                if (layer_model_build(&m, &o, rank, size) != STATUS_OK)
                    fail_msg("%s, rank %d of %d: %s", plan, rank, size, log_last_error());
                layer_model_end(&m);
            }
}

static void every_plan_in_the_tree_makes_a_program(void **state)
{
    const char *data = getenv("QUERN_TEST_DATA");
    struct dirent *entry;
    char path[512];
    int plans = 0;
    DIR *dir;

    (void)state;
    build_everywhere("auto");
    snprintf(path, sizeof(path), "%s/e2e/plans", data != NULL ? data : "tests");
    dir = opendir(path);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        if (strstr(entry->d_name, ".json") == NULL)
            continue;
        snprintf(path, sizeof(path), "%s/e2e/plans/%.200s", data != NULL ? data : "tests",
            entry->d_name);
        build_everywhere(path);
        plans++;
    }
    closedir(dir);
    print_message("# %d plans\n", plans);
    assert_true(plans >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rank_loads_its_own_part),
        cmocka_unit_test(merged_tensors_are_loaded_part_by_part),
        cmocka_unit_test(parts_stored_twice_are_read_from_tensors_of_their_own),
        cmocka_unit_test(shards_add_up),
        cmocka_unit_test(built_and_never_loaded_leaves_nothing),
        cmocka_unit_test(missing_tensor_is_an_error_that_names_it),
        cmocka_unit_test(wrong_shape_is_an_error_that_names_both),
        cmocka_unit_test(more_heads_than_a_rank_has_room_for_are_refused),
        cmocka_unit_test(cut_that_leaves_a_rank_nothing_names_the_module_and_the_most),
        cmocka_unit_test(too_many_buffers_are_an_error),
        cmocka_unit_test(ranks_agree_about_their_shares),
        cmocka_unit_test(ranks_share_the_table_alike),
        cmocka_unit_test(every_plan_in_the_tree_makes_a_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
