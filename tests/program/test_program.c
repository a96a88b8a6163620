/* test_program.c - building programs, and the proof that their placements fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "program/program.h"
#include "quern/log.h"

enum { COLS = 8, VOCAB = 100 };

/* Rank 0 of two, and buffers of every kind. */
struct small {
    struct program p;
    struct comm comm;
    struct weight table, norm, matrix, half, coded;
    struct column_map map;
    int x, h, y, cut, amax;
};

static void add_op(struct small *s, struct op op)
{
    assert_int_equal(program_op(&s->p, op), STATUS_OK);
}

static void add(struct small *s, enum op_kind kind, int in0, int in1, int out,
    const struct weight *w)
{
    add_op(s, (struct op){.kind = kind, .layer = 3, .in = {in0, in1}, .out = out, .weight = w});
}

static void add_in_place(struct small *s, enum op_kind kind, int buffer)
{
    add(s, kind, buffer, -1, buffer, NULL);
}

/* begin; x = embedding, Partial. */
static void small_begin(struct small *s, int ranks)
{
    struct program_shape shape = {
        .limits = {.max_slots = 2, .max_tokens = 8, .max_outputs = 4, .max_blocks_per_slot = 2,
            .n_blocks = 4, .block_size = 16, .vocab = VOCAB},
        .hidden = COLS, .layers = 1, .head_dim = 4, .heads = 2, .kv_heads = 1, .vocab = VOCAB,
        .vocab_rows = VOCAB / 2, .kv_dtype = DTYPE_BF16};

    *s = (struct small){.comm = {.size = ranks}, .table = {.n = VOCAB / 2, .k = COLS},
        .norm = {.n = COLS}, .matrix = {.n = COLS, .k = COLS}, .half = {.n = COLS, .k = 3},
        .coded = {.n = COLS, .k = 3, .format = WEIGHT_INT8,
            .quant = {.groups = 1, .group = COLS, .activation = ACTIVATION_INT8, .act_groups = 1,
                .act_divisor = 127, .act_least = 1e-10f}},
        .map = {.n_parts = 1, .cols = COLS, .parts = {{.first = {0, 3}, .count = {3, 5}}}}};
    program_init(&s->p, &shape, &s->comm);
    s->x = program_buffer(&s->p, "x", EXTENT_TOKENS, COLS, PLACE_PARTIAL);
    s->h = program_buffer(&s->p, "h", EXTENT_TOKENS, COLS, PLACE_REPLICATE);
    s->y = program_buffer(&s->p, "y", EXTENT_TOKENS, COLS, PLACE_PARTIAL);
    s->cut = program_buffer(&s->p, "cut", EXTENT_TOKENS, 3, PLACE_SHARD);
    s->amax = program_buffer(&s->p, "amax", EXTENT_TOKENS, 1, PLACE_REPLICATE);
    add(s, OP_BEGIN, -1, -1, -1, NULL);
    add(s, OP_EMBED, -1, -1, s->x, &s->table);
}

/* x reduced to Replicate, cut = this rank's columns of it. */
static void small_cut(struct small *s, int ranks)
{
    small_begin(s, ranks);
    add_in_place(s, OP_ALL_REDUCE, s->x);
    add_op(s, (struct op){.kind = OP_SLICE_COLS, .in = {s->x, -1}, .out = s->cut, .map = &s->map});
}

static void expect_pass(struct small *s)
{
    if (program_check(&s->p) != STATUS_OK)
        fail_msg("said: %s", log_last_error());
    program_free(&s->p);
}

static void expect_refusal(struct small *s, const char *words)
{
    assert_int_equal(program_check(&s->p), STATUS_INVALID);
    if (strstr(log_last_error(), words) == NULL)
        fail_msg("said: %s, not: %s", log_last_error(), words);
    program_free(&s->p);
}

/* Sums --------------------------------------------------------------------------------------- */

static void a_reduced_program_passes(void **state)
{
    struct small s;

    (void)state;
    small_cut(&s, 2);
    add(&s, OP_NORM, s.x, -1, s.h, &s.norm);
    add(&s, OP_LINEAR, s.cut, -1, s.y, &s.half);
    add(&s, OP_REDUCE_ADD_NORM, s.x, s.y, s.h, &s.norm);
    add(&s, OP_ADD_BIAS, s.h, -1, s.h, &s.norm);
    expect_pass(&s);
}

