/* file.c - system calls with their errors told, and a table of mistaken files by their first bytes.
 *
 * O_NONBLOCK matters for opening alone (a FIFO without a writer); on the regular file that is left
 * it changes nothing. The size is asked once: what a reader needs beyond it is an error, what was
 * added behind it is not looked at. */
#include "base/file.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quern/log.h"

/* A link into a cache whose file was never finished, or was cleaned away. */
static enum status fail_open(const char *path, bool optional)
{
    char target[PATH_MAX];
    int error = errno;
    ssize_t n = error == ENOENT ? readlink(path, target, sizeof(target) - 1) : -1;

    if (n > 0) {
        target[n] = '\0';
        return log_fail(STATUS_IO, "%s is a link to %s, which is not there: download it again",
                        path, target);
    }
    if (error == ENOENT && optional)
        return STATUS_CLOSED;
    return log_fail(STATUS_IO, "%s: %s", path, strerror(error));
}

static const char *kind_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR: return "a directory";
    case S_IFIFO: return "a pipe";
    case S_IFSOCK: return "a socket";
    default: return "a device";
    }
}

enum status file_open(const char *path, bool optional, int *fd, uint64_t *bytes)
{
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat info;
    enum status s;

    if (opened < 0 && errno == ENXIO) /* how open() says of a socket that it is one */
        return log_fail(STATUS_INVALID, "%s is a socket or a device, not a file", path);
    if (opened < 0)
        return fail_open(path, optional);
    if (fstat(opened, &info) != 0) {
        s = log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
        goto err_close;
    }
    if (!S_ISREG(info.st_mode)) {
        s = log_fail(STATUS_INVALID, "%s is %s, not a file", path, kind_name(info.st_mode));
        goto err_close;
    }
    *fd = opened;
    *bytes = (uint64_t)info.st_size;
    return STATUS_OK;

err_close:
    close(opened);
    return s;
}

