/* test_story.c - the storyteller's golden answers, pairwise over the ways to run.
 *
 * Every value of every dimension meets every value of every other one in some
 * run; the whole product is stress_story's (make check-stress). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
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

static void tell(const struct golden_way *way)
{
    assert_int_equal(golden_differences(stories, n_stories, way), 0);
}

static void stories_hold_on_every_isa_with_both_loops(void **state)
{
    static const char *const tps[] = {"1", "2", "4"}, *const threads[] = {"1", "2"},
                      *const loops[] = {"uring", "epoll"};
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    /* Two rows a level: over the levels, (isa, loop) and (isa, threads) are covered whole. */
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 2; k++)
            tell(&(struct golden_way){.isa = cpu_isa_name(levels[i]), .loop = loops[k],
                .tp = tps[(i + k) % 3], .threads = threads[(i + k) % 2]});
}

static void stories_hold_at_every_tp(void **state)
{
    static const struct golden_way rest[] = {
        {"scalar", "uring", "1", "1"}, {"scalar", "epoll", "4", "2"}, {"scalar", "uring", "2", "2"},
        {"scalar", "epoll", "1", "2"}, {"scalar", "epoll", "2", "1"}, {"scalar", "uring", "4", "1"},
    };
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (size_t i = 0; i < sizeof(rest) / sizeof(rest[0]); i++) {
        struct golden_way way = rest[i];

        way.isa = cpu_isa_name(levels[n - 1]);
        tell(&way);
    }
}

static void text_is_what_the_ids_say(void **state)
{
    struct command c;

    (void)state;
    for (int i = 0; i < n_stories; i++) {
        const char *words[] = {"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype",
            "f32", stories[i].text, NULL};
        size_t length = strlen(stories[i].greedy_text);

        assert_int_equal(child_run(&c, NULL, words), 0);
        assert_memory_equal(c.out, stories[i].greedy_text, length);
        assert_string_equal(c.out + length, "\n");
        assert_non_null(strstr(c.err, "tokens/s"));
        child_free(&c);
    }
}

static void same_seed_tells_the_same_story_at_any_tp(void **state)
{
    static const char *const tps[] = {"1", "2", "4"};
    struct command c[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        const char *words[] = {"run", "--temperature", "0.9", "--top-p", "0.95", "--seed", "7", "-n",
            "48", "--compute", "f32", "--kv-dtype", "f32", "--print-ids", "--tp", tps[i],
            "One morning", NULL};

        assert_int_equal(child_run(&c[i], NULL, words), 0);
        assert_string_equal(c[i].out, c[0].out);
    }
    for (int i = 0; i < 3; i++)
        child_free(&c[i]);
}

static void other_seeds_tell_other_stories(void **state)
{
    struct command c[2];
    const char *words[2][10] = {
        {"run", "--temperature", "1", "--seed", "1", "-n", "32", "Once", NULL},
        {"run", "--temperature", "1", "--seed", "2", "-n", "32", "Once", NULL}};

    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(child_run(&c[i], NULL, words[i]), 0);
    assert_string_not_equal(c[0].out, c[1].out);
    for (int i = 0; i < 2; i++)
        child_free(&c[i]);
}

/* Every chunk size with every block size, one of the stories each. */
static void stories_hold_however_prompts_are_cut_and_the_cache_is_laid_out(void **state)
{
    static const char *const chunks[] = {"1", "7", "512"}, *const blocks[] = {"1", "16", "256"};

    (void)state;
    for (int i = 0; i < 9; i++) {
        const struct golden *story = &stories[i % n_stories];
        const char *words[] = {"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype", "f32",
            "--threads", "1", "--print-ids", "--max-seqs", "1", "--max-batched-tokens", chunks[i / 3],
            "--block-size", blocks[i % 3], story->text, NULL};
        struct command c;

        assert_int_equal(child_run(&c, NULL, words), 0);
        assert_int_equal(strncmp(c.out, story->greedy, strlen(story->greedy)), 0);
        assert_int_equal(strlen(c.out), strlen(story->greedy) + 1);
        child_free(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories_hold_on_every_isa_with_both_loops),
        cmocka_unit_test(stories_hold_at_every_tp),
        cmocka_unit_test(stories_hold_however_prompts_are_cut_and_the_cache_is_laid_out),
        cmocka_unit_test(text_is_what_the_ids_say),
        cmocka_unit_test(same_seed_tells_the_same_story_at_any_tp),
        cmocka_unit_test(other_seeds_tell_other_stories),
    };

    return cmocka_run_group_tests(tests, read_golden, NULL);
}
