/* bench_allreduce.c - quern bench allreduce: every algorithm at every size, and what is chosen.
 *
 * The limit beside each size is what no algorithm can beat on this machine,
 * from the same run: a flag's way between two ranks, and at the fastest rate of
 * any size a copy out of and into a rank's own memory, for as many ranks as
 * share a core, or the reading of what another core has written. */
#include <jansson.h>
#include <stdio.h>

#include "base/options.h"
#include "cli/cli.h"
#include "quern/log.h"
#include "tools/bench_collectives.h"
#include "tools/tools.h"

struct allreduce_options {
    int tp, effort;
    bool json, tp_given;
};

static const struct option_row allreduce_rows[] = {
    {"tp", 0, OPTION_INT, offsetof(struct allreduce_options, tp), "N",
        "ranks (default: 2, and then 4)", 2, COMM_MAX_RANKS,
        offsetof(struct allreduce_options, tp_given)},
    {"effort", 0, OPTION_INT, offsetof(struct allreduce_options, effort), "ROUNDS",
        "rounds at each size, a batch of each way in each (default 40)", 1, BENCH_MOST_EFFORT, 0},
    {"json", 0, OPTION_FLAG, offsetof(struct allreduce_options, json), NULL,
        "print figures as JSON", 0, 0, 0},
    {0},
};

/* The fastest rate of all sizes, in microseconds a byte: `at` is a time in bench_reduce. */
static double us_per_byte(const struct bench_group *g, size_t at)
{
    double best = 0;

    for (int i = 0; i < BENCH_REDUCE_SIZES; i++) {
        double us = *(const double *)(const void *)((const char *)&g->sizes[i] + at) /
                    (double)bench_reduce_bytes(i);

        best = i == 0 || us < best ? us : best;
    }
    return best;
}

static double copy_us_per_byte(const struct bench_group *g)
{
    return us_per_byte(g, offsetof(struct bench_reduce, copy_us));
}

static double peer_us_per_byte(const struct bench_group *g)
{
    return us_per_byte(g, offsetof(struct bench_reduce, peer_us));
}

/* A flag's way, and then what takes longer: each rank's own vector in and out, as often as ranks
 * share a core; or what a core must read of the others' (reduce-scatter and all-gather). */
static double limit_us(const struct bench_group *g, int size)
{
    int turns = (g->ranks + g->cores - 1) / g->cores;
    int parties = g->ranks < g->cores ? g->ranks : g->cores;
    double bytes = (double)bench_reduce_bytes(size);
    double own = 2 * copy_us_per_byte(g) * bytes * turns;
    double others = 2 * peer_us_per_byte(g) * bytes * (parties - 1) / parties;

    return g->round_trip_us / 2 + (own > others ? own : others);
}

/* The fastest of the algorithms that serve, whose ways begin at `first`. */
static int fastest(const struct bench_reduce *r, int first)
{
    int best = first;

    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (r->us[first + a] > 0 && (r->us[best] <= 0 || r->us[first + a] < r->us[best]))
            best = first + a;
    return best;
}

/* The dispatcher's time by that of the best algorithm. */
static double to_best(const struct bench_reduce *r, enum choice_kind kind)
{
    int first = kind == CHOICE_FUSED ? BENCH_FUSED : BENCH_REDUCE;

    return r->us[first + COLL_ALGORITHMS] / r->us[fastest(r, first)];
}

static const char *chosen(const struct bench_group *g, enum choice_kind kind, int size)
{
    int i = choice_index(bench_reduce_bytes(size));

    return coll_algorithms[g->choice.algorithm[kind][i]]->name;
}

static double worst_ratio(const struct bench_group *g, enum choice_kind kind)
{
    double worst = 0;

    for (int i = 0; i < BENCH_REDUCE_SIZES; i++)
        worst = to_best(&g->sizes[i], kind) > worst ? to_best(&g->sizes[i], kind) : worst;
    return worst;
}

/* As a table ------------------------------------------------------------------------------ */

