/* test_checkpoint.c - files of a checkpoint and its index: found, missing, at odds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <sys/resource.h>

#include "checkpoint/checkpoint.h"
#include "quern/log.h"
#include "tests/checkpoint/made_file.h"

static struct temp_dir temp;

static int make_temp(void **state)
{
    (void)state;
    temp_dir_make(&temp);
    return 0;
}

static int remove_temp(void **state)
{
    (void)state;
    temp_dir_remove(&temp);
    return 0;
}

/* A file with one tensor, U8 [4]. */
static void write_small(const char *file, const char *tensor)
{
    const struct made_tensor_bytes one = { tensor, FILE_U8, 1, { 4 }, "abcd" };

    made_file(&temp, file, &one, 1);
}

static void write_index(const char *json)
{
    temp_dir_write(&temp, "model.safetensors.index.json", json, strlen(json));
}

static void assert_refused(enum status want, const char *why)
{
    struct checkpoint *c = NULL;

    assert_int_equal(checkpoint_open(temp.path, &c), want);
    assert_null(c);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
}

static void assert_has(const char *const *names, size_t count)
{
    struct checkpoint *c = NULL;

    if (checkpoint_open(temp.path, &c) != STATUS_OK)
        fail_msg("refused: %s", log_last_error());
    assert_int_equal(checkpoint_count(c), count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(checkpoint_at(c, i)->name, names[i]);
    assert_null(checkpoint_find(c, "nothing"));
    checkpoint_close(c);
}

static void index_names_the_files(void **state)
{
    (void)state;
    write_small("1.safetensors", "b");
    write_small("2.safetensors", "a");
    write_small("other.safetensors", "c");
    write_index("{\"weight_map\": {\"a\": \"2.safetensors\", \"b\": \"1.safetensors\"}}");
    assert_has((const char *const[]){ "a", "b" }, 2);
}

static void single_file_comes_first(void **state)
{
    (void)state;
    write_small("model.safetensors", "x");
    write_index("broken");
    assert_has((const char *const[]){ "x" }, 1);
}

static void folder_without_index_is_taken_whole(void **state)
{
    (void)state;
    write_small("b.safetensors", "x");
    write_small("a.safetensors", "y");
    write_small("consolidated.safetensors", "x");
    assert_has((const char *const[]){ "x", "y" }, 2);
}

static void consolidated_alone_is_taken(void **state)
{
    (void)state;
    write_small("consolidated.safetensors", "x");
    assert_has((const char *const[]){ "x" }, 1);
}

static void more_files_than_the_soft_limit_of_descriptors_are_opened(void **state)
{
    struct rlimit was, few;
    struct checkpoint *c;
    char name[32];

    (void)state;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "%02d.safetensors", i);
        write_small(name, name);
    }
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    few = (struct rlimit){ 24, was.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(checkpoint_open(temp.path, &c), STATUS_OK);
    assert_int_equal(checkpoint_count(c), 40);
    checkpoint_close(c);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
}

static void folder_errors_name_file_and_tensor(void **state)
{
    (void)state;
    assert_refused(STATUS_INVALID, "no model.safetensors");
    write_small("a.safetensors", "x");
    write_small("b.safetensors", "x");
    assert_refused(STATUS_INVALID, "tensor x is in both a.safetensors and b.safetensors");
    temp_dir_write(&temp, "b.safetensors", "\11\0\0\0\0\0\0\0", 8);
    assert_refused(STATUS_INVALID,
                   "b.safetensors: header length 9 is larger than the file (8 bytes)");
}

static void index_errors_name_file_and_tensor(void **state)
{
    (void)state;
    write_small("1.safetensors", "a");
    write_index("{}");
    assert_refused(STATUS_INVALID, "weight_map is missing");
    write_index("{\"weight_map\": {}}");
    assert_refused(STATUS_INVALID, "weight_map is missing, empty");
    write_index("{\"weight_map\": {\"a\": 1}}");
    assert_refused(STATUS_INVALID, "tensor a is mapped to something that is not a string");
    write_index("{\"weight_map\": {\"a\": \"../1.safetensors\"}}");
    assert_refused(STATUS_INVALID, "tensor a is mapped to ../1.safetensors, which is not");
    write_index("{\"weight_map\": {\"a\": \"..\"}}");
    assert_refused(STATUS_INVALID, "tensor a is mapped to .., which is not");
    write_index("{\"weight_map\": {\"a\": \"/etc/passwd\"}}");
    assert_refused(STATUS_INVALID, "not the name of a file in the same directory");
    write_index("{\"weight_map\": ");
    assert_refused(STATUS_INVALID, "model.safetensors.index.json: line 1: not valid JSON");
    write_index("version https://git-lfs.github.com/spec/v1\n");
    assert_refused(STATUS_INVALID, "model.safetensors.index.json is a Git LFS pointer");
    assert_int_equal(unlink(temp_dir_file(&temp, "model.safetensors.index.json")), 0);
    assert_int_equal(mkfifo(temp.joined, 0600), 0);
    assert_refused(STATUS_INVALID, "model.safetensors.index.json is a pipe, not a file");
}

