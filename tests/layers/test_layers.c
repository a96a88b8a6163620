/* test_layers.c - every layer under every strategy, on 1 to 4 ranks, gives what one rank gives.
 *
 * The table is walked, not listed: a strategy that is added to it is tested
 * here from then on, on every layer it applies to. Sizes are random and mostly
 * do not divide by the ranks. What cannot fit together must be refused, alike
 * on every rank. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "quern/log.h"
#include "tests/layers/layer_ranks.h"

enum { NAMES_MAX = 96, LOGITS = RUN_TOKENS * RUN_VOCAB_MAX, RULES_MAX = 12 };

static uint64_t state_of_random;
static double worst; /* error of a run since the last report */
static int runs, refusals;

static uint32_t pick(uint32_t n)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state_of_random >> 33) % n;
}

#define PICK(...) \
    ((const uint32_t[]){__VA_ARGS__})[pick(sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))]

/* Four ranks can share them, as far as heads go. `roomy`: also where a rank takes nearly all. */
static struct layer_sizes random_sizes(bool roomy)
{
    static const uint32_t heads[][2] = {{4, 1}, {6, 3}, {6, 2}, {5, 1}, {4, 4}, {9, 3}};
    uint32_t h = pick(sizeof(heads) / sizeof(heads[0]));
    int parts = 2 + (int)pick(3);
    struct layer_sizes z = {.seed = state_of_random, .hidden = PICK(48, 40, 33, 56),
        .vocab = PICK(83, 67, 50, 96), .wide = PICK(23, 40, 72, 17), .deep = PICK(41, 36, 9, 72),
        .inner = PICK(40, 72, 23), .heads = heads[h][0], .kv_heads = heads[h][1],
        .head_dim = PICK(8, 6, 10), .bias = pick(2)};

    for (int i = 0; i < parts; i++)
        z.parts[i] = PICK(5, 12, 24, 31);
    if (roomy) {
        z.hidden = PICK(64, 67, 72);
        z.vocab = PICK(83, 67, 96);
        z.wide = PICK(67, 72, 80);
        z.inner = PICK(72, 64, 67);
        z.head_dim = PICK(16, 18);
    }
    return z;
}

static int n_own; /* rows registered by this test: the last ones of the table */

static bool is_own(const char *name)
{
    for (int i = strategy_count() - n_own; i < strategy_count(); i++)
        if (strcmp(strategy_at(i)->name, name) == 0)
            return true;
    return false;
}

/* Names of all strategies that can run and are for `kind`; other spellings too. */
static int names_of(enum module_kind kind, bool aliases, const char *names[NAMES_MAX])
{
    int n = 0;

    for (int i = 0; i < strategy_count(); i++) {
        const struct strategy *s = strategy_at(i);

        if (s->refused != NULL || (s->applies & kind) == 0)
            continue;
        names[n++] = s->name;
        for (int k = 0; aliases && k < STRATEGY_ALIASES && s->aliases[k] != NULL; k++)
            names[n++] = s->aliases[k];
        assert_true(n + STRATEGY_ALIASES < NAMES_MAX);
    }
    assert_true(n > 0);
    return n;
}

/* What fits ---------------------------------------------------------------------------------- */

static const struct strategy *row_of(const char *name)
{
    const struct strategy *s = strategy_find(name);

    assert_non_null(s);
    return s;
}

static bool leaves_shard(const char *name)
{
    return row_of(name)->cut == CUT_ROWS && row_of(name)->out != OUT_GATHER;
}

/* Can it read this? */
static bool reads(const char *name, bool shard)
{
    const struct strategy *s = row_of(name);

    return s->cut == CUT_COLS ? shard || s->in == IN_SPLIT : !shard;
}

static bool cuts_inputs(const char *name)
{
    return row_of(name)->cut == CUT_COLS;
}

/* Comparing ---------------------------------------------------------------------------------- */

static double error_of(const float *got, const float *want, size_t n)
{
    double difference = 0, size = 0;

    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    return sqrt(difference / size); /* a NaN stays one, and is no success */
}

static void describe(const struct layer_sizes *z, const struct layer_rule *rules, char text[2048])
{
    size_t at = (size_t)snprintf(text, 2048, "seed %llu hidden %u vocab %u wide %u deep %u "
        "inner %u heads %u kv %u dim %u bias %d tied %d parts %u %u %u %u:",
        (unsigned long long)z->seed, z->hidden, z->vocab, z->wide, z->deep, z->inner, z->heads,
        z->kv_heads, z->head_dim, z->bias, z->tied, z->parts[0], z->parts[1], z->parts[2],
        z->parts[3]);

    for (int i = 0; rules[i].pattern != NULL; i++)
        at += (size_t)snprintf(text + at, 2048 - at, " %s=%s", rules[i].pattern, rules[i].strategy);
}

