/* test_values.c - embeddings, scores and logits of a server, as Transformers computes them, over 1, 2
 * and 3 ranks; beside others the same bits as alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors.h"
#include "quern/plan.h"
#include "tests/e2e/raw_client.h"

enum { PROMPTS = 4, MOST_IDS = 64, MOST_COLUMNS = 256, TIMES = 6, VOCAB = 256, HIDDEN = 64, LABELS = 3 };

struct answers {
    char dir[4096];
    int32_t ids[MOST_IDS], lengths[PROMPTS];
    float rows[PROMPTS][MOST_COLUMNS];
    uint32_t columns;
};

static void read_tensor(const struct safetensors *f, const char *name, void *out, size_t most)
{
    const struct tensor_view *t = safetensors_find(f, name);

    assert_non_null(t);
    assert_true(t->bytes <= most);
    assert_int_equal(tensor_read(t, 0, t->bytes, out), STATUS_OK);
}

static void open_answers(struct answers *a, const char *model, const char *tensor, uint32_t columns)
{
    char path[4200], name[64];
    static float rows[PROMPTS * MOST_COLUMNS];
    struct safetensors *f;

    snprintf(name, sizeof(name), "golden/models/%s", model);
    test_file(a->dir, name);
    snprintf(path, sizeof(path), "%s/reference.safetensors", a->dir);
    assert_int_equal(safetensors_open(path, &f), STATUS_OK);
    read_tensor(f, "ids", a->ids, sizeof(a->ids));
    read_tensor(f, "lengths", a->lengths, sizeof(a->lengths));
    read_tensor(f, tensor, rows, sizeof(rows));
    safetensors_close(f);
    a->columns = columns;
    for (uint32_t p = 0; p < PROMPTS; p++)
        memcpy(a->rows[p], rows + p * columns, columns * sizeof(float));
}

static void start(struct raw_server *s, const struct answers *a, const char *tp)
{
    const char *const words[] = {"-m", a->dir, "--compute", "f32", "--kv-dtype", "f32", "--tp", tp,
        "--block-size", "4", "--max-seqs", "8", "--max-batched-tokens", "16", NULL};

    raw_server_start(s, words);
}

static struct raw_params task_of(uint32_t task)
{
    struct raw_params p = {.task = task, .prompt = PROMPT_IDS};

    return p;
}

static void ask(struct raw_client *c, uint64_t id, const struct raw_params *p, const struct answers *a,
    uint32_t prompt)
{
    assert_true(raw_submit(c, id, *p, a->ids, (size_t)a->lengths[prompt] * sizeof(int32_t)));
}

/* The next row of request `id`, up to MOST_COLUMNS; its position in *position. */
static uint32_t next_row(struct raw_client *c, uint64_t id, float *out, uint64_t *position)
{
    struct raw_frame f = raw_await(c, FRAME_VALUES);
    struct frame_values v;

    raw_fixed(&f, &v, sizeof(v));
    assert_true(f.header.id == id && v.columns <= MOST_COLUMNS);
    memcpy(out, raw_rest(&f), v.columns * sizeof(*out));
    *position = v.position;
    free(f.payload);
    return v.columns;
}

static void ends(struct raw_client *c, uint64_t id)
{
    char *text;

    assert_int_equal(raw_answer(c, id, &text), FRAME_DONE);
    free(text);
}

static void near(const float *got, const float *want, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) < 2e-5f))
            fail_msg("value %u is %g, not %g", i, (double)got[i], (double)want[i]);
}

