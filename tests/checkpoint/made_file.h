/* made_file.h - .safetensors files of a test's own making, and whole tensors of any file.
 *
 * Owns:     nothing; what made_bytes() and tensor_bytes() return is the caller's to free. What
 *           cannot be made or read ends the test. */
#ifndef QUERN_TESTS_CHECKPOINT_MADE_FILE_H
#define QUERN_TESTS_CHECKPOINT_MADE_FILE_H

#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors_header.h"
#include "tests/checkpoint/temp_dir.h"

struct made_tensor_bytes {
    const char *name;
    enum file_dtype dtype;
    int ndim;
    uint64_t shape[2];
    const void *data; /* as many bytes as the shape needs */
};

static inline const void *made_data(const struct made_tensor_bytes *made, const char *name)
{
    while (strcmp(made->name, name) != 0)
        made++;
    return made->data;
}

/* A whole file with these tensors, *bytes long. */
static inline char *made_bytes(const struct made_tensor_bytes *made, size_t count, size_t *bytes)
{
    struct tensor_view views[16] = { 0 };
    char *header, *file;
    size_t n, total;

    assert_true(count <= 16);
    for (size_t i = 0; i < count; i++) {
        views[i].name = made[i].name;
        views[i].dtype = made[i].dtype;
        views[i].ndim = made[i].ndim;
        memcpy(views[i].shape, made[i].shape, sizeof(made[i].shape));
    }
    assert_int_equal(safetensors_layout(views, count, &header, &n), STATUS_OK);
    total = n;
    for (size_t i = 0; i < count; i++)
        total += views[i].bytes;
    file = malloc(total);
    assert_non_null(file);
    memcpy(file, header, n);
    free(header);
    for (size_t i = 0; i < count; i++) {
        memcpy(file + n, made_data(made, views[i].name), views[i].bytes);
        n += views[i].bytes;
    }
    *bytes = total;
    return file;
}

static inline void made_file(struct temp_dir *dir, const char *name,
                             const struct made_tensor_bytes *made, size_t count)
{
    size_t bytes;
    char *file = made_bytes(made, count, &bytes);

    temp_dir_write(dir, name, file, bytes);
    free(file);
}

/* All bytes of a tensor of an open file. */
static inline void *tensor_bytes(const struct tensor_view *v)
{
    void *bytes = malloc(v->bytes + 1);

    assert_non_null(bytes);
    assert_int_equal(tensor_read(v, 0, v->bytes, bytes), STATUS_OK);
    return bytes;
}

#endif
