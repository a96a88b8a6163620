/* checkpoint.c - the files opened, and one sorted table over all of their tensors.
 *
 * As in Transformers, what the files have counts and not what the index says of it: an index names
 * the files, and explains later why a tensor that is needed is not there. Names get the one
 * spelling that Qwen3ForCausalLM has, whatever class saved them. */
#include "checkpoint/checkpoint.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "checkpoint/checkpoint_files.h"
#include "checkpoint/config_json.h"
#include "quern/log.h"

enum { OTHER_DESCRIPTORS = 128 };

#define MODEL "model."

struct placed {
    struct tensor_view view;         /* first: by_tensor_name(), checkpoint_other() */
    const struct safetensors *other; /* has another tensor of this name; NULL: none does */
};

struct checkpoint {
    char *dir;
    struct file_list list;
    struct safetensors **files; /* [list.count], NULL until opened */
    struct placed *tensors;     /* [n_tensors], sorted by name */
    size_t n_tensors;
    char *renamed;              /* names that got MODEL in front */
};

/* A file is held by a descriptor, and the usual soft limit of 1024 is not for checkpoints. Where the
 * hard one is no higher, opening tells. */
static void make_room_for_descriptors(size_t files)
{
    rlim_t want = files + OTHER_DESCRIPTORS;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = want < limit.rlim_max ? want : limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static enum status open_files(struct checkpoint *c)
{
    char path[PATH_MAX];
    enum status s = STATUS_OK;

    c->files = calloc(c->list.count, sizeof(*c->files));
    if (c->files == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for %zu files", c->dir, c->list.count);
    make_room_for_descriptors(c->list.count);
    for (size_t i = 0; s == STATUS_OK && i < c->list.count; i++) {
        s = path_join(path, sizeof(path), c->dir, c->list.names[i]);
        if (s == STATUS_OK)
            s = safetensors_open(path, &c->files[i]);
        if (s == STATUS_OK)
            c->n_tensors += safetensors_count(c->files[i]);
    }
    return s;
}

/* Names ------------------------------------------------------------------------------------------ */

static bool begins_with(const char *text, const char *begin)
{
    return strncmp(text, begin, strlen(begin)) == 0;
}

/* As a bare Qwen3Model saves them. */
static bool lacks_model(const char *name)
{
    return begins_with(name, "embed_tokens.") || begins_with(name, "layers.") ||
           begins_with(name, "norm.");
}

static bool has_model_twice(const char *name)
{
    return begins_with(name, MODEL MODEL) || begins_with(name, MODEL "lm_head.");
}

static enum status rename_tensors(struct checkpoint *c)
{
    size_t bytes = 0;
    char *to;

    for (size_t i = 0; i < c->n_tensors; i++)
        bytes += strlen(c->tensors[i].view.name) + sizeof(MODEL);
    to = c->renamed = malloc(bytes + 1);
    if (to == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for the names of its tensors", c->dir);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const char **name = &c->tensors[i].view.name;

        if (has_model_twice(*name)) {
            *name += strlen(MODEL);
        } else if (lacks_model(*name)) {
            char *end = stpcpy(stpcpy(to, MODEL), *name) + 1;

            *name = to;
            to = end;
        }
    }
    return STATUS_OK;
}

/* Merging ---------------------------------------------------------------------------------------- */

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor_view *)a)->name, ((const struct tensor_view *)b)->name);
}

/* Two files have it: equal ones are one; of different ones none is right, and whoever needs it is
 * told. Without an index there is no reason to have it twice. */
static enum status settle_double(struct checkpoint *c, struct placed *kept,
                                 const struct placed *other)
{
    bool same = false;
    enum status s;

    if (c->list.map == NULL)
        return log_fail(STATUS_INVALID, "%s: tensor %s is in both %s and %s: remove the file that "
                        "is not the model's", c->dir, kept->view.name,
                        safetensors_name(kept->view.in), safetensors_name(other->view.in));
    s = tensor_same(&kept->view, &other->view, &same);
    if (!same)
        kept->other = other->view.in;
    return s;
}

static enum status settle_doubles(struct checkpoint *c)
{
    size_t kept = 0;
    enum status s = STATUS_OK;

    for (size_t i = 1; s == STATUS_OK && i < c->n_tensors; i++)
        if (by_tensor_name(&c->tensors[kept], &c->tensors[i]) == 0)
            s = settle_double(c, &c->tensors[kept], &c->tensors[i]);
        else
            c->tensors[++kept] = c->tensors[i];
    if (c->n_tensors > 0)
        c->n_tensors = kept + 1;
    return s;
}

static enum status merge_tensors(struct checkpoint *c)
{
    size_t n = 0;
    enum status s;

