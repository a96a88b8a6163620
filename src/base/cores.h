/* cores.h - the cores this process may run on.
 *
 * Physical cores within the affinity mask (hwloc): a second hardware thread of
 * a core adds nothing to a memory-bound product. */
#ifndef QUERN_BASE_CORES_H
#define QUERN_BASE_CORES_H

#include <stdbool.h>

struct hwloc_topology;

/* At least 1. Asked once, then remembered; not to be called first by two threads at once. */
int cores_usable(void);

/* Whether sched_getaffinity is refused: then all CPUs that are on count as cores. */
bool cores_guessed(void);

/* The first CPU of core i, counted modulo cores_usable(). */
int cores_cpu(int i);

/* Moves this thread to core i and gives it back to the scheduler at once, which leaves it there
 * until it sees a reason: processes that have woken each other often sit on one core beside an
 * idle one, for tens of milliseconds. Where it is refused, it is as it was. */
void cores_stand_on(int i);

/* hwloc's picture of what this process may use: cores alone, or everything. Its components that
 * look for GPUs are off: they would open drivers in processes that must never do so. NULL when
 * hwloc fails or sched_getaffinity is refused; the caller destroys it (hwloc_topology_destroy). */
enum cores_detail { CORES_ALONE, CORES_AND_REST };
struct hwloc_topology *cores_topology(enum cores_detail detail);

#endif