/* Each prompt alone, then all of them several times at once. */
static void check_rows(const struct answers *a, uint32_t task, const char *tp)
{
    static float alone[PROMPTS][MOST_COLUMNS], beside[MOST_COLUMNS];
    struct raw_params p = task_of(task);
    struct raw_client c[PROMPTS * TIMES];
    struct raw_server s;
    uint64_t position;

    start(&s, a, tp);
    for (uint32_t i = 0; i < PROMPTS; i++) {
        raw_connect(&c[0], &s);
        ask(&c[0], 1, &p, a, i);
        assert_int_equal(next_row(&c[0], 1, alone[i], &position), a->columns);
        assert_int_equal(position, a->lengths[i] - 1);
        near(alone[i], a->rows[i], a->columns);
        ends(&c[0], 1);
        raw_close(&c[0]);
    }
    for (uint32_t i = 0; i < PROMPTS * TIMES; i++) {
        raw_connect(&c[i], &s);
        ask(&c[i], 1, &p, a, i % PROMPTS);
    }
    for (uint32_t i = 0; i < PROMPTS * TIMES; i++) {
        next_row(&c[i], 1, beside, &position);
        assert_memory_equal(beside, alone[i % PROMPTS], a->columns * sizeof(float));
        ends(&c[i], 1);
        raw_close(&c[i]);
    }
    raw_server_stop(&s, "");
}

static const char *const tps[] = {"1", "2", "3"};

static void embeddings_are_transformers(void **state)
{
    static struct answers a;

    (void)state;
    open_answers(&a, "bare", "embeddings", HIDDEN);
    for (int i = 0; i < 3; i++)
        check_rows(&a, TASK_EMBED, tps[i]);
}

static void scores_of_labels_are_transformers(void **state)
{
    static struct answers a;

    (void)state;
    open_answers(&a, "scored", "scores", LABELS);
    for (int i = 0; i < 3; i++)
        check_rows(&a, TASK_LOGITS, tps[i]);
}

static void an_embedding_is_cut_and_of_length_one_again(void **state)
{
    struct raw_params p = task_of(TASK_EMBED);
    static struct answers a;
    struct raw_client c;
    struct raw_server s;
    float got[MOST_COLUMNS], want[5];
    uint64_t position;
    double sum = 0;

    (void)state;
    open_answers(&a, "bare", "embeddings", HIDDEN);
    start(&s, &a, "1");
    raw_connect(&c, &s);
    RAW_GIVE(p, PARAM_DIMENSIONS, dimensions, 5);
    ask(&c, 1, &p, &a, 2);
    assert_int_equal(next_row(&c, 1, got, &position), 5);
    for (int i = 0; i < 5; i++)
        sum += (double)a.rows[2][i] * (double)a.rows[2][i];
    for (int i = 0; i < 5; i++)
        want[i] = (float)((double)a.rows[2][i] / sqrt(sum));
    near(got, want, 5);
    ends(&c, 1);
    RAW_GIVE(p, PARAM_DIMENSIONS, dimensions, HIDDEN + 1);
    ask(&c, 2, &p, &a, 2);
    raw_refused(&c, 2, QUERN_CODE_BAD_REQUEST, "dimensions 65: this model's embeddings have 64");
    raw_close(&c);
    raw_server_stop(&s, "");
}

/* Rows of the last ids in order, whole or of some ids: a reranker's no and yes. */
static void logits_come_of_the_last_ids_and_of_those_wanted(void **state)
{
    const int32_t wanted[] = {200, 7};
    struct raw_params p = task_of(TASK_LOGITS);
    static float whole[MOST_IDS][MOST_COLUMNS];
    static struct answers a;
    struct raw_client c;
    struct raw_server s;
    float some[MOST_COLUMNS];
    uint64_t position;

    (void)state;
    open_answers(&a, "bare", "embeddings", HIDDEN);
    start(&s, &a, "2");
    raw_connect(&c, &s);
    RAW_GIVE(p, PARAM_LAST, last, 30);
    ask(&c, 1, &p, &a, 3);
    for (uint32_t i = 10; i < 40; i++) {
        assert_int_equal(next_row(&c, 1, whole[i], &position), VOCAB);
        assert_int_equal(position, i);
    }
    ends(&c, 1);
    RAW_GIVE(p, PARAM_LAST, last, 3);
    RAW_GIVE(p, PARAM_VALUE_IDS, value_ids,
        ((struct param_bytes){(const unsigned char *)wanted, sizeof(wanted)}));
    ask(&c, 2, &p, &a, 3);
    for (uint32_t i = 37; i < 40; i++) {
        assert_int_equal(next_row(&c, 2, some, &position), 2);
        assert_true(some[0] == whole[i][200] && some[1] == whole[i][7]);
    }
    ends(&c, 2);
    RAW_GIVE(p, PARAM_LAST, last, 41);
    ask(&c, 3, &p, &a, 3);
    raw_refused(&c, 3, QUERN_CODE_BAD_REQUEST, "last 41: the prompt has 40 tokens");
    raw_close(&c);
    raw_server_stop(&s, "");
}

