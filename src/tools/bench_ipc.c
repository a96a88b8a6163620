/* bench_ipc.c - quern bench ipc: what a message costs, beside what the machine can do.
 *
 * Limits are measured before and after the thing itself and the best of all
 * ways counts, so that a disturbance cannot make the limit look slow. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "tools/bench_ways.h"
#include "tools/tools.h"

struct ipc_options {
    bool json;
    float seconds;
};

static const struct option_row ipc_rows[] = {
    {"seconds", 0, OPTION_REAL, offsetof(struct ipc_options, seconds), "S",
        "how long to measure in all (default 4)", 0.1, 600, 0},
    {"json", 0, OPTION_FLAG, offsetof(struct ipc_options, json), NULL, "print figures as JSON",
        0, 0, 0},
    {0},
};

enum result_kind { RESULT_HOP, RESULT_FLOW };

/* Hops in nanoseconds, flows in messages per second. */
struct result {
    const char *name;
    enum result_kind kind;
    double median, p99, limit;
    const char *limit_way;
    double goal; /* 0: none */
    const char *skipped; /* why it was not measured */
};

enum { RESULTS = 5, UNITS = 40, THING_UNITS = 4 };

/* The faster one of `ways`, each measured for `ns`; keeps what is better already. */
static enum status measure_limit(struct bench *b, const struct duel *ways, int n, uint64_t ns,
    struct result *r)
{
    for (int i = 0; i < n; i++) {
        struct figures f;
        enum status s = bench_measure(b, &ways[i], ns, &f);

        if (s != STATUS_OK)
            return s;
        if (r->limit == 0 || f.median_ns < r->limit) {
            r->limit = f.median_ns;
            r->limit_way = ways[i].name;
        }
    }
    return STATUS_OK;
}

static enum status measure_hop(struct bench *b, const struct duel *thing, const struct duel *ways,
    int n_ways, uint64_t unit_ns, struct result *r)
{
    struct figures f;
    enum status s;

    if (b->n_cpus < 1 + thing->peers) {
        r->skipped = "it needs a core for each process";
        return STATUS_OK;
    }
    s = measure_limit(b, ways, n_ways, unit_ns, r);
    if (s == STATUS_OK)
        s = bench_measure(b, thing, THING_UNITS * unit_ns, &f);
    if (s == STATUS_OK)
        s = measure_limit(b, ways, n_ways, unit_ns, r);
    if (s != STATUS_OK)
        return s;
    r->median = f.median_ns;
    r->p99 = f.p99_ns;
    return STATUS_OK;
}

static enum status measure_flow(struct bench *b, uint64_t unit_ns, struct result *r)
{
    enum status s = STATUS_OK;
    double rate;

    r->limit_way = "bare cache lines";
    for (int pass = 0; pass < 2 && s == STATUS_OK; pass++) {
        s = bench_flow_bare(b, unit_ns, &rate);
        if (s == STATUS_OK && rate > r->limit)
            r->limit = rate;
        if (s == STATUS_OK && pass == 0)
            s = bench_flow_ring(b, THING_UNITS * unit_ns, &r->median);
    }
    return s;
}

static enum status measure_all(struct bench *b, double seconds, struct result r[RESULTS])
{
    uint64_t unit_ns = (uint64_t)(seconds * 1e9 / UNITS);
    enum status s;

    r[0] = (struct result){.name = "hop, reader awake", .goal = 500};
    r[1] = (struct result){.name = "hop, reader asleep", .goal = 15000};
    r[2] = (struct result){.name = "hop, broadcast ring to 1 awake"};
    r[3] = (struct result){.name = "hop, broadcast ring to 3 awake"};
    r[4] = (struct result){.name = "flow, 64-byte messages", .kind = RESULT_FLOW};
    s = measure_hop(b, &bench_ring_awake, bench_bare_one, BENCH_BARE_ONE, unit_ns, &r[0]);
    if (s == STATUS_OK)
        s = measure_hop(b, &bench_ring_asleep, bench_bare_wakes, BENCH_BARE_WAKES, unit_ns, &r[1]);
    if (s == STATUS_OK) {
        /* The same limit as a ring's. */
        r[2].limit = r[0].limit;
        r[2].limit_way = r[0].limit_way;
        s = measure_hop(b, &bench_broadcast_one, NULL, 0, unit_ns, &r[2]);
    }
    if (s == STATUS_OK)
        s = measure_hop(b, &bench_broadcast_three, bench_bare_three, BENCH_BARE_THREE, unit_ns, &r[3]);
    return s == STATUS_OK ? measure_flow(b, unit_ns, &r[4]) : s;
}

