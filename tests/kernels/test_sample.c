/* test_sample.c - the sampler against its rules, known answers, and itself in shards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/philox.h"
#include "kernels/cpu/sample.h"

enum { SEED = 20261122, MOST_RANKS = 4, ROOM = 256 };

static struct sample_scratch scratch_new(uint32_t n)
{
    struct sample_scratch s = {.a = malloc(n * sizeof(*s.a)), .b = malloc(n * sizeof(*s.b))};

    assert_non_null(s.a);
    assert_non_null(s.b);
    return s;
}

static void scratch_free(struct sample_scratch *s)
{
    free(s->a);
    free(s->b);
}

static uint32_t random_word(uint32_t stream, uint32_t i)
{
    const uint32_t counter[4] = {i, stream}, key[2] = {SEED, 1};

    return philox(counter, key).word[0];
}

static double uniform(uint32_t stream, uint32_t i)
{
    return (random_word(stream, i) + 0.5) * 0x1p-32;
}

/* About normal, with this deviation; `levels` > 0 makes ties. */
static float *random_logits(uint32_t n, uint32_t stream, double deviation, int levels)
{
    float *l = malloc(n * sizeof(*l));

    assert_non_null(l);
    for (uint32_t i = 0; i < n; i++) {
        double radius = sqrt(-2 * log(uniform(stream, 2 * i)));
        double x = radius * cos(6.283185307 * uniform(stream, 2 * i + 1));

        l[i] = (float)(levels > 0 ? floor(x * levels) / levels * deviation : x * deviation);
    }
    return l;
}

/* Known answers -------------------------------------------------------------------------- */

static json_t *load_vectors(void)
{
    const char *dir = getenv("QUERN_TEST_DATA");
    json_error_t error;
    char path[4096];
    json_t *root;

    snprintf(path, sizeof(path), "%s/golden/sampling.json", dir != NULL ? dir : "tests");
    root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        fail_msg("%s: %s", path, error.text);
    return root;
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static float *case_logits(const json_t *c, uint32_t *vocab)
{
    int bits = (int)number(c, "bits");
    const uint32_t key[2] = {(uint32_t)number(c, "logits_seed"), 0};
    float *l;

    *vocab = (uint32_t)number(c, "vocab");
    l = malloc(*vocab * sizeof(*l));
    assert_non_null(l);
    for (uint32_t i = 0; i < *vocab; i++) {
        const uint32_t counter[4] = {i};
        uint32_t top = philox(counter, key).word[0] >> (32 - bits);

        l[i] = (float)((ldexp(top, -bits) - 0.5) * number(c, "scale"));
    }
    return l;
}

static struct sampling case_sampling(const json_t *c)
{
    return (struct sampling){
        .temperature = (float)number(c, "temperature"),
        .top_p = (float)number(c, "top_p"),
        .min_p = (float)number(c, "min_p"),
        .top_k = (int32_t)number(c, "top_k"),
        .seed = strtoull(json_string_value(json_object_get(c, "seed")), NULL, 16),
        .choice = (uint32_t)number(c, "choice"),
    };
}

static void known_noise_is_drawn(void **state)
{
    json_t *root = load_vectors(), *v;
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(root, "noise"), i, v)
        assert_true(fabs(gumbel_noise((uint32_t)number(v, "word")) - number(v, "gumbel")) < 2e-6);
    assert_true(i > 0);
    json_decref(root);
}

static void known_answers_are_given(void **state)
{
    json_t *root = load_vectors(), *c;
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(root, "cases"), i, c) {
        uint32_t vocab, id;
        float *l = case_logits(c, &vocab);
        struct sampling s = case_sampling(c);
        struct sample_scratch scratch = scratch_new(vocab);

        id = sample_row(l, vocab, &s, (uint32_t)number(c, "position"), &scratch);
        if (id != (uint32_t)number(c, "id"))
            fail_msg("case %zu: %u, not %u", i, id, (uint32_t)number(c, "id"));
        scratch_free(&scratch);
        free(l);
    }
    assert_true(i > 50);
    json_decref(root);
}

/* Shards --------------------------------------------------------------------------------- */

