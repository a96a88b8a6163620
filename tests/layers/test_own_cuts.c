/* test_own_cuts.c - a strategy's own ranges: of heads, and of parts that are one product. */
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

/* Each rank has one unit, the last what is left. */
static int light_first(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    *first = (uint32_t)rank * unit;
    *count = rank == size - 1 ? total - *first : unit;
    return 0;
}

static const struct strategy light_rows = {.name = "light_rows", .cut = CUT_ROWS,
    .out = OUT_SHARD, .applies = KIND_LINEAR, .slice = light_first};

/* Up to two ranks its ranges are of the two KV heads, beyond of the four query heads. */
static void heads_follow_the_strategys_own_ranges(void **state)
{
    static const uint32_t heads[][3] = {{2, 2}, {1, 1, 2}};
    const struct layer_options o = {.plan = plan_file("{\n"
        "\"layers.*.self_attn.o_proj\": \"rowwise\",\n"
        "\"layers.*.self_attn.*_proj\": \"light_rows\"\n}")};
    struct layer_model m;

    (void)state;
    for (int size = 2; size <= 3; size++)
        for (int rank = 0; rank < size; rank++) {
            if (layer_model_build(&m, &o, rank, size) != STATUS_OK)
                fail_msg("%s", log_last_error());
            assert_int_equal(m.program.shape.heads, heads[size - 2][rank]);
            assert_int_equal(m.program.shape.kv_heads, 1);
            layer_model_end(&m);
        }
}

static void parts_of_one_product_must_be_cut_at_the_same_places(void **state)
{
    const struct layer_options o = {.plan = plan_file("{\n"
        "\"layers.*.mlp.gate_proj\": \"colwise\",\n\"layers.*.mlp.up_proj\": \"light_rows\",\n"
        "\"layers.*.mlp.down_proj\": \"rowwise\"\n}")};
    struct layer_model m;

    (void)state;
    assert_int_equal(layer_model_build(&m, &o, 1, 2), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "mlp.gate_proj (line 2 of "));
    assert_non_null(strstr(log_last_error(), "mlp.up_proj (line 3 of "));
    assert_non_null(strstr(log_last_error(), "light_rows"));
    layer_model_end(&m);
}

static int set_up(void **state)
{
    (void)state;
    temp_dir_make(&folder);
    return strategy_register(&light_rows) == STATUS_OK ? 0 : -1;
}

static int take_down(void **state)
{
    (void)state;
    temp_dir_remove(&folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_follow_the_strategys_own_ranges),
        cmocka_unit_test(parts_of_one_product_must_be_cut_at_the_same_places),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
