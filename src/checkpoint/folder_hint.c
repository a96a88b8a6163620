/* folder_hint.c - the names of a directory against a table; the first row that any name fits tells.
 *
 * A row is how a name begins and ends, in any case, and what it gives away. The order is by how sure one can
 * be: an adapter's folder may have weights of its own, and a cache's any name. */
#include "checkpoint/folder_hint.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "checkpoint/config_json.h"

enum { ADAPTER_FILE_MAX = 1 << 20 };

struct hint {
    const char *begin, *end; /* of a name, in any case; end NULL: the whole name */
    const char *but;         /* not with this end, to the letter; NULL: whatever */
    const char *text;        /* %s: the name; NULL: adapter_hint() */
};

#define UNFINISHED "%s tells that the download did not finish: do it again"
#define PICKLED "it has pickled weights, %s: save them as safetensors, as Transformers' " \
                "save_pretrained() does, or get a repository that has these"
#define OTHERS "it has another program's weights, %s: get a repository with safetensors"

static const struct hint hints[] = {
    { "adapter_config.json", NULL, NULL, NULL },
    { "", ".gguf", NULL, "it has %s, as llama.cpp reads: quern reads safetensors, get the "
      "repository that it was made from" },
    { "", ".incomplete", NULL, UNFINISHED },
    { "", ".part", NULL, UNFINISHED },
    { "", ".crdownload", NULL, UNFINISHED },
    { "", ".aria2", NULL, UNFINISHED },
    { "config.json", NULL, "config.json", "it has %s: rename it to config.json, in small letters" },
    { "", ".safetensors", ".safetensors", "it has %s: rename it, in small letters" },
    { "zero_to_fp32.py", NULL, NULL, "it is a checkpoint of DeepSpeed's: make weights of it with "
      "its %s" },
    { "pytorch_model", ".bin", NULL, PICKLED },
    { "pytorch_model", ".pt", NULL, PICKLED },
    { "model", ".pt", NULL, PICKLED },
    { "model", ".pth", NULL, PICKLED },
    { "consolidated", ".pth", NULL, PICKLED },
    { "", ".distcp", NULL, "it is a distributed checkpoint, %s: merge it first (accelerate "
      "merge-weights)" },
    { "tf_model", ".h5", NULL, OTHERS },
    { "flax_model", ".msgpack", NULL, OTHERS },
    { "", ".onnx", NULL, OTHERS },
    { "snapshots", NULL, NULL, "it is a folder of Hugging Face's cache: name the model, "
      "OWNER/NAME, or one of the folders in %s" },
};

enum { HINTS = sizeof(hints) / sizeof(hints[0]) };

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n >= m && strcasecmp(name + n - m, end) == 0;
}

static bool fits(const struct hint *h, const char *name)
{
    size_t n = strlen(name), m = h->but != NULL ? strlen(h->but) : 0;

    if (h->but != NULL && n >= m && strcmp(name + n - m, h->but) == 0)
        return false;
    if (h->end == NULL)
        return strcasecmp(name, h->begin) == 0;
    return strncasecmp(name, h->begin, strlen(h->begin)) == 0 && ends_with(name, h->end);
}

/* "it is a LoRA adapter of Qwen/Qwen3-8B: ..." */
static void adapter_hint(const char *dir, char *out, size_t n)
{
    const char *base = NULL;
    char path[PATH_MAX];
    json_t *root = NULL;

    if (path_join(path, sizeof(path), dir, "adapter_config.json") == STATUS_OK &&
        json_read_optional(path, ADAPTER_FILE_MAX, &root) == STATUS_OK)
        base = json_string_value(json_object_get(root, "base_model_name_or_path"));
    snprintf(out, n, ": it is a LoRA adapter%s%.200s: merge it into its model (PEFT's "
             "merge_and_unload()) and save that", base != NULL ? " of " : "",
             base != NULL ? base : "");
    json_decref(root);
}

const char *folder_hint(const char *dir, char *out, size_t n)
{
    char name[HINTS][NAME_MAX + 1] = { "" };
    struct dirent *entry;
    DIR *open_dir = opendir(dir);

    out[0] = '\0';
    while (open_dir != NULL && (entry = readdir(open_dir)) != NULL)
        for (size_t i = 0; i < HINTS; i++)
            if (name[i][0] == '\0' && fits(&hints[i], entry->d_name))
                snprintf(name[i], sizeof(name[i]), "%s", entry->d_name);
    if (open_dir != NULL)
        closedir(open_dir);
    for (size_t i = 0; i < HINTS; i++)
        if (name[i][0] != '\0' && hints[i].text == NULL) {
            adapter_hint(dir, out, n);
            break;
        } else if (name[i][0] != '\0') {
            char text[FOLDER_HINT_BYTES];

            snprintf(text, sizeof(text), hints[i].text, name[i]);
            snprintf(out, n, ": %s", text);
            break;
        }
    return out;
}