/* Printing --------------------------------------------------------------------------------- */

/* Of the first column: what the longest name takes. */
static int name_width(const struct result *r)
{
    int width = 0;

    for (int i = 0; i < RESULTS; i++)
        if ((int)strlen(r[i].name) > width)
            width = (int)strlen(r[i].name);
    return width;
}

static void print_hop(const struct result *r)
{
    printf(" %8.3f us %8.3f us %8.3f us %6.2f", r->median / 1e3, r->p99 / 1e3, r->limit / 1e3,
        r->median / r->limit);
    if (r->goal > 0)
        printf("  %g us: %s", r->goal / 1e3, r->median < r->goal ? "met" : "missed");
    putchar('\n');
}

static void print_flow(const struct result *r)
{
    printf(" %7.2f M/s %11s %7.2f M/s %6.2f\n", r->median / 1e6, "", r->limit / 1e6,
        r->median / r->limit);
}

static void print_table(const struct bench *b, const struct result *r)
{
    int width = name_width(r);

    printf("%-*s %11s %11s %11s %6s  %s\n", width, "", "median", "p99", "limit", "ratio", "goal");
    for (int i = 0; i < RESULTS; i++) {
        printf("%-*s", width, r[i].name);
        if (r[i].skipped != NULL)
            printf(" not measured: %s\n", r[i].skipped);
        else if (r[i].kind == RESULT_HOP)
            print_hop(&r[i]);
        else
            print_flow(&r[i]);
    }
    printf("\nBetween CPUs");
    for (int i = 0; i < b->n_cpus; i++)
        printf("%s %d", i > 0 ? "," : "", b->cpus[i]);
    printf(". The limit is what this machine did in the same run with:\n");
    for (int i = 0; i < RESULTS; i++)
        if (r[i].skipped == NULL)
            printf("  %-*s %s\n", width, r[i].name, r[i].limit_way);
}

static json_t *result_json(const struct result *r)
{
    json_t *one;

    if (r->skipped != NULL)
        return json_pack("{s:s, s:s}", "name", r->name, "skipped", r->skipped);
    if (r->kind == RESULT_FLOW)
        return json_pack("{s:s, s:f, s:f, s:s, s:f}", "name", r->name, "messages_per_s", r->median,
            "limit_per_s", r->limit, "limit_way", r->limit_way, "ratio", r->median / r->limit);
    one = json_pack("{s:s, s:f, s:f, s:f, s:s, s:f}", "name", r->name, "median_ns", r->median,
        "p99_ns", r->p99, "limit_ns", r->limit, "limit_way", r->limit_way, "ratio",
        r->median / r->limit);
    if (one != NULL && r->goal > 0)
        json_object_set_new(one, "goal_ns", json_real(r->goal));
    return one;
}

static enum status print_json(const struct bench *b, const struct result *r)
{
    json_t *cpus = json_array(), *results = json_array(), *whole;
    int failed = 0;

    for (int i = 0; i < b->n_cpus; i++)
        failed |= json_array_append_new(cpus, json_integer(b->cpus[i]));
    for (int i = 0; i < RESULTS; i++)
        failed |= json_array_append_new(results, result_json(&r[i]));
    whole = json_pack("{s:o, s:o}", "cpus", cpus, "results", results);
    failed |= whole == NULL || json_dumpf(whole, stdout, JSON_INDENT(2)) != 0;
    putchar('\n');
    json_decref(whole);
    return failed ? log_fail(STATUS_NOMEM, "the figures cannot be printed as JSON") : STATUS_OK;
}

static void usage(void)
{
    printf("quern bench ipc [--seconds S] [--json]\n\nMeasures a message's way through the rings "
           "between processes on cores of their\nown, and what the machine can do with a bare word "
           "in the same run.\n\n");
    options_print(ipc_rows);
}

int command_bench_ipc(int argc, char **argv)
{
    struct ipc_options o = {.seconds = 4};
    struct result results[RESULTS];
    struct bench b;
    int first;
    enum status s = options_parse(ipc_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s == STATUS_OK && first < argc)
        s = log_fail(STATUS_INVALID,
            "quern bench ipc takes no argument: see quern bench ipc --help");
    if (s != STATUS_OK)
        return EXIT_USAGE;
    s = bench_open(&b);
    if (s != STATUS_OK)
        return EXIT_FAILED;
    s = measure_all(&b, (double)o.seconds, results);
    if (s == STATUS_OK && o.json)
        s = print_json(&b, results);
    else if (s == STATUS_OK)
        print_table(&b, results);
    bench_close(&b);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
