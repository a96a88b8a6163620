/* bench_collectives.c - all ranks run the same fixed calls; rank 0 looks at its clock.
 *
 * In each round every way has a batch, in an order that is drawn anew, the same
 * on all ranks: what disturbs the machine for a while disturbs none of the ways
 * in particular, and none comes always behind the same other one. Each batch
 * begins with a call that does not count, so that no way pays for the caches
 * that another has filled. Times are medians over the rounds. Algorithms are
 * the dispatcher's own, on its buffers: it is compared with nothing but its
 * choice. */
#include "tools/bench_collectives.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cores.h"
#include "quern/flag.h"
#include "ipc/segment.h"
#include "quern/spin.h"
#include "kernels/cpu/cpu.h"
#include "parallel/coll_auto.h"
#include "quern/log.h"

enum {
    FLAG_TRIPS = 4000,
    FLAG_BATCHES = 8,
    BATCH_BYTES = 512 << 10,
    MOST_CALLS = 48,
};
static const uint64_t deadline_ns = 60 * UINT64_C(1000000000);

/* On the segment's first pages. */
struct shared {
    _Alignas(64) _Atomic uint32_t abort_word; /* a rank that fails */
    struct flag ping, pong;               /* ranks 0 and 1 */
    struct bench_group group;                 /* rank 0 */
    char error[LOG_LINE_BYTES];               /* the first rank that fails */
};

/* One rank. */
struct bencher {
    struct shared *shared;
    struct coll_shm_options o;
    struct symheap heap;
    struct comm *comm;
    void *exchange;  /* [largest size], between ranks 0 and 1 */
    float *x, *y, *out, *w;
    float *rounds;   /* [BENCH_WAYS][effort] microseconds */
    uint32_t random; /* of the order of ways */
    int effort;
};

static size_t exchange_at(void)
{
    return (sizeof(struct shared) + SYMHEAP_PAGE - 1) / SYMHEAP_PAGE * SYMHEAP_PAGE;
}

/* What lies in front of the heap. */
static size_t shared_bytes(void)
{
    return exchange_at() + bench_reduce_bytes(BENCH_REDUCE_SIZES - 1);
}

static int calls_of(size_t bytes)
{
    size_t calls = 1 + BATCH_BYTES / bytes;

    return calls < MOST_CALLS ? (int)calls : MOST_CALLS;
}

static enum status options_make(int ranks, struct coll_shm_options *o)
{
    struct cpu_kernels kernels;
    enum status s = cpu_kernels_select(NULL, &kernels);

    if (s == STATUS_OK)
        *o = (struct coll_shm_options){
            .size = ranks,
            .threads = 1,
            .reduce_floats = bench_reduce_bytes(BENCH_REDUCE_SIZES - 1) / sizeof(float),
            .gather_bytes = SYMHEAP_PAGE,
            .norm_cols = BENCH_NORM_COLS,
            .deadline_ns = deadline_ns,
            .sum_ranks = kernels.sum_ranks,
            .add_norm = kernels.add_norm,
        };
    return s;
}

/* What this machine can do --------------------------------------------------------------- */

static enum status round_trips(struct bencher *b, uint32_t from, uint32_t n)
{
    struct shared *sh = b->shared;
    struct flag *mine = b->o.rank == 0 ? &sh->ping : &sh->pong;
    struct flag *theirs = b->o.rank == 0 ? &sh->pong : &sh->ping;
    uint64_t deadline = spin_deadline_ns(deadline_ns);
    enum status s = STATUS_OK;

    for (uint32_t i = from; s == STATUS_OK && i < from + n; i++) {
        if (b->o.rank == 0)
            flag_publish(mine, i);
        s = flag_wait(theirs, i, &sh->abort_word, deadline);
        if (s == STATUS_OK && b->o.rank == 1)
            flag_publish(mine, i);
    }
    return s;
}

/* Ranks 0 and 1, while the others sleep in the next collective. */
static enum status measure_flags(struct bencher *b)
{
    uint64_t before = flag_spin_ns;
    double best = 0;
    enum status s = STATUS_OK;

