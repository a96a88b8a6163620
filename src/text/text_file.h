/* text_file.h - a whole file, mapped read-only.
 *
 * The mapping is private to the caller from text_file_map() to
 * text_file_unmap(). An empty file maps to bytes = "" and count 0. May block on
 * the disk. A file that shrinks while it is mapped ends the process (SIGBUS),
 * as for every mapped checkpoint file. */
#ifndef QUERN_TEXT_FILE_H
#define QUERN_TEXT_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "quern/status.h"

struct text_file {
    const char *bytes;
    size_t count;
};

/* STATUS_IO (logged, with the path) if it cannot be read; a file that does not
 * exist is STATUS_CLOSED, not logged, when `optional`. */
enum status text_file_map(const char *dir, const char *name, bool optional, struct text_file *out);
void text_file_unmap(struct text_file *f);

#endif
