/* test_locate.c - what -m may be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "checkpoint/config.h"
#include "checkpoint/locate.h"
#include "quern/log.h"
#include "temp_dir.h"

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
    unsetenv("HF_HUB_CACHE");
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("QUERN_DATADIR");
    temp_dir_remove(&temp);
    return 0;
}

static void make_folder(const char *name)
{
    assert_int_equal(mkdir(temp_dir_file(&temp, name), 0777), 0);
}

static void assert_found(const char *model, const char *want)
{
    char out[PATH_MAX];

    if (locate_model(model, LOCATE_MODEL, out, sizeof(out)) != STATUS_OK)
        fail_msg("not found: %s", log_last_error());
    assert_string_equal(out, want);
}

static void directories_are_taken_as_they_are(void **state)
{
    char out[PATH_MAX];

    (void)state;
    assert_int_equal(locate_model(temp.path, LOCATE_MODEL, out, sizeof(out)), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "has no config.json"));
    assert_int_equal(locate_model(temp.path, LOCATE_TOKENIZER, out, sizeof(out)), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "has no tokenizer.json"));
    temp_dir_write(&temp, "vocab.json", "{}", 2); /* the older kind, with merges.txt */
    assert_int_equal(locate_model(temp.path, LOCATE_TOKENIZER, out, sizeof(out)), STATUS_OK);
    assert_int_equal(locate_model(temp.path, LOCATE_MODEL, out, sizeof(out)), STATUS_INVALID);
    temp_dir_write(&temp, "config.json", "{}", 2);
    assert_found(temp.path, temp.path);
    assert_int_equal(locate_model(temp.path, LOCATE_MODEL, out, 4), STATUS_INVALID);
}

static void assert_not_found(const char *model, const char *why)
{
    char out[PATH_MAX];

    assert_int_equal(locate_model(model, LOCATE_MODEL, out, sizeof(out)), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), why);
}

static void what_is_no_model_s_directory_is_named(void **state)
{
    static const char adapter[] = "{\"base_model_name_or_path\": \"Qwen/Qwen3-8B\"}";

    (void)state;
    make_folder("models--a--b");
    make_folder("models--a--b/snapshots");
    assert_not_found(temp_dir_file(&temp, "models--a--b"),
                     "has no config.json: it is a folder of Hugging Face's cache: name the model, "
                     "OWNER/NAME, or one of the folders in snapshots");
    temp_dir_write(&temp, "Config.JSON", "{}", 2);
    assert_not_found(temp.path, "it has Config.JSON: rename it to config.json");
    temp_dir_write(&temp, "Qwen3-8B-Q4_K_M.gguf", "GGUF\3\0\0\0", 8);
    assert_not_found(temp.path, "has no config.json: it has Qwen3-8B-Q4_K_M.gguf, as llama.cpp");
    assert_not_found(temp_dir_file(&temp, "Qwen3-8B-Q4_K_M.gguf"),
                     ".gguf is a GGUF file, as llama.cpp has them, not a model's directory");
    temp_dir_write(&temp, "adapter_config.json", adapter, strlen(adapter));
    assert_not_found(temp.path, "has no config.json: it is a LoRA adapter of Qwen/Qwen3-8B: merge");
    temp_dir_write(&temp, "adapter_config.json", "", 0);
    assert_not_found(temp.path, "has no config.json: it is a LoRA adapter: merge");
    temp_dir_write(&temp, "model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
    assert_not_found(temp.joined, "is a safetensors file, not a model's directory");
    temp_dir_write(&temp, "notes", "hello", 5);
    assert_not_found(temp.joined, "/notes is a file: -m takes the directory that has it");
    assert_int_equal(mkfifo(temp_dir_file(&temp, "pipe"), 0600), 0);
    assert_not_found(temp.joined, "/pipe is a pipe");
}

static void a_link_that_leads_nowhere_is_told_when_it_is_read(void **state)
{
    struct model_config cfg;

    (void)state;
    assert_int_equal(symlink("../../blobs/7f", temp_dir_file(&temp, "config.json")), 0);
    assert_found(temp.path, temp.path);
    assert_int_equal(config_read(temp.path, &cfg), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "is a link to ../../blobs/7f, which is not there"));
}

static void synth_names_pass_through(void **state)
{
    (void)state;
    assert_found("synth:8b", "synth:8b");
}

static void cache_names_find_their_snapshot(void **state)
{
    char want[PATH_MAX], out[PATH_MAX];

    (void)state;
    setenv("HF_HUB_CACHE", temp.path, 1);
    assert_int_equal(locate_model("Own-er/Name.1", LOCATE_MODEL, out, sizeof(out)),
                     STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "models--Own-er--Name.1"));
    make_folder("models--Own-er--Name.1");
    make_folder("models--Own-er--Name.1/refs");
    assert_int_equal(mkfifo(temp_dir_file(&temp, "models--Own-er--Name.1/refs/main"), 0600), 0);
    alarm(20); /* what waits for a writer ends the test */
    assert_int_equal(locate_model("Own-er/Name.1", LOCATE_MODEL, out, sizeof(out)),
                     STATUS_INVALID);
    alarm(0);
    assert_int_equal(unlink(temp.joined), 0);
    make_folder("models--Own-er--Name.1/snapshots");
    make_folder("models--Own-er--Name.1/snapshots/0a1b");
    temp_dir_write(&temp, "models--Own-er--Name.1/refs/main", "0a1b\n", 5);
    temp_dir_write(&temp, "models--Own-er--Name.1/snapshots/0a1b/config.json", "{}", 2);
    snprintf(want, sizeof(want), "%s",
             temp_dir_file(&temp, "models--Own-er--Name.1/snapshots/0a1b"));
    assert_found("Own-er/Name.1", want);
    assert_int_equal(unlink(temp_dir_file(&temp, "models--Own-er--Name.1/snapshots/0a1b/config.json")),
                     0);
    assert_not_found("Own-er/Name.1", "snapshots/0a1b has no config.json: download the model again");
}

static void names_that_could_leave_the_cache_are_not_looked_up(void **state)
{
    static const char *const bad[] = { "../x", "a/../b", "a/..", "a b/c", "name", "a/b/c", "/" };
    char out[PATH_MAX];

    (void)state;
    setenv("HF_HUB_CACHE", temp.path, 1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(locate_model(bad[i], LOCATE_MODEL, out, sizeof(out)), STATUS_INVALID);
        assert_null(strstr(log_last_error(), "models--"));
    }
}

static void nothing_means_the_storyteller(void **state)
{
    char want[PATH_MAX];

    (void)state;
    setenv("QUERN_DATADIR", temp.path, 1);
    make_folder("models");
    make_folder("models/storyteller");
    snprintf(want, sizeof(want), "%s", temp_dir_file(&temp, "models/storyteller"));
    temp_dir_write(&temp, "models/storyteller/config.json", "{}", 2);
    assert_found(NULL, want);
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(directories_are_taken_as_they_are),
        IN_TEMP(what_is_no_model_s_directory_is_named),
        IN_TEMP(a_link_that_leads_nowhere_is_told_when_it_is_read),
        IN_TEMP(synth_names_pass_through),
        IN_TEMP(cache_names_find_their_snapshot),
        IN_TEMP(names_that_could_leave_the_cache_are_not_looked_up),
        IN_TEMP(nothing_means_the_storyteller),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
