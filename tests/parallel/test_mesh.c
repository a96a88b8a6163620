/* test_mesh.c - groups against FACTS 7's formulas, and every group of a mesh at work. */
#include "parallel/mesh.h"
#include "tests/parallel/coll_support.h"

static void groups_are_as_the_formulas_say(void **state)
{
    (void)state;
    for (int tp = 1; tp <= COMM_MAX_RANKS; tp++)
        for (int dp = 1; dp <= tp; dp++)
            for (int ep = 1; ep <= tp; ep++) {
                struct mesh_shape shape = {.tp = tp, .dp = dp, .ep = ep};
                int attn_tp = tp / dp, moe_tp = tp / ep;

                if (tp % dp != 0 || tp % ep != 0)
                    continue;
                assert_int_equal(mesh_check(shape), STATUS_OK);
                for (int r = 0; r < tp; r++) {
                    struct mesh_group all = mesh_group_of(shape, GROUP_TP, r);
                    struct mesh_group attn = mesh_group_of(shape, GROUP_ATTN_TP, r);
                    struct mesh_group moe = mesh_group_of(shape, GROUP_MOE_TP, r);
                    struct mesh_group experts = mesh_group_of(shape, GROUP_MOE_EP, r);

                    assert_int_equal(all.size, tp);
                    assert_int_equal(all.place, r);
                    assert_int_equal(attn.size, attn_tp);
                    assert_int_equal(attn.place, r % attn_tp);
                    assert_int_equal(attn.ranks[0], r / attn_tp * attn_tp);
                    assert_int_equal(moe.size, moe_tp);
                    assert_int_equal(moe.place, r % moe_tp);
                    assert_int_equal(experts.size, ep);
                    assert_int_equal(experts.place, r / moe_tp);
                    for (int i = 0; i < ep; i++)
                        assert_int_equal(experts.ranks[i], r % moe_tp + i * moe_tp);
                }
            }
}

static void each_rank_finds_itself_and_its_peers_the_same_group(void **state)
{
    const struct mesh_shape shape = {.tp = 12, .dp = 3, .ep = 4};

    (void)state;
    for (int g = 0; g < COMM_GROUPS; g++)
        for (int r = 0; r < shape.tp; r++) {
            struct mesh_group mine = mesh_group_of(shape, (enum comm_group)g, r);

            assert_int_equal(mine.ranks[mine.place], r);
            for (int i = 0; i < mine.size; i++) {
                struct mesh_group its = mesh_group_of(shape, (enum comm_group)g, mine.ranks[i]);

                assert_int_equal(its.size, mine.size);
                assert_int_equal(its.place, i);
                assert_memory_equal(its.ranks, mine.ranks, sizeof(mine.ranks));
            }
        }
}

static void sizes_that_cannot_be_are_refused_with_those_that_can(void **state)
{
    (void)state;
    assert_int_equal(mesh_check((struct mesh_shape){.tp = 12, .dp = 5, .ep = 1}), STATUS_INVALID);
    assert_string_equal(log_last_error(), "dp 5 does not divide tp 12: use 1, 2, 3, 4, 6, 12");
    assert_int_equal(mesh_check((struct mesh_shape){.tp = 4, .dp = 2, .ep = 3}), STATUS_INVALID);
    assert_string_equal(log_last_error(), "ep 3 does not divide tp 4: use 1, 2, 4");
    assert_int_equal(mesh_check((struct mesh_shape){.tp = 4, .dp = 0, .ep = 1}), STATUS_INVALID);
    assert_int_equal(mesh_check((struct mesh_shape){.tp = 17, .dp = 1, .ep = 1}), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "use 1 to 16"));
}

/* Work ------------------------------------------------------------------------------------ */

static bool group_sums_its_own(struct mesh *m, enum comm_group g, int call)
{
    const struct mesh_group *group = &m->groups[g];
    float x[33];

    for (int i = 0; i < 33; i++)
        x[i] = input(m->rank, call, (size_t)i);
    if (group_all_reduce(&m->comms, g, 0, 1, x, 33) != STATUS_OK)
        return false;
    for (int i = 0; i < 33; i++) {
        float want = 0;

        for (int p = 0; p < group->size; p++)
            want += input(group->ranks[p], call, (size_t)i);
        if (!same_bits(x[i], want))
            return false;
    }
    return true;
}

static bool all_groups_sum(struct world *w, struct mesh_shape shape, int rank)
{
    struct mesh m;
    bool good = world_attach(w, rank) &&
                mesh_open(shape, rank, &w->options, w->measure_ns, &m) == STATUS_OK;

    for (int call = 0; good && call < 200; call++)
        good = group_sums_its_own(&m, (enum comm_group)(call % COMM_GROUPS), call);
    if (good)
        mesh_close(&m);
    return good;
}

static void run_mesh(struct mesh_shape shape, uint64_t measure_ns)
{
    struct world w;
    pid_t pids[MOST_RANKS];

    world_open(&w, shape.tp, 1);
    w.measure_ns = measure_ns;
    segment_close(&w.segment);
    w.region = mesh_heap_bytes(shape, &w.options);
    assert_int_equal(segment_create("test",
        SYMHEAP_PAGE + symheap_bytes((uint32_t)shape.tp, w.region), &w.segment), STATUS_OK);
    w.options.abort_word = w.abort_word = w.segment.base;
    for (int r = 0; r < shape.tp; r++) {
        pids[r] = fork();
        if (pids[r] == 0)
            _exit(all_groups_sum(&w, shape, r) ? 0 : 1);
    }
    for (int r = 0; r < shape.tp; r++)
        child_must_succeed(pids[r]);
    segment_close(&w.segment);
}

