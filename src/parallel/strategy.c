/* strategy.c - the rows, and finding one.
 *
 * One list of our own rows and one of registered ones, each searched from the
 * front: it is done once per line of a plan, and a few dozen names are no
 * reason for a hash. Rows that need Mixture-of-Experts layers stand in the
 * table so that a plan that names them is told why it cannot run, instead of
 * that nobody has heard of them. */
#include "parallel/strategy.h"

#include <stdio.h>
#include <string.h>

#include "parallel/shard.h"
#include "parallel/strategy_registry.h"
#include "quern/log.h"

#define NEEDS_EXPERTS                                                                              \
    "needs Mixture-of-Experts layers, which this quern does not run yet: leave the rule out"

static const struct strategy rows[] = {
    {
        .name = "colwise",
        .aliases = {"local_colwise"},
        .effect = "outputs (and bias) are cut; the input is whole, the output stays cut",
        .cut = CUT_ROWS, .in = IN_REPLICATE, .out = OUT_SHARD, .applies = KIND_LINEAR,
    },
    {
        .name = "colwise_gather_output",
        .aliases = {"colwise_rep"},
        .effect = "as colwise, then the output is gathered on every rank",
        .cut = CUT_ROWS, .in = IN_REPLICATE, .out = OUT_GATHER, .applies = KIND_LINEAR | KIND_FUSED,
    },
    {
        .name = "rowwise",
        .aliases = {"local_rowwise"},
        .effect = "inputs are cut, and come cut; outputs are summed over the ranks, then the bias "
                  "is added",
        .cut = CUT_COLS, .in = IN_SHARD, .out = OUT_PARTIAL, .applies = KIND_LINEAR,
    },
    {
        .name = "rowwise_split_input",
        .aliases = {"rowwise_rep"},
        .effect = "as rowwise, but the input comes whole and each rank takes its columns",
        .cut = CUT_COLS, .in = IN_SPLIT, .out = OUT_PARTIAL, .applies = KIND_LINEAR,
    },
    {
        .name = "packed_colwise",
        .effect = "as colwise; of a fused tensor (gate_up_proj, qkv_proj) each part is cut apart",
        .cut = CUT_ROWS, .in = IN_REPLICATE, .out = OUT_SHARD, .applies = KIND_LINEAR | KIND_FUSED,
    },
    {
        .name = "packed_rowwise",
        .aliases = {"local_packed_rowwise"},
        .effect = "as rowwise: the inputs are cut where the outputs of the fused tensor before are",
        .cut = CUT_COLS, .in = IN_SHARD, .out = OUT_PARTIAL, .applies = KIND_LINEAR,
    },
    {
        .name = "embedding_rowwise",
        .effect = "ids are cut; an id of another rank gives zero, and the sum is the row",
        .cut = CUT_ROWS, .in = IN_REPLICATE, .out = OUT_PARTIAL, .applies = KIND_EMBEDDING,
    },
    {
        .name = "embedding_colwise",
        .effect = "hidden lanes are cut; rows are gathered on every rank",
        .cut = CUT_COLS, .in = IN_REPLICATE, .out = OUT_GATHER, .applies = KIND_EMBEDDING,
    },
    {
        .name = "sequence_parallel",
        .effect = "the weight is whole; each rank has some of the tokens: sums are scattered "
                  "before it and rows gathered behind it",
        .cut = CUT_NONE, .in = IN_SEQUENCE, .out = OUT_SEQUENCE, .applies = KIND_NORM,
    },
    {
        .name = "replicate",
        .aliases = {"local_params", "local", "isolated"},
        .effect = "the whole weight on every rank, which all do the same work",
        .cut = CUT_NONE, .in = IN_REPLICATE, .out = OUT_REPLICATE, .applies = KIND_ANY,
    },
    {
        .name = "replicated_with_grad_allreduce",
        .effect = "as replicate: only training sums gradients",
        .cut = CUT_NONE, .in = IN_REPLICATE, .out = OUT_REPLICATE, .applies = KIND_ANY,
    },
    {
        .name = "mla_kv_a_proj",
        .effect = "as replicate: its forward step is the identity",
        .cut = CUT_NONE, .in = IN_REPLICATE, .out = OUT_REPLICATE, .applies = KIND_LINEAR,
    },
    {
        .name = "all_reduce",
        .aliases = {"gather"},
        .effect = "what the module leaves Partial is summed at its end",
        .cut = CUT_NONE, .in = IN_ANY, .out = OUT_REPLICATE, .applies = KIND_MODULE,
    },
    {
        .name = "moe_identity_expert",
        .effect = "as replicate: dividing the input by the ranks and summing outputs is left out",
        .cut = CUT_NONE, .in = IN_REPLICATE, .out = OUT_PARTIAL, .applies = KIND_LINEAR,
    },
    {
        .name = "grouped_gemm",
        .effect = "experts are dealt out over the ranks",
        .in = IN_ANY, .applies = KIND_ANY, .refused = NEEDS_EXPERTS,
    },
    {
        .name = "ep_dispatch_experts",
        .effect = "tokens go to the ranks that have their experts, and come back",
        .in = IN_ANY, .applies = KIND_ANY, .refused = NEEDS_EXPERTS,
    },
    {
        .name = "moe_tp_experts",
        .effect = "what the experts leave is summed over the ranks",
        .in = IN_ANY, .applies = KIND_ANY, .refused = NEEDS_EXPERTS,
    },
    {
        .name = "ep_router",
        .aliases = {"megamoe_router"},
        .effect = "the router keeps the experts of this rank",
        .in = IN_ANY, .applies = KIND_ANY, .refused = NEEDS_EXPERTS,
    },
    {
        .name = "megamoe_experts",
        .effect = "dispatch, products and sum of the experts in one kernel",
        .in = IN_ANY, .applies = KIND_ANY, .refused = NEEDS_EXPERTS,
    },
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]), CLOSE_NAMES = 3, CLOSE_ENOUGH = 2, FAR = 1000 };

