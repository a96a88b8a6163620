/* plugin.c - dlopen, two symbols, one call.
 *
 * The version is a symbol of the module's own and is read before any of its
 * functions runs: one that was built for another layout of these structs must
 * not be called at all. */
#include "parallel/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "parallel/strategy.h"
#include "quern/log.h"
#include "quern/plugin.h"

enum { PATH_BYTES = 4096, ERROR_BYTES = 512 };

/* The public values are ours: a registered strategy is copied value for value. */
_Static_assert((int)QUERN_CUT_COLS == (int)CUT_COLS && (int)QUERN_CUT_ROWS == (int)CUT_ROWS,
    "cuts");
_Static_assert((int)QUERN_IN_SHARD == (int)IN_SHARD && (int)QUERN_IN_SPLIT == (int)IN_SPLIT &&
                   (int)QUERN_IN_SEQUENCE == (int)IN_SEQUENCE && (int)QUERN_IN_ANY == (int)IN_ANY,
    "inputs");
_Static_assert((int)QUERN_OUT_SHARD == (int)OUT_SHARD &&
                   (int)QUERN_OUT_PARTIAL == (int)OUT_PARTIAL &&
                   (int)QUERN_OUT_GATHER == (int)OUT_GATHER &&
                   (int)QUERN_OUT_SEQUENCE == (int)OUT_SEQUENCE,
    "outputs");
_Static_assert((int)QUERN_KIND_LINEAR == (int)KIND_LINEAR &&
                   (int)QUERN_KIND_EMBEDDING == (int)KIND_EMBEDDING &&
                   (int)QUERN_KIND_NORM == (int)KIND_NORM &&
                   (int)QUERN_KIND_MODULE == (int)KIND_MODULE &&
                   (int)QUERN_KIND_FUSED == (int)KIND_FUSED,
    "kinds");

/* A registration failed, whatever the plugin makes of it. Writer: the loading thread. */
static bool refused;

static enum status register_row(const struct quern_strategy *s)
{
    struct strategy row;

    if (s == NULL || s->size != sizeof(*s))
        return log_fail(STATUS_INVALID, "a plugin's strategy has size %zu, not %zu: set .size = "
            "sizeof(struct quern_strategy)", s != NULL ? s->size : 0, sizeof(*s));
    row = (struct strategy){
        .name = s->name,
        .effect = s->effect,
        .cut = (enum strategy_cut)s->cut,
        .in = (enum strategy_in)s->in,
        .out = (enum strategy_out)s->out,
        .applies = s->kinds,
        .slice = s->slice,
    };
    return strategy_register(&row);
}

static int register_strategy(const struct quern_strategy *s)
{
    if (register_row(s) == STATUS_OK)
        return 0;
    refused = true;
    return -1;
}

static const struct quern_plugin_host host = {
    .api = QUERN_PLUGIN_API,
    .register_strategy = register_strategy,
};

/* The loader's own words, which come with the path. */
static enum status loader_failed(const char *path)
{
    const char *why = dlerror();

    return log_fail(STATUS_INVALID, "%s: it cannot be loaded as a plugin: %.*s", path, ERROR_BYTES,
        why != NULL ? why : "the loader does not say why");
}

static enum status missing(const char *path, const char *symbol, const char *cure)
{
    return log_fail(STATUS_INVALID, "%s: it has no symbol %s: %s", path, symbol, cure);
}

static enum status start(void *module, const char *path)
{
    const uint32_t *api = dlsym(module, "quern_plugin_api");
    int (*init)(const struct quern_plugin_host *);
    void *symbol = dlsym(module, "quern_plugin_init");
    int answer;

    if (api == NULL)
        return missing(path, "quern_plugin_api", "write QUERN_PLUGIN in one of its files");
    if (*api != QUERN_PLUGIN_API)
        return log_fail(STATUS_INVALID, "%s: it was built for plugin version %u, this quern has "
            "%u: build it again with this quern's quern/plugin.h", path, *api, QUERN_PLUGIN_API);
    if (symbol == NULL)
        return missing(path, "quern_plugin_init", "define it, and export it");
    memcpy(&init, &symbol, sizeof(init)); /* ISO C has no cast from void * to a function */
    refused = false;
    answer = init(&host);
    if (refused)
        return STATUS_INVALID; /* the line says which strategy, and why */
    if (answer != 0)
        return log_fail(STATUS_INVALID, "%s: its quern_plugin_init() gave up with %d", path,
            answer);
    return STATUS_OK;
}

enum status plugin_load(const char *path)
{
    char here[PATH_BYTES];
    void *module;

    /* The loader looks for a name without a slash everywhere but here. */
    if (snprintf(here, sizeof(here), "%s%s", strchr(path, '/') == NULL ? "./" : "", path) >=
        PATH_BYTES)
        return log_fail(STATUS_INVALID, "--plugin: its path is longer than %d bytes",
            PATH_BYTES - 1);
    if (access(here, R_OK) != 0)
        return log_fail(STATUS_INVALID, "%s: %s", path, strerror(errno));
    module = dlopen(here, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL)
        return loader_failed(path);
    return start(module, path); /* never closed: what it registered points into it */
}
