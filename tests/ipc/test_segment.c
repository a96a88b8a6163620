/* test_segment.c - sealed shared memory. */
#include "tests/ipc/ipc_support.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

static const int all_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

static int memfd(off_t bytes, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, bytes), 0);
    if (seals != 0)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void new_segment_is_zero_and_whole_pages(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create("test", 5000, &s), STATUS_OK);
    assert_int_equal(s.bytes % (size_t)sysconf(_SC_PAGESIZE), 0);
    assert_true(s.bytes >= 5000);
    for (size_t i = 0; i < s.bytes; i++)
        assert_int_equal(((unsigned char *)s.base)[i], 0);
    segment_close(&s);
    assert_null(s.base);
    segment_close(&s);
}

static void sealed_segment_cannot_change_size(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create("test", 8192, &s), STATUS_OK);
    assert_int_equal(ftruncate(s.fd, 4096), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(s.fd, 1 << 20), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(fcntl(s.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    segment_close(&s);
}

static void segment_fd_closes_on_exec(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create("test", 1, &s), STATUS_OK);
    assert_true((fcntl(s.fd, F_GETFD) & FD_CLOEXEC) != 0);
    segment_close(&s);
}

static void two_mappings_show_the_same_bytes(void **state)
{
    struct views v;

    (void)state;
    views_open(&v, 10000);
    assert_int_equal(v.a.bytes, v.b.bytes);
    memcpy(segment_at(&v.a, 9000, 6), "hello", 6);
    assert_string_equal(segment_at(&v.b, 9000, 6), "hello");
    views_close(&v);
}

static bool child_maps_and_answers(void *context)
{
    struct segment s;

    if (segment_map(*(int *)context, &s) != STATUS_OK || strcmp(segment_at(&s, 0, 6), "hello") != 0)
        return false;
    memcpy(segment_at(&s, 4096, 6), "world", 6);
    segment_close(&s);
    return true;
}

static void child_maps_what_the_parent_made(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create("test", 8192, &s), STATUS_OK);
    memcpy(s.base, "hello", 6);
    child_must_succeed(child_start(child_maps_and_answers, &s.fd));
    assert_string_equal(segment_at(&s, 4096, 6), "world");
    segment_close(&s);
}

static void refused(int fd, const char *because)
{
    struct segment s = {.fd = -7};

    assert_int_equal(segment_map(fd, &s), STATUS_INVALID);
    assert_non_null(strstr(log_last_error(), because));
    assert_int_equal(s.fd, -7);
}

static void unsealed_memfd_is_refused(void **state)
{
    static const int lacking[] = {
        0, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_GROW | F_SEAL_SEAL};

    (void)state;
    for (size_t i = 0; i < sizeof(lacking) / sizeof(lacking[0]); i++) {
        int fd = memfd(4096, lacking[i]);

        refused(fd, "is not sealed");
        assert_int_equal(close(fd), 0); /* it stayed ours */
    }
}

static void memfd_of_no_or_half_a_page_is_refused(void **state)
{
    int empty = memfd(0, all_seals), half = memfd(4096 + 100, all_seals);

    (void)state;
    refused(empty, "has 0 bytes");
    refused(half, "has 4196 bytes");
    close(empty);
    close(half);
}

static void other_fds_are_refused(void **state)
{
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    refused(fds[0], "is not a memfd");
    close(fds[0]);
    close(fds[1]);
    refused(fds[0], "is not a memfd");
    refused(-1, "is not a memfd");
}

static void impossible_sizes_are_refused(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create("test", 0, &s), STATUS_INVALID);
    assert_int_equal(segment_create("test", SIZE_MAX, &s), STATUS_INVALID);
    assert_int_equal(segment_create("test", (size_t)1 << 62, &s), STATUS_NOMEM);
    assert_non_null(strstr(log_last_error(), "4611686018427387904 bytes"));
}

static void ranges_outside_are_null(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create("test", 4096, &s), STATUS_OK);
    assert_ptr_equal(segment_at(&s, 0, s.bytes), s.base);
    assert_non_null(segment_at(&s, s.bytes, 0));
    assert_null(segment_at(&s, 1, s.bytes));
    assert_null(segment_at(&s, s.bytes + 1, 0));
    assert_null(segment_at(&s, SIZE_MAX, SIZE_MAX));
    segment_close(&s);
}

static void carving_aligns_and_adds_up(void **state)
{
    struct segment_cursor c = {0};
    size_t bytes;

    (void)state;
    assert_int_equal(segment_carve(&c, 10, 1), 0);
    assert_int_equal(segment_carve(&c, 1, 64), 64);
    assert_int_equal(segment_carve(&c, 0, 64), 128);
    assert_int_equal(segment_carve(&c, 100, 4096), 4096);
    assert_int_equal(segment_carved(&c, &bytes), STATUS_OK);
    assert_int_equal(bytes, 4196);
}

static void carving_too_much_is_reported_at_the_end(void **state)
{
    struct segment_cursor bad[3] = {{0}, {0}, {0}};
    size_t bytes = 7;

    (void)state;
    segment_carve(&bad[0], SIZE_MAX - 8, 1);
    segment_carve(&bad[0], 1, 64);
    segment_carve(&bad[1], 100, 1);
    segment_carve(&bad[1], SIZE_MAX - 50, 1);
    segment_carve(&bad[2], 8, 48);
    for (int i = 0; i < 3; i++) {
        segment_carve(&bad[i], 1, 1);
        assert_int_equal(segment_carved(&bad[i], &bytes), STATUS_INVALID);
    }
    assert_int_equal(bytes, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_segment_is_zero_and_whole_pages),
        cmocka_unit_test(sealed_segment_cannot_change_size),
        cmocka_unit_test(segment_fd_closes_on_exec),
        cmocka_unit_test(two_mappings_show_the_same_bytes),
        cmocka_unit_test(child_maps_what_the_parent_made),
        cmocka_unit_test(unsealed_memfd_is_refused),
        cmocka_unit_test(memfd_of_no_or_half_a_page_is_refused),
        cmocka_unit_test(other_fds_are_refused),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(ranges_outside_are_null),
        cmocka_unit_test(carving_aligns_and_adds_up),
        cmocka_unit_test(carving_too_much_is_reported_at_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