static void groups_sum_over_their_own_ranks_only(void **state)
{
    (void)state;
    run_mesh((struct mesh_shape){.tp = 2, .dp = 1, .ep = 1}, LONG_ENOUGH_NS);
    run_mesh((struct mesh_shape){.tp = 3, .dp = 3, .ep = 1}, 0);
    run_mesh((struct mesh_shape){.tp = 4, .dp = 2, .ep = 2}, 0);
    run_mesh((struct mesh_shape){.tp = 4, .dp = 2, .ep = 2}, LONG_ENOUGH_NS);
    run_mesh((struct mesh_shape){.tp = 4, .dp = 2, .ep = 4}, 0);
    run_mesh((struct mesh_shape){.tp = 4, .dp = 4, .ep = 4}, 0);
}

static void rank_alone_has_no_comm_and_operations_do_nothing(void **state)
{
    const struct mesh_shape shape = {.tp = 1, .dp = 1, .ep = 1};
    struct coll_shm_options o = {.threads = 1};
    float x[4] = {1, 2, 3, 4}, out[4] = {0};
    struct fused_norm_args a = {.out = out, .x = x, .y = x, .w = x, .rows = 2, .cols = 2};
    struct column_map map = {.n_parts = 2, .cols = 2,
        .parts = {{.at = 1, .count = {1}}, {.at = 0, .count = {1}}}};
    const size_t sizes[1] = {8}, offsets[1] = {0};
    struct mesh m;

    (void)state;
    assert_int_equal(mesh_heap_bytes(shape, &o), 0);
    assert_int_equal(mesh_open(shape, 0, &o, LONG_ENOUGH_NS, &m), STATUS_OK);
    for (int g = 0; g < COMM_GROUPS; g++)
        assert_null(m.comms.group[g]);
    assert_int_equal(tp_all_reduce(&m.comms, 0, 1, x, 4), STATUS_OK);
    assert_int_equal(attn_tp_all_reduce(&m.comms, 0, 1, x, 4), STATUS_OK);
    assert_int_equal(moe_tp_all_reduce(&m.comms, 0, 1, x, 4), STATUS_OK);
    assert_int_equal(moe_ep_all_reduce(&m.comms, 0, 1, x, 4), STATUS_OK);
    assert_int_equal(max_reduce(&m.comms, GROUP_TP, 0, 1, x, 4), STATUS_OK);
    assert_int_equal(reduce_scatter(&m.comms, GROUP_TP, 0, 1, x, 2, 2), STATUS_OK);
    assert_int_equal(all_gather_rows(&m.comms, GROUP_TP, 0, 1, x, 2, 2), STATUS_OK);
    assert_int_equal(broadcast(&m.comms, GROUP_TP, 0, x, sizeof(x)), STATUS_OK);
    assert_int_equal(fused_all_reduce_rmsnorm(&m.comms, GROUP_TP, 0, 1, &a), STATUS_UNSUPPORTED);
    assert_memory_equal(x, ((float[4]){1, 2, 3, 4}), sizeof(x));
    assert_int_equal(all_gather_cols(&m.comms, GROUP_TP, 0, 1, x, 2, out, 2, &map), STATUS_OK);
    assert_memory_equal(out, ((float[4]){2, 1, 4, 3}), sizeof(out));
    assert_int_equal(all_gather(&m.comms, GROUP_TP, x, sizeof(x), out), STATUS_OK);
    assert_memory_equal(out, x, sizeof(x));
    memset(out, 0, sizeof(out));
    assert_int_equal(gather(&m.comms, GROUP_TP, 0, x, 2, sizes, offsets, out, 8), STATUS_OK);
    assert_memory_equal(out, x, sizeof(x));
    mesh_close(&m);
}

static bool shares_and_names_its_groups(struct world *w, int rank)
{
    struct mesh m;
    bool good = world_attach(w, rank) &&
                mesh_open((struct mesh_shape){.tp = 2, .dp = 1, .ep = 1}, rank, &w->options, 0,
                    &m) == STATUS_OK;

    /* one comm for the three groups that are the whole world, none for the one of a rank */
    good = good && m.comms.group[GROUP_TP] != NULL &&
           m.comms.group[GROUP_ATTN_TP] == m.comms.group[GROUP_TP] &&
           m.comms.group[GROUP_MOE_TP] == m.comms.group[GROUP_TP] &&
           m.comms.group[GROUP_MOE_EP] == NULL &&
           strcmp(m.comms.group[GROUP_TP]->row->name, "auto") == 0;
    if (good)
        mesh_close(&m);
    return good;
}

static void groups_of_the_same_ranks_share_a_comm(void **state)
{
    struct world w;
    pid_t pids[2];

    (void)state;
    world_open(&w, 2, 1);
    for (int r = 0; r < 2; r++) {
        pids[r] = fork();
        if (pids[r] == 0)
            _exit(shares_and_names_its_groups(&w, r) ? 0 : 1);
    }
    for (int r = 0; r < 2; r++)
        child_must_succeed(pids[r]);
    segment_close(&w.segment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_are_as_the_formulas_say),
        cmocka_unit_test(each_rank_finds_itself_and_its_peers_the_same_group),
        cmocka_unit_test(sizes_that_cannot_be_are_refused_with_those_that_can),
        cmocka_unit_test(groups_sum_over_their_own_ranks_only),
        cmocka_unit_test(rank_alone_has_no_comm_and_operations_do_nothing),
        cmocka_unit_test(groups_of_the_same_ranks_share_a_comm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
