/* folder_write.h - a checkpoint's directory: files and tensors written beside it, then renamed.
 *
 * Purpose:  what `quern synth` and `quern quantize` share: weights streamed into one or several
 *           .safetensors files with an index, small files, and a directory that appears whole or
 *           not at all.
 * Owns:     DIR.tmp-PID, which it holds a lock on, from folder_begin() on until folder_finish()
 *           renames or removes it. What a killed writer of the same DIR left, nobody locks: the
 *           next one removes it.
 * Signals:  see interrupt.h: writing ends with INTERRUPTED.
 * Blocking: writes the whole checkpoint. Memory: one buffer of a few megabytes. */
#ifndef QUERN_TOOLS_FOLDER_WRITE_H
#define QUERN_TOOLS_FOLDER_WRITE_H

#include <limits.h>
#include <stdint.h>
#include <stdio.h>

#include "checkpoint/safetensors.h"
#include "quern/status.h"

#define FOLDER_SHARD_BYTES UINT64_C(5000000000)

struct folder {
    char path[PATH_MAX]; /* where it is being written */
    char dir[PATH_MAX];  /* what it will be called */
    int lock_fd;         /* of it */
};

/* INVALID: no name, too long a one, or DIR exists and is not empty. */
enum status folder_check(const char *dir);

/* Makes the directory, of a name of its own beside `dir`; folder_check()'s errors, and IO: no
 * directory, or less room on its disk than `bytes` (both numbers, and `advice`). */
enum status folder_begin(struct folder *f, const char *dir, uint64_t bytes, const char *advice);

/* Renames it if `s` is OK, and else removes it; returns `s`, or why renaming failed. */
enum status folder_finish(struct folder *f, enum status s);

/* A small file, written by write(context, out). */
enum status folder_file(const struct folder *f, const char *name,
    enum status (*write)(const void *context, FILE *out), const void *context);

/* The file `path` as file `name`; STATUS_UNSUPPORTED (not logged) when there is none. */
enum status folder_copy(const struct folder *f, const char *path, const char *name);

/* Where tensors come from: elements [first, first + n) of `view`, in its stored type. first and n
 * are whole rows, and first is a multiple of 128 rows, where rows are that short. */
struct folder_tensors {
    struct tensor_view *views; /* [count]: name, dtype, shape, bytes; reordered by writing */
    size_t count;
    uint64_t shard_bytes;      /* of tensors in a file; a larger one has a file of its own */
    enum status (*fill)(void *context, const struct tensor_view *view, uint64_t first, uint64_t n,
        void *dst);
    void *context;
};

/* Says on standard error what a finished folder holds: files, bytes, where. */
void folder_tell(const char *dir);

/* With a bar on a terminal. model.safetensors, or model-0000i-of-0000n.safetensors and their index. */
enum status folder_weights(const struct folder *f, const struct folder_tensors *tensors);

#endif
