/* new_file.h - a file that appears whole or not at all.
 *
 * Purpose:  what a command writes to FILE takes FILE's place when all of it is there; before that
 *           it has no name (O_TMPFILE), so that however this process ends, nothing stays behind.
 *           Where the file system cannot do that it is FILE.part, which the next writer of FILE
 *           takes over, and which SIGINT, SIGTERM and SIGHUP remove. What exists and is no
 *           regular file (a pipe, /dev/null) is written to as it is.
 * Owns:     one of them at a time is FILE.part: the handlers know one name. */
#ifndef QUERN_TOOLS_NEW_FILE_H
#define QUERN_TOOLS_NEW_FILE_H

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "quern/status.h"

struct new_file {
    FILE *out;
    const char *path;    /* borrowed */
    char part[PATH_MAX]; /* its name until it is whole; of an unnamed one only at the very end */
    bool direct, named;
};

/* IO (logged), also while another process writes FILE.part. */
enum status new_file_open(struct new_file *f, const char *path);

/* Puts it in its place if `s` is OK, and else drops it. Returns `s`, or why it could not be. */
enum status new_file_finish(struct new_file *f, enum status s);

#endif