static void a_missing_reduce_is_refused(void **state)
{
    struct small s;

    (void)state;
    small_begin(&s, 2);
    add(&s, OP_NORM, s.x, -1, s.h, &s.norm);
    expect_refusal(&s, "x is Partial here: only all_reduce");
    small_begin(&s, 2);
    add(&s, OP_ADD_BIAS, s.x, -1, s.x, &s.norm);
    expect_refusal(&s, "x is Partial here");
    small_begin(&s, 2);
    expect_refusal(&s, "x is left Partial");
    small_begin(&s, 2);
    add(&s, OP_EMBED, -1, -1, s.x, &s.table);
    expect_refusal(&s, "x is Partial and overwritten");
    small_begin(&s, 2);
    add(&s, OP_ALL_REDUCE, s.x, -1, -1, NULL);
    add(&s, OP_ALL_REDUCE, s.x, -1, -1, NULL);
    expect_refusal(&s, "x is not Partial");
    small_begin(&s, 1); /* one rank pays its declared debts as well */
    add(&s, OP_NORM, s.x, -1, s.h, &s.norm);
    expect_refusal(&s, "x is Partial here");
}

static void a_fused_reduce_leaves_scratch(void **state)
{
    struct small s;

    (void)state;
    small_cut(&s, 2);
    add(&s, OP_LINEAR, s.cut, -1, s.y, &s.half);
    add(&s, OP_REDUCE_ADD_NORM, s.x, s.y, s.h, &s.norm);
    add(&s, OP_NORM, s.y, -1, s.h, &s.norm);
    expect_refusal(&s, "y is read before it is written");
    small_cut(&s, 2);
    add(&s, OP_LINEAR, s.cut, -1, s.y, &s.half);
    add_in_place(&s, OP_ALL_REDUCE, s.y);
    add(&s, OP_REDUCE_ADD_NORM, s.x, s.y, s.h, &s.norm);
    expect_refusal(&s, "y is not Partial");
}

static void a_bias_of_a_partial_sum_is_refused(void **state)
{
    float bias[COLS] = {0};
    struct small s;

    (void)state;
    small_cut(&s, 2);
    s.half.bias = bias;
    add(&s, OP_LINEAR, s.cut, -1, s.y, &s.half);
    expect_refusal(&s, "every rank would add the bias");
}

/* Sequence shards ---------------------------------------------------------------------------- */

static void small_sequence(struct small *s)
{
    small_begin(s, 2);
    add_in_place(s, OP_REDUCE_SCATTER, s->x);
    s->p.buffers[s->h].place = PLACE_SEQUENCE;
    add(s, OP_NORM, s->x, -1, s->h, &s->norm);
}

static void norms_run_on_sequence_shards(void **state)
{
    struct small s;

    (void)state;
    small_sequence(&s);
    add(&s, OP_ADD_BIAS, s.h, -1, s.h, &s.norm);
    add_in_place(&s, OP_GATHER_ROWS, s.h);
    s.p.buffers[s.cut].cols = COLS;
    add(&s, OP_LINEAR, s.h, -1, s.cut, &s.matrix);
    add(&s, OP_LINEAR, s.cut, -1, s.y, &s.matrix);
    add_in_place(&s, OP_REDUCE_SCATTER, s.y);
    add(&s, OP_ADD_NORM, s.x, s.y, s.h, &s.norm); /* h is a sequence shard again */
    add_in_place(&s, OP_GATHER_ROWS, s.h);
    expect_pass(&s);
}

static void a_buffer_keeps_the_place_of_its_last_writer(void **state)
{
    struct small s;

    (void)state;
    small_sequence(&s);
    add_in_place(&s, OP_GATHER_ROWS, s.x);
    add(&s, OP_NORM, s.x, -1, s.h, &s.norm); /* declared Sequence, and now whole */
    add_in_place(&s, OP_SLICE_ROWS, s.h);
    add_in_place(&s, OP_GATHER_ROWS, s.h);
    add(&s, OP_LINEAR, s.h, -1, s.y, &s.matrix);
    s.p.buffers[s.y].place = PLACE_REPLICATE;
    expect_pass(&s);
}