int strategy_count(void)
{
    return ROWS + registry_count();
}

const struct strategy *strategy_at(int i)
{
    return i < ROWS ? &rows[i] : registry_at(i - ROWS);
}

static bool is_called(const struct strategy *s, const char *name)
{
    if (strcmp(s->name, name) == 0)
        return true;
    for (int i = 0; i < STRATEGY_ALIASES && s->aliases[i] != NULL; i++)
        if (strcmp(s->aliases[i], name) == 0)
            return true;
    return false;
}

const struct strategy *strategy_look_up(const char *name)
{
    for (int i = 0; i < strategy_count(); i++)
        if (is_called(strategy_at(i), name))
            return strategy_at(i);
    return NULL;
}

/* Letters apart; beyond CLOSE_ENOUGH, one that begins with the other is just as far. */
static int distance(const char *name, const char *candidate)
{
    size_t n = strlen(name), m = strlen(candidate), common = n < m ? n : m;
    int letters = name_distance(name, candidate);

    if (letters <= CLOSE_ENOUGH)
        return letters;
    return common >= 4 && strncmp(name, candidate, common) == 0 ? CLOSE_ENOUGH + 1 : FAR;
}

/* The i-th spelling of a row: its name, then its aliases; NULL behind the last. */
static const char *spelling(const struct strategy *s, int i)
{
    return i == 0 ? s->name : i <= STRATEGY_ALIASES ? s->aliases[i - 1] : NULL;
}

static int least_distance(const char *name)
{
    int least = FAR;

    for (int i = 0; i < strategy_count(); i++)
        for (int k = 0; spelling(strategy_at(i), k) != NULL; k++) {
            int d = distance(name, spelling(strategy_at(i), k));

            if (d < least)
                least = d;
        }
    return least;
}

static void add_name(char *text, size_t room, const char *separator, const char *name)
{
    size_t n = strlen(text);

    snprintf(text + n, room - n, "%s%s", separator, name);
}

/* "did you mean colwise or rowwise?": the nearest, or all that run where none is near. */
static void suggest(const char *name, char *text, size_t room)
{
    int least = least_distance(name), found = 0;

    snprintf(text, room, "%s", least == FAR ? "there are " : "did you mean ");
    for (int i = 0; i < strategy_count(); i++) {
        const struct strategy *s = strategy_at(i);

        if (least == FAR && s->refused == NULL)
            add_name(text, room, found++ == 0 ? "" : ", ", s->name);
        for (int k = 0; least != FAR && spelling(s, k) != NULL && found < CLOSE_NAMES; k++)
            if (distance(name, spelling(s, k)) == least)
                add_name(text, room, found++ == 0 ? "" : " or ", spelling(s, k));
    }
    if (least != FAR)
        add_name(text, room, "?", "");
}

const struct strategy *strategy_find_at(const char *where, const char *name)
{
    const struct strategy *s = strategy_look_up(name);
    char close[768];

    if (where == NULL)
        where = "";
    if (s == NULL) {
        suggest(name, close, sizeof(close));
        log_fail(STATUS_INVALID, "%sunknown strategy \"%s\": %s", where, name, close);
        return NULL;
    }
    if (s->refused != NULL) {
        log_fail(STATUS_INVALID, "%sstrategy \"%s\" %s", where, name, s->refused);
        return NULL;
    }
    return s;
}

const struct strategy *strategy_find(const char *name)
{
    return strategy_find_at(NULL, name);
}

/* Ranges ----------------------------------------------------------------------------------- */

/* Of a registered function nothing is taken on trust: every rank asks it for all ranks, and so
 * all of them find the same fault. */
static enum status checked_range(const struct strategy *s, uint32_t total, uint32_t unit, int rank,
    int size, struct range *own)
{
    struct range mine = {0};
    uint32_t at = 0;

    for (int r = 0; r < size; r++) {
        uint32_t first = 0, count = 0;

        if (s->slice(total, unit, r, size, &first, &count) != 0)
            return log_fail(STATUS_INVALID, "strategy %s cannot cut %u in units of %u for %d ranks",
                s->name, total, unit, size);
        if (first != at || count == 0 || count > total - at)
            return log_fail(STATUS_INVALID, "strategy %s gives rank %d of %d the range %u + %u of "
                "%u: ranges begin where the last one ended (%u), and none is empty", s->name, r,
                size, first, count, total, at);
        at += count;
        if (at % unit != 0 && at != total)
            return log_fail(STATUS_INVALID, "strategy %s ends rank %d at %u of %u: cut at "
                "multiples of %u", s->name, r, at, total, unit);
        if (r == rank)
            mine = (struct range){.first = first, .count = count};
    }
    if (at != total)
        return log_fail(STATUS_INVALID, "strategy %s cuts %u of %u for %d ranks: nothing may be "
            "left over", s->name, at, total, size);
    *own = mine;
    return STATUS_OK;
}

enum status strategy_range(const struct strategy *s, uint32_t total, uint32_t unit, int rank,
    int size, uint32_t *first, uint32_t *count)
{
    struct range own = shard_range(total, unit, rank, size);
    enum status status = STATUS_OK;

    if (s != NULL && s->slice != NULL)
        status = checked_range(s, total, unit, rank, size, &own);
    if (status != STATUS_OK)
        return status;
    *first = own.first;
    *count = own.count;
    return STATUS_OK;
}
