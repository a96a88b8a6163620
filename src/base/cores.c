/* cores.c - counting cores with hwloc, and by the affinity mask where hwloc cannot.
 *
 * Only cores are asked for: the components that look for GPUs would open
 * drivers in processes that must never do so. */
#include "base/cores.h"

#include <hwloc.h>
#include <sched.h>

static int count_mask(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

static int count_cores(void)
{
    hwloc_topology_t t;
    int n = 0;

    if (hwloc_topology_init(&t) != 0)
        return 0;
    hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(t, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    hwloc_topology_set_components(t, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "cuda");
    hwloc_topology_set_components(t, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "nvml");
    hwloc_topology_set_components(t, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "opencl");
    if (hwloc_topology_load(t) == 0)
        n = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE);
    hwloc_topology_destroy(t);
    return n;
}

int cores_usable(void)
{
    static int known;

    if (known == 0) {
        int mask = count_mask(), cores = count_cores();

        known = cores > 0 && cores < mask ? cores : mask;
    }
    return known;
}
