/* locate.c - candidates in order; the first that has the file needed is taken.
 *
 * Nothing is built in but the installed data directory, and that comes last, so a copy that was
 * moved finds its own files before those of an older installation. */
#include "checkpoint/locate.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "checkpoint/folder_hint.h"
#include "quern/log.h"

#define STORYTELLER "models/storyteller"

enum { REVISION_FILE_MAX = 4096 };

struct search {
    const char *file;  /* what a candidate must contain, */
    const char *other; /* or this */
    char found[PATH_MAX];
    char tried[LOG_LINE_BYTES / 2]; /* for the message; cut when it is full */
};

static bool is_directory(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* Whether it can be read, and a link leads anywhere, is told by reading it. */
static bool has_file(const char *folder, const char *file)
{
    char path[PATH_MAX];
    struct stat info;
    int n = snprintf(path, sizeof(path), "%.*s/%s", PATH_MAX - 32, folder, file);

    return n > 0 && (size_t)n < sizeof(path) && lstat(path, &info) == 0;
}

/* Whether "BEFORE/AFTER" (or BEFORE alone) has the file; remembers it either way. */
static bool try_path(struct search *s, const char *before, const char *after)
{
    size_t used = strlen(s->tried);
    int n = snprintf(s->found, sizeof(s->found), "%s%s%s", before, after[0] != '\0' ? "/" : "",
                     after);

    if (n < 0 || (size_t)n >= sizeof(s->found))
        return false;
    if (has_file(s->found, s->file) || has_file(s->found, s->other))
        return true;
    snprintf(s->tried + used, sizeof(s->tried) - used, "%s%s", used > 0 ? ", " : "", s->found);
    return false;
}

/* The folder that the running program lies in. */
static bool executable_folder(char folder[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    char *slash;

    if (n <= 0)
        return false;
    folder[n] = '\0';
    slash = strrchr(folder, '/');
    if (slash == NULL)
        return false;
    *slash = '\0';
    return true;
}

static bool try_storyteller(struct search *s)
{
    static const char *const beside[] = {
        "../share/quern/" STORYTELLER, /* bin/quern, installed or moved */
        "share/" STORYTELLER,          /* a build in the source tree */
        "../share/" STORYTELLER,       /* .libs/quern, or a build folder in the source tree */
    };
    const char *data = getenv("QUERN_DATADIR");
    char folder[PATH_MAX];

    if (data != NULL && data[0] != '\0' && try_path(s, data, STORYTELLER))
        return true;
    if (executable_folder(folder))
        for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++)
            if (try_path(s, folder, beside[i]))
                return true;
#ifdef QUERN_PKGDATADIR
    if (try_path(s, QUERN_PKGDATADIR, STORYTELLER))
        return true;
#endif
    return false;
}

/* The variables in huggingface_hub's order. */
static bool cache_folder(char out[PATH_MAX])
{
    static const struct {
        const char *variable, *below;
    } places[] = {
        { "HF_HUB_CACHE", "" },
        { "HUGGINGFACE_HUB_CACHE", "" },
        { "HF_HOME", "/hub" },
        { "XDG_CACHE_HOME", "/huggingface/hub" },
        { "HOME", "/.cache/huggingface/hub" },
    };

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        const char *value = getenv(places[i].variable);

        if (value != NULL && value[0] != '\0') {
            int n = snprintf(out, PATH_MAX, "%s%s", value, places[i].below);

            return n > 0 && n < PATH_MAX;
        }
    }
    return false;
}

/* "owner/name" as on the hub: nothing that could leave the cache's folder. */
static bool is_hub_name(const char *model)
{
    const char *slash = strchr(model, '/');

    return slash != NULL && slash != model && slash[1] != '\0' && model[0] != '.' &&
           slash[1] != '.' && strchr(slash + 1, '/') == NULL &&
           model[strspn(model, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "._-/")] == '\0';
}