static void a_sequence_shard_is_gathered_before_a_product(void **state)
{
    struct small s;

    (void)state;
    small_sequence(&s);
    add(&s, OP_LINEAR, s.h, -1, s.y, &s.matrix);
    expect_refusal(&s, "h is sequence here, which linear cannot read");
    small_sequence(&s);
    add_in_place(&s, OP_GATHER_ROWS, s.x);
    add(&s, OP_ADD_NORM, s.x, s.h, s.y, &s.norm);
    expect_refusal(&s, "both summands must be placed alike");
    small_begin(&s, 2);
    add_in_place(&s, OP_ALL_REDUCE, s.x);
    add_in_place(&s, OP_GATHER_ROWS, s.x);
    expect_refusal(&s, "x is replicate here, which gather_rows cannot read");
}

/* Columns ------------------------------------------------------------------------------------ */

static void columns_are_gathered_as_their_map_says(void **state)
{
    struct small s;

    (void)state;
    small_cut(&s, 2);
    add_op(&s, (struct op){.kind = OP_GATHER_COLS, .in = {s.cut, -1}, .out = s.h, .map = &s.map});
    add(&s, OP_NORM, s.h, -1, s.x, &s.norm);
    expect_pass(&s);
}

static void a_map_that_does_not_fit_is_refused(void **state)
{
    struct small s;

    (void)state;
    small_cut(&s, 2);
    s.map.parts[0].first[1] = 4; /* nobody has column 3 */
    s.map.parts[0].count[1] = 4;
    add_op(&s, (struct op){.kind = OP_GATHER_COLS, .in = {s.cut, -1}, .out = s.h, .map = &s.map});
    expect_refusal(&s, "columns of the map belong to no rank");
    small_cut(&s, 2);
    s.map.parts[0].count[1] = 6;
    expect_refusal(&s, "reaches past its columns");
    small_cut(&s, 2);
    s.comm.rank = 1;
    expect_refusal(&s, "gives this rank another number of columns");
    small_cut(&s, 2);
    s.map.cols = COLS + 1;
    expect_refusal(&s, "not those of the column map");
    small_begin(&s, 2);
    add_in_place(&s, OP_ALL_REDUCE, s.x);
    add(&s, OP_SLICE_COLS, s.x, -1, s.cut, NULL);
    expect_refusal(&s, "maps are missing");
}

/* Products ----------------------------------------------------------------------------------- */

static void add_part(struct small *s, int out, uint32_t col, const struct weight *w)
{
    add_op(s, (struct op){.kind = OP_LINEAR, .in = {s->x, -1}, .out = out, .out_col = col,
        .weight = w});
}

