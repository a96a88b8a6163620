/* group_config.c - defaults, and the model's place. */
#include "tools/group_config.h"

#include <stdio.h>
#include <string.h>

#include "checkpoint/locate.h"

enum { LOAD_TIMEOUT_S = 600 };

static void copy(char *to, size_t room, const char *given, const char *fallback)
{
    snprintf(to, room, "%s", given != NULL ? given : fallback);
}

enum status group_config_from(const struct quern_options *o, struct group_config *c)
{
    enum log_level level = LOG_LEVEL_WARN;

    *c = (struct group_config){
        .tp = o->tp > 0 ? (uint32_t)o->tp : 1,
        .threads = (uint32_t)o->threads,
        .max_model_len = (uint32_t)o->max_model_len,
        .max_seqs = (uint32_t)o->max_seqs,
        .max_batched_tokens = (uint32_t)o->max_batched_tokens,
        .block_size = (uint32_t)o->block_size,
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
    copy(c->kv_dtype, sizeof(c->kv_dtype), o->kv_dtype, "bf16");
    return locate_model(o->model, LOCATE_MODEL, c->model, sizeof(c->model));
}
