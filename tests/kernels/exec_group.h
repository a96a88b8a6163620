/* exec_group.h - ranks as threads of one process: a struct comm without processes. */
#ifndef TESTS_KERNELS_EXEC_GROUP_H
#define TESTS_KERNELS_EXEC_GROUP_H

#include "quern/comm.h"

enum { GROUP_MAX = 4 };

struct group;

/* `size` ranks of `threads` threads each. */
struct group *group_open(int size, int threads);
void group_close(struct group *g);
struct comm *group_comm(struct group *g, int rank);

/* How many all_gathers rank 0 has seen. */
int group_gathers(const struct group *g);

#endif
