/* stress_pool.c - the pool with more threads than cores: many jobs of random length, random
 * pauses of the caller (so that threads sleep at every gate), stops now and then. Every sum
 * must come out, or it hangs and the alarm ends it.
 *
 *     stress_pool [seconds] [seed]     prints its seed; exit status 0 or 1 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"

enum { MOST = 8, GRACE = 60 };

struct work {
    struct pool *pool;
    int rounds, stop_at; /* the barrier at which thread 0 says stop; -1: never */
    int sums[MOST];      /* each thread its own */
    int seen[MOST];      /* rounds that each thread ran */
};

static uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void run(void *context, int thread)
{
    struct work *w = context;

    w->seen[thread] = 0;
    for (int i = 0; i < w->rounds; i++) {
        w->sums[thread] += i;
        w->seen[thread]++;
        if (pool_barrier(w->pool, thread == 0 && i == w->stop_at))
            return;
    }
}

static int check(const struct work *w, int threads)
{
    int rounds = w->stop_at >= 0 && w->stop_at < w->rounds ? w->stop_at + 1 : w->rounds;

    for (int t = 0; t < threads; t++)
        if (w->seen[t] != rounds || w->sums[t] != rounds * (rounds - 1) / 2)
            return 1;
    return 0;
}

/* A pool's life: some hundred jobs, two of them posted at a time. */
static int one_pool(int threads, uint64_t *random)
{
    struct work work[2] = {{0}};
    struct pool *p;
    int wrong = 0;

    if (pool_open(threads, -1, &p) != STATUS_OK)
        return 1;
    for (int job = 0; job < 300; job++) {
        uint32_t tickets[2];

        for (int i = 0; i < 2; i++) {
            work[i] = (struct work){.pool = p, .rounds = (int)(random_next(random) % 50),
                .stop_at = random_next(random) % 4 == 0 ? (int)(random_next(random) % 50) : -1};
            if (pool_post(p, run, &work[i], &tickets[i]) != STATUS_OK)
                wrong++;
        }
        if (random_next(random) % 8 == 0)
            nanosleep(&(struct timespec){.tv_nsec = (long)(random_next(random) % 200000)}, NULL);
        for (int i = 0; i < 2; i++) {
            pool_wait(p, tickets[i]);
            wrong += check(&work[i], threads);
        }
    }
    pool_close(p);
    return wrong;
}

int main(int argc, char **argv)
{
    int seconds = argc > 1 ? atoi(argv[1]) : 5, pools = 0, wrong = 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64_t)time(NULL), random = seed;
    time_t end = time(NULL) + seconds;

    printf("# seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    alarm((unsigned)seconds + GRACE);
    while (time(NULL) < end && wrong == 0) {
        wrong += one_pool(1 + (int)(random_next(&random) % MOST), &random);
        pools++;
    }
    printf("1..1\n%s 1 - %d pools of up to %d threads, %d wrong\n", wrong ? "not ok" : "ok", pools,
        MOST, wrong);
    return wrong != 0;
}
