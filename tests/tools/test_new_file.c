/* test_new_file.c - files that appear whole or not at all, where unnamed ones are refused and not.
 *
 * open() is wrapped: `refuse` makes it a file system that has no O_TMPFILE. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"
#include "tools/new_file.h"

static struct temp_dir dir;
static char path[1024], part[1100];
static bool refuse;

int __real_open(const char *name, int flags, ...);
int __wrap_open(const char *name, int flags, ...);

int __wrap_open(const char *name, int flags, ...)
{
    va_list args;
    mode_t mode;

    va_start(args, flags);
    mode = va_arg(args, mode_t);
    va_end(args);
    if (refuse && (flags & O_TMPFILE) == O_TMPFILE) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return __real_open(name, flags, mode);
}

static int setup(void **state)
{
    (void)state;
    temp_dir_make(&dir);
    snprintf(path, sizeof(path), "%s", temp_dir_file(&dir, "file"));
    snprintf(part, sizeof(part), "%s.part", path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    refuse = false;
    temp_dir_remove(&dir);
    return 0;
}

static void assert_holds(const char *text)
{
    char got[64] = "";
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    assert_non_null(fgets(got, sizeof(got), f));
    fclose(f);
    assert_string_equal(got, text);
}

static void write_new(const char *text)
{
    struct new_file f;

    assert_int_equal(new_file_open(&f, path), STATUS_OK);
    assert_int_equal(f.named, refuse);
    fputs(text, f.out);
    assert_int_equal(new_file_finish(&f, STATUS_OK), STATUS_OK);
}

static void it_takes_the_place_of_what_was_there(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        refuse = i == 1;
        write_new("one");
        assert_holds("one");
        write_new("two");
        assert_holds("two");
        assert_int_equal(access(part, F_OK), -1);
    }
}

static void what_failed_leaves_what_was_there(void **state)
{
    struct new_file f;

    (void)state;
    write_new("one");
    for (int i = 0; i < 2; i++) {
        refuse = i == 1;
        assert_int_equal(new_file_open(&f, path), STATUS_OK);
        fputs("half", f.out);
        assert_int_equal(access(part, F_OK), refuse ? 0 : -1);
        assert_int_equal(new_file_finish(&f, STATUS_DEAD), STATUS_DEAD);
        assert_int_equal(access(part, F_OK), -1);
        assert_holds("one");
    }
}

static void a_dead_writer_s_part_is_taken_over_and_a_living_one_s_is_not(void **state)
{
    struct new_file f;
    int fd;

    (void)state;
    refuse = true;
    temp_dir_write(&dir, "file.part", "longer than what comes", 22);
    fd = open(part, O_RDONLY | O_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(new_file_open(&f, path), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "file.part: another process is writing it"));
    close(fd);
    write_new("two");
    assert_holds("two");
}

static void a_signal_removes_the_part_and_ends_the_process(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    (void)state;
    refuse = true;
    for (int i = 0; i < 3; i++) {
        int status;
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0) {
            struct new_file f;

            signal(signals[i], SIG_DFL); /* a background job or nohup ignored it */
            if (new_file_open(&f, path) != STATUS_OK || access(part, F_OK) != 0)
                _exit(1);
            raise(signals[i]);
            _exit(2);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[i]);
        assert_int_equal(access(part, F_OK), -1);
        assert_int_equal(access(path, F_OK), -1);
    }
}

static void nohup_stays_nohup(void **state)
{
    struct new_file f;

    (void)state;
    refuse = true;
    signal(SIGHUP, SIG_IGN);
    assert_int_equal(new_file_open(&f, path), STATUS_OK);
    raise(SIGHUP);
    assert_int_equal(access(part, F_OK), 0);
    assert_int_equal(new_file_finish(&f, STATUS_OK), STATUS_OK);
    signal(SIGHUP, SIG_DFL);
}

static void what_cannot_be_written_is_named(void **state)
{
    struct new_file f;

    (void)state;
    assert_int_equal(new_file_open(&f, "/nowhere/file"), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/nowhere/file: cannot be written: No such file"));
    assert_int_equal(new_file_open(&f, dir.path), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "Is a directory"));
    assert_int_equal(new_file_open(&f, ""), STATUS_IO);
    assert_int_equal(new_file_open(&f, "/dev/full"), STATUS_OK);
    fputs("text", f.out);
    assert_int_equal(new_file_finish(&f, STATUS_OK), STATUS_IO);
    assert_non_null(strstr(log_last_error(), "/dev/full: cannot be written: No space left"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_takes_the_place_of_what_was_there, setup, teardown),
        cmocka_unit_test_setup_teardown(what_failed_leaves_what_was_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_dead_writer_s_part_is_taken_over_and_a_living_one_s_is_not,
            setup, teardown),
        cmocka_unit_test_setup_teardown(a_signal_removes_the_part_and_ends_the_process, setup,
            teardown),
        cmocka_unit_test_setup_teardown(nohup_stays_nohup, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_written_is_named, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
