/* checkpoint.c - which files, and one sorted table over all of them.
 *
 * Two steps: name the files, then open and merge them. An index only adds checks: after merging,
 * every tensor it maps must lie where it says, and every tensor found must be mapped. Its
 * total_size is advisory and is not looked at. */
#include "checkpoint/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "checkpoint/config_json.h"
#include "quern/log.h"

#define INDEX_NAME "model.safetensors.index.json"

enum { INDEX_BYTES_MAX = 100000000, FILES_MAX = 4096, OTHER_DESCRIPTORS = 128 };

struct checkpoint {
    char *dir;
    char **names;             /* [n_names]: the files' names, sorted, each once */
    size_t n_names;
    struct safetensors **files; /* [n_names], NULL until opened */
    const struct tensor_view **tensors; /* [n_tensors], sorted by name */
    size_t n_tensors;
};

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum status add_name(struct checkpoint *c, const char *name)
{
    char **larger = realloc(c->names, (c->n_names + 1) * sizeof(*larger));
    char *copy = strdup(name);

    if (larger != NULL)
        c->names = larger;
    if (larger == NULL || copy == NULL) {
        free(copy);
        return log_fail(STATUS_NOMEM, "%s: no memory for its list of files", c->dir);
    }
    c->names[c->n_names++] = copy;
    return STATUS_OK;
}

static bool has_name(const struct checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->n_names; i++)
        if (strcmp(c->names[i], name) == 0)
            return true;
    return false;
}

/* A shard's name stays within the directory. */
static bool plain_file_name(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strstr(name, "..") == NULL;
}

static enum status names_from_index(struct checkpoint *c, const json_t *map)
{
    const char *tensor, *last = "";
    json_t *value;

    json_object_foreach((json_t *)map, tensor, value) {
        const char *name = json_string_value(value);
        enum status s;

        if (name == NULL || !plain_file_name(name))
            return log_fail(STATUS_INVALID, "%s: tensor %s is mapped to %s, which is not the "
                            "name of a file in the same directory", INDEX_NAME, tensor,
                            name != NULL ? name : "something that is not a string");
        if (strcmp(name, last) == 0 || has_name(c, name))
            continue;
        if (c->n_names == FILES_MAX)
            return log_fail(STATUS_INVALID, "%s: more than %d files", INDEX_NAME, FILES_MAX);
        s = add_name(c, name);
        if (s != STATUS_OK)
            return s;
        last = name;
    }
    return STATUS_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n > m && strcmp(text + n - m, end) == 0;
}

static enum status names_from_folder(struct checkpoint *c)
{
    DIR *dir = opendir(c->dir);
    struct dirent *entry;
    enum status s = STATUS_OK;

    if (dir == NULL)
        return log_fail(STATUS_IO, "%s: %s", c->dir, strerror(errno));
    while (s == STATUS_OK && (entry = readdir(dir)) != NULL)
        if (ends_with(entry->d_name, ".safetensors"))
            s = add_name(c, entry->d_name);
    closedir(dir);
    if (s != STATUS_OK)
        return s;
    for (size_t i = 0; c->n_names > 1 && i < c->n_names; i++)
        if (strcmp(c->names[i], "consolidated.safetensors") == 0) {
            free(c->names[i]);
            c->names[i--] = c->names[--c->n_names];
        }
    if (c->n_names == 0)
        return log_fail(STATUS_INVALID, "%s: no model.safetensors, no %s and no other "
                        "*.safetensors in it", c->dir, INDEX_NAME);
    return STATUS_OK;
}

static bool exists(const struct checkpoint *c, const char *name)
{
    char path[PATH_MAX];

    return path_join(path, sizeof(path), c->dir, name) == STATUS_OK && access(path, F_OK) == 0;
}

/* *index is set where there is one, for the caller to release, also on failure. */
static enum status choose_files(struct checkpoint *c, json_t **index)
{
    char path[PATH_MAX];
    const json_t *map;
    enum status s;

    if (exists(c, "model.safetensors"))
        return add_name(c, "model.safetensors");
    if (!exists(c, INDEX_NAME))
        return names_from_folder(c);
    s = path_join(path, sizeof(path), c->dir, INDEX_NAME);
    if (s == STATUS_OK)
        s = json_read_file(path, INDEX_BYTES_MAX, index);
    if (s != STATUS_OK)
        return s;
    map = json_object_get(*index, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        return log_fail(STATUS_INVALID, "%s: weight_map is missing, empty or not an object",
                        INDEX_NAME);
    return names_from_index(c, map);
}

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

