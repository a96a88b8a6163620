/* memory.c - what the machine has, and what it really gives.
 *
 * MemAvailable is what most machines mean. A virtual machine may start small
 * and be given memory as it uses it, so a plan above that number is tried in a
 * child: it takes memory in steps and stops while enough is left for everybody
 * else, so nothing is ever killed for it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quern/log.h"
#include "worker/worker.h"

static const uint64_t try_step = 64u << 20, keep_free = 512u << 20;

uint64_t memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    if (f == NULL)
        return 0;
    while (fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
            break;
    fclose(f);
    return kib * 1024;
}

/* In the child: takes memory until `bytes` or until little is left; tells how much. */
static uint64_t take(uint64_t bytes)
{
    uint64_t taken = 0;

    while (taken < bytes && memory_available() > keep_free + try_step) {
        void *p = mmap(NULL, try_step, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

        if (p == MAP_FAILED)
            break;
        taken += try_step;
    }
    return taken;
}

enum status memory_try(uint64_t bytes, uint64_t *could)
{
    uint64_t taken = 0, available = memory_available();
    int pipe_fds[2];
    pid_t child;

    if (bytes <= available) {
        *could = available;
        return STATUS_OK;
    }
    if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        return log_fail(STATUS_IO, "no pipe: %s", strerror(errno));
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* who is killed meanwhile leaves nothing behind */
        taken = take(bytes);
        _exit(write(pipe_fds[1], &taken, sizeof(taken)) == (ssize_t)sizeof(taken) ? 0 : 1);
    }
    close(pipe_fds[1]);
    if (child < 0)
        log_warn("how much memory there is could not be tried: fork: %s", strerror(errno));
    if (child > 0) {
        if (read(pipe_fds[0], &taken, sizeof(taken)) != (ssize_t)sizeof(taken))
            taken = 0;
        waitpid(child, NULL, 0);
    }
    close(pipe_fds[0]);
    *could = taken;
    return taken >= bytes ? STATUS_OK : STATUS_NOMEM;
}

const char *memory_text(uint64_t bytes, char text[16])
{
    double x = (double)bytes;

    if (x >= 1e9)
        snprintf(text, 16, "%.1f GB", x / 1e9);
    else
        snprintf(text, 16, "%.1f MB", x / 1e6);
    return text;
}
