/* doctor_machine.c - what this machine is: CPU, memory, GPUs, and the model beside quern.
 *
 * Asked where the runtime asks too (hwloc, cpu_kernels_select(), memory_available(),
 * locate_model()), so that the doctor sees what a worker will see. */
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <glob.h>
#include <hwloc.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cores.h"
#include "kernels/cpu/cpu.h"
#include "checkpoint/locate.h"
#include "quern/log.h"
#include "tools/doctor.h"
#include "worker/worker.h"

/* Below this not even the storyteller, its tokenizer and a KV cache fit. */
static const uint64_t memory_needed = 192u << 20, memory_comfortable = 1u << 30;

static const char *cpu_model(hwloc_topology_t t)
{
    hwloc_obj_t package = hwloc_get_obj_by_type(t, HWLOC_OBJ_PACKAGE, 0);
    const char *model = package != NULL ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;

    return model != NULL ? model : "of an unknown model";
}

void doctor_check_cpu(struct report *r)
{
    hwloc_topology_t t = cores_topology(CORES_AND_REST);
    int cores = cores_usable(), nodes;

    if (cores_guessed()) {
        report_add(r, VERDICT_NOTE, "cpu", "sched_getaffinity is refused; %d cores are used",
            cores);
        report_advise(r, "allow it in the container's seccomp profile, or set --threads");
        return;
    }
    if (t == NULL) {
        report_add(r, VERDICT_NOTE, "cpu", "hwloc cannot read this machine; %d cores are used",
            cores);
        return;
    }
    nodes = hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_NUMANODE);
    report_add(r, VERDICT_OK, "cpu", "%s", cpu_model(t));
    report_add(r, cores > 1 ? VERDICT_OK : VERDICT_NOTE, "cores",
        "%d usable (%d hardware threads in all)", cores, hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_PU));
    if (cores == 1)
        report_advise(r, "with two or more, supervisor and worker do not wait for each other; "
                         "taskset and container limits count");
    report_add(r, nodes > 1 ? VERDICT_NOTE : VERDICT_OK, "NUMA nodes", "%d", nodes);
    if (nodes > 1)
        report_advise(r, "--tp %d gives each node a rank of its own", nodes);
    hwloc_topology_destroy(t);
}

static void list_levels(char *text, size_t bytes)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);
    size_t used = 0;

    for (int i = 0; i < n && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i > 0 ? ", " : "",
            cpu_isa_name(levels[i]));
}

#if defined(__x86_64__)
static bool has_level(enum cpu_isa level)
{
    enum cpu_isa levels[ISA_LEVELS];
    int n = cpu_isa_levels(levels);

    while (n > 0 && levels[n - 1] != level)
        n--;
    return n > 0;
}

/* clang's builtin has no name for it. */
static bool cpu_has_amx(void)
{
    unsigned a, b, c, d;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 24 & 1) != 0;
}

static void check_wide_units(struct report *r)
{
    bool avx512 = has_level(ISA_AVX512), bf16 = has_level(ISA_AVX512BF16), amx = cpu_has_amx();

    report_add(r, VERDICT_OK, "wide units", "AVX-512: %s; AVX-512 BF16: %s; AMX: %s",
        avx512 ? "yes" : "no", bf16 ? "yes" : "no",
        amx ? "yes, and this version has no kernels for it" : "no");
}
#else
static void check_wide_units(struct report *r)
{
    report_add(r, VERDICT_NOTE, "wide units", "this version has no kernels for this architecture "
                                              "but the portable ones, which are slow");
}
#endif

void doctor_check_instruction_sets(struct report *r)
{
    const char *forced = getenv("QUERN_CPU_ISA");
    struct cpu_kernels kernels;
    char all[128] = "";

    list_levels(all, sizeof(all));
    if (cpu_kernels_select(NULL, &kernels) != STATUS_OK) {
        report_add(r, VERDICT_PROBLEM, "instruction sets", "%s", log_last_error());
        report_advise(r, "unset QUERN_CPU_ISA to let quern choose");
    } else if (forced != NULL && forced[0] != '\0') {
        report_add(r, VERDICT_NOTE, "instruction sets",
            "%s, forced by QUERN_CPU_ISA; there are: %s", kernels.name, all);
        report_advise(r, "unset QUERN_CPU_ISA to let quern choose the fastest");
    } else {
        report_add(r, VERDICT_OK, "instruction sets", "%s is used; there are: %s. Answers are the same "
            "for one of them and one --tp", kernels.name, all);
    }
    check_wide_units(r);
}