    c->tensors = calloc(c->n_tensors + 1, sizeof(*c->tensors));
    if (c->tensors == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for %zu tensors", c->dir, c->n_tensors);
    for (size_t f = 0; f < c->list.count; f++)
        for (size_t i = 0; i < safetensors_count(c->files[f]); i++)
            c->tensors[n++].view = *safetensors_at(c->files[f], i);
    s = rename_tensors(c);
    if (s != STATUS_OK)
        return s;
    qsort(c->tensors, n, sizeof(*c->tensors), by_tensor_name);
    return settle_doubles(c);
}

static void warn_of_adapter(const struct checkpoint *c)
{
    char path[PATH_MAX];

    if (path_join(path, sizeof(path), c->dir, "adapter_config.json") == STATUS_OK &&
        access(path, F_OK) == 0)
        log_warn("%s: a LoRA adapter lies beside the weights and is not applied: merge it, or "
                 "remove it where it is merged", path);
}

enum status checkpoint_open(const char *dir, struct checkpoint **out)
{
    struct checkpoint *c = calloc(1, sizeof(*c));
    enum status s = STATUS_OK;

    if (c == NULL || (c->dir = strdup(dir)) == NULL)
        s = log_fail(STATUS_NOMEM, "%s: no memory", dir);
    if (s == STATUS_OK)
        s = file_list_choose(dir, &c->list);
    if (s == STATUS_OK)
        s = open_files(c);
    if (s == STATUS_OK)
        s = merge_tensors(c);
    if (s != STATUS_OK) {
        checkpoint_close(c);
        return s;
    }
    warn_of_adapter(c);
    *out = c;
    return STATUS_OK;
}

void checkpoint_close(struct checkpoint *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; c->files != NULL && i < c->list.count; i++)
        safetensors_close(c->files[i]);
    file_list_free(&c->list);
    free(c->files);
    free(c->tensors);
    free(c->renamed);
    free(c->dir);
    free(c);
}

/* Asking ----------------------------------------------------------------------------------------- */

const struct tensor_view *checkpoint_find(const struct checkpoint *c, const char *name)
{
    const struct tensor_view key = { .name = name };

    return bsearch(&key, c->tensors, c->n_tensors, sizeof(*c->tensors), by_tensor_name);
}

const char *checkpoint_other(const struct checkpoint *c, const struct tensor_view *view)
{
    const struct safetensors *other = ((const struct placed *)view)->other;

    (void)c;
    return other != NULL ? safetensors_name(other) : NULL;
}

size_t checkpoint_count(const struct checkpoint *c)
{
    return c->n_tensors;
}

const struct tensor_view *checkpoint_at(const struct checkpoint *c, size_t i)
{
    return &c->tensors[i].view;
}

const char *checkpoint_dir(const struct checkpoint *c)
{
    return c->dir;
}

/* The file that the index puts a tensor into, in whichever spelling; NULL: it does not name it. */
static const char *mapped_file(const struct checkpoint *c, const char *name)
{
    const char *file = json_string_value(json_object_get(c->list.map, name));
    char longer[512];

    if (file == NULL && begins_with(name, MODEL))
        file = json_string_value(json_object_get(c->list.map, name + strlen(MODEL)));
    if (file == NULL && snprintf(longer, sizeof(longer), MODEL "%s", name) < (int)sizeof(longer))
        file = json_string_value(json_object_get(c->list.map, longer));
    return file;
}

/* "X.weight" as a quantised layout has it. */
static const struct tensor_view *quantised_form(const struct checkpoint *c, const char *name)
{
    static const char *const forms[] = { "qweight", "weight_packed" };
    size_t n = strlen(name), m = strlen("weight");
    const struct tensor_view *found = NULL;
    char other[512];

    if (n < m || strcmp(name + n - m, "weight") != 0)
        return NULL;
    for (size_t i = 0; found == NULL && i < sizeof(forms) / sizeof(forms[0]); i++)
        if (snprintf(other, sizeof(other), "%.*s%s", (int)(n - m), name, forms[i]) <
            (int)sizeof(other))
            found = checkpoint_find(c, other);
    return found;
}

/* A tensor whose name has only something in front. */
static const struct tensor_view *longer_name(const struct checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->n_tensors; i++) {
        const char *longer = c->tensors[i].view.name;
        size_t n = strlen(longer), m = strlen(name);

        if (n > m && longer[n - m - 1] == '.' && strcmp(longer + n - m, name) == 0)
            return &c->tensors[i].view;
    }
    return NULL;
}

void checkpoint_explain(const struct checkpoint *c, const char *name, char *out, size_t n)
{
    const char *file = mapped_file(c, name), *end = name;
    const struct tensor_view *found;

    out[0] = '\0';
    if ((found = quantised_form(c, name)) != NULL)
        snprintf(out, n, ": it is quantised, %s, and config.json does not say how", found->name);
    else if ((found = longer_name(c, name)) != NULL ||
             (begins_with(name, MODEL) && (found = longer_name(c, end += strlen(MODEL))) != NULL))
        snprintf(out, n, ": it is there as %s: save the tensors without %.*s in front", found->name,
                 (int)(strlen(found->name) - strlen(end)), found->name);
    else if (file != NULL)
        snprintf(out, n, ": the index puts it into %s, which does not have it: download that file "
                 "again", file);
    else if (strcmp(name, "lm_head.weight") == 0)
        snprintf(out, n, ": where the embedding is the head, too, as in Qwen3-0.6B, 1.7B and 4B, "
                 "write \"tie_word_embeddings\": true into config.json; an embedding model has "
                 "none and is no language model");
}
