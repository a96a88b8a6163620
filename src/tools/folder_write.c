/* folder_write.c - tensors file by file in the order of other writers, then names that take effect.
 *
 * Tensors are dealt to shards in the caller's order; within a file they stand
 * as safetensors_layout() puts them. Values are made into one buffer and
 * written from there, so a 32B model takes no more memory than a small one. */
#include "tools/folder_write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <jansson.h>

#include "base/file.h"
#include "base/progress.h"
#include "checkpoint/config_json.h"
#include "checkpoint/safetensors_header.h"
#include "quern/log.h"
#include "tools/interrupt.h"

enum { CHUNK_BYTES = 4 << 20, FILE_NAME_BYTES = 64, ROW_STEP = 128 };

static enum status fail_write(const char *path)
{
    if (errno == EFBIG)
        return log_fail(STATUS_IO, "%s: cannot write: %s: look at ulimit -f", path, strerror(errno));
    return log_fail(STATUS_IO, "%s: cannot write: %s", path, strerror(errno));
}

/* The directory -------------------------------------------------------------------------------- */

/* Of the path without slashes behind it, which would hide that it is a link. */
static int own_length(const char *dir)
{
    size_t n = strlen(dir);

    while (n > 1 && dir[n - 1] == '/')
        n--;
    return (int)n;
}

/* What is written takes the place of the directory at the end, which ".", ".." and a link lack. */
static bool is_own_name(const char *dir)
{
    char path[PATH_MAX], *slash;
    const char *name;
    struct stat info;

    snprintf(path, sizeof(path), "%.*s", own_length(dir), dir);
    slash = strrchr(path, '/');
    name = slash != NULL ? slash + 1 : path;
    return strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           (lstat(path, &info) != 0 || !S_ISLNK(info.st_mode));
}

enum status folder_check(const char *dir)
{
    struct dirent *entry;
    bool empty = true;
    DIR *open_dir;

    if (dir[0] == '\0' || strlen(dir) > PATH_MAX - 64)
        return log_fail(STATUS_INVALID, "the directory to write has no name, or too long a one");
    if (!is_own_name(dir))
        return log_fail(STATUS_INVALID, "%s is no directory's own name: give one that is, or a new "
            "one", dir);
    open_dir = opendir(dir);
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

static enum status check_room(const struct folder *f, uint64_t bytes, const char *advice)
{
    struct statvfs disk;
    uint64_t room;

    if (statvfs(f->path, &disk) != 0)
        return STATUS_OK; /* not known: writing will tell */
    room = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (room < bytes)
        return log_fail(STATUS_IO, "%s needs %" PRIu64 " bytes, its disk has %" PRIu64 " free: %s",
            f->path, bytes, room, advice);
    return STATUS_OK;
}

/* It holds files of ours only. */
static void remove_folder(const char *folder)
{
    char path[PATH_MAX];
    struct dirent *entry;
    DIR *dir = opendir(folder);

    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            path_join(path, sizeof(path), folder, entry->d_name) == STATUS_OK)
            unlink(path);
    if (dir != NULL)
        closedir(dir);
    rmdir(folder);
}

/* Where in `path` its last name begins. */
static size_t name_offset(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL ? (size_t)(slash - path) + 1 : 0;
}

/* A descriptor of the folder with its lock; -1 with errno: EWOULDBLOCK: another process has it;
 * ENOENT: it is gone. */
static int lock_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    struct stat ours, there;
    int error = ENOENT;

    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        error = errno;
    else if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_dev == there.st_dev &&
             ours.st_ino == there.st_ino)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* By a filter, or a file system that has no locks. */
static bool locks_refused(int error)
{
    return error == EPERM || error == ENOSYS || error == EOPNOTSUPP || error == ENOLCK;
}

/* Removes every NAME.tmp-NUMBER that nobody writes any more; f->dir ends with NAME. */
static void remove_left_over(const struct folder *f)
{
    size_t at = name_offset(f->dir), name = strlen(f->dir + at);
    char path[PATH_MAX], parent[PATH_MAX];
    struct dirent *entry;
    DIR *dir;

    snprintf(parent, sizeof(parent), "%.*s", at > 0 ? (int)at : 1, at > 0 ? f->dir : ".");
    dir = opendir(parent);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        const char *tail = entry->d_name + name;
        int fd;

        if (strncmp(entry->d_name, f->dir + at, name) != 0 || strncmp(tail, ".tmp-", 5) != 0 ||
            tail[5] == '\0' || tail[5 + strspn(tail + 5, "0123456789")] != '\0' ||
            path_join(path, sizeof(path), parent, entry->d_name) != STATUS_OK)
            continue;
        fd = lock_folder(path);
        if (fd < 0)
            continue;
        remove_folder(path);
        close(fd);
    }
    if (dir != NULL)
        closedir(dir);
}

