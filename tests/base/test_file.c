/* test_file.c - files by name: what is opened, what is refused, and what mistaken files are called. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/socket.h>
#include <sys/un.h>

#include "base/file.h"
#include "quern/log.h"
#include "tests/checkpoint/temp_dir.h"

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

static void assert_said(const char *what)
{
    if (strstr(log_last_error(), what) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", log_last_error(), what);
}

static void assert_not_opened(const char *path, enum status want, const char *why)
{
    uint64_t bytes;
    int fd = -1;

    alarm(20); /* what waits for a writer ends the test */
    assert_int_equal(file_open(path, true, &fd, &bytes), want);
    assert_int_equal(fd, -1);
    alarm(0);
    assert_said(why);
}

static void what_is_not_a_file_is_refused_and_not_waited_for(void **state)
{
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);

    (void)state;
    assert_int_equal(mkfifo(temp_dir_file(&temp, "pipe"), 0600), 0);
    assert_not_opened(temp.joined, STATUS_INVALID, "/pipe is a pipe, not a file");
    snprintf(name.sun_path, sizeof(name.sun_path), "%.100s", temp_dir_file(&temp, "socket"));
    assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_not_opened(temp.joined, STATUS_INVALID, "/socket is a socket");
    assert_not_opened("/dev/zero", STATUS_INVALID, "/dev/zero is a device, not a file");
    assert_not_opened(temp.path, STATUS_INVALID, " is a directory, not a file");
    close(listener);
}

static void an_absent_file_may_be_optional_but_not_a_link_that_leads_nowhere(void **state)
{
    char *text;
    size_t n;
    uint64_t bytes;
    int fd;

    (void)state;
    assert_int_equal(file_open(temp_dir_file(&temp, "none"), true, &fd, &bytes), STATUS_CLOSED);
    assert_int_equal(file_read_whole(temp.joined, true, 9, &text, &n), STATUS_CLOSED);
    assert_int_equal(file_open(temp.joined, false, &fd, &bytes), STATUS_IO);
    assert_said("/none: No such file");
    assert_int_equal(symlink("../blobs/1a2b", temp_dir_file(&temp, "link")), 0);
    assert_not_opened(temp.joined, STATUS_IO, "/link is a link to ../blobs/1a2b, which is not "
                                              "there: download it again");
}

static void a_whole_file_ends_with_a_zero_byte_and_has_a_limit(void **state)
{
    const char *path = temp_dir_write(&temp, "whole", "abc\0d", 5);
    char *text;
    size_t n;

    (void)state;
    assert_int_equal(file_read_whole(path, false, 5, &text, &n), STATUS_OK);
    assert_int_equal(n, 5);
    assert_memory_equal(text, "abc\0d", 6);
    free(text);
    assert_int_equal(file_read_whole(path, false, 4, &text, &n), STATUS_INVALID);
    assert_said("/whole has 5 bytes, more than 4");
    temp_dir_write(&temp, "whole", "", 0);
    assert_int_equal(file_read_whole(path, false, 5, &text, &n), STATUS_OK);
    assert_int_equal(n, 0);
    assert_string_equal(text, "");
    free(text);
}

static void a_file_that_shrinks_is_an_error_that_names_it(void **state)
{
    const char *path = temp_dir_write(&temp, "shrinks", "0123456789", 10);
    char got[10];
    uint64_t bytes;
    int fd;

    (void)state;
    assert_int_equal(file_open(path, false, &fd, &bytes), STATUS_OK);
    assert_int_equal(bytes, 10);
    assert_int_equal(file_read_at(fd, path, 2, 8, got), STATUS_OK);
    assert_memory_equal(got, "23456789", 8);
    assert_int_equal(truncate(path, 7), 0);
    assert_int_equal(file_read_at(fd, path, 2, 5, got), STATUS_OK);
    assert_int_equal(file_read_at(fd, path, 2, 6, got), STATUS_IO);
    assert_said("/shrinks ends at byte 7, it was longer when it was opened");
    close(fd);
}

static void mistaken_files_are_called_what_they_are(void **state)
{
    static const struct {
        size_t n;
        const char *bytes, *what;
    } files[] = {
        { 0, "", "F is empty, not JSON: download it again" },
        { 60, "version https://git-lfs.github.com/spec/v1\noid sha256:00000000",
          "F is a Git LFS pointer, not JSON: run `git lfs pull`" },
        { 30, "\n <!DOCTYPE html>\n<html lang=en>", "F is a web page" },
        { 24, "<Error><Code>AccessDenied", "F is a web page" },
        { 10, "PK\3\4\0\0\0\0\0\0", "F is a zip archive" },
        { 8, "\200\2\212\nl\374\234F", "F is a Python pickle" },
        { 8, "\200\4\225\0\0\0\0\0", "F is a Python pickle" },
        { 8, "\x1f\x8b\x08\0\0\0\0\0", "F is compressed by gzip, not JSON: unpack it" },
        { 8, "\x28\xb5\x2f\xfd\0\0\0\0", "F is compressed by zstd" },
        { 8, "\xfd" "7zXZ\0\0\0", "F is compressed by xz" },
        { 8, "GGUF\3\0\0\0", "F is a GGUF file" },
        { 8, "\xff\xfe{\0\"\0a\0", "F is UTF-16 text" },
        { 6, "\xef\xbb\xbf{ }", "F is text behind a byte order mark" },
        { 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "F is zeros, not JSON: the download did not" },
        { 9, "\x20\0\0\0\0\0\0\0{", "F is a safetensors file, not JSON" },
        { 15, "Entry not found", "F is text (\"Entry not found\"), not JSON" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        assert_int_equal(file_recognise("F", "JSON", false, files[i].bytes, files[i].n),
                         STATUS_INVALID);
        assert_said(files[i].what);
    }
}

static void a_tar_archive_is_told_by_its_own_mark(void **state)
{
    char head[FILE_HEAD_BYTES] = "config.json";

    (void)state;
    memcpy(head + 257, "ustar", 5);
    assert_int_equal(file_recognise("F", "JSON", true, head, sizeof(head)), STATUS_INVALID);
    assert_said("F is a tar archive, not JSON: unpack it");
    assert_int_equal(file_recognise("F", "JSON", true, head, 261), STATUS_OK);
}

static void what_is_not_known_is_left_to_its_reader(void **state)
{
    (void)state;
    assert_int_equal(file_recognise("F", "JSON", true, "tru", 3), STATUS_OK);
    assert_int_equal(file_recognise("F", "a safetensors file", false, "\1\2\3", 3), STATUS_OK);
    assert_int_equal(file_recognise("F", "JSON", false, "P", 1), STATUS_INVALID); /* text */
    assert_int_equal(file_recognise("F", "JSON", true, "\x1f", 1), STATUS_OK);
}

#define IN_TEMP(name) cmocka_unit_test_setup_teardown(name, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TEMP(what_is_not_a_file_is_refused_and_not_waited_for),
        IN_TEMP(an_absent_file_may_be_optional_but_not_a_link_that_leads_nowhere),
        IN_TEMP(a_whole_file_ends_with_a_zero_byte_and_has_a_limit),
        IN_TEMP(a_file_that_shrinks_is_an_error_that_names_it),
        cmocka_unit_test(mistaken_files_are_called_what_they_are),
        cmocka_unit_test(a_tar_archive_is_told_by_its_own_mark),
        cmocka_unit_test(what_is_not_known_is_left_to_its_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
