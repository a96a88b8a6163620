/* segment.c - sealed memfds.
 *
 * The seals go on after the size and before the fd is shown to anybody, so a
 * process that finds them in place knows the size it reads is final. That is
 * why segment_map() insists on them: without, every later access would be at
 * the mercy of whoever else holds the fd. */
#include "ipc/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quern/log.h"

#ifndef MFD_NOEXEC_SEAL /* Linux 6.3; Debian 12's headers are older */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

static const int required_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* Some machines refuse memfds that could be executed, older kernels do not
 * know the flag that says ours cannot. */
static int open_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd;
}

static enum status map_shared(int fd, size_t bytes, void **base)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        return log_fail(errno == ENOMEM ? STATUS_NOMEM : STATUS_IO,
            "shared memory: cannot map %zu bytes: %s", bytes, strerror(errno));
    *base = p;
    return STATUS_OK;
}

static enum status refuse_size(const char *name, size_t bytes)
{
    return log_fail(
        STATUS_INVALID, "shared memory %s: a segment cannot have %zu bytes", name, bytes);
}

enum status segment_reserve(const char *name, int *out)
{
    int fd = open_memfd(name);

    if (fd < 0)
        return log_call_failed(errno, "memfd_create", "no shared memory for %s", name);
    *out = fd;
    return STATUS_OK;
}

enum status segment_fill(const char *name, int fd, size_t bytes, struct segment *out)
{
    size_t page = page_bytes();
    void *base = NULL;
    enum status s;

    if (bytes == 0 || bytes > (size_t)INT64_MAX - page)
        return refuse_size(name, bytes);
    bytes = (bytes + page - 1) & ~(page - 1);
    if (ftruncate(fd, (off_t)bytes) != 0)
        return log_fail(STATUS_NOMEM, "shared memory %s: cannot have %zu bytes: %s", name, bytes,
            strerror(errno));
    s = map_shared(fd, bytes, &base);
    if (s != STATUS_OK)
        return s;
    if (fcntl(fd, F_ADD_SEALS, required_seals) != 0) {
        s = log_fail(STATUS_IO, "shared memory %s: cannot seal it: %s", name, strerror(errno));
        munmap(base, bytes);
        return s;
    }
    *out = (struct segment){.fd = fd, .base = base, .bytes = bytes};
    return STATUS_OK;
}

enum status segment_create(const char *name, size_t bytes, struct segment *out)
{
    enum status s;
    int fd;

    if (bytes == 0)
        return refuse_size(name, bytes);
    s = segment_reserve(name, &fd);
    if (s != STATUS_OK)
        return s;
    s = segment_fill(name, fd, bytes, out);
    if (s != STATUS_OK)
        close(fd);
    return s;
}

enum status segment_map(int fd, struct segment *out)
{
    int seals = fcntl(fd, F_GET_SEALS);
    enum status s;
    struct stat st;
    void *base;

    if (seals < 0 || fstat(fd, &st) != 0)
        return log_fail(
            STATUS_INVALID, "shared memory: fd %d is not a memfd (%s)", fd, strerror(errno));
    if ((seals & required_seals) != required_seals)
        return log_fail(STATUS_INVALID,
            "shared memory: fd %d is not sealed (seals %#x, %#x are needed): its size could change",
            fd, (unsigned)seals, (unsigned)required_seals);
    if (st.st_size <= 0 || (size_t)st.st_size % page_bytes() != 0)
        return log_fail(STATUS_INVALID,
            "shared memory: fd %d has %lld bytes, not a whole number of pages of %zu", fd,
            (long long)st.st_size, page_bytes());
    s = map_shared(fd, (size_t)st.st_size, &base);
    if (s != STATUS_OK)
        return s;
    *out = (struct segment){.fd = fd, .base = base, .bytes = (size_t)st.st_size};
    return STATUS_OK;
}

void segment_close(struct segment *s)
{
    if (s->base == NULL)
        return;
    munmap(s->base, s->bytes);
    close(s->fd);
    *s = (struct segment){.fd = -1};
}

void *segment_at(const struct segment *s, size_t offset, size_t bytes)
{
    if (offset > s->bytes || bytes > s->bytes - offset)
        return NULL;
    return (unsigned char *)s->base + offset;
}

size_t segment_carve(struct segment_cursor *c, size_t bytes, size_t align)
{
    size_t start;

    if (align == 0 || (align & (align - 1)) != 0 || align > page_bytes() ||
        c->next > SIZE_MAX - (align - 1)) {
        c->overflowed = true;
        return 0;
    }
    start = (c->next + align - 1) & ~(align - 1);
    if (bytes > SIZE_MAX - start) {
        c->overflowed = true;
        return 0;
    }
    c->next = start + bytes;
    return start;
}

enum status segment_carved(const struct segment_cursor *c, size_t *bytes)
{
    if (c->overflowed)
        return log_fail(STATUS_INVALID,
            "shared memory: the objects of this configuration do not fit into one segment: "
            "ask for fewer or smaller ones");
    *bytes = c->next;
    return STATUS_OK;
}
