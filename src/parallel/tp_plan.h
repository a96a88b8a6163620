/* tp_plan.h - which strategy each module of a model gets: patterns to strategies.
 *
 * A plan is Qwen3's own (the table of FACTS 2.4) or a JSON file in the form
 * that Transformers uses, one object of strings:
 *
 *     { "layers.*.self_attn.q_proj": "colwise", "layers.0.mlp.down_proj": "replicate" }
 *
 * Patterns are module names with or without "model." in front; `*` stands for
 * any run of characters within one part (between dots), so that a numeric part
 * matches it. A pattern that ends in ".weight" names the parameter, and is
 * asked before those that name the module. Of several that match, the one with
 * more parts without `*` decides, then the longer one, then the later line. Of
 * q_proj, k_proj and v_proj, and of gate_proj and up_proj, that nothing names,
 * what is said of qkv_proj or gate_up_proj decides: some checkpoints have them
 * as one tensor, and all models here as one product. A
 * file that says nothing of embed_tokens gets embedding_rowwise for it, as in
 * Transformers; a module that nothing names is replicated.
 *
 * Ownership: the caller owns the plan (tp_plan_close()); strategies are the
 * table's. Read-only after tp_plan_open(): any thread may ask.
 * Blocking: tp_plan_open() reads one small file. */
#ifndef QUERN_PARALLEL_TP_PLAN_H
#define QUERN_PARALLEL_TP_PLAN_H

#include "parallel/strategy.h"

struct tp_plan;

/* One of a model's modules: all of them together are what patterns may match. */
struct plan_module {
    const char *name; /* "model.layers.3.mlp.down_proj", without ".weight" */
    enum module_kind kind;
};

/* file NULL or "auto": Qwen3's own. Plugins that the file's strategies come from are loaded
 * before. IO: it cannot be read. INVALID (logged, "plan.json:7: ..."): no JSON object of strings,
 * empty, a key twice, a pattern that no name can match, an unknown strategy or one that cannot
 * run. NOMEM. */
enum status tp_plan_open(const char *file, struct tp_plan **out);
void tp_plan_close(struct tp_plan *plan); /* NULL is allowed */

/* Does the plan fit the model? INVALID (logged, with file and line): a pattern of a file that
 * matches none of these modules, or a strategy that cannot be of a module that its pattern
 * decides. The same plan and modules give the same answer on every rank. */
enum status tp_plan_check(const struct tp_plan *plan, const struct plan_module *modules, int n);

/* The strategy of `module`, never NULL. Whether it can be of that kind was tp_plan_check()'s
 * question; the kind matters only where nothing in a file matches. */
const struct strategy *tp_plan_strategy(const struct tp_plan *plan, const char *module,
    enum module_kind kind);

/* The line of the file that decides over `module`; 0 where none does. */
int tp_plan_line(const struct tp_plan *plan, const char *module);

/* "plan.json", or "auto". */
const char *tp_plan_name(const struct tp_plan *plan);

#endif
