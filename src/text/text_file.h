/* text_file.h - a whole file of a tokenizer or template, in memory of its own.
 *
 * Read, never mapped (file.h): no other process can end this one by cutting the
 * file short. What lies in a file's place by mistake, a pipe or a Git LFS
 * pointer, is refused by what it is; so is a file that is larger than any of its
 * kind. The caller frees what it got with text_file_free(). Blocks on the disk
 * only. */
#ifndef QUERN_TEXT_FILE_H
#define QUERN_TEXT_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "quern/status.h"

enum text_file_kind {
    TEXT_FILE_VOCABULARY, /* JSON; the largest known tokenizer.json has 33 MB */
    TEXT_FILE_JSON,       /* any other: at most TEXT_FILE_SMALL_BYTES */
    TEXT_FILE_MERGES,     /* merges.txt: lines of text */
    TEXT_FILE_TEMPLATE,   /* chat_template.jinja */
};

enum {
    TEXT_FILE_MOST_BYTES = 128 << 20, /* vocabulary and merges */
    TEXT_FILE_SMALL_BYTES = 8 << 20, /* as a tree, up to 36 times that */
};

struct text_file {
    char *bytes; /* [count], and a zero behind */
    size_t count;
};

/* Reads dir/name. Errors as file_read_whole() and file_recognise() have them,
 * logged with the path; a file that does not exist is STATUS_CLOSED, not logged,
 * when `optional`. */
enum status text_file_read(const char *dir, const char *name, enum text_file_kind kind,
    bool optional, struct text_file *out);
void text_file_free(struct text_file *f);

#endif
