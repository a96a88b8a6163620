/* stress_plans.c - random plans over the names of modules and strategies: what is refused is
 * refused in one line that names the file, what is accepted tells the golden story.
 *
 * Most plans are made to fit (a pair of strategies for each product and the one behind it), since
 * plans of random names hardly ever do. QUERN_TEST_SEED repeats a run, QUERN_STRESS_PLANS says how
 * many plans there are. */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/command.h"
#include "tests/e2e/golden.h"

enum { PLAN_BYTES = 8192, MANY = 100 };

static uint64_t state_of_random;

static unsigned dice(unsigned sides)
{
    state_of_random = state_of_random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state_of_random >> 33) % sides;
}

#define ONE_OF(list) (list)[dice(sizeof(list) / sizeof((list)[0]))]

static const char *const cut[] = {"colwise", "local_colwise", "packed_colwise"},
                  *const behind_cut[] = {"rowwise", "local_rowwise", "packed_rowwise",
                      "local_packed_rowwise", "rowwise_split_input"},
                  *const whole[] = {"colwise_gather_output", "colwise_rep", "replicate",
                      "local_params", "local", "isolated", "replicated_with_grad_allreduce",
                      "mla_kv_a_proj", "moe_identity_expert"},
                  *const behind_whole[] = {"rowwise_split_input", "rowwise_rep", "replicate",
                      "colwise_gather_output", "moe_identity_expert"},
                  *const tables[] = {"embedding_rowwise", "embedding_colwise", "replicate"},
                  *const norms[] = {"sequence_parallel", "replicate"},
                  *const containers[] = {"all_reduce", "gather", "replicate"};

static const char *any_linear(void)
{
    switch (dice(4)) {
    case 0: return ONE_OF(cut);
    case 1: return ONE_OF(behind_cut);
    case 2: return ONE_OF(whole);
    }
    return ONE_OF(behind_whole);
}

static void rule(char *text, const char *layer, const char *module, const char *strategy)
{
    size_t n = strlen(text);

    snprintf(text + n, PLAN_BYTES - n, "%s\n  \"%s%s%s%s%s\": \"%s\"", n > 1 ? "," : "",
        dice(4) == 0 && strcmp(module, "lm_head") != 0 ? "model." : "",
        layer != NULL ? "layers." : "", layer != NULL ? layer : "", layer != NULL ? "." : "",
        module, strategy);
}

/* "*", or one layer. Each pattern may stand in a plan once: not twice the same layer. */
static const char *layer_name(int i)
{
    static char one[2];

    snprintf(one, sizeof(one), "%d", i);
    return i == 0 ? "*" : one;
}

static void make_plan(char text[PLAN_BYTES])
{
    bool cuts = dice(2) != 0;

    strcpy(text, "{");
    rule(text, "*", "self_attn.*_proj", cuts ? ONE_OF(cut) : ONE_OF(whole));
    rule(text, "*", "self_attn.o_proj", cuts ? ONE_OF(behind_cut) : ONE_OF(behind_whole));
    for (int i = 0; i < 3; i++) {
        cuts = dice(2) != 0;
        rule(text, layer_name(i), "mlp.*_proj", cuts ? ONE_OF(cut) : ONE_OF(whole));
        rule(text, layer_name(i), "mlp.down_proj", cuts ? ONE_OF(behind_cut) : ONE_OF(behind_whole));
        if (dice(3) == 0)
            rule(text, layer_name(i), "input_layernorm", ONE_OF(norms));
        if (dice(3) == 0)
            rule(text, layer_name(i), "post_attention_layernorm", ONE_OF(norms));
        if (dice(4) == 0)
            rule(text, layer_name(i), "mlp", ONE_OF(containers));
        if (dice(4) == 0)
            rule(text, layer_name(i), "self_attn", ONE_OF(containers));
    }
    if (dice(2) == 0)
        rule(text, NULL, "embed_tokens", ONE_OF(tables));
    if (dice(2) == 0)
        rule(text, NULL, "norm", ONE_OF(norms));
    if (dice(2) == 0)
        rule(text, NULL, "lm_head", any_linear());
    if (dice(5) == 0) /* mostly a neighbour that does not fit */
        rule(text, "5", "mlp.down_proj", any_linear());
    if (dice(5) == 0)
        rule(text, "6", "self_attn.q_proj", any_linear());
    strcat(text, "\n}\n");
}

