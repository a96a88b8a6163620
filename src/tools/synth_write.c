/* synth_write.c - the tensors of synth.h, file by file, then the small files around them.
 *
 * Tensors are dealt to shards in the model's order; within a file they stand in the order of
 * other writers. Values are made into one buffer and written from there, so a 32B model takes no
 * more memory than a small one. */
#include "tools/synth_write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <jansson.h>

#include "checkpoint/config_json.h"
#include "checkpoint/safetensors_header.h"
#include "checkpoint/synth.h"
#include "checkpoint/synth_tokenizer.h"
#include "quern/log.h"

enum { CHUNK_BYTES = 4 << 20, FILE_NAME_BYTES = 64 };

static const uint64_t default_shard_bytes = 5000000000u;

struct synth_job {
    const char *like;
    struct model_config cfg;
    uint64_t seed, shard_bytes, total_bytes;
    struct tensor_view *views; /* [count], in the model's order until a shard is laid out */
    char (*names)[SYNTH_NAME_BYTES];
    size_t count;
    int shards;
    char *chunk; /* [CHUNK_BYTES] */
    json_t *map; /* tensor -> file */
    char folder[PATH_MAX];
};

static enum status fail_write(const char *path)
{
    return log_fail(STATUS_IO, "%s: cannot write: %s", path, strerror(errno));
}

static enum status write_all(int fd, const char *path, const char *data, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, data, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return fail_write(path);
        data += done;
        n -= (size_t)done;
    }
    return STATUS_OK;
}

static enum status write_tensor(const struct synth_job *job, int fd, const char *path,
                                const struct tensor_view *view)
{
    size_t size = file_dtype_bits(view->dtype) / 8;
    uint64_t n = view->bytes / size, step = CHUNK_BYTES / size;
    enum status s = STATUS_OK;

    for (uint64_t first = 0; s == STATUS_OK && first < n; first += step) {
        uint64_t take = n - first < step ? n - first : step;

        synth_fill(job->seed, view, first, take, job->chunk);
        s = write_all(fd, path, job->chunk, take * size);
    }
    return s;
}

static enum status write_tensors(const struct synth_job *job, const char *path,
                                 struct tensor_view *views, size_t count)
{
    char *header;
    size_t header_bytes;
    int fd;
    enum status s = safetensors_layout(views, count, &header, &header_bytes);

    if (s != STATUS_OK)
        return s;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        s = fail_write(path);
        goto err_header;
    }
    s = write_all(fd, path, header, header_bytes);
    for (size_t i = 0; s == STATUS_OK && i < count; i++)
        s = write_tensor(job, fd, path, &views[i]);
    if (close(fd) != 0 && s == STATUS_OK)
        s = fail_write(path);

err_header:
    free(header);
    return s;
}

/* How many tensors from `first` on share a file; at least one. */
static size_t shard_length(const struct synth_job *job, size_t first)
{
    uint64_t bytes = 0;
    size_t n = 0;

    while (first + n < job->count &&
           (n == 0 || bytes + job->views[first + n].bytes <= job->shard_bytes))
        bytes += job->views[first + n++].bytes;
    return n;
}

static void count_shards(struct synth_job *job)
{
    for (size_t first = 0; first < job->count; first += shard_length(job, first))
        job->shards++;
}

static enum status write_shard(struct synth_job *job, int shard, size_t first, size_t n)
{
    char name[FILE_NAME_BYTES], path[PATH_MAX];
    enum status s;

    if (job->shards == 1)
        snprintf(name, sizeof(name), "model.safetensors");
    else
        snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", shard + 1, job->shards);
    for (size_t i = 0; i < n; i++)
        if (json_object_set_new(job->map, job->views[first + i].name, json_string(name)) != 0)
            return log_fail(STATUS_NOMEM, "no memory for an index of %zu tensors", job->count);
    s = path_join(path, sizeof(path), job->folder, name);
    return s == STATUS_OK ? write_tensors(job, path, job->views + first, n) : s;
}

static enum status write_index(const struct synth_job *job)
{
    char path[PATH_MAX];
    json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
                              (json_int_t)job->total_bytes, "weight_map", job->map);
    enum status s = path_join(path, sizeof(path), job->folder, "model.safetensors.index.json");

    if (s == STATUS_OK && (index == NULL || json_dump_file(index, path, JSON_INDENT(2)) != 0))
        s = fail_write(path);
    json_decref(index);
    return s;
}

static enum status write_weights(struct synth_job *job)
{
    enum status s = STATUS_OK;
    int shard = 0;

    count_shards(job);
    for (size_t first = 0, n; s == STATUS_OK && first < job->count; first += n) {
        n = shard_length(job, first);
        s = write_shard(job, shard++, first, n);
    }
    return s == STATUS_OK && job->shards > 1 ? write_index(job) : s;
}

/* The small files. --------------------------------------------------------------------------- */

static enum status print_preset(const struct model_config *c, FILE *out)
{
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
static enum status copy_file(const char *path, FILE *out)
{
    FILE *in = fopen(path, "re");
    char block[4096];
    size_t n;

    if (in == NULL)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    while ((n = fread(block, 1, sizeof(block), in)) > 0)
        fwrite(block, 1, n, out);
    fclose(in);
    return STATUS_OK;
}

static enum status write_config(const struct synth_job *job, FILE *out)
{
    const char *name = synth_is(job->like) ? job->like + 6 : job->like;
    size_t n = strlen(name);