static void missing_shards_are_named(void **state)
{
    (void)state;
    write_small("model-00001-of-00003.safetensors", "a");
    assert_refused(STATUS_IO, "/model-00002-of-00003.safetensors and 1 more is missing, which the "
                              "others' names promise: download the model again");
    write_small("model-00003-of-00003.safetensors", "b");
    assert_refused(STATUS_IO, "/model-00002-of-00003.safetensors is missing, which the others'");
    write_index("{\"weight_map\": {\"a\": \"model-00001-of-00003.safetensors\", "
                "\"c\": \"model-00002-of-00003.safetensors\"}}");
    assert_refused(STATUS_IO, "/model-00002-of-00003.safetensors is missing, which "
                              "model.safetensors.index.json names: download the model again");
    write_small("model-00002-of-00003.safetensors", "c");
    assert_has((const char *const[]){ "a", "c" }, 2);
    assert_int_equal(unlink(temp_dir_file(&temp, "model.safetensors.index.json")), 0);
    assert_has((const char *const[]){ "a", "b", "c" }, 3);
}

/* As Hugging Face's cache has them: links into blobs, one of which was never finished. */
static void links_into_a_cache_are_followed(void **state)
{
    (void)state;
    write_small("blob", "a");
    assert_int_equal(symlink("blob", temp_dir_file(&temp, "1.safetensors")), 0);
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\"}}");
    assert_has((const char *const[]){ "a" }, 1);
    assert_int_equal(unlink(temp_dir_file(&temp, "blob")), 0);
    assert_refused(STATUS_IO, "/1.safetensors is a link to blob, which is not there: download it");
}

static void what_is_in_place_of_weights_is_named(void **state)
{
    (void)state;
    temp_dir_write(&temp, "pytorch_model-00001-of-00002.bin", "PK", 2);
    assert_refused(STATUS_INVALID, "no other *.safetensors: it has pickled weights, "
                                   "pytorch_model-00001-of-00002.bin: save them as safetensors");
    temp_dir_write(&temp, "training_args.bin", "PK", 2);
    temp_dir_write(&temp, "MODEL.SAFETENSORS", "", 0);
    assert_refused(STATUS_INVALID, "it has MODEL.SAFETENSORS: rename it, in small letters");
    temp_dir_write(&temp, "model.safetensors.incomplete", "", 0);
    assert_refused(STATUS_INVALID, "model.safetensors.incomplete tells that the download did not");
    temp_dir_write(&temp, "x.Q8_0.GGUF", "", 0);
    assert_refused(STATUS_INVALID, "it has x.Q8_0.GGUF, as llama.cpp reads");
    temp_dir_write(&temp, "adapter_config.json", "{}", 2);
    write_small("adapter_model.safetensors", "a");
    assert_refused(STATUS_INVALID, "it is a LoRA adapter: merge it into its model");
}

static void index_and_files_may_disagree(void **state)
{
    (void)state;
    write_small("1.safetensors", "a");
    write_small("2.safetensors", "b");
    write_index("{\"weight_map\": {\"a\": \"1.safetensors\", \"c\": \"2.safetensors\"}}");
    assert_has((const char *const[]){ "a", "b" }, 2);
    write_index("{\"weight_map\": {\"a\": \"2.safetensors\", \"b\": \"1.safetensors\"}}");
    assert_has((const char *const[]){ "a", "b" }, 2);
    write_index("{\"weight_map\": {\"a\": \"x\", \"a\": \"1.safetensors\"}}");
    assert_has((const char *const[]){ "a" }, 1);
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(index_names_the_files),
        IN_TEMP(single_file_comes_first),
        IN_TEMP(folder_without_index_is_taken_whole),
        IN_TEMP(consolidated_alone_is_taken),
        IN_TEMP(more_files_than_the_soft_limit_of_descriptors_are_opened),
        IN_TEMP(folder_errors_name_file_and_tensor),
        IN_TEMP(index_errors_name_file_and_tensor),
        IN_TEMP(missing_shards_are_named),
        IN_TEMP(links_into_a_cache_are_followed),
        IN_TEMP(what_is_in_place_of_weights_is_named),
        IN_TEMP(index_and_files_may_disagree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
