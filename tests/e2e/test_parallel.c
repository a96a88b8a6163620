/* test_parallel.c - the golden stories under every plan, at every number of ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/e2e/command.h"
#include "tests/e2e/golden.h"

static struct golden stories[GOLDEN_MOST];
static int n_stories;

static int read_golden(void **state)
{
    (void)state;
    n_stories = golden_read(stories);
    return n_stories == 4 ? 0 : -1;
}

/* All stories with these words in the command, at tp 1 to 4. */
static void tell(const char *const extra[])
{
    static const char *const tps[] = {"1", "2", "3", "4"};

    for (int t = 0; t < 4; t++)
        for (int i = 0; i < n_stories; i++) {
            const char *words[COMMAND_ARGS] = {"run", "--greedy", "-n", "64", "--compute", "f32",
                "--kv-dtype", "f32", "--threads", "1", "--print-ids", "--tp", tps[t],
                stories[i].text};
            struct command c;
            int n = 14;

            for (int k = 0; extra[k] != NULL; k++)
                words[n++] = extra[k];
            child_run(&c, NULL, words);
            c.out[strcspn(c.out, "\n")] = '\0';
            if (c.status != 0 || strcmp(c.out, stories[i].greedy) != 0)
                fail_msg("\"%s\" at tp %s with %s %s: status %d, got %s, want %s; it said %s",
                    stories[i].text, tps[t], extra[0] ? extra[0] : "auto", extra[0] ? extra[1] : "",
                    c.status, c.out, stories[i].greedy, c.err);
            child_free(&c);
        }
}

static void tell_plan(const char *name)
{
    char path[4096];

    tell((const char *[]){"--tp-plan", test_file(path, name), NULL});
}

static void stories_hold_at_tp_3(void **state)
{
    (void)state;
    tell((const char *[]){NULL});
}

static void stories_hold_under_sequence_parallel(void **state)
{
    (void)state;
    tell_plan("e2e/plans/sequence.json");
}

static void stories_hold_with_gathered_heads_and_split_inputs(void **state)
{
    (void)state;
    tell_plan("e2e/plans/gathered.json");
}

static void stories_hold_with_fused_modules_named(void **state)
{
    (void)state;
    tell_plan("e2e/plans/fused.json");
}

static void stories_hold_where_most_is_replicated(void **state)
{
    (void)state;
    tell_plan("e2e/plans/local.json");
}

static void stories_hold_with_every_algorithm(void **state)
{
    static const char *const names[] = {"shm_oneshot", "shm_twoshot"};

    (void)state;
    for (int a = 0; a < 2; a++) {
        char force[64];
        const char *env[] = {force, NULL};
        const char *words[] = {"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype", "f32",
            "--print-ids", "--tp", "3", "--threads", "1", stories[0].text, NULL};
        struct command c;

        snprintf(force, sizeof(force), "QUERN_COLL=%s", names[a]);
        assert_int_equal(child_run(&c, env, words), 0);
        c.out[strcspn(c.out, "\n")] = '\0';
        assert_string_equal(c.out, stories[0].greedy);
        child_free(&c);
    }
}

/* Whole rows of logits are summed there, wider than the buffers of the group: in pieces. */
static void a_head_that_sums_its_logits_has_room_for_them(void **state)
{
    char path[4096];
    const char *words[] = {"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype", "f32",
        "--print-ids", "--tp", "2", "--threads", "2", "--max-seqs", "1", "--max-batched-tokens",
        "16", "--tp-plan", test_file(path, "e2e/plans/gathered.json"), stories[0].text, NULL};
    struct command c;

    (void)state;
    if (child_run(&c, NULL, words) != 0)
        fail_msg("status %d: %s", c.status, c.err);
    c.out[strcspn(c.out, "\n")] = '\0';
    assert_string_equal(c.out, stories[0].greedy);
    child_free(&c);
}

static char plan_path[256];

static void refuses(const char *json, const char *line)
{
    const char *words[] = {"run", "-n", "1", "--tp", "2", "--tp-plan", plan_path, "x", NULL};
    struct command c;
    FILE *f = fopen(plan_path, "w");

    assert_non_null(f);
    fputs(json, f);
    fclose(f);
    child_run(&c, NULL, words);
    if (c.status != 1 || strstr(c.err, line) == NULL || strchr(c.err, '\n')[1] != '\0')
        fail_msg("plan %s: status %d, it said %s; wanted one line with \"%s\"", json, c.status, c.err,
            line);
    child_free(&c);
    unlink(plan_path);
}

static void plans_that_cannot_be_are_refused_by_line(void **state)
{
    (void)state;
    snprintf(plan_path, sizeof(plan_path), "%s/quern-plan-%d.json",
        getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", (int)getpid());
    refuses("{\n\"layers.*.mlp.gat_proj\": \"colwise\"\n}", ":2: ");
    refuses("{\n\n\"layers.*.mlp.gate_proj\": \"colwize\"\n}", ":3: ");
    /* sharded outputs into a whole input */
    refuses("{\n\"layers.*.mlp.gate_proj\": \"colwise\",\n\"layers.*.mlp.up_proj\": \"colwise\"\n}",
        "line 2");
    /* a whole input into one that must be cut */
    refuses("{\n\"layers.*.mlp.down_proj\": \"rowwise\"\n}", "line 2");
    /* two halves of one product */
    refuses("{\n\"layers.*.mlp.gate_proj\": \"colwise\"\n}", "line 2");
    /* heads, and halves of gate_up, cut by inputs */
    refuses("{\n\"layers.*.self_attn.q_proj\": \"rowwise_split_input\",\n\"layers.*.self_attn.k_proj"
            "\": \"rowwise_split_input\",\n\"layers.*.self_attn.v_proj\": \"rowwise_split_input\"\n}",
        "q_proj (line 2 of ");
    refuses("{\n\"layers.*.mlp.*_proj\": \"rowwise_split_input\"\n}", "gate_proj (line 2 of ");
    /* layers that attend otherwise */
    refuses("{\n\"layers.*.self_attn.*_proj\": \"colwise\",\n\"layers.*.self_attn.o_proj\": "
            "\"rowwise\",\n\"layers.3.self_attn.*_proj\": \"replicate\"\n}",
        "q_proj (line 4 of ");
    /* the head's neighbour is the last norm */
    refuses("{\n\"lm_head\": \"rowwise\"\n}", "but model.norm leaves it whole");
    refuses("{\n\"layers.*.mlp.experts\": \"moe_tp_experts\"\n}", ":2: ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories_hold_at_tp_3),
        cmocka_unit_test(stories_hold_under_sequence_parallel),
        cmocka_unit_test(stories_hold_with_gathered_heads_and_split_inputs),
        cmocka_unit_test(stories_hold_with_fused_modules_named),
        cmocka_unit_test(stories_hold_where_most_is_replicated),
        cmocka_unit_test(stories_hold_with_every_algorithm),
        cmocka_unit_test(a_head_that_sums_its_logits_has_room_for_them),
        cmocka_unit_test(plans_that_cannot_be_are_refused_by_line),
    };

    return cmocka_run_group_tests(tests, read_golden, NULL);
}
