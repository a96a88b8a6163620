/* temp_dir.h - a folder of a test's own, and the files it puts there.
 *
 * Owns:     temp_dir_make() creates a folder below $TMPDIR or /tmp; temp_dir_remove() takes it
 *           away with the files and folders in it. Failures end the test at once.
 * Blocking: file input and output. */
#ifndef QUERN_TESTS_MODEL_TEMP_DIR_H
#define QUERN_TESTS_MODEL_TEMP_DIR_H

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct temp_dir {
    char path[256];
    char joined[1024];/* of the last temp_dir_file() */
};

static inline void temp_dir_make(struct temp_dir *t)
{
    const char *base = getenv("TMPDIR");

    snprintf(t->path, sizeof(t->path), "%s/quern-test-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(t->path) == NULL) {
        perror(t->path);
        abort();
    }
}

/* The path of NAME in it; overwritten by the next call. */
static inline const char *temp_dir_file(struct temp_dir *t, const char *name)
{
    snprintf(t->joined, sizeof(t->joined), "%s/%s", t->path, name);
    return t->joined;
}

/* Writes a file and returns its path, as temp_dir_file(). */
static inline const char *temp_dir_write(struct temp_dir *t, const char *name, const void *data,
                                         size_t n)
{
    FILE *file = fopen(temp_dir_file(t, name), "w");

    if (file == NULL || fwrite(data, 1, n, file) != n || fclose(file) != 0) {
        perror(t->joined);
        abort();
    }
    return t->joined;
}

static inline void temp_dir_remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char below[PATH_MAX];

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(below, sizeof(below), "%.2048s/%s", path, entry->d_name);
        if (unlink(below) != 0)
            temp_dir_remove_tree(below);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(path);
}

static inline void temp_dir_remove(struct temp_dir *t)
{
    temp_dir_remove_tree(t->path);
}

#endif
