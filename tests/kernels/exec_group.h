/* exec_group.h - ranks as threads of one process: a struct comm without processes.
 *
 * What an operation leaves undefined is filled with NaN, so that reading it shows. */
#ifndef TESTS_KERNELS_EXEC_GROUP_H
#define TESTS_KERNELS_EXEC_GROUP_H

#include "quern/comm.h"

enum { GROUP_MAX = 4 };

struct shared;

/* `size` ranks of `threads` threads each. */
struct shared *group_open(int size, int threads);
void shared_close(struct shared *g);
struct comm *group_comm(struct shared *g, int rank);

/* Whether ranks can reduce, add and norm in one pass: not at all (as opened), by trying and
 * answering UNSUPPORTED, or yes. Before a program is loaded. */
enum group_fused { FUSED_MISSING, FUSED_UNSUPPORTED, FUSED_WORKS };
void group_set_fused(struct shared *g, enum group_fused fused);

/* How many all_gathers rank 0 has seen. */
int group_gathers(const struct shared *g);

/* The most bytes that rank 0 gave at once to all_gather or gather_rows. */
size_t group_most_given(const struct shared *g);

#endif