static void a_model_that_scores_completes_nothing(void **state)
{
    static const int32_t label = LABELS;
    struct raw_params p = raw_params(PROMPT_IDS, 4), q = task_of(TASK_LOGITS);
    static struct answers a;
    struct raw_client c;
    struct raw_server s;

    (void)state;
    open_answers(&a, "scored", "scores", LABELS);
    start(&s, &a, "1");
    raw_connect(&c, &s);
    ask(&c, 1, &p, &a, 1);
    raw_refused(&c, 1, QUERN_CODE_BAD_REQUEST, "this model scores its prompt with 3 labels");
    RAW_GIVE(q, PARAM_VALUE_IDS, value_ids, ((struct param_bytes){(const void *)&label, sizeof(label)}));
    ask(&c, 2, &q, &a, 1);
    raw_refused(&c, 2, QUERN_CODE_BAD_REQUEST, "value_ids: id 3 is out of range");
    raw_close(&c);
    raw_server_stop(&s, "");
}

/* Whatever is given with whatever task: it ends, and the server goes on. */
static void every_parameter_with_every_task_gets_its_end(void **state)
{
    static const unsigned char stop[] = {3, 0, 0, 0, 'z', 'q', 'x'};
    const int32_t prompt[] = {410, 403, 258}, run[] = {1, 300};
    struct raw_server s;
    struct raw_client c;

    (void)state;
    raw_server_start(&s, (const char *const[]){"--tp", "2", NULL});
    for (uint32_t task = 0; task <= TASK_LOGITS; task++) {
        struct raw_params p = {.task = task, .prompt = PROMPT_IDS};

        RAW_GIVE(p, PARAM_MAX_TOKENS, max_tokens, 5);
        RAW_GIVE(p, PARAM_LOGPROBS, logprobs, 2);
        RAW_GIVE(p, PARAM_PROMPT_LOGPROBS, prompt_logprobs, 2);
        RAW_GIVE(p, PARAM_ECHO, echo, 1);
        RAW_GIVE(p, PARAM_SPECULATE, speculate, 3);
        RAW_GIVE(p, PARAM_MIN_TOKENS, min_tokens, 2);
        RAW_GIVE(p, PARAM_REPETITION_PENALTY, repetition_penalty, 1.1f);
        RAW_GIVE(p, PARAM_BAD_IDS, bad_ids, ((struct param_bytes){(const void *)run, sizeof(run)}));
        RAW_GIVE(p, PARAM_BAD_WORDS, bad_words, ((struct param_bytes){stop, sizeof(stop)}));
        RAW_GIVE(p, PARAM_STOP, stop, ((struct param_bytes){stop, sizeof(stop)}));
        RAW_GIVE(p, PARAM_DIMENSIONS, dimensions, 3);
        RAW_GIVE(p, PARAM_LAST, last, 2);
        raw_connect(&c, &s);
        assert_true(raw_submit(&c, 1, p, prompt, sizeof(prompt)));
        ends(&c, 1);
        raw_close(&c);
    }
    raw_assert_well(&s);
    raw_server_stop(&s, "");
}

