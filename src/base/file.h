/* file.h - files that somebody else made: opened without waiting, read without trusting them.
 *
 * Purpose:  one way to open and to read what a user names or a checkpoint has. Only regular files:
 *           a pipe, socket or device could wait for ever or never end. By read, never mapped: a
 *           file that another process cuts short would end this one with SIGBUS. What lies in a
 *           file's place by mistake is called what it is, with what to do.
 * Owns:     nothing; descriptors and texts are the caller's.
 * Blocking: the disk only.
 * Messages: begin with `path` as it is given; an absent one and one of the wrong kind, too. */
#ifndef QUERN_BASE_FILE_H
#define QUERN_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

/* Opens for reading: *fd, to be closed by the caller, and the *bytes it has now. CLOSED, not
 * logged: it does not exist and is `optional`; a link that leads nowhere does exist. IO: the
 * system refuses. INVALID: a directory, pipe, socket or device. */
enum status file_open(const char *path, bool optional, int *fd, uint64_t *bytes);

/* Bytes [at, at + n) into dst. IO, also when the file has become shorter: "PATH ends at byte ...".
 * Any number of threads may read from one descriptor. */
enum status file_read_at(int fd, const char *path, uint64_t at, size_t n, void *dst);

/* A whole file of at most `limit` bytes: *text [*bytes], to be freed by the caller, with a zero
 * byte behind it. As file_open(); INVALID: it is larger. NOMEM. */
enum status file_read_whole(const char *path, bool optional, size_t limit, char **text,
                            size_t *bytes);

/* What people have where a file should be: Git LFS pointers, web pages, archives, nothing at all.
 * Looks at the first n bytes of `path`, which is to be `wanted` ("JSON"); call it when they are
 * not how that begins. INVALID (logged): recognised, "PATH is a web page, not JSON: ...". OK: not
 * recognised. Plain text is no JSON's mistake but its reader's: with `text` it passes. */
enum status file_recognise(const char *path, const char *wanted, bool text, const void *head,
                           size_t n);

/* So many bytes are enough for file_recognise(); fewer, when the file has no more. */
enum { FILE_HEAD_BYTES = 512 };

#endif
