/* test_plugin.c - the example's module loads once; what is none is told why.
 *
 * The module is examples/02_strategy_plugin.c, built beside the other examples.
 * One for another version is made of it by changing its number in the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parallel/plugin.h"
#include "parallel/strategy.h"
#include "quern/log.h"
#include "quern/plugin.h"
#include "tests/checkpoint/temp_dir.h"

static struct temp_dir dir;

static int set_up(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    return 0;
}

static int take_down(void **state)
{
    (void)state;
    temp_dir_remove(&dir);
    return 0;
}

/* Where make puts it, or libtool. */
static const char *example(char path[4096])
{
    const char *folder = getenv("QUERN_EXAMPLES");

    snprintf(path, 4096, "%s/02_strategy_plugin.so", folder != NULL ? folder : "examples");
    if (access(path, R_OK) != 0)
        snprintf(path, 4096, "%s/.libs/02_strategy_plugin.so",
            folder != NULL ? folder : "examples");
    return path;
}

static void refuses(const char *path, const char *why)
{
    assert_int_equal(plugin_load(path), STATUS_INVALID);
    if (strstr(log_last_error(), why) == NULL || strstr(log_last_error(), path) == NULL)
        fail_msg("\"%s\" does not say \"%s\" of %s", log_last_error(), why, path);
}

static void what_is_no_plugin_is_told_why(void **state)
{
    Dl_info libc;

    (void)state;
    refuses("/nowhere/light.so", "No such file");
    refuses("light.so", "No such file");
    refuses(temp_dir_write(&dir, "text.so", "not a module", 12), "cannot be loaded as a plugin");
    assert_int_not_equal(dladdr((void *)(uintptr_t)printf, &libc), 0);
    if (strstr(libc.dli_fname, ".so") != NULL) /* not itself, as a sanitizer's printf would be */
        refuses(libc.dli_fname, "it has no symbol quern_plugin_api: write QUERN_PLUGIN");
}

static char *read_all(const char *path, long *n)
{
    FILE *f = fopen(path, "re");
    char *all;

    if (f == NULL || fseek(f, 0, SEEK_END) != 0)
        fail_msg("%s cannot be read: build the example first", path);
    *n = ftell(f);
    rewind(f);
    all = malloc((size_t)*n);
    assert_non_null(all);
    assert_int_equal(fread(all, 1, (size_t)*n, f), *n);
    fclose(f);
    return all;
}

/* The byte of the file that lies `address` bytes behind the module's first in memory. */
static char *at_address(char *file, uint64_t address)
{
    const Elf64_Ehdr *e = (const Elf64_Ehdr *)file;
    const Elf64_Phdr *p = (const Elf64_Phdr *)(file + e->e_phoff);

    for (int i = 0; i < e->e_phnum; i++)
        if (p[i].p_type == PT_LOAD && address >= p[i].p_vaddr &&
            address < p[i].p_vaddr + p[i].p_filesz)
            return file + p[i].p_offset + (address - p[i].p_vaddr);
    fail_msg("address %lx is in no segment", (unsigned long)address);
    return NULL;
}

static void another_version_is_not_run(void **state)
{
    const uint32_t other = 99;
    char path[4096], *file;
    void *module = dlopen(example(path), RTLD_NOW | RTLD_LOCAL), *symbol;
    Dl_info info;
    long n;

    (void)state;
    if (module == NULL)
        fail_msg("%s", dlerror());
    symbol = dlsym(module, "quern_plugin_api");
    assert_non_null(symbol);
    assert_int_not_equal(dladdr(symbol, &info), 0);
    file = read_all(path, &n);
    memcpy(at_address(file, (uint64_t)((char *)symbol - (char *)info.dli_fbase)), &other,
        sizeof(other));
    refuses(temp_dir_write(&dir, "other.so", file, (size_t)n),
        "it was built for plugin version 99, this quern has 1: build it again");
    free(file);
    dlclose(module);
    assert_null(strategy_find("light_colwise"));
}

static void the_example_registers_its_strategies(void **state)
{
    const struct strategy *s;
    uint32_t first, count, at = 0;
    char path[4096];

    (void)state;
    if (plugin_load(example(path)) != STATUS_OK)
        fail_msg("%s", log_last_error());
    s = strategy_find("light_colwise");
    assert_non_null(s);
    assert_int_equal(s->cut, CUT_ROWS);
    assert_int_equal(s->in, IN_REPLICATE);
    assert_int_equal(s->out, OUT_SHARD);
    assert_int_equal(s->applies, KIND_LINEAR);
    assert_int_equal(strategy_find("light_rowwise")->cut, CUT_COLS);
    for (int rank = 0; rank < 3; rank++) {
        assert_int_equal(strategy_range(s, 770, 16, rank, 3, &first, &count), STATUS_OK);
        assert_int_equal(first, at);
        at += count;
        if (rank == 0)
            assert_int_equal(count, 192); /* 49 units: 16 are even, 12 are three quarters */
    }
    assert_int_equal(at, 770);
    assert_int_equal(strategy_range(s, 32, 16, 0, 3, &first, &count), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), "light_colwise cannot cut 32"));
}

/* Every size that it can cut, it cuts so that the check is content. */
static void the_examples_ranges_always_tile(void **state)
{
    const struct strategy *s = strategy_find("light_rowwise");
    uint32_t first, count;

    (void)state;
    for (int size = 1; size <= 16; size++)
        for (uint32_t total = 16 * (uint32_t)size; total < 1000; total += 5)
            for (int rank = 0; rank < size; rank++)
                if (strategy_range(s, total, 16, rank, size, &first, &count) != STATUS_OK)
                    fail_msg("%s", log_last_error());
}

static void a_name_is_registered_once(void **state)
{
    char path[4096];

    (void)state;
    assert_int_equal(plugin_load(example(path)), STATUS_INVALID);
    assert_string_equal(log_last_error(),
        "there is a strategy light_colwise already: choose another name");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_plugin_is_told_why),
        cmocka_unit_test(another_version_is_not_run),
        cmocka_unit_test(the_example_registers_its_strategies),
        cmocka_unit_test(the_examples_ranges_always_tile),
        cmocka_unit_test(a_name_is_registered_once),
    };

    return cmocka_run_group_tests(tests, set_up, take_down);
}