/* On 2, 3, 4 ranks the layers give what one rank without a plan gives, or, where they do not fit,
 * are refused. One rank cuts nothing, so its plan is tried now and then. */
static void compare(layer_case *layers, const struct layer_sizes *z, const struct layer_rule *rules,
    bool fits)
{
    static const struct layer_rule whole[] = {{"embed_tokens", "replicate"}, {NULL, NULL}};
    float want[LOGITS], got[LOGITS];
    char text[2048];

    describe(z, rules, text);
    if (fits)
        assert_int_equal(run_layers(layers, z, whole, 1, 1, want), STATUS_OK);
    for (int size = fits && pick(4) == 0 ? 1 : 2; size <= RANKS_MAX; size++) {
        enum status s = run_layers(layers, z, rules, size, size == 2 && pick(2) ? 2 : 1, got);
        double error;

        if (s != STATUS_OK && fits)
            fail_msg("tp %d: %s; %s", size, log_last_error(), text);
        if (s == STATUS_OK && !fits)
            fail_msg("tp %d: nobody refuses %s", size, text);
        refusals += s != STATUS_OK;
        if (s != STATUS_OK)
            continue;
        error = error_of(got, want, (size_t)RUN_TOKENS * z->vocab);
        if (!(error < 1e-5))
            fail_msg("tp %d: error %g; %s", size, error, text);
        worst = error > worst ? error : worst;
        runs++;
    }
}

static void report(const char *what)
{
    print_message("# %s: %d runs, %d refused, largest error %.2g\n", what, runs, refusals, worst);
    runs = refusals = 0;
    worst = 0;
}

/* Layers ------------------------------------------------------------------------------------- */

static void linear_rules(const char *name, struct layer_rule rules[4])
{
    bool shard = cuts_inputs(name) && row_of(name)->in == IN_SHARD;

    rules[0] = (struct layer_rule){"layers.0.pre", shard ? "colwise" : "replicate"};
    rules[1] = (struct layer_rule){"layers.0.mid", name};
    rules[2] = (struct layer_rule){"layers.0.post", leaves_shard(name) ? "rowwise" : "replicate"};
    rules[3] = (struct layer_rule){NULL, NULL};
}

static void try_linear(bool roomy)
{
    const char *names[NAMES_MAX];
    int n = names_of(KIND_LINEAR, true, names);

    for (int i = 0; i < n; i++) {
        struct layer_sizes z = random_sizes(roomy);
        struct layer_rule rules[4];

        linear_rules(names[i], rules);
        for (int bias = 0; bias < 3; bias++) { /* none, added, left out and added behind */
            z.bias = bias > 0;
            z.skip = bias == 2;
            compare(case_linear, &z, rules, true);
        }
    }
    report("linear");
}

/* Codes and their scales are the whole row's, wherever it is cut. */
static void try_codes(bool roomy)
{
    const char *names[NAMES_MAX];
    int n = names_of(KIND_LINEAR, false, names);

    for (int i = 0; i < n; i++) {
        struct layer_sizes z = random_sizes(roomy);
        struct layer_rule rules[4];

        z.codes = true;
        linear_rules(names[i], rules);
        compare(case_linear, &z, rules, true);
    }
    report("linear, int8");
}

static void try_merged(bool roomy)
{
    const char *names[NAMES_MAX];
    int n = names_of(KIND_LINEAR, false, names);

    for (int i = 0; i < n; i++) {
        const struct layer_sizes z = random_sizes(roomy);
        const struct layer_rule rules[] = {{"layers.0.part*", names[i]}, {NULL, NULL}};

        compare(case_merged, &z, rules, !cuts_inputs(names[i]));
    }
    report("merged");
}

/* The first product of a pair by each name, the second by each. */
static void try_pairs(bool roomy, layer_case *layers, const char *const first[], const char *second,
    const char *what)
{
    const char *names[NAMES_MAX];
    int n = names_of(KIND_LINEAR, false, names);

    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++) {
            const struct layer_sizes z = random_sizes(roomy);
            struct layer_rule rules[RULES_MAX] = {{second, names[k]}};

            if (roomy && !is_own(names[i]) && !is_own(names[k]))
                continue;
            for (int f = 0; first[f] != NULL; f++)
                rules[f + 1] = (struct layer_rule){first[f], names[i]};
            compare(layers, &z, rules, !cuts_inputs(names[i]) &&
                reads(names[k], leaves_shard(names[i])) && !leaves_shard(names[k]));
        }
    report(what);
}

