/* 02_strategy_plugin.c - a shard strategy of your own.
 *
 *     cc -std=c17 -shared -fPIC 02_strategy_plugin.c $(pkg-config --cflags quern) -o light.so
 *
 *     cat >light.json <<END
 *     { "layers.*.self_attn.*_proj": "colwise",
 *       "layers.*.self_attn.o_proj": "rowwise",
 *       "layers.*.mlp.*_proj":       "light_colwise",
 *       "layers.*.mlp.down_proj":    "light_rowwise",
 *       "lm_head":                   "colwise_gather_output" }
 *     END
 *     quern plan --tp 2 --plugin ./light.so --tp-plan light.json
 *     quern run  --tp 2 --plugin ./light.so --tp-plan light.json "Once upon a time"
 *
 * Rank 0 has more to do than the others: it plans each step. Here it gets three
 * quarters of an even share of the MLP, and the others the rest. Answers do not
 * change with it, but for the rounding of sums that are cut elsewhere. */
#include <quern/plugin.h>

QUERN_PLUGIN

/* Every rank calls it, for each rank, and must get the same answers. */
static int light_slice(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
    uint32_t *count)
{
    uint32_t ranks = (uint32_t)size, r = (uint32_t)rank;
    uint32_t units = (total + unit - 1) / unit; /* what may not be cut further; the last is short */
    uint32_t light, others, from, to;

    if (units < ranks)
        return -1;
    light = units / ranks * 3 / 4;
    if (light == 0 || size == 1)
        light = units / ranks;
    others = size == 1 ? 0 : units - light;
    from = r == 0 ? 0 : light + others * (r - 1) / (ranks - 1);
    to = r == 0 ? light : light + others * r / (ranks - 1);
    *first = from * unit;
    *count = (to * unit < total ? to * unit : total) - *first;
    return 0;
}

/* The outputs of gate and up are cut; what they leave stays cut. */
static const struct quern_strategy light_colwise = {
    .size = sizeof(light_colwise),
    .name = "light_colwise",
    .effect = "outputs are cut, rank 0 gets three quarters of its share",
    .cut = QUERN_CUT_ROWS,
    .in = QUERN_IN_REPLICATE,
    .out = QUERN_OUT_SHARD,
    .kinds = QUERN_KIND_LINEAR,
    .slice = light_slice,
};

/* The inputs of down are cut in the same way; its product is summed over the ranks. */
static const struct quern_strategy light_rowwise = {
    .size = sizeof(light_rowwise),
    .name = "light_rowwise",
    .effect = "inputs are cut, rank 0 has three quarters of its share; outputs are summed",
    .cut = QUERN_CUT_COLS,
    .in = QUERN_IN_SHARD,
    .out = QUERN_OUT_PARTIAL,
    .kinds = QUERN_KIND_LINEAR,
    .slice = light_slice,
};

int quern_plugin_init(const struct quern_plugin_host *host)
{
    if (host->register_strategy(&light_colwise) != 0)
        return -1;
    return host->register_strategy(&light_rowwise);
}
