/* cores.c - counting cores with hwloc, and by the affinity mask where hwloc cannot. */
#include "base/cores.h"

#include <hwloc.h>
#include <sched.h>
#include <stddef.h>

static void only_cores(hwloc_topology_t t)
{
    hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(t, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
}

struct hwloc_topology *cores_topology(enum cores_detail detail)
{
    static const char *const gpu_components[] = {"cuda", "nvml", "opencl"};
    hwloc_topology_t t;

    if (hwloc_topology_init(&t) != 0)
        return NULL;
    if (detail == CORES_ALONE)
        only_cores(t);
    for (size_t i = 0; i < sizeof(gpu_components) / sizeof(gpu_components[0]); i++)
        hwloc_topology_set_components(t, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
            gpu_components[i]);
    hwloc_topology_set_flags(t, HWLOC_TOPOLOGY_FLAG_IS_THISSYSTEM |
        HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING);
    if (hwloc_topology_load(t) == 0)
        return t;
    hwloc_topology_destroy(t);
    return NULL;
}

static int count_mask(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

static int count_cores(void)
{
    hwloc_topology_t t = cores_topology(CORES_ALONE);
    int n = 0;

    if (t == NULL)
        return 0;
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