static void try_attention(bool roomy)
{
    try_pairs(roomy, case_attention, (const char *[]){"layers.*.self_attn.q_proj",
        "layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj", NULL},
        "layers.*.self_attn.o_proj", "attention");
}

static void try_mlp(bool roomy)
{
    try_pairs(roomy, case_mlp,
        (const char *[]){"layers.*.mlp.gate_proj", "layers.*.mlp.up_proj", NULL},
        "layers.*.mlp.down_proj", "mlp");
}

#define CUT_DECODER \
    {"layers.*.self_attn.q_proj", "colwise"}, {"layers.*.self_attn.k_proj", "colwise"}, \
        {"layers.*.self_attn.v_proj", "colwise"}, {"layers.*.self_attn.o_proj", "rowwise"}, \
        {"layers.*.mlp.gate_proj", "colwise"}, {"layers.*.mlp.up_proj", "colwise"}, \
        {"layers.*.mlp.down_proj", "rowwise"}

/* Each of three norms by each name, between sums and between whole products. */
static void try_norms(bool roomy)
{
    const char *names[NAMES_MAX];
    int n = names_of(KIND_NORM, false, names);

    for (int i = 0; i < n * n * n; i++) {
        struct layer_sizes z = random_sizes(roomy);
        const struct layer_rule norms[] = {{"layers.0.norm_a", names[i % n]},
            {"layers.0.norm_b", names[i / n % n]}, {"layers.0.norm_c", names[i / n / n]}};
        const struct layer_rule cut[] = {CUT_DECODER, norms[0], norms[1], norms[2], {NULL, NULL}};
        const struct layer_rule whole[] = {norms[0], norms[1], norms[2], {NULL, NULL}};

        if (roomy && !is_own(names[i % n]) && !is_own(names[i / n % n]) &&
            !is_own(names[i / n / n]))
            continue;
        compare(case_decoder, &z, i % 2 ? cut : whole, true);
        if (!roomy)
            compare(case_decoder, &z, i % 2 ? whole : cut, true);
    }
    report("norms");
}

static void try_head_norms_and_containers(bool roomy)
{
    const char *norms[NAMES_MAX], *containers[NAMES_MAX];
    int n = names_of(KIND_HEAD_NORM, true, norms), m = names_of(KIND_MODULE, true, containers);

    for (int i = 0; i < (n > m ? n : m); i++) {
        const struct layer_sizes z = random_sizes(roomy);
        const struct layer_rule rules[] = {CUT_DECODER, {"layers.*.self_attn.q_norm", norms[i % n]},
            {"layers.*.self_attn.k_norm", norms[(i + 1) % n]},
            {"layers.*.self_attn", containers[i % m]}, {NULL, NULL}};
        const struct layer_rule mlp[] = {CUT_DECODER, {"layers.*.mlp", containers[i % m]},
            {NULL, NULL}};

        compare(case_decoder, &z, rules, true);
        compare(case_decoder, &z, mlp, true);
    }
    report("norms of heads, containers");
}

static void try_vocabulary(bool roomy)
{
    const char *tables[NAMES_MAX], *heads[NAMES_MAX];
    int n = names_of(KIND_EMBEDDING, true, tables), m = names_of(KIND_LINEAR, false, heads);

    for (int i = 0; i < n; i++)
        for (int k = 0; k < m; k++) {
            struct layer_sizes z = random_sizes(roomy);
            const struct layer_rule rules[] = {
                {"embed_tokens", tables[i]}, {"lm_head", heads[k]}, {NULL, NULL}};

            if (roomy && !is_own(tables[i]) && !is_own(heads[k]))
                continue;
            z.tied = (i + k) % 2;
            compare(case_nothing, &z, rules, reads(heads[k], false));
        }
    report("embedding and head");
}

/* Strategies of a user's own ------------------------------------------------------------------- */

/* Rank 0 has everything but a unit for each of the others. */
static int lopsided(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    uint32_t units = (total + unit - 1) / unit, others = (uint32_t)size - 1, end;

    if (units < (uint32_t)size)
        return -1;
    *first = rank == 0 ? 0 : (units - others + (uint32_t)rank - 1) * unit;
    end = (units - others + (uint32_t)rank) * unit;
    *count = (end < total ? end : total) - *first;
    return 0;
}