static bool write_plan(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    return f != NULL && (fputs(text, f) >= 0) + (fclose(f) == 0) == 2;
}

/* 1: accepted; 0: refused as it should be; -1: neither. */
static int ask(const char *path, const char *tp)
{
    struct command c;
    int status, lines = 0, answer = -1;

    status = child_run(&c, NULL,
        (const char *const[]){"plan", "--json", "--tp", tp, "--tp-plan", path, NULL});
    for (const char *p = c.err; (p = strchr(p, '\n')) != NULL; p++)
        lines++;
    if (status == 1 && lines == 1 && strstr(c.err, strrchr(path, '/') + 1) != NULL)
        answer = 0;
    if (status == 0 && lines == 0) {
        json_t *plan = json_loads(c.out, 0, NULL);

        answer = plan != NULL ? 1 : -1;
        json_decref(plan);
    }
    if (answer < 0)
        printf("quern plan: status %d, it said %s\n", status, c.err);
    child_free(&c);
    return answer;
}

static bool tells(const char *path, const char *tp, const struct golden *story)
{
    static const char *const force[] = {"QUERN_COLL=", "QUERN_COLL=shm_oneshot",
        "QUERN_COLL=shm_twoshot"}, *const threads[] = {"1", "2"}, *const tokens[] = {"16", "512"};
    const char *env[] = {ONE_OF(force), NULL};
    struct command c;
    bool same;
    int status = child_run(&c, env,
        (const char *const[]){"run", "--greedy", "-n", "64", "--compute", "f32", "--kv-dtype", "f32",
            "--print-ids", "--tp", tp, "--threads", ONE_OF(threads), "--max-seqs", "1",
            "--max-batched-tokens", ONE_OF(tokens), "--tp-plan", path, story->text, NULL});

    c.out[strcspn(c.out, "\n")] = '\0';
    same = status == 0 && strcmp(c.out, story->greedy) == 0;
    if (!same)
        printf("%s: status %d, got %s, want %s; it said %s\n", env[0], status, c.out, story->greedy,
            c.err);
    child_free(&c);
    return same;
}

int main(void)
{
    static const char *const tps[] = {"2", "3", "4"};
    const char *seed = getenv("QUERN_TEST_SEED"), *many = getenv("QUERN_STRESS_PLANS");
    int plans = many != NULL ? atoi(many) : MANY, accepted = 0, failed = 0;
    struct golden stories[GOLDEN_MOST];
    int n = golden_read(stories);
    char path[64], text[PLAN_BYTES];

    state_of_random = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    printf("QUERN_TEST_SEED=%llu\n", (unsigned long long)state_of_random);
    snprintf(path, sizeof(path), "/tmp/quern-stress-plan-%d.json", (int)getpid());
    for (int i = 0; i < plans && n > 0; i++) {
        const char *tp = ONE_OF(tps);
        int answer;

        make_plan(text);
        answer = write_plan(path, text) ? ask(path, tp) : -1;
        accepted += answer == 1;
        if (answer == 1 && !tells(path, tp, &stories[dice((unsigned)n)]))
            answer = -1;
        if (answer < 0)
            printf("plan %d at tp %s: %s", i, tp, text);
        failed += answer < 0;
    }
    unlink(path);
    printf("%d plans, %d accepted: %d went wrong\n", plans, accepted, failed);
    return n <= 0 || accepted == 0 || failed != 0;
}
