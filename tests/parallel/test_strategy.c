/* test_strategy.c - every name of the field is known, and what a user registers is not trusted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/shard.h"
#include "parallel/strategy.h"
#include "quern/log.h"

/* FACTS 2.4: name and what it is called elsewhere (the same row), and whether it runs. */
static const struct {
    const char *name, *row;
    bool runs;
} names[] = {
    {"colwise", "colwise", true},
    {"local_colwise", "colwise", true},
    {"colwise_gather_output", "colwise_gather_output", true},
    {"colwise_rep", "colwise_gather_output", true},
    {"rowwise", "rowwise", true},
    {"local_rowwise", "rowwise", true},
    {"rowwise_split_input", "rowwise_split_input", true},
    {"rowwise_rep", "rowwise_split_input", true},
    {"packed_colwise", "packed_colwise", true},
    {"packed_rowwise", "packed_rowwise", true},
    {"local_packed_rowwise", "packed_rowwise", true},
    {"embedding_rowwise", "embedding_rowwise", true},
    {"embedding_colwise", "embedding_colwise", true},
    {"sequence_parallel", "sequence_parallel", true},
    {"replicate", "replicate", true},
    {"local_params", "replicate", true},
    {"local", "replicate", true},
    {"isolated", "replicate", true},
    {"replicated_with_grad_allreduce", "replicated_with_grad_allreduce", true},
    {"mla_kv_a_proj", "mla_kv_a_proj", true},
    {"all_reduce", "all_reduce", true},
    {"gather", "all_reduce", true},
    {"moe_identity_expert", "moe_identity_expert", true},
    {"grouped_gemm", NULL, false},
    {"ep_dispatch_experts", NULL, false},
    {"moe_tp_experts", NULL, false},
    {"ep_router", NULL, false},
    {"megamoe_router", NULL, false},
    {"megamoe_experts", NULL, false},
};

static void every_name_of_the_field_is_known(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const struct strategy *s = strategy_find(names[i].name);

        assert_int_equal(s != NULL, names[i].runs);
        if (s != NULL)
            assert_string_equal(s->name, names[i].row);
        else
            assert_non_null(strstr(log_last_error(), "Mixture-of-Experts"));
    }
}

static void rows_say_what_they_do(void **state)
{
    (void)state;
    assert_int_equal(strategy_find("colwise")->cut, CUT_ROWS);
    assert_int_equal(strategy_find("colwise")->out, OUT_SHARD);
    assert_int_equal(strategy_find("colwise_rep")->out, OUT_GATHER);
    assert_int_equal(strategy_find("rowwise")->cut, CUT_COLS);
    assert_int_equal(strategy_find("rowwise")->in, IN_SHARD);
    assert_int_equal(strategy_find("rowwise")->out, OUT_PARTIAL);
    assert_int_equal(strategy_find("rowwise_rep")->in, IN_SPLIT);
    assert_int_equal(strategy_find("embedding_rowwise")->applies, KIND_EMBEDDING);
    assert_int_equal(strategy_find("embedding_colwise")->out, OUT_GATHER);
    assert_int_equal(strategy_find("sequence_parallel")->applies, KIND_NORM);
    for (int i = 0; i < strategy_count(); i++) {
        assert_non_null(strategy_at(i)->effect);
        assert_int_not_equal(strategy_at(i)->applies, 0);
    }
}

static void unknown_names_get_the_close_ones(void **state)
{
    (void)state;
    assert_null(strategy_find("colwize"));
    assert_string_equal(log_last_error(),
        "unknown strategy \"colwize\": did you mean colwise?");
    assert_null(strategy_find("row"));
    assert_non_null(strstr(log_last_error(), "there are colwise, colwise_gather_output, rowwise"));
    assert_null(strstr(log_last_error(), "ep_router"));
    assert_null(strategy_find_at("plan.json:3: ", "rowise"));
    assert_non_null(
        strstr(log_last_error(), "plan.json:3: unknown strategy \"rowise\": did you mean rowwise"));
    assert_null(strategy_find(""));
}

static void without_a_function_ranges_are_even(void **state)
{
    uint32_t first, count;

    (void)state;
    for (int rank = 0; rank < 3; rank++) {
        struct range even = shard_range(100, 16, rank, 3);

        assert_int_equal(strategy_range(NULL, 100, 16, rank, 3, &first, &count), STATUS_OK);
        assert_int_equal(first, even.first);
        assert_int_equal(count, even.count);
        assert_int_equal(
            strategy_range(strategy_find("rowwise"), 100, 16, rank, 3, &first, &count), STATUS_OK);
        assert_int_equal(first, even.first);
        assert_int_equal(count, even.count);
    }
}

/* Registering ------------------------------------------------------------------------------ */

/* Rank 0 gets one unit, the last all that is left. */
static int one_unit(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    *first = (uint32_t)rank * unit;
    *count = rank == size - 1 ? total - *first : unit;
    return 0;
}

static int with_a_hole(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    (void)size;
    *first = (uint32_t)rank * 2 * unit;
    *count = total > *first ? unit : 0;
    return 0;
}

static int with_a_rest(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    (void)total;
    (void)size;
    *first = (uint32_t)rank * unit;
    *count = unit;
    return 0;
}

static int off_the_unit(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    (void)unit;
    (void)size;
    *first = rank == 0 ? 0 : 3;
    *count = rank == 0 ? 3 : total - 3;
    return 0;
}

static int past_the_end(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    (void)unit;
    (void)rank;
    (void)size;
    *first = 0;
    *count = total + 1;
    return 0;
}

static int gives_up(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    (void)total;
    (void)unit;
    (void)rank;
    (void)size;
    (void)first;
    (void)count;
    return -1;
}

