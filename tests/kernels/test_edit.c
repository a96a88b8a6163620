/* test_edit.c - what a request changes in its logits, against the rules spelled out anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/edit.h"
#include "tests/support/random.h"

enum { VOCAB = 97, MOST_IDS = 200, CASES = 3000 };

struct sequence {
    struct sampling sampling;
    int32_t words[SAMPLING_WORDS], ids[MOST_IDS];
    uint32_t n_ids, n_prompt;
};

static uint32_t pick(uint64_t *seed, uint32_t n)
{
    return (uint32_t)(test_random(seed) % n);
}

static float real(uint64_t *seed, float low, float high)
{
    return low + (high - low) * (float)pick(seed, 1 << 16) / (1 << 16);
}

static void add_lists(struct sequence *q, uint64_t *seed)
{
    struct sampling *s = &q->sampling;
    int32_t *at = q->words;

    s->n_bias = 2 * pick(seed, 6);
    for (uint32_t i = 0; i < s->n_bias; i += 2) {
        float bias = real(seed, -5, 5);

        *at++ = (int32_t)pick(seed, VOCAB);
        memcpy(at++, &bias, sizeof(bias));
    }
    for (uint32_t runs = pick(seed, 8), n; runs > 0; runs--) {
        n = 1 + pick(seed, 3);
        *at++ = (int32_t)n;
        for (uint32_t i = 0; i < n; i++) /* mostly what the sequence has */
            *at++ = pick(seed, 2) > 0 && q->n_ids > 0 ? q->ids[pick(seed, q->n_ids)]
                                                      : (int32_t)pick(seed, VOCAB);
        if (pick(seed, 2) > 0 && n > 1 && q->n_ids >= n - 1) /* often its very end */
            memcpy(at - n, q->ids + q->n_ids - (n - 1), (n - 1) * sizeof(*at));
    }
    s->n_bad = (uint32_t)(at - q->words) - s->n_bias;
    s->n_ends = pick(seed, 4);
    s->min_tokens = pick(seed, 12);
    for (uint32_t i = 0; i < s->n_ends; i++)
        *at++ = (int32_t)pick(seed, VOCAB);
}

static void make(struct sequence *q, uint64_t *seed)
{
    *q = (struct sequence){.n_ids = pick(seed, MOST_IDS)};
    q->n_prompt = pick(seed, q->n_ids + 1);
    for (uint32_t i = 0; i < q->n_ids; i++)
        q->ids[i] = (int32_t)pick(seed, pick(seed, 2) > 0 ? VOCAB : 7);
    q->sampling.repetition = pick(seed, 2) > 0 ? real(seed, 0.5f, 2) : 1;
    q->sampling.frequency = pick(seed, 2) > 0 ? real(seed, -2, 2) : 0;
    q->sampling.presence = pick(seed, 2) > 0 ? real(seed, -2, 2) : 0;
    if (pick(seed, 3) > 0)
        add_lists(q, seed);
}

/* One id's logit by the rules of plan.h, in their order. */
static float expected(const struct sequence *q, int32_t id, float l)
{
    const struct sampling *s = &q->sampling;
    const int32_t *bad = q->words + s->n_bias, *ends = bad + s->n_bad;
    uint32_t in_all = 0, in_output = 0;

    for (uint32_t i = 0; i < s->n_bias; i += 2) {
        float bias;

        memcpy(&bias, &q->words[i + 1], sizeof(bias));
        l += q->words[i] == id ? bias : 0;
    }
    for (uint32_t i = 0; i < s->n_ends; i++)
        if (ends[i] == id && q->n_ids - q->n_prompt < s->min_tokens)
            return -INFINITY;
    for (uint32_t i = 0; i < q->n_ids; i++) {
        in_all += q->ids[i] == id;
        in_output += q->ids[i] == id && i >= q->n_prompt;
    }
    if (in_all > 0)
        l = l > 0 ? l / s->repetition : l * s->repetition;
    l -= s->frequency * (float)in_output;
    l -= in_output > 0 ? s->presence : 0;
    for (uint32_t i = 0; i < s->n_bad; i += 1 + (uint32_t)bad[i]) {
        uint32_t n = (uint32_t)bad[i];

        if (bad[i + n] == id && q->n_ids - q->n_prompt >= n - 1 &&
            memcmp(q->ids + q->n_ids - (n - 1), bad + i + 1, (n - 1) * sizeof(*bad)) == 0)
            return -INFINITY;
    }
    return l;
}

static void edit_shard(const struct sequence *q, float *logits, uint32_t first, uint32_t n)
{
    static uint32_t counts[VOCAB], touched[VOCAB];
    struct edit e = {.sampling = &q->sampling, .words = q->words, .ids = q->ids, .n_ids = q->n_ids,
        .n_prompt = q->n_prompt};

    edit_logits(logits, n, first, &e, &(struct edit_scratch){counts, touched});
    for (uint32_t i = 0; i < VOCAB; i++)
        assert_int_equal(counts[i], 0);
}

static void each_logit_is_changed_by_the_rules_in_any_shard(void **state)
{
    uint64_t seed = test_seed();
    uint32_t changed = 0, banned = 0;
    static struct sequence q;

    (void)state;
    for (int c = 0; c < CASES; c++) {
        float logits[VOCAB], want[VOCAB];
        uint32_t cut = pick(&seed, VOCAB + 1);

        make(&q, &seed);
        for (uint32_t i = 0; i < VOCAB; i++) {
            logits[i] = real(&seed, -8, 8);
            want[i] = expected(&q, (int32_t)i, logits[i]);
            changed += want[i] != logits[i];
            banned += isinf(want[i]);
        }
        assert_true(edit_wanted(&q.sampling, q.n_ids, q.n_prompt) ||
                    memcmp(logits, want, sizeof(want)) == 0);
        edit_shard(&q, logits, 0, cut);
        edit_shard(&q, logits + cut, cut, VOCAB - cut);
        if (memcmp(logits, want, sizeof(want)) != 0)
            fail_msg("case %d: another logit", c);
    }
    assert_true(changed > 20 * CASES && banned > CASES);
}

static void ids_are_asked_for_where_they_count(void **state)
{
    (void)state;
    assert_false(edit_wanted(&(struct sampling){.repetition = 1}, 5, 2));
    assert_false(edit_wanted(&(struct sampling){0}, 5, 2));
    assert_true(edit_reads_ids(&(struct sampling){.repetition = 1.1f}));
    assert_true(edit_reads_ids(&(struct sampling){.presence = -1}));
    assert_true(edit_reads_ids(&(struct sampling){.n_bad = 2}));
    assert_false(edit_reads_ids(&(struct sampling){.n_bias = 2, .n_ends = 1, .min_tokens = 3}));
    assert_true(edit_wanted(&(struct sampling){.n_ends = 1, .min_tokens = 3}, 4, 2));
    assert_false(edit_wanted(&(struct sampling){.n_ends = 1, .min_tokens = 3}, 5, 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_logit_is_changed_by_the_rules_in_any_shard),
        cmocka_unit_test(ids_are_asked_for_where_they_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