/* The next writer may take it for left over before it is locked: then it is made again. */
static enum status make_folder(struct folder *f)
{
    for (int tries = 0; tries < 8; tries++) {
        if (mkdir(f->path, 0777) != 0)
            break;
        f->lock_fd = lock_folder(f->path);
        if (f->lock_fd < 0 && locks_refused(errno)) /* of others, too: nobody takes it for left over */
            f->lock_fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (f->lock_fd >= 0)
            return STATUS_OK;
    }
    return log_fail(STATUS_IO, "%s: cannot make the directory: %s", f->path, strerror(errno));
}

static void drop_folder(struct folder *f)
{
    remove_folder(f->path);
    close(f->lock_fd);
}

enum status folder_begin(struct folder *f, const char *dir, uint64_t bytes, const char *advice)
{
    int n = own_length(dir);
    enum status s = folder_check(dir);

    if (s != STATUS_OK)
        return s;
    snprintf(f->dir, sizeof(f->dir), "%.*s", n, dir);
    snprintf(f->path, sizeof(f->path), "%.*s.tmp-%ld", n, dir, (long)getpid());
    remove_left_over(f);
    s = make_folder(f);
    if (s != STATUS_OK)
        return s;
    s = check_room(f, bytes, advice);
    if (s != STATUS_OK)
        drop_folder(f);
    return s;
}

enum status folder_finish(struct folder *f, enum status s)
{
    if (s == STATUS_OK)
        s = interrupt_check(f->dir);
    if (s == STATUS_OK && rename(f->path, f->dir) != 0)
        s = fail_write(f->dir);
    if (s == STATUS_OK)
        close(f->lock_fd);
    else
        drop_folder(f);
    return s;
}

void folder_tell(const char *dir)
{
    DIR *open_dir = opendir(dir);
    uint64_t bytes = 0;
    struct dirent *entry;
    struct stat info;
    int files = 0;

    while (open_dir != NULL && (entry = readdir(open_dir)) != NULL)
        if (fstatat(dirfd(open_dir), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode)) {
            bytes += (uint64_t)info.st_size;
            files++;
        }
    if (open_dir != NULL)
        closedir(open_dir);
    fprintf(stderr, "quern: wrote %s: %d files, %" PRIu64 " bytes\n", dir, files, bytes);
}

/* Small files ---------------------------------------------------------------------------------- */

enum status folder_file(const struct folder *f, const char *name,
    enum status (*write)(const void *context, FILE *out), const void *context)
{
    char path[PATH_MAX];
    bool failed;
    FILE *out;
    enum status s = path_join(path, sizeof(path), f->path, name);

    if (s != STATUS_OK)
        return s;
    out = fopen(path, "wxe");
    if (out == NULL)
        return fail_write(path);
    s = write(context, out);
    failed = ferror(out) != 0;
    if ((fclose(out) != 0 || failed) && (s == STATUS_OK || s == STATUS_IO))
        return fail_write(path);
    return s;
}

/* A file to be copied, open. */
struct original {
    const char *path;
    int fd;
    uint64_t bytes;
};

static enum status copy_bytes(const void *context, FILE *out)
{
    const struct original *from = context;
    char block[4096];

    for (uint64_t at = 0; at < from->bytes; at += sizeof(block)) {
        size_t n = from->bytes - at < sizeof(block) ? (size_t)(from->bytes - at) : sizeof(block);
        enum status s = file_read_at(from->fd, from->path, at, n, block);

        if (s != STATUS_OK)
            return s;
        fwrite(block, 1, n, out);
    }
    return STATUS_OK;
}

enum status folder_copy(const struct folder *f, const char *path, const char *name)
{
    struct original from = {.path = path};
    enum status s = file_open(path, true, &from.fd, &from.bytes);

    if (s == STATUS_CLOSED)
        return STATUS_UNSUPPORTED;
    if (s != STATUS_OK)
        return s;
    s = folder_file(f, name, copy_bytes, &from);
    close(from.fd);
    return s;
}

/* Weights -------------------------------------------------------------------------------------- */

struct writing {
    const struct folder *folder;
    const struct folder_tensors *tensors;
    uint64_t done, total; /* bytes of tensors */
    struct progress progress;
};

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

