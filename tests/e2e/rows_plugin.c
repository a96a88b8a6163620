/* rows_plugin.c - strategies that leave a linear layer's outputs cut by rows: of the MLP's width or
 * the vocabulary's, wider than anything that quern's own strategies scatter or gather so. */
#include <quern/plugin.h>

QUERN_PLUGIN

static const struct quern_strategy rows_of_whole = {
    .size = sizeof(struct quern_strategy),
    .name = "rows_of_whole",
    .effect = "every rank has the whole weight and keeps some of the rows",
    .cut = QUERN_CUT_NONE,
    .in = QUERN_IN_REPLICATE,
    .out = QUERN_OUT_SEQUENCE,
    .kinds = QUERN_KIND_LINEAR | QUERN_KIND_FUSED,
};

static const struct quern_strategy rows_of_sum = {
    .size = sizeof(struct quern_strategy),
    .name = "rows_of_sum",
    .effect = "inputs are cut, the sums scattered",
    .cut = QUERN_CUT_COLS,
    .in = QUERN_IN_SPLIT,
    .out = QUERN_OUT_SEQUENCE,
    .kinds = QUERN_KIND_LINEAR,
};

int quern_plugin_init(const struct quern_plugin_host *host)
{
    if (host->register_strategy(&rows_of_whole) != 0)
        return -1;
    return host->register_strategy(&rows_of_sum);
}