enum status file_read_at(int fd, const char *path, uint64_t at, size_t n, void *dst)
{
    while (n > 0) {
        ssize_t got = pread(fd, dst, n, (off_t)at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return log_fail(STATUS_IO, "%s: cannot read %zu bytes at %llu: %s", path, n,
                            (unsigned long long)at, strerror(errno));
        if (got == 0)
            return log_fail(STATUS_IO, "%s ends at byte %llu, it was longer when it was opened: "
                            "another process cut it short", path, (unsigned long long)at);
        dst = (char *)dst + got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return STATUS_OK;
}

static enum status read_text(int fd, const char *path, size_t bytes, char **text)
{
    char *buffer = malloc(bytes + 1);
    enum status s;

    if (buffer == NULL)
        return log_fail(STATUS_NOMEM, "%s: no memory for its %zu bytes", path, bytes);
    s = file_read_at(fd, path, 0, bytes, buffer);
    if (s != STATUS_OK) {
        free(buffer);
        return s;
    }
    buffer[bytes] = '\0';
    *text = buffer;
    return STATUS_OK;
}

enum status file_read_whole(const char *path, bool optional, size_t limit, char **text,
                            size_t *bytes)
{
    uint64_t there;
    int fd;
    enum status s = file_open(path, optional, &fd, &there);

    if (s != STATUS_OK)
        return s;
    if (there > limit)
        s = log_fail(STATUS_INVALID, "%s has %llu bytes, more than %zu: is it "
                     "the right file?", path, (unsigned long long)there, limit);
    else
        s = read_text(fd, path, (size_t)there, text);
    close(fd);
    if (s == STATUS_OK)
        *bytes = (size_t)there;
    return s;
}

/* Mistaken files ------------------------------------------------------------------------------- */

static const struct mistake {
    size_t at, n;
    const char *bytes, *what, *do_this;
} mistakes[] = {
    { 0, 23, "version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` in its folder" },
    { 0, 4, "PK\3\4", "a zip archive (torch.save() writes such, too)",
      "unpack it; save weights as safetensors, as Transformers' save_pretrained() does" },
    { 0, 4, "GGUF", "a GGUF file, as llama.cpp has them",
      "get the repository with safetensors that it was made from" },
    { 0, 2, "\x1f\x8b", "compressed by gzip", "unpack it" },
    { 0, 4, "\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it" },
    { 0, 6, "\xfd" "7zXZ\0", "compressed by xz", "unpack it" },
    { 0, 3, "BZh", "compressed by bzip2", "unpack it" },
    { 0, 6, "7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it" },
    { 257, 5, "ustar", "a tar archive", "unpack it" },
    { 0, 6, "\x93NUMPY", "a NumPy array", "get the file of this name from the model's repository" },
    { 0, 8, "\x89HDF\r\n\x1a\n", "an HDF5 file",
      "get the repository that has the model as safetensors" },
    { 0, 2, "\xff\xfe", "UTF-16 text", "save it as UTF-8" },
    { 0, 2, "\xfe\xff", "UTF-16 text", "save it as UTF-8" },
    { 0, 3, "\xef\xbb\xbf", "text behind a byte order mark", "save it as UTF-8 without one" },
};

/* "\200\2" and up to 5 are Python's protocols; PyTorch's old files are pickles, too. */
static bool is_pickle(const unsigned char *head, size_t n)
{
    return n >= 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5;
}

static bool is_page(const char *head, size_t n)
{
    static const char *const beginnings[] = { "<!doctype", "<html", "<?xml", "<error", "<head" };
    size_t at = 0;

    while (at < n && isspace((unsigned char)head[at]))
        at++;
    for (size_t i = 0; i < sizeof(beginnings) / sizeof(beginnings[0]); i++)
        if (n - at >= strlen(beginnings[i]) &&
            strncasecmp(head + at, beginnings[i], strlen(beginnings[i])) == 0)
            return true;
    return false;
}

static bool all_zero(const char *head, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (head[i] != 0)
            return false;
    return true;
}

static bool is_safetensors(const unsigned char *head, size_t n)
{
    return n > 8 && head[8] == '{' && head[4] == 0 && head[5] == 0 && head[6] == 0 && head[7] == 0;
}

/* The length of a first line that a person can read, 0 where it is not text. */
static size_t text_line(const char *head, size_t n)
{
    size_t line = 0;

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)head[i] < ' ' && !isspace((unsigned char)head[i]))
            return 0;
    while (line < n && line < 60 && isascii(head[line]) && isprint(head[line]))
        line++;
    return line;
}

static enum status mistaken(const char *path, const char *wanted, const char *what,
                            const char *do_this)
{
    return log_fail(STATUS_INVALID, "%s is %s, not %s: %s", path, what, wanted, do_this);
}

enum status file_recognise(const char *path, const char *wanted, bool text, const void *head,
                           size_t n)
{
    static const char again[] = "download it again";
    size_t line = text ? 0 : text_line(head, n);

    if (n == 0)
        return mistaken(path, wanted, "empty", again);
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
        const struct mistake *m = &mistakes[i];

        if (n >= m->at + m->n && memcmp((const char *)head + m->at, m->bytes, m->n) == 0)
            return mistaken(path, wanted, m->what, m->do_this);
    }
    if (is_page(head, n))
        return mistaken(path, wanted, "a web page, of a login or an error", "download the file "
                        "itself (at Hugging Face: /resolve/ where the page has /blob/)");
    if (is_pickle(head, n))
        return mistaken(path, wanted, "a Python pickle, as older .bin files are", "save weights "
                        "as safetensors, as Transformers' save_pretrained() does");
    if (all_zero(head, n))
        return mistaken(path, wanted, "zeros", "the download did not finish, do it again");
    if (is_safetensors(head, n))
        return mistaken(path, wanted, "a safetensors file", again);
    if (line > 0)
        return log_fail(STATUS_INVALID, "%s is text (\"%.*s\"), not %s: %s", path, (int)line,
                        (const char *)head, wanted, again);
    return STATUS_OK;
}
