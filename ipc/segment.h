/* segment.h - a sealed memfd: the memory that supervisor and workers share.
 *
 * Purpose:  one mapping per group; rings, ring buffers, heaps and flags are carved
 *           out of it by offset. Each process may map it at another address,
 *           so nothing in it is ever a pointer.
 * Memory:   the creator sizes and seals it; from then on nobody, by accident
 *           or not, can shrink it under another process (which would be a
 *           SIGBUS there) or grow it. A struct segment owns fd and mapping.
 * Blocking: never.
 * Death:    the kernel frees the pages with the last fd and mapping; nothing
 *           is left in a file system. */
#ifndef IPC_SEGMENT_H
#define IPC_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "quern/status.h"

struct segment {
    int fd;       /* close-on-exec; pass it on with proc_spawn() */
    void *base;   /* page aligned */
    size_t bytes; /* whole pages */
};

/* A new zeroed segment of at least `bytes`, mapped and sealed. `name` is for
 * /proc/PID/maps. INVALID (zero or too many bytes), IO, NOMEM. */
enum status segment_create(const char *name, size_t bytes, struct segment *out);

/* In two steps, for memory whose size only a child learns: the parent reserves
 * an fd without bytes and passes it on; one child fills it (sizes, maps, seals)
 * and then owns the fd as with segment_create(); the others map it once they
 * know that happened. On failure the fd stays the caller's. */
enum status segment_reserve(const char *name, int *fd);
enum status segment_fill(const char *name, int fd, size_t bytes, struct segment *out);

/* Maps the segment behind an inherited or received `fd` and takes the fd over;
 * on failure it stays the caller's. INVALID when it is no memfd, lacks one of
 * the seals, or has no whole number of pages; IO, NOMEM. */
enum status segment_map(int fd, struct segment *out);

/* Unmaps and closes; a struct of zeroes or one already closed is left alone. */
void segment_close(struct segment *s);

/* The `bytes` at `offset`, NULL when they do not all lie in the segment. */
void *segment_at(const struct segment *s, size_t offset, size_t bytes);

/* Lays objects out one after another. Creator and workers carve the same list
 * in the same order and so agree on the offsets without sending them. */
struct segment_cursor {
    size_t next;     /* bytes used so far; start at {0} */
    bool overflowed; /* some carve did not fit into a size_t, or had a bad alignment */
};

/* Offset of `bytes` at `align` (a power of two, at most a page; 64 and up for
 * anything with atomics). A failure is kept in the cursor, for
 * segment_carved() to report once at the end. */
size_t segment_carve(struct segment_cursor *c, size_t bytes, size_t align);

/* How large the segment must be for all that was carved; INVALID when one of
 * the carves failed. */
enum status segment_carved(const struct segment_cursor *c, size_t *bytes);

#endif
