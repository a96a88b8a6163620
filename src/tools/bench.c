/* bench.c - quern bench: which benchmark, from a table.
 *
 * A benchmark prints figures beside the machine's own limit, measured in the
 * same run: a ratio says more than a number, on any machine. */
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "tools/tools.h"

static const struct benchmark {
    const char *name, *command, *does;
    int (*run)(int argc, char **argv);
} benchmarks[] = {
    {"allreduce", "bench allreduce", "sums over ranks, by each algorithm", command_bench_allreduce},
    {"throughput", "bench throughput", "many requests at once, offline", command_bench_throughput},
    {"ipc", "bench ipc", "a message's way through the rings between processes", command_bench_ipc},
};

enum { BENCHMARKS = sizeof(benchmarks) / sizeof(benchmarks[0]) };

static void usage(void)
{
    printf("quern bench NAME [OPTIONS]\n\n");
    for (int i = 0; i < BENCHMARKS; i++)
        printf("  %-12s %s\n", benchmarks[i].name, benchmarks[i].does);
    printf("\nquern bench NAME --help prints its options.\n");
}

static void list_names(char *text, size_t bytes)
{
    size_t used = 0;

    for (int i = 0; i < BENCHMARKS && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i > 0 ? ", " : "",
            benchmarks[i].name);
}

static int unknown(const char *word)
{
    struct nearest n = NEAREST_TO(word, strlen(word));
    char names[256] = "";

    list_names(names, sizeof(names));
    for (int i = 0; i < BENCHMARKS; i++)
        nearest_offer(&n, benchmarks[i].name);
    if (n.name != NULL)
        log_fail(STATUS_INVALID, "there is no benchmark \"%s\": did you mean %s? There is: %s", word,
            n.name, names);
    else
        log_fail(STATUS_INVALID, "there is no benchmark \"%s\" in this version; there is: %s", word,
            names);
    return EXIT_USAGE;
}

int command_bench(int argc, char **argv)
{
    char names[256] = "";

    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        usage();
        return EXIT_DONE;
    }
    for (int i = 0; argc > 1 && i < BENCHMARKS; i++)
        if (strcmp(argv[1], benchmarks[i].name) == 0) {
            argv[1] = (char *)benchmarks[i].command; /* as messages name it */
            return benchmarks[i].run(argc - 1, argv + 1);
        }
    if (argc > 1)
        return unknown(argv[1]);
    list_names(names, sizeof(names));
    log_fail(STATUS_INVALID, "quern bench needs the name of a benchmark; there is: %s", names);
    return EXIT_USAGE;
}
