/* tp_plan.c - which rule decides, and whether every rule can.
 *
 * A model has a few hundred modules and a plan a few dozen rules: each question
 * walks the list. Rules are only ever compared with each other here, so a
 * file's errors read alike whichever rank finds them. */
#include "parallel/tp_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/tp_plan_file.h"
#include "quern/log.h"

enum { MODULE_NAME = 160 };

/* FACTS 2.4, the column of qwen3. */
static const struct {
    const char *pattern, *strategy;
} own_rules[] = {
    {"embed_tokens", "embedding_rowwise"},
    {"layers.*.self_attn.q_proj", "colwise"},
    {"layers.*.self_attn.k_proj", "colwise"},
    {"layers.*.self_attn.v_proj", "colwise"},
    {"layers.*.self_attn.q_norm", "replicated_with_grad_allreduce"},
    {"layers.*.self_attn.k_norm", "replicated_with_grad_allreduce"},
    {"layers.*.self_attn.o_proj", "rowwise"},
    {"layers.*.mlp.gate_proj", "colwise"},
    {"layers.*.mlp.up_proj", "colwise"},
    {"layers.*.mlp.down_proj", "rowwise"},
    {"lm_head", "colwise_gather_output"},
};

static enum status add_own_rules(struct tp_plan *plan)
{
    enum status s = STATUS_OK;

    snprintf(plan->name, sizeof(plan->name), "auto");
    for (size_t i = 0; s == STATUS_OK && i < sizeof(own_rules) / sizeof(own_rules[0]); i++)
        s = plan_add_rule(plan, "", 0, own_rules[i].pattern, own_rules[i].strategy);
    return s;
}

enum status tp_plan_open(const char *file, struct tp_plan **out)
{
    struct tp_plan *plan = calloc(1, sizeof(*plan));
    enum status s;

    if (plan == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a tensor-parallel plan");
    s = file == NULL || strcmp(file, "auto") == 0 ? add_own_rules(plan)
                                                  : plan_read_file(plan, file);
    if (s != STATUS_OK) {
        tp_plan_close(plan);
        return s;
    }
    *out = plan;
    return STATUS_OK;
}

void tp_plan_close(struct tp_plan *plan)
{
    if (plan == NULL)
        return;
    for (int i = 0; i < plan->n_rules; i++) {
        free(plan->rules[i].pattern);
        free(plan->rules[i].module);
    }
    free(plan->rules);
    free(plan);
}

const char *tp_plan_name(const struct tp_plan *plan)
{
    return plan->name;
}

/* Deciding ------------------------------------------------------------------------------- */

/* Equal ones: the later line, which is b. */
static bool decides_over(const struct plan_rule *a, const struct plan_rule *b)
{
    if (a->parameter != b->parameter)
        return a->parameter;
    if (a->specificity.literal_parts != b->specificity.literal_parts)
        return a->specificity.literal_parts > b->specificity.literal_parts;
    return a->specificity.length > b->specificity.length;
}

static const struct plan_rule *best_rule(const struct tp_plan *plan, const char *module)
{
    const struct plan_rule *best = NULL;

    for (int i = 0; i < plan->n_rules; i++) {
        const struct plan_rule *r = &plan->rules[i];

        if (plan_pattern_matches(r->module, module) && (best == NULL || !decides_over(best, r)))
            best = r;
    }
    return best;
}

/* The product that a module is one part of, by its fused name; false: it is none's. */
static bool fused_name(const char *module, char name[MODULE_NAME])
{
    static const struct {
        const char *part, *fused;
    } parts[] = {
        {"self_attn.q_proj", "self_attn.qkv_proj"},
        {"self_attn.k_proj", "self_attn.qkv_proj"},
        {"self_attn.v_proj", "self_attn.qkv_proj"},
        {"mlp.gate_proj", "mlp.gate_up_proj"},
        {"mlp.up_proj", "mlp.gate_up_proj"},
    };
    size_t n = strlen(module);

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        size_t tail = strlen(parts[i].part);

        if (n > tail && module[n - tail - 1] == '.' &&
            strcmp(module + n - tail, parts[i].part) == 0)
            return snprintf(name, MODULE_NAME, "%.*s%s", (int)(n - tail), module,
                       parts[i].fused) < MODULE_NAME;
    }
    return false;
}

static const struct plan_rule *decide(const struct tp_plan *plan, const char *module)
{
    const struct plan_rule *r = best_rule(plan, module);
    char fused[MODULE_NAME];

    return r == NULL && fused_name(module, fused) ? best_rule(plan, fused) : r;
}

const struct strategy *tp_plan_strategy(const struct tp_plan *plan, const char *module,
    enum module_kind kind)
{
    const struct plan_rule *r = decide(plan, module);

    if (r != NULL)
        return r->strategy;
    return strategy_find(kind == KIND_EMBEDDING ? "embedding_rowwise" : "replicate");
}

int tp_plan_line(const struct tp_plan *plan, const char *module)
{
    const struct plan_rule *r = decide(plan, module);

    return r != NULL ? r->line : 0;
}

/* Checking ------------------------------------------------------------------------------- */

static enum status matches_nothing(const struct tp_plan *plan, const struct plan_rule *r,
    const struct plan_module *modules, int n)
{
    char general[256], best[256] = "";
    int least = 0;

    for (int i = 0; i < n; i++) {
        int distance = name_distance(plan_bare_name(r->module),
            plan_general_name(modules[i].name, general, sizeof(general)));

        if (best[0] == '\0' || distance < least) {
            least = distance;
            snprintf(best, sizeof(best), "%s", general);
        }
    }
    return log_fail(STATUS_INVALID,
        "%s:%d: pattern %s matches no module of this model: did you mean %s?", plan->name, r->line,
        r->pattern, best);
}

static enum status check_rule(const struct tp_plan *plan, const struct plan_rule *r,
    const struct plan_module *modules, int n)
{
    for (int i = 0; i < n; i++)
        if (plan_pattern_matches(r->module, modules[i].name) &&
            !(r->parameter && modules[i].kind == KIND_MODULE))
            return STATUS_OK;
    return matches_nothing(plan, r, modules, n);
}

static enum status check_module(const struct tp_plan *plan, const struct plan_module *m)
{
    const struct plan_rule *r = decide(plan, m->name);
    enum module_kind kind = m->kind;
    char kinds[128], fused[MODULE_NAME];
    const char *name = m->name;

    if (kind == KIND_FUSED) /* asked for its parts, where no rule names them */
        return STATUS_OK;
    if (r != NULL && !plan_pattern_matches(r->module, name) && fused_name(name, fused)) {
        kind = KIND_FUSED;
        name = fused;
    }
    if (r == NULL || (r->strategy->applies & kind) != 0)
        return STATUS_OK;
    return log_fail(STATUS_INVALID, "%s:%d: strategy %s of pattern %s is for %s, and %s is %s",
        plan->name, r->line, r->strategy->name, r->pattern,
        module_kinds_text(r->strategy->applies, kinds), name, module_kind_name(kind));
}

enum status tp_plan_check(const struct tp_plan *plan, const struct plan_module *modules, int n)
{
    enum status s = STATUS_OK;

    for (int i = 0; s == STATUS_OK && i < plan->n_rules; i++)
        if (plan->rules[i].line > 0)
            s = check_rule(plan, &plan->rules[i], modules, n);
    for (int i = 0; s == STATUS_OK && i < n; i++)
        s = check_module(plan, &modules[i]);
    return s;
}
