/* test_kv_dtype.c - the storyteller with a KV cache of e4m3.
 *
 * A position's bytes depend on nothing but its own k and v, so that cutting a prompt and laying out
 * the cache in another way change nothing; and how far the answers are from those with a cache of
 * f32 follows from the type. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "tests/checkpoint/temp_dir.h"
#include "tests/e2e/command.h"
#include "tests/e2e/golden.h"

enum { IDS = 28, VOCAB = 8192 }; /* the shortest story has as many */

static struct golden stories[GOLDEN_MOST];
static int n_stories;
static struct temp_dir dir;

static int set_up(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    n_stories = golden_read(stories);
    return n_stories == 4 ? 0 : -1;
}

static int take_down(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

static void run(struct command *c, const char *isa, const char *const words[])
{
    char text[64];
    const char *env[] = {text, NULL};

    snprintf(text, sizeof(text), "QUERN_CPU_ISA=%s", isa);
    child_run(c, env, words);
    if (c->status != 0)
        fail_msg("%s at isa %s: status %d, %s", words[0], isa, c->status, c->err);
}

static void stories_do_not_know_chunks_and_blocks(void **state)
{
    static const char *const cuts[][3] = {
        {"512", "16", "1"}, {"7", "256", "2"}, {"17", "3", "2"}, {"1", "1", "1"}};
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int i = 0; i < n_stories; i++) {
        struct command first, c;

        for (int k = 0; k < 4; k++) {
            const char *words[] = {"run", "--temperature", "0.8", "--seed", "5", "-n", "64",
                "--kv-dtype", "fp8", "--print-ids", "--max-seqs", "1", "--max-batched-tokens",
                cuts[k][0], "--block-size", cuts[k][1], "--threads", cuts[k][2], stories[i].text,
                NULL};

            run(k == 0 ? &first : &c, cpu_isa_name(levels[i % n]), words);
            if (k == 0)
                continue;
            assert_string_equal(c.out, first.out);
            child_free(&c);
        }
        child_free(&first);
    }
}

/* [IDS, VOCAB] logits of a story's first ids; malloc'ed. */
static float *logits_with(const char *isa, const char *kv_dtype, const struct golden *story)
{
    size_t bytes = (size_t)IDS * VOCAB * sizeof(float);
    char ids[GOLDEN_IDS], *end = ids, output[1024], last[16];
    float *logits = malloc(bytes);
    struct command c;
    FILE *f;

    snprintf(ids, sizeof(ids), "%s", story->greedy);
    for (int i = 0; i < IDS; i++)
        end += strcspn(end, ",") + 1;
    end[-1] = '\0';
    snprintf(last, sizeof(last), "%d", IDS);
    snprintf(output, sizeof(output), "%s", temp_dir_file(&dir, "logits.safetensors"));
    run(&c, isa, (const char *const[]){"logits", "--compute", "f32", "--kv-dtype", kv_dtype,
        "--ids", ids, "--last", last, "-o", output, NULL});
    child_free(&c);
    f = fopen(output, "r");
    assert_non_null(f);
    assert_non_null(logits);
    assert_int_equal(fseek(f, -(long)bytes, SEEK_END), 0);
    assert_int_equal(fread(logits, 1, bytes, f), bytes);
    fclose(f);
    return logits;
}

/* e4m3 has 3 bits behind the first: a value is off by a sixteenth of itself at most, and by half of
 * that squared and averaged. Sums of many values, each off by its own, are off by less. */
static void logits_are_off_by_less_than_a_sixteenth(void **state)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    (void)state;
    for (int i = 0; i < n_stories; i++) {
        const char *isa = cpu_isa_name(levels[i % n]);
        float *want = logits_with(isa, "f32", &stories[i]);
        float *got = logits_with(isa, "fp8", &stories[i]);
        double off = 0, norm = 0;

        for (size_t k = 0; k < (size_t)IDS * VOCAB; k++) {
            off += ((double)got[k] - want[k]) * ((double)got[k] - want[k]);
            norm += (double)want[k] * want[k];
        }
        print_message("# story %d at isa %s: %.4f\n", i, isa, sqrt(off / norm));
        assert_true(off > 0 && sqrt(off / norm) < 0x1p-4);
        free(want);
        free(got);
    }
}

static void other_names_are_the_same_type(void **state)
{
    static const char *const names[] = {"fp8", "e4m3", "fp8_e4m3"};
    float *first = logits_with("scalar", names[0], &stories[0]);

    (void)state;
    for (int i = 0; i < 3; i++) {
        float *got = logits_with("scalar", names[i], &stories[0]);
        json_t *plan, *shape, *rank;
        struct command c;

        assert_memory_equal(got, first, (size_t)IDS * VOCAB * sizeof(float));
        run(&c, "scalar", (const char *const[]){"plan", "--json", "--kv-dtype", names[i], NULL});
        plan = json_loads(c.out, 0, NULL);
        shape = json_object_get(plan, "model");
        rank = json_array_get(json_object_get(plan, "ranks"), 0);
        assert_string_equal(json_string_value(json_object_get(plan, "kv_dtype")), "fp8");
        /* k and v: a byte a value, and a float a head */
        assert_int_equal(json_integer_value(json_object_get(rank, "kv_per_token")),
            json_integer_value(json_object_get(shape, "layers")) * 2 *
                json_integer_value(json_object_get(shape, "kv_heads")) *
                (json_integer_value(json_object_get(shape, "head_dim")) + 4));
        json_decref(plan);
        child_free(&c);
        free(got);
    }
    free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories_do_not_know_chunks_and_blocks),
        cmocka_unit_test(logits_are_off_by_less_than_a_sixteenth),
        cmocka_unit_test(other_names_are_the_same_type),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