/* Elements of a tensor made at once: whole rows, 128 of them or a multiple where they are short. */
static uint64_t step_of(const struct tensor_view *view)
{
    uint64_t row = view->ndim == 2 ? view->shape[1] : 1;
    uint64_t rows = CHUNK_BYTES / (row * file_dtype_bits(view->dtype) / 8 + 1);

    rows -= rows > ROW_STEP ? rows % ROW_STEP : 0;
    return row * (rows > 0 ? rows : 1);
}

static enum status write_tensor(struct writing *w, int fd, const char *path,
    const struct tensor_view *view)
{
    const struct folder_tensors *t = w->tensors;
    size_t size = file_dtype_bits(view->dtype) / 8;
    uint64_t n = view->bytes / size, step = step_of(view);
    char *chunk = malloc((step < n ? step : n) * size + 1);
    enum status s = STATUS_OK;

    if (chunk == NULL)
        return log_fail(STATUS_NOMEM, "no memory to write %s", view->name);
    for (uint64_t first = 0; s == STATUS_OK && first < n; first += step) {
        uint64_t take = n - first < step ? n - first : step;

        s = interrupt_check(w->folder->dir);
        if (s == STATUS_OK)
            s = t->fill(t->context, view, first, take, chunk);
        if (s == STATUS_OK)
            s = write_all(fd, path, chunk, take * size);
        w->done += take * size;
        if (s == STATUS_OK)
            progress_show(&w->progress, (double)w->done / (double)w->total);
    }
    free(chunk);
    return s;
}

static enum status write_tensors(struct writing *w, const char *path, struct tensor_view *views,
    size_t count)
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
        s = write_tensor(w, fd, path, &views[i]);
    if (close(fd) != 0 && s == STATUS_OK)
        s = fail_write(path);

err_header:
    free(header);
    return s;
}

/* How many tensors from `first` on share a file; at least one. */
static size_t shard_length(const struct folder_tensors *t, size_t first)
{
    uint64_t bytes = 0;
    size_t n = 0;

    while (first + n < t->count &&
           (n == 0 || bytes + t->views[first + n].bytes <= t->shard_bytes))
        bytes += t->views[first + n++].bytes;
    return n;
}

static int count_shards(const struct folder_tensors *t)
{
    int shards = 0;

    for (size_t first = 0; first < t->count; first += shard_length(t, first))
        shards++;
    return shards;
}

static enum status write_shard(struct writing *w, const char *name, size_t first, size_t n,
    json_t *map)
{
    const struct folder_tensors *t = w->tensors;
    char path[PATH_MAX];
    enum status s;

    for (size_t i = 0; i < n; i++)
        if (json_object_set_new(map, t->views[first + i].name, json_string(name)) != 0)
            return log_fail(STATUS_NOMEM, "no memory for an index of %zu tensors", t->count);
    s = path_join(path, sizeof(path), w->folder->path, name);
    return s == STATUS_OK ? write_tensors(w, path, t->views + first, n) : s;
}

static enum status write_index(const struct writing *w, json_t *map)
{
    char path[PATH_MAX];
    json_t *index;
    enum status s = path_join(path, sizeof(path), w->folder->path, "model.safetensors.index.json");

    index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)w->total, "weight_map",
        map);
    if (s == STATUS_OK && (index == NULL || json_dump_file(index, path, JSON_INDENT(2)) != 0))
        s = fail_write(path);
    json_decref(index);
    return s;
}

static uint64_t all_bytes(const struct folder_tensors *t)
{
    uint64_t total = 0;

    for (size_t i = 0; i < t->count; i++)
        total += t->views[i].bytes;
    return total;
}

enum status folder_weights(const struct folder *f, const struct folder_tensors *t)
{
    struct writing w = {.folder = f, .tensors = t, .total = all_bytes(t),
        .progress = progress_of("writing")};
    int shards = count_shards(t), shard = 0;
    json_t *map = json_object();
    enum status s = STATUS_OK;

    if (map == NULL)
        return log_fail(STATUS_NOMEM, "no memory for an index of %zu tensors", t->count);
    for (size_t first = 0, n; s == STATUS_OK && first < t->count; first += n) {
        char name[FILE_NAME_BYTES] = "model.safetensors";

        if (shards > 1)
            snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", ++shard, shards);
        n = shard_length(t, first);
        s = write_shard(&w, name, first, n, map);
    }
    if (s == STATUS_OK && shards > 1)
        s = write_index(&w, map);
    progress_clear(&w.progress);
    json_decref(map);
    return s;
}