    flag_spin_ns = FLAG_SPIN_NS;
    for (uint32_t i = 0; s == STATUS_OK && i < FLAG_BATCHES; i++) {
        uint64_t start = spin_now_ns();
        double us;

        s = round_trips(b, 1 + i * FLAG_TRIPS, FLAG_TRIPS);
        us = (double)(spin_now_ns() - start) * 1e-3 / FLAG_TRIPS;
        best = i == 0 || us < best ? us : best;
    }
    flag_spin_ns = before;
    if (b->o.rank == 0)
        b->shared->group.round_trip_us = best;
    return s;
}

static double time_copies(struct bencher *b, size_t bytes, int calls)
{
    uint64_t start = spin_now_ns();

    for (int i = 0; i < calls; i++) {
        memcpy(b->out, b->y, bytes);
        __asm__ __volatile__("" ::: "memory"); /* every copy is made */
    }
    return (double)(spin_now_ns() - start) * 1e-3 / calls;
}

/* Eight chains: the loads are all that this waits for. */
static uint64_t read_words(const uint64_t *p, size_t n)
{
    uint64_t sum[8] = {0}, all = 0;

    for (size_t i = 0; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += p[i + (size_t)j];
    for (int j = 0; j < 8; j++)
        all += sum[j];
    return all;
}

/* Rank 0 reads what rank 1 has just written, by loads alone and as a copy in turn. */
static enum status time_peer(struct bencher *b, size_t bytes, uint32_t round, double *us)
{
    struct shared *sh = b->shared;
    uint64_t deadline = spin_deadline_ns(deadline_ns), start;
    enum status s;

    if (b->o.rank == 1) {
        s = flag_wait(&sh->ping, round, &sh->abort_word, deadline);
        if (s == STATUS_OK)
            memset(b->exchange, (int)round, bytes);
        flag_publish(&sh->pong, round);
        return s;
    }
    flag_publish(&sh->ping, round);
    s = flag_wait(&sh->pong, round, &sh->abort_word, deadline);
    start = spin_now_ns();
    if (round % 2 == 0)
        memcpy(b->out, b->exchange, bytes);
    else
        *(volatile uint64_t *)(void *)b->out = read_words(b->exchange, bytes / sizeof(uint64_t));
    __asm__ __volatile__("" ::: "memory");
    *us = (double)(spin_now_ns() - start) * 1e-3;
    return s;
}

static void keep_least(double *best, double us)
{
    *best = *best <= 0 || us < *best ? us : *best;
}

/* One rank by itself, and ranks 0 and 1 while the others wait in the next collective. */
static enum status measure_limits(struct bencher *b, int size, struct bench_reduce *r)
{
    size_t bytes = bench_reduce_bytes(size);
    uint32_t first = FLAG_TRIPS * FLAG_BATCHES + 1 + (uint32_t)(size * b->effort);
    enum status s = STATUS_OK;

    for (int i = 0; i < b->effort; i++)
        keep_least(&r->copy_us, time_copies(b, bytes, calls_of(bytes)));
    for (int i = 0; s == STATUS_OK && b->o.rank < 2 && i < b->effort; i++) {
        double us = 0;

        s = time_peer(b, bytes, first + (uint32_t)i, &us);
        if (b->o.rank == 0)
            keep_least(&r->peer_us, us);
    }
    return s;
}

/* Ways ----------------------------------------------------------------------------------- */

static struct fused_norm_args norm_args(const struct bencher *b, size_t floats)
{
    size_t cols = floats < BENCH_NORM_COLS ? floats : BENCH_NORM_COLS;

    return (struct fused_norm_args){.out = b->out, .x = b->x, .y = b->y, .w = b->w, .eps = 1e-6f,
        .rows = floats / cols, .cols = cols};
}

static enum status call_once(struct bencher *b, int way, size_t floats)
{
    struct fused_norm_args a = norm_args(b, floats);
    struct comm *c = b->comm;
    enum status s;

    if (way >= BENCH_FUSED) {
        if (way < BENCH_FUSED_AUTO)
            c = coll_auto_algorithm(b->comm, way - BENCH_FUSED);
        return c->row->fused_all_reduce_norm(c, 0, 1, &a);
    }
    if (way < BENCH_AUTO)
        c = coll_auto_algorithm(b->comm, way - BENCH_REDUCE);
    s = c->row->all_reduce_f32(c, 0, 1, b->y, floats);
    if (s == STATUS_OK && way == BENCH_UNFUSED)
        b->o.add_norm(a.out, a.x, a.y, a.w, a.eps, (uint32_t)a.cols, 0, (uint32_t)a.rows);
    return s;
}

static enum status meet(struct bencher *b)
{
    char all[COMM_MAX_RANKS];

    return b->comm->row->all_gather(b->comm, "", 1, all);
}

/* From when all ranks are there until all are through, as choose.c measures. */
static enum status run_batch(struct bencher *b, int way, size_t floats, int calls, float *us)
{
    enum status s = call_once(b, way, floats), met;
    uint64_t start;

    if (s != STATUS_OK)
        return s == STATUS_UNSUPPORTED ? STATUS_OK : s; /* its time stays 0 */
    s = meet(b);
    start = spin_now_ns();
    for (int i = 0; s == STATUS_OK && i < calls; i++)
        s = call_once(b, way, floats);
    met = meet(b);
    *us = (float)(spin_now_ns() - start) * 1e-3f / (float)calls;
    return s == STATUS_OK ? met : s;
}

/* The same order on every rank: drawn from the same numbers. */
static void shuffle(uint32_t *state, int order[BENCH_WAYS])
{
    for (int i = 0; i < BENCH_WAYS; i++) {
        int j;

        *state = *state * 1664525u + 1013904223u;
        j = (int)((*state >> 16) % (uint32_t)(i + 1));
        order[i] = order[j];
        order[j] = i;
    }
}

static enum status measure_size(struct bencher *b, int size)
{
    size_t bytes = bench_reduce_bytes(size), floats = bytes / sizeof(float);
    struct bench_reduce r = {0};
    int order[BENCH_WAYS];
    enum status s = measure_limits(b, size, &r);

    memset(b->rounds, 0, (size_t)(BENCH_WAYS * b->effort) * sizeof(float));
    for (int round = 0; s == STATUS_OK && round < b->effort; round++) {
        shuffle(&b->random, order);
        for (int i = 0; s == STATUS_OK && i < BENCH_WAYS; i++)
            s = run_batch(b, order[i], floats, calls_of(bytes),
                &b->rounds[order[i] * b->effort + round]);
    }
    if (s != STATUS_OK || b->o.rank != 0)
        return s;
    for (int way = 0; way < BENCH_WAYS; way++)
        r.us[way] = (double)choice_median(b->rounds + way * b->effort, b->effort);
    b->shared->group.sizes[size] = r;
    return s;
}

static enum status measure_all(struct bencher *b)
{
    enum status s = b->o.rank < 2 ? measure_flags(b) : STATUS_OK;

    if (s == STATUS_OK) /* the others waited here */
        s = meet(b);
    for (int i = 0; s == STATUS_OK && i < BENCH_REDUCE_SIZES; i++)
        s = measure_size(b, i);
    if (b->o.rank == 0)
        b->shared->group.choice = *coll_auto_choice(b->comm);
    return s;
}

/* Ranks ---------------------------------------------------------------------------------- */

static enum status buffers_open(struct bencher *b)
{
    size_t n = b->o.reduce_floats;

    b->x = malloc(4 * n * sizeof(float));
    b->rounds = malloc((size_t)(BENCH_WAYS * b->effort) * sizeof(float));
    if (b->x == NULL || b->rounds == NULL)
        return log_fail(STATUS_NOMEM, "no memory for buffers of %zu floats", n);
    b->y = b->x + n;
    b->out = b->y + n;
    b->w = b->out + n;
    /* Zeros: sums of sums of sums stay what they are. Written, so that pages are there. */
    memset(b->x, 0, 4 * n * sizeof(float));
    return STATUS_OK;
}

/* Ranks dealt out over the cores: where a scheduler happens to put them would be another
 * measurement. */
static void pin(int rank)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)cores_cpu(rank), &set);
    sched_setaffinity(0, sizeof(set), &set); /* refused: then it is as it is */
}