/* A number in a small file; false when it is not there or is no number ("max"). */
static bool read_number(const char *path, unsigned long long *n)
{
    FILE *f = fopen(path, "re");
    bool found;

    if (f == NULL)
        return false;
    found = fscanf(f, "%llu", n) == 1;
    fclose(f);
    return found;
}

/* The smallest limit on the way from `group` up to the root of a hierarchy. */
static uint64_t smallest_limit(const char *root, const char *file, char *group)
{
    uint64_t least = UINT64_MAX;

    for (;;) {
        char path[PATH_MAX + 64], *slash;
        unsigned long long limit;

        snprintf(path, sizeof(path), "%s%s/%s", root, group, file);
        if (read_number(path, &limit) && limit < least)
            least = limit;
        slash = strrchr(group, '/');
        if (slash == NULL)
            return least;
        *slash = '\0';
    }
}

/* What the control groups (version 2, or 1's memory controller) allow; UINT64_MAX: no limit. */
static uint64_t cgroup_limit(void)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    uint64_t least = UINT64_MAX;
    char line[PATH_MAX];

    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        char *names = strchr(line, ':'), *group = names != NULL ? strchr(names + 1, ':') : NULL;
        uint64_t limit = UINT64_MAX;

        if (group == NULL)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        if (names[1] == '\0')
            limit = smallest_limit("/sys/fs/cgroup", "memory.max", group);
        else if (strcmp(names + 1, "memory") == 0)
            limit = smallest_limit("/sys/fs/cgroup/memory", "memory.limit_in_bytes", group);
        if (limit < least)
            least = limit;
    }
    if (f != NULL)
        fclose(f);
    return least;
}

void doctor_check_memory(struct report *r)
{
    uint64_t there = memory_available(), limit = cgroup_limit(), usable = there;
    char text[16], limit_text[48] = "none";
    enum verdict verdict = VERDICT_OK;

    /* A limit above all memory (version 1's way to say "none") limits nothing. */
    if (limit < there || limit < UINT64_C(1) << 60) {
        memory_text(limit, limit_text);
        usable = limit < there ? limit : there;
    }
    if (usable < memory_needed)
        verdict = VERDICT_PROBLEM;
    else if (usable < memory_comfortable)
        verdict = VERDICT_NOTE;
    report_add(r, verdict, "memory", "%s available; limit of the control group: %s",
        memory_text(there, text), limit_text);
    if (verdict != VERDICT_OK)
        report_advise(r, "end other programs or raise the limit; weights, KV cache and tokenizer "
                         "of even a small model take some 100 MB");
}

void doctor_check_huge_pages(struct report *r)
{
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    char line[128] = "", *word = NULL;

    if (f != NULL) {
        if (fgets(line, sizeof(line), f) != NULL)
            word = strchr(line, '[');
        fclose(f);
    }
    if (word == NULL) {
        report_add(r, VERDICT_NOTE, "huge pages", "this kernel has no transparent huge pages");
        return;
    }
    word[strcspn(word, "]")] = '\0';
    word++;
    if (strcmp(word, "never") != 0) {
        report_add(r, VERDICT_OK, "huge pages", "transparent: %s", word);
        return;
    }
    report_add(r, VERDICT_NOTE, "huge pages", "transparent: never");
    report_advise(r, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root): large "
                     "weights are read a little faster");
}

void doctor_check_gpus(struct report *r)
{
    glob_t found = {0};
    size_t n = glob("/dev/nvidia[0-9]*", 0, NULL, &found) == 0 ? found.gl_pathc : 0;

    globfree(&found);
    if (n == 0) {
        report_add(r, VERDICT_OK, "GPUs", "none found; quern computes on the CPU");
        return;
    }
    report_add(r, VERDICT_NOTE, "GPUs", "%zu NVIDIA device%s; this version has no CUDA module and "
                                        "computes on the CPU", n, n == 1 ? "" : "s");
}

void doctor_check_model(struct report *r)
{
    char path[PATH_MAX];

    if (locate_model(NULL, LOCATE_MODEL, path, sizeof(path)) == STATUS_OK) {
        report_add(r, VERDICT_OK, "storyteller", "%s", path);
        return;
    }
    report_add(r, VERDICT_PROBLEM, "storyteller", "%s", log_last_error());
    report_advise(r, "make install puts it in place");
}
