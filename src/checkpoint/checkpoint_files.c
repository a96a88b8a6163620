/* checkpoint_files.c - names first, so that what is missing is told before anything is opened.
 *
 * The order is Transformers', which looks no further than model.safetensors. Files without an index
 * it does not load at all; where they are whole there is only one way to read them. */
#include "checkpoint/checkpoint_files.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/config_json.h"
#include "checkpoint/folder_hint.h"
#include "quern/log.h"

#define INDEX_NAME "model.safetensors.index.json"

enum { INDEX_BYTES_MAX = 100000000, FILES_MAX = 4096 };

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_names(struct file_list *list)
{
    if (list->count > 0)
        qsort(list->names, list->count, sizeof(*list->names), by_string);
}

static enum status add_name(struct file_list *list, const char *name)
{
    char **larger, *copy;

    if (list->count == FILES_MAX)
        return log_fail(STATUS_INVALID, "more than %d files of weights", FILES_MAX);
    larger = realloc(list->names, (list->count + 1) * sizeof(*larger));
    copy = strdup(name);
    if (larger != NULL)
        list->names = larger;
    if (larger == NULL || copy == NULL) {
        free(copy);
        return log_fail(STATUS_NOMEM, "no memory for a list of files");
    }
    list->names[list->count++] = copy;
    return STATUS_OK;
}

static bool has_name(const struct file_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->names[i], name) == 0)
            return true;
    return false;
}

static void drop_name(struct file_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->names[i], name) == 0) {
            free(list->names[i]);
            list->names[i--] = list->names[--list->count];
        }
}

/* Also a link that leads nowhere: opening it tells where to. */
static bool is_there(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct stat info;

    return path_join(path, sizeof(path), dir, name) == STATUS_OK && lstat(path, &info) == 0;
}

/* A shard's name stays within the directory. */
static bool plain_file_name(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static enum status names_from_index(struct file_list *list)
{
    const char *tensor, *last = "";
    json_t *value;

    json_object_foreach(list->map, tensor, value) {
        const char *name = json_string_value(value);
        enum status s;

        if (name == NULL || !plain_file_name(name))
            return log_fail(STATUS_INVALID, "%s: tensor %s is mapped to %s, which is not the "
                            "name of a file in the same directory", INDEX_NAME, tensor,
                            name != NULL ? name : "something that is not a string");
        if (strcmp(name, last) == 0 || has_name(list, name))
            continue;
        s = add_name(list, name);
        if (s != STATUS_OK)
            return s;
        last = name;
    }
    return STATUS_OK;
}

/* Names the first file that is not there, `why` it should be, and how many there are. */
static enum status check_all_there(const char *dir, const struct file_list *list, const char *why)
{
    size_t missing = 0, first = 0;
    char more[32] = "";

    for (size_t i = list->count; i-- > 0;)
        if (!is_there(dir, list->names[i])) {
            first = i;
            missing++;
        }
    if (missing == 0)
        return STATUS_OK;
    if (missing > 1)
        snprintf(more, sizeof(more), " and %zu more", missing - 1);
    return log_fail(STATUS_IO, "%s/%s%s is missing, %s: download the model again", dir,
                    list->names[first], more, why);
}

static enum status list_from_index(const char *dir, const char *path, struct file_list *list)
{
    json_t *index, *map;
    enum status s = json_read_file(path, INDEX_BYTES_MAX, &index);

    if (s != STATUS_OK)
        return s;
    map = json_object_get(index, "weight_map");
    if (json_is_object(map) && json_object_size(map) > 0)
        list->map = json_incref(map);
    json_decref(index);
    if (list->map == NULL)
        return log_fail(STATUS_INVALID, "%s: weight_map is missing, empty or not an object",
                        INDEX_NAME);
    s = names_from_index(list);
    sort_names(list);
    return s == STATUS_OK ? check_all_there(dir, list, "which " INDEX_NAME " names") : s;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n > m && strcmp(text + n - m, end) == 0;
}

static enum status every_safetensors(const char *dir, struct file_list *list)
{
    DIR *open_dir = opendir(dir);
    struct dirent *entry;
    enum status s = STATUS_OK;

    if (open_dir == NULL)
        return log_fail(STATUS_IO, "%s: %s", dir, strerror(errno));
    while (s == STATUS_OK && (entry = readdir(open_dir)) != NULL)
        if (ends_with(entry->d_name, ".safetensors") &&
            strcmp(entry->d_name, "adapter_model.safetensors") != 0)
            s = add_name(list, entry->d_name);
    closedir(open_dir);
    return s;
}

/* "model-00002-of-00004.safetensors" promises four. */
static enum status check_numbered(const char *dir, const char *name)
{
    const char *dash = strstr(name, "-of-");
    struct file_list promised = { 0 };
    int shard, shards = 0, used = 0;
    enum status s = STATUS_OK;

    if (dash == NULL || dash - name < 6 ||
        sscanf(dash - 5, "%5d-of-%5d.safetensors%n", &shard, &shards, &used) != 2 || used == 0)
        return STATUS_OK;
    for (int i = 1; s == STATUS_OK && i <= shards && i <= FILES_MAX; i++) {
        char path[NAME_MAX + 16];

        snprintf(path, sizeof(path), "%.*s%05d-of-%05d.safetensors", (int)(dash - name - 5), name,
                 i, shards);
        s = add_name(&promised, path);
    }
    if (s == STATUS_OK)
        s = check_all_there(dir, &promised, "which the others' names promise");
    file_list_free(&promised);
    return s;
}

static enum status list_from_folder(const char *dir, struct file_list *list)
{
    char hint[FOLDER_HINT_BYTES];
    enum status s = every_safetensors(dir, list);

    if (s == STATUS_OK && list->count == 0)
        return log_fail(STATUS_INVALID, "%s has no model.safetensors, no %s and no other "
                        "*.safetensors%s", dir, INDEX_NAME, folder_hint(dir, hint, sizeof(hint)));
    if (list->count > 1)
        drop_name(list, "consolidated.safetensors");
    sort_names(list);
    for (size_t i = 0; s == STATUS_OK && i < list->count; i++)
        s = check_numbered(dir, list->names[i]);
    return s;
}

static enum status choose(const char *dir, struct file_list *list)
{
    char path[PATH_MAX];
    enum status s = path_join(path, sizeof(path), dir, INDEX_NAME);

    if (s != STATUS_OK)
        return s;
    if (is_there(dir, "model.safetensors"))
        return add_name(list, "model.safetensors");
    return is_there(dir, INDEX_NAME) ? list_from_index(dir, path, list)
                                     : list_from_folder(dir, list);
}

enum status file_list_choose(const char *dir, struct file_list *list)
{
    struct file_list found = { 0 };
    enum status s = choose(dir, &found);

    if (s == STATUS_OK)
        *list = found;
    else
        file_list_free(&found);
    return s;
}

void file_list_free(struct file_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->names[i]);
    free(list->names);
    json_decref(list->map);
    *list = (struct file_list){ 0 };
}