/* What `ranks` ranks would find, each from its own part and the gathered lists. */
static uint32_t sample_shards(const float *l, uint32_t vocab, int ranks, const struct sampling *s,
    uint32_t position, struct sample_scratch *scratch, int *whole_rows)
{
    struct candidate candidates[MOST_RANKS][ROOM];
    struct mass mass[MOST_RANKS];
    struct list lists[MOST_RANKS];
    struct pick best = {.id = UINT32_MAX};
    uint32_t id;
    enum sample_mode mode = sample_mode(s, vocab, false);

    for (int r = 0; r < ranks; r++) {
        uint32_t each = (vocab + (uint32_t)ranks - 1) / (uint32_t)ranks;
        uint32_t first = each * (uint32_t)r < vocab ? each * (uint32_t)r : vocab;
        uint32_t n = vocab - first < each ? vocab - first : each;

        if (mode == SAMPLE_GREEDY)
            best = pick_best(best, pick_greedy(l + first, n, first));
        else if (mode == SAMPLE_PLAIN)
            best = pick_best(best, pick_plain(l + first, n, first, s, position));
        else {
            list_mass(&mass[r], l + first, n, s, vocab);
            lists[r] = (struct list){
                .n = list_make(candidates[r], ROOM, l + first, n, first, s, scratch),
                .total = n,
                .candidates = candidates[r],
                .mass = &mass[r],
            };
        }
    }
    if (mode != SAMPLE_LIST)
        return pick_id(best);
    if (lists_decide(lists, ranks, s, vocab, position, &id) == STATUS_OK)
        return id;
    (*whole_rows)++;
    return sample_row(l, vocab, s, position, scratch);
}

static void shards_decide_as_the_whole_does(void **state)
{
    static const float temperatures[] = {0, 0.3f, 1, 2.5f}, top_ps[] = {1, 0.95f, 0.5f, 0},
                       min_ps[] = {0, 0.05f};
    static const int32_t top_ks[] = {0, 1, 20, 300};
    const uint32_t vocab = 2003;
    struct sample_scratch scratch = scratch_new(vocab);
    int whole_rows = 0, cases = 0;

    (void)state;
    print_message("# seed %d\n", SEED);
    for (int c = 0; c < 4 * 4 * 4 * 2 * 4; c++, cases++) {
        struct sampling s = {.temperature = temperatures[c % 4], .top_k = top_ks[c / 4 % 4],
            .top_p = top_ps[c / 16 % 4], .min_p = min_ps[c / 64 % 2],
            .seed = (uint64_t)c * 0x9e3779b97f4a7c15u};
        float *l = random_logits(vocab, (uint32_t)c, c / 128 % 2 ? 1 : 4, c / 256 % 2 ? 3 : 0);
        uint32_t want = sample_row(l, vocab, &s, (uint32_t)c, &scratch);

        for (int ranks = 2; ranks <= MOST_RANKS; ranks++)
            assert_int_equal(want,
                sample_shards(l, vocab, ranks, &s, (uint32_t)c, &scratch, &whole_rows));
        free(l);
    }
    print_message("# %d cases, %d whole rows\n", cases, whole_rows);
    assert_true(whole_rows > 0 && whole_rows < cases * 3);
    scratch_free(&scratch);
}

/* Rules ---------------------------------------------------------------------------------- */

/* The rule as it is written, in double: which tokens may come. */
static void keep_naively(const float *l, uint32_t n, const struct sampling *s, bool *keep)
{
    double max = -INFINITY, sum = 0, before = 0;
    uint32_t left = 0, *order = malloc(n * sizeof(*order));

    for (uint32_t i = 0; i < n; i++)
        max = fmax(max, l[i] / s->temperature);
    for (uint32_t i = 0; i < n; i++)
        if (!(s->min_p > 0) || l[i] / s->temperature >= max + log(s->min_p))
            order[left++] = i;
    for (uint32_t i = 1; i < left; i++) /* insertion keeps equals in order */
        for (uint32_t j = i; j > 0 && l[order[j - 1]] < l[order[j]]; j--) {
            uint32_t t = order[j];

            order[j] = order[j - 1];
            order[j - 1] = t;
        }
    if (s->top_k > 0 && (uint32_t)s->top_k < left) {
        uint32_t k = (uint32_t)s->top_k;

        while (k < left && l[order[k]] == l[order[s->top_k - 1]])
            k++;
        left = k;
    }
    for (uint32_t i = 0; i < left; i++)
        sum += exp(l[order[i]] / s->temperature - max);
    memset(keep, 0, n * sizeof(*keep));
    for (uint32_t i = 0; i < left && (i == 0 || s->top_p >= 1 || before < s->top_p * sum); i++) {
        keep[order[i]] = true;
        before += exp(l[order[i]] / s->temperature - max);
    }
    free(order);
}