/* refs/main holds the name of the snapshot that "main" is now. */
static bool read_revision(const char *folder, char revision[65])
{
    char path[PATH_MAX], *text;
    size_t bytes;
    bool ok;
    int n = snprintf(path, sizeof(path), "%s/refs/main", folder);

    if (n < 0 || (size_t)n >= sizeof(path) ||
        file_read_whole(path, true, REVISION_FILE_MAX, &text, &bytes) != STATUS_OK)
        return false;
    ok = sscanf(text, "%64[0-9a-zA-Z_-]", revision) == 1;
    free(text);
    return ok;
}

static bool try_cache(struct search *s, const char *model)
{
    char cache[PATH_MAX], folder[PATH_MAX + 32], snapshot[80], revision[65];
    const char *slash = strchr(model, '/');
    int n;

    if (!cache_folder(cache))
        return false;
    n = snprintf(folder, sizeof(folder), "%s/models--%.*s--%s", cache, (int)(slash - model),
                 model, slash + 1);
    if (n < 0 || n >= PATH_MAX)
        return false;
    if (!read_revision(folder, revision))
        return try_path(s, folder, "refs/main");
    snprintf(snapshot, sizeof(snapshot), "snapshots/%s", revision);
    return try_path(s, folder, snapshot);
}

/* -m with a file: what is it, and where is its model? */
static enum status is_a_file(const char *model)
{
    char head[FILE_HEAD_BYTES];
    uint64_t bytes;
    int fd;
    enum status s = file_open(model, false, &fd, &bytes);
    size_t n = s == STATUS_OK && bytes < sizeof(head) ? (size_t)bytes : sizeof(head);

    if (s != STATUS_OK)
        return s;
    s = file_read_at(fd, model, 0, n, head);
    close(fd);
    if (s == STATUS_OK)
        s = file_recognise(model, "a model's directory", true, head, n);
    return s == STATUS_OK ? log_fail(STATUS_INVALID, "%s is a file: -m takes the directory that has "
                                     "it", model) : s;
}

static enum status not_found(const struct search *s, const char *model)
{
    char hint[FOLDER_HINT_BYTES];
    struct stat info;

    if (model == NULL)
        return log_fail(STATUS_INVALID, "the storyteller is not there (tried %s): set "
                        "QUERN_DATADIR to the folder that has %s, or name a model with -m",
                        s->tried, STORYTELLER);
    if (is_directory(model))
        return log_fail(STATUS_INVALID, "%s has no %s%s", model, s->file,
                        folder_hint(model, hint, sizeof(hint))[0] != '\0'
                            ? hint : ": -m takes a model's directory");
    if (is_directory(s->found))
        return log_fail(STATUS_INVALID, "%s has no %s%s", s->found, s->file,
                        folder_hint(s->found, hint, sizeof(hint))[0] != '\0'
                            ? hint : ": download the model again");
    if (stat(model, &info) == 0)
        return is_a_file(model);
    return log_fail(STATUS_INVALID, "no model %s (tried %s): -m takes a directory, a name in "
                    "Hugging Face's cache, or synth:NAME", model, s->tried);
}

enum status locate_model(const char *model, enum locate_need need, char *out, size_t n)
{
    bool whole = need == LOCATE_MODEL;
    struct search s = { .file = whole ? "config.json" : "tokenizer.json",
                        .other = whole ? "config.json" : "vocab.json" };
    bool found;

    if (model == NULL)
        found = try_storyteller(&s);
    else if (strncmp(model, "synth:", 6) == 0)
        found = snprintf(s.found, sizeof(s.found), "%s", model) < (int)sizeof(s.found);
    else if (is_directory(model) || !is_hub_name(model))
        found = try_path(&s, model, "");
    else
        found = try_path(&s, model, "") || try_cache(&s, model);
    if (!found)
        return not_found(&s, model);
    if (strlen(s.found) >= n)
        return log_fail(STATUS_INVALID, "path %.64s... is too long: use a shorter one", s.found);
    strcpy(out, s.found);
    return STATUS_OK;
}