    c->files = calloc(c->n_names, sizeof(*c->files));
    if (c->files == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for %zu files", c->dir, c->n_names);
    qsort(c->names, c->n_names, sizeof(*c->names), by_string);
    make_room_for_descriptors(c->n_names);
    for (size_t i = 0; s == STATUS_OK && i < c->n_names; i++) {
        s = path_join(path, sizeof(path), c->dir, c->names[i]);
        if (s == STATUS_OK)
            s = safetensors_open(path, &c->files[i]);
        if (s == STATUS_OK)
            c->n_tensors += safetensors_count(c->files[i]);
    }
    return s;
}

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp((*(const struct tensor_view *const *)a)->name,
                  (*(const struct tensor_view *const *)b)->name);
}

static enum status merge_tensors(struct checkpoint *c)
{
    size_t n = 0;

    c->tensors = calloc(c->n_tensors + 1, sizeof(*c->tensors));
    if (c->tensors == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for %zu tensors", c->dir, c->n_tensors);
    for (size_t f = 0; f < c->n_names; f++)
        for (size_t i = 0; i < safetensors_count(c->files[f]); i++)
            c->tensors[n++] = safetensors_at(c->files[f], i);
    qsort(c->tensors, n, sizeof(*c->tensors), by_tensor_name);
    for (size_t i = 1; i < n; i++)
        if (by_tensor_name(&c->tensors[i - 1], &c->tensors[i]) == 0)
            return log_fail(STATUS_INVALID, "%s: tensor %s is in both %s and %s", c->dir,
                            c->tensors[i]->name, safetensors_name(c->tensors[i - 1]->in),
                            safetensors_name(c->tensors[i]->in));
    return STATUS_OK;
}

static int name_against_view(const void *name, const void *view)
{
    return strcmp(name, (*(const struct tensor_view *const *)view)->name);
}

const struct tensor_view *checkpoint_find(const struct checkpoint *c, const char *name)
{
    const struct tensor_view **found = bsearch(name, c->tensors, c->n_tensors,
                                               sizeof(*c->tensors), name_against_view);

    return found != NULL ? *found : NULL;
}

static enum status check_index(const struct checkpoint *c, const json_t *map)
{
    const char *tensor;
    json_t *value;

    json_object_foreach((json_t *)map, tensor, value) {
        const struct tensor_view *view = checkpoint_find(c, tensor);
        const char *file = json_string_value(value);

        if (view == NULL || strcmp(safetensors_name(view->in), file) != 0)
            return log_fail(STATUS_INVALID, "%s: tensor %s is mapped to %s, which does not have "
                            "it", INDEX_NAME, tensor, file);
    }
    for (size_t i = 0; i < c->n_tensors; i++)
        if (json_object_get(map, c->tensors[i]->name) == NULL)
            return log_fail(STATUS_INVALID, "%s: tensor %s of %s is not mapped", INDEX_NAME,
                            c->tensors[i]->name, safetensors_name(c->tensors[i]->in));
    return STATUS_OK;
}

enum status checkpoint_open(const char *dir, struct checkpoint **out)
{
    struct checkpoint *c = calloc(1, sizeof(*c));
    json_t *index = NULL;
    enum status s = STATUS_OK;

    if (c == NULL || (c->dir = strdup(dir)) == NULL)
        s = log_fail(STATUS_NOMEM, "%s: no memory", dir);
    if (s == STATUS_OK)
        s = choose_files(c, &index);
    if (s == STATUS_OK)
        s = open_files(c);
    if (s == STATUS_OK)
        s = merge_tensors(c);
    if (s == STATUS_OK && index != NULL)
        s = check_index(c, json_object_get(index, "weight_map"));
    json_decref(index);
    if (s == STATUS_OK)
        *out = c;
    else
        checkpoint_close(c);
    return s;
}

void checkpoint_close(struct checkpoint *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->n_names; i++) {
        free(c->names[i]);
        if (c->files != NULL)
            safetensors_close(c->files[i]);
    }
    free(c->names);
    free(c->files);
    free(c->tensors);
    free(c->dir);
    free(c);
}

size_t checkpoint_count(const struct checkpoint *c)
{
    return c->n_tensors;
}

const struct tensor_view *checkpoint_at(const struct checkpoint *c, size_t i)
{
    return c->tensors[i];
}

const char *checkpoint_dir(const struct checkpoint *c)
{
    return c->dir;
}