/* Chi-square of 40000 draws, positions 0, 1, ...: each kept token as often as its softmax says. */
static void check_distribution(const struct sampling *s, uint32_t stream)
{
    enum { N = 24, DRAWS = 40000 };
    float *l = random_logits(N, stream, 1.5, 4);
    struct sample_scratch scratch = scratch_new(N);
    bool keep[N];
    int drawn[N] = {0}, degrees = -1;
    double sum = 0, chi = 0;

    keep_naively(l, N, s, keep);
    for (uint32_t i = 0; i < N; i++)
        sum += keep[i] ? exp(l[i] / s->temperature) : 0;
    for (uint32_t p = 0; p < DRAWS; p++)
        drawn[sample_row(l, N, s, p, &scratch)]++;
    for (uint32_t i = 0; i < N; i++) {
        double expected = DRAWS * exp(l[i] / s->temperature) / sum;

        if (!keep[i])
            assert_int_equal(drawn[i], 0);
        else {
            chi += (drawn[i] - expected) * (drawn[i] - expected) / expected;
            degrees++;
        }
    }
    print_message("# stream %u: %d kept, chi-square %.1f\n", stream, degrees + 1, chi);
    assert_true(degrees == 0 || chi < degrees + 4 * sqrt(2.0 * degrees)); /* seeds are fixed */
    scratch_free(&scratch);
    free(l);
}

