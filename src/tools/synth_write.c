/* synth_write.c - the tensors of synth.h and the small files around them, into a folder.
 *
 * The weights are made as they are written (folder_write.h), so a 32B model
 * takes no more memory than a small one. */
#include "tools/synth_write.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/synth.h"
#include "checkpoint/synth_tokenizer.h"
#include "quern/log.h"
#include "tools/folder_write.h"

struct synth_job {
    const char *like;
    struct model_config cfg;
    uint64_t seed, total_bytes;
    struct tensor_view *views; /* [count], in the model's order until a shard is laid out */
    char (*names)[SYNTH_NAME_BYTES];
    size_t count;
};

static enum status fill_tensor(void *context, const struct tensor_view *view, uint64_t first,
                               uint64_t n, void *dst)
{
    const struct synth_job *job = context;

    synth_fill(job->seed, view, first, n, dst);
    return STATUS_OK;
}

/* The small files. --------------------------------------------------------------------------- */

static enum status write_preset(const void *context, FILE *out)
{
    const struct model_config *c = &((const struct synth_job *)context)->cfg;

    fprintf(out, "{\n  \"architectures\": [\"Qwen3ForCausalLM\"],\n"
            "  \"model_type\": \"qwen3\",\n  \"attention_bias\": false,\n"
            "  \"attention_dropout\": 0.0,\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n"
            "  \"head_dim\": %d,\n  \"hidden_act\": \"silu\",\n  \"hidden_size\": %d,\n"
            "  \"initializer_range\": 0.02,\n  \"intermediate_size\": %d,\n"
            "  \"max_position_embeddings\": %d,\n  \"max_window_layers\": %d,\n"
            "  \"num_attention_heads\": %d,\n  \"num_hidden_layers\": %d,\n"
            "  \"num_key_value_heads\": %d,\n  \"rms_norm_eps\": 1e-06,\n"
            "  \"rope_scaling\": null,\n  \"rope_theta\": 1000000,\n"
            "  \"sliding_window\": null,\n  \"tie_word_embeddings\": %s,\n"
            "  \"torch_dtype\": \"bfloat16\",\n  \"use_cache\": true,\n"
            "  \"use_sliding_window\": false,\n  \"vocab_size\": %d\n}\n",
            c->bos, c->eos[0], c->head_dim, c->hidden, c->intermediate, c->max_position,
            c->layers, c->heads, c->layers, c->kv_heads, c->tied ? "true" : "false", c->vocab);
    return STATUS_OK;
}

/* A FILE.json is copied as it is, with whatever spelling it has. */
static enum status write_config(const struct folder *f, const struct synth_job *job)
{
    const char *name = synth_is(job->like) ? job->like + 6 : job->like;
    size_t n = strlen(name);

    if (n > 5 && strcmp(name + n - 5, ".json") == 0)
        return folder_copy(f, name, "config.json");
    return folder_file(f, "config.json", write_preset, job);
}

static enum status write_generation(const void *context, FILE *out)
{
    const struct synth_job *job = context;

    fprintf(out, "{\n  \"bos_token_id\": %d,\n  \"do_sample\": false,\n  \"eos_token_id\": [",
            job->cfg.bos);
    for (int i = 0; i < job->cfg.n_eos; i++)
        fprintf(out, "%s%d", i > 0 ? ", " : "", job->cfg.eos[i]);
    fputs("]\n}\n", out);
    return STATUS_OK;
}

static enum status write_tokenizer(const void *context, FILE *out)
{
    return synth_tokenizer_write(&((const struct synth_job *)context)->cfg, out);
}

static enum status write_tokenizer_config(const void *context, FILE *out)
{
    return synth_tokenizer_config_write(&((const struct synth_job *)context)->cfg, out);
}

static const struct {
    const char *name;
    enum status (*write)(const void *job, FILE *out);
} small_files[] = {
    { "generation_config.json", write_generation },
    { "tokenizer.json", write_tokenizer },
    { "tokenizer_config.json", write_tokenizer_config },
};

static enum status write_small_files(const struct folder *f, const struct synth_job *job)
{
    enum status s = write_config(f, job);

    for (size_t i = 0; s == STATUS_OK && i < sizeof(small_files) / sizeof(small_files[0]); i++)
        s = folder_file(f, small_files[i].name, small_files[i].write, job);
    return s;
}

/* The folder. -------------------------------------------------------------------------------- */

static enum status make_views(struct synth_job *job)
{
    job->count = (size_t)synth_tensor_count(&job->cfg);
    job->views = calloc(job->count, sizeof(*job->views));
    job->names = calloc(job->count, sizeof(*job->names));
    if (job->views == NULL || job->names == NULL)
        return log_fail(STATUS_NOMEM, "no memory for a list of %zu tensors", job->count);
    for (size_t i = 0; i < job->count; i++) {
        synth_tensor_at(&job->cfg, i, job->names[i], &job->views[i]);
        job->total_bytes += job->views[i].bytes;
    }
    return STATUS_OK;
}

static void free_job(struct synth_job *job)
{
    free(job->views);
    free(job->names);
}

static enum status write_folder(struct synth_job *job, const char *dir, uint64_t shard_bytes)
{
    const struct folder_tensors tensors = { .views = job->views, .count = job->count,
        .shard_bytes = shard_bytes, .fill = fill_tensor, .context = job };
    char advice[256];
    struct folder f;
    enum status s;

    snprintf(advice, sizeof(advice), "use another disk, or -m synth:%.128s, which makes the "
             "weights in memory", job->like);
    s = folder_begin(&f, dir, job->total_bytes, advice);
    if (s != STATUS_OK)
        return s;
    s = write_small_files(&f, job);
    if (s == STATUS_OK)
        s = folder_weights(&f, &tensors);
    return folder_finish(&f, s);
}

enum status synth_write_sharded(const char *like, uint64_t seed, const char *dir,
                                uint64_t shard_bytes)
{
    struct synth_job job = { .like = like, .seed = seed };
    enum status s = synth_config(like, &job.cfg);

    if (s == STATUS_OK)
        s = folder_check(dir);
    if (s == STATUS_OK)
        s = make_views(&job);
    if (s == STATUS_OK)
        s = write_folder(&job, dir, shard_bytes);
    free_job(&job);
    return s;
}

enum status synth_write(const char *like, uint64_t seed, const char *dir)
{
    return synth_write_sharded(like, seed, dir, FOLDER_SHARD_BYTES);
}