static void print_us(double us)
{
    if (us > 0)
        printf(" %11.2f", us);
    else
        printf(" %11s", "-");
}

static void print_reduce(const struct bench_group *g)
{
    printf("%9s %11s", "bytes", "limit us");
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        printf(" %11s", coll_algorithms[a]->name);
    printf(" %11s %7s %8s %8s  %s\n", "auto us", "GB/s", "of limit", "to best", "chosen");
    for (int i = 0; i < BENCH_REDUCE_SIZES; i++) {
        const struct bench_reduce *r = &g->sizes[i];

        printf("%9zu", bench_reduce_bytes(i));
        print_us(limit_us(g, i));
        for (int way = BENCH_REDUCE; way <= BENCH_AUTO; way++)
            print_us(r->us[way]);
        printf(" %7.2f %8.2f %8.2f  %s\n",
            (double)bench_reduce_bytes(i) * 1e-3 / r->us[BENCH_AUTO],
            limit_us(g, i) / r->us[BENCH_AUTO], to_best(r, CHOICE_REDUCE),
            chosen(g, CHOICE_REDUCE, i));
    }
}

static void print_fused(const struct bench_group *g)
{
    printf("\nwith residual and norm, rows of %d:\n%9s %11s", BENCH_NORM_COLS, "bytes",
        "unfused us");
    for (int a = 0; a < COLL_ALGORITHMS; a++)
        printf(" %11s", coll_algorithms[a]->name);
    printf(" %11s %7s %8s  %s\n", "auto us", "gain", "to best", "chosen");
    for (int i = 0; i < BENCH_REDUCE_SIZES; i++) {
        const struct bench_reduce *r = &g->sizes[i];

        printf("%9zu", bench_reduce_bytes(i));
        for (int way = BENCH_UNFUSED; way <= BENCH_FUSED_AUTO; way++)
            print_us(r->us[way]);
        printf(" %7.2f %8.2f  %s\n", r->us[BENCH_UNFUSED] / r->us[BENCH_FUSED_AUTO],
            to_best(r, CHOICE_FUSED), chosen(g, CHOICE_FUSED, i));
    }
}

static void print_group(const struct bench_group *g)
{
    printf("all-reduce of float32 over %d ranks on %d cores; a flag's round trip %.2f us, memcpy "
           "%.1f GB/s, out of another core's cache %.1f GB/s\n",
        g->ranks, g->cores, g->round_trip_us, 1e-3 / copy_us_per_byte(g),
        1e-3 / peer_us_per_byte(g));
    if (g->choice.measured > 0)
        printf("chosen by measuring %u sizes\n\n", g->choice.measured);
    else
        printf("chosen without measuring: QUERN_COLL forces one, or the machine was too busy\n\n");
    print_reduce(g);
    print_fused(g);
    printf("\nthe automatic choice is at most %.2f times the best (goal 1.10); fused %.2f\n\n",
        worst_ratio(g, CHOICE_REDUCE), worst_ratio(g, CHOICE_FUSED));
}

/* As JSON --------------------------------------------------------------------------------- */

static json_t *ways_json(const struct bench_reduce *r, int first)
{
    json_t *us = json_object();

    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (r->us[first + a] > 0)
            json_object_set_new(us, coll_algorithms[a]->name, json_real(r->us[first + a]));
    return us;
}

/* What the choice was made by, before the bench: another time than now, perhaps another answer. */
static json_t *start_json(const struct bench_group *g, enum choice_kind kind, int size)
{
    int i = choice_index(bench_reduce_bytes(size));
    json_t *us = json_object();

    for (int a = 0; a < COLL_ALGORITHMS; a++)
        if (g->choice.us[kind][a][i] > 0)
            json_object_set_new(us, coll_algorithms[a]->name,
                json_real((double)g->choice.us[kind][a][i]));
    return us;
}

