/* loop_fixture.h - what the loop's tests share: every test runs over both rows.
 *
 * ROW_TESTS(row, ...) names the same functions once per row. Where a machine
 * refuses io_uring its half is skipped, with the reason in the log. After each
 * test the number of open descriptors must be what it was. */
#ifndef TESTS_IPC_LOOP_FIXTURE_H
#define TESTS_IPC_LOOP_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "ipc/loop.h"
#include "quern/log.h"

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

struct fixture {
    const char *row;
    struct loop *loop;
    int fds;
};

__attribute__((unused)) static struct fixture fixture_uring = {.row = "uring"};
__attribute__((unused)) static struct fixture fixture_epoll = {.row = "epoll"};

#define ON_ROW(row, f)                                                                             \
    {                                                                                              \
#row "_" #f, f, fixture_open, fixture_close, &fixture_##row                                \
    }

static inline int open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (d != NULL && readdir(d) != NULL)
        n++;
    if (d != NULL)
        closedir(d);
    return n;
}

static inline int fixture_open(void **state)
{
    struct fixture *f = *state;

    f->fds = open_fds();
    f->loop = NULL;
    if (loop_open(f->row, &f->loop) == STATUS_OK)
        return 0;
    print_message("# %s\n", log_last_error());
    return strcmp(f->row, "uring") == 0 ? 0 : -1; /* epoll is always there */
}

static inline int fixture_close(void **state)
{
    struct fixture *f = *state;
    int now;

    loop_close(f->loop);
    f->loop = NULL;
    now = open_fds();
    if (now != f->fds)
        print_error("%d descriptors before, %d after\n", f->fds, now);
    return now == f->fds ? 0 : -1;
}

static inline struct loop *row_loop(void **state)
{
    struct fixture *f = *state;

    if (f->loop == NULL)
        skip();
    return f->loop;
}

static inline int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* An op that counts. */
struct probe {
    struct loop_op op;
    int calls, finals;
    int64_t last;
};

static inline void probe_done(struct loop_op *op, int64_t result)
{
    struct probe *p = op->context;

    p->calls++;
    p->finals += !loop_op_active(op);
    p->last = result;
}

static inline void probe_init(struct probe *p)
{
    *p = (struct probe){.op = {.done = probe_done, .context = p}};
}

/* Turns until the op is inactive; fails after 10 s without a completion. */
static inline void turn_until_final(struct loop *loop, const struct loop_op *op)
{
    while (loop_op_active(op))
        assert_int_equal(loop_turn(loop, 10 * SECOND), STATUS_OK);
}

/* What is already under way is delivered; then nothing more comes. */
static inline void turn_until_quiet(struct loop *loop)
{
    while (loop_turn(loop, 2 * MS) == STATUS_OK)
        continue;
}

static inline void stream_pair(int pair[2], int flags)
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, pair), 0);
}

static inline void close_pair(const int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

/* A listening socket in the abstract namespace: no file to leave behind. */
static inline int listen_at(struct sockaddr_un *name, socklen_t *bytes)
{
    static int serial;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    *bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                         (size_t)snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1,
                             "quern-test-loop-%d-%d", (int)getpid(), serial++));
    assert_int_equal(bind(fd, (struct sockaddr *)name, *bytes), 0);
    assert_int_equal(listen(fd, 128), 0);
    return fd;
}

static inline int connect_to(const struct sockaddr_un *name, socklen_t bytes)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (const struct sockaddr *)name, bytes), 0);
    return fd;
}

static inline void ring_bell(int fd)
{
    uint64_t one = 1;

    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

#endif
