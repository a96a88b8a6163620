/* bench_read.c - threads that read, and meet before and after each time.
 *
 * Each reads memory that it wrote itself, so that it is where the kernel puts
 * memory for that core. The size is the caller's: what fits a cache is read at
 * the cache's speed, as the weights would be. */
#include "tools/bench_read.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "quern/log.h"
#include "quern/spin.h"

enum { TIMES = 9, MOST_THREADS = 256, LEAST_BYTES = 1 << 20, MOST_BYTES = 128 << 20 };

struct reader {
    pthread_t thread;
    pthread_barrier_t *barrier;
    uint64_t *memory;
    size_t n;
    uint64_t began_ns, ended_ns, sum;
};

static uint64_t read_all(const uint64_t *at, size_t n)
{
    uint64_t sums[8] = {0};

    for (size_t i = 0; i < n; i += 8)
        for (size_t k = 0; k < 8; k++)
            sums[k] ^= at[i + k];
    return sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
}

static void *run(void *context)
{
    struct reader *r = context;

    memset(r->memory, 1, r->n * sizeof(*r->memory));
    for (int i = 0; i < TIMES; i++) {
        pthread_barrier_wait(r->barrier);
        r->began_ns = spin_now_ns();
        r->sum ^= read_all(r->memory, r->n);
        r->ended_ns = spin_now_ns();
        pthread_barrier_wait(r->barrier);
    }
    return NULL;
}

/* From the first that began to the last that ended. */
static uint64_t span_ns(const struct reader *readers, int n)
{
    uint64_t began = readers[0].began_ns, ended = readers[0].ended_ns;

    for (int i = 1; i < n; i++) {
        began = readers[i].began_ns < began ? readers[i].began_ns : began;
        ended = readers[i].ended_ns > ended ? readers[i].ended_ns : ended;
    }
    return ended - began;
}

static enum status start(struct reader *readers, int n, pthread_barrier_t *barrier, size_t bytes)
{
    for (int i = 0; i < n; i++) {
        readers[i] = (struct reader){.barrier = barrier, .n = bytes / 64 * 8,
            .memory = aligned_alloc(64, bytes / 64 * 64)};
        if (readers[i].memory == NULL)
            return log_fail(STATUS_NOMEM, "no memory to read");
    }
    for (int i = 0; i < n; i++)
        if (pthread_create(&readers[i].thread, NULL, run, &readers[i]) != 0) {
            log_fail(STATUS_IO, "cannot start thread %d of %d", i + 1, n);
            abort(); /* those that run wait for it at the barrier */
        }
    return STATUS_OK;
}

enum status bench_read(int threads, uint64_t bytes, double *rate)
{
    static struct reader readers[MOST_THREADS];
    int n = threads < MOST_THREADS ? threads : MOST_THREADS;
    uint64_t each = bytes / (uint64_t)n;
    pthread_barrier_t barrier;
    enum status s;

    each = each < LEAST_BYTES ? LEAST_BYTES : each > MOST_BYTES ? MOST_BYTES : each;
    pthread_barrier_init(&barrier, NULL, (unsigned)n + 1);
    s = start(readers, n, &barrier, each);
    for (int i = 0; s == STATUS_OK && i < TIMES; i++) {
        double now;

        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        now = (double)each * n * 1e9 / (double)span_ns(readers, n);
        *rate = now > *rate ? now : *rate;
    }
    for (int i = 0; i < n; i++) {
        if (s == STATUS_OK)
            pthread_join(readers[i].thread, NULL);
        free(readers[i].memory);
        readers[i].memory = NULL;
    }
    pthread_barrier_destroy(&barrier);
    return s;
}