static json_t *norm_json(const struct bench_group *g, int i)
{
    const struct bench_reduce *r = &g->sizes[i];

    return json_pack("{s:f, s:o, s:o, s:f, s:s, s:f}", "unfused_us", r->us[BENCH_UNFUSED],
        "fused_us", ways_json(r, BENCH_FUSED), "start_us", start_json(g, CHOICE_FUSED, i),
        "auto_us", r->us[BENCH_FUSED_AUTO], "chosen", chosen(g, CHOICE_FUSED, i), "ratio_to_best",
        to_best(r, CHOICE_FUSED));
}

static json_t *size_json(const struct bench_group *g, int i)
{
    const struct bench_reduce *r = &g->sizes[i];

    return json_pack("{s:I, s:f, s:o, s:o, s:f, s:f, s:s, s:f, s:o}", "bytes",
        (json_int_t)bench_reduce_bytes(i), "limit_us", limit_us(g, i), "us",
        ways_json(r, BENCH_REDUCE), "start_us", start_json(g, CHOICE_REDUCE, i), "auto_us",
        r->us[BENCH_AUTO], "gb_per_s", (double)bench_reduce_bytes(i) * 1e-3 / r->us[BENCH_AUTO],
        "chosen", chosen(g, CHOICE_REDUCE, i), "ratio_to_best", to_best(r, CHOICE_REDUCE),
        "with_norm", norm_json(g, i));
}

static json_t *group_json(const struct bench_group *g)
{
    json_t *sizes = json_array();

    for (int i = 0; i < BENCH_REDUCE_SIZES; i++)
        json_array_append_new(sizes, size_json(g, i));
    return json_pack("{s:i, s:i, s:f, s:f, s:f, s:i, s:f, s:f, s:f, s:o}", "ranks", g->ranks,
        "cores", g->cores, "flag_round_trip_us", g->round_trip_us, "memcpy_gb_per_s",
        1e-3 / copy_us_per_byte(g), "peer_read_gb_per_s", 1e-3 / peer_us_per_byte(g),
        "measured_sizes", (int)g->choice.measured, "worst_ratio_to_best",
        worst_ratio(g, CHOICE_REDUCE), "worst_fused_ratio", worst_ratio(g, CHOICE_FUSED),
        "goal_ratio", 1.1, "sizes", sizes);
}

static enum status print_json(const struct bench_group *groups, int n)
{
    json_t *all = json_array();
    int failed = 0;

    for (int i = 0; i < n; i++)
        failed |= json_array_append_new(all, group_json(&groups[i]));
    failed |= json_dumpf(all, stdout, JSON_INDENT(2)) != 0;
    putchar('\n');
    json_decref(all);
    return failed ? log_fail(STATUS_NOMEM, "the figures cannot be printed as JSON") : STATUS_OK;
}

static void usage(void)
{
    printf("quern bench allreduce [--tp N] [--effort ROUNDS] [--json]\n\nTimes the all-reduce "
           "between forked ranks by each algorithm and by the automatic\nchoice, alone and fused "
           "with residual and norm. QUERN_COLL=NAME forces one.\n\n");
    options_print(allreduce_rows);
}

static enum status measure(const struct allreduce_options *o, struct bench_group groups[2], int *n)
{
    enum status s;

    *n = o->tp_given ? 1 : 2;
    s = bench_group_measure(o->tp_given ? o->tp : 2, o->effort, &groups[0]);
    if (s == STATUS_OK && *n == 2)
        s = bench_group_measure(4, o->effort, &groups[1]);
    return s;
}

int command_bench_allreduce(int argc, char **argv)
{
    struct allreduce_options o = {.effort = 40};
    struct bench_group groups[2];
    int first, n;
    enum status s = options_parse(allreduce_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s == STATUS_OK && first < argc)
        s = log_fail(STATUS_INVALID,
            "quern bench allreduce takes no argument: see quern bench allreduce --help");
    if (s != STATUS_OK)
        return EXIT_USAGE;
    s = measure(&o, groups, &n);
    if (s == STATUS_OK && o.json)
        s = print_json(groups, n);
    for (int i = 0; s == STATUS_OK && !o.json && i < n; i++)
        print_group(&groups[i]);
    return s == STATUS_OK ? EXIT_DONE : EXIT_FAILED;
}
