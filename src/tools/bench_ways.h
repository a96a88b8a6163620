/* bench_ways.h - the ways of sending that `quern bench ipc` compares.
 *
 * `ring`, `broadcast ring` and `doorbell` are the runtime's own, message of 64 bytes
 * included; `bare` ways move one word by the same means and nothing else, and
 * the fastest of them is what the machine can do. Private to src/tools. */
#ifndef QUERN_TOOLS_BENCH_WAYS_H
#define QUERN_TOOLS_BENCH_WAYS_H

#include "tools/bench_peers.h"

enum { BENCH_MESSAGE_BYTES = 64 };

/* bench_awake.c: both ends spin. A shot goes there and back. */
extern const struct duel bench_ring_awake;
extern const struct duel bench_broadcast_one, bench_broadcast_three;
enum { BENCH_BARE_ONE = 4, BENCH_BARE_THREE = 2 };
extern const struct duel bench_bare_one[BENCH_BARE_ONE], bench_bare_three[BENCH_BARE_THREE];

/* bench_asleep.c: the reader sleeps in the kernel. A shot is one way: from before publishing
 * until the reader has the message. */
extern const struct duel bench_ring_asleep;
enum { BENCH_BARE_WAKES = 3 };
extern const struct duel bench_bare_wakes[BENCH_BARE_WAKES];

/* bench_flow.c: messages per second through a ring whose reader is awake, and through bare
 * lines. IO, TIMEOUT. */
enum status bench_flow_ring(struct bench *b, uint64_t ns, double *per_second);
enum status bench_flow_bare(struct bench *b, uint64_t ns, double *per_second);

#endif
