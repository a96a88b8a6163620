/* runtime_config.c - defaults, and the model's place. */
#include "tools/runtime_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/locate.h"

enum { LOAD_TIMEOUT_S = 600 };

static void copy(char *to, size_t room, const char *given, const char *fallback)
{
    snprintf(to, room, "%s", given != NULL ? given : fallback);
}

/* A file that every process opens: the same one, wherever they run. "auto" and NULL
 * are none. */
static enum status place(const char *given, const char *option, char path[MODEL_PATH_BYTES])
{
    char *absolute;

    path[0] = '\0';
    if (given == NULL || strcmp(given, "auto") == 0)
        return STATUS_OK;
    absolute = realpath(given, NULL);
    if (absolute == NULL)
        return log_fail(STATUS_INVALID, "%s %s: %s", option, given, strerror(errno));
    snprintf(path, MODEL_PATH_BYTES, "%s", absolute); /* PATH_MAX bytes at most: it fits */
    free(absolute);
    return STATUS_OK;
}

/* Of the names that others have for e4m3, ours. */
static const char *one_name(const char *kv_dtype)
{
    if (kv_dtype != NULL && (strcmp(kv_dtype, "e4m3") == 0 || strcmp(kv_dtype, "fp8_e4m3") == 0))
        return "fp8";
    return kv_dtype;
}

enum status runtime_config_from(const struct runtime_options *o, struct runtime_config *c)
{
    enum log_level level = LOG_LEVEL_WARN;
    enum status s;

    *c = (struct runtime_config){
        .tp = o->tp > 0 ? (uint32_t)o->tp : 1,
        .threads = (uint32_t)o->threads,
        .max_model_len = (uint32_t)o->max_model_len,
        .max_seqs = (uint32_t)o->max_seqs,
        .max_batched_tokens = (uint32_t)o->max_batched_tokens,
        .block_size = (uint32_t)o->block_size,
        .kv_blocks = (uint32_t)o->kv_blocks,
        .memory = o->memory,
        .seed = o->seed,
        .load_timeout_s = LOAD_TIMEOUT_S,
    };
    if (o->log_level != NULL && log_level_parse(o->log_level, &level) != STATUS_OK)
        return log_fail(STATUS_INVALID, "--log-level %s: it wants error, warn, info or debug",
            o->log_level);
    c->log_level = (uint32_t)level;
    copy(c->backend, sizeof(c->backend), o->backend, "auto");
    copy(c->compute, sizeof(c->compute), o->compute, "bf16");
    copy(c->kv_dtype, sizeof(c->kv_dtype), one_name(o->kv_dtype), "bf16");
    copy(c->quant, sizeof(c->quant), o->quant, "");
    copy(c->quant_head, sizeof(c->quant_head), o->quant_head, "");
    copy(c->quant_activations, sizeof(c->quant_activations), o->quant_activations, "");
    s = place(o->tp_plan, "--tp-plan", c->tp_plan);
    if (s == STATUS_OK)
        s = place(o->plugin, "--plugin", c->plugin);
    if (s != STATUS_OK)
        return s;
    return locate_model(o->model, LOCATE_MODEL, c->model, sizeof(c->model));
}