    if (n > 5 && strcmp(name + n - 5, ".json") == 0)
        return copy_file(name, out);
    return print_preset(&job->cfg, out);
}

static enum status write_generation(const struct synth_job *job, FILE *out)
{
    fprintf(out, "{\n  \"bos_token_id\": %d,\n  \"do_sample\": false,\n  \"eos_token_id\": [",
            job->cfg.bos);
    for (int i = 0; i < job->cfg.n_eos; i++)
        fprintf(out, "%s%d", i > 0 ? ", " : "", job->cfg.eos[i]);
    fputs("]\n}\n", out);
    return STATUS_OK;
}

static enum status write_tokenizer(const struct synth_job *job, FILE *out)
{
    return synth_tokenizer_write(&job->cfg, out);
}

static enum status write_tokenizer_config(const struct synth_job *job, FILE *out)
{
    return synth_tokenizer_config_write(&job->cfg, out);
}

static const struct {
    const char *name;
    enum status (*write)(const struct synth_job *job, FILE *out);
} small_files[] = {
    { "config.json", write_config },
    { "generation_config.json", write_generation },
    { "tokenizer.json", write_tokenizer },
    { "tokenizer_config.json", write_tokenizer_config },
};

static enum status write_small_file(const struct synth_job *job, size_t i)
{
    char path[PATH_MAX];
    bool failed;
    FILE *out;
    enum status s = path_join(path, sizeof(path), job->folder, small_files[i].name);

    if (s != STATUS_OK)
        return s;
    out = fopen(path, "wxe");
    if (out == NULL)
        return fail_write(path);
    s = small_files[i].write(job, out);
    failed = ferror(out) != 0;
    if ((fclose(out) != 0 || failed) && (s == STATUS_OK || s == STATUS_IO))
        return fail_write(path);
    return s;
}

static enum status write_small_files(const struct synth_job *job)
{
    enum status s = STATUS_OK;

    for (size_t i = 0; s == STATUS_OK && i < sizeof(small_files) / sizeof(small_files[0]); i++)
        s = write_small_file(job, i);
    return s;
}

/* The folder. -------------------------------------------------------------------------------- */

static enum status check_target(const char *dir)
{
    DIR *open_dir = opendir(dir);
    struct dirent *entry;
    bool empty = true;

    if (open_dir == NULL && errno == ENOENT)
        return STATUS_OK;
    if (open_dir == NULL)
        return log_fail(STATUS_INVALID, "%s: %s", dir, strerror(errno));
    while ((entry = readdir(open_dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            empty = false;
    closedir(open_dir);
    if (!empty)
        return log_fail(STATUS_INVALID, "%s exists and is not empty: give a new directory", dir);
    return STATUS_OK;
}

static enum status check_room(const struct synth_job *job)
{
    struct statvfs disk;
    uint64_t room;

    if (statvfs(job->folder, &disk) != 0)
        return STATUS_OK; /* not known: writing will tell */
    room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (room < job->total_bytes)
        return log_fail(STATUS_IO, "%s needs %" PRIu64 " bytes, its disk has %" PRIu64 " free: "
                        "use another disk, or -m synth:%s, which makes the weights in memory",
                        job->folder, job->total_bytes, room, job->like);
    return STATUS_OK;
}

/* It holds files of ours only. */
static void remove_folder(const char *folder)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *dir = opendir(folder);

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' &&
            path_join(path, sizeof(path), folder, entry->d_name) == STATUS_OK)
            unlink(path);
    if (dir != NULL)
        closedir(dir);
    rmdir(folder);
}

static enum status make_views(struct synth_job *job)
{
    job->count = (size_t)synth_tensor_count(&job->cfg);
    job->views = calloc(job->count, sizeof(*job->views));
    job->names = calloc(job->count, sizeof(*job->names));
    job->chunk = malloc(CHUNK_BYTES);
    job->map = json_object();
    if (job->views == NULL || job->names == NULL || job->chunk == NULL || job->map == NULL)
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
    free(job->chunk);
    json_decref(job->map);
}

static enum status write_folder(struct synth_job *job, const char *dir)
{
    enum status s;

    if (mkdir(job->folder, 0777) != 0)
        return log_fail(STATUS_IO, "%s: cannot make the directory: %s", job->folder,
                        strerror(errno));
    s = check_room(job);
    if (s == STATUS_OK)
        s = write_small_files(job);
    if (s == STATUS_OK)
        s = write_weights(job);
    if (s == STATUS_OK && rename(job->folder, dir) != 0)
        s = fail_write(dir);
    if (s != STATUS_OK)
        remove_folder(job->folder);
    return s;
}

enum status synth_write_sharded(const char *like, uint64_t seed, const char *dir,
                                uint64_t shard_bytes)
{
    struct synth_job job = { .like = like, .seed = seed, .shard_bytes = shard_bytes };
    int n = (int)strlen(dir);
    enum status s;

    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (n == 0 || n > PATH_MAX - 64)
        return log_fail(STATUS_INVALID, "the directory to write has no name, or too long a one");
    snprintf(job.folder, sizeof(job.folder), "%.*s.tmp-%ld", n, dir, (long)getpid());
    s = synth_config(like, &job.cfg);
    if (s == STATUS_OK)
        s = check_target(dir);
    if (s == STATUS_OK)
        s = make_views(&job);
    if (s == STATUS_OK)
        s = write_folder(&job, dir);
    free_job(&job);
    return s;
}

enum status synth_write(const char *like, uint64_t seed, const char *dir)
{
    return synth_write_sharded(like, seed, dir, default_shard_bytes);
}