static struct strategy own(const char *name, strategy_slice *slice)
{
    return (struct strategy){.name = name, .cut = CUT_ROWS, .in = IN_REPLICATE, .out = OUT_SHARD,
        .applies = KIND_LINEAR, .slice = slice};
}

static void registered_rows_are_found_and_cut(void **state)
{
    char name[] = "one_unit"; /* copied: it may go away */
    struct strategy row = own(name, one_unit);
    uint32_t first, count;
    int before = strategy_count();

    (void)state;
    assert_int_equal(strategy_register(&row), STATUS_OK);
    memset(name, 'x', sizeof(name) - 1);
    assert_int_equal(strategy_count(), before + 1);
    assert_string_equal(strategy_at(before)->name, "one_unit");
    assert_ptr_equal(strategy_find("one_unit"), strategy_at(before));
    assert_int_equal(strategy_range(strategy_find("one_unit"), 100, 16, 0, 3, &first, &count),
        STATUS_OK);
    assert_int_equal(first, 0);
    assert_int_equal(count, 16);
    assert_int_equal(strategy_range(strategy_find("one_unit"), 100, 16, 2, 3, &first, &count),
        STATUS_OK);
    assert_int_equal(first, 32);
    assert_int_equal(count, 68);
}

static void refuses(struct strategy row, const char *why)
{
    int before = strategy_count();

    assert_int_equal(strategy_register(&row), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
    assert_int_equal(strategy_count(), before);
}

static void rows_that_cannot_be_are_refused(void **state)
{
    struct strategy row;

    (void)state;
    refuses(own("colwise", one_unit), "a strategy colwise already");
    refuses(own("colwise_rep", one_unit), "a strategy colwise_rep already");
    refuses(own("ep_router", one_unit), "already");
    refuses(own("two words", one_unit), "\"two words\" is none");
    refuses(own("", one_unit), "name");
    refuses(own(NULL, one_unit), "name");
    row = own("contrary", one_unit);
    row.cut = CUT_NONE;
    refuses(row, "cuts nothing");
    row = own("contrary", NULL);
    row.out = OUT_PARTIAL;
    refuses(row, "shard or gather");
    row = own("contrary", NULL);
    row.cut = CUT_COLS;
    row.in = IN_SHARD;
    refuses(row, "partial, replicate or sequence");
    row = own("contrary", NULL);
    row.applies = KIND_EMBEDDING;
    refuses(row, "an embedding with cut ids");
    row.cut = CUT_COLS;
    refuses(row, "an embedding with cut lanes");
    row = own("contrary", NULL);
    row.applies = KIND_LINEAR | KIND_EMBEDDING; /* what is wrong for one kind is wrong for both */
    row.out = OUT_PARTIAL;
    refuses(row, "shard or gather");
    row = own("contrary", NULL);
    row.applies = KIND_LINEAR | KIND_FUSED; /* a fused layer's inputs are not cut */
    row.cut = CUT_COLS;
    row.in = IN_SHARD;
    row.out = OUT_PARTIAL;
    refuses(row, "a fused linear layer is cut by outputs");
    row = own("contrary", NULL);
    row.applies = KIND_NORM;
    refuses(row, "only linear layers and embeddings");
    row = own("contrary", NULL);
    row.in = IN_SPLIT;
    refuses(row, "whole input");
    row = own("contrary", NULL);
    row.applies = 1024;
    refuses(row, "quern/plugin.h");
    row = own("contrary", NULL);
    row.cut = (enum strategy_cut)9;
    refuses(row, "quern/plugin.h");
}

static void says(const char *name, strategy_slice *slice, const char *why)
{
    struct strategy row = own(name, slice);
    uint32_t first = 77, count = 78;

    /* All ranks find the fault, whosever it is. */
    for (int rank = 0; rank < 2; rank++) {
        assert_int_equal(strategy_range(&row, 64, 16, rank, 2, &first, &count), STATUS_INVALID);
        if (strstr(log_last_error(), why) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
        assert_int_equal(first, 77);
        assert_int_equal(count, 78);
    }
}

static void ranges_that_do_not_tile_are_refused(void **state)
{
    (void)state;
    says("with_a_hole", with_a_hole, "rank 1 of 2 the range 32 + 16 of 64");
    says("with_a_rest", with_a_rest, "cuts 32 of 64");
    says("off_the_unit", off_the_unit, "ends rank 0 at 3 of 64: cut at multiples of 16");
    says("past_the_end", past_the_end, "the range 0 + 65 of 64");
    says("gives_up", gives_up, "cannot cut 64 in units of 16 for 2 ranks");
}

static void distances_count_letters(void **state)
{
    char text[128];

    (void)state;
    assert_int_equal(name_distance("", ""), 0);
    assert_int_equal(name_distance("gat_proj", "gate_proj"), 1);
    assert_int_equal(name_distance("kitten", "sitting"), 3);
    assert_int_equal(name_distance("", "abc"), 3);
    assert_string_equal(module_kinds_text(KIND_LINEAR | KIND_NORM, text),
        "linear layers and norms");
    assert_string_equal(module_kind_name(KIND_EMBEDDING), "an embedding");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_name_of_the_field_is_known),
        cmocka_unit_test(rows_say_what_they_do),
        cmocka_unit_test(unknown_names_get_the_close_ones),
        cmocka_unit_test(without_a_function_ranges_are_even),
        cmocka_unit_test(registered_rows_are_found_and_cut),
        cmocka_unit_test(rows_that_cannot_be_are_refused),
        cmocka_unit_test(ranges_that_do_not_tile_are_refused),
        cmocka_unit_test(distances_count_letters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