static const struct strategy own_rows[] = {
    {.name = "lopsided", .cut = CUT_ROWS, .out = OUT_SHARD, .applies = KIND_LINEAR,
        .slice = lopsided},
    {.name = "lopsided_gather", .cut = CUT_ROWS, .out = OUT_GATHER, .applies = KIND_LINEAR,
        .slice = lopsided},
    {.name = "lopsided_split", .cut = CUT_COLS, .in = IN_SPLIT, .out = OUT_PARTIAL,
        .applies = KIND_LINEAR, .slice = lopsided},
    {.name = "lopsided_ids", .cut = CUT_ROWS, .out = OUT_PARTIAL, .applies = KIND_EMBEDDING,
        .slice = lopsided},
    {.name = "lopsided_lanes", .cut = CUT_COLS, .out = OUT_GATHER, .applies = KIND_EMBEDDING,
        .slice = lopsided},
    {.name = "summed_row", .cut = CUT_COLS, .in = IN_SHARD, .out = OUT_REPLICATE,
        .applies = KIND_LINEAR},
    {.name = "scattered_row", .cut = CUT_COLS, .in = IN_SPLIT, .out = OUT_SEQUENCE,
        .applies = KIND_LINEAR},
    {.name = "scattered_whole", .cut = CUT_NONE, .out = OUT_SEQUENCE, .applies = KIND_LINEAR},
    {.name = "summed_ids", .cut = CUT_ROWS, .out = OUT_REPLICATE, .applies = KIND_EMBEDDING},
    {.name = "scattered_ids", .cut = CUT_ROWS, .out = OUT_SEQUENCE, .applies = KIND_EMBEDDING},
    {.name = "gathered_norm", .cut = CUT_NONE, .in = IN_SEQUENCE, .out = OUT_REPLICATE,
        .applies = KIND_NORM},
    {.name = "scattered_module", .cut = CUT_NONE, .in = IN_ANY, .out = OUT_SEQUENCE,
        .applies = KIND_MODULE},
};

static void register_own(void)
{
    for (size_t i = 0; i < sizeof(own_rows) / sizeof(own_rows[0]); i++)
        if (strategy_register(&own_rows[i]) != STATUS_OK)
            fail_msg("%s", log_last_error());
    n_own = sizeof(own_rows) / sizeof(own_rows[0]);
}

/* Tests ---------------------------------------------------------------------------------------- */

static void linear_layers_give_one_ranks_result(void **state)
{
    (void)state;
    try_linear(false);
}

static void quantised_layers_give_one_ranks_result(void **state)
{
    (void)state;
    try_codes(false);
}

static void merged_layers_give_one_ranks_result(void **state)
{
    (void)state;
    try_merged(false);
}

static void attention_gives_one_ranks_result(void **state)
{
    (void)state;
    try_attention(false);
}

static void mlp_gives_one_ranks_result(void **state)
{
    (void)state;
    try_mlp(false);
}

static void norms_give_one_ranks_result(void **state)
{
    (void)state;
    try_norms(false);
}

static void head_norms_and_containers_give_one_ranks_result(void **state)
{
    (void)state;
    try_head_norms_and_containers(false);
}

static void embedding_and_head_give_one_ranks_result(void **state)
{
    (void)state;
    try_vocabulary(false);
}

/* Last: from here on the table has them. */
static void registered_strategies_give_one_ranks_result(void **state)
{
    (void)state;
    register_own();
    try_linear(true);
    try_codes(true);
    try_merged(true);
    try_attention(true);
    try_mlp(true);
    try_norms(true);
    try_head_norms_and_containers(true);
    try_vocabulary(true);
}

static int seed_random(void **state)
{
    const char *seed = getenv("QUERN_TEST_SEED");

    (void)state;
    state_of_random = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    print_message("# QUERN_TEST_SEED=%llu\n", (unsigned long long)state_of_random);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_layers_give_one_ranks_result),
        cmocka_unit_test(quantised_layers_give_one_ranks_result),
        cmocka_unit_test(merged_layers_give_one_ranks_result),
        cmocka_unit_test(attention_gives_one_ranks_result),
        cmocka_unit_test(mlp_gives_one_ranks_result),
        cmocka_unit_test(norms_give_one_ranks_result),
        cmocka_unit_test(head_norms_and_containers_give_one_ranks_result),
        cmocka_unit_test(embedding_and_head_give_one_ranks_result),
        cmocka_unit_test(registered_strategies_give_one_ranks_result),
    };

    return cmocka_run_group_tests(tests, seed_random, NULL);
}
