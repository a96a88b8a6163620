/* bench_peers.c - forking, pinning, and the statistics of samples.
 *
 * Peers are forked for each duel: they inherit its local state as it was
 * prepared, and nothing of an earlier one is left in their caches' way. They
 * are killed, not asked, because half of them sleep. */
#include "tools/bench_peers.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cores.h"
#include "quern/log.h"

enum { WARM_SHOTS = 1000 };
static const uint64_t patience_ns = UINT64_C(20) * 1000000000;

static enum status pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        return log_fail(STATUS_IO, "cannot run on CPU %d: %s", cpu, strerror(errno));
    return STATUS_OK;
}

enum status bench_open(struct bench *b)
{
    enum status s;

    *b = (struct bench){0};
    if (sched_getaffinity(0, sizeof(b->before), &b->before) != 0)
        return log_fail(STATUS_IO, "the CPUs of this process cannot be read: %s", strerror(errno));
    /* One CPU of each core: two threads of a core share their caches, which would be another
     * measurement. */
    while (b->n_cpus < 1 + BENCH_PEERS && b->n_cpus < cores_usable()) {
        b->cpus[b->n_cpus] = cores_cpu(b->n_cpus);
        b->n_cpus++;
    }
    if (b->n_cpus < 2)
        return log_fail(STATUS_INVALID,
            "a message between processes needs two cores, this process may use %d: see taskset",
            b->n_cpus);
    s = segment_create("quern-bench", 64 + BENCH_WORK_BYTES, &b->segment);
    if (s != STATUS_OK)
        return s;
    b->ready = b->segment.base;
    b->work = (unsigned char *)b->segment.base + 64;
    b->samples = malloc(BENCH_SAMPLES * sizeof(*b->samples));
    s = b->samples != NULL ? pin(b->cpus[0])
                           : log_fail(STATUS_NOMEM, "no memory for %d samples", BENCH_SAMPLES);
    if (s != STATUS_OK)
        bench_close(b);
    else
        memset(b->samples, 0, BENCH_SAMPLES * sizeof(*b->samples)); /* pages, before time counts */
    return s;
}

void bench_close(struct bench *b)
{
    bench_peers_end(b);
    sched_setaffinity(0, sizeof(b->before), &b->before);
    free(b->samples);
    segment_close(&b->segment);
    *b = (struct bench){0};
}

void bench_prepare(struct bench *b, uint64_t ns)
{
    memset(b->work, 0, BENCH_WORK_BYTES);
    /* relaxed: there are no peers yet */
    atomic_store_explicit(b->ready, 0, memory_order_relaxed);
    b->deadline_ns = spin_deadline_ns(ns + patience_ns);
}

/* A peer's whole life. */
static void live(struct bench *b, const struct duel *d, int peer, pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent ||
        pin(b->cpus[1 + peer]) != STATUS_OK)
        _exit(1);
    /* relaxed: it says nothing but itself */
    atomic_fetch_add_explicit(b->ready, 1, memory_order_relaxed);
    d->peer(b, d, peer);
    _exit(0);
}

enum status bench_peers_start(struct bench *b, const struct duel *d)
{
    pid_t self = getpid();

    for (int i = 0; i < d->peers; i++) {
        pid_t pid = fork();

        if (pid == 0)
            live(b, d, i, self);
        if (pid < 0)
            return log_fail(STATUS_IO, "cannot start a process: %s", strerror(errno));
        b->peers[b->n_peers++] = pid;
    }
    if (!bench_wait(b, b->ready, (uint32_t)d->peers, true))
        return log_fail(STATUS_TIMEOUT, "bench: a peer did not start: is the machine overloaded?");
    return STATUS_OK;
}

void bench_peers_end(struct bench *b)
{
    for (int i = 0; i < b->n_peers; i++)
        kill(b->peers[i], SIGKILL);
    for (int i = 0; i < b->n_peers; i++)
        while (waitpid(b->peers[i], NULL, 0) < 0 && errno == EINTR)
            ;
    b->n_peers = 0;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static struct figures summarise(uint32_t *samples, size_t n, int hops)
{
    qsort(samples, n, sizeof(*samples), by_value);
    return (struct figures){
        .median_ns = (double)samples[n / 2] / hops,
        .p99_ns = (double)samples[n - 1 - n / 100] / hops,
    };
}

static enum status shoot_for(struct bench *b, const struct duel *d, uint64_t ns, size_t *n)
{
    uint64_t end = spin_deadline_ns(ns);
    uint32_t warm;

    /* At least one sample, however slow a shot is. */
    for (int i = 0; i < WARM_SHOTS && (i == 0 || spin_now_ns() < end); i++)
        if (!d->shoot(b, d, &warm))
            goto late;
    end = spin_deadline_ns(ns);
    for (*n = 0; *n < BENCH_SAMPLES && (*n == 0 || spin_now_ns() < end); ++*n)
        if (!d->shoot(b, d, &b->samples[*n]))
            goto late;
    return STATUS_OK;
late:
    return log_fail(STATUS_TIMEOUT, "bench: a peer stopped answering (%s)", d->name);
}

enum status bench_measure(struct bench *b, const struct duel *d, uint64_t ns, struct figures *out)
{
    size_t n = 0;
    enum status s;

    bench_prepare(b, ns);
    s = d->prepare(b, d);
    if (s != STATUS_OK)
        return s;
    s = bench_peers_start(b, d);
    if (s == STATUS_OK)
        s = shoot_for(b, d, ns, &n);
    bench_peers_end(b);
    if (d->finish != NULL)
        d->finish(b);
    if (s == STATUS_OK)
        *out = summarise(b->samples, n, d->hops);
    return s;
}
