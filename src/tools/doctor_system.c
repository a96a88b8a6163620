/* doctor_system.c - what the kernel lets us do, found out by doing it.
 *
 * A version number says little: distributions patch, containers filter. So
 * each thing is tried once, through the runtime's own code where that can be
 * done without side effects. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/loop.h"
#include "ipc/segment.h"
#include "quern/log.h"
#include "tools/doctor.h"

enum { TRIED_SEGMENT_BYTES = 256 << 20 }; /* about what a group takes, untouched */

void doctor_check_shared_memory(struct report *r)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    struct segment segment;
    enum status status;

    sigaction(SIGXFSZ, &ignore, &before); /* a file size limit shall be an error, not the end */
    status = segment_create("quern-doctor", TRIED_SEGMENT_BYTES, &segment);
    sigaction(SIGXFSZ, &before, NULL);
    if (status != STATUS_OK) {
        report_add(r, VERDICT_PROBLEM, "shared memory", "%s", log_last_error());
        report_advise(r, "quern needs sealed memfds of some hundred megabytes: look at ulimit -f "
                         "and ulimit -v, and at the container's seccomp profile (memfd_create)");
        return;
    }
    segment_close(&segment);
    report_add(r, VERDICT_OK, "shared memory", "sealed memfds work (the size of /dev/shm does not "
                                               "matter)");
}

void doctor_check_eventfd(struct report *r)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0) {
        report_add(r, VERDICT_PROBLEM, "eventfd", "refused: %s", strerror(errno));
        report_advise(r, "allow eventfd2 in the container's seccomp profile, or raise ulimit -n");
        return;
    }
    close(fd);
    report_add(r, VERDICT_OK, "eventfd", "works");
}

/* What proc_spawn() needs; NULL when all is there. */
static const char *process_call_refused(void)
{
    int fd = pidfd_open(getpid(), 0), signal_number;

    if (fd < 0)
        return "pidfd_open";
    close(fd);
    /* No descriptor is in this range: nothing is closed. */
    if (close_range(INT_MAX - 1, INT_MAX, CLOSE_RANGE_CLOEXEC) != 0)
        return "close_range";
    return prctl(PR_GET_PDEATHSIG, &signal_number) != 0 ? "prctl" : NULL;
}

void doctor_check_processes(struct report *r)
{
    const char *refused = process_call_refused();

    if (refused == NULL) {
        report_add(r, VERDICT_OK, "processes", "pidfd_open, close_range and prctl work");
        return;
    }
    report_add(r, VERDICT_PROBLEM, "processes", "%s is refused: %s", refused, strerror(errno));
    report_advise(r, "quern needs Linux 5.11 or later, and a seccomp profile that allows %s",
        refused);
}

/* kernel.io_uring_disabled; -1 where the kernel has no such setting. */
static int uring_disabled(void)
{
    FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    int value = -1;

    if (f == NULL)
        return -1;
    if (fscanf(f, "%d", &value) != 1)
        value = -1;
    fclose(f);
    return value;
}

/* Says who refuses io_uring. `why` is what the loop said. */
static void explain_uring(struct report *r, enum verdict verdict, const char *why)
{
    struct io_uring_params params = {0};
    int disabled = uring_disabled(), error = 0;
    long fd = syscall(SYS_io_uring_setup, 4, &params);

    /* nothing to submit or to wait for: io_uring_enter alone may be refused */
    if (fd < 0 || syscall(SYS_io_uring_enter, fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        error = errno;
    if (fd >= 0)
        close((int)fd);
    if (error == EPERM && disabled > 0) {
        report_add(r, verdict, "io_uring", "refused: kernel.io_uring_disabled is %d", disabled);
        report_advise(r, "sysctl kernel.io_uring_disabled=0 (as root); until then epoll serves");
    } else if (error == EPERM || error == EACCES) {
        report_add(r, verdict, "io_uring", "refused by a filter: %s", strerror(error));
        report_advise(r, "allow io_uring_setup, io_uring_enter and io_uring_register in the "
                         "container's seccomp profile; until then epoll serves");
    } else if (error == ENOSYS) {
        report_add(r, verdict, "io_uring", "not in this kernel, or filtered");
        report_advise(r, "Linux 5.19 or later has what quern uses; until then epoll serves");
    } else {
        report_add(r, verdict, "io_uring", "%s", why);
        report_advise(r, "Linux 5.19 or later has what quern uses; until then epoll serves");
    }
}

static enum status try_loop(const char *name)
{
    struct loop *loop;
    enum status s = loop_open(name, &loop);

    if (s == STATUS_OK)
        loop_close(loop);
    return s;
}

static void check_forced_loop(struct report *r, const char *forced)
{
    if (strcmp(forced, "uring") != 0 && strcmp(forced, "epoll") != 0) {
        report_add(r, VERDICT_PROBLEM, "QUERN_LOOP", "\"%s\" is no loop", forced);
        report_advise(r, "set it to uring or epoll, or unset it to let quern choose");
        return;
    }
    report_add(r, VERDICT_NOTE, "QUERN_LOOP", "%s is forced", forced);
    report_advise(r, "unset it to let quern choose");
}

void doctor_check_loops(struct report *r)
{
    const char *forced = getenv("QUERN_LOOP");
    bool is_forced = forced != NULL && forced[0] != '\0';
    bool must_uring = is_forced && strcmp(forced, "uring") == 0;

    if (try_loop("uring") == STATUS_OK)
        report_add(r, VERDICT_OK, "io_uring", "works");
    else
        explain_uring(r, must_uring ? VERDICT_PROBLEM : VERDICT_NOTE, log_last_error());
    if (try_loop("epoll") == STATUS_OK)
        report_add(r, VERDICT_OK, "epoll", "works");
    else
        report_add(r, VERDICT_PROBLEM, "epoll", "%s", log_last_error());
    if (is_forced)
        check_forced_loop(r, forced);
}

static const char *limit_text(rlim_t limit, rlim_t unit, const char *unit_name, char text[48])
{
    if (limit == RLIM_INFINITY)
        return "unlimited";
    snprintf(text, 48, "%llu%s", (unsigned long long)(limit / unit), unit_name);
    return text;
}

static void check_limit(struct report *r, int which, const char *topic, rlim_t wanted, rlim_t unit,
    const char *unit_name, const char *advice)
{
    struct rlimit limit;
    char text[48];
    bool enough;

    if (getrlimit(which, &limit) != 0) {
        report_add(r, VERDICT_NOTE, topic, "cannot be read: %s", strerror(errno));
        return;
    }
    enough = limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= wanted;
    report_add(r, enough ? VERDICT_OK : VERDICT_NOTE, topic, "%s",
        limit_text(limit.rlim_cur, unit, unit_name, text));
    if (!enough)
        report_advise(r, "%s", advice);
}

void doctor_check_limits(struct report *r)
{
    check_limit(r, RLIMIT_MEMLOCK, "locked memory", 1 << 20, 1024, " KiB",
        "ulimit -l 8192: kernels before 5.12 count io_uring's buffers");
    check_limit(r, RLIMIT_NOFILE, "open files", 256, 1, "",
        "ulimit -n 1024: each connection takes a descriptor");
    check_limit(r, RLIMIT_FSIZE, "file size", (rlim_t)1 << 34, 1024, " KiB",
        "ulimit -f unlimited: it bounds shared memory too");
    check_limit(r, RLIMIT_AS, "address space", (rlim_t)1 << 34, 1 << 20, " MiB",
        "ulimit -v unlimited: weights and KV cache need it");
}
