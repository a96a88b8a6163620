/* cores.c - counting cores with hwloc, and by the affinity mask where hwloc cannot.
 *
 * Some sandboxes refuse sched_getaffinity. Then hwloc is not asked: it takes every refusal for a
 * mask that was too small, and tries ever larger ones for ever. */
#include "base/cores.h"

#include <errno.h>
#include <hwloc.h>
#include <sched.h>
#include <stddef.h>
#include <unistd.h>

/* EINVAL: more CPUs than a cpu_set_t has room for, which hwloc can handle. */
static bool mask_refused(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) != 0 && errno != EINVAL;
}

static void only_cores(hwloc_topology_t t)
{
    hwloc_topology_set_all_types_filter(t, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(t, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
}

struct hwloc_topology *cores_topology(enum cores_detail detail)
{
    static const char *const gpu_components[] = {"cuda", "nvml", "opencl"};
    hwloc_topology_t t;

    if (mask_refused() || hwloc_topology_init(&t) != 0)
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

enum { MOST_CORES = CPU_SETSIZE };

/* Writer: find_cores(), once. */
static struct {
    int n, cpu[MOST_CORES];
} cores;

/* All CPUs that are on, as if they were 0 and up. */
static void fill_online(cpu_set_t *set)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    CPU_ZERO(set);
    for (long cpu = 0; cpu < n && cpu < CPU_SETSIZE; cpu++)
        CPU_SET((size_t)cpu, set);
}

/* Every CPU of the mask for a core, where hwloc fails. */
static void from_mask(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        fill_online(&set);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &set))
            cores.cpu[cores.n++] = cpu;
}

static void find_cores(void)
{
    hwloc_topology_t t = cores_topology(CORES_ALONE);
    hwloc_obj_t core = NULL;

    while (t != NULL && cores.n < MOST_CORES &&
           (core = hwloc_get_next_obj_by_type(t, HWLOC_OBJ_CORE, core)) != NULL)
        cores.cpu[cores.n++] = hwloc_bitmap_first(core->cpuset);
    if (t != NULL)
        hwloc_topology_destroy(t);
    if (cores.n == 0)
        from_mask();
    if (cores.n == 0)
        cores.n = 1; /* CPU 0: there is one */
}

int cores_usable(void)
{
    if (cores.n == 0)
        find_cores();
    return cores.n;
}

bool cores_guessed(void)
{
    return mask_refused();
}

int cores_cpu(int i)
{
    return cores.cpu[i % cores_usable()];
}

void cores_stand_on(int i)
{
    cpu_set_t all, one;

    CPU_ZERO(&one);
    CPU_SET((size_t)cores_cpu(i), &one);
    if (sched_getaffinity(0, sizeof(all), &all) == 0 &&
        sched_setaffinity(0, sizeof(one), &one) == 0)
        sched_setaffinity(0, sizeof(all), &all);
}
