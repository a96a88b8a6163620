/* plugin.h - shard strategies of your own, in a module given with --plugin FILE.so.
 *
 * A shard strategy says how a module's weight is cut over the ranks of a
 * tensor-parallel group, how the module wants its input placed and how it
 * leaves its output. A plan (--tp-plan FILE.json) names strategies by pattern:
 * quern's own and those that a plugin registers.
 *
 *     #include <quern/plugin.h>
 *
 *     QUERN_PLUGIN
 *
 *     int quern_plugin_init(const struct quern_plugin_host *host)
 *     {
 *         return host->register_strategy(&mine);
 *     }
 *
 *     cc -std=c17 -shared -fPIC mine.c -o mine.so $(pkg-config --cflags quern)
 *     quern run --tp 2 --plugin ./mine.so --tp-plan plan.json "Once upon a time"
 *
 * A plugin is loaded by every worker and by `quern plan`, once, before any
 * thread starts, and stays until the process ends. All ranks must get the same
 * answers from it: its functions depend on their arguments alone. What a slice
 * function answers is checked; what else a plugin does to its process is not. */
#ifndef QUERN_PLUGIN_H
#define QUERN_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a module must be built again. */
#define QUERN_PLUGIN_API 1

/* Which dimension of the weight [outputs, inputs] (an embedding: [ids, hidden]) is cut. */
enum quern_cut {
    QUERN_CUT_NONE,
    QUERN_CUT_ROWS, /* outputs, ids; the bias is cut alike */
    QUERN_CUT_COLS, /* inputs, hidden */
};

/* How the module wants its input. */
enum quern_in {
    QUERN_IN_REPLICATE, /* whole on every rank */
    QUERN_IN_SHARD,     /* cut on the last dimension, like the weight's inputs */
    QUERN_IN_SPLIT,     /* whole; each rank takes its own columns out of it */
    QUERN_IN_SEQUENCE,  /* cut on rows: each rank has some of the tokens */
    QUERN_IN_ANY,
};

/* How it leaves its output. */
enum quern_out {
    QUERN_OUT_REPLICATE, /* whole on every rank; a Partial product is summed at once */
    QUERN_OUT_SHARD,     /* cut on the last dimension */
    QUERN_OUT_PARTIAL,   /* the sum over the ranks is meant; what reads it next pays for it */
    QUERN_OUT_GATHER,    /* cut, then gathered: whole on every rank */
    QUERN_OUT_SEQUENCE,  /* cut on rows */
};

/* What it can be a strategy of. */
enum quern_kind {
    QUERN_KIND_LINEAR = 1,
    QUERN_KIND_EMBEDDING = 2,
    QUERN_KIND_NORM = 4,
    QUERN_KIND_MODULE = 8, /* a container, such as self_attn or mlp */
    QUERN_KIND_FUSED = 32, /* qkv_proj, gate_up_proj: linear layers by one name, cut by outputs */
};

/* Zero or NULL is the default of what is not set; `size` is sizeof(struct quern_strategy). Read
 * while it is registered, and copied. */
struct quern_strategy {
    size_t size;
    const char *name;   /* what plans call it: letters, digits, '_', '-', '.'; at most 63 */
    const char *effect; /* one line for people, or NULL */
    enum quern_cut cut;
    enum quern_in in;
    enum quern_out out;
    unsigned kinds;     /* of enum quern_kind */

    /* The range [*first, *first + *count) of `total` elements that `rank` of `size` owns. It
     * begins where the one of rank - 1 ends; the last ends at total; none is empty; each ends at
     * a multiple of `unit` or at total. 0, or -1 where it cannot. NULL: as even as can be.
     * It is asked where this module decides about a cut: its outputs, or columns that it splits
     * off a whole input. A module whose input comes cut (QUERN_IN_SHARD) has the columns that its
     * input has. Elements of q_proj, k_proj and v_proj are KV heads, each with its query heads;
     * where there are more ranks than KV heads, they are query heads, and each rank gets the KV
     * heads that cover its own. */
    int (*slice)(uint32_t total, uint32_t unit, int rank, int size, uint32_t *first,
        uint32_t *count);
};

/* What quern offers a plugin; valid for as long as the process lives. */
struct quern_plugin_host {
    uint32_t api; /* QUERN_PLUGIN_API of this quern */

    /* 0, or -1 when it was refused (the name is taken, the values contradict each other): quern
     * then says why, and ends once quern_plugin_init() has returned that. */
    int (*register_strategy)(const struct quern_strategy *strategy);
};

#if defined(__GNUC__)
#define QUERN_PLUGIN_EXPORT __attribute__((visibility("default")))
#else
#define QUERN_PLUGIN_EXPORT
#endif

/* Once in a plugin: says which version of this header it was built with. */
#ifdef __cplusplus
#define QUERN_PLUGIN                                                                               \
    extern "C" {                                                                                   \
    extern QUERN_PLUGIN_EXPORT const uint32_t quern_plugin_api;                                    \
    const uint32_t quern_plugin_api = QUERN_PLUGIN_API;                                            \
    }
#else
#define QUERN_PLUGIN                                                                               \
    extern QUERN_PLUGIN_EXPORT const uint32_t quern_plugin_api;                                    \
    const uint32_t quern_plugin_api = QUERN_PLUGIN_API;
#endif

/* Yours to write. 0, or anything else to give up: quern then ends with an error. */
QUERN_PLUGIN_EXPORT int quern_plugin_init(const struct quern_plugin_host *host);

#ifdef __cplusplus
}
#endif

#endif
