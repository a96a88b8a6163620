/* bench_peers.h - processes on cores of their own that send each other things, timed.
 *
 * A duel is one way of sending: this process shoots, its peers (forked, each
 * pinned to another core) answer. bench_measure() runs a duel for a while and
 * gives the median and the 99th percentile of its shots.
 *
 * Memory:   a segment like a group's; `work` belongs to the duel under way.
 * Blocking: for the time asked. Every wait of both sides ends by b->deadline_ns.
 * Death:    peers are killed at the end of a duel, and when this process dies. */
#ifndef QUERN_TOOLS_BENCH_PEERS_H
#define QUERN_TOOLS_BENCH_PEERS_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "ipc/segment.h"
#include "quern/spin.h"
#include "quern/status.h"

enum { BENCH_PEERS = 3, BENCH_WORK_BYTES = 64 << 10, BENCH_SAMPLES = 1 << 20 };

struct bench {
    struct segment segment;
    unsigned char *work;   /* [BENCH_WORK_BYTES], zero when a duel is prepared */
    _Atomic uint32_t *ready; /* peers count themselves in */
    uint32_t *samples;     /* [BENCH_SAMPLES], local */
    cpu_set_t before;      /* this process's affinity, put back at the end */
    int cpus[1 + BENCH_PEERS], n_cpus; /* of different cores; cpus[0] is ours */
    pid_t peers[BENCH_PEERS];
    int n_peers;
    uint64_t deadline_ns;  /* of the duel under way */
};

struct figures {
    double median_ns, p99_ns;
};

struct duel {
    const char *name;
    int peers;
    int hops;      /* that one shot makes: 2 for there and back */
    bool one_line, pause; /* what the bare ways differ in */
    /* Before the fork. */
    enum status (*prepare)(struct bench *b, const struct duel *d);
    /* Answers until the deadline. */
    void (*peer)(struct bench *b, const struct duel *d, int peer);
    /* One sample; false past the deadline. */
    bool (*shoot)(struct bench *b, const struct duel *d, uint32_t *ns);
    /* After the peers are gone; may be NULL. */
    void (*finish)(struct bench *b);
};

/* INVALID (logged) when there are fewer than two cores; IO, NOMEM. */
enum status bench_open(struct bench *b);
void bench_close(struct bench *b);

/* Zeroes `work` and sets the deadline: `ns` and a generous while from now. */
void bench_prepare(struct bench *b, uint64_t ns);
/* Forks the peers and waits until all run. IO, TIMEOUT. */
enum status bench_peers_start(struct bench *b, const struct duel *d);
void bench_peers_end(struct bench *b);

/* Shoots for `ns`. Figures are per hop. TIMEOUT when a peer stopped answering. */
enum status bench_measure(struct bench *b, const struct duel *d, uint64_t ns, struct figures *out);

/* One turn of a wait. False past the deadline, which is looked at now and then. */
static inline bool bench_spin(const struct bench *b, uint32_t *turns, bool pause)
{
    if (pause)
        spin_pause();
    return (++*turns & 0xffff) != 0 || spin_now_ns() < b->deadline_ns;
}

/* Waits until `word` has `value`; false past the deadline. Acquire: pairs with the release of
 * whoever stored it. */
static inline bool bench_wait(const struct bench *b, const _Atomic uint32_t *word, uint32_t value,
    bool pause)
{
    uint32_t turns = 0;

    while (atomic_load_explicit(word, memory_order_acquire) != value)
        if (!bench_spin(b, &turns, pause))
            return false;
    return true;
}

#endif