static void draws_follow_the_softmax_of_what_is_kept(void **state)
{
    static const struct sampling settings[] = {
        {.temperature = 1, .top_p = 1, .seed = 5},
        {.temperature = 0.7f, .top_p = 1, .top_k = 6, .seed = 6},
        {.temperature = 1.3f, .top_p = 0.8f, .seed = 7},
        {.temperature = 1, .top_p = 1, .min_p = 0.1f, .seed = 8, .choice = 3},
        {.temperature = 0.9f, .top_p = 0.9f, .top_k = 10, .min_p = 0.02f, .seed = 9},
    };

    (void)state;
    for (uint32_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        check_distribution(&settings[i], 1000 + i);
}

static void greedy_takes_the_lowest_id_of_a_tie(void **state)
{
    const float l[] = {-1, 3, 2, 3, -INFINITY, 3};
    const struct sampling s = {.temperature = 0, .top_p = 0.5f, .top_k = 3};

    (void)state;
    assert_int_equal(sample_row(l, 6, &s, 0, &(struct sample_scratch){0}), 1);
}

/* How many of 64 positions draw another id than 0, of `n` equal logits. */
static int draws_past_the_first(uint32_t n, const struct sampling *s)
{
    const float l[4] = {0};
    struct sample_scratch scratch = scratch_new(4);
    int past = 0;

    for (uint32_t p = 0; p < 64; p++)
        past += sample_row(l, n, s, p, &scratch) != 0;
    scratch_free(&scratch);
    return past;
}

static void temperatures_from_1e_5_on_are_sampled(void **state)
{
    static const float sampled[] = {1e-5f, 2e-5f, 1e-4f, 1e-3f, 0.01f, 0.049f, 1},
                       greedy[] = {0, 1e-7f, 9.9e-6f};

    (void)state;
    for (int i = 0; i < 7; i++)
        assert_in_range(draws_past_the_first(2, &(struct sampling){.temperature = sampled[i],
            .top_p = 1, .seed = 5}), 16, 48);
    for (int i = 0; i < 3; i++)
        assert_int_equal(draws_past_the_first(2, &(struct sampling){.temperature = greedy[i],
            .top_p = 1, .seed = 5}), 0);
}

/* Of equal tokens each has the same part, exact in binary: the ones before sum to top_p, not less. */
static void nucleus_that_is_full_to_the_bit_ends_there(void **state)
{
    (void)state;
    assert_int_equal(draws_past_the_first(2, &(struct sampling){.temperature = 1, .top_p = 0.5f}),
        0);
    assert_int_equal(draws_past_the_first(4, &(struct sampling){.temperature = 1, .top_p = 0.25f}),
        0);
    assert_int_equal(draws_past_the_first(4, &(struct sampling){.temperature = 1, .top_p = 0.25f,
        .top_k = 4, .min_p = 0.5f}), 0);
    assert_int_not_equal(draws_past_the_first(4, &(struct sampling){.temperature = 1,
        .top_p = 0.2500001f}), 0);
}

/* Whole and in shards, sampled in every way. */
static const struct sampling every_way[] = {{.temperature = 0, .top_p = 1},
    {.temperature = 1, .top_p = 1}, {.temperature = 2e-5f, .top_p = 0.9f},
    {.temperature = 1, .top_p = 1, .min_p = 0.5f}, {.temperature = 1, .top_p = 0, .top_k = 2}};
enum { WAYS = sizeof(every_way) / sizeof(every_way[0]) };

static void check_every_way(const float *l, uint32_t n, bool broken)
{
    struct sample_scratch scratch = scratch_new(n);
    int whole_rows = 0;

    for (int w = 0; w < WAYS; w++) {
        uint32_t id = sample_row(l, n, &every_way[w], 1, &scratch);

        if (broken ? id != SAMPLE_BROKEN : id >= n)
            fail_msg("way %d of [%g, %g, ...]: %u", w, l[0], l[1], id);
        for (int ranks = 2; ranks <= MOST_RANKS; ranks++)
            assert_int_equal(
                sample_shards(l, n, ranks, &every_way[w], 1, &scratch, &whole_rows), id);
    }
    scratch_free(&scratch);
}

static void odd_values_still_give_an_id(void **state)
{
    const float rows[][4] = {{1e30f, -1e30f, 3e38f, 0}, {-INFINITY, 1, 2, -INFINITY},
        {-INFINITY, -INFINITY, -INFINITY, -3e30f}, {-0.0f, 0, -INFINITY, -0.0f}};
    struct sample_scratch scratch = scratch_new(4);

    (void)state;
    for (int r = 0; r < 4; r++)
        check_every_way(rows[r], 4, false);
    assert_true(sample_row(rows[0], 4, &every_way[1], 1, &scratch) == 2);
    scratch_free(&scratch);
}

static void logits_that_are_not_finite_give_no_id(void **state)
{
    const float bad[] = {NAN, -NAN, INFINITY};
    float *l = random_logits(1000, 77, 3, 0);
    float none[9];

    (void)state;
    for (int i = 0; i < 9; i++)
        none[i] = -INFINITY;
    check_every_way(none, 9, true);
    for (int b = 0; b < 3; b++)
        for (uint32_t at = 0; at < 1000; at += 111) { /* the first, the last, between */
            float was = l[at];

            l[at] = bad[b];
            check_every_way(l, 1000, true);
            l[at] = was;
        }
    check_every_way(l, 1000, false);
    free(l);
}

static void a_long_nucleus_is_followed_to_its_end(void **state)
{
    const uint32_t vocab = 20000;
    float *l = calloc(vocab, sizeof(*l)); /* all equal: the nucleus is 0 .. p * vocab */
    const struct sampling s = {.temperature = 1, .top_p = 0.75f, .seed = 3};
    struct sample_scratch scratch = scratch_new(vocab);
    uint32_t largest = 0;

    (void)state;
    for (uint32_t p = 0; p < 60; p++) {
        uint32_t id = sample_row(l, vocab, &s, p, &scratch);

        largest = id > largest ? id : largest;
    }
    assert_true(largest > 13000 && largest < 15001);
    scratch_free(&scratch);
    free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_noise_is_drawn),
        cmocka_unit_test(known_answers_are_given),
        cmocka_unit_test(shards_decide_as_the_whole_does),
        cmocka_unit_test(draws_follow_the_softmax_of_what_is_kept),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_a_tie),
        cmocka_unit_test(temperatures_from_1e_5_on_are_sampled),
        cmocka_unit_test(nucleus_that_is_full_to_the_bit_ends_there),
        cmocka_unit_test(odd_values_still_give_an_id),
        cmocka_unit_test(logits_that_are_not_finite_give_no_id),
        cmocka_unit_test(a_long_nucleus_is_followed_to_its_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
