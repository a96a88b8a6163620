/* stats.c - quern stats: a server's figures, once or live.
 *
 * What there is to show the server says: each member of its JSON object is a
 * line, whatever its name is, so a later server's are shown, too. */
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/options.h"
#include "cli/cli.h"
#include "quern.h"
#include "quern/log.h"

enum { PATIENCE_MS = 10000 };

struct stats_options {
    const char *socket;
    bool json;
};

static const struct option_row stats_rows[] = {
    {"socket", 0, OPTION_TEXT, offsetof(struct stats_options, socket), "PATH",
        "the server's socket (quern serve)", 0, 0, 0},
    {"json", 0, OPTION_FLAG, offsetof(struct stats_options, json), NULL, "print figures as JSON, once",
        0, 0, 0},
    {0},
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static void usage(void)
{
    printf("quern stats --socket PATH [--json]\n\n"
           "Shows what the server at PATH has counted: on a terminal each second, until\n"
           "Ctrl-C; otherwise once.\n\n");
    options_print(stats_rows);
}

/* Lines ------------------------------------------------------------------------------------ */

/* What is so now, and does not only grow. */
static bool is_gauge(const char *name)
{
    static const char *const gauges[] = {"generation", "clients", "running", "waiting",
        "kv_blocks_used", "kv_blocks"};

    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
        if (strcmp(name, gauges[i]) == 0)
            return true;
    return false;
}

static void show_number(const char *name, json_int_t value, const json_t *before, double seconds)
{
    const json_t *old = before != NULL ? json_object_get(before, name) : NULL;

    printf("  %-22s %14lld", name, (long long)value);
    if (json_is_integer(old) && !is_gauge(name))
        printf(" %12.1f", (double)(value - json_integer_value(old)) / seconds);
    printf("\n");
}

/* As Prometheus' histogram_quantile() estimates it, evenly spread within a bucket; of whole
 * numbers the bucket's bound. */
static double quantile(const json_t *buckets, double count, double part, bool whole)
{
    double below = 0, from = 0;
    const json_t *bucket;
    size_t i;

    json_array_foreach(buckets, i, bucket) {
        double most = json_number_value(json_array_get(bucket, 0));
        double up_to = json_number_value(json_array_get(bucket, 1));

        if (up_to >= part * count)
            return whole ? most : from + (most - from) * (part * count - below) / (up_to - below);
        below = up_to;
        from = most;
    }
    return from; /* at least */
}

static void show_value(double value, bool seconds)
{
    if (!seconds)
        printf(" %11.1f", value);
    else if (value < 1e-3)
        printf(" %8.1f us", value * 1e6);
    else if (value < 1)
        printf(" %8.1f ms", value * 1e3);
    else
        printf(" %9.1f s", value);
}

/* Those with "time" in their name are in seconds. */
static void show_histogram(const char *name, const json_t *h)
{
    double count = json_number_value(json_object_get(h, "count"));
    double sum = json_number_value(json_object_get(h, "sum"));
    const json_t *buckets = json_object_get(h, "buckets");
    bool seconds = strstr(name, "time") != NULL;

    printf("  %-22s %14.0f", name, count);
    if (count > 0) {
        show_value(sum / count, seconds);
        show_value(quantile(buckets, count, 0.5, !seconds), seconds);
        show_value(quantile(buckets, count, 0.99, !seconds), seconds);
    }
    printf("\n");
}

static void show(json_t *now, const json_t *before, double seconds)
{
    const char *name;
    json_t *value;

    printf("  %-22s %14s %12s\n", "", "now or in all", before != NULL ? "a second" : "");
    json_object_foreach(now, name, value)
        if (json_is_integer(value))
            show_number(name, json_integer_value(value), before, seconds);
    printf("\n  %-22s %14s %11s %11s %11s\n", "", "how many", "mean", "half below", "99 % below");
    json_object_foreach(now, name, value)
        if (json_is_object(value))
            show_histogram(name, value);
}

/* Asking ----------------------------------------------------------------------------------- */

/* The server's JSON text, lent by q; NULL: told. */
static const char *ask(struct quern *q)
{
    const char *text = NULL;
    int s = quern_stats(q, PATIENCE_MS, &text);

    if (s == QUERN_AGAIN)
        log_fail(STATUS_IO, "the server has not answered for %d s", PATIENCE_MS / 1000);
    return s == QUERN_OK ? text : NULL;
}

static json_t *ask_json(struct quern *q)
{
    const char *text = ask(q);
    json_error_t e;
    json_t *json = text != NULL ? json_loads(text, 0, &e) : NULL;

    if (text != NULL && !json_is_object(json))
        log_fail(STATUS_INVALID, "the server's figures are no JSON object: %s", e.text);
    return json;
}

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A screenful each second. */
static int live(struct quern *q, const char *path)
{
    json_t *before = NULL, *now = NULL;
    double at = 0, asked = 0;

    while (!interrupted && (now = ask_json(q)) != NULL) {
        at = now_s();
        printf("\033[H\033[2Jquern %s at %s\n\n", quern_server_version(q), path);
        show(now, before, at - asked);
        fflush(stdout);
        json_decref(before);
        before = now;
        asked = at;
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL); /* an interrupt cuts it short */
    }
    json_decref(before);
    return interrupted || now != NULL ? EXIT_DONE : EXIT_FAILED;
}

static int once(struct quern *q, bool as_json)
{
    const char *text;
    json_t *json;

    if (as_json) {
        text = ask(q);
        if (text != NULL)
            printf("%s\n", text);
        return text != NULL ? EXIT_DONE : EXIT_FAILED;
    }
    json = ask_json(q);
    if (json == NULL)
        return EXIT_FAILED;
    show(json, NULL, 1);
    json_decref(json);
    return EXIT_DONE;
}

int command_stats(int argc, char **argv)
{
    struct stats_options o = {0};
    struct quern *q = NULL;
    int first, status = EXIT_FAILED;
    enum status s = options_parse(stats_rows, argc, argv, &o, &first);

    if (s == STATUS_CLOSED) {
        usage();
        return EXIT_DONE;
    }
    if (s == STATUS_OK && first < argc)
        s = log_fail(STATUS_INVALID, "quern stats takes no argument: \"%s\"", argv[first]);
    if (s == STATUS_OK && o.socket == NULL)
        s = log_fail(STATUS_INVALID, "quern stats needs --socket PATH, where quern serve listens");
    if (s != STATUS_OK)
        return EXIT_USAGE;
    /* what is being printed is finished; sleep is cut short all the same */
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt, .sa_flags = SA_RESTART}, NULL);
    if (quern_connect(o.socket, &q) == QUERN_OK)
        status = !o.json && isatty(STDOUT_FILENO) ? live(q, o.socket) : once(q, o.json);
    quern_close(q);
    return status;
}