static enum status live(struct bencher *b, const struct segment *segment, int rank)
{
    size_t at = shared_bytes();
    enum status s = symheap_attach((char *)segment->base + at, segment->bytes - at,
        (uint32_t)b->o.size, coll_auto_heap_bytes(&b->o), &b->heap);

    b->o.heap = &b->heap;
    b->o.abort_word = &b->shared->abort_word;
    b->o.rank = rank;
    b->exchange = (char *)segment->base + exchange_at();
    flag_spin_ns = b->o.size <= b->shared->group.cores ? FLAG_SPIN_NS : 0;
    pin(rank);
    if (s == STATUS_OK)
        s = buffers_open(b);
    if (s == STATUS_OK)
        s = coll_auto_open(&b->o, CHOICE_MOST_NS, &b->comm);
    if (s == STATUS_OK)
        s = measure_all(b);
    coll_auto_close(b->comm);
    free(b->x);
    free(b->rounds);
    return s;
}

/* A rank's whole life. */
static void run_rank(struct bencher *b, const struct segment *segment, int rank, pid_t parent)
{
    enum status s = STATUS_DEAD;
    uint32_t none = 0;

    log_set_sink(NULL, NULL); /* the parent tells, once */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent)
        s = live(b, segment, rank);
    /* acq_rel: the parent reads the line when it has reaped us */
    if (s != STATUS_OK && atomic_compare_exchange_strong_explicit(&b->shared->abort_word, &none, 1,
                              memory_order_acq_rel, memory_order_relaxed))
        memcpy(b->shared->error, log_last_error(), strlen(log_last_error()) + 1);
    _exit(s == STATUS_OK ? 0 : 1);
}

