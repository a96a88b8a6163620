/* cores.h - the cores this process may run on.
 *
 * Physical cores within the affinity mask (hwloc): a second hardware thread of
 * a core adds nothing to a memory-bound product. Asked once, then remembered. */
#ifndef QUERN_BASE_CORES_H
#define QUERN_BASE_CORES_H

/* At least 1. Not to be called first by two threads at once. */
int cores_usable(void);

#endif