/* As many as either may be, together. */
static void bad_ids_and_bad_words_are_bounded_together(void **state)
{
    static const unsigned char word[] = {1, 0, 0, 0, 'a'};
    const int32_t prompt[] = {410, 403};
    static int32_t runs[BAD_WORDS];
    struct raw_params p = raw_params(PROMPT_IDS, 2);
    struct raw_server s;
    struct raw_client c;

    (void)state;
    for (int i = 0; i < BAD_WORDS; i += 2) {
        runs[i] = 1;
        runs[i + 1] = 300;
    }
    raw_server_start(&s, (const char *const[]){"--tp", "2", NULL});
    raw_connect(&c, &s);
    RAW_GIVE(p, PARAM_BAD_IDS, bad_ids, ((struct param_bytes){(const void *)runs, sizeof(runs)}));
    assert_true(raw_submit(&c, 1, p, prompt, sizeof(prompt)));
    ends(&c, 1);
    RAW_GIVE(p, PARAM_BAD_WORDS, bad_words, ((struct param_bytes){word, sizeof(word)}));
    assert_true(raw_submit(&c, 2, p, prompt, sizeof(prompt)));
    raw_refused(&c, 2, QUERN_CODE_BAD_REQUEST, "bad_ids and bad_words: 205");
    raw_close(&c);
    raw_server_stop(&s, "");
}

/* The storyteller's embeddings, of lines in any number, are those of each line by itself. */
static void lines_are_embedded_in_their_order(void **state)
{
    static char many[1 << 20], one[1 << 16], line[256];
    const char *at = many;

    (void)state;
    assert_int_equal(shell("for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do echo \"\\\"story "
        "$i of $j cats\\\"\"; done; done | \"$QUERN\" embed --dimensions 3", many, sizeof(many)), 0);
    for (int i = 1; i <= 9; i++)
        for (int j = 1; j <= 9; j++) {
            const char *end = strchr(at, '\n');

            assert_non_null(end);
            if (i * j % 20 == 0) {
                snprintf(line, sizeof(line), "echo '\"story %d of %d cats\"' | \"$QUERN\" embed "
                    "--dimensions 3", i, j);
                assert_int_equal(shell(line, one, sizeof(one)), 0);
                assert_int_equal(strlen(one), end - at + 1);
                assert_memory_equal(one, at, strlen(one));
            }
            at = end + 1;
        }
    assert_string_equal(at, "");
    assert_int_equal(shell("echo '[1]' | \"$QUERN\" embed 2>&1", one, sizeof(one)), 1);
    assert_non_null(strstr(one, "line 1: expected a string in quotes"));
}

static uint64_t fingerprint(const char *option, const char *value)
{
    struct raw_server s;
    struct raw_client c;
    struct raw_frame f;
    struct frame_ready ready;

    raw_server_start(&s, (const char *const[]){option, value, NULL});
    raw_connect(&c, &s);
    f = raw_await(&c, FRAME_READY);
    raw_fixed(&f, &ready, sizeof(ready));
    free(f.payload);
    raw_close(&c);
    raw_server_stop(&s, "");
    return ready.fingerprint;
}

static void a_fingerprint_tells_servers_apart_whose_answers_may_differ(void **state)
{
    uint64_t one = fingerprint("--tp", "1");

    (void)state;
    assert_true(one != 0);
    assert_true(fingerprint("--threads", "2") == one);
    assert_true(fingerprint("--block-size", "7") == one);
    assert_true(fingerprint("--tp", "2") != one);
    assert_true(fingerprint("--kv-dtype", "f16") != one);
    assert_true(fingerprint("--quant", "int8") != one);
    setenv("QUERN_CPU_ISA", "scalar", 1);
    assert_true(fingerprint("--tp", "1") != one);
    unsetenv("QUERN_CPU_ISA");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embeddings_are_transformers),
        cmocka_unit_test(scores_of_labels_are_transformers),
        cmocka_unit_test(an_embedding_is_cut_and_of_length_one_again),
        cmocka_unit_test(logits_come_of_the_last_ids_and_of_those_wanted),
        cmocka_unit_test(a_model_that_scores_completes_nothing),
        cmocka_unit_test(every_parameter_with_every_task_gets_its_end),
        cmocka_unit_test(bad_ids_and_bad_words_are_bounded_together),
        cmocka_unit_test(lines_are_embedded_in_their_order),
        cmocka_unit_test(a_fingerprint_tells_servers_apart_whose_answers_may_differ),
    };

    setenv("QUERN", "build/quern", 0); /* as command.h says; the shell needs it, too */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