static void parts_of_a_product_follow_each_other(void **state)
{
    static const struct {
        uint32_t first, second;
        const char *words;
    } cases[] = {
        {0, 5, NULL},
        {0, 4, "parts that do not follow each other"},
        {1, 5, "parts that do not follow each other"},
        {0, 6, "does not fit between the buffers"},
        {0, 0, "wide is read before all its columns are written"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct weight first = {.n = 5, .k = COLS}, second = {.n = 3, .k = COLS};
        struct small s;
        int wide;

        small_begin(&s, 2);
        add_in_place(&s, OP_ALL_REDUCE, s.x);
        wide = program_buffer(&s.p, "wide", EXTENT_TOKENS, COLS, PLACE_SHARD);
        add_part(&s, wide, cases[i].first, &first);
        add_part(&s, wide, cases[i].second, &second);
        add(&s, OP_LINEAR, wide, -1, s.y, &s.matrix);
        add_in_place(&s, OP_ALL_REDUCE, s.y);
        if (cases[i].words == NULL)
            expect_pass(&s);
        else
            expect_refusal(&s, cases[i].words);
    }
}

/* cut . coded -> y, with or without the token's maxima. */
static void small_coded(struct small *s, int ranks, bool maxima, bool reduced)
{
    small_cut(s, ranks);
    if (maxima)
        add(s, OP_AMAX, s->cut, -1, s->amax, &s->coded);
    if (reduced)
        add_in_place(s, OP_MAX_REDUCE, s->amax);
    add(s, OP_LINEAR, s->cut, maxima ? s->amax : -1, s->y, &s->coded);
    add_in_place(s, OP_ALL_REDUCE, s->y);
}

static void a_scale_needs_the_maximum_of_all_ranks(void **state)
{
    struct small s;

    (void)state;
    small_coded(&s, 2, true, true);
    expect_pass(&s);
    small_coded(&s, 2, true, false);
    expect_refusal(&s, "amax is partial maximum here");
    small_coded(&s, 2, false, false);
    expect_refusal(&s, "needs each token's maximum over all ranks");
    small_coded(&s, 2, false, false);
    s.coded.quant.activation_scale = 0.5f; /* static: no maximum is asked for */
    expect_pass(&s);
    small_coded(&s, 2, false, false);
    s.coded.quant.act_group = 3; /* this rank's inputs are one group from end to end */
    s.coded.quant.act_groups = 3;
    expect_pass(&s);
    small_coded(&s, 2, false, false);
    s.coded.quant.act_group = 2;
    s.coded.quant.act_groups = 4;
    expect_refusal(&s, "needs each token's maximum over all ranks");
    small_coded(&s, 2, false, false); /* inputs 1 to 3: the first group begins on another rank */
    s.coded.quant.act_group = 2;
    s.coded.quant.act_groups = 2;
    s.coded.quant.act_first = 1;
    expect_refusal(&s, "needs each token's maximum over all ranks");
    small_coded(&s, 2, false, false); /* inputs 4 to 6 of 7: the last group is short, and whole */
    s.coded.quant.act_group = 2;
    s.coded.quant.act_groups = 4;
    s.coded.quant.act_first = 4;
    expect_pass(&s);
    small_coded(&s, 2, true, true);
    s.coded.quant.activation_scale = 0.5f;
    expect_refusal(&s, "need no maximum");
}

static void a_weight_that_cannot_be_applied_is_refused(void **state)
{
    struct small s;

    (void)state;
    small_coded(&s, 2, true, true);
    s.coded.quant.first = COLS;
    expect_refusal(&s, "past the last weight group");
    small_coded(&s, 2, true, true);
    s.coded.quant.groups = 0;
    expect_refusal(&s, "past the last weight group");
    small_coded(&s, 2, true, true);
    s.coded.quant.act_group = 2;
    expect_refusal(&s, "past the last activation group");
    small_coded(&s, 2, true, true);
    s.coded.quant.act_least = 0;
    expect_refusal(&s, "rule for activation scales is incomplete");
}

/* Operands ----------------------------------------------------------------------------------- */

static void wrong_operands_are_refused(void **state)
{
    struct small s;

    (void)state;
    small_begin(&s, 2);
    add(&s, OP_LINEAR, s.h, -1, s.y, &s.matrix);
    expect_refusal(&s, "operation 2 (linear, layer 3): h is read before it is written; buffers: "
        "h [tokens, 8] unwritten to y [tokens, 8] unwritten");
    small_cut(&s, 2);
    add(&s, OP_NORM, s.cut, -1, s.h, &s.norm);
    expect_refusal(&s, "cut is shard here, which norm cannot read");
    small_begin(&s, 2);
    add_in_place(&s, OP_ALL_REDUCE, s.x);
    add(&s, OP_NORM, s.x, -1, s.y, &s.norm);
    expect_refusal(&s, "y is declared partial, but first written as replicate");
    small_begin(&s, 2);
    add_in_place(&s, OP_ALL_REDUCE, s.x);
    add(&s, OP_LINEAR, s.x, -1, s.y, &s.norm); /* a vector */
    expect_refusal(&s, "the weight does not fit between the buffers");
    small_begin(&s, 2);
    add_in_place(&s, OP_ALL_REDUCE, s.x);
    add(&s, OP_LINEAR, s.x, -1, s.x, &s.matrix);
    expect_refusal(&s, "missing, too many, or the same");
    small_begin(&s, 2);
    add(&s, OP_BEGIN, -1, -1, -1, NULL);
    expect_refusal(&s, "begin comes first");
    small_begin(&s, 2);
    assert_int_equal(program_op(&s.p, (struct op){.kind = OP_NORM, .in = {9, -1}, .out = s.h}),
        STATUS_INVALID);
    program_free(&s.p);
}

static void a_column_product_of_a_shard_is_refused(void **state)
{
    struct small s;

    (void)state;
    small_cut(&s, 2);
    s.p.buffers[s.y].place = PLACE_SHARD;
    add(&s, OP_LINEAR, s.cut, -1, s.y, &s.half); /* its product is a Partial sum, not a shard */
    expect_refusal(&s, "y is declared shard, but first written as partial");
}

static void a_table_past_the_vocabulary_is_refused(void **state)
{
    struct small s;

    (void)state;
    small_begin(&s, 2);
    s.p.ops[1].first_id = VOCAB / 2 + 1;
    expect_refusal(&s, "reaches past the vocabulary");
    small_begin(&s, 2);
    s.p.buffers[s.x].place = PLACE_REPLICATE;
    expect_refusal(&s, "a cut table gives a Partial sum");
    small_begin(&s, 2);
    s.table.n = VOCAB; /* whole on every rank */
    s.p.buffers[s.x].place = PLACE_REPLICATE;
    expect_pass(&s);
}

static void buffers_have_an_end(void **state)
{
    struct small s;

    (void)state;
    small_begin(&s, 2);
    assert_int_equal(program_buffer(&s.p, "none", EXTENT_TOKENS, 0, PLACE_SHARD), -1);
    while (s.p.n_buffers < PROGRAM_MAX_BUFFERS)
        assert_true(program_buffer(&s.p, "b", EXTENT_TOKENS, 1, PLACE_SHARD) >= 0);
    assert_int_equal(program_buffer(&s.p, "b", EXTENT_TOKENS, 1, PLACE_SHARD), -1);
    program_free(&s.p);
}

/* A block's number has so many bits for its index; and no row reads whole numbers. */
static void a_cache_of_more_blocks_than_numbers_or_of_whole_ones_is_refused(void **state)
{
    struct small s;

    (void)state;
    small_begin(&s, 2);
    add_in_place(&s, OP_ALL_REDUCE, s.x);
    s.p.shape.limits.n_blocks = BLOCK_MOST;
    assert_int_equal(program_check(&s.p), STATUS_OK);
    s.p.shape.kv_dtype = DTYPE_I8;
    assert_int_equal(program_check(&s.p), STATUS_INVALID);
    s.p.shape.kv_dtype = DTYPE_E4M3;
    s.p.shape.limits.n_blocks++;
    expect_refusal(&s, "impossible shape");
}

static void names_and_sizes_are_told(void **state)
{
    const struct program_shape shape = {.limits = {.block_size = 16}, .kv_heads = 3,
        .head_dim = 10, .kv_dtype = DTYPE_BF16};

    (void)state;
    for (int k = 0; k < OP_KINDS; k++)
        assert_true(strlen(op_name((enum op_kind)k)) > 2);
    assert_string_equal(op_name(OP_QK_ROPE), "qk_rope");
    assert_string_equal(op_name(OP_KINDS), "unknown");
    assert_string_equal(place_name(PLACE_PARTIAL), "partial");
    assert_string_equal(place_name(PLACE_SEQUENCE), "sequence");
    assert_int_equal(program_block_bytes(&shape), 2 * 3 * 16 * 10 * 2);
    assert_int_equal(kv_head_bytes(DTYPE_E4M3, 16, 10), 16 * 10 + 16 * 4);
    assert_int_equal(kv_head_bytes(DTYPE_E4M3, 3, 2), 8 + 3 * 4); /* scales are whole floats */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reduced_program_passes),
        cmocka_unit_test(a_missing_reduce_is_refused),
        cmocka_unit_test(a_fused_reduce_leaves_scratch),
        cmocka_unit_test(a_bias_of_a_partial_sum_is_refused),
        cmocka_unit_test(norms_run_on_sequence_shards),
        cmocka_unit_test(a_buffer_keeps_the_place_of_its_last_writer),
        cmocka_unit_test(a_sequence_shard_is_gathered_before_a_product),
        cmocka_unit_test(columns_are_gathered_as_their_map_says),
        cmocka_unit_test(a_map_that_does_not_fit_is_refused),
        cmocka_unit_test(parts_of_a_product_follow_each_other),
        cmocka_unit_test(a_scale_needs_the_maximum_of_all_ranks),
        cmocka_unit_test(a_weight_that_cannot_be_applied_is_refused),
        cmocka_unit_test(wrong_operands_are_refused),
        cmocka_unit_test(a_column_product_of_a_shard_is_refused),
        cmocka_unit_test(a_table_past_the_vocabulary_is_refused),
        cmocka_unit_test(buffers_have_an_end),
        cmocka_unit_test(a_cache_of_more_blocks_than_numbers_or_of_whole_ones_is_refused),
        cmocka_unit_test(names_and_sizes_are_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
