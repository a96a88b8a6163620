/* ipc_support.h - what the tests of ipc/ share: one segment seen at two
 * addresses, children that report by their exit status. */
#ifndef TESTS_IPC_SUPPORT_H
#define TESTS_IPC_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ipc/segment.h"
#include "quern/spin.h"
#include "quern/log.h"
#include "tests/support/random.h"

/* No test waits longer for anything, however slow the machine. */
#define TEST_PATIENCE_NS (120 * UINT64_C(1000000000))

struct views {
    struct segment a, b; /* the same memory, as two processes would see it */
};

static inline void views_open(struct views *v, size_t bytes)
{
    assert_int_equal(segment_create("test", bytes, &v->a), STATUS_OK);
    assert_int_equal(segment_map(dup(v->a.fd), &v->b), STATUS_OK);
    assert_ptr_not_equal(v->a.base, v->b.base);
}

static inline void views_close(struct views *v)
{
    segment_close(&v->b);
    segment_close(&v->a);
}

/* The child's body returns whether all was well; it must not assert. */
static inline pid_t child_start(_Bool (*body)(void *), void *context)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(body(context) ? 0 : 1);
    assert_true(pid > 0);
    return pid;
}

static inline void child_must_succeed(pid_t pid)
{
    int status = -1;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#endif
