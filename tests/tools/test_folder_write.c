/* test_folder_write.c - tensors dealt to shards, the index over them, and small files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>

#include "checkpoint/checkpoint.h"
#include "quern/log.h"
#include "tests/checkpoint/made_file.h"
#include "tools/folder_write.h"

enum { TENSORS = 4 };

static const struct {
    const char *name;
    uint64_t bytes;
} sizes[TENSORS] = {{"a", 10}, {"b", 10}, {"c", 5}, {"d", 30}};

/* Byte i of a tensor is its name's letter plus i. */
static enum status fill(void *context, const struct tensor_view *view, uint64_t first, uint64_t n,
    void *dst)
{
    (void)context;
    for (uint64_t i = 0; i < n; i++)
        ((char *)dst)[i] = (char)(view->name[0] + (char)(first + i));
    return STATUS_OK;
}

static void write_folder(const char *dir, uint64_t shard_bytes)
{
    struct tensor_view views[TENSORS] = {0};
    const struct folder_tensors tensors = {.views = views, .count = TENSORS,
        .shard_bytes = shard_bytes, .fill = fill};
    struct folder f;

    for (int i = 0; i < TENSORS; i++)
        views[i] = (struct tensor_view){.name = sizes[i].name, .dtype = FILE_U8, .ndim = 1,
            .shape = {sizes[i].bytes}, .bytes = sizes[i].bytes};
    assert_int_equal(folder_begin(&f, dir, 0, ""), STATUS_OK);
    assert_int_equal(folder_finish(&f, folder_weights(&f, &tensors)), STATUS_OK);
}

/* `files`: the number of the file that each tensor must be in, of `count`. */
static void assert_dealt(uint64_t shard_bytes, const int files[TENSORS], int count)
{
    char out[1024], path[1100], name[64];
    struct checkpoint *c;
    struct temp_dir dir;
    json_t *index, *map;

    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s", temp_dir_file(&dir, "out"));
    write_folder(out, shard_bytes);
    snprintf(path, sizeof(path), "%s/model.safetensors.index.json", out);
    index = json_load_file(path, 0, NULL);
    assert_true((index != NULL) == (count > 1));
    map = json_object_get(index, "weight_map");
    assert_int_equal(checkpoint_open(out, &c), STATUS_OK);
    assert_int_equal(checkpoint_count(c), TENSORS);
    for (int i = 0; i < TENSORS; i++) {
        const struct tensor_view *view = checkpoint_find(c, sizes[i].name);
        char *bytes;

        assert_non_null(view);
        assert_int_equal(view->bytes, sizes[i].bytes);
        bytes = tensor_bytes(view);
        for (uint64_t b = 0; b < view->bytes; b++)
            assert_int_equal(bytes[b], (char)(sizes[i].name[0] + (char)b));
        free(bytes);
        snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", files[i], count);
        assert_string_equal(safetensors_name(view->in), count > 1 ? name : "model.safetensors");
        if (count > 1)
            assert_string_equal(json_string_value(json_object_get(map, sizes[i].name)), name);
    }
    if (count > 1)
        assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"),
                             "total_size")), 55);
    checkpoint_close(c);
    json_decref(index);
    temp_dir_remove(&dir);
}

/* A shard is filled to the byte; a tensor that is larger has one of its own. */
static void shards_are_as_large_as_was_asked_and_no_larger(void **state)
{
    (void)state;
    assert_dealt(55, (const int[]){1, 1, 1, 1}, 1);
    assert_dealt(54, (const int[]){1, 1, 1, 2}, 2);
    assert_dealt(25, (const int[]){1, 1, 1, 2}, 2);
    assert_dealt(24, (const int[]){1, 1, 2, 3}, 3);
    assert_dealt(20, (const int[]){1, 1, 2, 3}, 3);
    assert_dealt(19, (const int[]){1, 2, 2, 3}, 3);
    assert_dealt(1, (const int[]){1, 2, 3, 4}, 4);
}

static void small_files_are_copied_and_what_is_no_file_is_refused(void **state)
{
    struct temp_dir dir;
    struct folder f;
    char out[1024];

    (void)state;
    temp_dir_make(&dir);
    snprintf(out, sizeof(out), "%s", temp_dir_file(&dir, "out"));
    assert_int_equal(folder_begin(&f, out, 0, ""), STATUS_OK);
    temp_dir_write(&dir, "small", "abc", 3);
    assert_int_equal(folder_copy(&f, dir.joined, "copy"), STATUS_OK);
    assert_int_equal(folder_copy(&f, temp_dir_file(&dir, "none"), "none"), STATUS_UNSUPPORTED);
    assert_int_equal(mkfifo(temp_dir_file(&dir, "pipe"), 0600), 0);
    alarm(20); /* what waits for a writer ends the test */
    assert_int_equal(folder_copy(&f, dir.joined, "pipe"), STATUS_INVALID);
    alarm(0);
    assert_non_null(strstr(log_last_error(), "/pipe is a pipe, not a file"));
    assert_int_equal(folder_finish(&f, STATUS_OK), STATUS_OK);
    assert_int_equal(access(temp_dir_file(&dir, "out/copy"), F_OK), 0);
    assert_int_not_equal(access(temp_dir_file(&dir, "out/pipe"), F_OK), 0);
    temp_dir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_as_large_as_was_asked_and_no_larger),
        cmocka_unit_test(small_files_are_copied_and_what_is_no_file_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
