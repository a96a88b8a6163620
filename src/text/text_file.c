/* text_file.c - open, map, close: the descriptor is not kept. */
#include "text/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quern/log.h"

static enum status map_descriptor(int fd, const char *path, struct text_file *out)
{
    struct stat st;
    void *mem;

    if (fstat(fd, &st) != 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return log_fail(STATUS_IO, "%s: not a regular file", path);
    if (st.st_size == 0) {
        *out = (struct text_file){ .bytes = "", .count = 0 };
        return STATUS_OK;
    }
    mem = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (mem == MAP_FAILED)
        return log_fail(STATUS_IO, "%s: cannot map %jd bytes: %s", path, (intmax_t)st.st_size,
            strerror(errno));
    *out = (struct text_file){ .bytes = mem, .count = (size_t)st.st_size };
    return STATUS_OK;
}

enum status text_file_map(const char *dir, const char *name, bool optional, struct text_file *out)
{
    char path[PATH_MAX];
    enum status s;
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return log_fail(STATUS_INVALID, "the path of %s is too long", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && optional)
        return STATUS_CLOSED;
    if (fd < 0)
        return log_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    s = map_descriptor(fd, path, out);
    close(fd);
    return s;
}

void text_file_unmap(struct text_file *f)
{
    if (f->count != 0)
        munmap((void *)f->bytes, f->count);
    *f = (struct text_file){ 0 };
}