/* All ranks to their end; false when one failed. */
static bool reap(const pid_t *pids, int n)
{
    bool good = true;

    for (int r = 0; r < n; r++) {
        int status = -1;

        while (waitpid(pids[r], &status, 0) < 0 && errno == EINTR)
            ;
        good = good && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    return good;
}

static enum status run_ranks(struct bencher *b, const struct segment *segment)
{
    pid_t pids[COMM_MAX_RANKS], self = getpid();
    int n;

    for (n = 0; n < b->o.size; n++) {
        pids[n] = fork();
        if (pids[n] == 0)
            run_rank(b, segment, n, self);
        if (pids[n] < 0)
            break;
    }
    if (n < b->o.size) /* release: ends those that wait for the others */
        atomic_store_explicit(&b->shared->abort_word, 1, memory_order_release);
    if (!reap(pids, n) || n < b->o.size)
        return log_fail(STATUS_DEAD, "bench: a rank failed: %s",
            b->shared->error[0] != '\0' ? b->shared->error : "it was killed, or could not start");
    return STATUS_OK;
}

enum status bench_group_measure(int ranks, int effort, struct bench_group *out)
{
    struct bencher b = {.effort = effort};
    struct segment segment;
    enum status s = options_make(ranks, &b.o);

    if (s != STATUS_OK)
        return s;
    s = segment_create("quern-bench", shared_bytes() +
        symheap_bytes((uint32_t)ranks, coll_auto_heap_bytes(&b.o)), &segment);
    if (s != STATUS_OK)
        return s;
    b.shared = segment.base;
    b.shared->group = (struct bench_group){.ranks = ranks, .cores = cores_usable()};
    s = run_ranks(&b, &segment);
    if (s == STATUS_OK)
        *out = b.shared->group;
    segment_close(&segment);
    return s;
}
