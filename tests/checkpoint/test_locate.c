/* test_locate.c - what -m may be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
    temp_dir_write(&temp, "tokenizer.json", "{}", 2);
    assert_int_equal(locate_model(temp.path, LOCATE_TOKENIZER, out, sizeof(out)), STATUS_OK);
    temp_dir_write(&temp, "config.json", "{}", 2);
    assert_found(temp.path, temp.path);
    assert_int_equal(locate_model(temp.path, LOCATE_MODEL, out, 4), STATUS_INVALID);
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
    make_folder("models--Own-er--Name.1/snapshots");
    make_folder("models--Own-er--Name.1/snapshots/0a1b");
    temp_dir_write(&temp, "models--Own-er--Name.1/refs/main", "0a1b\n", 5);
    temp_dir_write(&temp, "models--Own-er--Name.1/snapshots/0a1b/config.json", "{}", 2);
    snprintf(want, sizeof(want), "%s",
             temp_dir_file(&temp, "models--Own-er--Name.1/snapshots/0a1b"));
    assert_found("Own-er/Name.1", want);
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
        IN_TEMP(synth_names_pass_through),
        IN_TEMP(cache_names_find_their_snapshot),
        IN_TEMP(names_that_could_leave_the_cache_are_not_looked_up),
        IN_TEMP(nothing_means_the_storyteller),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
